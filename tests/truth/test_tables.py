"""Published tables: what is in the package is what was published, and tables of one's own."""

import numpy as np
import pytest

from coterie import truth
from coterie.errors import SettingError, StoreError, WorkloadError
from coterie.study.results import Results


@pytest.mark.parametrize("name", ["standley", "standley-alternative", "standley-large", "standley-small-data"])
def test_all_subsets_of_five_tasks_were_trained(name):
    results = truth.load(name)
    full = np.array([not variant for variant in results.variants])
    assert len(np.unique(results.trained[full], axis=0)) == full.sum() == 31
    assert (np.isfinite(results.losses) == results.trained).all()
    assert results.trained[~full].tolist() == np.eye(5, dtype=bool).tolist()
    assert results.costs.tolist() == np.where(full, 1, 0.5).tolist()


def test_losses_are_the_published_ones():
    results = truth.load("standley")
    pair = np.flatnonzero((results.trained == [True, True, False, False, False]).all(1))
    assert results.losses[pair, :2].tolist() == [[0.07858, 0.1833]]
    test = truth.load("standley", test=True)
    both = results.trained
    assert np.corrcoef(results.losses[both], test.losses[both])[0, 1] > 0.98


def test_affinities_are_losses_of_sets_of_sources():
    results = truth.load("taskonomy")
    known = np.isfinite(results.losses)
    assert known.sum() == 814
    assert np.nansum(results.losses, 0) == pytest.approx(-1)  # a target's values are shares
    assert results.trained.any(1).all()
    assert known.any(1).all()


@pytest.mark.parametrize("name", ["regmix-1m", "regmix-1b-test", "olmix-dclm", "olmix-reuse"])
def test_shares_of_mixtures_add_up(name):
    table = truth.load(name)
    assert table.proportions.sum(1) == pytest.approx(1, abs=0.02)
    assert table.values.shape == (len(table.proportions), len(table.metrics))
    assert len(set(table.domains)) == table.proportions.shape[1]


def test_every_name_loads():
    for name in truth.names():
        assert isinstance(truth.load(name), Results | truth.Mixtures)
    with pytest.raises(SettingError, match="standley"):
        truth.load("standly")


def test_a_table_of_ones_own(tmp_path):
    (tmp_path / "mine.csv").write_text("a,b,c\n0.5,0.25,\n,trained,1.5\n")
    results = truth.load("mine", folder=tmp_path)
    assert results.sources == ("a", "b", "c")
    assert results.trained.tolist() == [[True, True, False], [False, True, True]]
    assert np.isnan(results.losses[1, 1])
    assert results.losses[1, 2] == 1.5


@pytest.mark.parametrize(
    ("text", "word"), [("a,b\n1,two\n", "two"), ("a,b\n1\n", "1 cells"), ("a,a\n1,2\n", "different names")]
)
def test_a_table_that_is_none(tmp_path, text, word):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(WorkloadError, match=word):
        truth.load("mine", folder=tmp_path)


def test_a_table_that_is_not_there(tmp_path):
    (tmp_path / "other.csv").write_text("a\n1\n")
    with pytest.raises(StoreError, match="other"):
        truth.load("mine", folder=tmp_path)
