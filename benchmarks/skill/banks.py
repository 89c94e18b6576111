"""The bank of `coterie benchmark NAME`, for the scripts beside this file."""

from contextlib import contextmanager
from pathlib import Path

from coterie.benchmark.run import Options
from coterie.datasets.benchmark_data import benchmark_data
from coterie.store import open_run
from coterie.workload.fingerprint import fingerprint


@contextmanager
def opened(name):
    """Workload, plan of the bank, and the run directory that `coterie benchmark` uses, too."""
    where = benchmark_data(name)
    work, options = where.make(), Options()
    plan = options.plan(where.sizes)
    settings = {"benchmark": {"sizes": list(plan.sizes), "seed": plan.seed}}
    root = Path("runs") / f"benchmark-{name}"
    with open_run(root, fingerprint=fingerprint(work), settings=settings, workload=work) as store:
        yield work, plan, store
