"""What commands of ``coterie study`` share: options, and a study that is opened for them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from coterie.cli.session import Session, session

if TYPE_CHECKING:
    from coterie.study.study import Study

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the study.", show_default=False)]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        "-s",
        metavar="S",
        envvar="COTERIE_STORAGE",
        help="Where the study is kept: a path that ends with .journal, .jsonl, .log (a journal file), .db or .sqlite "
        "(SQLite), or the address of a database.",
        show_default="runs/NAME/study.journal",
    ),
]
Variant = Annotated[str, typer.Option("--variant", help="The way in which the subsets would be trained.")]
Predictor = Annotated[
    str | None,
    typer.Option("--predictor", metavar="P", help="Which predictor of losses; the default is the best known."),
]


@contextmanager
def opened(name: str, storage: str | None, **streams: bool) -> Generator[tuple[Session, Study]]:
    """A study that is there, and the streams of a command."""
    with session(**streams) as s:
        hush()
        from coterie.study.making import load_study

        yield s, load_study(name, storage=storage)


def is_mixture(study: Study) -> bool:
    """Whether a study is one of mixtures."""
    from coterie.study.mixtures.settings import MixtureSettings  # brings NumPy along, which help does without

    return isinstance(study.settings, MixtureSettings)


def hush() -> None:
    """Leave the messages of Optuna out: stdout and stderr have our own."""
    from coterie.errors import require

    require("optuna", extra="study", purpose="coterie study").logging.set_verbosity(30)  # warnings
