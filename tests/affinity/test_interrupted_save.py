"""A saved affinity is the old one or the new one, whatever stops the writing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import coterie
from coterie.affinity import Affinity

OLD = Affinity(np.eye(2), ("a", "b"))
#: the system ends the writing of larger files after so many bytes
FULL = """
import resource, signal, sys
import numpy as np
from coterie.affinity import Affinity
from coterie.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
large = Affinity(np.ones((30, 30)) / 3, tuple(f"task {i}" for i in range(30)))
for write in (lambda: large.save(sys.argv[1]), lambda: large.to_csv(sys.argv[2])):
    try:
        write()
    except StoreError as error:
        print("refused")
"""


def saved(folder: Path) -> tuple[Path, Path, dict[str, bytes]]:
    matrix, table = folder / "A.json", folder / "A.csv"
    OLD.save(matrix)
    OLD.to_csv(table)
    return matrix, table, content(folder)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_the_old_file(
    step: str, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, table, before = saved(tmp_path)
    new = Affinity(np.ones((3, 3)), ("x", "y", "z"))

    def stop(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, step, stop)
        for write in (lambda: new.save(matrix), lambda: new.to_csv(table)):
            with pytest.raises((KeyboardInterrupt, coterie.errors.StoreError)):
                write()
    assert content(tmp_path) == before
    assert Affinity.load(matrix).tasks == Affinity.from_csv(table).tasks == OLD.tasks


@pytest.mark.skipif(sys.platform == "win32", reason="limits of this kind are of Unix")
def test_a_disk_that_is_full_leaves_the_old_file(tmp_path: Path) -> None:
    matrix, table, before = saved(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(coterie.__file__).parents[1])}
    arguments = [sys.executable, "-B", "-c", FULL, str(matrix), str(table)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["refused", "refused"], done.stderr
    assert content(tmp_path) == before
