"""A random BERT of a few thousand numbers, a tokenizer for a few words, and texts whose labels can be learnt."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

WORDS = (
    *("good", "bad", "warm", "cold", "red", "blue", "cat", "dog", "sun", "rain"),
    *("the", "a", "is", "was", "very", "not", "tree", "house", "river", "stone"),
)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tokenizer(extra: int = 0) -> Any:
    """Whole words as tokens."""
    from transformers import BertTokenizer

    words = [*SPECIAL, *WORDS, *(f"more{index}" for index in range(extra))]
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)}, model_max_length=24)


def model(seed: int = 0, **changes: Any) -> Any:
    """A BERT with 2 layers of width 16, without dropout unless asked for."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(WORDS) + len(SPECIAL),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 24,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.4,
    }
    return BertModel(BertConfig(**{**sizes, **changes}))


def sentences(count: int, seed: int = 0) -> list[str]:
    """Texts of 2 to 9 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(2, 10))) for _ in range(count)]


def has(texts: list[str], *words: str) -> list[int]:
    """1 where a text has one of the words."""
    return [int(bool(set(text.split()) & set(words))) for text in texts]


def tasks(count: int = 40) -> dict[str, tuple[Any, Any]]:
    """A binary task, one of pairs with labels in words, three classes, and a regression."""
    first, second, third, fourth = (sentences(count, seed) for seed in range(4))
    pairs = list(zip(third, sentences(count, 9), strict=True))
    classes = [min(2, a + b) for a, b in zip(has(second, "cat", "dog"), has(second, "sun", "is"), strict=True)]
    return {
        "tone": (first, has(first, "good", "warm", "very")),
        "animal": (second, classes),
        "same": (pairs, ["yes" if label else "no" for label in has(third, "red", "blue", "a", "the")]),
        "length": (fourth, [len(text.split()) / 3 + 0.01 for text in fourth]),
    }
