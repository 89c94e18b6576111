"""Groups of adapters on one base: served together, and exported for peft."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import coterie
from coterie.errors import ModelError, SettingError
from coterie.grouping import Grouping
from coterie.serving import export_adapters, load
from coterie.serving.saved import save_served
from coterie.training.evaluate import tensors_of
from coterie.workload import Recipe, encode_text, from_arrays, from_text, load_workload
from reference import tiny_text

pytestmark = [
    pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("transformers", "peft")), reason="extra `language`"
    ),
]
GROUPS = ((0, 2), (1, 3), (0, 1, 2, 3), (3,), (2,))
GROUPING = Grouping(("tone", "animal", "same", "length"), GROUPS, (0, 1, 4, 3))


def make(**changes):
    recipe = Recipe(learning_rate=0.01, epochs=2, batch_size=16)
    options = {"lora": 2, "max_length": 20, "recipe": recipe, **changes}
    return from_text(
        tiny_text.tasks(), options.pop("model", None) or tiny_text.model(), tiny_text.tokenizer(), **options
    )


def disturbed(work, seed):
    model = work.build_model(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module", params=["whole", "cut"])
def served(request, tmp_path_factory):
    """A run directory with five groups, its workload, and the models that were saved."""
    work = make(layers=1 if request.param == "cut" else None)
    models = [disturbed(work, seed) for seed in range(len(GROUPS))]
    path = tmp_path_factory.mktemp(request.param)
    save_served(path, work, GROUPING, [tensors_of(model) for model in models])
    return path, work, models


def test_all_groups_share_one_base(served):
    path, work, _ = served
    predictor = load(path, workload=work)
    assert len(predictor.models) == 5
    seen, size, trained = set(), 0, 0
    for model in predictor.models:
        for value in (*model.parameters(), *model.buffers()):
            if value.untyped_storage().data_ptr() not in seen:
                seen.add(value.untyped_storage().data_ptr())
                size += value.untyped_storage().nbytes()
        trained += sum(value.numel() * value.element_size() for value in model.state_dict().values())
    base = sum(value.nbytes for name, value in predictor.models[0].named_buffers() if "digest" not in name)
    assert size == base + trained
    addresses = {model.base.embeddings.word_embeddings.weight.data_ptr() for model in predictor.models}
    assert addresses == {work.build_model(9).base.embeddings.word_embeddings.weight.data_ptr()}


def test_what_is_stored_does_not_hold_the_base(served):
    path, work, _ = served
    saved = load_file(path / "serve.safetensors")
    probe = {name: saved.pop(name) for name in list(saved) if name.startswith("probe/")}
    assert sum(value.numel() for value in probe.values()) < 1000
    assert all("lora_" in name or "/head." in name or "base_digest" in name for name in saved)
    assert len(saved) == 5 * len(work.build_model(0).state_dict())


def test_predictions_from_texts(served):
    path, work, models = served
    predictor = load(path, workload=work)
    texts = tiny_text.sentences(7, seed=5)
    batch = {name: torch.tensor(value) for name, value in tiny_text.tokenizer()(texts, padding=True).items()}
    found = predictor.predict(models[0].encode(texts))
    for task, group in (("tone", 0), ("same", 4)):
        column = work.columns[work.task_names.index(task)].start
        expected = models[group].eval()(**batch)[:, column].detach().sigmoid()
        np.testing.assert_allclose(found[task], expected, rtol=1e-4)
    assert found["animal"].shape == (7, 3)
    np.testing.assert_allclose(found["animal"].sum(1), 1.0, rtol=1e-5)


def test_models_of_another_base_are_refused(served):
    path, _, _ = served
    other = make(model=tiny_text.model(5))
    with pytest.raises(ModelError, match="base_digest"):
        load(path, workload=other)


def test_peft_loads_what_was_exported(served, tmp_path):
    import transformers
    from peft import PeftModel

    path, work, models = served
    folders = export_adapters(path, tmp_path, workload=work)
    assert [folder.name for folder in folders] == [f"group{index}" for index in range(5)]
    texts = tiny_text.sentences(6, seed=8)
    batch = encode_text(tiny_text.tokenizer(), texts, 20)
    mask = batch["attention_mask"][..., None]
    tiny_text.model().save_pretrained(tmp_path / "base")
    for group in (0, 1, 2):
        described = json.loads((folders[group] / "coterie.json").read_text())
        base = transformers.AutoModel.from_pretrained(tmp_path / "base", num_hidden_layers=described["layers"])
        adapted = PeftModel.from_pretrained(base, folders[group]).eval()
        with torch.no_grad():
            hidden = adapted(**batch).last_hidden_state
            whole = PeftModel.from_pretrained(tiny_text.model(), folders[group]).eval()  # adapters after a cut: none
            states = whole(**batch, output_hidden_states=True).hidden_states
            torch.testing.assert_close(states[described["layers"]], hidden, rtol=1e-4, atol=1e-5)
            ours = models[group].eval()
            expected = ours.base(**batch).last_hidden_state
            torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-5)
            heads = load_file(folders[group] / "heads.safetensors")
            logits = (hidden * mask).sum(1) / mask.sum(1) @ heads["weight"].T + heads["bias"]
            for entry in described["tasks"]:
                index = work.task_names.index(entry["name"])
                rows = slice(*entry["rows"])
                torch.testing.assert_close(logits[:, rows], ours(**batch)[:, work.columns[index]], rtol=1e-4, atol=1e-5)
                assert entry["serves"] == (GROUPING.serves[index] == group)
        assert [entry["name"] for entry in described["tasks"]] == [work.task_names[task] for task in GROUPS[group]]
        assert (described["pooling"], described["max_length"]) == ("mean", 20)


FAMILIES = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 30},
    "llama": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2},
}


@pytest.mark.parametrize("layers", [1, None])
@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_of_other_families(family, layers, tmp_path):
    """Names without a prefix, and a normalisation after the layers."""
    import transformers
    from peft import PeftModel

    torch.manual_seed(0)
    kind = transformers.T5EncoderModel if family == "t5" else transformers.AutoModel
    config = transformers.AutoConfig.for_model(
        family, vocab_size=25, bos_token_id=2, eos_token_id=3, **FAMILIES[family]
    )
    given = kind._from_config(config) if family == "t5" else kind.from_config(config)
    given.save_pretrained(tmp_path / "base")
    work = make(model=given, layers=layers)
    model = disturbed(work, 0).eval()
    alone = Grouping(work.task_names, ((0, 1, 2, 3),), (0, 0, 0, 0))
    save_served(tmp_path, work, alone, [tensors_of(model)])
    (folder,) = export_adapters(tmp_path, tmp_path / "out", workload=work)
    batch = encode_text(tiny_text.tokenizer(), tiny_text.sentences(3), 20)
    base = kind.from_pretrained(
        tmp_path / "base", num_hidden_layers=json.loads((folder / "coterie.json").read_text())["layers"]
    )
    with torch.no_grad():
        found = PeftModel.from_pretrained(base, folder).eval()(**batch).last_hidden_state
        expected = model.base(**batch).last_hidden_state
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(kind.from_pretrained(tmp_path / "base").eval()(**batch).last_hidden_state, expected)


class Coder(torch.nn.Module):
    """A module of the user with a method `encode` of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

    def encode(self, x):
        return torch.tanh(self.first(x))

    def forward(self, x):
        return self.second(self.encode(x))


