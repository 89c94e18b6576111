"""Label words: one token for each class of a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from coterie._read import read_array
from coterie.errors import SettingError, WorkloadError
from coterie.workload.causal.tokens import Tokens

#: prompts of a task in which a word is tried
_CONTEXTS = 16


def words_in_order(words: Any, task: str) -> list[Any]:
    """The words of a task in the order of its classes, from a list, or from a mapping of words to class numbers.

    Raises:
        SettingError: when they are no such thing.

    Example:
        >>> words_in_order({"yes": 1, "no": 0}, "polite")
        ['no', 'yes']
    """
    if isinstance(words, Mapping):
        numbered = cast("Mapping[Any, Any]", words)
        found = sorted(numbered, key=lambda word: numbered[word]) if _whole(numbered.values()) else []
        if [numbered[word] for word in found] != list(range(len(numbered))):
            found = []
    elif isinstance(words, Sequence) and not isinstance(words, str):
        found = list(cast("Sequence[Any]", words))
    else:
        found = []
    if len(found) < 2 or len(set(found)) < len(found):
        raise SettingError(
            f"Parameter `words`: task {task!r} should have a list of at least two different words in the order of its "
            f"classes, or a mapping of words to the class numbers 0, 1, ... Found {words!r}. For example "
            "words={'polite': {'yes': 1, 'no': 0}}."
        )
    return found


def word_tokens(tokens: Tokens, words: Sequence[Any], prompts: Sequence[Any], task: str) -> list[int]:
    """The one token of each word after the prompts of a task.

    Words are looked at after up to 16 of the prompts, since a tokenizer may cut a text differently after another one,
    and after one that needs no space where others do.

    Raises:
        WorkloadError: when a word is several tokens, two words are the same one, or prompts disagree.
    """
    places = np.unique(np.linspace(0, len(prompts) - 1, min(_CONTEXTS, len(prompts))).astype(int)).tolist()
    joints = [tokens.between(prompt) for prompt in prompts]
    places += [row for row, joint in enumerate(joints) if joint != joints[0]][:1]
    found = {place: [tokens.following(prompts[place], word) for word in words] for place in places}
    several = [word for word, pieces in zip(words, found[0], strict=True) if len(pieces) != 1]
    if several:
        counts = [len(pieces) for pieces in found[0] if len(pieces) != 1]
        raise WorkloadError(
            f"Parameter `words`: each label word of task {task!r} should be one token after a prompt. Found "
            f"{several[:5]} with {counts[:5]} tokens. Choose shorter or more common words, or leave the task out of "
            "`words` and give the words as answers: then whole sequences are scored."
        )
    for place, other in found.items():
        if other != found[0]:
            raise WorkloadError(
                f"Parameter `words`: the words of task {task!r} are other tokens after the prompt of row {place} than "
                "after that of row 0. The likely cause is prompts of which some end with white space and some do not. "
                "End all of them in the same way."
            )
    made = [pieces[0] for pieces in found[0]]
    same = [word for word, token in zip(words, made, strict=True) if Counter(made)[token] > 1]
    if same:
        raise WorkloadError(
            f"Parameter `words`: {same} of task {task!r} are the same token. The likely cause is words that the "
            "tokenizer does not know. Choose others."
        )
    return made


def class_numbers(labels: Any, words: Sequence[Any], task: str) -> np.ndarray:
    """Labels of a task as class numbers: words are looked up, numbers stay.

    Raises:
        WorkloadError: for a label that is none of the words.
    """
    listed = list(labels) if isinstance(labels, Sequence) else labels
    if isinstance(listed, list) and any(isinstance(label, str) for label in cast("list[Any]", listed)):
        known = {word: number for number, word in enumerate(words)}
        unknown = sorted({str(label) for label in cast("list[Any]", listed) if label not in known})
        if unknown:
            raise WorkloadError(
                f"Parameter `tasks`: labels of {task!r} should be among its words {list(words)[:6]}, or class numbers. "
                f"Found also {unknown[:5]}."
            )
        return np.array([known[label] for label in cast("list[Any]", listed)], dtype=np.float64)
    return read_array(listed, f"tasks[{task!r}][1]").astype(np.float64)


def _whole(values: Any) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)
