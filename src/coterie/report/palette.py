"""Colours in light and dark: a diverging scale for affinity, and the groups.

Blue helps, orange harms: a pair that stays apart under the common colour blindnesses. The neutral middle is close to
the page's own background in both modes, so that strong values stand out and "nothing" recedes.
"""

from __future__ import annotations

import numpy as np

from coterie.report.data import Floats

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
    "light": ("33689c", "b5485f", "2c7d42", "96700a", "73509a", "157a85", "8c4a2f", "5c6470"),
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
