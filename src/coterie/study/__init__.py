"""Studies: which runs to do, what they brought, and which groups follow; with any training code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coterie._lazy import load_on_first_use

if TYPE_CHECKING:
    from coterie.study.results import Posterior, Results, ValuePredictor
    from coterie.study.runs import StudyRun
    from coterie.study.settings import StudySettings

_HOMES = {
    "Posterior": "coterie.study.results",
    "Results": "coterie.study.results",
    "StudyRun": "coterie.study.runs",
    "StudySettings": "coterie.study.settings",
    "ValuePredictor": "coterie.study.results",
}

__all__ = [
    "Posterior",
    "Results",
    "StudyRun",
    "StudySettings",
    "ValuePredictor",
]

__getattr__ = load_on_first_use(__name__, _HOMES)
