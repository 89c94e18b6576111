"""``coterie compare``: given groupings, trained for real."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.options import (
    GIBIBYTE,
    Balancing,
    Budget,
    Memory,
    Runs,
    Seeds,
    Workload,
    Worthwhile,
)
from coterie.cli.session import Session, in_session

if TYPE_CHECKING:
    from coterie.balancing import Balancing as Balanced
    from coterie.grouping import Grouping


@in_session("workers", "dask", "overwrite")
def compare(
    s: Session,
    workload: Workload,
    grouping: Annotated[
        list[Path] | None,
        typer.Option("--grouping", "-g", metavar="G.json", help="A grouping as `coterie group` prints it; repeatable."),
    ] = None,
    seeds: Seeds = 5,
    budget: Budget = None,
    runs: Runs = None,
    worthwhile: Worthwhile = 0.01,
    balancing: Balancing = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Run directory, to go on after an interruption.", file_okay=False),
    ] = None,
    memory: Memory = GIBIBYTE,  # pyright: ignore[reportArgumentType]  # the parser turns it into bytes
) -> None:
    """Train given groupings beside all-in-one and single-task models, and say what to do.

    With --runs, all groupings are trained with few seeds, the better ones with more, and the best of them go into the
    comparison with seeds of its own.

    Example: [bold]coterie compare yeast --grouping G.json --seeds 5[/bold]
    """
    from coterie.balancing.methods import as_balancing
    from coterie.cli.groupings import read_groupings
    from coterie.workload import load_workload

    chosen = as_balancing(balancing)
    loaded = load_workload(workload)
    candidates = read_groupings(grouping or [], loaded.task_names)
    with s.executor() as executor:
        result = _compare(s, loaded, candidates, seeds, budget, runs, worthwhile, chosen, out, memory, executor)
    if s.as_json:
        s.emit(result)
        return
    from coterie.cli.tables import print_comparison

    s.progress.stop()
    s.say(result["recommendation"]["text"])
    print_comparison(s.console, result["comparison"])


def _compare(
    s: Session,
    workload: Any,
    candidates: dict[str, Grouping],
    seeds: int,
    budget: int | None,
    runs: int | None,
    worthwhile: float,
    balancing: Balanced | None,
    out: Path | None,
    memory: int,
    executor: Executor | None,
) -> dict[str, Any]:
    from coterie.balancing.methods import balancing_key
    from coterie.evaluation import compare as train_and_compare
    from coterie.evaluation import recommend
    from coterie.evaluation.recommend import veto
    from coterie.store import open_run
    from coterie.workload import validate
    from coterie.workload.fingerprint import fingerprint

    validate(workload)
    settings: dict[str, Any] = {
        "verb": "compare",
        "seeds": seeds,
        "candidates": {name: candidate.to_dict() for name, candidate in candidates.items()},
        **balancing_key(balancing),
    }
    if runs is not None:  # candidates that the budget of models excludes do not race
        settings |= {"runs": runs, "budget": budget}
    with open_run(
        out, fingerprint=fingerprint(workload), settings=settings, overwrite=s.overwrite, workload=workload,
        grows=("budget", "candidates", "runs", "seeds"),
    ) as run:  # fmt: skip
        trained = train_and_compare(
            workload, candidates, seeds=range(seeds), runs=runs, budget=budget, balancing=balancing, memory=memory,
            store=run, progress=s.progress, executor=executor,
        )  # fmt: skip
        comparison = trained.comparison
        result = {
            "workload": {"name": workload.name, "reference": workload.reference},
            "recommendation": veto(comparison, recommend(comparison, budget, worthwhile), budget, worthwhile).to_dict(),
            "comparison": comparison.to_dict(),
        }
        run.write_result(result)
    return result
