"""What results look like at a prompt and in a notebook: one screen, with what counts, and nothing that acts."""

import json
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import coterie
from coterie._show import brief, html_table, names
from coterie.features import FeatureOptions, RandomDirections, compute_features
from coterie.pipeline.planning import Plan
from coterie.report.formats import size
from coterie.training import fit
from coterie.training.job import Job
from coterie.workload.structure import find_structure

TASKS = [f"<i>task & {number}</i>" for number in range(12)]
RNG = np.random.default_rng(0)


def workload(tasks: int = 12, **options: Any) -> coterie.Workload:
    x = RNG.normal(size=(150, 6))
    y = x @ RNG.normal(size=(6, tasks)) + RNG.normal(size=(150, tasks)) > 0
    recipe = coterie.Recipe(epochs=1)
    return coterie.from_arrays(x, y.astype(float), tasks=TASKS[:tasks], recipe=recipe, **options)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    work = workload()
    result = coterie.run(work, method="label-correlation", groups=3, seeds=2)
    affinity, model = coterie.estimate_affinity(work, method="attribution")
    net = work.build_model(0)
    fitted = fit(work, [Job((0, 1), 0)])[0]
    trained = coterie.compare(workload(3), {"two": [[0], [1, 2]]}, seeds=1)
    return {
        "workload": work, "split": work.split, "result": result, "comparison": result.comparison,
        "grouping": result.grouping, "affinity": affinity, "model": model, "fit": fitted, "job": fitted.job,
        "structure": find_structure(work, net), "labels": result.comparison.labels, "trained": trained,
    }  # fmt: skip


def test_every_repr_fits_a_screen(found):
    for name, value in found.items():
        text = repr(value)
        assert len(text.splitlines()) <= 12, name
        assert len(text) <= 1600, name
        assert "tensor(" not in text, name
        assert "array(" not in text, name


def test_a_workload_says_what_counts(found):
    lines = repr(found["workload"]).splitlines()
    assert lines[1].startswith("  tasks   12 binary: <i>task & 0</i>, <i>task & 1</i>, ")
    assert "12 in all" in lines[1]
    assert lines[2].split() == ["rows", "90", "train,", "30", "validation,", "30", "test"]
    assert lines[3].split() == ["labels", "1,800"]
    assert "(150, 6) float32" in lines[4]
    assert "Mlp, on cpu" in lines[5]


class Mine(nn.Linear):
    def __init__(self) -> None:
        super().__init__(6, 3)


@pytest.mark.parametrize("options", [{"model": Mine()}, {"build_model": Mine}, {"build_model": lambda seed: Mine()}])
def test_whose_model_it_is(options):
    shown = repr(workload(3, **options))
    assert "Mine, on cpu" in shown or "<lambda>, on cpu" in shown


def test_missing_labels_and_several_inputs_are_said():
    x = {"a": torch.zeros(60, 2), "b": torch.arange(60.0)[:, None]}
    y = np.where(RNG.random((60, 2)) < 0.25, np.nan, RNG.normal(size=(60, 2)))
    work = coterie.from_arrays(
        x, y, build_model=lambda seed: nn.Linear(3, 2), forward=lambda model, batch: model(batch)
    )
    shown = repr(work)
    assert "% missing" in shown
    assert "2 regression" in shown
    assert "a (60, 2) float32; b (60, 1) float32" in shown


def test_groups_are_named(found):
    assert repr(coterie.Grouping(("a", "b"), ((0, 1), (1,)), serves=(0, 1))) == (
        "Grouping([[a, b], [b]]; serves=[0, 1]; method='given')"
    )
    assert "do not bother" in repr(found["result"]).lower() or "train" in repr(found["result"]).lower()


class Texts(HTMLParser):
    """Tags and text of a page; a broken page has other tags than it means."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_notebook_views_are_escaped_and_have_the_numbers(found):
    plan = Plan(rows=[{"stage": "<i>a</i>", "what": "<script>"}], notes=["<i>b</i>"])
    named = ("result", "comparison", "grouping", "affinity", "trained")
    views = {**{name: found[name] for name in named}, "recommendation": found["result"].recommendation, "plan": plan}
    for name, value in views.items():
        page = Texts(value._repr_html_())
        assert "i" not in page.tags, name
        assert "script" not in page.tags, name
    whole = Texts(found["result"]._repr_html_())
    assert found["result"].recommendation.text in whole.text
    for candidate in found["result"].comparison.candidates:
        assert candidate in whole.text
    assert "gain on test rows" in whole.text
    assert TASKS[3] in whole.text
    assert "all stages" in whole.text


def test_a_plan_is_a_table_and_stays_a_dictionary():
    plan = coterie.plan(workload(3), method="secants", seeds=1, bases=1)
    assert isinstance(plan, dict)
    assert json.loads(json.dumps(plan))["rows"][0]["stage"] == plan["rows"][0]["stage"]
    lines = repr(plan).splitlines()
    assert lines[0].startswith("Plan: ")
    assert len(lines) == 1 + len(plan["rows"])
    assert plan["rows"][0]["what"] in lines[1]
    assert "expected" in Texts(plan._repr_html_()).text


def test_small_pieces():
    assert names([]) == "[]"
    assert brief({"a": 1, "b": 2}) == "[a, b]"
    assert brief(len) == "len"
    assert brief(0.123456) == "0.1235"
    assert brief([np.zeros(3), "x"]) == "[(3,) float64, x]"
    assert html_table(["<b>"], [["&"]], "c<") == (
        "<table><caption style='caption-side:bottom;text-align:left'>c&lt;</caption><thead><tr>"
        "<th style='text-align:left'>&lt;b&gt;</th></tr></thead><tbody><tr><td style='text-align:left'>&amp;</td></tr>"
        "</tbody></table>"
    )
    assert size(1023 * 1024).replace("\u00a0", " ") == "0.999 MiB"


def test_features_are_shapes():
    work = workload(3)
    net = work.build_model(0)
    features = compute_features(work, net, RandomDirections.of(net, 4), FeatureOptions(heads="projected"))
    assert len(repr(features)) < 1600
    assert "tensor(" not in repr(features)
