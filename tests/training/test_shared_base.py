"""Adapters on one frozen transformer, trained together: what the plain loop gives, one model after the other."""

from __future__ import annotations

import gc
import importlib.util
import tempfile
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from coterie import Context
from coterie.errors import FallbackWarning, ResourceError, SettingError
from coterie.training import fit, plan_adapters
from coterie.training.job import Job
from coterie.training.kept_states import KeptStates
from coterie.training.loop import batch_loss, fit_one
from coterie.training.population import fit_population
from coterie.training.shared_base import SharedBase, slices
from coterie.training.stack import inside
from coterie.training.stackable import Way, is_stackable, population_footprint, way_of
from coterie.workload import Recipe, from_text
from coterie.workload.causal import from_causal
from coterie.workload.text.many import ManyAdapters
from reference import tiny_text

pytestmark = [
    pytest.mark.filterwarnings("ignore::coterie.errors.DataWarning"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("transformers", "peft")), reason="extra `language`"
    ),
]
RECIPE = Recipe(learning_rate=0.01, epochs=2, batch_size=8, check_every=3, patience=2)
#: task numbers, seeds and limits of all kinds; some leave early
JOBS = [
    Job((0,), 0),
    Job((1, 2), 1),
    Job((0, 1, 2, 3), 2),
    Job((3,), 3, max_steps=7),
    Job((0, 2), 3, order_seed=1, early_stopping=False),
    Job((2, 3), 4, early_stopping=False, checks=False, max_steps=5),
    Job((1,), 5, max_steps=0),
]


def upper(*layers, **more):
    return {"r": 2, "target_modules": ["query", "value"], "layers_to_transform": [*layers], **more}


def make(lora=None, *, layers=3, recipe=RECIPE, table=False, dtype=torch.float32, **changes):
    tasks = tiny_text.tasks(24)
    if table:
        texts = tiny_text.sentences(60)
        y = np.array(
            [tiny_text.has(texts, *words) for words in (("good", "bad"), ("cat",), ("the", "a", "is"), ("sun",))]
        )
        labels = y.T.astype(float)
        labels[np.random.default_rng(0).random(labels.shape) < 0.4] = np.nan
        tasks = (texts, labels)
    model = tiny_text.model(num_hidden_layers=layers, **changes).to(dtype)
    return from_text(
        tasks, model, tiny_text.tokenizer(), lora=lora or upper(2), max_length=20, recipe=recipe, name="tiny"
    )


