"""Checks of single arguments, and numbers of NumPy and torch as those of Python."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any, TypeGuard

import numpy as np

from coterie.errors import SettingError


def plain(value: Any) -> Any:
    """A number, truth value or text of NumPy as one of Python; everything else as it is.

    NumPy's own numbers wrap around (``np.uint8(250) + 10`` is 4), and JSON does not know them.

    Example:
        >>> plain(np.uint8(250)) + 10, plain(np.array(2.5)), plain(np.str_("a")), plain([np.int64(1)]) == [1]
        (260, 2.5, 'a', True)
    """
    if isinstance(value, np.floating) and value.dtype.itemsize > 8:  # its item is of NumPy again
        return float(value)
    if isinstance(value, (np.number, np.bool_, np.str_)) or (type(value) is np.ndarray and value.ndim == 0):
        return value.item()
    return value


def whole_number(value: Any, name: str, *, low: int, high: int | None = None) -> int:
    """A whole number (of NumPy, or a tensor without dimensions, too) from `low` to, where it is given, `high`.

    Raises:
        SettingError: when it is something else.

    Example:
        >>> whole_number(3, "seed", low=0)
        3
    """
    try:
        given = plain(value)
        truth = isinstance(given, bool) or str(getattr(given, "dtype", "")) == "torch.bool"
        number = None if truth else operator.index(given)
    except TypeError:
        number = None
    if number is None or number < low or (high is not None and number > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise SettingError(
            f"Parameter `{name}` should be a whole number {limits}. Found {value!r} "
            f"({type(value).__name__}). For example {name}={low}."
        )
    return number


def choice(value: Any, name: str, allowed: Iterable[Any], *, of: str = "") -> None:
    """Refuse what is not among the values that a parameter may have.

    Args:
        value: what was given.
        name: of the parameter.
        allowed: what it may be.
        of: whose parameter it is, where its name does not say so.

    Raises:
        SettingError: naming the parameter and the values.

    Example:
        >>> choice("exact", "heads", ("exact", "none"))
    """
    allowed = allowed if isinstance(allowed, tuple | list) else tuple(allowed)
    if value not in allowed:
        whose = f" of {of}" if of else ""
        raise SettingError(f"Parameter `{name}`{whose} should be one of {allowed}. Found {value!r}.")


def named_choice(value: Any, name: str, allowed: Iterable[str]) -> None:
    """Refuse a name that is not among the known ones, and say which of them is like it.

    Raises:
        SettingError: naming the parameter, all names, and the nearest.
    """
    known = list(allowed)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        raise SettingError(
            f"Parameter `{name}` should be one of {known}. Found {value!r}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )


def flag(value: Any, name: str) -> None:
    """Refuse what is neither True nor False.

    Raises:
        SettingError: naming the parameter.

    Example:
        >>> flag(True, "signed")
    """
    if not isinstance(value, bool):
        raise SettingError(f"Parameter `{name}` should be True or False. Found {value!r}.")


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number, of Python or of NumPy; truth values are none.

    Example:
        >>> is_whole(np.int8(3)), is_whole(True), is_whole(3.0)
        (True, False, False)
    """
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number, of Python or of NumPy; truth values are none, NaN and infinity are.

    Example:
        >>> is_number(np.float32(0.5)), is_number(True), is_number("1")
        (True, False, False)
    """
    return isinstance(value, Real | np.floating) and not isinstance(value, bool | np.bool_)


def positive(value: Any, name: str) -> float:
    """A finite number above 0 (of NumPy, or a tensor without dimensions, too).

    Raises:
        SettingError: when it is something else.

    Example:
        >>> positive(1, "learning_rate")
        1.0
    """
    given = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "detach") else plain(value)
    number = float(given) if is_number(given) else math.nan
    if not (math.isfinite(number) and number > 0):
        raise SettingError(
            f"Parameter `{name}` should be a finite number above 0. Found {value!r} ({type(value).__name__}). A number "
            "that was read from a file as text is a likely cause: convert it with float()."
        )
    return number
