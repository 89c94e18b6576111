"""Every room can be imported first: nothing works only because something else came before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import coterie

#: other packages are imported once; then each module gets a copy of the process in which it is the first of coterie
FIRST = """
import os, sys
import jinja2, numpy, rich.console, rich.progress, safetensors.torch, scipy.linalg, scipy.optimize, scipy.special
import torch, torch.func, typer
import coterie
LIGHT = set(sys.modules)
assert 'coterie.workload' not in LIGHT, 'coterie itself imports no room'
for name in sys.argv[1:]:
    assert name == "coterie" or name not in sys.modules or name in LIGHT, f"{name} came before it was imported"
    child = os.fork()
    if not child:
        try:
            __import__(name)
        except BaseException as error:
            print(f"{name}: {error!r}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


PACKAGE = Path(coterie.__file__).parent


def modules(*, every: bool) -> list[str]:
    """Modules in the order of their names: all, or rooms and what is in two of them."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if every or (parts[-1] == "__init__" and len(parts) < 4) or parts[1] in ("training", "evaluation"):
            found.append(name)
    return [name for name in found if not name.endswith("__main__")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="copies of a process are of Unix")
@pytest.mark.parametrize("which", ["rooms", pytest.param("all", marks=pytest.mark.slow)])
def test_each_module_can_be_imported_first(which: str) -> None:
    names = modules(every=which == "all")
    assert len(names) > 30
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FIRST, *names], env=environment, capture_output=True, text=True, check=False
    )
    assert not done.stdout, done.stdout
    assert done.returncode == 0, done.stderr