def causal(dtype=torch.float32):
    """Two tasks of label words and two of answers, on a Llama of three layers with adapters in the uppermost."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rng = np.random.default_rng(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=30, eos_token_id=1, initializer_range=0.3, **sizes)).to(dtype)
    prompts = {name: [rng.integers(4, 30, rng.integers(1, 8)).tolist() for _ in range(30)] for name in "abcd"}
    tasks = {
        "a": (prompts["a"], [row % 2 for row in range(30)]),
        "b": (prompts["b"], [rng.integers(4, 30, 1 + row % 3).tolist() for row in range(30)]),
        "c": (prompts["c"], [row % 3 for row in range(30)]),
        "d": (prompts["d"], [[4 + row % 5] for row in range(30)]),
    }
    lora = upper(2, target_modules=["q_proj", "o_proj", "down_proj"])
    return from_causal(tasks, model, words={"a": [5, 6], "c": [7, 8, 9]}, lora=lora, recipe=RECIPE)


@pytest.fixture(scope="module")
def work():
    return make()


def assert_same(together, alone):
    for a, b in zip(together, alone, strict=True):
        assert (a.job, a.steps, a.best_step) == (b.job, b.steps, b.best_step)
        assert [step for step, _ in a.history] == [step for step, _ in b.history]
        np.testing.assert_allclose([v for _, v in a.history], [v for _, v in b.history], rtol=1e-5)
        np.testing.assert_allclose(a.validation, b.validation, rtol=1e-5)
        np.testing.assert_allclose(a.test, b.test, rtol=1e-5)
        assert a.state.keys() == b.state.keys()
        for name, value in a.state.items():
            torch.testing.assert_close(value, b.state[name], rtol=1e-4, atol=2e-5)


CASES = {
    "the upper layer, texts of their own": {},
    "all layers": {"lora": 2},
    "one table with missing labels": {"table": True, "lora": upper(1, 2, use_rslora=True)},
    "weights, clipping and an average": {
        "recipe": replace(RECIPE, class_weights={"tone": [1.0, 3.0], "same": [0.5, 2.0]}, clip_norm=0.5, ema=0.5)
    },
    "sgd without decay": {"recipe": replace(RECIPE, optimizer="sgd", learning_rate=0.1, weight_decay=0.0)},
}


@pytest.mark.parametrize("case", CASES)
def test_together_as_one_after_the_other(case):
    workload = make(**CASES[case])
    lowest = 0 if case == "all layers" else 1 if workload.inputs["input_ids"].shape[0] == 60 else 2
    assert way_of(workload) == Way(shared=True, cut=True)
    assert plan_adapters(workload).lowest == lowest
    together, alone = fit(workload, JOBS), [fit_one(workload, job) for job in JOBS]
    assert_same(together, alone)
    assert len({found.steps for found in alone}) > 3  # they leave at different steps
    started = [replace(job, start=done.state, seed=9) for job, done in zip(JOBS[:2], alone, strict=False)]
    assert_same(fit(workload, started), [fit_one(workload, job) for job in started])


def test_in_double_precision_they_are_equal_to_ten_digits():
    workload = make(dtype=torch.float64)
    for a, b in zip(fit(workload, JOBS[:3]), [fit_one(workload, job) for job in JOBS[:3]], strict=True):
        np.testing.assert_allclose(a.history, b.history, rtol=1e-10)
        np.testing.assert_allclose(a.test, b.test, rtol=1e-10)
        for name, value in a.state.items():
            torch.testing.assert_close(value, b.state[name], rtol=1e-7, atol=1e-9)


def test_balanced_losses_and_unequal_companions(work):
    jobs = [Job((0, 1), 0, balancing="uncertainty"), Job((1, 2, 3), 1, balancing="uncertainty"), Job((0, 1), 0)]
    jobs.append(Job((0, 3), 1, balancing="equal"))
    together = fit(work, jobs, backend="population")
    assert_same(together, [fit_one(work, job) for job in jobs])
    other = fit(work, [jobs[2], Job((3,), 7)], backend="population")[0]
    assert_same([other], [together[2]])


def test_layers_that_return_more_than_hidden_states():
    from transformers import DebertaV2Config, DebertaV2Model

    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}
    torch.manual_seed(0)
    model = DebertaV2Model(DebertaV2Config(vocab_size=25, relative_attention=True, **sizes, **quiet))
    lora = upper(1, 2, target_modules=["query_proj"])
    workload = from_text(tiny_text.tasks(24), model, tiny_text.tokenizer(), lora=lora, max_length=20, recipe=RECIPE)
    assert plan_adapters(workload).lowest == 1
    jobs = [Job((0,), 0, max_steps=3), Job((1, 2), 1, max_steps=3)]
    assert_same(fit(workload, jobs), [fit_one(workload, job) for job in jobs])


def test_causal_models():
    workload = causal()
    assert way_of(workload).shared
    jobs = [Job((0, 1), 0), Job((2, 3), 1), Job((0, 1, 2, 3), 2, max_steps=5)]
    assert_same(fit(workload, jobs), [fit_one(workload, job) for job in jobs])


def test_the_gradient_of_a_step_is_that_of_each_model_alone(work):
    """Rows of different lengths, and a batch that is padded, in pieces of any size."""
    jobs = [Job((0, 1), 0), Job((2,), 1), Job((3, 2), 2)]
    rows = torch.full((3, 6), -1)
    for member, job in enumerate(jobs):
        own = work.rows_of(job.subset, "train")[member : 6 - member]
        rows[member, : len(own)] = own
    architecture = SharedBase(work, cut=True)
    values = architecture.stack(jobs)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in values.trained.values():
            value += 0.2 * torch.randn(value.shape, generator=generator)
    for tokens in (1, 30, 10**6):
        architecture.tokens = tokens
        for value in values.trained.values():
            value.grad = None
        losses = architecture.descend(values, rows, padded=True, subsets=inside(work, [job.subset for job in jobs]))
        for member, job in enumerate(jobs):
            model = work.build_model(job.seed)
            model.load_state_dict(architecture.state(values.member(member)))
            loss = batch_loss(work, model, rows[member][rows[member] >= 0], list(job.subset))
            loss.backward()
            torch.testing.assert_close(losses[member], loss.detach(), rtol=1e-5, atol=1e-6)
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(values.trained[name].grad[member], parameter.grad, rtol=1e-4, atol=1e-6)


def test_what_lies_below_is_computed_once_a_row(monkeypatch):
    seen, put = Counter(), KeptStates.put

    def counted(self, rows, hidden):
        seen.update(rows.tolist())
        put(self, rows, hidden)

    monkeypatch.setattr(KeptStates, "put", counted)
    workload = make()
    fit(workload, JOBS)
    fit(replace(workload, recipe=replace(RECIPE, epochs=1)), [Job((0, 1, 2, 3), 0), Job((0, 1), 1)])  # the same rows
    used = {row for part in ("train", "validation", "test") for row in workload.split.part(part).tolist()}
    assert set(seen) == used
    assert set(seen.values()) == {1}


def test_on_disk_it_is_the_same_and_the_file_goes(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    inside_memory = fit_population(make(), JOBS)
    workload = make()
    kept = plan_adapters(workload).kept_bytes
    members = 16 * population_footprint(workload).member
    memory = 2 * max(kept, members)
    assert plan_adapters(workload, memory=memory).on_disk
    found = fit_population(workload, JOBS, memory=memory)
    assert_same(found, inside_memory)
    assert [file.stat().st_size for file in tmp_path.rglob("states")] == [kept]
    del workload
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_the_same_jobs_give_the_same_bits(work):
    for a, b in zip(fit(work, JOBS[:3]), fit(work, JOBS[:3]), strict=True):
        assert a.history == b.history
        assert all(torch.equal(value, b.state[name]) for name, value in a.state.items())


def test_dropout_is_a_reason_not_to():
    for workload in (make(hidden_dropout_prob=0.1), make(upper(2, lora_dropout=0.1))):
        possible, reason = is_stackable(workload)
        assert not possible
        assert "random in training" in reason
        assert plan_adapters(workload).reason == reason
        assert str(plan_adapters(workload)).startswith("one run after the other: Dropout")
        jobs = [Job((0,), 0, max_steps=2), Job((1,), 1, max_steps=2)]
        with pytest.warns(FallbackWarning, match="random in training"):
            found = fit(workload, jobs)
        assert found[0].history == fit_one(workload, jobs[0]).history


def test_what_does_not_agree_is_trained_in_the_loop(monkeypatch):
    """The trial finds what no list of modules knows."""
    right = ManyAdapters.outputs

    def wrong(self, trained, member, batch, hidden=None):
        return right(self, trained, member.flip(0), batch, hidden)

    monkeypatch.setattr(ManyAdapters, "outputs", wrong)
    possible, reason = is_stackable(make())
    assert not possible
    assert "other outputs or gradients than a model alone" in reason


def test_memory_is_stated(work, monkeypatch):
    plan = plan_adapters(work, 3)
    width, lengths = 16, work.inputs["attention_mask"].sum()
    own = sum(value.numel() for value in work.build_model(0).parameters())
    assert plan.kept_bytes == 4 * width * int(lengths)
    assert plan.run_bytes == pytest.approx(6 * 4 * own, rel=0.1)
    assert plan.memory_bytes == plan.kept_bytes + plan.pass_bytes + 3 * plan.run_bytes
    assert "3 runs together on 3 layers: layers 0 to 1 once a row" in str(plan)
    assert "all layers at every step" in str(plan_adapters(make(lora=2)))
    small = plan_adapters(work, 3, memory=2**19)
    assert small.pass_tokens < plan.pass_tokens
    monkeypatch.setattr("coterie.training.shared_base.free_bytes", lambda: 0)
    with pytest.raises(ResourceError, match="TMPDIR"):
        population_footprint(make(), 1000)
    assert "TMPDIR" in plan_adapters(make(), memory=1000).reason
    with pytest.warns(FallbackWarning, match="TMPDIR"):
        fit(make(), JOBS[:2], Context(memory=1000))


@pytest.mark.parametrize(("lengths", "tokens"), [([1, 1, 2, 3, 9, 9], 6), ([5], 1), ([2] * 10, 6), ([1, 8, 8], 16)])
def test_pieces_hold_all_rows_and_few_tokens(lengths, tokens):
    pieces = list(slices(lengths, tokens))
    assert [row for piece in pieces for row in range(piece.start, piece.stop)] == list(range(len(lengths)))
    for piece in pieces:
        size = len(lengths[piece])
        assert size == 1 or size * lengths[piece][-1] <= tokens
    for one, two in pairwise(pieces):  # no two would fit together
        assert (len(lengths[one]) + 1) * lengths[two][0] > tokens


def test_states_of_half_precision_on_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = KeptStates(torch.tensor([2, 0, 1]), 4, torch.bfloat16, on_disk=True)
    (file,) = tmp_path.glob("coterie-states-*/states")
    assert file.stat().st_size == kept.nbytes == 24
    hidden = torch.randn(1, 3, 4).bfloat16()
    kept.put(torch.tensor([0]), hidden)
    assert torch.equal(kept.take(torch.tensor([0]), 2), hidden[:, :2])
    assert torch.equal(kept.take(torch.tensor([0]), 3)[0, 2], hidden[0, 1])


def test_runs_on_rows_of_their_own(work):
    """Mixtures: each run has its own rows, some of them twice."""
    train = [work.rows_of([task], "train").tolist() for task in range(4)]
    every, subset = [row for rows in train for row in rows], (0, 1, 2, 3)
    jobs = [
        Job(subset, 0, rows=(*train[0], *train[1][:4], *train[1][:4])),
        Job(subset, 1, rows=tuple(train[3][:9])),
        Job(subset, 2, rows=tuple(every)),
    ]
    assert_same(fit(work, jobs), [fit_one(work, job) for job in jobs])
    assert jobs[0] != replace(jobs[0], rows=None)
    seen = fit_one(work, jobs[1]).state
    untouched = work.build_model(1).state_dict()
    head = slice(0, work.columns[3].start)
    # without rows a task has no gradient: what is left is the decay of weights
    torch.testing.assert_close(seen["head.bias"][head], untouched["head.bias"][head], rtol=1e-2, atol=0)
    with pytest.raises(SettingError, match="`rows` of a job"):
        fit(work, [Job((0,), 0, rows=(train[1][0],))])
