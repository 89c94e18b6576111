import os
import sys
import textwrap

import pytest
import torch

from coterie.errors import WorkloadError
from coterie.workload import load_workload, validate
from coterie.workload.fingerprint import fingerprint

# a user's file: 20 lines, own data with missing labels, an own module with BatchNorm
USER_FILE = """\
import numpy as np
from torch import nn
from coterie.workload import Recipe, from_arrays

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(16, 1) for _ in range(4))

    def forward(self, x):
        z = self.trunk(x)
        return [head(z) for head in self.heads]

rng = np.random.default_rng(0)
x = rng.normal(size=(200, 10))
y = (x @ rng.normal(size=(10, 4)) > 0).astype(float)
y[rng.random(y.shape) < 0.3] = np.nan

workload = from_arrays(x, y, tasks=["a", "b", "c", "d"], model=Net(), recipe=Recipe(epochs=2))
"""


def write(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf8")
    return path


def test_a_users_file(tmp_path):
    assert len(USER_FILE.splitlines()) == 20
    path = write(tmp_path, USER_FILE)
    workload = load_workload(f"{path}:workload")
    validate(workload)
    assert workload.reference == f"{path}:workload"
    assert workload.n_tasks == 4
    assert 0.2 < float((~workload.observed).float().mean()) < 0.4
    assert fingerprint(load_workload(workload.reference)) == fingerprint(workload)
    assert fingerprint(load_workload(str(path))) == fingerprint(workload)  # :workload may be left out
    model = workload.build_model(0)
    assert bool(torch.isfinite(workload.outputs(model, workload.batch(workload.split.train))).all())


def test_a_function_a_relative_path_and_a_neighbour(tmp_path, monkeypatch):
    write(tmp_path, "import numpy as np\nx = np.random.default_rng(0).normal(size=(40, 3))\n", "my_neighbour.py")
    path = write(
        tmp_path,
        """
        from coterie.workload import from_arrays

        def make():
            from my_neighbour import x
            return from_arrays(x, x[:, :2])
        """,
    )
    monkeypatch.chdir(tmp_path)
    assert load_workload("mine.py:make").reference == f"{path}:make"


FILES = {
    "fails": ("a = 1\nb = a / 0\n", r"mine.py, line 2: b = a / 0 failed with ZeroDivisionError"),
    "syntax": ("a = 1\nb = = 2\n", r"mine.py, line 2: b = = 2 failed with SyntaxError"),
    "import": ("import no_such_package_of_mine\n", "line 1: import no_such.* ModuleNotFoundError"),
    "exits": ("import sys\nsys.exit(3)\n", r"line 2: sys.exit\(3\) failed with the file ended the program"),
    "no attribute": ("other = 3\n", "has no `workload`.*from_arrays"),
    "wrong type": ("workload = [1, 2]\n", "Found list"),
    "a class": ("class workload: pass\n", "Found type"),
    "function fails": ("def workload():\n    return {}['k']\n", r"line 2: return {}\['k'\] failed with KeyError"),
    "needs arguments": ("def workload(path):\n    return path\n", "TypeError.*path"),
    "returns nothing": ("def workload():\n    pass\n", "returned None"),
    "bad data": (
        "import numpy as np\nfrom coterie.workload import from_arrays\n"
        "workload = from_arrays(np.ones((9, 2)), np.ones((8, 2)))\n",
        r"same number of rows. Found 9 and 8.*\[mine.py, line 3",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_errors_in_the_users_file(case, tmp_path):
    text, message = FILES[case]
    path = write(tmp_path, text)
    with pytest.raises(WorkloadError, match=message):
        load_workload(f"{path}:workload")


def test_a_file_is_read_as_it_is_now(tmp_path, monkeypatch):
    """Also where it has the same size and time of change as before, and Python may keep what it compiles."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "mine.py"
    text = "import numpy as np\nfrom coterie import from_arrays\n"
    text += (
        "x = np.random.default_rng(0).normal(size=(60, 3))\nworkload = from_arrays(x, x[:, :2] + 1, tasks=['a', 'N'])\n"
    )
    for name in ("b", "c"):
        file.write_text(text.replace("N", name))
        os.utime(file, (1e9, 1e9))
        assert load_workload(str(file)).task_names == ("a", name)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_the_workloads_of_the_file_are_named(tmp_path):
    path = write(tmp_path, USER_FILE)
    with pytest.raises(WorkloadError, match=r"has no `task`.*Workloads in the file: workload"):
        load_workload(f"{path}:task")


REFERENCES = {
    "yeats": "Did you mean 'yeast'",
    "no/such/file.py:workload": "does not exist",
    "data.csv": "no built-in workload .* and no Python file",
    "": "no built-in workload",
    "C:/no/such.py:workload": "does not exist",
}


@pytest.mark.parametrize("reference", REFERENCES)
def test_bad_references(reference):
    with pytest.raises(WorkloadError, match=REFERENCES[reference]):
        load_workload(reference)
