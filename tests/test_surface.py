"""The public names of `coterie`, and that importing it stays cheap."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import coterie
from coterie import errors
from coterie._earlier import earlier_names
from coterie._lazy import named

PUBLIC = {
    "Affinity",
    "Comparison",
    "Context",
    "FunctionTrainer",
    "GainModel",
    "GradTAE",
    "Grouping",
    "Outcome",
    "Predictor",
    "Recipe",
    "RunResult",
    "Study",
    "Task",
    "Workload",
    "add_task",
    "compare",
    "create_study",
    "estimate_affinity",
    "estimate_from_checkpoints",
    "from_arrays",
    "from_datasets",
    "group",
    "load",
    "load_study",
    "load_workload",
    "plan",
    "probe",
    "run",
    "validate_gradients",
}
ERRORS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.CoterieError | errors.CoterieWarning)
}
HEAVY = (
    "torch", "numpy", "optuna", "scipy", "sklearn", "cvxpy", "scs", "matplotlib", "pandas", "jinja2", "typer", "rich",
)  # fmt: skip


def run_python(code: str) -> str:
    source = str(Path(coterie.__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_names_are_the_agreed_ones():
    assert set(coterie.__all__) == PUBLIC | ERRORS


def test_names_are_sorted_without_doubles():
    assert coterie.__all__ == sorted(set(coterie.__all__))


def test_every_lazy_name_is_public():
    assert set(coterie._LAZY) == PUBLIC


@pytest.mark.parametrize("name", coterie.__all__)
def test_name_can_be_loaded(name):
    value = getattr(coterie, name)
    assert value.__name__ == name
    assert value.__doc__, f"{name} has no docstring"
    assert name in dir(coterie)


def test_subpackages_export_what_they_list():
    first = ("workload", "balancing", "training", "features", "affinity", "grouping")
    for module in (*first, "evaluation", "store", "serving", "report"):
        package = __import__(f"coterie.{module}", fromlist=["__all__"])
        assert package.__all__, f"coterie.{module} has no __all__"
        missing = [name for name in package.__all__ if not hasattr(package, name)]
        assert not missing, f"coterie.{module} lists {missing} but does not have them"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        coterie.nonsense  # noqa: B018


def test_version_is_text():
    assert coterie.__version__[0].isdigit()


def test_import_is_light():
    loaded = run_python(f"import sys, coterie; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert loaded == "[]"


def test_workload_does_not_bring_optional_packages():
    """Training needs torch and numpy, not the packages for grouping, figures and tables."""
    heavy = ("cvxpy", "matplotlib", "pandas", "sklearn", "typer")
    loaded = run_python(f"import sys, coterie; coterie.Workload; print([m for m in {heavy!r} if m in sys.modules])")
    assert loaded == "[]"


def test_a_matrix_is_grouped_without_torch():
    code = (
        "import sys, numpy as np; from coterie.affinity import Affinity; from coterie.grouping import select_groups; "
        "a = Affinity(np.ones((3, 3)), tuple('abc')); select_groups(a, 2); print('torch' in sys.modules)"
    )
    assert run_python(code) == "False"


def test_a_page_is_written_without_torch():
    code = (
        "import sys; from coterie.report.html import render; "
        "page = render({'workload': {'tasks': [{'name': 'a', 'kind': 'binary', 'unit': 'nats of one kind'}]}}); "
        "print('torch' in sys.modules)"
    )
    assert run_python(code) == "False"


def test_affinity_loads_what_it_lists():
    import coterie.affinity

    assert set(coterie.affinity._LAZY) == set(coterie.affinity.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        coterie.affinity.nonsense  # noqa: B018


@pytest.mark.parametrize(
    ("room", "name", "today"),
    [
        ("coterie.benchmark", "find_bed", "coterie.benchmark.run:find_data"),
        ("coterie.datasets.beds", "BEDS", "coterie.datasets.benchmark_data:BENCHMARK_DATA"),
        ("coterie.datasets.beds", "Bed", "coterie.datasets.benchmark_data:BenchmarkData"),
        ("coterie.datasets.beds", "bed", "coterie.datasets.benchmark_data:benchmark_data"),
    ],
)
def test_earlier_names_still_work_and_say_what_they_are_called_now(room, name, today):
    with pytest.warns(DeprecationWarning, match=today.replace(":", ".")) as caught:
        value = getattr(importlib.import_module(room), name)
    assert value is named(today)
    assert caught[0].filename == __file__


def test_scenes_are_still_composed_from_their_own_module():
    from coterie.adapters import compose_scenes
    from coterie.adapters.scenes import compose_scenes as earlier

    assert earlier is compose_scenes


@pytest.mark.parametrize(("room", "name"), earlier_names())
def test_a_name_of_the_last_release_is_found_at_its_earlier_place(room, name):
    with pytest.warns(DeprecationWarning, match=f"{room}.{name} is now"):
        value = getattr(importlib.import_module(room), name)
    assert value is not None


def test_earlier_modules_are_those_of_today():
    with pytest.warns(DeprecationWarning, match="is now coterie.training.evaluate"):
        from coterie.training.footprint import measure_footprint
    with pytest.warns(DeprecationWarning, match="is now coterie.features.shards"):
        module = importlib.import_module("coterie.features").shard_files
    assert module is importlib.import_module("coterie.features.shards")
    assert measure_footprint is importlib.import_module("coterie.training.evaluate").measure_footprint


def test_a_function_is_found_where_its_module_has_the_same_name():
    from coterie.training import evaluate
    from coterie.workload import fingerprint

    assert callable(evaluate)
    assert callable(fingerprint)
