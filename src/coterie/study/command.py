"""``coterie study``: a study from any language: make it, ask, tell, look, and have the groups recommended."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from coterie.cli.options import Debug, Json, Quiet
from coterie.cli.session import Session
from coterie.cli.streams import Streamed
from coterie.errors import SettingError
from coterie.study.create_command import create
from coterie.study.export_command import export
from coterie.study.shell import Name, Predictor, Storage, Variant, is_mixture, opened
from coterie.study.typed import read_losses_file, read_names, read_pairs, read_shares

if TYPE_CHECKING:
    from coterie.study.mixtures.study import MixtureStudy
    from coterie.study.runs import StudyRun
    from coterie.study.study import Study

app = typer.Typer(
    cls=Streamed,
    name="study",
    help="Which tasks to train together, for any training code: ask for runs, tell their losses, get groups.",
    epilog="Example: [bold]coterie study create mine --tasks fever,cough,rash[/bold]",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(create)


@app.command()
def ask(name: Name, storage: Storage = None, as_json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Ask for the next run: tasks to train together, and a seed. No other worker gets the same.

    Example: [bold]coterie study ask mine --json[/bold]
    """
    with opened(name, storage, as_json=as_json, quiet=quiet, debug=debug) as (s, study):
        run = study.ask()
        facts: dict[str, Any] = {"study": name, "number": run.number, "tasks": list(run.tasks), "seed": run.seed}
        facts |= {} if run.shares is None else {"mixture": dict(run.shares)}
        facts |= {"variant": run.variant, "enough": run.enough, "why": run.why}
        if s.as_json:
            s.emit(facts)
        else:
            s.say(f"Run {run.number}: train {_content(run)} with seed {run.seed}. {run.why}")


def _content(run: StudyRun) -> str:
    """What a run trains on, for people."""
    if run.shares is None:
        return ", ".join(run.tasks)
    from coterie.study.mixtures.study import shown_shares

    return shown_shares(run)


