"""Between callers and the library: arguments that do not exist, and warnings that name the caller's own line."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping
from contextlib import contextmanager
from reprlib import Repr
from types import FrameType
from typing import Any, TypeVar, cast, get_args, get_type_hints
from weakref import WeakKeyDictionary

from coterie._check import plain
from coterie._process_lock import process_lock
from coterie.errors import CoterieWarning, DataWarning, FallbackWarning, ModelModeWarning, SettingError

Named = TypeVar("Named", bound=Callable[..., Any])

#: what other libraries call a parameter, and what it may be called here
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "lr": ("learning_rate",),
    "wd": ("weight_decay",),
    "optim": ("optimizer",),
    "random_state": ("seed",),
    "n_jobs": ("executor", "workers"),
    "num_workers": ("executor", "workers"),
    "workers": ("executor",),
    "n_clusters": ("groups", "k"),
    "n_groups": ("groups", "k"),
    "num_classes": ("classes",),
    "n_classes": ("classes",),
    "type": ("kind",),
    "path": ("out",),
    "X": ("x",),
    "labels": ("y",),
}
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_OWN = inspect.Parameter
#: one a file, as Python keeps one a module, for the default filter's "once a line"
_registries: dict[str, dict[Any, Any]] = {}
#: warnings that tell of the data and the model, not of what happened in a run
_LASTING = (DataWarning, FallbackWarning, ModelModeWarning)
_told: WeakKeyDictionary[object, set[tuple[type[Warning], str]]] = WeakKeyDictionary()


def known_arguments(what: Named) -> Named:
    """Make a function or a class refuse keyword arguments that it does not have, and read numbers of NumPy as Python's.

    Python's own TypeError names neither the parameter that was meant nor those that there are. Signature, annotations
    and docstring stay as they are. Options that a function hands on (``**options``) are known where a typed dictionary
    annotates them; where none does, the function has to look at them itself, with :func:`refuse_unknown`.

    Example:
        >>> @known_arguments
        ... def bake(*, minutes=3): ...
        >>> try:
        ...     bake(minute=4)
        ... except SettingError as error:
        ...     print(error)
        Parameter `minute` of bake does not exist (found minute=4). Did you mean `minutes`? Known are minutes.
    """
    if isinstance(what, type):
        made: Any = what
        made.__init__ = _checked(made.__init__, what.__name__)
        return made
    return cast("Named", _checked(what, what.__name__))


def _checked(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    parameters = inspect.signature(call).parameters.values()
    known = frozenset(names_of(call))
    if any(parameter.kind is _OWN.VAR_KEYWORD for parameter in parameters) and not _options_of(call):
        return call

    @functools.wraps(call)
    def checked(*args: Any, **given: Any) -> Any:
        if not given.keys() <= known:
            refuse_unknown(name, given, names_of(call))
        return call(*map(plain, args), **{key: plain(value) for key, value in given.items()})

    return checked


def names_of(call: Callable[..., Any]) -> list[str]:
    """The parameters of a function that can be given by name, in their order."""
    kinds = (_OWN.POSITIONAL_OR_KEYWORD, _OWN.KEYWORD_ONLY)
    found = inspect.signature(call).parameters.values()
    named = [parameter.name for parameter in found if parameter.kind in kinds and parameter.name != "self"]
    return [*named, *_options_of(call)]


def _options_of(call: Callable[..., Any]) -> list[str]:
    """The names in a typed dictionary that annotates ``**options``."""
    rest = [p for p in inspect.signature(call).parameters.values() if p.kind is _OWN.VAR_KEYWORD]
    if not rest or not str(rest[0].annotation).startswith("Unpack["):
        return []
    (options,) = get_args(get_type_hints(call)[rest[0].name])
    return list(options.__annotations__)


def refuse_unknown(name: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse what is given under a name that is not known.

    Args:
        name: of the function, class or method, for the message.
        given: arguments by name.
        known: names that exist.

    Raises:
        SettingError: naming the first of them, the nearest known name, and all known ones.
    """
    known = list(known)
    for parameter in given:
        if parameter not in known:
            found = _short.repr(given[parameter])
            raise SettingError(
                f"Parameter `{parameter}` of {name} does not exist (found {parameter}={found}). "
                f"{_nearest(parameter, known)} Known are {', '.join(known) or 'none'}."
            )


_short = Repr()
_short.maxstring = _short.maxother = 40


def _nearest(parameter: str, known: list[str]) -> str:
    elsewhere = [other for other in _ELSEWHERE.get(parameter, ()) if other in known]
    near = elsewhere[:1] or difflib.get_close_matches(parameter.lower(), known, n=1)
    if near:
        return f"Did you mean `{near[0]}`?"
    return "No other has a similar name: there is no such setting, or not yet in this version."


def warn(message: str, category: type[Warning], *, about: object = None) -> None:
    """Warn, and name the line outside of Coterie that led here.

    Args:
        message: what to say.
        category: of the warning.
        about: what is unusual, say a workload: it is said once of the same object, unless the filter says "always".
    """
    _warn_at(message, category, *_caller(sys._getframe(1)), about)  # pyright: ignore[reportPrivateUsage]


def _warn_at(message: Warning | str, category: type[Warning], filename: str, lineno: int, about: object) -> None:
    said = (category, str(message))
    if about is not None and issubclass(category, _LASTING) and not _always(*said):
        if said in _told.setdefault(about, set()):
            return
        _told[about].add(said)
    warnings.warn_explicit(message, category, filename, lineno, registry=_registries.setdefault(filename, {}))


def _always(category: type[Warning], text: str) -> bool:
    """Whether the filter wants every warning of this kind, or none, or an error; otherwise once is enough."""
    for action, message, kind, *_ in warnings.filters:
        pattern: Any = message  # a compiled pattern, or a text in filters that Python made itself
        if issubclass(category, kind) and (pattern is None or (hasattr(pattern, "match") and pattern.match(text))):
            return action in ("always", "ignore", "error")
    return False


@contextmanager
def once(about: object = None) -> Generator[list[warnings.WarningMessage]]:
    """Say each warning of a block once, at its end, also when it fails; the list holds them all.

    Args:
        about: the workload that the block is about; what was said before of its data and model is not said again.
    """
    caught: list[warnings.WarningMessage] = []
    try:
        with process_lock, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            warnings.simplefilter("always", CoterieWarning)
            yield caught
    finally:
        about = about if isinstance(about, Hashable) else None  # what has no hash is told everything each time
        for item in {(item.category, str(item.message)): item for item in caught}.values():
            _warn_at(item.message, item.category, item.filename, item.lineno, about)


def said_once(call: Named) -> Named:
    """Make a function whose first parameter is a workload say each warning once; see :func:`once`."""
    first = names_of(call)[0]

    @functools.wraps(call)
    def wrapped(*args: Any, **given: Any) -> Any:
        about = args[0] if args else given.get(first)
        with once(None if isinstance(about, str) else about):
            return call(*args, **given)

    return cast("Named", wrapped)


def _caller(frame: FrameType | None) -> tuple[str, int]:
    """File and line of the innermost frame outside of the package."""
    place = ("<unknown>", 1)
    while frame is not None:
        place = (frame.f_code.co_filename, frame.f_lineno)
        if not os.path.abspath(place[0]).startswith(_PACKAGE):
            break
        frame = frame.f_back
    return place
