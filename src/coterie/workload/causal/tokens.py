"""Prompts and what follows them as token numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from coterie.errors import SettingError, WorkloadError

#: None (the prompt as it is), "chat", or a function of the prompt that returns the text
Template = str | Callable[[Any], str] | None


@dataclass(frozen=True)
class Tokens:
    """Token numbers of prompts and of what follows them.

    Attributes:
        tokenizer: of transformers; None when prompts, answers and words are token numbers already.
        template: None takes prompts as they are, with the tokens that the tokenizer puts in front of a text; ``"chat"``
            makes each the message of a user by ``tokenizer.apply_chat_template`` (or takes it as a list of messages);
            a function makes a text of each.
    """

    tokenizer: Any
    template: Template = None

    def __post_init__(self) -> None:
        if self.template is not None and self.template != "chat" and not callable(self.template):
            raise SettingError(
                f"Parameter `template` should be None, 'chat' or a function of the prompt. Found {self.template!r}."
            )
        if self.template is not None and self.tokenizer is None:
            raise SettingError("Parameter `template` needs a `tokenizer`; without one, prompts are token numbers.")
        if self.template == "chat" and getattr(self.tokenizer, "chat_template", None) is None:
            raise SettingError(
                "Parameter `template`: the tokenizer has no chat template. Set `tokenizer.chat_template`, or give a "
                "function of the prompt, for example template=lambda p: f'Question: {p}\\nAnswer:'."
            )

    def prompt(self, prompt: Any) -> list[int]:
        """Token numbers of a prompt."""
        if self.tokenizer is None:
            return _numbers(prompt, "prompts")
        return self._ids(self._text(prompt), special=self.template != "chat")  # chat templates write them as text

    def following(self, prompt: Any, text: Any) -> list[int]:
        """Token numbers of a text after a prompt, without an end token.

        A space is put between the two, except after a chat template or a prompt that ends with white space. Where the
        tokens of the two texts together do not begin with those of the prompt, the text is tokenised alone.
        """
        if self.tokenizer is None:
            return _numbers([text] if isinstance(text, int) else text, "answers")
        if not isinstance(text, str):
            raise WorkloadError(
                f"Parameter `tasks`: answers and words should be texts. Found {text!r} ({type(text).__name__})."
            )
        before, after = self._text(prompt), self.between(prompt) + text
        special = self.template != "chat"
        first, whole = self._ids(before, special=special), self._ids(before + after, special=special)
        if whole[: len(first)] == first:
            return whole[len(first) :]
        return self._ids(after, special=False)

    def between(self, prompt: Any) -> str:
        """What is put between a prompt and the text that follows it."""
        before = "" if self.tokenizer is None or self.template == "chat" else self._text(prompt)
        return " " if before and not before[-1].isspace() else ""

    @property
    def front(self) -> int:
        """How many tokens the tokenizer puts in front of every text; chat templates write their own."""
        if self.tokenizer is None or self.template == "chat":
            return 0
        return len(self._ids("a", special=True)) - len(self._ids("a", special=False))

    @property
    def end(self) -> int | None:
        """The token that ends an answer, if the tokenizer has one."""
        return getattr(self.tokenizer, "eos_token_id", None)

    def _text(self, prompt: Any) -> str:
        if self.template == "chat":
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        text = self.template(prompt) if callable(self.template) else prompt
        if not isinstance(text, str):
            raise WorkloadError(
                f"Parameter `tasks`: prompts should be texts. Found {text!r} ({type(text).__name__}). Lists of "
                "messages need template='chat'; token numbers need tokenizer=None."
            )
        return text

    def _ids(self, text: str, *, special: bool) -> list[int]:
        found = list(self.tokenizer(text, add_special_tokens=special)["input_ids"])
        # some tokenizers end every text with the end token; a prompt goes on
        return found[:-1] if special and found and found[-1] == self.end and not self._ends(text) else found

    def _ends(self, text: str) -> bool:
        return text.endswith(str(getattr(self.tokenizer, "eos_token", None)))


def _numbers(values: Any, parameter: str) -> list[int]:
    if hasattr(values, "tolist"):
        values = values.tolist()
    listed = isinstance(values, Sequence) and not isinstance(values, str)
    found: list[Any] = list(cast("Sequence[Any]", values)) if listed else [None]
    if not all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in found):
        raise WorkloadError(
            f"Parameter `tasks`: without a `tokenizer`, {parameter} should be lists of token numbers. Found "
            f"{str(values)[:80]!r}. The likely cause is a tokenizer that was not passed."
        )
    return found
