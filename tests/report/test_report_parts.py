"""The parts of the report: numbers, axis, heat map, picture, console, figures."""

from __future__ import annotations

import base64
import io
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.errors import SettingError
from coterie.report import affinity_figure, gains_figure, heatmap, print_summary, summary_text, tables, text
from coterie.report import heatmap as palette
from coterie.report.data import AffinityData, Groups, ReportedInterval, parse
from coterie.report.formats import DASH, count, duration, flops, number, percent, share, shorten, span
from coterie.report.heatmap import png
from coterie.report.tables import axis, nice_ticks, strip
from report.sample_result import NASTY, nasty_result, plain_names, sample_result


def plain(value: str) -> str:
    return value.replace("\u00a0", " ").replace("−", "-")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (percent(0.1234, signed=True), "+12.3 %"),
        (percent(-0.0004, signed=True), "0.0 %"),
        (percent(0.0, signed=True), "0.0 %"),
        (percent(-12.5), "-1,250.0 %"),
        (percent(math.inf), DASH),
        (percent(-3e6), "-3.0e+08 %"),
        (count(2e20), "2.00e+20"),
        (share(0.0004), "< 0.1 %"),
        (share(0.0), "0.0 %"),
        (share(None), DASH),
        (span(0.1, None), ""),
        (flops(999.6e9), "1 TFLOP"),
        (flops(0.0), "0 FLOP"),
        (flops(4e30), "4e+09 ZFLOP"),
        (duration(59.96), "60.0 s"),
        (duration(7199.6), "2 h 0 min"),
        (duration(3 * 86400 + 3600), "3 days 1 h"),
        (number(0.0), "0.00"),
        (number(123.4), "123"),
        (number(math.nan), DASH),
    ],
)
def test_formats(shown: str, expected: str) -> None:
    assert plain(shown) == expected


@given(st.text(max_size=80), st.integers(3, 60))
def test_shorten_keeps_to_its_limit(value: str, limit: int) -> None:
    short = shorten(value, limit)
    assert len(short) <= limit
    assert (short == value) == (len(value) <= limit)


@given(st.floats(-5, 5), st.floats(1e-4, 5))
def test_ticks_are_inside_and_few(low: float, width: float) -> None:
    ticks = nice_ticks(low, low + width)
    assert 1 <= len(ticks) <= 6
    assert all(low - 1e-8 <= tick <= low + width + 1e-8 for tick in ticks)


def test_ends_that_are_ticks_are_not_lost_to_rounding() -> None:
    assert nice_ticks(0.0, 0.6 - 1e-16) == (0.0, 0.2, 0.4, 0.6)
    assert nice_ticks(0.1 * 3, 0.7)[0] == 0.3  # 0.30000000000000004
    for step in (0.1, 0.2, 0.7, 1e-5):
        low, high = 3 * step, 6 * step
        assert len(nice_ticks(low, high, 3)) == len(nice_ticks(low - 1e-12 * step, high + 1e-12 * step, 3))
    assert nice_ticks(2.0, 2.0) == (2.0,)  # an empty range


def test_axis_keeps_one_extreme_row_from_flattening_the_others() -> None:
    usual = [ReportedInterval(0.01 * i, 0.01 * i - 0.01, 0.01 * i + 0.01) for i in range(6)]
    extreme = ReportedInterval(-50.0, -60.0, 0.02)
    ax = axis([*usual, extreme])
    assert ax.low > -1
    assert all(ax.inside(i.low or 0) and ax.inside(i.high or 0) for i in usual)
    assert "<path" in strip(extreme, ax)
    assert "<path" not in strip(usual[0], ax)
    assert 0.0 in ax.ticks


def test_strip_colours_follow_the_verdict() -> None:
    ax = axis([ReportedInterval(0.0, -0.1, 0.1)])
    for interval, name in [
        (ReportedInterval(0.05, 0.01, 0.09), "test up"),
        (ReportedInterval(-0.05, -0.09, -0.01), "test down"),
        (ReportedInterval(0.01, -0.01, 0.03), "test level"),
        (ReportedInterval(0.05, None, None), "test level"),
    ]:
        assert f'class="{name}"' in strip(interval, ax)
    assert "<circle" not in strip(ReportedInterval(), ax)


