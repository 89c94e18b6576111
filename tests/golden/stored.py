"""A run directory as the format of today writes it. It is made once, and stays as it is when the code changes.

``python tests/golden/stored.py`` makes it anew, for a new format only; that of the old one then gets its own folder.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "src")]

import numpy as np  # noqa: E402

import coterie  # noqa: E402
from coterie.workload import Recipe, Task, Workload, from_arrays  # noqa: E402

RUN = HERE / "stored" / "run"
EXPECTED = HERE / "stored" / "expected.json"
OPTIONS: dict[str, Any] = {"groups": 2, "seeds": 2, "bases": 1}


def numbers() -> np.ndarray:
    """Inputs, all of them multiples of 1/8."""
    return np.random.default_rng(7).integers(-16, 17, size=(96, 4)) / 8


def workload() -> Workload:
    """A binary, a multi-class and a regression task."""
    x = numbers()
    y = np.stack([x[:, 0] > 0, np.digitize(x[:, 1], [-0.5, 0.5]), x[:, 0] - x[:, 2]], 1).astype(float)
    tasks = [Task("yes"), Task("class", "multiclass", classes=3), Task("number", "regression", scale=2.0)]
    recipe = Recipe(epochs=3, batch_size=16, check_every=4, learning_rate=0.02)
    return from_arrays(x, y, tasks=tasks, hidden=(4,), recipe=recipe, name="stored", standardize=False)


def predictions(predictor: Any) -> dict[str, Any]:
    """What is served for the first rows."""
    found = predictor.predict(numbers()[:5])
    return {name: np.round(np.asarray(values, dtype=float), 6).tolist() for name, values in found.items()}


def main() -> None:
    """Make the run; its page is left out, which is large and can be written anew."""
    shutil.rmtree(RUN.parent, ignore_errors=True)
    result = coterie.run(workload(), out=RUN, **OPTIONS)
    (RUN / "report.html").unlink()
    (RUN / ".lock").unlink(missing_ok=True)
    manifest = json.loads((RUN / "manifest.json").read_text(encoding="utf-8"))
    manifest["created"]["platform"] = "Linux"  # of no machine in particular
    (RUN / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    EXPECTED.write_text(json.dumps(predictions(coterie.load(result)), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
