"""``coterie diffusion``: which time steps of a denoiser should be trained together, and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from coterie.cli.session import Session, in_session


@in_session("overwrite")
def diffusion(
    s: Session,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE.toml", help="What to do; --example prints a file to start from."),
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Print a configuration with all defaults and explanations, and stop.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run directory.", show_default="runs/FILE", file_okay=False)
    ] = None,
) -> None:
    r"""Cut the time steps of a small diffusion model into intervals and train them as tasks (ANT).

    Measures the affinity of time steps, finds the intervals, trains on them with methods of balancing, and compares
    losses and samples with vanilla training. A study that was stopped goes on where it was. Needs coterie\[diffusion].

    Example: [bold]coterie diffusion --example > study.toml; coterie diffusion --config study.toml[/bold]
    """
    if example:
        _print_example(s)
        return
    if config is None:
        raise typer.BadParameter(
            "Give a configuration: coterie diffusion --config study.toml. The command `coterie diffusion --example "
            "> study.toml` writes one to start from.",
            param_hint="--config",
        )
    from coterie.diffusion.config import DiffusionConfig
    from coterie.diffusion.study import run_study

    path = out or Path("runs") / (config.stem or "diffusion")
    study = run_study(DiffusionConfig.read(config), path, overwrite=s.overwrite, progress=s.progress)
    s.progress.stop()
    if s.as_json:
        s.emit({**study.facts, "run": str(path), "page": str(path / "report.html")})
        return
    print_study(s, study.facts)
    s.say(f"page: {path / 'report.html'}")


def write_page_again(run: Path, path: Path) -> None:
    """Write the page of a study's run directory (for ``coterie report``)."""
    from coterie.diffusion.page import write_page
    from coterie.diffusion.study import StepStudy

    write_page(StepStudy.load(run), path)


def _print_example(s: Session) -> None:
    from coterie.diffusion.config import DiffusionConfig

    text = DiffusionConfig.example()
    if s.as_json:
        s.emit({"example": text})
    else:
        s.out.write(text)


def print_study(s: Session, facts: Mapping[str, Any]) -> None:
    """The findings, and a column a method."""
    from coterie.cli.tables import print_table
    from coterie.diffusion.page import findings

    for sentence in findings(facts):
        s.say(sentence)
    methods = facts["methods"]
    rows: list[tuple[str, ...]] = []
    for i, (first, last) in enumerate(facts["intervals"]["spans"]):
        cells = (_cell(row["loss"][i], row["change"] and row["change"][i]) for row in methods)
        rows.append((f"loss, steps {first} to {last}", *cells))
    for words, key in (("loss, all steps", "overall"), ("Frechet distance", "frechet")):
        rows.append((words, *(_cell(row[key], row[f"{key}_change"]) for row in methods)))
    rows.append(("time of a step", *(f"{1000 * row['seconds_per_step']:.1f} ms" for row in methods)))
    print_table(s.console, ("", *(row["name"] for row in methods)), rows, right=1)
    s.say("Validation losses and distances: lower is better. In brackets, the change against vanilla.")


def _cell(value: Mapping[str, Any], change: Mapping[str, Any] | None) -> str:
    text = "-" if value["mean"] is None else f"{value['mean']:.3g}"
    return text if change is None or change["mean"] is None else f"{text} ({100 * change['mean']:+.1f} %)"