def test_tally_counts_verdicts() -> None:
    chosen = parse(nasty_result()).recommended
    assert chosen is not None
    counts = text.tally(chosen)
    verdicts = [t.test.verdict for t in chosen.tasks]
    assert (counts.helped, counts.harmed) == (verdicts.count(1), verdicts.count(-1))
    assert counts.unknown == 1
    assert counts.helped + counts.harmed + counts.within + counts.unknown == len(chosen.tasks)


def test_the_comparison_does_not_count_as_estimation() -> None:
    data = parse(sample_result())
    assert data.costs[-1].share == 0.21
    assert plain(text.key_figures(data)[3].value) == "4.2 %"
    estimation, everything = tables.cost_totals(data)
    assert plain(estimation.flops) == "4.3 TFLOP"
    assert plain(everything.flops) == "26.3 TFLOP"


def test_costs_are_told_in_ordinary_trainings() -> None:
    result = sample_result()
    for row in result["costs"]:
        row["trainings"] = row["flops"] / 1e11
    result["costs"].append({"stage": "search for groups", "flops": 0.0, "seconds": 9.0, "trainings": 0.0})
    data = parse(result | {"training_flops": 1e11})
    estimation, everything = tables.cost_totals(data)
    assert (estimation.trainings, everything.trainings) == ("43.0", "263")
    assert plain(everything.seconds) == "45.6 s"
    assert plain(tables.cost_rows(data)[-1].trainings) == text.DASH
    figure = text.key_figures(data)[3]
    assert (figure.value, plain(figure.detail)) == ("43.0", "ordinary trainings (100 GFLOP each)")
    assert "one model for a usual group (100" in plain(text.costs_meaning(data))


def test_intervals_say_what_they_are() -> None:
    result = sample_result()
    assert plain(text.interval_name(parse(result))) == "95 % interval over 3 training seeds and the examples"
    result["comparison"]["interval"] = "range of 3 seeds"
    assert text.interval_sentence(parse(result)) == "Lines: range of 3 seeds."
    assert text.interval_sentence(parse(sample_result(seeds=1))) == "One training seed, so no intervals."


def test_losses_and_missing_labels_say_their_units() -> None:
    result = sample_result()
    result["workload"]["tasks"] = [{"name": "a", "kind": "regression"}, {"name": "b", "kind": "multiclass"}]
    words = text.loss_sentence(parse(result))
    assert "units of its training variance" in words
    assert "multi-class tasks the mean log loss" in words
    assert "binary" not in words
    assert dict(tables.facts(parse(result)))["missing labels"].endswith("of the table of examples x tasks")
    result["workload"]["missing"] = 0.0
    assert "table" not in dict(tables.facts(parse(result)))["missing labels"]
    result["workload"]["tasks"] = [{"name": "a", "kind": "own"}]
    assert text.loss_sentence(parse(result)) == ""


def cells(svg: str) -> list[tuple[str, str]]:
    return re.findall(r'<rect class="(\w+)"[^>]*><title>([^<]*)</title></rect>', svg)


def test_heat_map_is_ordered_by_groups_with_rows_as_targets() -> None:
    values = np.array([[0.0, 0.10, -0.10], [0.02, 0.0, 0.05], [np.nan, 0.0, 0.0]])
    data = AffinityData(("a", "b", "c"), values, None, "gain", "x")
    groups = Groups((("c",), ("b", "a")), {"c": 0, "a": 1, "b": 1}, None, None, "")
    entries = [(kind, plain(tip)) for kind, tip in cells(heatmap.heatmap(data, groups).svg) if kind != "band"]
    tips = [tip for _, tip in entries]
    assert tips == [
        "c: the task itself",
        "c ← a: not estimated",
        "c ← b: 0.0 %",
        "a ← c: -10.0 %",
        "a: the task itself",
        "a ← b: +10.0 %",
        "b ← c: +5.0 %",
        "b ← a: +2.0 %",
        "b: the task itself",
    ]
    kinds = [kind for kind, _ in entries]
    assert kinds[:3] == ["self", "miss", "z"]
    assert kinds[3] == f"n{palette.STEPS}"
    assert kinds[5] == f"p{palette.STEPS}"


