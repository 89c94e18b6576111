"""Workloads of causal language models against plain loops over rows and tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import coterie
from coterie.errors import ModelError
from coterie.features import FeatureOptions, RandomDirections, compute_features
from coterie.training import fit
from coterie.training.job import Job
from coterie.training.stackable import is_stackable
from coterie.workload import Recipe, validate
from coterie.workload.causal import encode, from_causal, save_adapter
from coterie.workload.fingerprint import fingerprint
from coterie.workload.structure import find_structure
from reference.causal import sequence_log_odds, word_log_odds
from reference.plain_features import plain_features

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")

VOCABULARY, END, ROWS = 30, 1, 16
WORDS = {"polite": [7, 8], "colour": {9: 0, 10: 1, 11: 2}}
SMALL = {"vocab_size": VOCABULARY, "eos_token_id": END, "bos_token_id": None, "pad_token_id": None}


def llama(**options):
    settings = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3, **SMALL}
    return transformers.LlamaConfig(**settings | options)


def make(config, *, seed=0, **options):
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config, **options).eval()


def numbers(low, high, generator):
    count = int(torch.randint(low, high, (1,), generator=generator))
    return torch.randint(12, VOCABULARY, (count,), generator=generator).tolist()


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    prompts = {task: [numbers(1, 7, generator) for _ in range(ROWS)] for task in ("short", "polite", "long", "colour")}
    return {
        "short": (prompts["short"], [numbers(1, 3, generator) for _ in range(ROWS)]),
        "polite": (prompts["polite"], [row % 2 for row in range(ROWS)]),
        "long": (prompts["long"], [numbers(2, 6, generator) for _ in range(ROWS)]),
        "colour": (prompts["colour"], [row % 3 for row in range(ROWS)]),
    }


def build(model=None, tasks=None, **options):
    settings = {"words": WORDS, "lora": 2, "recipe": Recipe(epochs=2, batch_size=8, learning_rate=1e-2)}
    return from_causal(data() if tasks is None else tasks, model or make(llama()), **settings | options)


def disturbed(workload, seed=0, scale=0.2):
    """A model whose adapters do something."""
    model = workload.build_model(seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model


def margins(workload, model, rows=None):
    rows = torch.arange(len(workload.labels)) if rows is None else rows
    return workload.margins(workload.outputs(model, workload.batch(rows)), workload.targets[rows])


def expected_margins(workload, model, tasks):
    """The margin of each row for its own task, from the language model inside."""
    made = []
    for name, (prompts, given) in tasks.items():
        words = list(WORDS[name]) if name in WORDS else None
        for prompt, label in zip(prompts, given, strict=True):
            if words is None:
                made.append(sequence_log_odds(model, prompt, [*label, END]))
            elif len(words) == 2:  # the margin of a binary task is the logit of class 1
                made.append(word_log_odds(model, prompt, words, 1))
            else:
                made.append(word_log_odds(model, prompt, words, label))
    return torch.tensor(made)


def own(workload, values):
    """The entry of each row for its own task."""
    return values[workload.observed]


ARCHITECTURES = {
    "llama eager": lambda: make(llama(), attn_implementation="eager"),
    "llama sdpa": lambda: make(llama(), attn_implementation="sdpa"),
    "llama tied": lambda: make(llama(tie_word_embeddings=True)),
    "gpt2": lambda: make(transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, **SMALL)),
    "neox": lambda: make(
        transformers.GPTNeoXConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, **SMALL
        )
    ),
    "capped": lambda: make(  # logits are squashed after the output layer
        transformers.Gemma2Config(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
            intermediate_size=32, final_logit_softcapping=2.0, initializer_range=0.5, **SMALL,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_margins_are_those_of_a_loop_over_rows_and_tokens(name):
    workload = build(ARCHITECTURES[name]())
    model = disturbed(workload)
    assert model.direct == (name != "capped")
    with torch.no_grad():
        found = own(workload, margins(workload, model))
    expected = expected_margins(workload, model.model, data())
    assert expected.std() > 0.3
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-4, atol=1e-4)


def test_rows_of_label_words_have_the_log_odds_of_the_empty_answer_in_sequence_columns():
    workload = build()
    model = disturbed(workload)
    with torch.no_grad():
        found = margins(workload, model)[ROWS : 2 * ROWS, [0, 2]]
    expected = torch.tensor([sequence_log_odds(model.model, prompt, [END]) for prompt in data()["polite"][0]])
    torch.testing.assert_close(found, expected[:, None].expand(-1, 2), rtol=1e-4, atol=1e-4)


def test_fresh_adapters_change_nothing():
    base = make(llama())
    workload = build(base)
    with torch.no_grad():
        found = own(workload, margins(workload, workload.build_model(3).eval()))
    torch.testing.assert_close(found.double(), expected_margins(workload, base, data()).double(), rtol=1e-4, atol=1e-4)


def test_the_loss_is_that_of_transformers_times_the_number_of_tokens():
    tasks = data()
    workload = build(tasks=tasks)
    model = disturbed(workload)
    with torch.no_grad():
        losses = workload.losses(margins(workload, model), workload.targets)
    for task, name in enumerate(workload.task_names):
        if name in WORDS:
            continue
        for row, prompt, answer in zip(workload.observed[:, task].nonzero().flatten(), *tasks[name], strict=True):
            ids = torch.tensor([[*prompt, *answer, END]])
            labels = torch.where(torch.arange(ids.shape[1]) < len(prompt), -100, ids)
            mean = model.model(input_ids=ids, labels=labels).loss
            torch.testing.assert_close(losses[row, task], mean.detach() * (len(answer) + 1), rtol=1e-4, atol=1e-4)


def test_per_token_is_the_geometric_mean():
    tasks = {name: pair for name, pair in data().items() if name not in WORDS}
    workload = build(tasks=tasks, words=None, per_token=True)
    model = disturbed(workload)
    with torch.no_grad():
        found = own(workload, margins(workload, model))
    expected = [
        sequence_log_odds(model.model, prompt, [*answer, END], per_token=True)
        for prompts, answers in tasks.values()
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-4)


def test_padding_may_be_on_either_side():
    workload = build()
    model = disturbed(workload)
    batch = workload.batch(torch.arange(len(workload.labels)))
    length = batch["input_ids"].shape[1]
    shift = length - batch["attention_mask"].sum(1)
    source = (torch.arange(length) - shift[:, None]) % length
    left = {name: batch[name].gather(1, source) for name in ("input_ids", "attention_mask")}
    left |= {"positions": batch["positions"] + shift[:, None], "targets": batch["targets"]}
    with torch.no_grad():
        torch.testing.assert_close(model(**left), model(**batch), rtol=1e-4, atol=1e-4)
    assert not torch.equal(left["input_ids"], batch["input_ids"])


def test_rows_do_not_depend_on_their_batch():
    workload = build()
    model = disturbed(workload)
    with torch.no_grad():
        whole = margins(workload, model)
        for row in range(0, len(whole), 7):
            alone = margins(workload, model, torch.tensor([row]))
            seen = workload.observed[row]
            torch.testing.assert_close(alone[0, seen], whole[row, seen], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama sdpa", "capped"])
@pytest.mark.parametrize("limit", [{"_TOKENS": 40}, {"_SCORES": 1500}])
def test_without_gradients_rows_go_in_pieces(name, limit, monkeypatch):
    workload = build(ARCHITECTURES[name]())
    model, seen = disturbed(workload), []
    whole = margins(workload, model).detach()
    model.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    for setting, value in limit.items():
        monkeypatch.setattr(f"coterie.workload.causal.scorer.{setting}", value)
    with torch.no_grad():
        torch.testing.assert_close(margins(workload, model), whole, rtol=1e-4, atol=1e-4)
    assert 1 < max(shape[0] for shape in seen) < 12
    assert sum(shape[0] for shape in seen) == len(whole)
    assert seen[0][1] < seen[-1][1], "short rows are not padded to the longest of all"


def test_the_random_state_stays_as_it_was():
    model, tasks = make(llama()), data()
    before = torch.get_rng_state()
    build(model, tasks)
    assert torch.equal(torch.get_rng_state(), before)


def test_other_padding_ids_do_not_matter():
    workload = build()
    model = disturbed(workload)
    batch = workload.batch(torch.arange(ROWS))
    filled = {**batch, "input_ids": torch.where(batch["attention_mask"] > 0, batch["input_ids"], 5)}
    with torch.no_grad():
        torch.testing.assert_close(model(**filled), model(**batch))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_features_are_those_of_a_plain_loop(implementation, mode):
    workload = build(make(llama(), attn_implementation=implementation))
    model = disturbed(workload)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    directions = RandomDirections(shapes, count=5)
    found = compute_features(workload, model, directions, FeatureOptions(mode=mode))
    for task, expected in enumerate(plain_features(workload, model, directions)):
        got = torch.as_tensor(found.g[found.starts[task] : found.starts[task + 1]])
        assert len(expected) > 5
        torch.testing.assert_close(got.double(), expected.double(), rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_the_workload_passes_all_checks_and_members_are_stacked():
    workload = build()
    validate(workload)
    structure = find_structure(workload, workload.build_model(0))
    assert all("lora_" in name for name in structure.trunk)
    assert not structure.unused
    assert is_stackable(workload) == (True, "")


def test_the_base_is_held_once_and_left_alone():
    base = make(llama(tie_word_embeddings=True))
    before = {name: value.clone() for name, value in base.state_dict().items()}
    workload = build(base)
    first, second = workload.build_model(0), workload.build_model(1)
    embeddings = [model.model.get_input_embeddings().weight for model in (first, second)]
    assert embeddings[0].data_ptr() == embeddings[1].data_ptr() == base.get_input_embeddings().weight.data_ptr()
    assert embeddings[0] is first.model.get_output_embeddings().weight  # tied as before
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert {name.split(".")[-2] for name, _ in first.named_parameters()} == {"default"}
    assert all("lora_" in name or "digest" in name for name in first.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert base.config.use_cache


def test_the_fingerprint_knows_base_words_and_form_of_the_loss():
    made = [build(), build(make(llama(), seed=1)), build(per_token=True), build(words={**WORDS, "polite": [8, 7]})]
    made += [build(lora={"r": 2, "lora_alpha": 32}), build(lora={"r": 2, "lora_alpha": 4, "lora_dropout": 0.5})]
    made += [build(make(llama(attention_dropout=0.3)))]
    assert len({fingerprint(workload) for workload in made}) == len(made)
    assert fingerprint(build()) == fingerprint(made[0])


def test_gradient_checkpointing_gives_the_same_gradients():
    base, found = make(llama()), []
    for checkpointing in (False, True):
        if checkpointing:
            base.activation_checkpointing_enable({"use_reentrant": True})
        workload = build(base)
        model = disturbed(workload).train()
        assert any(getattr(part, "gradient_checkpointing", False) for part in model.modules()) == checkpointing
        margins(workload, model, torch.arange(ROWS)).sum().backward()
        found.append({name: value.grad for name, value in model.named_parameters()})
    for name, value in found[0].items():
        assert float(value.abs().max()) > 0
        torch.testing.assert_close(found[1][name], value)


def test_training_with_gradient_checkpointing_is_the_same_training():
    base, found = make(llama()), []
    for checkpointing in (False, True):
        if checkpointing:
            base.activation_checkpointing_enable({"use_reentrant": True})
        workload = build(base)
        found.append(fit(workload, [Job((0, 1), 0), Job((2, 3), 0)]))
    for plain, kept in zip(*found, strict=True):
        assert kept.steps == plain.steps > 2
        assert kept.validation.tolist() == pytest.approx(plain.validation.tolist(), rel=1e-4, nan_ok=True)


def test_a_bfloat16_base_has_adapters_and_margins_in_single_precision():
    exact = build(make(llama(initializer_range=0.1)))
    rounded = build(make(llama(initializer_range=0.1)).to(torch.bfloat16))
    models = [disturbed(workload) for workload in (exact, rounded)]
    assert {value.dtype for value in models[1].parameters()} == {torch.float32}
    with torch.no_grad():
        values = [
            own(exact, margins(workload, model)) for workload, model in zip((exact, rounded), models, strict=True)
        ]
    assert values[1].dtype == torch.float32
    torch.testing.assert_close(values[1], values[0], rtol=0.05, atol=0.2)
    assert not torch.equal(values[1], values[0])
    margins(rounded, models[1]).sum().backward()
    assert all(bool(torch.isfinite(value.grad).all()) for value in models[1].parameters())


@pytest.mark.parametrize("scale", [0.0, 1.0, 300.0])
def test_gradients_are_finite_for_sure_and_for_impossible_answers(scale):
    base = make(llama())
    with torch.no_grad():
        base.lm_head.weight *= scale  # 0: all tokens alike; 300: probabilities of 0 and 1 in single precision
    workload = build(base)
    model = workload.build_model(0).eval()
    values = margins(workload, model)
    values.sum().backward()
    assert bool(torch.isfinite(values).all())
    assert all(bool(torch.isfinite(value.grad).all()) for value in model.parameters())


def test_models_whose_masks_cannot_be_given_are_refused():
    bloom = transformers.BloomConfig(hidden_size=16, n_layer=1, n_head=2, **SMALL)
    with pytest.raises(ModelError, match="does not give the logits"):
        build(make(bloom))


def test_generation_is_that_of_the_base_and_adapters_are_written_for_peft(tmp_path):
    import peft

    base = make(llama())
    workload = build(base)
    ids = torch.tensor([[4, 5, 6]])
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    plain = base.generate(ids, **settings)
    assert torch.equal(workload.build_model(0).eval().model.generate(ids, **settings), plain)
    model = disturbed(workload, scale=1.0)
    adapted = model.model.generate(ids, **settings)
    assert not torch.equal(adapted, plain)
    loaded = peft.PeftModel.from_pretrained(base, save_adapter(model, tmp_path / "adapter")).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, model.model(input_ids=ids).logits)
    assert torch.equal(loaded.generate(input_ids=ids, **settings), adapted)


def arithmetic(rows=24):
    """Two tasks about sums and two about the order of two numbers; tokens 12 to 21 are the digits 0 to 9."""
    generator = torch.Generator().manual_seed(1)
    pairs = torch.randint(0, 5, (4, rows, 2), generator=generator).tolist()
    return {
        "sum": ([[2, 12 + a, 12 + b] for a, b in pairs[0]], [[12 + a + b] for a, b in pairs[0]]),
        "sum twice": ([[3, 12 + a, 12 + b] for a, b in pairs[1]], [[12 + a + b, 12 + a + b] for a, b in pairs[1]]),
        "less": ([[4, 12 + a, 12 + b] for a, b in pairs[2]], [int(a < b) for a, b in pairs[2]]),
        "more": ([[5, 12 + a, 12 + b] for a, b in pairs[3]], [int(a > b) for a, b in pairs[3]]),
    }


def test_the_main_job_runs_end_to_end_and_serves(tmp_path):
    tasks = arithmetic()
    recipe = Recipe(epochs=3, batch_size=16, learning_rate=2e-2, weight_decay=0.0)
    workload = from_causal(tasks, make(llama()), words={"less": [7, 8], "more": [7, 8]}, lora=2, recipe=recipe)
    result = coterie.run(workload, groups=2, seeds=1, bases=1, out=tmp_path / "run")
    assert result is not None
    predictor = coterie.load(tmp_path / "run", workload=workload)
    prompts, answers = tasks["sum"][0][:4], tasks["sum"][1][:4]
    found = predictor.predict(encode(prompts, answers, end=END))
    assert set(found) == set(tasks)
    model = predictor.models[predictor.serves["sum"]].model
    odds = [sequence_log_odds(model, p, [*a, END]) for p, a in zip(prompts, answers, strict=True)]
    expected = [1 / (1 + math.exp(-value)) for value in odds]
    assert found["sum"].tolist() == pytest.approx(expected, rel=1e-3)
    assert found["less"].shape == (4,)
    assert ((found["less"] >= 0) & (found["less"] <= 1)).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_a_gpu_makes_a_workload_there():
    workload = build(make(llama()).cuda())
    assert workload.labels.device.type == "cuda"
    found = margins(workload, workload.build_model(0), torch.arange(ROWS, device="cuda"))
    here = build()
    torch.testing.assert_close(
        found.detach().cpu(), margins(here, here.build_model(0), torch.arange(ROWS)).detach(), rtol=1e-3, atol=1e-3
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_margins_and_gradients_are_the_same_on_a_gpu():
    workload = build()
    there = workload.to("cuda")
    values = []
    for each in (workload, there):
        model = each.build_model(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1
        found = margins(each, model, torch.arange(ROWS, device=each.device))
        found.sum().backward()
        values.append([found.detach().cpu(), *(value.grad.cpu() for value in model.parameters())])
    for here, far in zip(*values, strict=True):
        torch.testing.assert_close(far, here, rtol=1e-3, atol=1e-3)
    assert isinstance(there.build_model(1), nn.Module)
