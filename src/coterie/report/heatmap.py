"""The affinity heat map as an SVG: tasks ordered by groups, groups framed, rows are targets, columns are sources.

Up to `CELLS` tasks every entry is a rectangle with its value as a tooltip and every task has its label; above, the
matrix is one indexed picture (one pixel an entry) with a tooltip for each pair of groups, and labels for the groups
only.
"""

from __future__ import annotations

import base64
import math
import struct
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from coterie.report import heatmap as palette
from coterie.report.data import AffinityData, Floats, Groups
from coterie.report.formats import number, percent, plural, shorten

# Blue helps, orange harms: a pair that stays apart under the common colour blindnesses. The neutral middle is close to
# the page's own background in both modes, so that strong values stand out and "nothing" recedes.

Rgb = tuple[int, int, int]

#: steps on each side of the neutral middle, for cells drawn one by one
STEPS = 12
#: number of group colours before they repeat; groups are always numbered too
GROUP_COLOURS = 8

_ENDS: dict[str, dict[str, tuple[str, str, str]]] = {
    "light": {"p": ("f3f3f0", "7fb2d9", "0b4a86"), "n": ("f3f3f0", "f0a566", "9a3a04")},
    "dark": {"p": ("25282e", "2f6da6", "a6d5ff"), "n": ("25282e", "a5561b", "ffc18c")},
}
_GROUPS: dict[str, tuple[str, ...]] = {
    "light": ("33689c", "b5485f", "2c7d42", "8c6809", "73509a", "157a85", "8c4a2f", "5c6470"),
    "dark": ("7fb3e6", "f08fa2", "7fcf95", "e0bf5a", "bfa0e6", "66cbd6", "e0a283", "b3bcc9"),
}


def _rgb(code: str) -> Rgb:
    return int(code[0:2], 16), int(code[2:4], 16), int(code[4:6], 16)


def colour(mode: str, level: float) -> Rgb:
    """Colour of a level in [-1, 1] (0 is the neutral middle) in ``mode`` "light" or "dark"."""
    anchors = np.array([_rgb(code) for code in _ENDS[mode]["p" if level >= 0 else "n"]], dtype=np.float64)
    size = min(abs(level), 1.0) * 2.0
    base = min(int(size), 1)
    mixed = anchors[base] + (anchors[base + 1] - anchors[base]) * (size - base)
    red, green, blue = (round(float(v)) for v in mixed)
    return red, green, blue


def group_colour(mode: str, group: int) -> str:
    """Colour of a group as ``#rrggbb``; group -1 (no group) is grey."""
    return "#888888" if group < 0 else "#" + _GROUPS[mode][group % GROUP_COLOURS]


def levels(values: Floats, centre: float, limit: float, steps: int) -> np.ndarray:
    """Signed step of each value, in -steps..steps; NaN becomes 0 (callers mark missing values themselves)."""
    scaled = np.clip((np.nan_to_num(values, nan=centre) - centre) / limit, -1.0, 1.0)
    return np.rint(scaled * steps).astype(np.int64)


def level_class(step: int) -> str:
    """CSS class of a step: ``z``, ``p1`` ..., ``n1`` ..."""
    return "z" if step == 0 else f"{'p' if step > 0 else 'n'}{abs(step)}"


def css(mode: str) -> str:
    """The colours of a mode as CSS custom properties."""
    rules = [f"--{level_class(s)}:rgb{colour(mode, s / STEPS)}".replace(" ", "") for s in range(-STEPS, STEPS + 1)]
    rules += [f"--g{g}:{group_colour(mode, g)}" for g in range(GROUP_COLOURS)]
    return ";".join(rules)


