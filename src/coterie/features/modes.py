"""One context in which every kind of module can be differentiated."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from coterie._process_lock import process_lock
from coterie._surface import warn
from coterie.errors import ModelError, ModelModeWarning

#: warnings of torch about its own inside, of no use to the caller
_NOISE = (
    "There is a performance drop because",
    "TF32 acceleration on top of oneDNN",
    "`torch.jit.script` is deprecated",
)


@contextmanager
def differentiable(model: nn.Module, *, warn: bool = True) -> Generator[None]:
    """Evaluation mode, and the kernels that can be differentiated forwards; everything is restored on leaving.

    * attention runs on the math backend (the fused kernels have no forward mode);
    * the fast path of ``nn.TransformerEncoderLayer`` is off;
    * for recurrent modules, mkldnn is off (LSTM) and so is cuDNN (no forward mode, no backward in evaluation mode);
    * every module is in evaluation mode, so that rows do not influence one another and nothing is random.

    Args:
        model: the module.
        warn: say so when BatchNorm or active dropout was in training mode.

    Raises:
        ModelError: BatchNorm without running statistics, whose rows cannot be told apart.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> with differentiable(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    _refuse_batch_statistics(model)
    if warn:
        _say_modes(model)
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with process_lock, ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=message)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        if recurrent:
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        model.eval()
        yield


def _norms(model: nn.Module) -> list[tuple[str, nn.Module]]:
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)  # pyright: ignore[reportPrivateUsage]
    return [(name or "the model", module) for name, module in model.named_modules() if isinstance(module, kinds)]


def _refuse_batch_statistics(model: nn.Module) -> None:
    for name, module in _norms(model):
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:  # pyright: ignore[reportPrivateUsage]
            raise ModelError(
                f"Module `{name}` ({type(module).__name__}) keeps no running statistics (track_running_stats=False), "
                "so the output of one row depends on the other rows and has no gradient of its own. "
                "Use track_running_stats=True, LayerNorm or GroupNorm."
            )


def _say_modes(model: nn.Module) -> None:
    batchnorm = [name for name, module in _norms(model) if module.training and _is_batchnorm(module)]
    dropout = [name or "the model" for name, module in model.named_modules() if module.training and _drops(module)]
    parts = [
        f"{kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (("BatchNorm", batchnorm), ("dropout", dropout))
        if names
    ]
    if parts:
        warn(
            f"{' and '.join(parts)} put in evaluation mode while gradients are taken: BatchNorm uses its running "
            "statistics and nothing is dropped. The mode is restored afterwards.",
            ModelModeWarning,
        )


def _is_batchnorm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)  # pyright: ignore[reportPrivateUsage]


def _drops(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):  # pyright: ignore[reportPrivateUsage]
        return module.p > 0
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return module.dropout > 0
    return False
