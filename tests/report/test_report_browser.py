"""The page in a real browser: no script errors, nothing cut off, nothing outside its picture, in light and dark."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from coterie.report.html import render
from report.browser import chromium, inspect
from report.sample_result import nasty_result, plain_names, sample_result, with_formula

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium on PATH")

#: names of tasks as pipelines make them
LONG = [f"assay {i}: a very long name that a pipeline wrote for tables of its own {i % 7}" for i in range(150)]

USE = """
  const table = Array.from(document.querySelectorAll("table.forest")).pop();
  const names = () => Array.from(table.tBodies[0].rows).map((row) => row.dataset.name);
  const before = names();
  table.querySelector("th.name button").click();
  const heat = document.getElementById("heat"), box = heat.getScreenCTM();
  const cell = Number(heat.dataset.cell);
  const spot = new DOMPoint(Number(heat.dataset.left) + 1.5 * cell, Number(heat.dataset.top) + 0.5 * cell);
  const at = spot.matrixTransform(box);
  heat.dispatchEvent(new PointerEvent("pointermove", { clientX: at.x, clientY: at.y, bubbles: true }));
  return {
    before: before, after: names(), words: document.getElementById("heat-words").textContent,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
  };
"""


def _problems(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: entry["problems"] for name, entry in found.items() if entry["problems"]}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {
        "usual": render(sample_result()),
        "do not bother": render(sample_result(do_not_bother=True)),
        "two tasks, one seed": render(sample_result(["a", "b"], groups=2, seeds=1)),
        "nasty": render(nasty_result()),
        "sixty": render(sample_result(plain_names(60), groups=9)),
        "hundred, nasty": render(nasty_result(100)),
        "partners": render(with_formula(sample_result())),
        "partners, nasty": render(with_formula(nasty_result())),
        "partners, long names": render(with_formula(sample_result(LONG, groups=9))),
    }


def test_pages_have_no_faults_at_any_width(pages: dict[str, str], tmp_path: Path) -> None:
    found = inspect({**pages, "empty": render({})}, tmp_path)
    assert len(found) == 3 * (len(pages) + 1)
    assert _problems(found) == {}
    assert found["usual @ 400"]["first"] == sample_result()["recommendation"]["text"]
    assert str(found["do not bother @ 1300"]["first"]).startswith("Do not bother")


def test_dark_mode_and_interaction(pages: dict[str, str], tmp_path: Path) -> None:
    found = inspect(pages, tmp_path, widths=(800,), dark=True, extra=USE)
    assert _problems(found) == {}
    for name, entry in found.items():
        told: Any = entry["told"]
        assert told["dark"], name
        assert sorted(told["before"]) == sorted(told["after"]), name
    told = found["usual @ 800"]["told"]
    assert told["before"] != told["after"]
    assert told["after"] == sorted(told["before"], key=str.casefold)


@pytest.mark.parametrize("amount", [14, 100])
def test_readout_shows_the_value_of_the_cell(amount: int, tmp_path: Path) -> None:
    result = sample_result(plain_names(amount), groups=3)
    target, source = result["grouping"]["groups"][0][:2]
    tasks = result["affinity"]["tasks"]
    value = result["affinity"]["values"][tasks.index(target)][tasks.index(source)]
    found = inspect({"page": render(result)}, tmp_path, widths=(800,), extra=USE)
    words = found["page @ 800"]["told"]["words"]  # type: ignore[index]
    assert words.replace("\u2212", "-").replace("\u00a0", " ") == f"{target} ← {source}: {100 * value:+.1f} %"


PICK = """
  const boxes = Array.from(document.querySelectorAll("#picks input"));
  [0, 1, 4].forEach((at) => { boxes[at].checked = true; });
  boxes[4].dispatchEvent(new Event("change"));
  const picked = Array.from(document.querySelectorAll("#picked tbody tr")).map((row) =>
    Array.from(row.cells).map((cell) => cell.textContent));
  document.querySelector("#presets button").click();
  return { picked: picked, preset: boxes.filter((box) => box.checked).map((box) => Number(box.value)),
    words: document.getElementById("picked-words").textContent };
"""


def test_picked_tasks_have_the_gain_and_the_band_of_the_formula(tmp_path: Path) -> None:
    """What the page's script says against the same formula by hand."""
    result = with_formula(sample_result())
    found = inspect({"page": render(result)}, tmp_path, widths=(800,), extra=PICK)["page @ 800"]
    assert found["problems"] == []
    told: Any = found["told"]
    formula, group = result["formula"], [0, 1, 4]
    weight, size = (2 / 4) ** -0.5, math.log2(3 / 5)
    for (name, gain, band, _), task in zip(told["picked"], group, strict=True):
        partners = [other for other in group if other != task]
        expected = 0.02 + 0.003 * size + weight * sum(formula["effects"][task][other] for other in partners)
        error = math.hypot(math.exp(-4 + 0.1 * size - 0.02 * 2 * weight), 0.001)
        assert name == formula["tasks"][task]
        numbers = [text.replace("\u2212", "-").replace("\u00a0%", "") for text in (gain, *band.split(" to "))]
        wanted = [100 * expected, 100 * (expected - 1.96 * error), 100 * (expected + 1.96 * error)]
        assert [float(text) for text in numbers] == pytest.approx(wanted, abs=0.051)
    tasks, served = formula["tasks"], result["served"]["groups"][0]
    assert sorted(tasks[i] for i in told["preset"]) == sorted(served)
    assert told["words"].startswith(f"{len(served)} tasks in one model")


BROKEN = {
    "script error": "<script>nothing.here();</script>",
    "page wider": "<div style='width:2000px;height:4px'></div>",
    "cut off": "<p style='width:60px;overflow:hidden;white-space:nowrap'>a long line that does not fit in here</p>",
    "outside the view": "<p style='position:fixed;left:95%;white-space:nowrap;margin:0'>a line far to the right</p>",
    "text outside its SVG": "<svg viewBox='0 0 100 20' width='100'><text x='60' y='12'>too long for it</text></svg>",
    "broken picture": "<img alt='' src='data:image/png;base64,AAAA'>",
    "blocked": "<img alt='' src='https://example.org/x.png'>",
    "weak contrast": "<p style='color:#bbb;background:#fff'>hardly to be read</p>",
}


def test_the_checks_can_fail(tmp_path: Path) -> None:
    """Each fault, put into a good page on purpose, is found, and the good page is not blamed."""
    good = render(sample_result(plain_names(5), groups=2))
    pages = {kind: good.replace("</main>", f"{fault}</main>") for kind, fault in BROKEN.items()}
    found = inspect({"good": good, **pages}, tmp_path, widths=(800,))
    assert found["good @ 800"]["problems"] == []
    for kind in BROKEN:
        problems: Any = found[f"{kind} @ 800"]["problems"]
        assert any(problem.startswith(kind) for problem in problems), (kind, problems)


def test_names_run_no_script(tmp_path: Path) -> None:
    """The same page without escaping would run the script in a task's name; this one does not."""
    name = "<script>window.seen.push('script error: name was run')</script>"
    result = sample_result([name, "b", "c"], groups=1)
    good = render(result)
    bad = good.replace("</main>", name + "</main>")
    found = inspect({"good": good, "bad": bad}, tmp_path, widths=(800,))
    assert found["good @ 800"]["problems"] == []
    assert found["bad @ 800"]["problems"] != []