def test_counts_appear_in_tooltips() -> None:
    svg = heatmap.heatmap(parse(nasty_result()).affinity, None).svg  # type: ignore[arg-type]
    assert "(12 subsets)" in svg


def test_large_map_is_one_picture_with_the_right_colours() -> None:
    image = pytest.importorskip("PIL.Image")
    names = plain_names(80)
    values = np.full((80, 80), 0.01)
    values[3, 5], values[5, 3], values[7, 7] = -9.0, np.nan, 0.5
    svg = heatmap.heatmap(AffinityData(tuple(names), values, None, "gain", ""), None).svg
    pictures = re.findall(r'class="only-(\w+)"[^>]*href="data:image/png;base64,([^"]+)"', svg)
    assert [mode for mode, _ in pictures] == ["light", "dark"]
    for mode, coded in pictures:
        pixels = np.asarray(image.open(io.BytesIO(base64.b64decode(coded))).convert("RGBA"))
        assert pixels.shape == (80, 80, 4)
        assert tuple(pixels[3, 5, :3]) == palette.colour(mode, -1.0)
        assert tuple(pixels[0, 1, :3]) == palette.colour(mode, 1.0)
        assert pixels[5, 3, 3] == pixels[7, 7, 3] == 0
        assert pixels[0, 1, 3] == 255


def test_png_round_trip() -> None:
    image = pytest.importorskip("PIL.Image")
    index = np.arange(6).reshape(2, 3)
    colours = [(i, 2 * i, 255 - i) for i in range(6)]
    pixels = np.asarray(image.open(io.BytesIO(png(index, colours, transparent=4))).convert("RGBA"))
    assert [tuple(p[:3]) for p in pixels.reshape(6, 4)] == colours
    assert pixels[..., 3].ravel().tolist() == [255, 255, 255, 255, 0, 255]


def test_huge_matrices_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heatmap, "PIXELS", 3)
    values = np.arange(25.0).reshape(5, 5)
    values[0, 0] = np.nan
    small = heatmap._shrink(values)
    assert small.shape == (3, 3)
    assert small[0, 0] == pytest.approx(np.nanmean(values[:2, :2]))
    assert small[2, 2] == values[4, 4]


def test_scale_centres_at_zero_unless_raw_values_lie_on_one_side() -> None:
    values = np.array([[9.0, -0.4, -0.6], [-0.5, 9.0, -0.5], [-0.5, -0.5, 9.0]])
    assert heatmap.scale(values, "gain")[0] == 0.0
    assert heatmap.scale(values, "raw")[0] == -0.5
    assert heatmap.scale(np.full((2, 2), np.nan), "gain") == (0.0, 1.0)


def _luminance(rgb: tuple[int, int, int]) -> float:
    linear = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _seen_by(rgb: tuple[int, int, int], blindness: str) -> np.ndarray:
    """Simulated colour blindness, complete (Machado, Oliveira and Fernandes 2009, on linear RGB)."""
    matrices = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }
    return np.clip(np.array(matrices[blindness]) @ (np.array(rgb) / 255) ** 2.2, 0, 1) ** (1 / 2.2)


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("blindness", ["protan", "deutan", "tritan"])
def test_scale_is_safe_for_the_colour_blind(mode: str, blindness: str) -> None:
    for level in (0.5, 0.75, 1.0):
        good, bad = (_seen_by(palette.colour(mode, sign * level), blindness) for sign in (1, -1))
        assert np.linalg.norm(good - bad) > 0.25


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_strength_is_also_lightness(mode: str) -> None:
    for sign in (1, -1):
        light = [_luminance(palette.colour(mode, sign * s / 12)) for s in range(13)]
        assert light == sorted(light, reverse=mode == "light")


