"""``coterie group``: groups from an affinity matrix, wherever it came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.complete import GROUPING, one_of
from coterie.cli.options import Groups, OutFile, Seed
from coterie.cli.session import Session, in_session

if TYPE_CHECKING:
    from coterie.affinity import Affinity
    from coterie.grouping import Grouping

#: options that say something about a partition, and those that say something about a selection under a budget
_PARTITION = ("groups", "method", "diagonal")
_SELECTION = ("singletons", "costs", "model_cost", "limit", "sizes", "time_limit")
_PANEL = "With --budget"


@in_session()
def group(
    s: Session,
    context: typer.Context,
    affinity: Annotated[
        Path,
        typer.Option(
            "--affinity", "-a", metavar="A.csv", help="Square CSV with a header: rows are targets, columns sources."
        ),
    ],
    groups: Groups = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            metavar="B",
            min=0,
            help="Largest number of models, or their largest total cost; groups may then overlap.",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            autocompletion=one_of(GROUPING),
            help="sdp, sdp-penalty, spectral, agglomerative, leiden, intervals, random, all-in-one, single-task or "
            "exhaustive (up to 12 tasks).",
        ),
    ] = "sdp",
    diagonal: Annotated[
        str, typer.Option("--diagonal", help="What stands on the diagonal: keep, zero or mean (of the other entries).")
    ] = "keep",
    singletons: Annotated[
        str,
        typer.Option(
            "--singletons",
            rich_help_panel=_PANEL,
            help="Score of a task alone: forbidden (-1e6), zero, diagonal (of the matrix) or a number.",
        ),
    ] = "forbidden",
    costs: Annotated[
        str | None,
        typer.Option(
            "--costs",
            metavar="NUMBER|C.csv",
            rich_help_panel=_PANEL,
            help="Cost of each model, or a CSV task,cost: what a task adds to each model that trains it.",
        ),
    ] = None,
    model_cost: Annotated[
        float | None,
        typer.Option("--model-cost", min=0, rich_help_panel=_PANEL, help="Cost of each model beside those of --costs."),
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option("--limit", min=0, rich_help_panel=_PANEL, help="Most tasks in a group, or its largest size."),
    ] = None,
    sizes: Annotated[
        Path | None,
        typer.Option("--sizes", metavar="S.csv", rich_help_panel=_PANEL, help="CSV task,size to which --limit refers."),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option("--time-limit", metavar="SECONDS", rich_help_panel=_PANEL, help="Stop the search after so long."),
    ] = None,
    out: OutFile = None,
    seed: Seed = 0,
) -> None:
    """Group the tasks of an affinity matrix: each task exactly once, or within a budget of models that may share tasks.

    With --json, prints one object with `groups` (lists of task names), `serves` (task -> index of its group),
    `objective` and `bound`, what no allowed grouping exceeds.

    Example: [bold]coterie group --affinity A.csv --groups 3 --json[/bold]

    At most 3 models, each task served by its best: [bold]coterie group --affinity A.csv --budget 3 --json[/bold]
    """
    _check_together(context, budget)
    from coterie.affinity import Affinity

    read = Affinity.from_csv(affinity)
    if budget is None:
        from coterie.grouping import group as find_groups

        found = find_groups(read, groups, method=method, seed=seed, diagonal=diagonal, progress=s.progress)
    else:
        settings = _settings(read, singletons, costs, model_cost, limit, sizes)
        found = _select(s, read, budget, seed, {**settings, "time_limit": time_limit})
    _finish(s, found, out)


def _check_together(context: typer.Context, budget: float | None) -> None:
    """Options of the two ways to group do not mix."""
    given = {name for name in (*_PARTITION, *_SELECTION) if _was_given(context, name)}
    flags = lambda names: ", ".join("--" + name.replace("_", "-") for name in names if name in given)  # noqa: E731
    if budget is not None and flags(_PARTITION):
        raise typer.BadParameter(
            f"--budget and {flags(_PARTITION)} exclude each other. --budget chooses at most so many groups, which may "
            "overlap; --groups, --method and --diagonal put each task into exactly one group. Leave one side out.",
            param_hint="--budget",
        )
    if budget is None and flags(_SELECTION):
        raise typer.BadParameter(
            f"{flags(_SELECTION)} can only be used with --budget. Give one, such as --budget 3.", param_hint="--budget"
        )
    if "sizes" in given and "limit" not in given:
        raise typer.BadParameter("--sizes needs a --limit that they add up to at most.", param_hint="--sizes")


def _was_given(context: typer.Context, name: str) -> bool:
    """Whether the user wrote the option, rather than its default counting."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _settings(
    affinity: Affinity,
    singletons: str,
    costs: str | None,
    model_cost: float | None,
    limit: float | None,
    sizes: Path | None,
) -> dict[str, Any]:
    """Arguments of select_groups from the texts of the options."""
    from coterie.cli.per_task import read_per_task
    from coterie.grouping.cover.problem import Costs, Limit

    settings: dict[str, Any] = {"singletons": singletons if _number(singletons) is None else _number(singletons)}
    fixed = None if costs is None else _number(costs)
    if fixed is not None and model_cost is not None:
        raise typer.BadParameter("--costs with a number is the cost of a model, too.", param_hint="--model-cost")
    if costs is not None and fixed is None:
        settings["costs"] = Costs(model_cost or 0.0, read_per_task(Path(costs), affinity.tasks, "--costs"))
    elif fixed is not None:
        settings["costs"] = Costs(fixed)
    elif model_cost is not None:
        settings["costs"] = Costs(model_cost)
    if limit is not None:
        settings["limit"] = Limit(limit, 1.0 if sizes is None else read_per_task(sizes, affinity.tasks, "--sizes"))
    return settings


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _select(s: Session, affinity: Affinity, budget: float, seed: int, settings: dict[str, Any]) -> Grouping:
    from coterie._context import Context
    from coterie.grouping.cover.select import select_groups

    context = Context(seed, progress=s.progress)
    whole = "costs" not in settings and budget.is_integer()
    return select_groups(affinity, int(budget) if whole else budget, context=context, **settings)


def _finish(s: Session, grouping: Grouping, out: Path | None) -> None:
    """Print the groups and write them."""
    s.progress.stop()
    found = grouping.to_dict()
    if out is not None:
        from coterie.store.files import write_json

        write_json(out, found)
    if s.as_json:
        s.emit(found)
        return
    from coterie.cli.tables import print_grouping

    print_grouping(s.console, found)
    if out is not None:
        s.say(f"grouping: {out}")
