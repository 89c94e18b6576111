"""Options that several verbs have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from coterie.cli.complete import AFFINITY, BALANCING, one_of, workloads

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)


def parse_size(text: str | int) -> int:
    """Bytes of a size such as ``2GiB``, ``500 MB`` or ``1000000``.

    Raises:
        ValueError: when it is none, or less than 1 MiB.

    Example:
        >>> parse_size("2GiB"), parse_size("500MB")
        (2147483648, 500000000)
    """
    match = _SIZE.fullmatch(str(text))
    size = int(float(match[1]) * _UNITS[(match[2] or "").lower()]) if match else 0
    if size < 2**20:
        raise ValueError(f"{text!r} is no size of at least 1 MiB; write for example 2GiB or 500MB")
    return size


Workload = Annotated[
    str,
    typer.Argument(
        metavar="WORKLOAD",
        help="A built-in workload (digits, yeast, water, chemicals, mhc, umls, texts) or [bold]file.py:name[/bold], a "
        "Workload of yours.",
        show_default=False,
        autocompletion=workloads,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no warnings.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the warnings of other packages.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another run in the same directory.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything that is random.")]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Trainings of each candidate, for the intervals.")]
Runs = Annotated[
    int | None,
    typer.Option(
        "--runs",
        min=1,
        help="Largest number of real trainings (of one group with one seed each) of the comparison; candidates then "
        "leave by successive halving.",
    ),
]
Groups = Annotated[int | None, typer.Option("--groups", "-k", min=1, help="Number of groups; chosen when left out.")]
Budget = Annotated[
    int | None,
    typer.Option(
        "--budget", min=1, help="Largest number of models that may be served; the best guess within it is taken."
    ),
]
Worthwhile = Annotated[
    float,
    typer.Option(
        "--worthwhile",
        min=0,
        metavar="SHARE",
        help="Smallest gain over one model for all tasks that is worth more models, as a share; "
        '"do not bother" is said only where it is excluded.',
    ),
]
SearchLimit = Annotated[
    float | None,
    typer.Option(
        "--search-limit",
        metavar="SECONDS",
        help="Time that the search for groups may take; the best groups so far then count.",
        show_default="none",
    ),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help="Judge predictions by this beside the loss: auroc, r2, ...; repeat it for several."),
]
DecideBy = Annotated[
    str | None, typer.Option("--decide-by", help="Let this metric decide in place of the loss: auroc, r2, ...")
]
Balancing = Annotated[
    str | None,
    typer.Option(
        "--balancing",
        metavar="NAME",
        autocompletion=one_of(BALANCING),
        help="How tasks are balanced while a group is trained: equal, uncertainty, dwa, rlw, famo, marigold, mgda, "
        "pcgrad, cagrad, upgrad, ...; by default the loss is pooled over labels.",
    ),
]
Bases = Annotated[
    int | None, typer.Option("--bases", min=1, help="Base models to average over; the method chooses when left out.")
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        "-m",
        autocompletion=one_of(AFFINITY),
        help="How affinities are estimated: fused, secants, task-vectors, grad-tag, tag, ...",
    ),
]
Memory = Annotated[
    int, typer.Option("--memory", parser=parse_size, metavar="SIZE", help="Working memory, such as 2GiB or 500MB.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="Processes of this machine that train, one thread each; the results do not depend on their number.",
    ),
]
Dask = Annotated[
    str | None, typer.Option("--dask", metavar="ADDRESS", help="Train on the Dask cluster of this scheduler.")
]
OutFile = Annotated[Path | None, typer.Option("--out", "-o", help="Write the result to this file.", dir_okay=False)]
GIBIBYTE = "1GiB"


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave; the others are left to the defaults of the library.

    Example:
        >>> given(bases=None, size=3)
        {'size': 3}
    """
    return {name: value for name, value in options.items() if value is not None}


def run_directory(reference: str) -> Path:
    """Where the run of a workload goes when the user names no directory: ``runs/<name>``.

    Example:
        >>> run_directory("yeast").as_posix(), run_directory("data/own.py:make").as_posix()
        ('runs/yeast', 'runs/own-make')
    """
    name = re.sub(r"(?<=\.py):", "-", reference.replace("\\", "/").rsplit("/", 1)[-1]).replace(".py", "")
    return Path("runs") / (re.sub(r"[^\w.-]+", "-", name).strip(".-") or "run")
