"""Partners of a target, and the formula that a page carries."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from coterie.errors import StoreError
from coterie.report.html import render
from coterie.report.partners import parse_formula, partner_rows
from report.sample_result import sample_result, with_formula


def small(errors: float | None = 0.01) -> dict[str, Any]:
    """Three tasks: b helps a, c hurts it; the others are alike to b and c."""
    effects = [[0.0, 0.05, 0.01], [0.02, 0.0, 0.02], [0.0, 0.0, 0.0]]
    return {
        "tasks": ["a", "b", "c"], "effects": effects, "errors": [[errors] * 3] * 3, "level": [0.1, 0.0, -0.1],
        "slope": [0.0] * 3, "doubt": [[0.0, 0.0, 0.0, -3.0, 0.0]] * 3, "off": [0.0] * 3, "power": 0.0, "size": 3,
    }  # fmt: skip


def test_differences_are_centred_and_the_level_holds_the_mean() -> None:
    formula = parse_formula(small())
    assert formula is not None
    assert np.nanmean(formula.differences, axis=1) == pytest.approx(0.0)
    assert formula.differences[0, 1] == pytest.approx(0.02)
    assert formula.levels == pytest.approx([0.1 + 2 * 0.03, 2 * 0.02, -0.1])  # two average partners
    assert formula.level_errors == pytest.approx(np.exp(-3.0))


def test_a_partner_is_named_by_how_sure_its_difference_is() -> None:
    named = {}
    for error in (0.005, 0.015, 0.03, None):
        formula = parse_formula(small(error))
        assert formula is not None
        row = partner_rows(formula)[0]
        named[error] = [(one.name, one.sure, one.mood) for one in (*row.helps, *row.hurts)]
    assert named[0.005] == [("b", "sure", "up"), ("c", "sure", "down")]
    assert named[0.015] == [("b", "likely", "up"), ("c", "likely", "down")]
    assert named[0.03] == []
    assert named[None] == [("b", "", "up"), ("c", "", "down")]


@pytest.mark.parametrize(
    "change",
    [{"effects": [[0.0]]}, {"level": [0.0, None, 0.0]}, {"errors": "none"}, {"size": None}, {"off": [0.0, "x", 0.0]}],
)
def test_a_formula_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="formula"):
        parse_formula({**small(), **change})


def test_the_page_has_names_for_controls_and_regions() -> None:
    """What a screen reader needs: every box in a label, every region that scrolls named and within reach."""
    page = render(with_formula(sample_result()))
    boxes = re.findall(r"<label><input type=\"checkbox\" value=\"\d+\"> <bdi>.+?</bdi></label>", page)
    assert len(boxes) == page.count('type="checkbox"') == 14
    regions = re.findall(r'<div class="scroll"[^>]*>', page)
    assert len(regions) >= 3
    assert all('tabindex="0"' in one and 'role="region"' in one and "aria-label=" in one for one in regions)
    assert 'role="status" aria-live="polite"' in page
    assert not re.findall(r"<th(?![^>]*scope=)(?: [^>]*)?>", page.split('id="partners"')[1].split('id="cost"')[0])


def test_cells_within_the_noise_are_faint() -> None:
    result = with_formula(sample_result())
    result["formula"]["errors"][0][1] = 1.0
    page, names = render(result), result["formula"]["tasks"]
    cell = re.search(rf'<rect class="(\S+) o(\d)"[^>]*><title>{names[0]} ← {names[1]}: .+? ± 100', page)
    assert cell is not None
    assert cell[2] == "0"
    assert len(re.findall(r'<rect class="\S+ o3"', page)) > 5


def test_results_without_a_formula_show_the_affinity() -> None:
    page = render(sample_result())
    assert 'id="what-if"' not in page
    assert "How much the task of a column helps" in page
