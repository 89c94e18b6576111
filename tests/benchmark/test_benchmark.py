"""The whole benchmark on a small copy of the digits data; kill and resume; page, table, figure, Markdown."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console
from sklearn.datasets import load_digits

from coterie import Context
from coterie.affinity import Affinity, Estimate, Estimator, PairwiseGainModel
from coterie.affinity.costs import Costs
from coterie.benchmark import ENTRIES, Entry, Options, benchmark, make_bank, select, write_page
from coterie.benchmark import bank as bank_module
from coterie.benchmark.figure import check_figure, write_figure
from coterie.benchmark.markdown import fill, fill_page, overview, result_table
from coterie.benchmark.page import read_result, render
from coterie.benchmark.plot import panel
from coterie.benchmark.run import find_data
from coterie.benchmark.table import print_benchmark, sorted_rows
from coterie.errors import SettingError, StoreError
from coterie.evaluation import bank as evaluation_bank
from coterie.evaluation.bank_plan import BankPlan
from coterie.store import MemoryRun, RunDirectory
from coterie.training import measure_cost, units
from coterie.workload import Recipe, Workload, from_arrays
from coterie.workload.fingerprint import fingerprint

SETS = ((0, 2, 4, 6, 8), (5, 6, 7, 8, 9), (2, 3, 5, 7), (0, 1, 4, 9), (0, 6, 8, 9))
SMALL = Options(
    subsets=8, replicates=3, common=1, pool=1, singles=2, pairs=6, pair_replicates=1, groups=(2,), group_replicates=1,
    draws=2, draw_replicates=1, resamples=40,
)  # fmt: skip


def small_digits() -> Workload:
    x, digit = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(x))[:400]
    labels = np.stack([np.isin(digit[rows], members) for members in SETS], 1).astype(float)
    recipe = Recipe(epochs=4, batch_size=40, learning_rate=5e-3, check_every=3)
    split = {"train": np.arange(120), "validation": np.arange(120, 350), "test": np.arange(350, 400)}
    return from_arrays(x[rows] / 16, labels, recipe=recipe, hidden=(8,), split=split, name="small <digits>")


@dataclass(frozen=True)
class Guess(Estimator):
    """Random affinities that cost nothing, or an error."""

    seed: int = 0
    fails: bool = False

    @property
    def name(self) -> str:
        return "guess"

    def estimate(self, workload, context, subset_size):
        del context, subset_size
        if self.fails:
            raise ValueError("this method <never> works")
        values = np.random.default_rng(self.seed).normal(size=(workload.n_tasks, workload.n_tasks))
        model = PairwiseGainModel(Affinity(values, workload.task_names, kind="raw", method="guess"))
        return Estimate(model, Costs(measure_cost(workload)))


OWN = (
    Entry("guess", Guess(), "a <guess>"),
    Entry("broken", Guess(fails=True)),
    Entry("too-large", Guess(), most_tasks=3),
    Entry("task-vectors-1", "task-vectors", "task vectors, 1 base", {"bases": 1}),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("run") / "bench"
    stages: dict[str, tuple[int, int]] = {}
    result = benchmark(
        small_digits(), SMALL, out=path, entries=OWN, progress=lambda stage, a, b: stages.__setitem__(stage, (a, b))
    )
    return path, result, stages


def test_a_whole_benchmark(done) -> None:
    path, result, stages = done
    rows = {row["name"]: row for row in result["entries"]}
    assert list(rows) == ["guess", "broken", "too-large", "task-vectors-1"]
    assert rows["broken"]["error"] == "ValueError: this method <never> works"
    assert "pooled" not in rows["broken"]
    assert rows["too-large"]["skipped"] == "more than 3 tasks"
    assert rows["task-vectors-1"]["error"] is None
    assert rows["task-vectors-1"]["cost"]["share"] > rows["guess"]["cost"]["share"] == 0
    assert -1 <= rows["task-vectors-1"]["pooled"]["mean"] <= 1
    (judged,) = result["groupings"]
    assert {row["name"] for row in judged["candidates"]} == set(rows) - {"broken", "too-large"} | {
        "single-task",
        "all-in-one",
    }
    assert min(row["regret"] for row in judged["candidates"]) >= 0
    bank = result["bank"]
    assert (bank["subsets"], bank["replicates"], bank["pairs"]) == (8, 3, 6)
    assert bank["trainings"] == 8 * 4 + 1 + 6 * 2 + 6
    assert stages["bank: subsets"] == (24, 24)
    assert stages["methods"] == (4, 4)
    assert read_result(path / "benchmark.json")["bed"]["name"] == "small <digits>"


def test_a_finished_benchmark_comes_back_with_the_same_numbers(done, monkeypatch: pytest.MonkeyPatch) -> None:
    path, result, _ = done

    def refuse(*_: object, **__: object):
        raise AssertionError("trained again")

    monkeypatch.setattr(units, "fit", refuse)
    again = benchmark(small_digits(), SMALL, out=path, entries=OWN)
    assert again["references"] == result["references"]
    for one, other in zip(again["entries"], result["entries"], strict=True):
        assert without_seconds(one) == without_seconds(other)
    assert again["groupings"] == result["groupings"]


def without_seconds(value):
    if isinstance(value, dict):
        return {name: without_seconds(inner) for name, inner in value.items() if name != "seconds"}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


class Kill(Exception):
    pass


def test_a_killed_bank_goes_on_and_gives_the_same_numbers(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = small_digits()
    plan = BankPlan((2,), subsets=6, replicates=2, common=0, pool=0, singles=1, pairs=0)
    whole = make_bank(work, plan)
    real, calls = units.fit, []

    def dying(*args, **options):
        calls.append(args)
        if len(calls) == 3:
            raise Kill
        return real(*args, **options)

    monkeypatch.setattr(units, "fit", dying)
    with pytest.raises(Kill), RunDirectory(tmp_path, fingerprint=fingerprint(work), settings={}) as store:
        make_bank(work, plan, context=Context(store=store))
    with RunDirectory(tmp_path, fingerprint=fingerprint(work), settings={}) as store:
        resumed = make_bank(work, plan, context=Context(store=store))
    assert len(calls) == 5  # two replicates, alone twice, everything
    for part in ("test", "alone", "everything"):
        np.testing.assert_array_equal(getattr(resumed, part).values, getattr(whole, part).values)


def test_a_bank_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    work, store = small_digits(), MemoryRun()
    monkeypatch.setattr(evaluation_bank, "BLOCK", 4)
    monkeypatch.setattr(units, "fit", counted := Counted(units.fit))
    small = {"sizes": (2,), "common": 0, "pool": 0, "singles": 1, "pairs": 0}
    first = make_bank(work, BankPlan(subsets=4, replicates=1, **small), context=Context(store=store))
    before = counted.jobs
    second = make_bank(work, BankPlan(subsets=8, replicates=2, **small), context=Context(store=store))
    assert counted.jobs - before == 4 * 2 + 4
    np.testing.assert_array_equal(second.test.values[:1, :4], first.test.values)
    assert bank_module.Bank is type(second)
    assert second.pairs.subsets.shape == (0, 5)


class Counted:
    def __init__(self, real):
        self.real, self.jobs = real, 0

    def __call__(self, work, jobs, **rest):
        self.jobs += len(jobs)
        return self.real(work, jobs, **rest)


class Balance(HTMLParser):
    """Every element that is opened is closed."""

    VOID = ("meta", "link", "br", "line", "circle", "polyline", "input")

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_escaped(done, tmp_path) -> None:
    _, result, _ = done
    page = write_page([result, result], tmp_path / "deep" / "benchmark.html").read_text(encoding="utf-8")
    parser = Balance()
    parser.feed(page)
    assert not parser.open
    tags = [tag for tag, _ in parser.seen]
    assert tags.count("section") == 2
    assert tags.count("circle") == 2 * 2  # two methods on two data sets
    assert "small &lt;digits&gt;" in page
    assert "<guess>" not in page
    assert "this method &lt;never&gt; works" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "nan" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL).lower().split()
    with pytest.raises(SettingError, match="at least one"):
        render([])


def test_points_and_lines_of_a_panel(done) -> None:
    _, result, _ = done
    one = panel(result)
    rows = sorted_rows(result)
    assert [rows[point.number - 1]["label"] for point in one.points] == [point.label for point in one.points]
    assert one.across(0.0) == 0
    assert one.across(1.0) == 1 - (one.right - 0) / (one.right - one.left)
    assert one.up(1.0) == 1
    assert one.up(-9) == 0
    labels = sorted(line.place for line in one.lines)
    assert all(b - a > 0.04 for a, b in itertools.pairwise(labels))


def test_circles_step_aside_and_no_further_than_needed(done) -> None:
    _, result, _ = done
    one = panel(result)
    same = replace(one, points=(*one.points[:1] * 4, replace(one.points[0], share=1.0)), left=-4.0, right=0.0)
    steps = same.aside(800, 400, 9)
    assert (steps[0], steps[4]) == (0, 0)
    assert all(abs(a - b) >= 16 for a, b in itertools.combinations(steps[:4], 2))
    assert max(map(abs, steps)) <= 45
    xs, ys = zip(*((800 * one.across(p.share), 400 * one.up(p.skill)) for p in one.points), strict=True)
    for step, x, y in zip(one.aside(800, 400, 9), xs, ys, strict=True):
        alone = all(math.dist((x, y), other) > 60 for other in zip(xs, ys, strict=True) if other != (x, y))
        assert step == 0 or not alone


def test_the_console_has_the_best_first(done) -> None:
    _, result, _ = done
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_benchmark(result, console)
    text = console.export_text()
    order = sorted_rows(result)
    first, second = (text.index(row["label"]) for row in order[:2])
    assert first < second
    assert order[0]["pooled"]["mean"] >= order[1]["pooled"]["mean"]
    assert "broken failed: ValueError" in text
    assert "left out: more than 3 tasks" in text
    assert "noise ceiling" in text


def test_markdown_goes_between_its_markers(done, tmp_path) -> None:
    _, result, _ = done
    table = result_table(result)
    assert "| a <guess> |" in table
    assert all(line.count("|") == table.splitlines()[0].count("|") for line in table.splitlines()[:5])
    old = "# A\n<!-- benchmark: small <digits> -->\nold\n<!-- end -->\n<!-- benchmark: overview --><!-- end -->\n"
    old += "<!-- benchmark: yeast -->kept<!-- end -->"
    new = fill(old, [result])
    assert table in new
    assert overview([result]) in new
    assert "old" not in new
    assert "<!-- benchmark: yeast -->kept<!-- end -->" in new
    assert fill(new, [result]) == new
    page = tmp_path / "benchmark.md"
    page.write_text(old)
    assert fill_page(page, [result])
    assert not fill_page(page, [result])
    page.write_text("nothing")
    with pytest.raises(StoreError, match="marker"):
        fill_page(page, [result])


def test_figures_are_drawn(done, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    _, result, _ = done
    drawn = write_figure([result, result], tmp_path / "a" / "plot.svg").read_text()
    assert drawn.count("noise ceiling") == 2
    words = html.unescape(drawn)
    assert all(words.count(f"{point.number}  {point.label}") == 2 for point in panel(result).points)
    with pytest.raises(SettingError, match="ends in"):
        write_figure([result], tmp_path / "plot.doc")


def test_entries_are_found_by_name_and_by_method() -> None:
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert [entry.name for entry in select(["secants"])] == [f"secants-{k}" for k in (1, 2, 4, 8)]
    assert [entry.name for entry in select(["secants-2", "tag", "tag"])] == ["tag", "secants-2"]
    assert [entry.name for entry in select(["cosine"], OWN)] == ["cosine"]
    assert select() == ENTRIES
    for bad, words in ((["tga"], "Did you mean 'tag'"), ([], "at least one")):
        with pytest.raises(SettingError, match=words):
            select(bad)
    assert json.loads(json.dumps([entry.to_dict() for entry in ENTRIES]))[0]["name"] == names[0]


def test_settings_that_cannot_be_meant(tmp_path) -> None:
    for bad in ({"subsets": 1}, {"resamples": -1}, {"group_replicates": 0}, {"seed": -1}):
        with pytest.raises(SettingError, match=next(iter(bad))):
            Options(**bad)
    with pytest.raises(SettingError, match=r"`groups` should be at most 5, .* 'small <digits>'. Found 9"):
        benchmark(small_digits(), Options(groups=(9,)))
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match=r"`figure` .* is a file"):
        check_figure(tmp_path / "file" / "plots" / "skill.png")
    assert check_figure(tmp_path / "new" / "plots" / "skill.png").name == "skill.png"
    assert not (tmp_path / "new").exists()
    x = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(SettingError, match="at least 3 tasks"):
        find_data(from_arrays(x, x[:, :2]))
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(StoreError, match="no result"):
        read_result(tmp_path / "other.json")
