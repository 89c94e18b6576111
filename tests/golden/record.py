"""Golden files: what small runs find, kept as text. ``python tests/golden/record.py`` writes them anew.

Whoever changes a number on purpose writes the files anew, reads the difference, and says in the changelog why.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "src")]

from golden import look, workloads  # noqa: E402

#: whose page is kept whole; the others say the same in other numbers
PAGES = ("plain", "mixed", "text")


def options(name: str) -> list[str]:
    """The options of the command line for a workload."""
    return [part for key, value in workloads.ALL[name].items() for part in (f"--{key}", str(value))]


def call(*arguments: str) -> str:
    """What the command line prints, in this process."""
    from typer.testing import CliRunner

    from coterie.cli.app import app

    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100", "NO_COLOR": "1"})
    assert done.exit_code == 0, (arguments, done.stderr, done.exception)
    return done.stdout


def seen(run: Path) -> dict[str, Any]:
    """What a run directory holds."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    files = sorted(path.name for path in run.iterdir() if path.is_file() and not path.name.startswith("."))
    arrays = {name: look.tensors(run / name) for name in files if name.endswith(".safetensors")}
    found = {"files": files, "result": look.settled(result), "units": look.units(run), "arrays": arrays}
    if result["workload"]["name"] in PAGES:
        found["page"] = look.page(run / "report.html")
    return found


def observe(name: str, folder: Path) -> dict[str, Any]:
    """A workload through the command line: run, plan, and its affinity through group."""
    where, run = f"{HERE / 'workloads.py'}:{name}", folder / name
    found = {"console": look.console(call("run", where, *options(name), "--out", str(run))), **seen(run)}
    found["plan"] = look.plan(json.loads(call("plan", where, *options(name), "--json")))
    table = str(run / "affinity.csv")
    found["group"] = look.console(call("group", "--affinity", table, "--groups", "2"))
    found["group with a budget"] = look.console(call("group", "--affinity", table, "--budget", "2"))
    return found


def observe_elsewhere(name: str, folder: Path, executor: Any) -> dict[str, Any]:
    """A run through Python with an executor."""
    import coterie

    coterie.run(f"{HERE / 'workloads.py'}:{name}", out=folder / name, executor=executor, **workloads.ALL[name])
    return seen(folder / name)


def path_of(name: str) -> Path:
    """Where the golden file of a workload is."""
    return HERE / "files" / f"{name}.json"


def dump(value: Any, level: int = 0) -> str:
    """JSON with short entries on one line, so that differences are read line by line."""
    short = json.dumps(value, ensure_ascii=False)
    if len(short) + level <= 118 or not isinstance(value, dict | list):
        return short
    inner, close = "\n" + " " * (level + 1), "\n" + " " * level
    if isinstance(value, dict):
        parts = [f"{json.dumps(key, ensure_ascii=False)}: {dump(entry, level + 1)}" for key, entry in value.items()]
        return "{" + inner + ("," + inner).join(parts) + close + "}"
    return "[" + inner + ("," + inner).join(dump(entry, level + 1) for entry in value) + close + "]"


def main() -> None:
    """Write all files anew, each from a process of its own."""
    names = sys.argv[1:]
    if len(names) == 1:
        with tempfile.TemporaryDirectory() as folder:
            path_of(names[0]).parent.mkdir(exist_ok=True)
            path_of(names[0]).write_text(dump(observe(names[0], Path(folder))) + "\n", encoding="utf-8")
        return
    for name in names or workloads.ALL:
        subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    main()
