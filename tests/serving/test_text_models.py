"""Runs on a frozen transformer are loaded with the transformer alone: no text of training is read again."""

import importlib.util
import json

import numpy as np
import pytest
import torch

import coterie
from coterie.errors import CoterieError, ModelError, SettingError
from coterie.grouping import Grouping
from coterie.serving import export_adapters, load
from coterie.serving.saved import save_served
from coterie.training.evaluate import tensors_of
from coterie.workload import from_text
from coterie.workload.causal import encode, from_causal
from coterie.workload.text.encoder import spec_of, text_spec
from reference import tiny_text

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("transformers", "peft")), reason="extra `language`"
    ),
]


def saved(work, path):
    """A run directory with one group, whose adapters have an effect."""
    model = work.build_model(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    names = work.task_names
    group = Grouping(names, (tuple(range(len(names))),), (0,) * len(names))
    save_served(path, work, group, [tensors_of(model)])
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"lora": 2},
        {"lora": {"r": 3, "lora_alpha": 5, "target_modules": ["query", "key"]}, "layers": 1, "pooling": "cls"},
        {"lora": {"r": 2, "use_rslora": True}, "max_length": 9},
    ],
)
def test_an_encoder_is_all_that_is_needed(tmp_path, monkeypatch, options):
    work = from_text(tiny_text.tasks(), tiny_text.model(), tiny_text.tokenizer(), **{"max_length": 20, **options})
    path = saved(work, tmp_path)
    expected = load(path, workload=work).predict(tiny_text.sentences(6))
    monkeypatch.setattr("coterie.workload.load_workload", None)  # nothing but the transformer is read
    found = load(path, model=tiny_text.model(), tokenizer=tiny_text.tokenizer()).predict(tiny_text.sentences(6))
    assert found.keys() == expected.keys()
    for task, values in found.items():
        np.testing.assert_array_equal(values, expected[task])


def test_texts_are_neither_exported_nor_served_over_http(tmp_path):
    pytest.importorskip("starlette")
    from coterie.serving.http import make_app

    work = from_text(tiny_text.tasks(), tiny_text.model(), tiny_text.tokenizer(), lora=2, max_length=20)
    predictor = load(saved(work, tmp_path), workload=work)
    with pytest.raises(SettingError, match="Language models are not exported"):
        predictor.export(tmp_path / "served.onnx")
    with pytest.raises(SettingError, match="not served over HTTP"):
        make_app(predictor)
    assert not (tmp_path / "served.onnx").exists()


def test_a_folder_will_do(tmp_path):
    folder = tmp_path / "encoder"
    model = tiny_text.model()
    model.save_pretrained(folder)
    tiny_text.tokenizer().save_pretrained(folder)
    work = from_text(tiny_text.tasks(), str(folder), lora=2, max_length=20)
    (tmp_path / "run").mkdir()
    path = saved(work, tmp_path / "run")
    expected = load(path, workload=work).predict(tiny_text.sentences(3))
    found = load(path, model=folder).predict(tiny_text.sentences(3))
    np.testing.assert_array_equal(found["tone"], expected["tone"])
    assert export_adapters(path, tmp_path / "out", model=folder)[0].is_dir()


def causal():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=24, eos_token_id=1, **sizes))


@pytest.mark.parametrize("per_token", [True, False])
def test_a_causal_model_is_all_that_is_needed(tmp_path, per_token):
    prompts = [[5, 6 + row % 4] for row in range(60)]
    tasks = {"next": (prompts, [[p[1] + 1] for p in prompts]), "even": (prompts, [p[1] % 2 for p in prompts])}
    work = from_causal(tasks, causal(), words={"even": [15, 16]}, lora=2, per_token=per_token)
    path = saved(work, tmp_path)
    inputs = encode(prompts[:5], [[7]] * 5, end=1)
    expected, found = load(path, workload=work).predict(inputs), load(path, model=causal()).predict(inputs)
    for task, values in found.items():
        np.testing.assert_array_equal(values, expected[task])


def test_what_does_not_fit_is_refused(tmp_path):
    work = from_text(tiny_text.tasks(), tiny_text.model(), tiny_text.tokenizer(), lora=2, max_length=20)
    path = saved(work, tmp_path)
    with pytest.raises(ModelError, match="not the one that"):
        load(path, model=tiny_text.model(seed=1), tokenizer=tiny_text.tokenizer())
    with pytest.raises(ModelError, match=r"frozen transformer.*`model=`.*texts are not needed"):
        load(path)
    with pytest.raises(SettingError, match="no model can be loaded"):
        load(path, model=tmp_path / "nowhere", tokenizer=tiny_text.tokenizer())


def test_the_parameter_is_for_such_runs_only(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 3))
    work = coterie.from_arrays(x, (x[:, :2] > 0).astype(float), tasks=["a", "b"])
    path = saved(work, tmp_path)
    with pytest.raises(SettingError, match="`model` and `tokenizer` are for runs of from_text"):
        load(path, model=tiny_text.model())


def test_descriptions_are_json_or_none():
    import peft

    work = from_text(tiny_text.tasks(), tiny_text.model(), tiny_text.tokenizer(), lora=2, max_length=20)
    spec = spec_of(work)
    assert spec is not None
    assert json.loads(json.dumps(spec)) == spec
    assert spec["lora"] == {"r": 2, "lora_alpha": 4}
    assert spec_of(work.to("cpu")) == spec
    config = peft.LoraConfig()
    config.rank_pattern = {"x": object()}
    assert text_spec(config) is None


@pytest.mark.parametrize("change", [lambda spec: spec.pop("lora"), lambda spec: spec.update(kind=3, lora=[1])])
def test_a_damaged_description(change):
    from coterie.workload.text.encoder import builder_of

    spec = dict(
        spec_of(from_text(tiny_text.tasks(), tiny_text.model(), tiny_text.tokenizer(), lora=2, max_length=20)) or {}
    )
    change(spec)
    with pytest.raises(CoterieError):
        builder_of(spec, tiny_text.model(), tiny_text.tokenizer())
