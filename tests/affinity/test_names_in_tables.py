"""Names of tasks survive a table, and no spreadsheet takes them for a formula."""

import csv
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.affinity import Affinity
from coterie.affinity.affinity import cell_name, name_cell
from coterie.cli.per_task import read_per_task

HARD = [
    "=1+1",
    "+49",
    "-x",
    "@sum",
    " before",
    "behind ",
    "'",
    "'tis",
    "'=x",
    "''=x",
    "' x",
    "\uff1dfull width",
    "\u00a0no-break",
    'a "quoted", name',
    "1e5",
    "nan",
    "target",
]
SHOWN = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
NAME = st.text(SHOWN, min_size=1, max_size=6) | st.text("='+- x", min_size=1, max_size=5)


def affinity(names):
    return Affinity(np.arange(len(names) ** 2).reshape(len(names), -1) / 7 - 1, tuple(names))


def read_again(names, path):
    affinity(names).to_csv(path / "a.csv")
    found = Affinity.from_csv(path / "a.csv")
    np.testing.assert_array_equal(found.values, affinity(names).values)
    return list(found.tasks)


@pytest.mark.parametrize("names", [HARD, ["1", "2", "3"], ["1.5", "2.5"], ["-1", "+1"], ["0", "1"][::-1], [" a", "a"]])
def test_names_come_back(names, tmp_path):
    assert read_again(names, tmp_path) == names


@given(st.lists(NAME.filter(str.strip), min_size=2, max_size=4, unique=True))
@settings(max_examples=150, deadline=None)
def test_all_names_come_back(tmp_path_factory, names):
    assert read_again(names, tmp_path_factory.getbasetemp()) == names


@given(st.text("='+-@ x", max_size=6))
def test_no_cell_is_a_formula(name):
    cell = name_cell(name)
    assert cell[:1] not in set("=+-@ ")
    assert cell_name(cell) == name
    assert name_cell(cell) != cell or cell == name


def test_the_file_holds_no_formula(tmp_path):
    affinity(HARD).to_csv(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    for cell in [*rows[0], *(row[0] for row in rows[1:])]:
        assert unicodedata.normalize("NFKC", cell)[:1] not in set("=+-@ ")
    assert "'tis" in rows[0]  # names that are harmless stay as they are
    assert all(cell.lstrip("-")[:1].isdigit() for row in rows[1:] for cell in row[1:])


def test_numbers_for_each_task_may_have_the_mark(tmp_path):
    (tmp_path / "c.csv").write_text("task,cost\n'=a,1\nb ,2\n", encoding="utf-8")
    assert read_per_task(tmp_path / "c.csv", ("=a", "b"), "--costs") == (1.0, 2.0)
