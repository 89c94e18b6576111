"""Encoders of other families: adapters, features in both modes, and the layers that are kept."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from coterie.features import validate_gradients
from coterie.workload import from_text, validate
from coterie.workload.structure import find_structure
from reference import tiny_text

pytestmark = [
    pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("transformers", "peft")), reason="extra `language`"
    ),
]
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
#: class, settings, layers to keep, whether a mask of padding says everything
FAMILIES = {
    "Roberta": ({**BERT, "max_position_embeddings": 30, "pad_token_id": 0}, 1, True),
    "DistilBert": ({"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16}, 1, True),
    "DebertaV2": ({**BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, 1, False),
    "ModernBert": ({**BERT, "pad_token_id": 0, "local_attention": 4}, 1, False),
    "Albert": ({**BERT, "embedding_size": 8}, None, True),
    "T5Encoder": ({"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}, 1, True),
    "GPT2": ({"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 30}, 1, False),
}


def build(family):
    import transformers

    config = getattr(transformers, f"{family.removesuffix('Encoder')}Config")
    settings, layers, full = FAMILIES[family]
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}Model")(config(vocab_size=25, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model, layers, full


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family(family):
    model, layers, full = build(family)
    work = from_text(tiny_text.tasks(), model, tiny_text.tokenizer(), lora=2, max_length=20, layers=layers)
    validate(work)
    made = work.build_model(0)
    assert made.full_mask == full
    structure = find_structure(work, made)
    assert structure.trunk
    assert all("lora_" in name for name in structure.trunk)
    if layers:
        assert made.base.config.num_hidden_layers == layers
    for mode in ("forward", "reverse"):
        assert validate_gradients(work, made, examples=2, mode=mode).worst < 1e-4


def test_a_full_mask_is_the_same_as_a_mask_of_tokens():
    """Under vmap the mask has another form."""
    model, _, _ = build("Roberta")
    work = from_text(tiny_text.tasks(), model, tiny_text.tokenizer(), lora=2, max_length=20)
    made = work.build_model(0).eval()
    batch = work.batch(torch.arange(0, 160, 20))
    rows = torch.func.vmap(lambda one: made(**{name: value[None] for name, value in one.items()})[0])(batch)
    torch.testing.assert_close(rows, made(**batch), rtol=1e-4, atol=1e-5)
