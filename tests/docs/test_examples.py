"""Every script in examples/ runs."""

from pathlib import Path

import pytest

from reference.forked import Scripts

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path: Path, tmp_path: Path, scripts: Scripts):
    done = scripts.run(path, cwd=tmp_path)
    assert done.code == 0, done.text("stderr")
    assert done.text("stdout").strip()
