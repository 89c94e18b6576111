"""Both backends against a naive trainer and against each other."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coterie.training import fit
from coterie.training.job import Job
from coterie.training.loop import fit_one
from coterie.training.population import fit_population
from reference.plain_training import train
from reference.training_workloads import make

CASES = [
    {"optimizer": "adamw"},
    {"optimizer": "adam"},
    {"optimizer": "sgd", "momentum": 0.9},
    {"kind": "binary", "missing": 0.4},
    {"kind": "regression", "missing": 0.4, "separate": True},
    {"kind": "multiclass"},
    {"kind": "mixed", "missing": 0.3, "separate": True, "check_every": None},
    {"kind": "regression", "blocks": True, "rows": 90},
    {"kind": "mixed", "blocks": True, "rows": 90, "check_every": None, "separate": True},
    {"kind": "binary", "batch_size": 5, "patience": 1, "learning_rate": 0.1, "epochs": 10},
]


def jobs_for(workload):
    t = workload.n_tasks
    subsets = [(0,), (1,), (0, t - 1), tuple(range(t)), tuple(range(1, t))]
    jobs = [Job(subset, seed=index) for index, subset in enumerate(subsets)]
    jobs += [Job((0, 1), seed=1, order_seed=7), Job((0, 1), seed=1, max_steps=4), Job((1,), seed=2, max_steps=0)]
    return [*jobs, Job((0,), 3, early_stopping=False), Job((0, 1), 4, stop_below=0.66), Job((1,), 5, max_steps=7)]


def close(a, b):
    return (
        all(torch.allclose(a[k], b[k], rtol=1e-5, atol=1e-5 * float(b[k].abs().max())) for k in a)
        and a.keys() == b.keys()
    )


def assert_same(a, b):
    assert a.job == b.job
    assert (a.steps, a.best_step) == (b.steps, b.best_step)
    assert [step for step, _ in a.history] == [step for step, _ in b.history]
    np.testing.assert_allclose([v for _, v in a.history], [v for _, v in b.history], rtol=1e-5)
    np.testing.assert_allclose(a.validation, b.validation, rtol=1e-5)
    np.testing.assert_allclose(a.test, b.test, rtol=1e-5)
    assert close(a.state, b.state)


def used_part(workload, subset, state):
    """What the subset's losses can depend on: trunk and own heads."""
    own = {}
    for name, value in state.items():
        if name.startswith("heads."):
            if int(name.split(".")[1]) in subset:
                own[name] = value
        elif name.startswith("head."):
            own[name] = torch.cat([value[workload.columns[task]] for task in subset])
        else:
            own[name] = value
    return own


