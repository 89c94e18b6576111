"""What a run left behind, in few numbers that any processor finds: no times, dates, paths, versions."""

from __future__ import annotations

import hashlib
import json
import math
import re
import textwrap
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

#: keys whose values are times, places or versions
VARYING = {"seconds", "coterie", "reference", "environment", "date"}
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_VOID = {"meta", "link", "br", "img", "input", "hr"}
_BLOCKS = {
    "p",
    "tr",
    "li",
    "h1",
    "h2",
    "h3",
    "h4",
    "div",
    "text",
    "section",
    "summary",
    "title",
    "figcaption",
    "caption",
}
_HIDDEN = {"script", "style"}


def digits(value: float) -> float | None:
    """Five significant digits; what is no number becomes None."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def settled(value: Any) -> Any:
    """JSON without what varies, numbers with five digits, digests without their letters."""
    if isinstance(value, dict):
        return {
            key: formula(entry) if key == "formula" else settled(entry)
            for key, entry in value.items()
            if key not in VARYING
        }
    if isinstance(value, list):
        return [settled(entry) for entry in value]
    if isinstance(value, float):
        return digits(value)
    return _DIGEST.sub("<digest>", value) if isinstance(value, str) else value


def formula(found: dict[str, Any]) -> list[Any]:
    """The coefficients of a short formula together; null counts as not finite."""
    return summary({name: np.array(value, dtype=np.float64) for name, value in found.items() if name != "tasks"})


def summary(arrays: dict[str, np.ndarray]) -> list[Any]:
    """How many arrays, a digest of names, types and shapes; norm and two projections of all numbers together."""
    shapes = "".join(f"{name} {array.dtype} {array.shape}\n" for name, array in arrays.items())
    flat = np.concatenate([array.reshape(-1).astype(np.float64) for array in arrays.values()])
    finite = np.isfinite(flat)
    places, clean = np.arange(1, len(flat) + 1), np.where(finite, flat, 0)
    found = [math.sqrt(float(clean @ clean)), *(float(clean @ np.cos(k * places + k)) for k in (1, 2))]
    one = next(iter(arrays.values()))
    named = hashlib.sha256(shapes.encode()).hexdigest()[:8]
    said = f"{one.dtype} {list(one.shape)}" if len(arrays) == 1 else f"{len(arrays)} arrays {named}"
    bad = int((~finite).sum())
    return [said + (f", {bad} not finite" if bad else ""), *(digits(number) for number in found)]


def tensors(path: Path) -> dict[str, list[Any]]:
    """The arrays of a file; those below one prefix together."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, array in sorted(load_file(path).items()):
        parts.setdefault(name.split("/")[0], {})[name] = array
    return {prefix: summary(arrays) for prefix, arrays in parts.items()}


def units(run: Path) -> list[dict[str, Any]]:
    """The units of a run: names, keys, what they say about themselves, arrays; in an order that no digest decides."""
    found = []
    for path in (run / "units").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        arrays = tensors(path.with_suffix(".safetensors")) if record["tensors"] else {}
        meta = {key: value for key, value in record["meta"].items() if key != "history"}
        found.append({"name": record["name"], "key": record["key"], "meta": meta, "arrays": arrays})
    return sorted((settled(unit) for unit in found), key=lambda unit: (unit["name"], json.dumps(unit["key"])))


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.lines: list[list[str]] = [[]]

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        del attrs
        if tag not in _VOID:
            self.open.append(tag)
        if tag in _BLOCKS:
            self.lines.append([])

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass
        if tag in _BLOCKS:
            self.lines.append([])

    def handle_data(self, data: str) -> None:
        words = " ".join(data.split())
        if words and not _HIDDEN & set(self.open):
            self.lines[-1].append(words)


def page(path: Path) -> list[str]:
    """The text that the page of a run shows."""
    parser = _Page()
    parser.feed(path.read_text(encoding="utf-8"))
    lines = [plain(" | ".join(line)) for line in parser.lines if line]
    return [line for line in lines if len(line) > 1 and not line.startswith("threads |")]


#: what varies in a text, in the order in which it is looked for
_PLAIN = {
    "path": re.compile(r"(?:/[\w.-]+){2,}"),
    "date": re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?"),
    "version": re.compile(r"\b\d+\.\d+\.\d+\w*(?:\+\w+)?"),
    "time": re.compile(r"(?<![\w.])\d[\d.,]* ?(?:ms|s|min|h)\b(?: \d+ ?(?:s|min)\b)?"),
    "size": re.compile(r"\d[\d.,]* [KMG]iB"),
}


def plain(line: str) -> str:
    """A line without times, dates, versions, paths and sizes of memory."""
    line = " ".join(line.split())
    for name, pattern in _PLAIN.items():
        line = pattern.sub(f"<{name}>", line)
    return line


def console(text: str) -> list[str]:
    """The words of a terminal, broken anew: how wide a table is depends on the times in it."""
    return textwrap.wrap(plain(text.replace("─", "")), 110, break_long_words=False, break_on_hyphens=False)


def plan(found: dict[str, Any]) -> dict[str, Any]:
    """What a plan says about work; memory, disk and time are those of a machine."""
    kept = ("stage", "what", "why", "flops", "flops_at_most")
    rows = [{name: row[name] for name in kept} for row in found["rows"] if row["stage"] != "imports"]
    return settled({"rows": rows, "totals": sorted(found["totals"]), "notes": [plain(note) for note in found["notes"]]})
