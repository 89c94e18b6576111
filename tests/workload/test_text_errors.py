"""What from_text says to input that it cannot use."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from coterie.errors import DataWarning, FallbackWarning, SettingError, WorkloadError
from coterie.workload import encode_text, from_text
from coterie.workload.text.base import take_base
from coterie.workload.text.labels import read_labels
from reference import tiny_text

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("transformers", "peft")), reason="extra `language`"
)
TEXTS = ["good cat", "bad dog", "warm sun", "cold rain"] * 5
LABELS = [0, 1] * 10


@pytest.fixture(scope="module")
def model():
    return tiny_text.model()


@pytest.fixture(scope="module")
def words():
    return tiny_text.tokenizer()


def make(model, words, tasks=None, **changes):
    tasks = {"a": (TEXTS, LABELS), "b": (TEXTS, LABELS)} if tasks is None else tasks
    return from_text(tasks, model, words, **{"max_length": 20, **changes})


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"lora": None}, SettingError, "share no trained parameter"),
        ({"lora": 0}, SettingError, "`lora`.*Found 0"),
        ({"lora": True}, SettingError, "`lora`.*Found True"),
        ({"lora": {"rank": 3}}, SettingError, "rank"),
        ({"lora": {"target_modules": ["q_proj"]}}, SettingError, "query.*key.*value"),
        ({"lora": {"init_lora_weights": "pissa"}}, SettingError, "init_lora_weights"),
        ({"lora": {"r": 2, "trainable_token_indices": {"word_embeddings": [5]}}}, SettingError, "not exported"),
        ({"lora": {"use_dora": True}}, SettingError, "use_dora"),
        ({"pooling": "max"}, SettingError, "`pooling`.*'max'"),
        ({"layers": 3}, SettingError, "`layers`.*from 1 to 2"),
        ({"max_length": 3}, SettingError, "`max_length`"),
        ({"max_length": 25}, SettingError, "`max_length`.*4 to 24"),
        ({"kinds": {"c": "binary"}}, SettingError, "`kinds`.*'c'"),
        ({"task_names": ["a", "b"]}, SettingError, "`task_names`"),
        ({"tasks": {}}, WorkloadError, "empty"),
        ({"tasks": {"a": (TEXTS, LABELS)}}, WorkloadError, "at least 2 tasks"),
        ({"tasks": {"a": TEXTS, "b": TEXTS}}, WorkloadError, "entry 'a' should be a pair"),
        ({"tasks": {"a": (TEXTS, LABELS[1:]), "b": (TEXTS, LABELS)}}, WorkloadError, "'a'.*20 and 19"),
        ({"tasks": {"a": ([*TEXTS[1:], "  "], LABELS), "b": (TEXTS, LABELS)}}, WorkloadError, "empty.*position 19"),
        ({"tasks": {"a": ([*TEXTS[1:], None], LABELS), "b": (TEXTS, LABELS)}}, WorkloadError, "None.*position 19"),
        ({"tasks": {"a": ("good cat", [1]), "b": (TEXTS, LABELS)}}, WorkloadError, "list of texts"),
        ({"tasks": {"a": (TEXTS, [1] * 20), "b": (TEXTS, LABELS)}}, WorkloadError, "'a'.*nothing to learn"),
        ({"tasks": {"a": (TEXTS, ["x", None] * 10), "b": (TEXTS, LABELS)}}, WorkloadError, "mixed.*position 1"),
        ({"tasks": {"a": (TEXTS, ["x", np.nan] * 10), "b": (TEXTS, LABELS)}}, WorkloadError, "mixed.*position 1"),
        ({"tasks": {"a": (TEXTS, ["x", 1] * 10), "b": (TEXTS, LABELS)}}, WorkloadError, "mixed.*position 1"),
        (
            {"tasks": {"a": (TEXTS, ["1", "10"] * 10), "b": (TEXTS, LABELS)}, "kinds": {"a": "regression"}},
            WorkloadError,
            "'a' are texts such as '1'",
        ),
        ({"tasks": {"a": (TEXTS, [0.5, np.nan] * 10), "b": (TEXTS, LABELS)}}, WorkloadError, "missing or infinite"),
        ({"tasks": {"a": (TEXTS * 2, [str(i) for i in range(40)]), "b": (TEXTS, LABELS)}}, WorkloadError, "20 classes"),
        ({"tasks": (TEXTS, np.zeros((19, 2)))}, WorkloadError, "20 and 19"),
        ({"tasks": (TEXTS, np.zeros((20, 2))), "kinds": {}}, SettingError, "`kinds`"),
    ],
)
def test_arguments(model, words, changes, kind, text):
    with pytest.raises(kind, match=f"(?s){text}"):
        make(model, words, **changes)


def test_a_tokenizer_of_another_model(model):
    with pytest.raises(SettingError, match=r"`tokenizer`.*up to 29.*embeddings for 25"):
        make(model, tiny_text.tokenizer(extra=5))


def test_no_tokenizer_at_all(model):
    with pytest.raises(SettingError, match="`tokenizer` is missing"):
        make(model, None)
    with pytest.raises(SettingError, match=r"`tokenizer`.*Found int"):
        make(model, 3)


def test_no_model(words, tmp_path):
    with pytest.raises(SettingError, match=r"`model`.*Found Linear"):
        make(torch.nn.Linear(2, 2), words)
    with pytest.raises(SettingError, match=r"no model can be loaded.*Nothing is downloaded"):
        make(tmp_path, words)


def test_half_precision_and_quantised_weights_are_refused(words):
    with pytest.raises(SettingError, match=r"float16.*bfloat16"):
        make(tiny_text.model().half(), words)
    packed = tiny_text.model()
    packed.is_quantized = True  # says so, but holds ordinary numbers: read from a packed file
    make(packed, words)
    packed.register_buffer("packed", torch.zeros(4, 4, dtype=torch.int32))
    with pytest.raises(SettingError, match="quantised"):
        make(packed, words)


def test_encoder_decoders_are_refused(words):
    from transformers import T5Config, T5Model

    model = T5Model(T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(SettingError, match="encoder-decoder"):
        make(model, words)


def test_gradient_checkpointing_is_switched_off_in_the_copy(words):
    model = tiny_text.model()
    model.gradient_checkpointing_enable()
    with pytest.warns(FallbackWarning, match="gradient checkpointing is switched off"):
        work = make(model, words)
    made = work.build_model(0)
    assert not any(getattr(child, "gradient_checkpointing", False) for child in made.modules())
    assert any(getattr(child, "gradient_checkpointing", False) for child in model.modules())


def test_other_attention_kernels_are_replaced():
    model = tiny_text.model()
    model.config._attn_implementation = "flex_attention"
    with pytest.warns(FallbackWarning, match="'flex_attention' cannot be differentiated"):
        assert take_base(model).config._attn_implementation == "sdpa"


def test_most_texts_cut_is_said(model, words):
    with pytest.warns(DataWarning, match="most of them are cut") as caught:
        make(model, words, max_length=4)
    cut = next(warning for warning in caught if "are cut" in str(warning.message))
    assert cut.filename == __file__, "the line of the caller of from_text is shown"


def test_a_tokenizer_without_padding(model):
    words = tiny_text.tokenizer()
    words.pad_token = None
    with pytest.raises(SettingError, match="neither a padding nor an end token"):
        encode_text(words, TEXTS, 8)
    words.eos_token = tiny_text.SPECIAL[3]
    assert encode_text(words, ["good", "good cat"], 8)["input_ids"][0, -1] == words.eos_token_id
    assert words.pad_token is None


def test_a_head_of_the_given_model_is_left_out(words):
    from transformers import BertForSequenceClassification

    bare = tiny_text.model()
    whole = BertForSequenceClassification(bare.config)
    whole.bert = bare
    names = [name for name, _ in make(whole, words).build_model(0).base.named_modules()]
    assert not any(name.startswith("classifier") for name in names)


@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [
        ([True, False, True], "binary", None),
        ([3, 7, 7], "binary", None),
        (["b", "a", "c"], "multiclass", 3),
        ([1, 2, 3], "multiclass", 3),
        ([0.0, 1.0, 1.0], "binary", None),
        ([1.0, 2.0, 3.0], "multiclass", 3),
        ([1.0, 2.5, 3.0], "regression", None),
        (np.array(["x", "y"], dtype=object), "binary", None),
        (torch.tensor([4, 5, 4]), "binary", None),
        (list(range(30)), "regression", None),
    ],
)
def test_labels(labels, kind, classes):
    column, task = read_labels(labels, "t")
    assert (task.kind, task.classes) == (kind, classes)
    if kind != "regression":
        assert set(column.tolist()) == set(range(len(set(np.asarray(labels).tolist()))))


def test_a_kind_that_is_given_wins():
    column, task = read_labels([1, 2, 5], "stars", "regression")
    assert (column.tolist(), task.kind) == ([1.0, 2.0, 5.0], "regression")
