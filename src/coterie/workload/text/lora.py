"""Low-rank adapters of the package peft, in the layers of a model."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from coterie._files import atomic_write, read_bytes
from coterie.errors import SettingError, require

#: the name that peft knows the adapter by
ADAPTER = "default"
#: ways of drawing adapters that depend on the seed only; others change or need the frozen weights
INITS = (True, "gaussian")
#: what a configuration says about heads, files and ways of computing, beside what it says about numbers
_SIDE = (
    *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "quantization_config"),
    *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params"),
    *("use_cache", "output_attentions", "output_hidden_states", "return_dict", "initializer_range"),
)
#: what changes the outputs or the training of adapters, but not their shapes
_SCALES = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "lora_dropout")


def lora_config(lora: Any) -> Any:
    """A ``peft.LoraConfig`` from a rank, a mapping of its fields, or as it is.

    Args:
        lora: a whole number is the rank r, with ``lora_alpha = 2 r``, no dropout, and the layers that peft adapts in
            the type of model by default (the query and value projections of most).

    Raises:
        SettingError: when it is something else, or asks for what cannot be drawn anew for every seed.
        MissingDependencyError: when peft is not installed.

    Example:
        >>> lora_config(4).r, lora_config({"r": 2, "target_modules": ["query"]}).target_modules
        (4, {'query'})
    """
    peft = require("peft", extra="language", purpose="A workload with LoRA adapters")
    if isinstance(lora, Mapping):
        given = dict(cast("Mapping[str, Any]", lora))
        known = [entry.name for entry in dataclasses.fields(peft.LoraConfig)]
        unknown = [name for name in given if name not in known]
        if unknown:
            raise SettingError(
                f"Parameter `lora` has fields that peft.LoraConfig does not have: {unknown[:5]}. The likely cause is a "
                "misspelt name. For example lora={'r': 8, 'lora_alpha': 16, 'target_modules': ['query', 'value']}."
            )
        config: Any = peft.LoraConfig(**given)
    elif isinstance(lora, int) and not isinstance(lora, bool) and lora > 0:
        config = peft.LoraConfig(r=lora, lora_alpha=2 * lora)
    elif isinstance(lora, peft.LoraConfig):
        config = lora
    else:
        raise SettingError(
            "Parameter `lora` should be the rank of the adapters (a whole number of at least 1), a mapping of fields "
            f"of peft.LoraConfig, or a peft.LoraConfig. Found {lora!r} ({type(lora).__name__}). For example lora=8."
        )
    return _checked(config)


def apply_lora(model: nn.Module, config: Any) -> nn.Module:
    """Put adapters into a model (in place); everything else of it is frozen.

    Adapters of a model in half precision are float32.

    Args:
        model: the base model.
        config: from :func:`lora_config`; without ``target_modules``, peft's choice for the type of model, or all
            linear layers where it has none.

    Raises:
        SettingError: when no layer matches, or more than low-rank matrices would be trained.

    Source: Hu et al., "LoRA: low-rank adaptation of large language models", 2021; layers of the package peft.

    Example:
        >>> net = apply_lora(nn.Sequential(nn.Linear(2, 3)), lora_config({"r": 1, "target_modules": ["0"]}))
        >>> [name for name, parameter in net.named_parameters() if parameter.requires_grad]
        ['0.lora_A.default.weight', '0.lora_B.default.weight']
    """
    peft = require("peft", extra="language", purpose="A workload with LoRA adapters")
    config = dataclasses.replace(config)  # peft notes the layers that it found in the configuration
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if config.target_modules is None and kind not in _known_types():
        config.target_modules = "all-linear" if hasattr(model, "config") else _linear_names(model)
    try:
        adapted: nn.Module = peft.inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    except ValueError as error:
        raise SettingError(
            f"Parameter `lora`: peft cannot put adapters into a {type(model).__name__} ({error}). The likely cause is "
            f"`target_modules` ({config.target_modules}) that match none of its layers. The ends of the names of its "
            f"linear layers are {_linear_names(model)}; give some of them as lora={{'r': 8, 'target_modules': [...]}}."
        ) from error

    other = [name for name, value in adapted.named_parameters() if value.requires_grad and "lora_" not in name]
    if other:
        raise SettingError(
            f"Parameter `lora`: beside low-rank matrices, {other[:3]} would be trained, which are not drawn anew for a "
            "seed and not exported. The likely cause is `trainable_token_indices`: leave it out."
        )
    for parameter in adapted.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()  # small steps vanish in half precision
    return adapted


def draw_lora(module: nn.Module, init: bool | str = True) -> None:
    """Draw all adapters of a module anew (in place), from torch's random numbers; they start at no effect.

    Args:
        module: with adapters of :func:`apply_lora`.
        init: ``init_lora_weights`` of the configuration: True (Kaiming uniform) or ``"gaussian"``.
    """
    layer = require("peft.tuners.lora", extra="language", purpose="A workload with LoRA adapters").LoraLayer
    for child in module.modules():
        if isinstance(child, layer):
            adapted: Any = child
            with torch.no_grad():
                adapted.reset_lora_parameters(ADAPTER, init)


def describe_adapted(model: Any) -> str:
    """What else than its tensors makes the outputs and the training of a model with adapters: configuration and scales.

    For :meth:`~coterie.workload.text.frozen.FrozenModule.seal`, so that results of another dropout or another scale of
    the adapters are not taken for those of this model.
    """
    config = {name: value for name, value in model.config.to_diff_dict().items() if name not in _SIDE}
    scales = {name: getattr(model.peft_config[ADAPTER], name, None) for name in _SCALES}
    return f"{type(model).__name__} {json.dumps([config, scales], sort_keys=True, default=str)}"


def write_adapter(model: Any, folder: Path, task_type: str, base: str | None = None) -> None:
    """Write the adapters of a model in the form of peft: two files in a folder.

    Args:
        model: with adapters of :func:`apply_lora`, or a model of peft.
        folder: where; it exists.
        task_type: ``"CAUSAL_LM"`` or ``"FEATURE_EXTRACTION"``.
        base: name or folder of the base model to note in the configuration.
    """
    purpose = "Writing adapters"
    tensors = require("safetensors.torch", extra="language", purpose=purpose)
    prefix, mark = "base_model.model.", f".{ADAPTER}"
    # peft knows a model by the names that it has inside two wrappers, and an adapter without its own name
    named: dict[str, Tensor] = {
        prefix + name.removeprefix(prefix).replace(mark, ""): parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if "lora_" in name
    }
    config: Any = dataclasses.replace(model.peft_config[ADAPTER])
    if not getattr(config, "target_parameters", None):
        # whole names: a transformer that was cut has no adapters in the layers after the cut
        config.target_modules = sorted({name.removeprefix(prefix).partition(".lora_")[0] for name in named})
        config.layers_to_transform = config.layers_pattern = None
    config.base_model_name_or_path, config.task_type, config.inference_mode = base, task_type, True
    with tempfile.TemporaryDirectory() as made:  # peft writes in place, and through links
        config.save_pretrained(made)
        described = read_bytes(Path(made) / "adapter_config.json")
    atomic_write(folder / "adapter_config.json", described)
    atomic_write(folder / "adapter_model.safetensors", tensors.save(named, {"format": "pt"}))


def _checked(config: Any) -> Any:
    if config.init_lora_weights not in INITS:
        raise SettingError(
            f"Parameter `lora`: `init_lora_weights` should be one of {INITS}, which depend on the seed only. Found "
            f"{config.init_lora_weights!r}, which reads or changes the frozen weights or the data. Leave it out."
        )
    if config.use_dora or config.modules_to_save or config.bias != "none":
        raise SettingError(
            "Parameter `lora`: `use_dora`, `modules_to_save` and `bias` other than 'none' are not supported: all that "
            "is trained are the low-rank matrices and the heads. Leave them out."
        )
    if config.r < 1:
        raise SettingError(f"Parameter `lora`: the rank `r` should be at least 1. Found {config.r!r}.")
    return config


def _known_types() -> Mapping[str, Any]:
    constants = require("peft.utils.constants", extra="language", purpose="A workload with LoRA adapters")
    return constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING


def _linear_names(model: nn.Module) -> list[str]:
    """Last parts of the names of the linear layers, each once."""
    found = [name.rpartition(".")[2] for name, child in model.named_modules() if isinstance(child, nn.Linear)]
    return list(dict.fromkeys(found))[:20]
