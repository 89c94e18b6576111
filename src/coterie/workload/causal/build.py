"""A workload from a causal language model: label words and sequences, low-rank adapters on one frozen base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from coterie._check import whole_number
from coterie._random import random_numbers
from coterie._surface import known_arguments
from coterie.errors import SettingError, WorkloadError
from coterie.workload.arrays import paired, row_labels
from coterie.workload.build import FRACTIONS, from_datasets, split_each
from coterie.workload.causal.base import check_base, check_rows, shared_copy
from coterie.workload.causal.rows import Row, fit_rows, pack
from coterie.workload.causal.scorer import CausalScorer, OutputColumns
from coterie.workload.causal.tokens import Template, Tokens
from coterie.workload.causal.words import class_numbers, word_tokens, words_in_order
from coterie.workload.recipe import Recipe
from coterie.workload.split import SplitLike
from coterie.workload.task import Task
from coterie.workload.text.base import load_pretrained
from coterie.workload.text.encoder import text_spec
from coterie.workload.text.frozen import SharedBuilder
from coterie.workload.text.lora import apply_lora, draw_lora, lora_config
from coterie.workload.workload import Workload


@known_arguments
def from_causal(
    tasks: Mapping[str, tuple[Sequence[Any], Any]],
    model: Any,
    tokenizer: Any = None,
    *,
    lora: Any = 8,
    words: Mapping[str, Any] | None = None,
    template: Template = None,
    max_length: int = 256,
    truncate: bool = False,
    per_token: bool = False,
    recipe: Recipe | Mapping[str, Any] | None = None,
    split: SplitLike = FRACTIONS,
    seed: int = 0,
    name: str = "workload",
    known_groups: Sequence[Sequence[str]] | None = None,
) -> Workload:
    """A workload whose tasks are prompts with a label word or an answer each, for a causal language model with LoRA.

    *Label words* (tasks in `words`): the classes of a task are words, each one token after the prompt, and the logits
    are those of the words after the last token of the prompt. Two words make a binary task with logit(word of class 1)
    - logit(word of class 0); more make a multi-class task, with log-odds among its words only. *Sequences* (all other
    tasks): the margin is the log-odds log(p / (1 - p)) of the whole answer given the prompt, end token included, and
    the loss -log p, in nats an answer. What is trained are the adapters; the frozen base is held once for all models
    and shares its memory with `model`, which stays as it is and should not be trained while the workload is in use.

    Args:
        tasks: {task: (prompts, labels)} for label words, with class numbers or the words themselves as labels;
            {task: (prompts, answers)} for sequences. Prompts and answers are texts; with ``tokenizer=None`` they are
            lists of token numbers. A space is put between a prompt and what follows it, unless the prompt ends with
            white space or has a chat template.
        model: a causal model of transformers in float32, bfloat16 or float64. Gradient checkpointing may be on. Logits,
            adapters and margins of a bfloat16 model are float32. The workload is on the device of the model.
        tokenizer: of the model.
        lora: rank of the adapters, a mapping of fields of ``peft.LoraConfig``, or one of these.
        words: {task: words}, a list in the order of the classes or a mapping of words to class numbers.
        template: see :class:`coterie.workload.causal.tokens.Tokens`; None, ``"chat"`` or a function of the prompt.
        max_length: tokens of a prompt and its answer at most.
        truncate: cut longer prompts from the left; by default they are refused. Answers are never cut.
        per_token: sequences have the geometric mean of the token probabilities in the place of their product: the loss
            is the mean -log p of a token, and the margin its log-odds.
        recipe: how every model is trained; adapters usually take learning rates of 1e-4 to 1e-3.
        split: fractions of (train, validation, test) of each task, a :class:`Split` of all rows, or a mapping of these
            names to row numbers inside each task.
        seed: of the random split.
        name: for tables and reports.
        known_groups: groups of task names to compare the found ones with.

    Raises:
        WorkloadError: when prompts, labels, answers or words cannot be used as they are.
        SettingError: when another argument is of the wrong type or out of range.
        ModelError: when the model is quantised, in half precision, adapted already, or computes its logits in a way
            that per-example gradients cannot follow.
        MissingDependencyError: without peft.

    Cost: a pass over all texts to tokenise them and three passes over two rows. Sequence tasks hold logits
        (rows, answer tokens, vocabulary) while they are trained.

    Source: Li et al., Grad-TAG (margin as log-odds of the right answer; here of all its tokens instead of the first);
        Hu et al., "LoRA: low-rank adaptation of large language models", 2021.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=20, eos_token_id=1, **sizes))
        >>> prompts = [[5, 6 + row % 4] for row in range(60)]
        >>> tasks = {"next": (prompts, [[p[1] + 1] for p in prompts]), "even": (prompts, [p[1] % 2 for p in prompts])}
        >>> workload = from_causal(tasks, model, words={"even": [15, 16]}, lora=2)
        >>> [task.kind for task in workload.tasks], tuple(workload.inputs["input_ids"].shape)
        (['sequence', 'binary'], (120, 3))
    """
    if not isinstance(tasks, Mapping) or not tasks:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise WorkloadError(
            "Parameter `tasks` should be a mapping of task names to pairs (prompts, labels or answers). Found "
            f"{type(tasks).__name__}. For example {{'capital': (['Capital of Peru?'], ['Lima'])}}."
        )
    config = lora_config(lora)
    check_base(model)
    limit, tokens = whole_number(max_length, "max_length", low=2), Tokens(tokenizer, template)
    chosen = _words(words, tasks)
    end = _end(tokens, model) if len(chosen) < len(tasks) else None
    read = {task: _read(task, pair, chosen.get(task), tokens, end) for task, pair in tasks.items()}
    for task, made in read.items():
        try:
            made.rows = fit_rows(made.rows, limit, truncate=truncate, keep=tokens.front)
        except WorkloadError as error:
            raise WorkloadError(f"Parameter `tasks`, task {task!r}: {error}") from error
    every = [row for made in read.values() for row in made.rows]
    length, width = max(row.length for row in every), max(1, *(len(row.answer) for row in every))
    layout = OutputColumns(tuple(made.words for made in read.values()))
    check_rows(model, every, layout.tokens())
    if isinstance(split, Mapping):
        indexes = [row_labels(*pair) for pair in tasks.values()]
        split = split_each(split, [len(made.rows) for made in read.values()], seed, indexes)
    with random_numbers(seed=0):  # torch's random state stays as it was
        build_model = _scorer(model, config, layout, every, per_token)
    return from_datasets(
        {task: (_packed(made.rows, length, width, model), made.labels) for task, made in read.items()},
        tasks=[made.task for made in read.values()],
        build_model=build_model,
        recipe=recipe,
        split=split,
        seed=seed,
        standardize=False,
        name=name,
        known_groups=known_groups,
    )


@dataclass
class _Read:
    """A task as it was read."""

    task: Task
    rows: list[Row]
    labels: NDArray[np.float64]
    words: tuple[int, ...] | None


@dataclass(frozen=True)
class _Draw:
    """Draws the adapters of a scorer anew."""

    init: bool | str

    def __call__(self, scorer: CausalScorer) -> None:
        draw_lora(scorer.model, self.init)


def _words(words: Any, tasks: Mapping[str, Any]) -> dict[str, list[Any]]:
    if words is None:
        return {}
    if not isinstance(words, Mapping):
        raise SettingError(
            f"Parameter `words` should be a mapping of task names to their words. Found {type(words).__name__}. For "
            "example words={'polite': {'yes': 1, 'no': 0}}."
        )
    named = cast("Mapping[str, Any]", words)
    unknown = [task for task in named if task not in tasks]
    if unknown:
        raise SettingError(
            f"Parameter `words` names {unknown[:5]}, which are no tasks. The tasks are {list(tasks)[:8]}. Words of one "
            "task are given as words={'task': {'yes': 1, 'no': 0}}."
        )
    return {task: words_in_order(spec, task) for task, spec in named.items()}


def _end(tokens: Tokens, model: Any) -> int:
    """The token that ends an answer."""
    found = tokens.end if tokens.tokenizer is not None else getattr(model.config, "eos_token_id", None)
    found = found[0] if isinstance(found, list) else found
    if not isinstance(found, int):
        raise SettingError(
            "Parameter `tokenizer` has no end token, which ends the answers of sequence tasks. Set "
            "`tokenizer.eos_token` to a token that the model knows (or `model.config.eos_token_id` without tokenizer)."
        )
    return found


def _read(task: str, pair: Any, words: list[Any] | None, tokens: Tokens, end: int | None) -> _Read:
    prompts, given = _pair(task, pair)
    if words is not None:
        found = word_tokens(tokens, words, prompts, task)
        labels = class_numbers(given, words, task)
        kind = Task(task, "binary") if len(words) == 2 else Task(task, "multiclass", classes=len(words))
        # beside sequence tasks, these rows score the empty answer, so that every row has a margin for every column
        answers: list[list[int]] = [[] if end is None else [end]] * len(prompts)
    else:
        labels, found, kind = np.ones(len(prompts)), None, Task(task, "sequence")
        following = [tokens.following(prompt, answer) for prompt, answer in zip(prompts, given, strict=True)]
        answers = [[*pieces, cast("int", end)] for pieces in following]
    rows = [Row(tokens.prompt(prompt), answer) for prompt, answer in zip(prompts, answers, strict=True)]
    return _Read(kind, rows, labels, None if found is None else tuple(found))


def _pair(task: str, pair: Any) -> tuple[list[Any], Any]:
    whole = isinstance(pair, tuple | list) and len(cast("Sequence[Any]", pair)) == 2
    pair = paired(pair[0], pair[1], f"Parameter `tasks`: prompts and labels of entry {task!r}") if whole else pair
    prompts: Any = list(pair[0]) if whole and hasattr(pair[0], "__iter__") and not isinstance(pair[0], str) else None
    given: Any = pair[1] if whole else None
    if hasattr(given, "tolist"):  # arrays, tensors, columns of data frames
        given = given.tolist()
    if prompts is None or not hasattr(given, "__len__") or isinstance(given, str) or len(given) != len(prompts):
        found = f"{len(prompts)} prompts and {type(given).__name__}" if prompts is not None else type(pair).__name__
        if prompts is not None and hasattr(given, "__len__") and not isinstance(given, str):
            found = f"{len(prompts)} prompts and {len(given)}"
        raise WorkloadError(
            f"Parameter `tasks`: entry {task!r} should be a pair (prompts, labels or answers) of equal length. Found "
            f"{found}. For example {{'capital': (['Capital of Peru?'], ['Lima'])}}."
        )
    if not prompts:
        raise WorkloadError(f"Parameter `tasks`: entry {task!r} has no rows. Drop the task.")
    return prompts, given


def _packed(rows: list[Row], length: int, width: int, model: Any) -> dict[str, Tensor]:
    """Rows on the device of the model, whose memory the workload shares."""
    device = model.get_input_embeddings().weight.device
    return {name: value.to(device) for name, value in pack(rows, length, width).items()}


def _scorer(model: Any, config: Any, layout: OutputColumns, rows: list[Row], per_token: bool) -> SharedBuilder:
    spec = text_spec(config, kind="causal", words=layout.words, per_token=per_token)
    scorer = CausalScorer(apply_lora(shared_copy(model), config), layout, per_token=per_token)
    scorer.settle(pack([min(rows, key=lambda row: row.length), max(rows, key=lambda row: row.length)]))
    spec = None if spec is None else {**spec, "direct": scorer.direct}
    return SharedBuilder(scorer, _Draw(config.init_lora_weights), spec)


def builder_of_causal(spec: Mapping[str, Any], model: Any, config: Any) -> SharedBuilder:
    """`build_model` from the description of a scorer, its model or the model's folder, and ``peft.LoraConfig``."""
    if isinstance(model, str | Path):
        model = load_pretrained("AutoModelForCausalLM", model)
    check_base(model)
    layout = OutputColumns(tuple(None if words is None else tuple(words) for words in spec["words"]))
    with random_numbers(seed=0):
        scorer = CausalScorer(apply_lora(shared_copy(model), config), layout, per_token=bool(spec["per_token"]))
    scorer.direct = bool(spec["direct"])
    return SharedBuilder(scorer, _Draw(config.init_lora_weights), dict(spec))