@app.command()
def tell(
    name: Name,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Number of the run.", min=0)],
    losses: Annotated[
        list[str] | None,
        typer.Argument(metavar="TASK=LOSS...", help="Losses, such as a=0.31, a=0.31+-0.02 or a=trained."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            metavar="F",
            help="JSON or CSV with the losses, as commands write it; or "
            "results of lm-evaluation-harness in a study of mixtures.",
        ),
    ] = None,
    failed: Annotated[str | None, typer.Option("--failed", metavar="WHY", help="The run brought no losses.")] = None,
    test: Annotated[
        list[str] | None, typer.Option("--test", metavar="TASK=LOSS", help="Losses on test data, one option a task.")
    ] = None,
    cost: Annotated[float | None, typer.Option("--cost", help="What the run took, in the unit of the study.")] = None,
    storage: Storage = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Tell what a run brought: the loss of each of its tasks.

    Example: [bold]coterie study tell mine 7 fever=0.31 rash=0.42[/bold]

    Or why it failed: [bold]coterie study tell mine 8 --failed "out of memory"[/bold]
    """
    with opened(name, storage, as_json=as_json, quiet=quiet, debug=debug) as (s, study):
        if sum((bool(losses), file is not None, failed is not None)) != 1:
            raise SettingError("Give the losses as TASK=LOSS, or as --file, or say why there are none with --failed.")
        report: Any = read_pairs(losses or [], "TASK=LOSS") or None
        if file is not None:
            report = _told(study, file)
        run = study.tell(number, report, failed=failed, cost=cost, test=read_pairs(test, "--test") if test else None)
        _show_run(s, study, run)


def _told(study: Study, file: Path) -> Any:
    """What a file says of a run."""
    if is_mixture(study):
        from coterie.study.mixtures.shell import is_harness

        if is_harness(file):
            return str(file)
    return read_losses_file(file)


def _show_run(s: Session, study: Study, run: StudyRun) -> None:
    if s.as_json:
        s.emit({"study": study.name, **run.to_dict()})
    else:
        shown = ", ".join(f"{task} {value:.6g}" for task, (value, _) in (run.losses or {}).items())
        s.say(f"Run {run.number} on {_content(run)}: {run.state}. {run.reason or shown}")


@app.command()
def add(
    name: Name,
    losses: Annotated[
        list[str], typer.Argument(metavar="TASK=LOSS...", help="Losses, such as a=0.31, a=0.31+-0.02 or a=trained.")
    ],
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", metavar="A,B", help="Tasks of the run; those with losses by default."),
    ] = None,
    mixture: Annotated[
        str | None, typer.Option("--mixture", metavar="A=.7,B=.3", help="Shares of the run, in a study of mixtures.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of the training, where it is known.")] = None,
    cost: Annotated[float | None, typer.Option("--cost", help="What the run took, in the unit of the study.")] = None,
    variant: Variant = "",
    storage: Storage = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Add a run that was made before, or without being asked for.

    Example: [bold]coterie study add mine fever=0.33 cough=0.21 --seed 5[/bold]
    """
    with opened(name, storage, as_json=as_json, quiet=quiet, debug=debug) as (s, study):
        report = read_pairs(losses, "TASK=LOSS")
        trained: Any = read_names(tasks, "--tasks") if tasks else [task for task in report if task in study.tasks]
        if is_mixture(study):
            trained = read_shares(mixture or "", "--mixture")
        _show_run(s, study, study.add(trained, report, seed=seed, cost=cost, variant=variant))


@app.command("import")
def import_table(
    name: Name,
    table: Annotated[
        Path, typer.Argument(metavar="RUNS.csv", help="One row a run, one column a task, or a source of a mixture.")
    ],
    metrics: Annotated[
        Path | None, typer.Argument(metavar="METRICS.csv", help="Mixture: one row a run, one column a target.")
    ] = None,
    variant: Variant = "",
    storage: Storage = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Add the runs of a table: one row a run, one column a task with its loss.

    A cell is empty where the task was not in the run, and `trained` where it was trained and not measured. Columns
    seed, cost and variant may be there. Rows that are in the study already are left out.

    In a study of mixtures there are two tables, of ratios and of metrics.

    Example: [bold]coterie study import mine results.csv[/bold]
    """
    with opened(name, storage, as_json=as_json, quiet=quiet, debug=debug) as (s, study):
        if is_mixture(study):
            added = cast("MixtureStudy", study).add_table(table, metrics, variant=variant)
        else:
            added = study.add_table(table)
        if s.as_json:
            s.emit({"study": name, "added": [run.number for run in added]})
        else:
            s.say(f"{len(added)} runs were added to the study {name!r}.")


@app.command()
def show(
    name: Name, storage: Storage = None, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Show the runs of a study.

    Example: [bold]coterie study show mine[/bold]
    """
    with opened(name, storage, as_json=as_json, quiet=quiet, debug=debug) as (s, study):
        runs = study.runs
        if s.as_json:
            s.emit({"study": name, **study.settings.to_dict(), "runs": [run.to_dict() for run in runs]})
            return
        from coterie.cli.tables import print_table

        rows = [
            (
                run.number,
                run.state,
                "-" if run.seed is None else run.seed,
                " ".join(filter(None, [_content(run), run.variant])),
                run.reason or ", ".join(f"{value:.4g}" for value, _ in (run.losses or {}).values()),
            )
            for run in runs
        ]
        print_table(s.console, ("run", "state", "seed", "tasks", "losses"), rows)
        s.say(repr(study))


@app.command("run")
def run_command(
    name: Name,
    command: Annotated[
        str,
        typer.Option(
            "--command", "-c", metavar="CMD", help="Trains one run; with the places {tasks}, {seed} and {out}."
        ),
    ],
    runs: Annotated[
        int | None,
        typer.Option(
            "--runs", min=1, help="So many runs the study shall have, of all workers.", show_default="until enough"
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, metavar="N", help="Commands that run at a time.")] = 1,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Time after which a command is ended.")
    ] = None,
    logs: Annotated[
        Path | None,
        typer.Option("--logs", help="Folder for what each run prints.", show_default="runs/NAME/logs", file_okay=False),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option("--dask", metavar="ADDRESS", help="Run commands on the Dask cluster of this scheduler."),
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Do the runs of a study with a command, which writes its losses into a file.

    The same command goes on where it was stopped, and several of them, on several machines, share the runs.

    Example: [bold]coterie study run mine --command "python train.py --tasks {tasks} --seed {seed} --out {out}"
    --runs 40 --workers 2[/bold]
    """
    with opened(name, storage, as_json=as_json, quiet=quiet, debug=debug) as (s, study):
        from coterie.study.optimize import optimize
        from coterie.study.storage import default_path
        from coterie.training.command import CommandTrainer

        place = logs or default_path(name).parent / "logs"
        trainer = CommandTrainer(command, study.tasks, timeout=timeout, logs=place)
        with _executor(workers, dask) as executor:
            done = optimize(study, trainer, runs, executor, lambda run: None if s.as_json else _show_run(s, study, run))
        if s.as_json:
            s.emit({"study": name, "runs": [run.to_dict() for run in done], "logs": str(place)})
        else:
            s.say(f"{len(done)} runs were done here. What they printed: {place}.")


@contextmanager
def _executor(workers: int, dask: str | None) -> Generator[Any]:
    """Threads that wait for commands, or the workers of a cluster."""
    if dask is not None:
        from coterie.cli.workers import where

        with where(None, dask) as executor:
            yield executor
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(workers) as executor:
        yield executor


@app.command()
def predict(
    name: Name,
    subsets: Annotated[
        Path, typer.Argument(metavar="SUBSETS.csv", help="One row a subset, one column a task; any mark is membership.")
    ],
    storage: Storage = None,
    predictor: Predictor = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Predict the loss of each task in subsets that need not have been trained, with standard errors.

    With --json: `tasks`, `values` and `errors`, one row a subset, null outside of it.

    Example: [bold]coterie study predict mine subsets.csv --json[/bold]
    """
    with opened(name, storage, as_json=as_json, quiet=quiet, debug=debug) as (s, study):
        from coterie.study.answers import predict_table

        if is_mixture(study):
            from coterie.study.mixtures.shell import predict_mixtures

            values, errors = predict_mixtures(cast("MixtureStudy", study), subsets, predictor)
        else:
            values, errors = predict_table(study, subsets, predictor)
        if s.as_json:
            s.emit({"study": name, "tasks": list(study.targets), "values": values, "errors": errors})
            return
        from coterie.cli.tables import print_table
        from coterie.study.mixtures.shell import shown_numbers

        print_table(s.console, study.targets, shown_numbers(values, errors))


@app.command()
def recommend(
    name: Name,
    models: Annotated[
        int | None, typer.Option("--models", min=1, help="Largest number of models; that of the study by default.")
    ] = None,
    costs: Annotated[
        float | None, typer.Option("--costs", metavar="C", help="Largest cost of the models, in the unit of the study.")
    ] = None,
    values: Annotated[
        str,
        typer.Option("--values", help="posterior: what the predictor knows; observed: as measured, mean over seeds."),
    ] = "posterior",
    predictor: Predictor = None,
    storage: Storage = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Which groups to train and serve, whether that is known to be better than one model, and what to run before.

    With --json, at least `groups`, `serves`, `objective`, `recommended` and `text`.

    Example: [bold]coterie study recommend mine --models 2[/bold]
    """
    with opened(name, storage, as_json=as_json, quiet=quiet, debug=debug) as (s, study):
        if is_mixture(study):
            from coterie.study.mixtures.shell import emit_recommendation

            mixed = cast("MixtureStudy", study)
            emit_recommendation(s, mixed, mixed.recommend(models=models, predictor=predictor))
            return
        found = study.recommend(models=models, costs=costs, values=values, predictor=predictor)
        if s.as_json:
            s.emit({"study": name, **found.to_dict(study.tasks)})
        else:
            from coterie.cli.tables import print_grouping

            s.say(found.text)
            print_grouping(s.console, found.to_dict(study.tasks))
            s.say(found.reason)


@app.command()
def report(
    name: Name,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page.", show_default="runs/NAME/study.html", dir_okay=False),
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a page about a study: what to serve and why, who helps whom, all runs; of mixtures, with sliders.

    Example: [bold]coterie study report mine --out mine.html[/bold]
    """
    with opened(name, storage, as_json=as_json, quiet=quiet, debug=debug) as (s, study):
        from coterie.study.storage import default_path

        page = study.report(out or default_path(name).with_name("study.html"))
        if s.as_json:
            s.emit({"study": name, "report": str(page)})
        else:
            s.say(f"report: {page}")


app.command()(export)
