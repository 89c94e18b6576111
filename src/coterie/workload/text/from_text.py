"""A workload from texts: tasks with texts of their own, or one table of labels, on one frozen transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from coterie._random import random_numbers
from coterie._surface import known_arguments
from coterie.errors import SettingError, WorkloadError
from coterie.workload.arrays import paired, row_labels
from coterie.workload.build import FRACTIONS, from_arrays, from_datasets, split_each
from coterie.workload.builders import TasksLike, labels_and_tasks
from coterie.workload.recipe import Recipe
from coterie.workload.split import SplitLike, by_position
from coterie.workload.task import Task
from coterie.workload.text.base import load_tokenizer, take_base
from coterie.workload.text.encoder import TextEncoder, draw, text_spec
from coterie.workload.text.frozen import SharedBuilder
from coterie.workload.text.labels import read_labels
from coterie.workload.text.lora import lora_config
from coterie.workload.text.tokens import Reading, as_texts, check_tokens, encode_text, joined, pad_number, reads
from coterie.workload.workload import Workload

#: for adapters: a larger step than for whole models, and few passes
RECIPE = Recipe(learning_rate=1e-3, weight_decay=1e-2, epochs=10, batch_size=32, patience=3)


@known_arguments
def from_text(
    tasks: Any,
    model: Any,
    tokenizer: Any = None,
    *,
    task_names: TasksLike | None = None,
    kinds: Mapping[str, str | Task] | None = None,
    lora: Any = 8,
    layers: int | None = None,
    max_length: int = 64,
    pooling: str = "mean",
    recipe: Recipe | Mapping[str, Any] | None = None,
    split: SplitLike = FRACTIONS,
    seed: int = 0,
    name: str = "workload",
    known_groups: Sequence[Sequence[str]] | None = None,
) -> Workload:
    """A workload of text classification or regression: LoRA adapters and heads on one frozen transformer.

    The transformer is loaded once; all models share it in memory, and only adapters and heads are stored. Heads read
    the pooled hidden states, in float32.

    Args:
        tasks: a mapping of task names to (texts, labels), each task with texts of its own; or one pair (texts, y) for
            all tasks, with y (rows, tasks) and NaN where a label is missing. Texts are a list of texts, or of pairs of
            texts such as (question, passage). Labels of a task of its own: texts, booleans or up to 20 different
            whole numbers (of whatever type) are classes in sorted order, other numbers a regression.
        model: a model of transformers, its folder, or its name in the local cache. A copy is used; heads that it has
            are left out. In bfloat16 the frozen part stays so.
        tokenizer: of the model; None takes the one in the model's folder.
        task_names: with one table of labels, as `tasks` of :func:`coterie.workload.from_arrays`.
        kinds: task name -> ``"binary"``, ``"multiclass"``, ``"regression"`` or a :class:`Task`, where the guess from
            the labels is wrong.
        lora: rank of the adapters, with ``lora_alpha`` twice the rank; or a mapping of fields of ``peft.LoraConfig``;
            or one. Adapters are what the tasks share, so None is refused.
        layers: keep the first so many layers of the transformer only; None keeps all.
        max_length: tokens of a text (or pair) at most, special ones included.
        pooling: ``"mean"`` over the tokens, or ``"cls"``, the first token.
        recipe: how every model is trained; None is AdamW with 1e-3, 10 epochs at most, 32 rows a batch.
        split: fractions, drawn task by task; or as for :func:`coterie.workload.from_datasets`.
        seed: of the random split.
        name: for tables and reports.
        known_groups: groups of task names to compare the found ones with.

    Raises:
        WorkloadError: when texts or labels cannot be used as they are.
        SettingError: when another argument is of the wrong type or out of range, or the model is not supported
            (quantised, float16, encoder-decoder).
        MissingDependencyError: without transformers and peft (extra ``language``).

    Warns:
        FallbackWarning: when gradient checkpointing or fused attention kernels of the model were switched off.
        DataWarning: when most texts are cut.

    Cost: reading the model and tokenising once. Models are trained together where nothing in training is random.

    Example:
        >>> from transformers import BertConfig, BertModel, BertTokenizer
        >>> words = "[PAD] [UNK] [CLS] [SEP] [MASK] good bad cat dog".split()
        >>> tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
        >>> sizes = dict(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        >>> texts, tone = ["good cat", "bad dog", "bad cat", "good dog"] * 20, ["good", "bad", "bad", "good"] * 20
        >>> tasks = {"tone": (texts, tone), "animal": (texts, ["cat", "dog", "cat", "dog"] * 20)}
        >>> work = from_text(tasks, BertModel(BertConfig(**sizes)), tokenizer, lora=2)
        >>> tuple(work.inputs["input_ids"].shape), [name for name, _ in work.build_model(0).named_parameters()][-2:]
        ((160, 4), ['head.weight', 'head.bias'])
    """
    if lora is None:
        raise SettingError(
            "Parameter `lora`: None leaves the transformer frozen, so that tasks share no trained parameter and there "
            "is nothing to group. Give a rank, such as lora=8. To train the whole transformer, pass `build_model` to "
            "coterie.workload.from_arrays, with inputs of coterie.workload.encode_text."
        )
    config = lora_config(lora)
    facts = {"kind": "text", "layers": layers, "max_length": max_length, "pooling": pooling}
    indexes: list[Any] = []
    words = load_tokenizer(tokenizer, model)
    if isinstance(tasks, Mapping):
        if task_names is not None:
            raise SettingError("Parameter `task_names` is for one table of labels; here the keys of `tasks` are names.")
        named = cast("Mapping[str, Any]", tasks)
        named = {key: _paired(entry, f"entry {key!r}") for key, entry in named.items()}
        indexes = [row_labels(*entry) for entry in named.values()]
        inputs, labels, made = _each(named, kinds or {}, words, max_length)
    else:
        if kinds is not None:
            raise SettingError("Parameter `kinds` is for tasks with texts of their own. Give `task_names` a mapping.")
        tasks = _paired(tasks, "the argument")
        split = by_position(split, row_labels(*tasks))
        inputs, labels, made = _table(tasks, task_names, words, max_length)
    base = take_base(model, layers)
    known: Any = base
    check_tokens(inputs, known.get_input_embeddings().num_embeddings, words, max_length)
    reading = Reading(words, max_length, reads(base, inputs[0]))
    spec = text_spec(config, **facts, names=reading.names, outputs=sum(task.width for task in made))
    with random_numbers(seed=0):  # torch's random state stays as it was
        encoder = TextEncoder(base, config, sum(task.width for task in made), pooling=pooling, reading=reading)
    inputs = [{key: part[key] for key in reading.names} for part in inputs]
    options: dict[str, Any] = {
        "tasks": made,
        "build_model": SharedBuilder(encoder, draw, spec),
        "recipe": RECIPE if recipe is None else recipe,
        "split": split,
        "seed": seed,
        "name": name,
        "known_groups": known_groups,
    }
    if isinstance(tasks, Mapping):
        names = [task.name for task in made]
        if isinstance(split, Mapping):
            options["split"] = split_each(split, [len(column) for column in labels], seed, indexes)
        return from_datasets(dict(zip(names, zip(inputs, labels, strict=True), strict=True)), **options)
    return from_arrays(inputs[0], labels[0], **options)


def _each(
    tasks: Mapping[str, Any], kinds: Mapping[str, str | Task], tokenizer: Any, max_length: int
) -> tuple[list[Any], list[NDArray[np.float64]], list[Task]]:
    """Inputs, labels and task of every entry."""
    unknown = [name for name in kinds if name not in tasks]
    if unknown:
        raise SettingError(
            f"Parameter `kinds` has names that are no tasks: {unknown[:5]}. Tasks are {list(tasks)[:5]}."
        )
    inputs: list[Any] = []
    labels: list[NDArray[np.float64]] = []
    made: list[Task] = []
    for name, entry in tasks.items():
        texts, values = entry
        where = f"Parameter `tasks`: the texts of {name!r}"
        first, second = as_texts(texts, where)
        column, task = read_labels(values, str(name), kinds.get(name))
        if len(column) != len(first):
            raise WorkloadError(
                f"{where} and its labels should be equally many. Found {len(first)} and {len(column)}. The likely "
                "cause is one of them filtered without the other."
            )
        pairs = first if second is None else list(zip(first, second, strict=True))
        inputs.append(encode_text(tokenizer, pairs, max_length))
        labels.append(column)
        made.append(task)
    if not made:
        raise WorkloadError("Parameter `tasks` is empty. Give at least two tasks, each with (texts, labels).")
    return list(joined(inputs, pad_number(tokenizer))), labels, made


def _table(
    tasks: Any, task_names: TasksLike | None, tokenizer: Any, max_length: int
) -> tuple[list[Any], list[NDArray[np.float64]], list[Task]]:
    """The same for one table of labels."""
    texts, y = tasks
    first, second = as_texts(texts, "Parameter `tasks`: the texts")
    labels, made = labels_and_tasks(
        y, task_names, len(first),
        f"Parameter `tasks`: texts and labels should have the same number of rows. Found {len(first)} and {{found}}. "
        "The likely cause is one of them filtered without the other.",
    )  # fmt: skip
    pairs = first if second is None else list(zip(first, second, strict=True))
    return [encode_text(tokenizer, pairs, max_length)], [labels], list(made)


def _paired(entry: Any, where: str) -> tuple[Any, Any]:
    return paired(*_pair(entry, where), f"Parameter `tasks`: texts and labels of {where}")


def _pair(entry: Any, where: str) -> tuple[Any, Any]:
    values: Any = entry if isinstance(entry, tuple | list) else ()
    if len(values) != 2:
        raise WorkloadError(
            f"Parameter `tasks`: {where} should be a pair (texts, labels). Found {type(entry).__name__}"
            f"{f' of {len(values)}' if values else ''}. For example {{'spam': (texts, labels), 'tone': (more, tone)}}, "
            "or (texts, y) with one column of y a task."
        )
    return values[0], values[1]
