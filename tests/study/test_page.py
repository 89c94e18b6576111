"""Affinity, groups, page and notebook view of a study."""

import numpy as np
import optuna
import pytest

from coterie import create_study
from coterie.errors import SettingError, WorkloadError

HALF = {"a": 0, "<b>": 0, "c": 1, "d": 1}


@pytest.fixture(scope="module")
def study():
    made = create_study("<mine>", tasks=list(HALF), models=2, storage=optuna.storages.InMemoryStorage())
    for number in range(1, 16):  # every subset
        tasks = [task for place, task in enumerate(HALF) if number >> place & 1]
        made.add(tasks, {t: 1 - 0.1 * sum(1 if HALF[t] == HALF[o] else -1 for o in tasks if o != t) for t in tasks})
    return made


def test_affinity_is_what_a_partner_changes(study):
    found = study.affinity()
    halves = np.array(list(HALF.values()))
    true = np.where(halves[:, None] == halves, 0.1, -0.1) * (1 - np.eye(4))
    np.testing.assert_allclose(found.values, true, atol=0.02)
    assert found.tasks == study.tasks


def test_grouping_is_what_is_recommended(study):
    found = study.grouping()
    assert sorted(found.names) == [("a", "<b>"), ("c", "d")]
    assert found.objective == pytest.approx(study.recommend().objective)


def test_page_and_notebook_escape_names(study, tmp_path):
    page = study.report(tmp_path / "deep" / "page.html").read_text()
    assert "<b>" not in page.replace("<b>15", "")
    assert "&lt;b&gt;" in page
    assert "Who helps whom" in page
    assert page.count("<tr>") >= 15 + 3 + 2
    assert "&lt;b&gt;" in study._repr_html_()
    assert "15 told; the last 12 are shown" in study._repr_html_()


def test_before_any_run(tmp_path):
    empty = create_study("e", tasks=["a", "b"], storage=tmp_path / "e.journal")
    assert "0 runs told: nothing is recommended yet" in empty.report(tmp_path / "e.html").read_text()
    assert "None yet." in empty._repr_html_()
    with pytest.raises(WorkloadError, match="no finished run"):
        empty.grouping()
    with pytest.raises(SettingError, match="no run that was told"):
        empty.affinity()


def test_other_targets_have_no_affinity(tmp_path):
    study = create_study("t", tasks=["a", "b"], targets=["m"], storage=tmp_path / "t.journal")
    study.add(["a"], {"m": 1.0})
    with pytest.raises(SettingError, match="affinity of this study cannot be made"):
        study.affinity()
    with pytest.raises(SettingError, match="grouping of this study cannot be made"):
        study.grouping()
