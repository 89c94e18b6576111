"""Every script in examples/ runs."""

import ast
from pathlib import Path

import pytest

from reference.forked import Scripts

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))
#: three processes that import torch, and an encoder of 22 million numbers; the fast tests run on such clusters in
#: tests/pipeline/test_cluster.py, and train adapters on rows of their own in tests/training/test_shared_base.py
LARGE = {"dask_cluster.py", "mixture_lora.py"}
#: packages that take seconds to be imported, which several examples can share
HEAVY = ("accelerate", "diffusers", "lightning", "peft", "torch_geometric", "transformers")


def heavy_imports(path: Path) -> list[tuple[str, list[str]]]:
    """Modules of heavy packages that a script imports, and the names that it takes from them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return [
        (node.module or "", [alias.name for alias in node.names])
        for node in found
        if (node.module or "").split(".")[0] in HEAVY
    ]


def test_there_are_examples():
    assert len(EXAMPLES) >= 3
    assert {path.name for path in EXAMPLES} >= LARGE
    assert sum(bool(heavy_imports(path)) for path in EXAMPLES) > 3


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] if p.name in LARGE else [], id=p.name) for p in EXAMPLES],
)
def test_example_runs(path: Path, tmp_path: Path, scripts: Scripts):
    done = scripts.run(path, cwd=tmp_path, needs=heavy_imports(path))
    assert done.code == 0, done.text("stderr")
    assert done.text("stdout").strip()
