"""Errors and warnings.

Every error names the parameter, what was found, the likely cause and the way out. The tree::

    CoterieError
    ├── WorkloadError (ValueError)          the tasks, the data or the labels cannot be used as they are
    ├── SettingError (ValueError)           a parameter is unknown or out of range
    ├── ModelError (RuntimeError)           the model cannot be used as it is
    │   ├── NonDeterministicModelError      two passes over the same rows disagree
    │   └── GradientMismatchError           fast gradients disagree with the plain loop
    ├── ResourceError (RuntimeError)        the plan does not fit the memory or disk that was allowed
    ├── WorkerError (RuntimeError)          an executor's workers were lost too often or cannot run the jobs
    ├── StoreError (OSError)                a run directory cannot be read or written
    └── MissingDependencyError (ImportError) an optional package is needed; the message has the install line

    CoterieWarning (UserWarning)
    ├── DataWarning                         data were changed or are unusual (constant column, rare class, ...)
    ├── ModelModeWarning                    BatchNorm or dropout was put in evaluation mode
    ├── FallbackWarning                     a fast path was not available and a slower one is used
    ├── NumericsWarning                     a solver stopped early, a fit did not converge, ...
    └── StoreWarning                        a run directory is unusual; the message says what was done about it
"""

from __future__ import annotations

import importlib
from types import ModuleType


class CoterieError(Exception):
    """Base of every error that Coterie raises on purpose."""


class WorkloadError(CoterieError, ValueError):
    """The tasks, the data or the labels cannot be used as they are."""


class SettingError(CoterieError, ValueError):
    """A parameter is unknown or out of range."""


class ModelError(CoterieError, RuntimeError):
    """The model cannot be used as it is."""


class NonDeterministicModelError(ModelError):
    """Two evaluation passes over the same rows disagree."""


class GradientMismatchError(ModelError):
    """Fast gradients disagree with the plain loop."""


class ResourceError(CoterieError, RuntimeError):
    """The plan does not fit the memory or disk that was allowed."""


class WorkerError(CoterieError, RuntimeError):
    """The workers of an executor were lost too often, or cannot run the jobs."""


class StoreError(CoterieError, OSError):
    """A run directory cannot be read or written."""


class MissingDependencyError(CoterieError, ImportError):
    """An optional package is needed; the message has the install line."""


class CoterieWarning(UserWarning):
    """Base of every warning of Coterie."""


class DataWarning(CoterieWarning):
    """Data were changed or are unusual."""


class ModelModeWarning(CoterieWarning):
    """BatchNorm or dropout was put in evaluation mode."""


class FallbackWarning(CoterieWarning):
    """A fast path was not available and a slower one is used."""


class NumericsWarning(CoterieWarning):
    """A solver stopped early or a fit did not converge."""


class StoreWarning(CoterieWarning):
    """A run directory is unusual; the message says what was done about it."""


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional module or say which extra brings it.

    Raises:
        MissingDependencyError: when the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise MissingDependencyError(
            f"{purpose} needs the package that brings `{package}`, which is not installed. "
            f"Install it with: pip install 'coterie[{extra}]'"
        ) from error
