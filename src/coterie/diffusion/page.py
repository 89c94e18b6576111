"""One self-contained HTML page for a study of time steps, in the look of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import coterie
from coterie._files import user_path
from coterie.diffusion.figures import tiled
from coterie.diffusion.plane import Plane
from coterie.report import heatmap as palette
from coterie.report.formats import known, number, percent, plural
from coterie.report.heatmap import data_uri, png
from coterie.report.html import page_bytes, page_template
from coterie.store.files import atomic_write, make_directory

if TYPE_CHECKING:
    from coterie.diffusion.study import StepStudy

Json = Mapping[str, Any]
#: pixels a side of the picture of the map, and steps of its colours on each side of 0
_PIXELS, _STEPS = 250, 60
#: most points of a plot
_POINTS = 800


def render(study: StepStudy) -> str:
    """The page of a study as text."""
    facts = study.facts
    rows = facts["methods"]
    return page_template("page.html", "coterie.diffusion").render(
        facts=facts,
        version=coterie.__version__,
        palette={mode: palette.css(mode) for mode in ("light", "dark")},
        palette_classes=palette.css_classes(),
        findings=findings(facts),
        figures=_figures(facts),
        map=_map(study),
        planes=_planes(facts["affinity"]),
        spans=_spans(facts["intervals"]),
        rows=[_row(row) for row in rows],
        columns=[f"{first}–{last}" for first, last in facts["intervals"]["spans"]],
        grids=[(_title(name), data_uri(grid(images))) for name, images in study.samples.items()],
        settings=[
            (f"{part}.{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value))
            for part, keys in facts["config"].items()
            for key, value in keys.items()
            if value is not None
        ],
        number=number,
        plural=plural,
    )


def write_page(study: StepStudy, path: str | Path) -> Path:
    """Write the page, whole or not at all. It loads nothing from anywhere.

    Raises:
        StoreError: the file cannot be written.
    """
    page, path = render(study), user_path(path)
    make_directory(path.parent)
    atomic_write(path, page_bytes(page))
    return path


def findings(facts: Json) -> list[str]:
    """What was found, in sentences that claim no more than the intervals allow: affinity, then one a method."""
    falling = facts["affinity"]["falling"]
    # with one seed there is no upper end, and the mean has to do
    highest = falling["high"] if known(falling["high"]) else falling["mean"]
    verb = "falls" if known(highest) and highest < 0 else "does not clearly fall"
    sentences = [
        f"The affinity of two time steps {verb} as the gap between them grows: Spearman correlation {_plain(falling)}."
    ]
    sentences += [
        f"{row['name']}, against vanilla training: validation loss over all time steps {_told(row['overall_change'])}; "
        f"Frechet distance {_told(row['frechet_change'])}."
        for row in facts["methods"]
        if row["change"] is not None
    ]
    if len(facts["seeds"]) == 1:
        sentences.append("With one seed there are no intervals: differences may be chance.")
    return sentences


def _told(found: Json) -> str:
    """A change, and whether it is more than noise."""
    verdict = ""
    if known(found["low"]):
        verdict = {"up": ", better", "down": ", worse", "": ", within the noise"}[_mood(found)]
    return _signed(found) + verdict


def _signed(found: Json) -> str:
    ends = f" ({percent(found['low'], signed=True, unit=False)} to {percent(found['high'], signed=True, unit=False)})"
    return percent(found["mean"], signed=True) + (ends if known(found["low"]) else "")


def _plain(found: Json) -> str:
    ends = f" ({number(found['low'])} to {number(found['high'])})" if known(found["low"]) else ""
    return number(found["mean"]) + ends


def _mood(found: Json | None) -> str:
    """Colour of a change: up is better (a smaller loss), none within the noise."""
    if found is None or not known(found["low"]):
        return ""
    return "up" if found["high"] < 0 else "down" if found["low"] > 0 else ""


def _figures(facts: Json) -> list[dict[str, str]]:
    """The four numbers at the top."""
    rows = [row for row in facts["methods"] if row["overall_change"] is not None]
    vanilla = facts["methods"][0]
    loss = min(rows, key=lambda row: row["overall_change"]["mean"])
    frechet = min(rows, key=lambda row: row["frechet_change"]["mean"])
    falling = facts["affinity"]["falling"]
    best = f" (best of {len(rows)})" if len(rows) > 1 else ""
    return [
        _figure("affinity against the gap", number(falling["mean"]), "Spearman correlation; below 0: affinity falls",
                ""),
        _figure(f"loss, {loss['name']}{best}", percent(loss["overall_change"]["mean"], signed=True),
                "lowest change of the loss over all steps, against vanilla", _mood(loss["overall_change"])),
        _figure(f"Frechet distance, {frechet['name']}{best}", percent(frechet["frechet_change"]["mean"], signed=True),
                "lowest change of the distance, against vanilla", _mood(frechet["frechet_change"])),
        _figure("Frechet distance of training images", number(facts["frechet"]["real"]),
                f"for orientation; vanilla training has {number(vanilla['frechet']['mean'])}", ""),
    ]  # fmt: skip


def _figure(label: str, value: str, detail: str, mood: str) -> dict[str, str]:
    return {"label": label, "value": value, "detail": detail, "mood": mood}


def _map(study: StepStudy) -> dict[str, Any]:
    """Pictures of the map in light and dark, ticks, and the intervals along it; lengths are shares of a side."""
    full = study.affinity.full()
    total = len(full)
    index = np.linspace(0, total - 1, min(total, _PIXELS)).round().astype(int)
    shown = full[np.ix_(index, index)]
    outside = np.abs(shown[~np.eye(len(shown), dtype=bool)])
    limit = float(np.quantile(outside[np.isfinite(outside)], 0.98)) or 1.0
    steps = palette.levels(shown, 0.0, limit, _STEPS) + _STEPS
    pictures = {
        mode: data_uri(png(steps, [palette.colour(mode, s / _STEPS) for s in range(-_STEPS, _STEPS + 1)]))
        for mode in ("light", "dark")
    }
    axis = Plane.over([0, total], [0, 1])
    return {
        "pictures": pictures,
        "total": total,
        "limit": number(limit, 2),
        "ticks": axis.ticks_x,
        "blocks": [
            {"number": i, "start": first / total, "length": (last + 1 - first) / total, "span": f"{first} to {last}"}
            for i, (first, last) in enumerate(study.facts["intervals"]["spans"], 1)
        ],
    }


def _planes(found: Json) -> list[dict[str, Any]]:
    """Affinity against the gap in time (a line) and in log SNR (points)."""
    every = [*found["curve"], *(value for curve in found["curves"] for value in curve)]
    time = Plane.over([0, *found["gaps"]], [0, *every])
    gaps, values = (np.asarray(part, dtype=float) for part in found["snr_gaps"])
    kept = np.linspace(0, len(gaps) - 1, min(len(gaps), _POINTS)).round().astype(int) if len(gaps) else []
    points = list(zip(gaps[kept].tolist(), values[kept].tolist(), strict=True))
    snr = Plane.over([0, *gaps.tolist()], [0, *values.tolist()])
    several = len(found["curves"]) > 1
    lines = [list(zip(found["gaps"], curve, strict=True)) for curve in found["curves"]] if several else []
    return [
        {"name": "gap in time steps", "plane": time, "line": list(zip(found["gaps"], found["curve"], strict=True)),
         "thin": lines, "points": []},
        {"name": "gap in log SNR", "plane": snr, "line": [], "thin": [], "points": points},
    ]  # fmt: skip


def _spans(found: Json) -> list[dict[str, str]]:
    return [
        {
            "number": str(i),
            "steps": f"{first} to {last}",
            "length": f"{last - first + 1:,}",
            "log_snr": f"{_decimal(high)} to {_decimal(low)}",
        }
        for i, ((first, last), (high, low)) in enumerate(zip(found["spans"], found["log_snr"], strict=True), 1)
    ]


def _decimal(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")


def _row(row: Json) -> dict[str, Any]:
    changes = row["change"] or [None] * len(row["loss"])
    return {
        "name": row["name"],
        "losses": [_cell(loss, change) for loss, change in zip(row["loss"], changes, strict=True)],
        "overall": _cell(row["overall"], row["overall_change"]),
        "frechet": _cell(row["frechet"], row["frechet_change"]),
        "time": f"{1000 * row['seconds_per_step']:.1f} ms",
    }


def _cell(value: Json, change: Json | None) -> dict[str, str]:
    ends = ""
    if change is not None and known(change["low"]):
        ends = (
            f"{percent(change['low'], signed=True, unit=False)} to {percent(change['high'], signed=True, unit=False)}"
        )
    return {
        "text": number(value["mean"]),
        "change": "" if change is None else percent(change["mean"], signed=True),
        "ends": ends,
        "mood": _mood(change),
    }


def _title(name: str) -> str:
    return "real images" if name == "data" else name


def grid(images: NDArray[np.uint8]) -> bytes:
    """A PNG of up to 8 x 8 grey images (n, H, W), see through between them."""
    canvas = tiled(np.minimum(images, 254))  # 255 is the gap
    return png(canvas, [*((v, v, v) for v in range(255)), (0, 0, 0)], transparent=255)
