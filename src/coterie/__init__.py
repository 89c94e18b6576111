"""Coterie: which of my tasks should be trained together?

The names below are the whole public surface of the top level; the rooms (``coterie.workload``, ``coterie.affinity``
and so on) hold the parts for those who want to enter half-way. Importing the package is cheap: a name is loaded when
it is first used.

Example:
    >>> import coterie
    >>> coterie.Task("toxic", "binary").width
    1
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coterie._lazy import load_on_first_use
from coterie.errors import (
    CoterieError,
    CoterieWarning,
    DataWarning,
    FallbackWarning,
    GradientMismatchError,
    MissingDependencyError,
    ModelError,
    ModelModeWarning,
    NonDeterministicModelError,
    NumericsWarning,
    ResourceError,
    SettingError,
    StoreError,
    StoreWarning,
    WorkerError,
    WorkloadError,
)

if TYPE_CHECKING:
    from coterie._context import Context
    from coterie.affinity import Affinity, GainModel, GradTAE
    from coterie.affinity.loop_probe import probe
    from coterie.evaluation import Comparison, compare
    from coterie.features import validate_gradients
    from coterie.grouping import Grouping, group
    from coterie.pipeline import RunResult, add_task, estimate_affinity, estimate_from_checkpoints, plan, run
    from coterie.serving import Predictor, load
    from coterie.study.making import create_study, load_study
    from coterie.study.study import Study
    from coterie.training import FunctionTrainer, Outcome
    from coterie.workload import Recipe, Task, Workload, from_arrays, from_datasets, load_workload

__all__ = [
    "Affinity",
    "Comparison",
    "Context",
    "CoterieError",
    "CoterieWarning",
    "DataWarning",
    "FallbackWarning",
    "FunctionTrainer",
    "GainModel",
    "GradTAE",
    "GradientMismatchError",
    "Grouping",
    "MissingDependencyError",
    "ModelError",
    "ModelModeWarning",
    "NonDeterministicModelError",
    "NumericsWarning",
    "Outcome",
    "Predictor",
    "Recipe",
    "ResourceError",
    "RunResult",
    "SettingError",
    "StoreError",
    "StoreWarning",
    "Study",
    "Task",
    "WorkerError",
    "Workload",
    "WorkloadError",
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
]

#: which module brings a name that is loaded on first use
_LAZY = {
    "Affinity": "coterie.affinity",
    "Comparison": "coterie.evaluation",
    "Context": "coterie._context",
    "FunctionTrainer": "coterie.training",
    "GainModel": "coterie.affinity",
    "GradTAE": "coterie.affinity",
    "Grouping": "coterie.grouping",
    "Outcome": "coterie.training",
    "Predictor": "coterie.serving",
    "Recipe": "coterie.workload",
    "RunResult": "coterie.pipeline",
    "Study": "coterie.study.study",
    "Task": "coterie.workload",
    "Workload": "coterie.workload",
    "add_task": "coterie.pipeline",
    "compare": "coterie.evaluation",
    "create_study": "coterie.study.making",
    "estimate_affinity": "coterie.pipeline",
    "estimate_from_checkpoints": "coterie.pipeline",
    "from_arrays": "coterie.workload",
    "from_datasets": "coterie.workload",
    "group": "coterie.grouping",
    "load": "coterie.serving",
    "load_study": "coterie.study.making",
    "load_workload": "coterie.workload",
    "plan": "coterie.pipeline",
    "probe": "coterie.affinity.loop_probe",
    "run": "coterie.pipeline",
    "validate_gradients": "coterie.features",
}


_load = load_on_first_use(__name__, _LAZY)


def __getattr__(name: str) -> Any:
    """Load a public name, or look the version up, on first use (PEP 562)."""
    if name != "__version__":
        return _load(name)
    globals()[name] = found = _version()
    return found


def __dir__() -> list[str]:
    """Everything that can be used, loaded or not."""
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("coterie")
    except PackageNotFoundError:  # run from a source folder that was never installed
        return "0.0.0"
