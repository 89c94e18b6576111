"""The context, and what was written before there was one."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest

from coterie import Affinity, Context, Recipe, SettingError, from_arrays
from coterie._context import DEFAULT_CONTEXT, keywords_into
from coterie._units import NoStore
from coterie.affinity import Estimate, Estimator, PairwiseGainModel, get_estimator
from coterie.affinity.costs import Costs
from coterie.training import fit
from coterie.training.job import Job
from coterie.training.units import UnitCost


@pytest.fixture(scope="module")
def work():
    x = np.random.default_rng(0).normal(size=(60, 4))
    return from_arrays(x, (x[:, :3] > 0).astype(float), recipe=Recipe(epochs=1, batch_size=20), hidden=(4,))


class Store(NoStore):
    """Counts units."""

    def __init__(self):
        self.names = []

    def unit(self, name, key, compute):
        self.names.append(name)
        return compute()


def test_fields_have_defaults_that_keep_and_tell_nothing():
    assert (DEFAULT_CONTEXT.seed, DEFAULT_CONTEXT.memory, DEFAULT_CONTEXT.executor) == (0, 2**30, None)
    assert isinstance(DEFAULT_CONTEXT.store, NoStore)
    assert DEFAULT_CONTEXT.costs is None


def test_numbers_of_numpy_become_pythons():
    assert type(Context(seed=np.int64(3)).seed) is int


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "`seed`"),
        ({"seed": 0.5}, "`seed`"),
        ({"memory": 0}, "`memory`"),
        ({"store": None}, r"`store` should be an open run .* Found None"),
        ({"store": "runs/mine"}, r"`store` should be an open run .* Found 'runs/mine'"),
        ({"progress": True}, r"`progress` should be called .* Found True"),
        ({"workers": 2}, r"`workers` of Context does not exist .* Did you mean `executor`"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong, message):
    with pytest.raises(SettingError, match=message):
        Context(**wrong)


def test_an_estimate_books_on_the_ledger_that_it_is_given(work):
    ledger = Costs(UnitCost(1.0, 2.0, 3.0))
    assert get_estimator("label-correlation").estimate(work, Context(costs=ledger)).costs is ledger
    found = get_estimator("rsa", rows=10).estimate(work, Context(costs=ledger))
    assert found.costs is ledger
    assert set(ledger.entries) == {"correlation of labels", "single-task models", "similarity of representations"}
    own = get_estimator("rsa", rows=10).estimate(work).costs
    assert own is not get_estimator("rsa", rows=10).estimate(work).costs


def test_old_keywords_become_a_context_and_name_the_callers_line(work):
    told = []
    message = r"^fit takes `memory`, `progress` in `context`: give context=Context\(memory=\.\.\., progress="
    with pytest.warns(DeprecationWarning, match=message) as caught:
        old = fit(work, [Job((0,), 1)], memory=2**20, progress=lambda *news: told.append(news), keep_states=False)
    assert caught[0].filename == __file__
    assert told
    (new,) = fit(work, [Job((0,), 1)], Context(memory=2**20), keep_states=False)
    np.testing.assert_array_equal(old[0].validation, new.validation)


def test_old_keywords_of_an_estimator_become_a_context(work):
    store = Store()
    with pytest.warns(DeprecationWarning, match=r"^Rsa\.estimate takes `seed`, `store` in `context`"):
        old = get_estimator("rsa", rows=10).estimate(work, seed=3, store=store, subset_size=3)
    assert store.names == ["single-tasks", "rsa"]
    new = get_estimator("rsa", rows=10).estimate(work, Context(seed=3), 3)
    np.testing.assert_array_equal(old.model.pairwise().values, new.model.pairwise().values)
    other = get_estimator("rsa", rows=10).estimate(work, Context(seed=4))
    assert not np.array_equal(new.model.pairwise().values, other.model.pairwise().values)


def test_none_was_how_to_leave_an_argument_out(work):
    with pytest.warns(DeprecationWarning, match="fit takes `progress`, `executor`"):
        fit(work, [Job((0,), 0)], progress=None, executor=None)


@pytest.mark.parametrize("call", [lambda f: f(Context(), seed=3), lambda f: f(context=Context(), seed=3)])
def test_both_forms_at_once_are_refused(call):
    @keywords_into(context=Context)
    def bake(context=DEFAULT_CONTEXT):
        return context.seed

    with pytest.raises(SettingError, match=r"bake takes `seed` in `context`. Found both\. Give context=Context\(seed"):
        call(bake)
    assert bake(Context(seed=2)) == 2


def test_an_argument_of_the_functions_own_is_left_alone():
    @keywords_into(context=Context)
    def bake(context=DEFAULT_CONTEXT, *, seed=1):
        return context.seed, seed

    assert bake(seed=5) == (0, 5)


def test_an_unknown_argument_is_still_refused(work):
    with pytest.raises(SettingError, match="`backends` of fit does not exist"):
        fit(work, [], backends="loop")


def old_estimator(signature):
    """An estimator whose `estimate` knows no context, and records what it is given."""
    space = {}
    exec(f"def estimate(self, workload, {signature}):\n    return self._estimate(workload, locals())", space)  # noqa: S102

    @dataclass(frozen=True)
    class Old(Estimator):
        estimate = space["estimate"]

        @property
        def name(self):
            return "old"

        def _estimate(self, workload, given):
            given = {**given.pop("rest", {}), **given}
            values = np.zeros((workload.n_tasks, workload.n_tasks))
            model = PairwiseGainModel(Affinity(values, workload.task_names, kind="raw", method="old"))
            return Estimate(model, Costs(UnitCost(1.0, 2.0, 3.0)), facts=given)

    return Old()


USUAL = "*, seed=0, subset_size=2, memory=2**30, store=None, progress=None"


@pytest.mark.parametrize("signature", [USUAL, f"{USUAL}, executor=None", "**rest"])
def test_an_estimator_without_context_is_called_with_keywords(work, signature, caplog):
    store, context = Store(), Context(seed=3, memory=2**20)
    with pytest.warns(DeprecationWarning, match=r"Old\.estimate .* estimate\(self, workload, context, subset_size\)"):
        old = old_estimator(signature)
    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.WARNING, logger="coterie"):
        facts = old.estimate(work, replace(context, store=store, executor=pool), 4).facts
    assert (facts["seed"], facts["memory"], facts["subset_size"], facts["store"]) == (3, 2**20, 4, store)
    assert facts["progress"] is context.progress
    if signature == USUAL:
        assert "the method 'old' takes no `executor`: its estimate is made in this process" in caplog.text
    else:
        assert facts["executor"] is pool
        assert not caplog.text
    assert old.estimate(work, context=context, subset_size=5).facts["subset_size"] == 5
    assert old.estimate(work, context).facts["subset_size"] == 2
    assert old.estimate(work, seed=7).facts["seed"] == 7  # by those who call it as it was written


def test_an_estimator_without_context_goes_through_the_job(work):
    from coterie import estimate_affinity

    with pytest.warns(DeprecationWarning, match="still calls it in the old way"):
        old = old_estimator(USUAL)
    affinity, _ = estimate_affinity(work, method=old, order="pairwise", seed=5)
    assert affinity.method == "old, pairs"
