"""What training many adapters together takes, said before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from coterie._check import whole_number
from coterie._surface import known_arguments
from coterie.errors import ResourceError
from coterie.training.population import members_at_once
from coterie.training.shared_base import SharedBase
from coterie.training.stackable import architecture_of, is_stackable
from coterie.workload.workload import Workload


@known_arguments
@dataclass(frozen=True)
class AdapterPlan:
    """How runs of a text workload are trained, and what that takes besides the frozen transformer and the rows.

    Attributes:
        reason: why they are trained one after the other; empty where they are trained together.
        runs: that are trained together; others follow in chunks of as many.
        layers: of the transformer.
        lowest: the lowest layer with an adapter, from 0; what lies below is computed once a row.
        kept_bytes: of the hidden states of all rows below that layer.
        on_disk: whether these are kept in a temporary file, and not in memory.
        pass_tokens: tokens that go through the transformer at once.
        pass_bytes: of what a pass and its way back take, about.
        run_bytes: of the parameters, gradients, moments and best checkpoint of a run.
    """

    reason: str
    runs: int = 1
    layers: int = 0
    lowest: int = 0
    kept_bytes: int = 0
    on_disk: bool = False
    pass_tokens: int = 0
    pass_bytes: int = 0
    run_bytes: int = 0

    @property
    def memory_bytes(self) -> int:
        """Working memory of it all."""
        return self.pass_bytes + self.runs * self.run_bytes + (0 if self.on_disk else self.kept_bytes)

    def __str__(self) -> str:
        if self.reason:
            return f"one run after the other: {self.reason}"
        kept = f"layers 0 to {self.lowest - 1} once a row" if self.kept_bytes else "all layers at every step"
        where = "disk" if self.on_disk else "memory"
        states = f" ({self.kept_bytes / 2**20:.0f} MiB of hidden states in {where})" if self.kept_bytes else ""
        return (
            f"{self.runs} runs together on {self.layers} layers: {kept}{states}, {self.pass_tokens} tokens at once "
            f"({self.pass_bytes / 2**20:.0f} MiB), {self.run_bytes / 2**20:.1f} MiB a run; "
            f"{self.memory_bytes / 2**20:.0f} MiB of working memory"
        )


@known_arguments
def plan_adapters(workload: Workload, runs: int = 16, *, memory: int = 2**30) -> AdapterPlan:
    """What it takes to train adapters together, as :func:`coterie.training.fit` does with several jobs.

    Args:
        workload: of :func:`coterie.workload.from_text` or :func:`coterie.workload.causal.from_causal`.
        runs: that are wanted.
        memory: bytes that they may take, as `memory` of a :class:`coterie.Context`: a quarter of it for hidden states
            (more of them go to disk), a quarter for a pass, half for the runs.

    Returns:
        The plan. Runs are together where nothing in training is random (dropout) and one pass for two models gives the
        outputs and gradients of each, tried on six rows.

    Raises:
        SettingError: when an argument is out of range.

    Cost: some passes over a few rows.

    Example:
        >>> from transformers import BertConfig, BertModel, BertTokenizer
        >>> from coterie.workload import from_text
        >>> tokenizer = BertTokenizer(vocab={w: i for i, w in enumerate("[PAD] [UNK] [CLS] [SEP] [MASK] a b".split())})
        >>> sizes = dict(vocab_size=7, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8)
        >>> bert = BertModel(BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **sizes))
        >>> tasks = {name: (["a b", "b", "a", "b a"] * 10, [1, 0, 0, 1] * 10) for name in ("first", "second")}
        >>> upper = {"r": 2, "target_modules": ["query", "value"], "layers_to_transform": [2]}
        >>> plan = plan_adapters(from_text(tasks, bert, tokenizer, lora=upper), runs=4)
        >>> plan.runs, plan.layers, plan.lowest, plan.kept_bytes, plan.on_disk
        (4, 3, 2, 8960, False)
    """
    wanted = whole_number(runs, "runs", low=1)
    limit = whole_number(memory, "memory", low=1)
    possible, reason = is_stackable(workload)
    if not possible:
        return AdapterPlan(reason)
    made = architecture_of(workload, limit)
    if not isinstance(made, SharedBase):
        return AdapterPlan("its models are no adapters on a frozen transformer; see coterie.training.fit")
    try:
        footprint = made.footprint()
        together = min(members_at_once(footprint, limit), footprint.enough, wanted)
    except ResourceError as error:
        return AdapterPlan(str(error))
    return AdapterPlan(
        "",
        together,
        made.many.layers,
        made.many.lowest if made.many.cut else 0,
        made.kept_bytes,
        made.on_disk,
        made.tokens,
        made.tokens * made.token_bytes,
        footprint.member,
    )
