"""What to do with the models of groups: inputs for predictions, and adapters for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from coterie._files import make_directory, user_path
from coterie._surface import known_arguments
from coterie.errors import SettingError, WorkloadError
from coterie.workload.causal.rows import Row, fit_rows, pack
from coterie.workload.causal.scorer import CausalScorer
from coterie.workload.causal.tokens import Template, Tokens
from coterie.workload.text.lora import write_adapter


def encode(
    prompts: Sequence[Any],
    answers: Sequence[Any] | None = None,
    tokenizer: Any = None,
    *,
    template: Template = None,
    max_length: int = 256,
    end: int | None = None,
) -> dict[str, Tensor]:
    """Inputs for the models of a workload of :func:`from_causal`, for example for ``Predictor.predict``.

    Args:
        prompts: as in the workload.
        answers: whose probability is asked for, for sequence tasks; without them, sequence tasks say 0.5.
        tokenizer: as in the workload; None for token numbers.
        template: as in the workload.
        max_length: longer rows are refused.
        end: the token that ends an answer; by default that of the tokenizer.

    Raises:
        WorkloadError: when there is not one answer a prompt, or a row is empty or too long.
        SettingError: when answers are given and there is no end token.

    Example:
        >>> encode([[4, 5]], [[6]], end=1)["targets"].tolist()
        [[6, 1]]
    """
    tokens = Tokens(tokenizer, template)
    if answers is None:
        rows = [Row(tokens.prompt(prompt), []) for prompt in prompts]
    else:
        end = tokens.end if end is None else end
        if end is None:
            raise SettingError("Parameter `end` should be the number of the token that ends an answer. Found none.")
        if len(answers) != len(prompts):
            raise WorkloadError(
                f"Parameter `answers` should have one answer for each of {len(prompts)} prompts. Found {len(answers)}."
            )
        rows = [
            Row(tokens.prompt(prompt), [*tokens.following(prompt, answer), end])
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
    if not rows:
        return {name: value[:0] for name, value in pack([Row([0], [])]).items()}
    try:
        return pack(fit_rows(rows, max_length, truncate=False))
    except WorkloadError as error:
        raise WorkloadError(f"Parameter `prompts`: {error}") from error


@known_arguments
def save_adapter(scorer: CausalScorer, folder: str | Path, *, base: str | None = None) -> Path:
    """Write the adapter of a trained model in the form of peft, for ``PeftModel.from_pretrained(base, folder)``.

    To generate text here and now, call ``scorer.model.generate(...)``: it is the adapted model of transformers.

    Args:
        scorer: a model of the workload, for example ``predictor.models[0]``.
        folder: made if it is not there; two files are written.
        base: name or folder of the base model to note in the configuration.

    Raises:
        SettingError: when it is no model of :func:`from_causal`.
        MissingDependencyError: without peft.
    """
    if not isinstance(scorer, CausalScorer):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SettingError(
            f"Parameter `scorer` should be a model of coterie.workload.from_causal. Found {type(scorer).__name__}."
        )
    made = user_path(folder)
    make_directory(made)
    write_adapter(scorer.model, made, "CAUSAL_LM", base)
    return made
