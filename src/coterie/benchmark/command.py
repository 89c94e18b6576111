"""``coterie benchmark``: how much skill methods have, and what it costs."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.complete import AFFINITY, BALANCING, several_of, workloads
from coterie.cli.options import GIBIBYTE, Memory, Seed, run_directory
from coterie.cli.session import Session, in_session

if TYPE_CHECKING:
    from coterie.benchmark import Options

#: benchmarks of several data sets are kept in this folder, each under the name that it has alone
RUNS = Path("runs")


@in_session("workers", "dask", "overwrite")
def benchmark(
    s: Session,
    workloads: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORKLOAD]...",
            help="Built-in data (yeast, water, chemicals, mhc, mhc2, digits) or [bold]file.py:name[/bold]; several. "
            "With [bold]balancing[/bold] first, methods of balancing are compared on them instead.",
            show_default=False,
            autocompletion=workloads,
        ),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(
            "--methods", "-m", autocompletion=several_of((*AFFINITY, *BALANCING)),
            help="Entries or methods, with commas; --list names them. For balancing: famo, ..."
        ),
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="List what can be measured and stop.")] = False,
    subsets: Annotated[int, typer.Option("--subsets", min=2, help="Random subsets of the truth.")] = 120,
    replicates: Annotated[int, typer.Option("--replicates", min=1, help="Trainings of each subset.")] = 8,
    pool: Annotated[int, typer.Option("--pool", min=0, help="Further subsets, trained once.")] = 300,
    pairs: Annotated[int, typer.Option("--pairs", min=0, help="Pairs of tasks that are trained.")] = 91,
    groups: Annotated[
        str | None, typer.Option(
            "--groups", "-k", help="Numbers of groups, with commas; 0 for none. Left out: a fifth of the tasks, 3 to 5."
        )
    ] = None,
    resamples: Annotated[int, typer.Option("--resamples", min=0, help="Resamples of the intervals.")] = 300,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Run directory; the parent of several.", show_default="runs/benchmark-NAME",
            file_okay=False,
        ),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Also draw the plots: a PNG, SVG or PDF file.", dir_okay=False)
    ] = None,
    memory: Memory = GIBIBYTE,  # pyright: ignore[reportArgumentType]  # the parser turns it into bytes
    seed: Seed = 0,
) -> None:  # fmt: skip
    """Measure methods against really trained subsets: skill, cost, and what their groups are worth.

    Training the truth is the long part. It is kept in the run directory: a benchmark that was stopped goes on there.
    With the word balancing first, one model of all tasks is trained with each method of balancing, against single tasks
    (--methods, --replicates, --out, --seed, --memory).

    Example: [bold]coterie benchmark yeast --methods tag,task-vectors[/bold]

    Example: [bold]coterie benchmark balancing yeast --methods pooled,famo,marigold[/bold]
    """
    if list_only:
        _list(s)
        return
    from coterie.benchmark.command_balancing import WORD, run_balancing

    if workloads and workloads[0] == WORD:
        named = None if methods is None else _names(methods)
        with s.executor() as executor:
            run_balancing(s, workloads[1:], named, range(seed, seed + replicates), out, memory, executor)
        return
    from coterie.benchmark import Options

    options = Options(
        methods=None if methods is None else _names(methods),
        subsets=subsets,
        replicates=replicates,
        pool=pool,
        pairs=pairs,
        groups=None if groups is None else _counts(groups),
        resamples=resamples,
        seed=seed,
        memory=memory,
    )
    with s.executor() as executor:
        _run(s, workloads or [], options, out, figure, executor)


def _run(
    s: Session,
    workloads: list[str],
    options: Options,
    out: Path | None,
    figure: Path | None,
    executor: Executor | None,
) -> None:
    """Every data set, then one page for all."""
    from coterie.benchmark import benchmark, select, write_page
    from coterie.benchmark.figure import check_figure, write_figure
    from coterie.benchmark.run import find_data, prepare
    from coterie.benchmark.table import print_benchmark
    from coterie.errors import SettingError

    names = [f"benchmark-{run_directory(reference).name}" for reference in workloads]
    if not names or len(set(names)) < len(names):
        raise SettingError(
            f"Parameter `workloads` should name different workloads, at least one. Found {workloads}. For example: "
            "coterie benchmark yeast water. `coterie benchmark --list` shows what can be measured."
        )
    select(options.methods)
    if figure is not None:
        check_figure(figure)
    data_sets = [prepare(find_data(reference), options) for reference in workloads]  # all, before the first takes hours
    several = len(data_sets) > 1
    parent = out or RUNS if several else (out or RUNS / names[0])
    page = parent / "benchmark.html"
    results: list[dict[str, Any]] = []
    for where, name in zip(data_sets, names, strict=True):
        path = parent / name if several else parent
        found = benchmark(where, options, out=path, overwrite=s.overwrite, progress=s.progress, executor=executor)
        results.append(found)
        write_page(results, page)  # a later data set that is stopped leaves the page of those before it
    s.progress.stop()
    for result in () if s.as_json else results:
        print_benchmark(result, s.console)
    if figure is not None:
        write_figure(results, figure)
    if s.as_json:
        drawn = None if figure is None else str(figure)
        s.emit({"benchmarks": results, "page": str(page), "figure": drawn})
    s.say(f"page: {page}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _counts(text: str) -> tuple[int, ...]:
    """Numbers of groups; none for "0".

    Raises:
        SettingError: something else than whole numbers.
    """
    from coterie.errors import SettingError

    try:
        found = tuple(dict.fromkeys(int(part) for part in _names(text)))
    except ValueError:
        found = ()
    if not found or min(found) < 0:
        raise SettingError(
            f"Parameter `groups` should be whole numbers with commas, such as 3,5, or 0 for none. Found {text!r}."
        )
    return tuple(k for k in found if k)


def _list(s: Session) -> None:
    from coterie.benchmark import ENTRIES

    rows = [entry.to_dict() for entry in ENTRIES]
    if s.as_json:
        s.emit({"entries": rows})
        return
    from coterie.cli.tables import print_table

    cells = [
        (
            row["name"],
            row["method"],
            ", ".join(f"{name}={value}" for name, value in row["options"].items()),
            "" if row["budget"] is None else f"{row['budget']:.0%}",
        )
        for row in rows
    ]
    print_table(s.console, ("entry", "method", "settings", "budget"), cells, right=3)