@pytest.mark.parametrize("case", CASES, ids=str)
def test_population_equals_loop_equals_reference(case):
    workload = make(**case)
    jobs = jobs_for(workload)
    population, loop = fit_population(workload, jobs), [fit_one(workload, job) for job in jobs]
    for a, b in zip(population, loop, strict=True):
        assert_same(a, b)
    assert len({f.steps for f in loop}) > 2  # members leave the stack at different times
    for fitted in loop[:4] + loop[8:10]:
        state, history, steps, best_step, losses = train(workload, fitted.job)
        assert (fitted.steps, fitted.best_step) == (steps, best_step)
        assert [step for step, _ in fitted.history] == [step for step, _ in history]
        np.testing.assert_allclose([v for _, v in fitted.history], [v for _, v in history], rtol=2e-4)
        subset = fitted.job.subset
        for name, value in used_part(workload, subset, state).items():
            torch.testing.assert_close(used_part(workload, subset, fitted.state)[name], value, rtol=1e-3, atol=1e-4)
        assert {t for t in range(workload.n_tasks) if not np.isnan(fitted.validation[t])} == set(losses)
        np.testing.assert_allclose([fitted.validation[t] for t in losses], list(losses.values()), rtol=2e-4)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("backend", ["population", "loop"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_heads_outside_the_subset_stay_where_they_started(separate, backend, optimizer):
    workload = make("mixed", separate=separate, optimizer=optimizer, weight_decay=0.5, patience=None)
    first = fit(workload, [Job((1, 3), 0, early_stopping=False), Job((0,), 1)], backend=backend)[0]
    initial = workload.build_model(0).state_dict()
    moved = 0
    for name, value in first.state.items():
        if name.startswith("heads."):
            outside = int(name.split(".")[1]) in (0, 2)
            assert torch.equal(value, initial[name]) == outside
            moved += not outside
        elif name.startswith("head."):
            for task, columns in enumerate(workload.columns):
                assert torch.equal(value[columns], initial[name][columns]) == (task in (0, 2))
                moved += task in (1, 3)
        else:
            assert not torch.equal(value, initial[name])
    assert moved >= 4


@pytest.mark.parametrize("backend", ["population", "loop"])
def test_a_start_state_is_continued_from(backend):
    workload = make("mixed", patience=None)
    base = fit_one(workload, Job((0, 1, 2, 3), 0, max_steps=6))
    forks = [Job((t,), 9, start=base.state, max_steps=3, early_stopping=False) for t in range(4)]
    for fork in fit(workload, forks, backend=backend):
        (task,) = fork.job.subset
        np.testing.assert_allclose(fork.history[0][1], base.validation[task], rtol=1e-5)
        for other in set(range(4)) - {task}:
            columns = workload.columns[other]
            assert torch.equal(fork.state["head.weight"][columns], base.state["head.weight"][columns])
        assert_same(fork, fit_one(workload, fork.job))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.permutations(range(6)), st.integers(0, 3))
def test_the_order_of_the_jobs_and_company_do_not_matter(order, dropped):
    workload = make("mixed", missing=0.2, epochs=2)
    jobs = [Job((0,), 0), Job((0, 1), 0), Job((2, 3), 0), Job((1, 3), 4, max_steps=5), Job((3,), 4), Job((0, 2), 5)]
    plain = fit_population(workload, jobs, keep_states=True)
    order = order[dropped:]
    for position, found in zip(order, fit_population(workload, [jobs[i] for i in order]), strict=True):
        assert_same(found, plain[position])


@pytest.mark.parametrize("backend", ["population", "loop"])
def test_the_same_job_gives_the_same_bits(backend):
    workload = make("mixed", missing=0.2)
    jobs = [Job((0, 1), 0), Job((1, 2, 3), 1)]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = fit(workload, jobs, backend=backend)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(6)
    for a, b in zip(one, fit(workload, jobs, backend=backend), strict=True):
        assert a.history == b.history
        assert a.validation.tobytes() == b.validation.tobytes()
        assert a.test.tobytes() == b.test.tobytes()
        assert all(torch.equal(a.state[name], b.state[name]) for name in a.state)


def test_chunks_of_members_do_not_change_results():
    workload = make("binary", missing=0.3)
    jobs = [Job((index % 4,), index) for index in range(7)]
    at_once = fit_population(workload, jobs)
    from coterie.training.evaluate import measure_footprint

    few = fit_population(workload, jobs, memory=2 * measure_footprint(workload).member + 1)
    for a, b in zip(at_once, few, strict=True):
        assert_same(a, b)


def test_common_random_numbers_share_the_inputs(monkeypatch):
    from coterie.training.stack import Architecture

    workload = make("binary")
    seen = []
    outputs = Architecture.outputs
    monkeypatch.setattr(
        Architecture, "outputs", lambda self, *a, shared: seen.append(shared) or outputs(self, *a, shared=shared)
    )
    common = [Job((t,), seed=t, order_seed=0) for t in range(4)]
    shared = fit_population(workload, common)
    assert all(seen)
    for a, job in zip(shared, common, strict=True):
        assert_same(a, fit_one(workload, job))
    seen.clear()
    fit_population(workload, [Job((t,), seed=t) for t in range(4)])
    assert not all(seen)
