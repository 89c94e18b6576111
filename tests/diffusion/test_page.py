"""The page of a study: complete, self-contained, without faults in a browser, and careful in its words."""

import math
import re
import struct
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

from coterie.diffusion.figures import NAMES, tiled, write_figures
from coterie.diffusion.page import _figures, findings, grid, render, write_page
from coterie.diffusion.plane import Plane
from reference.stored import interval, made_study
from report.browser import chromium, inspect


class Reader(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.faults, self.words = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


@pytest.mark.parametrize("seeds", [1, 2])
def test_page_is_balanced_and_self_contained(seeds):
    page = render(made_study(seeds))
    read = Reader(page)
    assert not read.faults
    assert not read.open
    for tag, attributes in read.tags:
        for key in {"src", "href", "srcset", "data", "poster"} & attributes.keys():
            assert attributes[key].startswith("data:"), (tag, attributes[key])
    assert not [tag for tag, _ in read.tags if tag == "script"]
    assert "@import" not in page
    words = " ".join(read.words)
    assert not re.search(r"\b(nan|none|null|undefined)\b", words, re.IGNORECASE)
    assert "<b>&{{ 7 * 7 }}" in words  # escaped, and not evaluated
    assert ("95 % interval" in words) == (seeds > 1)
    assert ("there are no intervals" in words) == (seeds == 1)


@pytest.mark.skipif(chromium() is None, reason="no Chromium on PATH")
@pytest.mark.parametrize("dark", [False, True])
def test_page_has_no_faults_in_a_browser(tmp_path, dark):
    pages = {"usual": render(made_study()), "one seed, many": render(made_study(1, ("uncertainty", "famo", "a"), k=9))}
    # the page itself allows no script; the one that looks at it is let in
    allowed = {name: page.replace("img-src", "script-src 'unsafe-inline'; img-src") for name, page in pages.items()}
    found = inspect(allowed, tmp_path, dark=dark)
    assert {name: entry["problems"] for name, entry in found.items() if entry["problems"]} == {}


def test_findings_claim_no_more_than_the_intervals():
    facts = made_study(methods=("good", "bad", "none")).facts
    for row, change in zip(facts["methods"][1:], (-0.1, 0.1, 0.01), strict=True):
        row["overall_change"] = interval(change, 0.05)
    first, *rest = findings(facts)
    assert "falls" in first
    assert "−0.900 (−0.920 to −0.880)" in first
    verdicts = [sentence.split(";")[0].split(", ")[-1] for sentence in rest]
    assert verdicts == ["better", "worse", "within the noise"]
    for falling in (interval(0.3), interval(-0.1, 0.2), interval(float("nan"))):
        facts["affinity"]["falling"] = falling
        assert "does not clearly fall" in findings(facts)[0]
    assert "may be chance" in findings(made_study(1).facts)[-1]


def test_the_best_of_several_methods_is_said_to_be_that():
    labels = [figure["label"] for figure in _figures(made_study(methods=("a", "b", "c")).facts)]
    assert labels[1:3] == ["loss, a (best of 3)", "Frechet distance, a (best of 3)"]
    labels = [figure["label"] for figure in _figures(made_study(methods=("a",)).facts)]
    assert labels[1:3] == ["loss, a", "Frechet distance, a"]


def test_the_distance_of_training_images_is_no_floor():
    """The classifier was fitted to them; and there may be fewer than samples."""
    study = made_study()
    study.facts["frechet"]["count"] = 2000
    words = " ".join(Reader(render(study)).words)
    assert "For orientation: 1400 training images have 5.4" in words
    assert "the classifier knows these images" in words
    assert "below" not in words.split("For orientation")[1].split(".")[0]
    assert "no model is expected" not in words


def test_grid_is_the_images():
    images = np.random.default_rng(0).integers(0, 255, (11, 3, 5)).astype(np.uint8)
    canvas = tiled(images)
    assert canvas.shape == (2 * 4 - 1, 8 * 6 - 1)
    for i, image in enumerate(images):
        top, left = (i // 8) * 4, (i % 8) * 6
        np.testing.assert_array_equal(canvas[top : top + 3, left : left + 5], image)
    assert (canvas[3] == 255).all()
    # the pixels that a reader of the file finds
    data = grid(images)
    width, height = struct.unpack(">II", data[16:24])
    at = data.index(b"IDAT")
    length = struct.unpack(">I", data[at - 4 : at])[0]
    lines = np.frombuffer(zlib.decompress(data[at + 4 : at + 4 + length]), np.uint8).reshape(height, width + 1)
    np.testing.assert_array_equal(lines[:, 1:], canvas)


@pytest.mark.parametrize(
    "values", [[0.0, 0.93], [-0.2, 1.0], [0.0, 0.0], [-3e-4, 2e-4], [math.nan, 5.0], [0, 12345], [0, 0.3], [0.1, 0.7]]
)
def test_planes_hold_their_numbers(values):
    plane = Plane.over([0, 10], values)
    for value in values:
        assert math.isnan(value) or -1e-9 <= plane.up(value) <= 1 + 1e-9
    ticks = [tick for tick, _ in plane.ticks_y]
    assert ticks[0] == pytest.approx(plane.bottom)
    assert ticks[-1] == pytest.approx(plane.top)
    assert 2 <= len(ticks) <= 8
    assert len({words for _, words in plane.ticks_y}) == len(ticks)


def test_figures_and_page_are_written(tmp_path):
    study = made_study()
    assert write_page(study, tmp_path / "new" / "report.html").read_text(encoding="utf-8") == render(study)
    written = write_figures(study, tmp_path)
    assert [path.name for path in written] == list(NAMES)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
