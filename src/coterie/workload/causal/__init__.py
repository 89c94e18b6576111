"""Causal language models: label words and sequences as tasks, low-rank adapters on one frozen base."""

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use
from coterie.workload.causal.build import from_causal
from coterie.workload.causal.serve import encode, save_adapter

__all__ = [
    "encode",
    "from_causal",
    "save_adapter",
]

__getattr__ = load_on_first_use(__name__, {}, earlier(__name__))