def css_classes() -> str:
    """Rules that give the classes their colours."""
    rules = [f".{level_class(s)}{{fill:var(--{level_class(s)})}}" for s in range(-STEPS, STEPS + 1)]
    rules += [f".g{g}{{--own:var(--g{g})}}" for g in range(GROUP_COLOURS)]
    return "".join(rules)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(indices: np.ndarray, colours: Sequence[Rgb], transparent: int | None = None) -> bytes:
    """Encode an indexed picture.

    Args:
        indices: (height, width), numbers of ``colours``.
        colours: at most 256 colours.
        transparent: the index that is not painted, if any.
    """
    height, width = indices.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    lines = np.zeros((height, width + 1), dtype=np.uint8)  # a leading 0 a line: no filter
    lines[:, 1:] = indices
    alpha = bytes(0 if i == transparent else 255 for i in range(len(colours)))
    chunks = (
        _chunk(b"IHDR", header),
        _chunk(b"PLTE", bytes(v for rgb in colours for v in rgb)),
        _chunk(b"tRNS", alpha),
        _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
        _chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def data_uri(picture: bytes) -> str:
    """A picture as a ``data:`` address, so that a page needs no second file."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


#: most tasks that are drawn entry by entry
CELLS = 60
#: most tasks whose single values travel with the page for the pointer's read-out
READABLE = 600
#: most pixels a side of the picture of a large matrix; beyond, blocks of entries are averaged
PIXELS = 1200
_FONT = 11.0
_LABEL = 168.0
_BAND = 15.0
_TITLE = 20.0
_PIXEL_STEPS = 60


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one group: start (included) to stop (excluded); group -1: tasks without a group."""

    group: int
    start: int
    stop: int


@dataclass(frozen=True)
class HeatMap:
    """What the page needs of the heat map."""

    svg: Markup
    low: str
    high: str
    middle: str
    missing: bool
    readout: dict[str, object] | None
    min_width: int
    large: bool


@dataclass(frozen=True)
class _Frame:
    cell: float
    size: int
    left: float
    top: float

    @property
    def side(self) -> float:
        return self.cell * self.size

    @property
    def width(self) -> float:
        return self.left + self.side + 2

    @property
    def height(self) -> float:
        return self.top + self.side + 2


def order(tasks: tuple[str, ...], groups: Groups | None) -> tuple[list[int], list[Block]]:
    """Order of the tasks by the group that serves them, and where each group lies."""
    serves: Mapping[str, int] = groups.serves if groups else {}
    total = len(groups.groups) if groups else 0
    members: list[list[int]] = [[] for _ in range(total + 1)]
    for index, task in enumerate(tasks):
        members[serves.get(task, total)].append(index)
    ordered: list[int] = []
    blocks: list[Block] = []
    for group, indices in enumerate(members):
        if indices:
            blocks.append(Block(group if group < total else -1, len(ordered), len(ordered) + len(indices)))
            ordered += indices
    return ordered, blocks


def text_width(text: str) -> float:
    """Width of a text in units of the font size, on the safe side; no font is at hand."""
    return sum(_glyph(c) for c in text)


def _glyph(char: str) -> float:
    if unicodedata.combining(char):
        return 0.0
    if unicodedata.east_asian_width(char) in "WF":
        return 1.35 if ord(char) >= 0x1F000 else 1.05
    if char in "MWmw@%—…":
        return 1.02
    if char in "iljtfr.,:;'|![]()/ ":
        return 0.42
    if ord(char) > 0x24F:
        return 0.85
    return 0.74 if char.isupper() else 0.64


def fit(text: str, width: float) -> str:
    """Shorten a text in the middle until it is at most ``width`` font sizes wide."""
    limit = len(text)
    while limit > 1 and text_width(text) > width:
        limit = min(limit - 1, int(limit * width / text_width(text)) + 1)
        text = shorten(text, limit)
    return text


def scale(values: Floats, kind: str) -> tuple[float, float]:
    """Centre and half range of the colours. Entries on the diagonal do not count; single extreme ones saturate.

    The centre is 0 (neither help nor harm), unless raw values lie on one side of it: then it is their median.
    """
    outside = values[~np.eye(len(values), dtype=bool)]
    outside = outside[np.isfinite(outside)]
    if outside.size == 0:
        return 0.0, 1.0
    one_sided = outside.min() > 0 or outside.max() < 0
    centre = float(np.median(outside)) if kind == "raw" and one_sided else 0.0
    distances = np.abs(outside - centre)
    limit = float(np.quantile(distances, 0.98)) or float(distances.max()) or 1.0
    return centre, limit


def _show(value: float, kind: str, *, signed: bool = True) -> str:
    if not math.isfinite(value):
        return "not estimated"
    return percent(value, signed=signed) if kind == "gain" else number(value)


def _frame(names: list[str]) -> tuple[_Frame, list[str]]:
    size = len(names)
    if size > CELLS:
        edge = _TITLE + _BAND + 3
        return _Frame(720.0 / size, size, edge, edge), []
    labels = [fit(name, _LABEL / _FONT) for name in names]
    room = math.ceil(max(text_width(label) for label in labels) * _FONT) + 6.0
    edge = _TITLE + max(room, 28.0) + _BAND + 3
    return _Frame(float(min(40, max(13, 760 // size))), size, edge, edge), labels


def _cells(data: AffinityData, values: Floats, centre: float, limit: float, names: list[str], frame: _Frame) -> Markup:
    steps = palette.levels(values, centre, limit, palette.STEPS)
    titles = [escape(shorten(name, 40)) for name in names]
    width = frame.cell - 1
    sureness = _sureness(values, data.errors)
    parts: list[str] = []
    for r, target in enumerate(titles):
        y = frame.top + r * frame.cell
        for c, source in enumerate(titles):
            shade = palette.level_class(int(steps[r, c])) if np.isfinite(values[r, c]) else "miss"
            tip = f"{target}: the task itself" if r == c else f"{target} ← {source}: {_show(values[r, c], data.kind)}"
            if r != c and data.errors is not None and np.isfinite(data.errors[r, c]):
                tip += f" ± {_show(data.errors[r, c], data.kind, signed=False)}"
                shade += f" o{int(sureness[r, c])}"
            if r != c and data.counts is not None and np.isfinite(data.counts[r, c]):
                tip += f" ({plural(int(data.counts[r, c]), 'subset')})"
            parts.append(
                f'<rect class="{"self" if r == c else shade}" x="{frame.left + c * frame.cell:g}" y="{y:g}" '
                f'width="{width:g}" height="{width:g}"><title>{tip}</title></rect>'
            )
    return Markup("".join(parts))


def _sureness(values: Floats, errors: Floats | None) -> Floats:
    """0 within one standard error of nothing, then 1, from two on 2, from three on 3; unknown errors count as none."""
    if errors is None:
        return np.full(values.shape, 3.0)
    with np.errstate(over="ignore"):
        ratio = np.abs(values) / np.maximum(errors, 1e-300)
    return np.floor(np.clip(np.nan_to_num(ratio, nan=3.0), 0.0, 3.0))


def _shrink(values: Floats) -> Floats:
    factor = math.ceil(len(values) / PIXELS)
    if factor == 1:
        return values
    padded = np.pad(values, (0, -len(values) % factor), constant_values=np.nan)
    size = len(padded) // factor
    blocks = padded.reshape(size, factor, size, factor)
    seen = np.isfinite(blocks)
    amount = seen.sum(axis=(1, 3))
    total = np.where(seen, blocks, 0.0).sum(axis=(1, 3))
    return np.where(amount > 0, total / np.maximum(amount, 1), np.nan)


def _picture(values: Floats, centre: float, limit: float, frame: _Frame) -> Markup:
    shown = values.copy()
    np.fill_diagonal(shown, np.nan)  # the task itself is not an affinity
    shown = _shrink(shown)
    index = palette.levels(shown, centre, limit, _PIXEL_STEPS) + _PIXEL_STEPS
    index[~np.isfinite(shown)] = 2 * _PIXEL_STEPS + 1
    parts = [Markup('<rect class="miss" x="{0}" y="{0}" width="{1:g}" height="{1:g}"/>').format(frame.left, frame.side)]
    for mode in ("light", "dark"):
        colours = [palette.colour(mode, s / _PIXEL_STEPS) for s in range(-_PIXEL_STEPS, _PIXEL_STEPS + 1)]
        address = data_uri(png(index, [*colours, (0, 0, 0)], transparent=2 * _PIXEL_STEPS + 1))
        picture = '<image class="only-{}" x="{:g}" y="{:g}" width="{:g}" height="{:g}" href="{}"/>'
        parts.append(Markup(picture).format(mode, frame.left, frame.top, frame.side, frame.side, address))
    return Markup("").join(parts)


def _group_name(block: Block) -> str:
    return f"group {block.group + 1}" if block.group >= 0 else "no group"


def _blocks(data: AffinityData, values: Floats, blocks: list[Block], frame: _Frame) -> Markup:
    """Invisible rectangles over pairs of groups of a large matrix, with the mean as their tooltip."""
    outside = values.copy()
    np.fill_diagonal(outside, np.nan)
    parts: list[str] = []
    for target in blocks if len(blocks) <= CELLS else ():
        for source in blocks:
            part = outside[target.start : target.stop, source.start : source.stop]
            part = part[np.isfinite(part)]
            mean = float(part.mean()) if part.size else math.nan
            parts.append(
                f'<rect class="clear" x="{frame.left + source.start * frame.cell:.2f}" '
                f'y="{frame.top + target.start * frame.cell:.2f}" '
                f'width="{(source.stop - source.start) * frame.cell:.2f}" '
                f'height="{(target.stop - target.start) * frame.cell:.2f}"><title>{_group_name(target)} ← '
                f"{_group_name(source)}: mean {_show(mean, data.kind)}</title></rect>"
            )
    return Markup("".join(parts))


def _bands(blocks: list[Block], frame: _Frame) -> Markup:
    """Group bands along both edges, numbered where there is room, a frame around each group and lines between them."""
    parts: list[str] = []
    band = _BAND - 3
    for block in blocks:
        start, length = block.start * frame.cell, (block.stop - block.start) * frame.cell
        shown = max(length - (1.5 if length > 4 else 0), 0.5)
        colour = f"g{block.group % palette.GROUP_COLOURS}" if block.group >= 0 else "gx"
        tip = f"<title>{_group_name(block)}: {plural(block.stop - block.start, 'task')}</title>"
        x, y = frame.left + start, frame.top + start
        parts.append(
            f'<g class="{colour}"><rect class="band" x="{frame.left - _BAND:.2f}" y="{y:.2f}" width="{band}" '
            f'height="{shown:.2f}">{tip}</rect><rect class="band" x="{x:.2f}" y="{frame.top - _BAND:.2f}" '
            f'width="{shown:.2f}" height="{band}">{tip}</rect>'
        )
        label = str(block.group + 1)
        if block.group >= 0 and length >= 6 * len(label) + 4:
            middle = start + shown / 2
            place = f"{frame.left - _BAND + band / 2:.2f} {frame.top + middle:.2f}"
            turn = f' transform="rotate(-90 {place})"' if len(label) > 1 else ""
            x_left, y_left = place.split()
            parts.append(
                f'<text class="band-n" x="{x_left}" y="{y_left}" dy=".35em"{turn}>{label}</text>'
                f'<text class="band-n" x="{frame.left + middle:.2f}" y="{frame.top - _BAND + band / 2:.2f}" '
                f'dy=".35em">{label}</text>'
            )
        if len(blocks) > 1:
            parts.append(f'<rect class="frame" x="{x:.2f}" y="{y:.2f}" width="{length:.2f}" height="{length:.2f}"/>')
        parts.append("</g>")
    return Markup("".join(parts))


def _dividers(blocks: list[Block], frame: _Frame) -> Markup:
    ends = [block.stop * frame.cell for block in blocks[:-1]] if len(blocks) <= 2 * CELLS else []
    right, bottom = frame.left + frame.side, frame.top + frame.side
    lines = "".join(
        f"M{frame.left:g} {frame.top + at:.2f}H{right:.2f}M{frame.left + at:.2f} {frame.top:g}V{bottom:.2f}"
        for at in ends
    )
    return Markup('<path class="divide" d="{}"/>').format(lines) if lines else Markup("")


def _labels(names: list[str], labels: list[str], frame: _Frame) -> Markup:
    parts: list[Markup] = []
    edge = frame.left - _BAND - 4
    words = "{}<title>{}</title></text>"
    for i, (name, label) in enumerate(zip(names, labels, strict=True)):
        middle = frame.left + (i + 0.5) * frame.cell - 0.5
        row = '<text class="row-name" data-i="{}" x="{:g}" y="{:g}" dy=".35em" text-anchor="end">'
        column = '<text class="column-name" data-i="{}" transform="translate({:g} {:g}) rotate(-90)" dy=".35em">'
        parts.append(Markup(row + words).format(i, edge, middle, label, name))
        parts.append(Markup(column + words).format(i, middle, edge, label, name))
    return Markup("").join(parts)


def _axes(frame: _Frame) -> Markup:
    x, y = frame.left + frame.side / 2, frame.top + frame.side / 2
    if frame.side < 180:  # a short axis: begin at its start, where the margin gives the words room
        return Markup(
            f'<text class="axis" x="{frame.left + frame.side:g}" y="13" text-anchor="end">source →</text>'
            f'<text class="axis" transform="translate(13 {frame.top + frame.side:g}) rotate(-90)">← target</text>'
        )
    return Markup(
        f'<text class="axis" x="{x:g}" y="13" text-anchor="middle">source (helps or harms) →</text>'
        f'<text class="axis" transform="translate(13 {y:g}) rotate(-90)" text-anchor="middle">'
        "← target (is helped or harmed)</text>"
    )


def _readout(data: AffinityData, values: Floats, names: list[str]) -> dict[str, object] | None:
    """The values for the pointer's read-out: 16-bit steps of the largest absolute value, lowest number = missing."""
    if len(names) > READABLE:
        return None
    largest = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    steps = np.where(np.isfinite(values), np.rint(np.nan_to_num(values) / largest * 32767), -32768).astype("<i2")
    coded = base64.b64encode(steps.tobytes()).decode("ascii")
    return {"names": [shorten(n, 60) for n in names], "unit": largest / 32767, "kind": data.kind, "values": coded}


def heatmap(data: AffinityData, groups: Groups | None) -> HeatMap:
    """Draw the heat map.

    Args:
        data: the matrix; rows are targets, columns are sources.
        groups: the grouping that orders and frames the tasks; None keeps their order.
    """
    ordered, blocks = order(data.tasks, groups)
    values, names = data.values[np.ix_(ordered, ordered)], [data.tasks[i] for i in ordered]
    counts = None if data.counts is None else data.counts[np.ix_(ordered, ordered)]
    errors = None if data.errors is None else data.errors[np.ix_(ordered, ordered)]
    data = AffinityData(tuple(names), values, counts, data.kind, data.method, errors)
    frame, labels = _frame(names)
    large = frame.size > CELLS
    centre, limit = scale(values, data.kind)
    if large:
        faint = np.array([0.15, 0.4, 0.7, 1.0])[_sureness(values, errors).astype(int)]
        body = _picture(centre + faint * (values - centre), centre, limit, frame) + _blocks(data, values, blocks, frame)
    else:
        body = _cells(data, values, centre, limit, names, frame) + _labels(names, labels, frame)
    summary = f"Affinity of {plural(frame.size, 'task')}: rows are targets, columns are sources, ordered by groups"
    opening = (
        '<svg id="heat" class="heat{}" viewBox="0 0 {:g} {:g}" width="{:g}" height="{:g}" role="img" aria-label="{}" '
        'data-left="{:g}" data-top="{:g}" data-cell="{:.6g}">'
    )
    wide, high = math.ceil(frame.width), math.ceil(frame.height)
    kind = " large" if large else ""
    svg = Markup(opening).format(kind, wide, high, wide, high, summary, frame.left, frame.top, frame.cell)
    hatch = Markup(
        '<defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect class="hatch-a" width="5" height="5"/><rect class="hatch-b" width="1.5" height="5"/></pattern></defs>'
    )
    svg += hatch + _axes(frame) + body + _dividers(blocks, frame) + _bands(blocks, frame)
    svg += Markup('<rect class="cross" id="cross-row"/><rect class="cross" id="cross-column"/></svg>')
    outside = values[~np.eye(len(values), dtype=bool)]
    return HeatMap(
        svg=svg,
        low=_show(centre - limit, data.kind),
        high=_show(centre + limit, data.kind),
        middle=_show(centre, data.kind),
        missing=bool(np.isnan(outside).any()),
        readout=_readout(data, values, names),
        min_width=round(0.78 * wide) if not large else 0,
        large=large,
    )