def test_console_shows_everything_and_no_markup_is_read() -> None:
    console_module = pytest.importorskip("rich.console")
    out = io.StringIO()
    console = console_module.Console(file=out, width=110, force_terminal=False)
    print_summary(nasty_result(), console, paths={"report": "runs/yeast/report.html"})
    shown = out.getvalue()
    assert shown.startswith("Train 4 models")
    for expected in (
        NASTY[0],
        "[bold]rich[/bold]",
        "base models",
        "+3.1",
        "warning: DataWarning",
        "runs/yeast/report.html",
    ):
        assert expected in shown
    assert "\x1b" not in shown
    assert not re.search(r"\b(nan|None)\b", shown)


def test_summary_text_begins_with_the_recommendation() -> None:
    lines = summary_text(sample_result(do_not_bother=True)).splitlines()
    assert lines[0].startswith("Do not bother")
    assert summary_text({}).startswith("No recommendation")


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.filterwarnings("ignore:Matplotlib currently does not support")
def test_figures_draw_names_with_dollars() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    data = parse(nasty_result())
    assert data.affinity is not None
    assert data.found is not None
    ax = affinity_figure(data.affinity.values, data.affinity.tasks, groups=data.found.groups)
    assert len(ax.patches) == 4
    ax.figure.savefig(io.BytesIO(), format="png")
    rows = [(t.test.mean, t.test.low, t.test.high) for t in data.candidates[2].tasks]
    gains = gains_figure(list(data.affinity.tasks), rows, title="over 3 seeds")
    gains.figure.savefig(io.BytesIO(), format="png")
    matplotlib.pyplot.close("all")
    with pytest.raises(SettingError, match="values: shape"):
        affinity_figure(np.zeros((2, 3)), ["a", "b"])
    with pytest.raises(SettingError, match="gains: 1 entries"):
        gains_figure(["a", "b"], [(0.0, None, None)])


def test_the_large_figure_is_the_gain_that_the_first_line_claims() -> None:
    """Over one model for all tasks; of the best of the others where one model is recommended."""
    result = sample_result()
    figure = text.key_figures(parse(result))[1]
    assert figure.label == "gain over one model"
    assert plain(figure.value) == "+2.3 %"  # 3.1 % over single-task models, of which one model has 0.8 %
    denied = text.key_figures(parse(sample_result(do_not_bother=True)))[1]
    assert denied.value == figure.value
    assert denied.detail.startswith("on test rows; of grouped (3), the best of the others")
    single = sample_result()
    single["recommendation"]["candidate"] = "single-task"
    assert plain(text.key_figures(parse(single))[1].value) == "-0.8 %"
    old = sample_result()
    for row in old["comparison"]["candidates"]:
        del row["over_one_model"]
    assert text.key_figures(parse(old))[1].value == DASH


def test_undecided_is_said_first() -> None:
    result = sample_result()
    result["recommendation"] |= {"verdict": "undecided", "text": "Best guess: 3 models."}
    assert text.headline(parse(result)) == "Undecided: Best guess: 3 models."
    result["recommendation"]["text"] = ""
    assert text.headline(parse(result)) == "Undecided: the best guess is grouped (3) with 3 models."
    del result["recommendation"]["verdict"]  # a result of an earlier version
    assert text.headline(parse(result)) == "Use grouped (3) with 3 models."


def test_the_page_says_what_counts_in_totals_and_in_times() -> None:
    data = parse(sample_result())
    assert "losses below the noise of their mean" in dict(text.definitions(data))["Gain"]
    assert "of trainings in several processes, the time of each counts" in text.costs_meaning(data)


@pytest.mark.parametrize(("mode", "page"), [("light", "fdfdfb"), ("dark", "16181c")])
def test_names_of_groups_can_be_read_on_the_page(mode: str, page: str) -> None:
    """Titles of groups have their colour: WCAG asks for a contrast of 4.5."""

    def light(code: str) -> float:
        parts = [int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for group in range(palette.GROUP_COLOURS):
        pair = sorted([light(palette.group_colour(mode, group).lstrip("#")), light(page)])
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, group
