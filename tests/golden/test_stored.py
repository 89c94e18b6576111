"""A run directory of an earlier day is loaded, shown, gone on with, or refused with a clear word."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest

import coterie
from coterie.errors import StoreError
from golden import look, record, stored
from golden.compare import differences

RESULT = json.loads((stored.RUN / "result.json").read_text(encoding="utf-8"))
MADE = json.loads((stored.RUN / "manifest.json").read_text(encoding="utf-8"))["created"]["versions"]["python"]
#: instructions of one's own code are part of a fingerprint, and each minor version of Python has its own
SAME_PYTHON = platform.python_version_tuple()[:2] == tuple(MADE.split(".")[:2])

pytestmark = pytest.mark.filterwarnings("ignore:.*was begun with other versions")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored.RUN, tmp_path / "run"))


def units(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "units").iterdir()}


def same(result: coterie.RunResult) -> list[str]:
    """What differs from the stored result; costs count what was computed in this process, too."""
    parts = ("workload", "settings", "recommendation", "affinity", "grouping", "served", "comparison")
    found = json.loads(json.dumps(result.to_dict()))
    return differences(*(look.settled({part: side[part] for part in parts}) for side in (RESULT, found)))


def test_it_is_served(run: Path) -> None:
    expected = json.loads(stored.EXPECTED.read_text(encoding="utf-8"))
    found = stored.predictions(coterie.load(run))
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


def test_its_page_is_written_again(run: Path) -> None:
    record.call("report", str(run))
    page = look.page(run / "report.html")
    assert RESULT["recommendation"]["text"] in page
    assert any(line.startswith("grouped (2) | ") for line in page)


def test_a_finished_run_is_read(run: Path) -> None:
    before = units(run)
    if not SAME_PYTHON:
        with pytest.raises(StoreError, match=r"Choose another directory|is another one"):
            coterie.run(stored.workload(), out=run, **stored.OPTIONS)
        return
    assert not same(coterie.run(stored.workload(), out=run, **stored.OPTIONS))
    assert units(run) == before


@pytest.mark.skipif(not SAME_PYTHON, reason="the run was made with another version of Python")
def test_a_run_that_was_killed_goes_on(run: Path) -> None:
    before = units(run)
    names = {name: json.loads(data)["name"] for name, data in before.items() if name.endswith(".json")}
    lost = next(name for name in names if names[name] == "compare")
    for name in ("result.json", "serve.json", "serve.safetensors", "comparison.safetensors"):
        (run / name).unlink()
    for suffix in (".json", ".safetensors"):
        (run / "units" / lost).with_suffix(suffix).unlink()
    assert not same(coterie.run(stored.workload(), out=run, **stored.OPTIONS))
    after = units(run)
    assert set(after) == set(before)
    kept = [name for name in before if name.split(".")[0] != lost.split(".")[0]]
    assert all(after[name] == before[name] for name in kept)


@pytest.mark.skipif(not SAME_PYTHON, reason="the run was made with another version of Python")
def test_more_seeds_grow_it(run: Path) -> None:
    before = units(run)
    result = coterie.run(stored.workload(), out=run, **{**stored.OPTIONS, "seeds": 3})
    assert result.comparison.seeds == (0, 1, 2)
    assert before.items() <= units(run).items()


def test_another_format_is_refused(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    (run / "manifest.json").write_text(json.dumps({**manifest, "format": 99}), encoding="utf-8")
    with pytest.raises(StoreError, match="has format 99"):
        coterie.run(stored.workload(), out=run, **stored.OPTIONS)


def test_it_stays_small_and_names_no_machine() -> None:
    files = [path for path in stored.RUN.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000
    manifest = json.loads((stored.RUN / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["workload"]["reference"] is None
    assert manifest["created"]["platform"] == "Linux"
