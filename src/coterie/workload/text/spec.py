"""What makes a model on a frozen transformer besides the transformer itself: enough to build it without any texts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from coterie._random import random_numbers
from coterie.errors import StoreError, require
from coterie.workload.text.base import load_tokenizer, take_base
from coterie.workload.text.encoder import TextEncoder, draw
from coterie.workload.text.frozen import SharedBuilder
from coterie.workload.text.lora import lora_config
from coterie.workload.text.tokens import Reading

if TYPE_CHECKING:
    from coterie.workload.workload import Workload


def text_spec(config: Any, **facts: Any) -> dict[str, Any] | None:
    """A JSON-ready description, or None where the adapters' configuration holds what JSON cannot.

    Args:
        config: ``peft.LoraConfig``; fields that have their default are left out.
        facts: everything else that is needed to build the model.
    """
    usual = require("peft", extra="language", purpose="A workload with LoRA adapters").LoraConfig()
    fields: dict[str, Any] = {}
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if value != getattr(usual, one.name):
            fields[one.name] = sorted(value) if isinstance(value, set) else value
    try:
        return json.loads(json.dumps({**facts, "lora": fields}, allow_nan=False))
    except (TypeError, ValueError):
        return None


def spec_of(workload: Workload) -> dict[str, Any] | None:
    """The description of a workload's models; None for models of another kind."""
    build: Any = workload.build_model
    while not isinstance(build, SharedBuilder) and hasattr(build, "build"):
        build = build.build
    return build.spec if isinstance(build, SharedBuilder) else None


def builder_of(spec: Mapping[str, Any], model: Any, tokenizer: Any = None) -> SharedBuilder:
    """`build_model` from a description and the transformer that it is about.

    That the transformer is the same one shows when states are loaded: their names hold a digest of it.

    Args:
        spec: from :func:`text_spec`.
        model: a model of transformers, its folder, or its name in the local cache.
        tokenizer: None takes that of the model's folder; not needed for causal models.

    Raises:
        SettingError: when the model cannot be used.
        StoreError: when the description is damaged.
    """
    try:
        config = lora_config(dict(spec["lora"]))
        if spec["kind"] == "causal":
            from coterie.workload.causal.build import builder_of_causal

            return builder_of_causal(spec, model, config)
        reading = Reading(load_tokenizer(tokenizer, model), int(spec["max_length"]), tuple(spec["names"]))
        base = take_base(model, spec["layers"])
        with random_numbers(seed=0):
            encoder = TextEncoder(base, config, int(spec["outputs"]), pooling=spec["pooling"], reading=reading)
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"The description of the text models of this run is damaged ({type(error).__name__}: {error}). Pass "
            "`workload=` in place of `model=`, or make the run again."
        ) from error
    return SharedBuilder(encoder, draw, dict(spec))
