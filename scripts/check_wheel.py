"""Build the wheel into a temporary folder and check that it holds every file of the package and nothing else.

Run it with the Python of the development environment: ``.venv/bin/python scripts/check_wheel.py``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def build(folder: Path) -> Path:
    """Build the wheel with the build backend that is installed already; returns its path."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return next(folder.glob("coterie-*.whl"))


def wanted() -> set[str]:
    """Every file of the package, as it should be named in the wheel."""
    source = ROOT / "src"
    files = (path for path in (source / "coterie").rglob("*") if path.is_file())
    return {
        path.relative_to(source).as_posix()
        for path in files
        if "__pycache__" not in path.parts and path.suffix not in (".pyc", ".pyo") and not path.name.startswith(".")
    }


def problems(wheel: Path) -> list[str]:
    """What is wrong with the wheel, one line each; empty when nothing is."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name for name in names if name.endswith(".dist-info/METADATA")).split("/")[0]
        entry = archive.read(f"{info}/entry_points.txt").decode()
    found = {name for name in names if not name.startswith(info)}
    lines = [f"missing: {name}" for name in sorted(wanted() - found)]
    lines += [f"not of the package: {name}" for name in sorted(found - wanted())]
    if "coterie = coterie.cli:main" not in entry:
        lines.append("the command `coterie` is not declared")
    if not any(name.startswith(f"{info}/") and name.endswith("LICENSE") for name in names):
        lines.append("missing: LICENSE")
    if not any(name.endswith((".html", ".jinja", ".j2", ".html.jinja")) for name in found):
        lines.append("missing: the template of the report")
    return lines


def main() -> None:
    """Build, check and say what was found; exit code 1 when something is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        lines = problems(wheel)
        size = wheel.stat().st_size
    if lines:
        raise SystemExit("\n".join(lines))
    sys.stdout.write(f"{wheel.name}: {len(wanted())} files, {size / 1024:.0f} KiB, complete\n")


if __name__ == "__main__":
    main()
