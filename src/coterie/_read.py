"""Array-likes of every kind as plain arrays of numbers, with NaN where something is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from coterie.errors import CoterieError, SettingError, WorkloadError

#: attributes of arrays read from files in which a number marks what is missing
_FILLS = ("_FillValue", "missing_value")


def read_array(values: Any, parameter: str, error: type[CoterieError] = WorkloadError) -> NDArray[Any]:
    """A numeric or boolean array from an array, a tensor, a table, a column or nested lists; missing is NaN.

    Masks of NumPy and Astropy, None, ``pandas.NA`` and nulls of Arrow and polars become NaN, and whole numbers with
    such a hole floating-point ones. Objects that are all whole numbers, or all booleans, stay so. What would lose
    more than its container (a unit, the names of fields, marks for missing values) is refused.

    Args:
        values: what was given.
        parameter: how messages call it.
        error: the class of what is raised.

    Raises:
        CoterieError: of the class `error`: for text, dates, complex or sparse values, units, fields, and lists whose
            rows have different lengths.

    Cost: a copy at most, except for columns of objects, which are read value by value.

    Example:
        >>> read_array(np.ma.masked_array([1, 2], mask=[False, True]), "y")
        array([ 1., nan])
    """
    reader = _Reader(parameter, error)
    array = reader.plain(values)
    if array.dtype.names is not None:
        raise error(
            f"Parameter `{parameter}` is a structured array with the fields {list(array.dtype.names)[:5]}. Name its "
            "columns with pandas.DataFrame(...), or take them apart with numpy.lib.recfunctions."
            "structured_to_unstructured(...)."
        )
    if array.dtype.kind == "O":
        array = reader.unboxed(array)
    if array.dtype.kind not in "fiub":
        raise error(_not_numbers(parameter, str(array.dtype)))
    return array


def is_missing(value: Any) -> bool:
    """Whether a single object says that there is no value: None, NaN, ``pandas.NA`` or the masked constant."""
    if value is None or value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and math.isnan(value)


def is_frame(source: Any) -> bool:
    """Whether this is a table with named columns, such as a pandas DataFrame."""
    return all(hasattr(source, name) for name in ("columns", "index", "reindex", "to_numpy"))


def read_frame(frame: Any, parameter: str, error: type[CoterieError] = SettingError) -> tuple[Any, tuple[str, ...]]:
    """The frame with its rows in the order of its columns, and the task names: index are targets, columns are sources.

    Rows are put into the order of the columns by their names, which are compared as they are and as texts (a file has
    texts where the index has numbers). Only where the names differ, a plain numbering 0, 1, ... of the rows or of the
    columns is taken for no names, and the others are theirs.

    Raises:
        CoterieError: of the class `error`: the index has other names than the columns, or one of them twice.
    """
    columns, rows = list(frame.columns), list(frame.index)
    for kind in (lambda name: name, str):
        sources, targets = [kind(name) for name in columns], [kind(name) for name in rows]
        if set(sources) == set(targets) and len(set(sources)) == len(sources) == len(targets):
            place = {name: row for row, name in enumerate(targets)}
            return frame.iloc[[place[name] for name in sources]], tuple(str(name) for name in columns)
    plain: list[Any] = list(range(len(rows)))
    if rows == plain or (columns == plain and len(rows) == len(columns)):
        return frame, tuple(str(name) for name in (columns if rows == plain else rows))
    odd = [str(name) for name in rows if name not in set(columns)] or [str(n) for n in rows if rows.count(n) > 1]
    odd = odd or [str(name) for name in columns if name not in set(rows)]
    raise error(
        f"Parameter `{parameter}` is a data frame whose index (targets) and columns (sources) should have the same "
        f"task names, each once. Found {len(rows)} rows and {len(columns)} columns; these do not match: "
        f"{', '.join(repr(name) for name in dict.fromkeys(odd[:5]))}. Rename or reorder them, or leave the index "
        "at its default 0, 1, ... if the rows have the order of the columns."
    )


def read_matrix(
    values: Any, tasks: Sequence[str], parameter: str, error: type[CoterieError] = SettingError
) -> NDArray[np.float64]:
    """The numbers of an affinity of known tasks in their order: a data frame by its names, an array by position.

    Raises:
        CoterieError: of the class `error`: for a data frame with other names, or values that are no numbers.
    """
    if not is_frame(values):
        return read_array(values, parameter, error).astype(np.float64, copy=False)
    frame, names = read_frame(values, parameter, error)
    matrix = read_array(frame, parameter, error).astype(np.float64, copy=False)
    if names == tuple(tasks) or list(values.columns) == list(values.index) == list(range(len(names))):
        return matrix
    if len(names) != len(tasks) or set(names) != set(tasks):
        raise error(
            f"Parameter `{parameter}` is a data frame with the tasks {list(names)[:5]}, which should be "
            f"{list(tasks)[:5]}. Rename its rows and columns, or pass `.to_numpy()` to go by position."
        )
    order = [names.index(task) for task in tasks]
    return matrix[np.ix_(order, order)]


def by_task(values: Any, tasks: Sequence[str], parameter: str) -> Any:
    """The values of a mapping or of a pandas Series in the order of the tasks that it names; others as they are.

    A Series that is merely numbered 0, 1, ... has no names and stays in its order.

    Raises:
        SettingError: when it names other tasks, or one of them twice.

    Example:
        >>> by_task({"b": 2.0, "a": 1.0}, ("a", "b"), "costs")
        [1.0, 2.0]
    """
    if isinstance(values, Mapping):
        named = cast("Mapping[Any, Any]", values)
        names, entries = [str(name) for name in named], list(named.values())
    elif hasattr(values, "iloc") and getattr(values, "ndim", 0) == 1:
        names, entries = [str(name) for name in values.index], list(values)
    else:
        return values
    place = {name: number for number, name in enumerate(names)}
    if len(place) == len(names) and set(names) == set(tasks):
        return [entries[place[task]] for task in tasks]
    if not isinstance(values, Mapping) and list(values.index) == list(range(len(names))):
        return entries
    missing = [task for task in tasks if task not in place]
    unknown = [name for name in names if name not in set(tasks)]
    raise SettingError(
        f"Parameter `{parameter}` should name each task once. Missing: {missing[:5] or 'none'}; no tasks: "
        f"{unknown[:5] or 'none'}. Pass `.to_numpy()` of a Series to go by position."
    )


class _Reader:
    """One call of :func:`read_array`."""

    def __init__(self, parameter: str, error: type[CoterieError]) -> None:
        self.parameter, self.error = parameter, error

    def plain(self, values: Any) -> NDArray[Any]:
        """A plain array without masks, possibly of objects."""
        if values is None:
            raise self.error(
                f"Parameter `{self.parameter}` should be an array, a tensor or a data frame. Found None. The likely "
                "cause is a function that returned nothing, such as one that changes a table in place."
            )
        if hasattr(values, "detach") and hasattr(values, "layout"):
            return self._tensor(values)
        self._refuse(values)
        if hasattr(values, "dims") and hasattr(values, "data"):  # xarray, possibly around one of the others
            return self._marked(self.plain(values.data), getattr(values, "attrs", {}))
        if hasattr(values, "column_names") and hasattr(values, "column"):  # tables of Arrow
            return self._stacked(
                [values.column(index) for index in range(len(values.column_names))], values.column_names
            )
        if hasattr(values, "null_count") and hasattr(values, "to_numpy"):  # columns of Arrow; polars has a method
            return np.asarray(values.to_numpy() if callable(values.null_count) else _arrow(values))
        if hasattr(values, "to_numpy"):
            return self._frame(values)
        if isinstance(values, list | tuple) and _hides(cast("Sequence[Any]", values)):
            return self._stacked(cast("Sequence[Any]", values), range(len(cast("Sequence[Any]", values))), axis=0)
        return _unmasked(self._converted(values))

    def _converted(self, values: Any) -> Any:
        try:
            return np.asanyarray(values)
        except (ValueError, TypeError, RuntimeError) as error:
            cause = (
                "an array on a graphics card, which is copied with .get()"
                if hasattr(values, "get")
                else ("rows of different lengths")
            )
            raise self.error(
                f"Parameter `{self.parameter}` cannot be read as an array ({error}). The likely cause is {cause}."
            ) from error

    def _tensor(self, values: Any) -> NDArray[Any]:
        layout = "nested" if getattr(values, "is_nested", False) else str(values.layout).removeprefix("torch.")
        ways = {
            "nested": "a nested tensor, whose rows differ in length. Pad them: torch.nested.to_padded_tensor(x, 0.0)",
            "masked": "a masked tensor. Say what is missing with NaN: x.to_tensor(float('nan'))",
            "meta": "on the device 'meta', so it has a shape but no values. Load or compute them first",
            "quantised": "quantised. Pass x.dequantize()",
        }
        kind = None if layout == "strided" else layout
        if hasattr(values, "get_mask"):
            kind = "masked"
        elif values.is_meta:
            kind = "meta"
        elif values.is_quantized:
            kind = "quantised"
        if kind is not None:
            way = ways.get(kind, f"sparse ({kind}), which is not supported. Convert it with `.to_dense()`")
            raise self.error(f"Parameter `{self.parameter}` is {way}.")
        values = values.detach().cpu().resolve_conj().resolve_neg()
        return (values.float() if values.is_floating_point() and values.element_size() < 4 else values).numpy()

    def _refuse(self, values: Any) -> None:
        """Raise for what `numpy.asarray` would strip of its meaning."""
        if hasattr(values, "toarray") or hasattr(values, "todense"):
            raise self.error(
                f"Parameter `{self.parameter}` is a sparse matrix, which is not supported. Convert it with "
                f"`.{'toarray' if hasattr(values, 'toarray') else 'todense'}()`."
            )
        if hasattr(values, "asm8"):  # times of pandas have a unit, too; they are no numbers
            return
        for unit, plain in (("units", "magnitude"), ("unit", "value")):
            if hasattr(values, unit) and hasattr(values, plain) and not isinstance(values, type):
                raise self.error(
                    f"Parameter `{self.parameter}` has the unit {str(getattr(values, unit))!r}, which would be lost: "
                    f"the same numbers in another unit would be read as equal. Bring it to one unit and pass its "
                    f"numbers, x.to(...).{plain}."
                )

    def _marked(self, array: NDArray[Any], attributes: Any) -> NDArray[Any]:
        for name in _FILLS:
            fill = attributes.get(name) if hasattr(attributes, "get") else None
            if fill is not None and array.dtype.kind in "fiub" and bool((array == fill).any()):
                raise self.error(
                    f"Parameter `{self.parameter}` marks missing values with {fill!r} (attribute {name!r}), and has "
                    "such values. Decode it first, for example with xarray.decode_cf(...)."
                )
        return array

    def _frame(self, values: Any) -> NDArray[Any]:
        """pandas, polars and their kin; columns of a type of their own are read one by one."""
        array = _unmasked(values.to_numpy())
        if array.dtype.kind != "O" or not hasattr(values, "iloc"):
            return array
        if array.ndim == 2:
            columns = [values.iloc[:, index] for index in range(array.shape[1])]
            return self._stacked(columns, list(values.columns)) if array.size else array
        kind = getattr(values.dtype, "kind", "O")
        if kind in "fiub":  # a nullable number: whole where nothing is missing
            hole = bool(values.isna().any())
            return values.to_numpy(dtype="float64", na_value=np.nan) if hole or kind == "f" else np.array(list(array))
        return array

    def _stacked(self, parts: Sequence[Any], names: Sequence[Any], axis: int = 1) -> NDArray[Any]:
        read = [
            read_array(part, f"{self.parameter}[{name!r}]", self.error) for part, name in zip(parts, names, strict=True)
        ]
        if len({part.shape for part in read}) > 1:
            raise self.error(
                f"Parameter `{self.parameter}` cannot be read as an array: its parts have the shapes "
                f"{[part.shape for part in read][:5]}."
            )
        return np.stack(read, axis=axis) if read else np.empty((0,) * 2)

    def unboxed(self, array: NDArray[Any]) -> NDArray[Any]:
        """Objects that are really numbers: whole or boolean where all of them are, else float64."""
        flat = [self._number(value, position, array) for position, value in enumerate(array.ravel())]
        kinds: set[type] = {type(value) for value in flat}
        if kinds and kinds <= {int, bool}:
            try:
                return np.array(flat, dtype=np.int64 if int in kinds else np.bool_).reshape(array.shape)
            except OverflowError:
                pass  # larger than int64
        return np.array(flat, dtype=np.float64).reshape(array.shape)

    def _number(self, value: Any, position: int, array: NDArray[Any]) -> float | int | bool:
        if getattr(value, "ndim", None) == 0 and hasattr(value, "item") and value is not np.ma.masked:
            value = value.item()  # numbers of NumPy, tensors without dimensions
        if isinstance(value, bool | int | float):
            return value
        if isinstance(value, Real | Decimal):
            return float(value)
        self._refuse(value)
        if is_missing(value):
            return np.nan
        column = f", column {position % array.shape[1]}" if array.ndim == 2 else ""
        found = f"object; the first value that is no number is {str(value)[:40]!r}{column}"
        raise self.error(_not_numbers(self.parameter, found))


def _arrow(values: Any) -> Any:
    """A column of Arrow; one array needs to be told that a copy is fine."""
    try:
        return values.to_numpy(zero_copy_only=False)
    except TypeError:
        return values.to_numpy()


def _unmasked(array: Any) -> NDArray[Any]:
    """A plain array: masked numbers are NaN, masked objects None."""
    mask = getattr(array, "mask", None)
    plain = np.asarray(array.unmasked if hasattr(array, "unmasked") else array)
    if mask is None or plain.dtype.names is not None or not np.any(mask):
        return plain
    if plain.dtype.kind in "fiub":
        return np.where(mask, np.nan, plain if plain.dtype.kind == "f" else plain.astype(np.float64))
    if plain.dtype.kind == "O":
        return np.where(mask, np.array(None, dtype=object), plain)
    return plain


def _hides(values: Sequence[Any]) -> bool:
    """Whether nested lists hold arrays or tensors, of which NumPy would take the bare numbers."""
    for value in values:
        if isinstance(value, list | tuple):
            if _hides(cast("Sequence[Any]", value)):
                return True
        elif type(value) not in (float, int, bool, str) and any(
            hasattr(value, name) for name in ("mask", "detach", "to_numpy", "units", "unit", "toarray", "todense")
        ):
            return True
    return False


def _not_numbers(parameter: str, found: str) -> str:
    return (
        f"Parameter `{parameter}` should hold numbers. Found dtype {found}. The likely cause is a column of text or "
        "dates. Encode it first, for example with pandas.get_dummies (inputs) or pandas.factorize (labels), or drop "
        "it."
    )
