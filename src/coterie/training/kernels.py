"""Kernels that can be stacked, differentiated and counted."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from coterie._process_lock import process_lock


@contextmanager
def open_kernels(*, recurrent: bool = False) -> Generator[None]:
    """Attention as matrix products, no fused encoder layers, and (`recurrent`) no fused recurrent layers.

    vmap would run the fused kernels member by member, and the FLOP counter does not see into them.
    """
    with process_lock, ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if recurrent:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # torch's remarks about hardware that is not here
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield
