"""``coterie.plan`` against ``coterie.run``: predicted and real peak memory, disk and time on different workloads.

Each prediction and each run has a process of its own with one thread. Memory is the peak of the resident set
(``ru_maxrss``) of that process, disk the size of all files of the run directory, time that of ``run()`` by the
processor and by the clock on the wall, imports within it included, the loading of data not. Constants of the plan were
settled on the workloads marked as seen; the others were looked at afterwards.

Run: ``python benchmarks/plan.py`` (all, about ten minutes) or ``python benchmarks/plan.py yeast umls``;
``--write`` puts the table into docs/scaling.md.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "plan.json"
PAGE, MARK = Path(__file__).parents[1] / "docs" / "scaling.md", "<!-- plan -->"


def conv() -> Any:
    """Convolutions with BatchNorm, which are trained one model after the other."""
    import numpy as np
    from sklearn.datasets import load_digits
    from torch import nn

    from coterie import Recipe, from_arrays

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            )  # fmt: skip
            self.heads = nn.Linear(128, 6)

        def forward(self, x: Any) -> Any:
            return self.heads(self.trunk(x.view(-1, 1, 8, 8)))

    x, y = load_digits(return_X_y=True)
    recipe = Recipe(learning_rate=3e-3, epochs=10, batch_size=64, check_every=9)
    labels = (y[:900, None] == np.arange(6)).astype(float)
    return from_arrays(
        x[:900].astype("float32") / 16, labels, model=Net(), recipe=recipe, standardize=False, name="conv"
    )


def attention() -> Any:
    """A small transformer with dropout over rows of pixels, eight tasks."""
    import numpy as np
    from sklearn.datasets import load_digits
    from torch import nn

    from coterie import Recipe, from_arrays

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 32)
            self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
            self.heads = nn.Linear(32, 8)

        def forward(self, x: Any) -> Any:
            return self.heads(self.layer(self.embed(x.view(-1, 8, 8))).mean(1))

    x, y = load_digits(return_X_y=True)
    recipe = Recipe(learning_rate=3e-3, epochs=6, batch_size=64, patience=2)
    labels = (y[:900, None] == np.arange(8)).astype(float)
    return from_arrays(
        x[:900].astype("float32") / 16, labels, model=Net(), recipe=recipe, standardize=False, name="attention"
    )


def wide() -> Any:
    """Many examples and wide layers: memory beyond the interpreter's."""
    import numpy as np

    from coterie import Recipe, from_arrays

    rng = np.random.default_rng(0)
    x = rng.normal(size=(9000, 64)).astype("float32")
    hidden = np.tanh(x @ rng.normal(size=(64, 6)) / 8)
    y = hidden @ rng.normal(size=(6, 8)) + 0.5 * rng.normal(size=(9000, 8))
    return from_arrays(x, y, hidden=(128, 64), recipe=Recipe(epochs=5, batch_size=128), name="wide")


#: name -> (workload, settings of the run, whether it was seen while constants were settled)
CASES: dict[str, tuple[str | Callable[[], Any], dict[str, Any], bool]] = {
    "digits": ("digits", {}, True),
    "yeast": ("yeast", {}, True),
    "chemicals": ("chemicals", {"groups": 5}, True),
    "conv": (conv, {}, True),
    "water": ("water", {}, True),
    "umls": ("umls", {}, False),
    "attention": (attention, {}, False),
    "wide, random directions": (
        wide, {"method": "gradients", "groups": 3}, False
    ),
}  # fmt: skip


def settings(name: str) -> tuple[Any, dict[str, Any]]:
    """The workload and the options of a case."""
    from coterie.affinity import GradTAE
    from coterie.workload import load_workload

    what, options, _ = CASES[name]
    options = {"seeds": 2, **options}
    if options.get("method") == "gradients":
        options["method"] = GradTAE(directions="random", count=400, bases=1, ridge="by-loss")
    return load_workload(what) if isinstance(what, str) else what(), options


def child(kind: str, name: str) -> dict[str, Any]:
    """Plan or run here, and say what it took."""
    from coterie import pipeline

    workload, options = settings(name)
    cpu, wall = time.process_time(), time.perf_counter()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if kind == "plan":
            found = pipeline.plan(workload, **options)
        else:
            out = Path(folder) / "run"
            result = pipeline.run(workload, out=out, **options)
            found["disk_bytes"] = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
            found["facts"] = [note for note in result.result["notes"] if "features" in note][:1]
    found["took"] = {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - wall}
    found["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def in_child(kind: str, name: str) -> dict[str, Any]:
    """:func:`child` in a new process."""
    line = [sys.executable, "-W", "ignore", __file__, "--child", kind, name]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])


def compare(name: str) -> dict[str, Any]:
    """One row of the table."""
    said, real = in_child("plan", name), in_child("run", name)
    totals = said["totals"]
    pairs = {
        "memory": (totals["peak_memory_bytes"], real["peak_memory_bytes"]),
        "disk": (totals["disk_bytes"], real["disk_bytes"]),
        "cpu": (totals["cpu_seconds"], real["took"]["cpu_seconds"]),
        "wall": (totals["seconds"], real["took"]["seconds"]),
    }
    return {
        "name": name,
        "seen": CASES[name][2],
        **{key: {"predicted": a, "real": b, "ratio": a / b} for key, (a, b) in pairs.items()},
        "seconds_at_most": totals["seconds_at_most"],
        "plan": said["took"],
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "rows": said["rows"],
        "totals": totals,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    lines = [
        "| workload | peak memory, MiB | ratio | disk, MB | ratio | CPU s | ratio | wall s | ratio | plan, CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["name"] + ("" if row["seen"] else " *")]
        for key, unit, digits in (("memory", 2**20, 0), ("disk", 1e6, 2), ("cpu", 1, 1), ("wall", 1, 1)):
            found = row[key]
            cells.append(f"{found['predicted'] / unit:.{digits}f} / {found['real'] / unit:.{digits}f}")
            cells.append(f"{found['ratio']:.2f}")
        lines.append(f"| {' | '.join(cells)} | {row['plan']['cpu_seconds']:.1f} |")
    return "\n".join([*lines, "", "Predicted / real. * not looked at while the constants of the plan were settled."])


def fill(text: str) -> None:
    """Put the table between the markers of the page."""
    parts = PAGE.read_text().split(MARK)
    if len(parts) != 3:
        raise SystemExit(f"{PAGE} should have the marker {MARK} twice.")
    PAGE.write_text(f"{parts[0]}{MARK}\n\n{text}\n\n{MARK}{parts[2]}")


def main() -> None:
    """Compare, print, write; rows of the same name replace earlier ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(CASES)}")
    parser.add_argument("--write", action="store_true", help="also fill docs/scaling.md in")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(child(*asked.child)))
        return
    known = {row["name"]: row for row in json.loads(RESULT.read_text())["rows"]} if RESULT.exists() else {}
    for name in asked.names or CASES:
        known[name] = compare(name)
        print(table([known[name]]).splitlines()[2], flush=True)
        rows = [known[case] for case in CASES if case in known]
        RESULT.write_text(json.dumps({"machine": platform.processor() or platform.machine(), "rows": rows}, indent=1))
    text = table([known[case] for case in CASES if case in known])
    print(text)
    if asked.write:
        fill(text)


if __name__ == "__main__":
    main()
