"""``coterie affinity``: estimate how much tasks help each other."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.options import (
    GIBIBYTE,
    Bases,
    Memory,
    Method,
    OutFile,
    Seed,
    Workload,
    given,
)
from coterie.cli.session import Session, in_session

if TYPE_CHECKING:
    from coterie.affinity import Affinity


class Order(StrEnum):
    """Whether affinities are read off pairs or averaged over larger random subsets."""

    pairwise = "pairwise"
    higher = "higher"


@in_session("workers", "dask")
def affinity(
    s: Session,
    workload: Workload,
    method: Method = "fused",
    out: OutFile = None,
    order: Annotated[
        Order, typer.Option("--order", help="pairwise: from pairs of tasks; higher: mean over random subsets.")
    ] = Order.higher,
    subsets: Annotated[
        int | None, typer.Option("--subsets", min=1, help="Random subsets for --order higher; chosen when left out.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", min=2, help="Tasks in each of these subsets; chosen when left out.")
    ] = None,
    bases: Bases = None,
    memory: Memory = GIBIBYTE,  # pyright: ignore[reportArgumentType]  # the parser turns it into bytes
    seed: Seed = 0,
) -> None:
    """Estimate the affinity of every pair of tasks.

    The matrix has one row a target and one column a source; larger is better. `coterie group` reads it.

    Example: [bold]coterie affinity yeast --method grad-tag --out A.csv[/bold]
    """
    from coterie import pipeline

    with s.executor() as executor:
        chosen, _ = pipeline.estimate_affinity(
            workload,
            method=method,
            order=order.value,
            subsets=subsets,
            size=size,
            seed=seed,
            memory=memory,
            progress=s.progress,
            executor=executor,
            **given(bases=bases),
        )
    if out is not None:
        chosen.to_csv(out)
    if s.as_json:
        s.emit({**chosen.to_dict(), "path": None if out is None else str(out)})
    else:
        _show(s, chosen, out)


def _show(s: Session, found: Affinity, out: Path | None) -> None:
    from coterie.cli.tables import print_affinity

    s.progress.stop()
    print_affinity(s.console, found)
    if out is not None:
        s.say(f"affinity: {out}")
