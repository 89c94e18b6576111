"""The pretrained part: a transformer of the user, checked, cut and made ready to be differentiated."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coterie._check import whole_number
from coterie._files import user_path
from coterie._surface import warn
from coterie.errors import FallbackWarning, SettingError, require

#: ways of computing attention that can be differentiated forwards and stacked
_ATTENTION = ("eager", "sdpa")


def take_base(model: Any, layers: int | None = None, *, auto: str = "AutoModel") -> nn.Module:
    """The transformer below any heads, as a copy that can be adapted; the model that was given stays as it is.

    Args:
        model: a ``transformers.PreTrainedModel``, a folder, or a name in the local cache of transformers. The copy
            is on the CPU wherever the model is: ``Workload.to`` moves it.
        layers: keep the first so many layers only; None keeps all.
        auto: the class of transformers that loads a folder.

    Raises:
        SettingError: when it is something else, cannot be loaded, is quantised, in half precision (float16), an
            encoder-decoder, or does not have that many layers.
        MissingDependencyError: when transformers is not installed.

    Warns:
        FallbackWarning: when gradient checkpointing or a fused attention kernel was switched off in the copy.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=8, num_attention_heads=2, intermediate_size=8, num_hidden_layers=3, vocab_size=30)
        >>> base = take_base(BertModel(BertConfig(**sizes)), layers=1)
        >>> len(base.encoder.layer), base.config.num_hidden_layers
        (1, 1)
    """
    transformers = require("transformers", extra="language", purpose="A workload of texts")
    if isinstance(model, str | Path):
        base = load_pretrained(auto, model)
    elif isinstance(model, transformers.PreTrainedModel):
        given: Any = model
        _check(given)
        base = copy.deepcopy(given.base_model if auto == "AutoModel" else given)
    else:
        raise SettingError(
            "Parameter `model` should be a model of transformers (PreTrainedModel) or the folder of one. Found "
            f"{type(model).__name__}. The likely cause is a model of another library, one already wrapped by peft "
            "(give its base model; adapters are added here), or a class in place of an instance. Modules of your own "
            "go to coterie.workload.from_arrays."
        )
    _check(base)
    _make_differentiable(base)
    if layers is not None:
        _cut(base, layers)
    return base.requires_grad_(False).cpu()


def load_tokenizer(tokenizer: Any, model: Any) -> Any:
    """The tokenizer that was given, else the one in the folder that the model came from.

    Raises:
        SettingError: when there is none, or it cannot be called.
    """
    if callable(tokenizer) and hasattr(tokenizer, "pad_token"):
        return tokenizer
    if tokenizer is not None and not isinstance(tokenizer, str | Path):
        raise SettingError(
            "Parameter `tokenizer` should be a tokenizer of transformers, or a folder. Found "
            f"{type(tokenizer).__name__}. For example AutoTokenizer.from_pretrained(folder)."
        )
    source = tokenizer or (model if isinstance(model, str | Path) else getattr(model, "name_or_path", ""))
    if not source:
        raise SettingError(
            "Parameter `tokenizer` is missing: the model does not say which folder it came from. Pass the tokenizer "
            "that the model was trained with."
        )
    transformers = require("transformers", extra="language", purpose="A workload of texts")
    try:
        return transformers.AutoTokenizer.from_pretrained(str(user_path(source)), local_files_only=True)
    except (OSError, ValueError) as error:
        raise SettingError(
            f"Parameter `tokenizer`: none can be loaded from {str(source)!r} ({_first_line(error)}). Pass the "
            "tokenizer that the model was trained with."
        ) from error


def hidden_size(base: nn.Module) -> int:
    """Width of the hidden states of a transformer."""
    config: Any = base.config
    return int(config.hidden_size)


def load_pretrained(auto: str, source: str | Path) -> Any:
    """A model from a folder or the local cache, by a class of transformers such as ``"AutoModel"``.

    Raises:
        SettingError: when there is none.
    """
    transformers = require("transformers", extra="language", purpose="A workload of texts")
    try:
        return getattr(transformers, auto).from_pretrained(str(user_path(source)), local_files_only=True)
    except (OSError, ValueError) as error:
        raise SettingError(
            f"Parameter `model`: no model can be loaded from {str(source)!r} ({_first_line(error)}). Give a folder "
            "with config.json and model.safetensors, or a model. Nothing is downloaded: a name of a hub works only "
            "when the model is in the local cache."
        ) from error


def is_quantised(model: nn.Module) -> bool:
    """By its tensors: a model whose weights were turned back into numbers when it was loaded still says it is."""
    packed = (torch.uint8, torch.int8, torch.int16, torch.int32)
    own = all(type(p) is nn.Parameter and p.is_floating_point() for p in model.parameters())
    return not own or any(buffer.dim() == 2 and buffer.dtype in packed for buffer in model.buffers())


def _check(model: Any) -> None:
    name = type(model).__name__
    if is_quantised(model):
        raise SettingError(
            f"Parameter `model`: this {name} is quantised, and gradients through its packed weights cannot be taken. "
            "Load it without `quantization_config`, in bfloat16 to save memory."
        )
    if getattr(model.config, "is_encoder_decoder", False):
        raise SettingError(
            f"Parameter `model`: {name} is an encoder-decoder. Give an encoder: a BERT-like model, or a class that "
            "loads the encoder alone, such as T5EncoderModel."
        )
    half = [name for name, parameter in model.named_parameters() if parameter.dtype == torch.float16]
    if half:
        raise SettingError(
            f"Parameter `model`: {len(half)} parameters of the {name} are float16, in which gradients underflow. Load "
            "it with dtype=torch.bfloat16 (a frozen base in half the memory; adapters and heads stay float32) or "
            "torch.float32."
        )


def _make_differentiable(base: Any) -> None:
    if any(getattr(child, "gradient_checkpointing", False) for child in base.modules()):
        # the newer name came with transformers 5
        getattr(base, "activation_checkpointing_disable", base.gradient_checkpointing_disable)()
        warn(
            "Parameter `model`: gradient checkpointing is switched off in the copy that is used, since it does not go "
            "together with directional and per-example gradients. Only adapters are trained, so activations are the "
            "memory that counts: use a smaller batch or `max_length` if it is short.",
            FallbackWarning,
        )
    found = getattr(base.config, "_attn_implementation", None)
    if found is not None and found not in _ATTENTION:
        base.set_attn_implementation("sdpa")
        warn(
            f"Parameter `model`: attention {found!r} cannot be differentiated forwards; the copy that is used has "
            "'sdpa'.",
            FallbackWarning,
        )


def layer_lists(base: Any) -> list[tuple[str, nn.ModuleList]]:
    """Name and modules of what can be the layers of a transformer: one list, unless its modules are named unusually."""
    total = base.config.num_hidden_layers
    stacks = [
        (name.count("."), name, child)
        for name, child in base.named_modules()
        if isinstance(child, nn.ModuleList) and len(child) == total
    ]
    least = min((depth for depth, _, _ in stacks), default=0)
    return [
        (name, child) for depth, name, child in stacks if depth == least
    ]  # a layer may have a list of as many parts


def _cut(base: Any, layers: Any) -> None:
    total = base.config.num_hidden_layers
    count = whole_number(layers, "layers", low=1, high=total)
    found = layer_lists(base)
    if len(found) != 1:
        raise SettingError(
            f"Parameter `layers`: the layers of a {type(base).__name__} are not found ({len(found)} lists of {total} "
            "modules). Cut the model yourself and leave `layers` out."
        )
    del found[0][1][count:]
    base.config.num_hidden_layers = count


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:160]
