"""Causal language models: label words and sequences as tasks, low-rank adapters on one frozen base."""

from coterie.workload.causal.build import from_causal
from coterie.workload.causal.serve import encode, save_adapter

__all__ = [
    "encode",
    "from_causal",
    "save_adapter",
]
