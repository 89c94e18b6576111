"""What orchestration passes on: one object for seed, memory, store, progress, executor and ledger.

The second half of this module is for code that was written before there was such an object, and goes with the release
after next: :func:`keywords_into` for callers, :func:`called_with_keywords` for estimators of users.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, TypeVar, cast

from coterie._check import whole_number
from coterie._progress import Progress, silent
from coterie._surface import known_arguments, warn
from coterie._units import NoStore, UnitStore
from coterie.errors import SettingError

if TYPE_CHECKING:
    from coterie.affinity.costs import Costs

Call = TypeVar("Call", bound=Callable[..., Any])
_log = logging.getLogger("coterie")


@known_arguments
@dataclass(frozen=True, eq=False)
class Context:
    """How work is done, whatever the work is: everything that trains or estimates takes one, and passes it on.

    Args:
        seed: of everything random.
        memory: working memory in bytes; a worker of the executor needs about as much as this process.
        store: where finished units of work go and are found again, so that work that was killed goes on, and methods
            that share work do it once: an open run directory (:func:`coterie.store.open_run`), for example.
        progress: called as ``progress(stage, done, total)``.
        executor: where trainings and features are computed; None is this process. Results are the same with any
            executor; see docs/cluster.md.
        costs: the ledger on which an estimate books its stages; None opens a new one for each estimate.

    Raises:
        SettingError: when a field has a value that it cannot have.

    Example:
        >>> from dataclasses import replace
        >>> context = Context(seed=3, memory=2**31)
        >>> replace(context, seed=4).memory
        2147483648
    """

    seed: int = 0
    memory: int = 2**30
    store: UnitStore = field(default_factory=NoStore)
    progress: Progress = silent
    executor: Executor | None = None
    costs: Costs | None = None

    def __post_init__(self) -> None:
        whole_number(self.seed, "seed", low=0)
        whole_number(self.memory, "memory", low=1)
        if not hasattr(self.store, "unit"):
            raise SettingError(
                "Parameter `store` should be an open run (coterie.store.open_run), or left out to keep nothing. "
                f"Found {self.store!r}."
            )
        if not callable(self.progress):
            raise SettingError(
                "Parameter `progress` should be called as progress(stage, done, total), or left out. "
                f"Found {self.progress!r}."
            )


#: one process, 1 GiB, seed 0, nothing kept and nothing told
DEFAULT_CONTEXT = Context()


def keywords_into(**objects: type[Any]) -> Callable[[Call], Call]:
    """Take keyword arguments that are fields of an object now, and make the object of them, with a warning.

    Args:
        objects: parameter of the function -> its class.

    Example:
        >>> import warnings
        >>> @keywords_into(context=Context)
        ... def bake(context=DEFAULT_CONTEXT):
        ...     return context.seed
        >>> with warnings.catch_warnings(action="ignore"):
        ...     bake(seed=3)
        3
    """

    def decorate(call: Call) -> Call:
        shape = signature(call)
        moved = {one.name: name for name, kind in objects.items() for one in fields(kind)}
        moved = {key: name for key, name in moved.items() if key not in shape.parameters}

        @functools.wraps(call)
        def folded(*args: Any, **given: Any) -> Any:
            old = {key: given.pop(key) for key in [*given] if key in moved}
            if not old:
                return call(*args, **given)
            there = shape.bind_partial(*args, **{k: v for k, v in given.items() if k in shape.parameters}).arguments
            return call(*args, **given, **_objects(_shown_name(call, args), old, moved, objects, there))

        return cast("Call", folded)

    return decorate


def _shown_name(call: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """Name of a function, or of a method with the class of its object, which may have inherited the method."""
    method = "." in call.__qualname__.rpartition("<locals>.")[2] and args
    return f"{type(args[0]).__name__}.{call.__name__}" if method else call.__qualname__


def _objects(
    name: str,
    old: Mapping[str, Any],
    moved: Mapping[str, str],
    objects: Mapping[str, type[Any]],
    there: Mapping[str, Any],
) -> dict[str, Any]:
    """The objects that old keyword arguments stand for; None was how to leave an argument out."""
    made: dict[str, Any] = {}
    for parameter in dict.fromkeys(moved[key] for key in old):
        own = {key: value for key, value in old.items() if moved[key] == parameter}
        what = f"{parameter}={objects[parameter].__name__}({', '.join(f'{key}=...' for key in own)})"
        keys = ", ".join(f"`{key}`" for key in own)
        if parameter in there:
            raise SettingError(f"{name} takes {keys} in `{parameter}`. Found both. Give {what} alone.")
        warn(f"{name} takes {keys} in `{parameter}`: give {what}. This release still takes both.", DeprecationWarning)
        made[parameter] = objects[parameter](**{key: value for key, value in own.items() if value is not None})
    return made


def called_with_keywords(call: Call, owner: str) -> Call:
    """The `estimate` of a class that knows no context, called with what is in it."""
    warn(
        f"{owner}.estimate takes its arguments one by one. Write estimate(self, workload, context, subset_size), "
        "with a coterie.Context. This release still calls it in the old way.",
        DeprecationWarning,
    )
    known = signature(call).parameters.values()
    elsewhere = any(one.name == "executor" or one.kind is Parameter.VAR_KEYWORD for one in known)

    @functools.wraps(call)
    def unfolded(self: Any, workload: Any, *args: Any, **given: Any) -> Any:
        if not args and "context" not in given:
            return call(self, workload, **given)
        context, subset_size = _in_order(*args, **given)
        common: dict[str, Any] = {"seed": context.seed, "subset_size": subset_size, "memory": context.memory}
        common |= {"store": context.store, "progress": context.progress}
        if context.executor is not None and elsewhere:
            common["executor"] = context.executor
        elif context.executor is not None:
            _log.warning("the method %r takes no `executor`: its estimate is made in this process", self.name)
        return call(self, workload, **common)

    return cast("Call", unfolded)


def _in_order(context: Context, subset_size: int = 2) -> tuple[Context, int]:
    return context, subset_size