def test_a_method_encode_of_the_user_is_left_alone(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    work = from_arrays(x, x[:, :2] > 0, tasks=["a", "b"], build_model=Coder, standardize=False)
    model = work.build_model(0)
    save_served(tmp_path, work, Grouping(("a", "b"), ((0, 1),), (0, 0)), [tensors_of(model)])
    found = load(tmp_path, workload=work).predict(x)
    np.testing.assert_allclose(found["b"], model(torch.tensor(x))[:, 1].detach().sigmoid(), rtol=1e-5)


def test_adapters_of_a_model_that_peft_wrapped(tmp_path):
    import peft

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = peft.get_peft_model(tiny_text.model(), peft.LoraConfig(r=2, init_lora_weights=False))
            self.head = torch.nn.Linear(16, 2)

        def forward(self, input_ids):
            return self.head(self.inner(input_ids=input_ids).last_hidden_state.mean(1))

    ids = np.random.default_rng(0).integers(5, 25, (60, 4))
    work = from_arrays({"input_ids": ids}, ids[:, :2] > 12, tasks=["a", "b"], build_model=Wrapped)
    model = work.build_model(0).eval()
    save_served(tmp_path, work, Grouping(("a", "b"), ((0, 1),), (0, 0)), [tensors_of(model)])
    (folder,) = export_adapters(tmp_path, tmp_path / "out", workload=work)
    batch = {"input_ids": torch.tensor(ids[:3])}
    found = peft.PeftModel.from_pretrained(tiny_text.model(), folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(found(**batch).last_hidden_state, model.inner(**batch).last_hidden_state)


FILE = """
import sys
sys.path.insert(0, {tests!r})
from coterie.workload import from_text
from reference import tiny_text
work = from_text(tiny_text.tasks(), tiny_text.model(), tiny_text.tokenizer(), lora=2, max_length=20)
"""


def test_a_workload_in_a_file_is_found_again(tmp_path):
    path = tmp_path / "tasks.py"
    (tmp_path / "run").mkdir()
    path.write_text(FILE.format(tests=str(Path(__file__).resolve().parent.parent)))
    work = load_workload(f"{path}:work")
    models = [disturbed(work, seed) for seed in range(len(GROUPS))]
    save_served(tmp_path / "run", work, GROUPING, [tensors_of(model) for model in models])
    texts = tiny_text.sentences(5)
    found, expected = (load(tmp_path / "run", workload=each).predict(texts) for each in (work.reference, work))
    assert set(found) == set(work.task_names)
    for task, values in found.items():
        np.testing.assert_array_equal(values, expected[task])
    np.testing.assert_array_equal(
        found["tone"], coterie.load(tmp_path / "run", workload=work.reference).predict(models[0].encode(texts))["tone"]
    )


def test_models_without_adapters(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 3))
    work = from_arrays(x, x[:, :2] > 0, tasks=["a", "b"])
    save_served(tmp_path, work, Grouping(("a", "b"), ((0, 1),), (0, 0)), [tensors_of(work.build_model(0))])
    with pytest.raises(ModelError, match="no adapters of peft"):
        export_adapters(tmp_path, tmp_path / "out")
    with pytest.raises(SettingError, match=r"`folder`.*Found the file"):
        export_adapters(tmp_path, tmp_path / "serve.json")


@pytest.mark.slow
def test_from_texts_to_adapters(tmp_path):
    work = make()
    result = coterie.run(work, groups=2, seeds=2, bases=1, out=tmp_path / "run")
    predictor = coterie.load(result, workload=work)
    assert set(predictor.predict(predictor.models[0].encode(["good cat", "bad dog"]))) == set(work.task_names)
    folders = export_adapters(result, tmp_path / "adapters", workload=work)
    assert len(folders) == len(predictor.groups)
    assert (tmp_path / "run" / "serve.safetensors").stat().st_size < 40_000
