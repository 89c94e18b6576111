"""Tables of runs and of subsets."""

import pytest

from coterie import create_study
from coterie.errors import DataWarning, SettingError
from coterie.study.table import read_subsets

TABLE = """\ufeffa,b,c,seed,cost,variant
0.5,0.25,,1,2.5,
,trained,0.75,,,half

0.5+-0.1,,1e-3,2,1,
"""


@pytest.fixture
def study(tmp_path):
    return create_study("s", tasks=["a", "b", "c"], storage=tmp_path / "s.journal")


def write(tmp_path, text):
    path = tmp_path / "runs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_is_a_run(study, tmp_path):
    added = study.add_table(write(tmp_path, TABLE))
    assert [(run.tasks, run.seed, run.cost, run.variant, run.state) for run in added] == [
        (("a", "b"), 1, 2.5, "", "told"),
        (("b", "c"), None, None, "half", "told"),
        (("a", "c"), 2, 1.0, "", "told"),
    ]
    assert added[1].losses == {"c": (0.75, 0.0)}
    assert added[2].losses == {"a": (0.5, 0.1), "c": (0.001, 0.0)}


def test_what_is_there_already_is_left_out(study, tmp_path):
    study.add_table(write(tmp_path, TABLE))
    with pytest.warns(DataWarning, match="3 of 4 rows are in the study already"):
        added = study.add_table(write(tmp_path, TABLE + "0.1,,,7,,\n"))
    assert [run.tasks for run in added] == [("a",)]
    assert len(study.runs) == 4


def test_a_frame_is_read_as_its_csv(study, tmp_path):
    pandas = pytest.importorskip("pandas")
    path = write(tmp_path, TABLE)
    study.add_table(path)
    with pytest.warns(DataWarning, match="3 of 3 rows"):
        assert study.add_table(pandas.read_csv(path)) == []
    frame = pandas.DataFrame({"a": [0.5, None], "b": [(0.25, 0.1), 1.0]})
    assert [run.losses for run in study.add_table(frame)] == [{"a": (0.5, 0.0), "b": (0.25, 0.1)}, {"b": (1.0, 0.0)}]


def test_zero_shot_and_targets_of_their_own(tmp_path):
    study = create_study("z", tasks=["a", "b"], targets=["b", "t"], zero_shot=True, storage=tmp_path / "z.journal")
    (run,) = study.add_table(write(tmp_path, "a,b,t\ntrained,0.4 zero-shot,0.2\n"))
    assert (run.tasks, run.losses) == (("a",), {"b": (0.4, 0.0), "t": (0.2, 0.0)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,z\n1,2,3\n", r"unknown columns \['z'\].*Nothing was added"),
        ("x,y\n1,2\n", "unknown columns"),
        ("a,a\n1,2\n", "columns twice"),
        ("seed,cost\n1,2\n", "no column of a task"),
        ("", "is empty"),
        ("a,b\n1,2\n1\n", "line 3 has 1 cells, but the header has 2"),
        ("a,b\n1,2\n1,nan\n", "line 3: the loss of 'b' should be a finite number"),
        ("a,b\n1,2\n1,high\n", "Found 'high'"),
        ("a,b\n1,2\n,\n1,trained x\n", "Found 'trained x'"),
        ("a,b\n1,2\ntrained,trained\n", "line 3: .*loss of at least one task"),
        ("a,b,seed\n1,2,1\n1,2,-1\n", "line 3: `seed` should be a whole number"),
        ("a,b,seed\n1,2,1\n1,3,1\n", "line 3: line 2 has the same tasks and seed 1"),
        ("a,b,cost\n1,2,1\n1,2,0\n", "line 3: Parameter `cost` should be"),
        ("a,b\n1,2\n1,2 zero-shot\n", "line 3: .*'b', which was not in the run"),
        ('a,b\n1,"2\n', "is no CSV"),
    ],
)
def test_tables_that_are_refused_add_nothing(study, tmp_path, text, message):
    with pytest.raises(SettingError, match=message):
        study.add_table(write(tmp_path, text))
    assert study.runs == ()


def test_another_loss_for_a_run_that_is_there_is_refused(study, tmp_path):
    study.add(["a"], {"a": 1.0}, seed=1)
    with pytest.raises(SettingError, match=r"line 3: .*run 0, which is told"):
        study.add_table(write(tmp_path, "a,b,seed\n1,1,1\n2,,1\n"))
    assert len(study.runs) == 1


def test_any_mark_is_membership(study, tmp_path):
    masks, variants = read_subsets(write(tmp_path, "c,a,variant\nx,,\n0,1,half\n"), study.settings)
    assert masks.tolist() == [[False, False, True], [True, False, True]]
    assert variants == ["", "half"]
    with pytest.raises(SettingError, match="line 2: the subset is empty"):
        read_subsets(write(tmp_path, "c,variant\n,half\n"), study.settings)
