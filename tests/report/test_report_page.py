"""Structure of the page: complete, balanced, escaped, self-contained, in the promised order."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import SettingError, StoreError
from coterie.report import write_report
from coterie.report.formats import clean
from coterie.report.html import render
from report.sample_result import NASTY, nasty_result, plain_names, sample_result

VOID = {"meta", "link", "br", "img", "hr", "input", "wbr"}
ADDRESSES = {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}


class Page(HTMLParser):
    """Collects tags, text and attributes and checks that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.chips: list[str] = []
        self.words: list[str] = []
        self.styles = ""
        self.feed(text)
        self.close()
        if self.open:
            self.faults.append(f"left open: {self.open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "li":
            self.chips.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> does not close what is open")

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            self.styles += data
        elif "script" not in self.open and data.strip():
            self.words.append(data)
            if "bdi" in self.open and "li" in self.open:
                self.chips[-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


RESULTS: dict[str, dict[str, Any]] = {
    "usual": sample_result(),
    "do not bother": sample_result(do_not_bother=True),
    "one seed": sample_result(seeds=1),
    "nasty": nasty_result(),
    "hundred": nasty_result(100),
    "several hundred": sample_result(plain_names(400), groups=23),
    "empty": {},
}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: render(result) for name, result in RESULTS.items()}


@pytest.mark.parametrize("name", RESULTS)
def test_page_is_balanced_and_self_contained(name: str, pages: dict[str, str]) -> None:
    page = Page(pages[name])
    assert page.faults == []
    for tag, attributes in page.tags:
        for key in ADDRESSES & attributes.keys():
            assert (attributes[key] or "").startswith(("data:", "#")), (tag, attributes[key])
        assert not [key for key in attributes if key.startswith("on")], (tag, attributes)
    assert "@import" not in page.styles
    assert all(address == "#hatch" for address in re.findall(r"url\(([^)]*)\)", page.styles))
    assert [tag for tag, _ in page.tags].count("script") == (1 if name == "empty" else 2)
    assert not re.search(
        r"\b(nan|inf|infinity|none|null|undefined)\b(?! seed)", re.sub("null.byte", "", page.text), re.I
    )


@pytest.mark.parametrize("name", ["nasty", "hundred"])
def test_names_are_escaped(name: str, pages: dict[str, str]) -> None:
    assert "<script>alert" not in pages[name]
    assert "<img" not in pages[name]
    assert "\x1b" not in pages[name]
    assert "49" not in {chip.strip() for chip in Page(pages[name]).chips}  # {{ 7 * 7 }} stayed text
    chips = Page(pages[name]).chips
    for task in NASTY:
        if len(task) <= 56:
            assert clean(task) in chips


def test_order_of_the_page(pages: dict[str, str]) -> None:
    page = Page(pages["usual"])
    after_title = page.words[1:]
    assert after_title[0] == RESULTS["usual"]["recommendation"]["text"]
    headings = [
        "models to serve",
        "Groups",
        "Gains",
        "Task by task:",
        "Affinity",
        "Cost",
        "How it was made",
        "How to read this",
    ]
    places = [next(i for i, word in enumerate(after_title) if word.strip() == heading) for heading in headings]
    assert places == sorted(places)
    assert "interval over 3 training seeds and the examples" in page.text


def test_do_not_bother_comes_first() -> None:
    result = sample_result(do_not_bother=True)
    result["recommendation"]["text"] = "One model for all tasks is as good."
    first = Page(render(result)).words[1]
    assert first == "Do not bother: One model for all tasks is as good."


def test_numbers_on_the_page(pages: dict[str, str]) -> None:
    text = Page(pages["usual"]).text.replace("\u00a0", " ")
    for expected in (
        "+3.1 %",
        "+1.9 to +4.3",
        "3.2 TFLOP",
        "3.1 %",
        "4.2 %",  # of the estimate; results that have no ordinary trainings
        "31.0 s",
        "16.0 %",
        "1,450",
        "103 TFLOP",
    ):
        assert expected in text, expected


def test_costs_are_shown_in_ordinary_trainings() -> None:
    result = sample_result()
    result["training_flops"] = 1.0e12
    for row in result["costs"]:
        row["trainings"] = row["flops"] / 1.0e12
    words = Page(render(result)).text.replace("\u00a0", " ")
    for expected in ("ordinary trainings (1 TFLOP each)", "4.21 s 3.2 ", "0.06 s 0.002 ", "31.0 s 22.0 "):
        assert expected in words, expected


def test_a_single_task_recommendation_shows_the_best_other_candidate() -> None:
    result = sample_result()
    result["recommendation"] |= {"candidate": "single-task", "models": 14}
    text = Page(render(result)).text
    assert "Task by task: grouped (3)" in text.replace(" :", ":")
    assert "so their own gains are zero" in text


def test_groups_trained_elsewhere_are_marked(pages: dict[str, str]) -> None:
    assert 'class="away"' in pages["nasty"]
    assert "served by model 2" in pages["nasty"]
    assert 'class="away"' not in pages["usual"]


def test_many_single_task_models_share_a_card() -> None:
    result = sample_result(plain_names(12), groups=12)
    assert "Models 1–12" in Page(render(result)).text


def test_result_from_disk_gives_the_same_page(tmp_path: Path) -> None:
    result = sample_result()
    assert render(json.loads(json.dumps(result))) == render(result)


def test_size_of_the_page(pages: dict[str, str]) -> None:
    assert len(pages["usual"].encode()) < 150_000
    assert len(pages["several hundred"].encode()) < 2_500_000


def test_write_is_whole_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.html"
    assert write_report(sample_result(), target) == target
    assert target.read_text(encoding="utf-8") == render(sample_result())
    assert [p.name for p in target.parent.iterdir()] == ["report.html"]
    folder = tmp_path / "taken"
    folder.mkdir()
    with pytest.raises(StoreError, match="Cannot write"):
        write_report(sample_result(), folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "taken"]


def test_impossible_results_are_refused() -> None:
    with pytest.raises(SettingError, match=r"result\.json"):
        render(["not", "a", "mapping"])  # type: ignore[arg-type]
    result = sample_result()
    result["affinity"]["values"].pop()
    with pytest.raises(StoreError, match="13 rows of"):
        render(result)


anything = st.text(st.characters(codec=None), max_size=70)


@settings(max_examples=40, deadline=None)
@given(names=st.lists(anything, min_size=2, max_size=6, unique_by=clean), note=anything)
def test_any_names_make_a_sound_page(names: list[str], note: str) -> None:
    result = sample_result(names, groups=2)
    result["notes"] = [note]
    result["recommendation"]["text"] = note
    page = Page(render(result))
    assert page.faults == []
    assert {clean(n) for n in names if len(clean(n)) <= 56} <= set(page.chips)
    render(result).encode("utf-8")


numbers = st.one_of(st.none(), st.floats(), st.floats(-1, 1), st.text(max_size=3), st.integers())


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[numbers] * 9))
def test_any_numbers_make_a_sound_page(values: tuple[Any, ...]) -> None:
    result = sample_result(plain_names(3), groups=2)
    a, b, c, d, e, f, g, h, i = values
    chosen = result["comparison"]["candidates"][2]
    chosen["total"]["test"] = {"mean": a, "low": b, "high": c}
    chosen["tasks"][1]["test"] = {"mean": d, "low": e, "high": f}
    result["affinity"]["values"][0][1] = g
    result["costs"][0] |= {"flops": h, "seconds": i, "share": a}
    page = Page(render(result))
    assert page.faults == []
    assert not re.search(r"\b(nan|inf|none)\b", page.text, re.I)


def test_the_page_has_its_date() -> None:
    assert "yeast · 14 tasks · 2026-03-04 · coterie 0.1.0" in render(sample_result())
    undated = {key: value for key, value in sample_result().items() if key != "date"}
    assert "yeast · 14 tasks · coterie 0.1.0" in render(undated)
