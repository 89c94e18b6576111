"""A page on which a mixture is steered by hand: a slider a source, and what each target is expected to be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist

from coterie.study.mixtures.limits import drawn
from coterie.study.mixtures.results import MixturePosterior
from coterie.study.results import Floats

if TYPE_CHECKING:
    from coterie.study.mixtures.study import MixtureStudy

#: mixtures at which the predictor is asked for the page, beside the runs; half a second of a process with 100 targets
ANCHORS = 400
#: mixtures on which the page's formula is checked against the predictor
CHECKED = 100
#: lengths that are tried, in units of the median distance between anchors, and the ridge of the interpolation: trees
#: make steps, which no smooth formula should follow to the last digit
_LENGTHS, _RIDGE = (0.5, 1.0, 2.0, 4.0), 1e-3
#: significant digits of numbers on the page
_DIGITS = 6


@dataclass(frozen=True, eq=False)
class SteeringFormula:
    """What a predictor says, as a short formula that a page can evaluate for any mixture.

    A value is ``base + k(x) @ weights`` with ``k(x)[i] = exp(-|sqrt(x) - points[i]|^2 / (2 length^2))``; so is the
    logarithm of its standard error.

    Attributes:
        points: (anchors, sources) square roots of shares.
        length: of the kernel.
        base: (2 targets,) means of values and of logarithms of standard errors.
        weights: (anchors, 2 targets).
        off: (targets,) root mean square difference from the predictor at other mixtures, in standard errors.
    """

    points: Floats
    length: float
    base: Floats
    weights: Floats
    off: Floats

    def predict(self, shares: Floats) -> tuple[Floats, Floats]:
        """Values of mixtures and their standard errors, each (mixtures, targets)."""
        found = self.base + _kernel(np.sqrt(shares), self.points, self.length) @ self.weights
        targets = found.shape[1] // 2
        return found[:, :targets], np.exp(found[:, targets:])

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form with few digits."""
        return {
            "points": _short(self.points),
            "length": float(f"{self.length:.{_DIGITS}g}"),
            "base": _short(self.base),
            "weights": _short(self.weights),
            "off": _short(self.off),
        }


def steering_formula(posterior: MixturePosterior, anchors: Floats, checks: Floats) -> SteeringFormula:
    """Fit the formula to what a predictor says.

    Args:
        posterior: of the predictor.
        anchors: (anchors, sources) mixtures to learn from.
        checks: (checks, sources) mixtures to choose the length by and to say how far off the formula is.
    """
    points, there = np.sqrt(anchors), np.sqrt(checks)
    told, expected = (_both(posterior, rows) for rows in (anchors, checks))
    base = told.mean(0)
    usual = float(np.median(cdist(points, points)))
    targets = told.shape[1] // 2
    tried: list[tuple[float, SteeringFormula]] = []
    for factor in _LENGTHS:
        length = factor * usual
        system = _kernel(points, points, length)
        system[np.diag_indices_from(system)] += _RIDGE
        weights: Floats = cho_solve(cho_factor(system), told - base)
        missed = base + _kernel(there, points, length) @ weights - expected
        # values in standard errors, and standard errors as a share
        missed[:, :targets] /= np.exp(expected[:, targets:])
        size = np.sqrt((missed**2).mean(0))
        tried.append((float(size.mean()), SteeringFormula(points, length, base, weights, size[:targets])))
    return min(tried, key=lambda pair: pair[0])[1]


def _both(posterior: MixturePosterior, shares: Floats) -> Floats:
    mean, error = posterior.predict(shares)
    return np.concatenate([mean, np.log(np.maximum(error, 1e-12))], 1)


def _kernel(a: Floats, b: Floats, length: float) -> Floats:
    return np.exp(-cdist(a, b, "sqeuclidean") / (2 * length**2))


def _short(values: Floats) -> Any:
    return np.array([float(f"{value:.{_DIGITS}g}") for value in values.ravel()]).reshape(values.shape).tolist()


def write_mixture_page(study: MixtureStudy, path: str | Path) -> Path:
    """Write the page of a study of mixtures: what to train on, and sliders.

    The page is one file that loads nothing. In place of the predictor it evaluates a formula
    (:class:`SteeringFormula`), and says for every target how far off that is.

    Raises:
        WorkloadError: without any run that was told, or with a target that no run measured.
        StoreError: when it cannot be written.
    """
    from coterie.report.html import write_own_page
    from coterie.study.mixtures.predictors import find_mixture_predictor

    found, results, aim = study.recommend(), study.results(), study.aim()
    posterior = find_mixture_predictor(None).fit(results)
    rng = np.random.default_rng(0)
    natural, (low, high) = study.about.natural_shares, study.about.bounds
    random = drawn(natural, low, high, ANCHORS + CHECKED, rng)
    near = [one.mixture for one in found.candidates]
    known = np.array([[one.get(name, 0.0) for name in study.sources] for one in near])
    anchors = np.concatenate([known, random[CHECKED:]])
    formula = steering_formula(posterior, anchors, random[:CHECKED])
    data = {
        "sources": list(study.sources),
        "targets": list(study.targets),
        "low": _short(low),
        "high": _short(high),
        "signs": [float(sign) for sign in study.settings.signs],
        "weights": _short(aim.scaled(results)),
        "steerable": [one.steerable for one in found.targets],
        "candidates": [
            {"name": one.name, "mixture": _short(row)} for one, row in zip(found.candidates, known, strict=True)
        ],
        "formula": formula.to_dict(),
    }
    script = files("coterie.study.mixtures").joinpath("steer.js").read_text(encoding="utf-8")
    return write_own_page(
        path, "steer.html", "coterie.study.mixtures",
        name=study.name,
        headline=found.text,
        subtitle=f"{study.name} · {len(low)} sources · {len(study.targets)} targets · {len(results.losses)} runs",
        found=found,
        sources=list(zip(study.sources, low, high, strict=True)),
        targets=study.targets,
        better=["higher" if sign < 0 else "lower" for sign in study.settings.signs],
        off=[f"{value:.2f}" for value in formula.off],
        candidates=[one.name for one in found.candidates],
        data=json.dumps(data).replace("<", "\\u003c"),
        script=script,
    )  # fmt: skip
