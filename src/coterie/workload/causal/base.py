"""The frozen language model: what it must be, and a copy of it that shares its numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from coterie.errors import ModelError, SettingError
from coterie.workload.causal.rows import Row
from coterie.workload.text.base import is_quantised
from coterie.workload.text.tokens import check_known

#: types of numbers in which a frozen model is read
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
#: implementations of attention that can be stacked and differentiated twice over, and take a mask of any form
ATTENTION = ("eager", "sdpa")


def check_base(model: Any) -> None:
    """Raise when a model is no causal language model of transformers that adapters can be trained on.

    Args:
        model: what the user gave.

    Raises:
        SettingError: when it is something else.
        ModelError: when it is quantised, adapted already, in half precision, or spread over devices.
    """
    config = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or config is None or not hasattr(model, "get_output_embeddings"):
        raise SettingError(
            "Parameter `model` should be a causal language model of transformers. Found "
            f"{type(model).__name__}. For example AutoModelForCausalLM.from_pretrained(folder)."
        )
    if hasattr(model, "peft_config"):
        raise ModelError(
            f"Parameter `model`: this {type(model).__name__} has adapters already. Pass the base model; adapters that "
            "should stay are put into its weights by model.merge_and_unload()."
        )
    if is_quantised(model):
        raise ModelError(
            "Parameter `model` is quantised. Per-example gradients through quantised layers are not supported. Load it "
            "with dtype=torch.bfloat16 and without `quantization_config`, or take a smaller model."
        )
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if len(dtypes) != 1 or not dtypes <= set(DTYPES):
        raise ModelError(
            f"Parameter `model` should be of one type as a whole, among {_names(DTYPES)}. Found {_names(dtypes)}. Half "
            "precision (float16) overflows in training; load it with dtype=torch.float32 or torch.bfloat16."
        )
    if len({parameter.device for parameter in model.parameters()}) > 1:
        raise ModelError("Parameter `model` is spread over several devices. Load it on one, without `device_map`.")


def _names(dtypes: Iterable[torch.dtype]) -> list[str]:
    return sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)


def check_rows(model: Any, rows: Sequence[Row], words: Sequence[int]) -> None:
    """Raise SettingError when rows are longer than a model can read, or have tokens that it does not know.

    Args:
        model: a causal language model.
        rows: all of them.
        words: tokens of label words.
    """
    largest = max(max((*row.prompt, *row.answer, *words)) for row in rows)
    check_known(largest, int(model.get_input_embeddings().num_embeddings))
    config, longest = model.config, max(row.length for row in rows)
    reach = getattr(config, "max_position_embeddings", None)
    if isinstance(reach, int) and longest > reach:
        raise SettingError(
            f"Parameter `max_length`: the longest row has {longest} tokens, the model reads {reach}. Lower "
            "`max_length` and cut prompts with truncate=True."
        )
    window = getattr(config, "sliding_window", None)
    if isinstance(window, int) and longest > window:
        raise SettingError(
            f"Parameter `max_length`: the longest row has {longest} tokens, more than the sliding window of {window} "
            "of the model's attention. Longer rows than the window are not supported: lower `max_length`."
        )


def shared_copy(model: Any) -> Any:
    """A copy of a model whose parameters are frozen and share their memory with the original; ties are kept.

    The original stays as it is, gradients wanted or not. Training it afterwards would change the copy as well.
    """
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    made: Any = copy.deepcopy(model, memo)
    made.config.use_cache = False
    if getattr(made.config, "_attn_implementation", "eager") not in ATTENTION:
        made.set_attn_implementation("sdpa")
    if any(getattr(module, "gradient_checkpointing", False) for module in made.modules()):
        # the reentrant form finds no input that wants a gradient when the embeddings are frozen
        enable = getattr(made, "activation_checkpointing_enable", None) or made.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return made
