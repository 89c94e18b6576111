"""Earlier names of what is now in :mod:`coterie.datasets.benchmark_data`."""

from coterie._lazy import load_on_first_use

_HOME = "coterie.datasets.benchmark_data"

__getattr__ = load_on_first_use(
    __name__,
    {},
    renamed={
        "BEDS": f"{_HOME}:BENCHMARK_DATA",
        "Bed": f"{_HOME}:BenchmarkData",
        "bed": f"{_HOME}:benchmark_data",
    },
)
