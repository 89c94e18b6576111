"""Numbers for tasks, from a file that a user wrote."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from coterie._files import read_bytes
from coterie.affinity.affinity import cell_name
from coterie.errors import SettingError


def read_per_task(path: Path, tasks: tuple[str, ...], option: str) -> tuple[float, ...]:
    """A number for each task from a CSV with a header and two columns, the name of a task and its number.

    Args:
        path: the file.
        tasks: names, in the order of the result.
        option: name of the option, for messages.

    Raises:
        SettingError: the file cannot be read, or a task is missing, unknown, twice there or has no finite number.
    """
    try:
        data = read_bytes(path)
        file = io.StringIO(data.decode("utf-8-sig"), newline="")
        every = [[cell_name(cell) for cell in row] for row in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingError(
            f"{option} should name a CSV with a header and the columns task and number. {str(path)!r} cannot be read: "
            f"{error}."
        ) from error
    if data and not data.endswith((b"\n", b"\r")):
        raise SettingError(
            f"{option}: {str(path)!r} does not end with a line end, so its last number may have been cut. If it is "
            "whole, add a line end."
        )
    found: dict[str, float] = {}
    for row in [cells for cells in every if any(cells)][1:]:
        name, value = row[0], _number(row)
        if name not in tasks or name in found or value is None:
            raise SettingError(
                f"{option}: {str(path)!r} should have a header and then one row `task,number` for each task of the "
                f"affinity. Found the row {','.join(row)!r}"
                + (
                    ", whose task is not in the affinity."
                    if name not in tasks
                    else "; is it there twice, or no number?"
                )
            )
        found[name] = value
    missing = [name for name in tasks if name not in found]
    if missing:
        raise SettingError(
            f"{option}: {str(path)!r} has no number for {len(missing)} of the tasks: {', '.join(missing[:5])}. The "
            "first line is read as a header."
        )
    return tuple(found[name] for name in tasks)


def _number(row: list[str]) -> float | None:
    try:
        value = float(row[1]) if len(row) == 2 else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
