"""``coterie study create``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from coterie.cli.options import Debug, Json, Quiet
from coterie.cli.session import session
from coterie.study.shell import Name, Storage, hush
from coterie.study.typed import read_names, read_shares


def create(
    name: Name,
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="A,B,C", help="Names of the tasks that can be trained on.")
    ] = None,
    models: Annotated[
        int | None,
        typer.Option(
            "--models", min=1, help="Largest number of models that may be served.", show_default="3, or 1 mixture"
        ),
    ] = None,
    storage: Storage = None,
    targets: Annotated[
        str | None,
        typer.Option("--targets", metavar="A,B,C", help="Names of the tasks that are measured; the same by default."),
    ] = None,
    maximize: Annotated[
        str,
        typer.Option(
            "--maximize", metavar="all|A,B", help="Tasks whose numbers are better when larger, such as accuracies."
        ),
    ] = "",
    metric: Annotated[
        str, typer.Option("--metric", metavar="M", help="Which metric decides, where runs report several.")
    ] = "",
    cost_unit: Annotated[str, typer.Option("--cost-unit", help="What costs of runs are counted in.")] = "runs",
    reask_after: Annotated[
        float | None,
        typer.Option(
            "--reask-after",
            metavar="SECONDS",
            help="Time after which a run that was not told is asked for again.",
            show_default="a day",
        ),
    ] = None,
    zero_shot: Annotated[
        bool, typer.Option("--zero-shot", help="Runs may report losses of tasks that they did not train on.")
    ] = False,
    most: Annotated[
        int | None, typer.Option("--max-size", min=1, metavar="N", help="Most tasks that may be trained together.")
    ] = None,
    least: Annotated[
        int | None, typer.Option("--min-size", min=1, metavar="N", help="Fewest tasks that may be trained together.")
    ] = None,
    together: Annotated[
        list[str] | None,
        typer.Option(
            "--together", metavar="A,B", help="Tasks that are all in a subset or none of them; may be repeated."
        ),
    ] = None,
    apart: Annotated[
        list[str] | None,
        typer.Option("--apart", metavar="A,B", help="Tasks of which a subset has one at most; may be repeated."),
    ] = None,
    matters: Annotated[
        float | None, typer.Option("--matters", metavar="SHARE", help="Smallest gain that is worth more models.")
    ] = None,
    kind: Annotated[
        str, typer.Option("--kind", metavar="subsets|mixture", help="What is chosen: tasks, or proportions of sources.")
    ] = "subsets",
    sources: Annotated[
        str | None, typer.Option("--sources", metavar="A,B,C", help="Mixture: names of the data sets.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="T=W,...", help="Mixture: weights of targets, 1 by default.")
    ] = None,
    least_share: Annotated[
        str | None, typer.Option("--least", metavar="A=.1,...", help="Mixture: smallest shares of sources.")
    ] = None,
    most_share: Annotated[
        str | None, typer.Option("--most", metavar="A=.5,...", help="Mixture: largest shares of sources.")
    ] = None,
    available: Annotated[
        str | None,
        typer.Option("--available", metavar="A=1e9,...", help="Mixture: tokens or rows that there are of each source."),
    ] = None,
    run_length: Annotated[
        float | None, typer.Option("--run", metavar="N", help="Mixture: tokens or rows that a run takes.")
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option("--epochs", metavar="E", help="Mixture: how often a run may go over a source.", show_default="4"),
    ] = None,
    natural: Annotated[
        str | None, typer.Option("--natural", metavar="A=.7,...", help="Mixture: the natural proportions.")
    ] = None,
    size: Annotated[str, typer.Option("--size", help="Mixture: the model that is asked about, in your words.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the choice of runs.")] = 0,
    load: Annotated[bool, typer.Option("--load", help="Say nothing where the same study is there already.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a study.

    Example: [bold]coterie study create mine --tasks fever,cough,rash --models 2[/bold]

    Proportions of data sets: [bold]coterie study create mix --kind mixture --sources web,code --targets loss[/bold]

    On many machines: [bold]coterie study create mine --tasks a,b,c --storage postgresql://me@host/studies[/bold]
    """
    with session(as_json=as_json, quiet=quiet, debug=debug) as s:
        hush()
        from coterie.cli.options import given
        from coterie.study.making import create_study
        from coterie.study.mixtures.limits import MixtureLimits
        from coterie.study.subset_rules import SubsetRules

        mixed = kind == "mixture"
        listed = read_names((sources if mixed else tasks) or "", "--sources" if mixed else "--tasks")
        measured = read_names(targets, "--targets") if targets else listed
        larger = measured if maximize == "all" else read_names(maximize, "--maximize") if maximize else []
        ways = dict.fromkeys(measured, "minimize") | dict.fromkeys(larger, "maximize")
        alike = set(ways.values())
        pairs = {"--weights": weights, "--least": least_share, "--most": most_share, "--available": available}
        read = {option: read_shares(text, option) for option, text in pairs.items() if text}
        rules = SubsetRules(
            (least or 1, most or len(listed)) if least or most else None,
            *([read_names(text, "--together or --apart") for text in sets or ()] for sets in (together, apart)),
        )
        bounds: dict[str, Any] = {name: read.get(f"--{name}", {}) for name in ("least", "most", "available")}
        limits = MixtureLimits(**bounds, **given(run=run_length, epochs=epochs))
        about: dict[str, Any] = (
            {"sources": listed, "limits": limits, "weights": read.get("--weights"), "size": size}
            | {"natural": read_shares(natural, "--natural") if natural else None}
            if mixed
            else {"tasks": listed, "rules": rules, "zero_shot": zero_shot}
        )
        study = create_study(
            name,
            kind=kind,
            targets=measured if targets else None,
            models=models,
            storage=storage,
            direction=alike.pop() if len(alike) == 1 else ways,
            metric=metric,
            cost_unit=cost_unit,
            seed=seed,
            load_if_exists=load,
            **about,
            **given(reask_after=reask_after, matters=matters),
        )
        if s.as_json:
            s.emit({"study": study.name, "storage": study.place.strip("'"), **study.settings.to_dict()})
        else:
            s.say(f"Study {name!r} with {len(listed)} {'sources' if mixed else 'tasks'}, kept in {study.place}.")
            s.say(f"Next: coterie study ask {name}" + (f" --storage {storage}" if storage else ""))
