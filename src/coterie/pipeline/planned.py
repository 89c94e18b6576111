"""What a plan holds: a dictionary that shows itself as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie._show import html_table
from coterie.report.formats import DASH, duration, flops, size

_HEAD = ("stage", "what", "memory", "FLOPs", "time", "disk")


class Plan(dict[str, Any]):
    """The answer of :func:`coterie.plan`, JSON-ready; at a prompt and in a notebook it is a table.

    Example:
        >>> Plan(rows=[{"stage": "base models", "what": "2 trainings", "seconds": 3.0}], totals={"seconds": 3.0})
        Plan: 3.00 s expected
          base models  2 trainings  –  –  3.00 s  –
    """

    def _rows(self) -> list[tuple[str, ...]]:
        return [_cells(row) for row in self.get("rows", ())]

    def _total(self) -> str:
        total: Mapping[str, Any] = self.get("totals", {})
        most, peak, disk = (total.get(name) for name in ("seconds_at_most", "peak_memory_bytes", "disk_bytes"))
        said = [f"{duration(total.get('seconds'))} expected"]
        said += [f"{duration(most)} at most"] if most is not None else []
        said += [f"peak memory {size(peak)}"] if peak is not None else []
        said += [f"disk {size(disk)}"] if disk is not None else []
        return "Plan: " + ", ".join(said)

    def __repr__(self) -> str:
        rows = self._rows()
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))] if rows else []
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([self._total(), *(f"  {line.rstrip()}" for line in lines)]).replace("\u00a0", " ")

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        return html_table(_HEAD, self._rows(), f"{self._total()}. {' '.join(self.get('notes', ()))}".strip(), left=2)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = (size(row.get("memory_bytes")), flops(row.get("flops")), duration(row.get("seconds")))
    return (str(row.get("stage", DASH)), str(row.get("what", "")), *numbers, size(row.get("disk_bytes")))
