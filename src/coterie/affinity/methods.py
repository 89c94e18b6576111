"""All methods by name; a method's module is read when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from coterie._check import named_choice
from coterie._surface import names_of, refuse_unknown
from coterie.affinity.estimator import Estimator

#: name -> module below coterie.affinity, and what in it is the method: settings, or a class whose defaults are meant
_WHERE = {
    "secants": ("grad_tae", "SECANTS"),
    "task-vectors": ("grad_tae", "TASK_VECTORS"),
    "grad-tag": ("grad_tae", "GRAD_TAG"),
    "grad-tag-blocks": ("grad_tae", "GRAD_TAG_BLOCKS"),
    "grad-tag-released": ("grad_tae", "GRAD_TAG_RELEASED"),
    "fused": ("surrogates.fused", "Fused"),
    "linear-surrogate": ("surrogates.linear", "LinearSurrogate"),
    "kernel-surrogate": ("surrogates.kernel", "KernelSurrogate"),
    "tag": ("scores.tag", "Tag"),
    "cosine": ("scores.cosine", "Cosine"),
    "etap": ("scores.etap", "Etap"),
    "rsa": ("scores.rsa", "Rsa"),
    "attribution": ("scores.attribution", "Attribution"),
    "label-injection": ("scores.label_injection", "LabelInjection"),
    "taxonomy": ("scores.taxonomy", "Taxonomy"),
    "landscape": ("scores.landscape", "Landscape"),
    "landscape-spectral": ("scores.landscape", "SPECTRAL"),
    "label-correlation": ("scores.label_correlation", "LabelCorrelation"),
}
METHODS = tuple(_WHERE)


def get_estimator(method: str | Estimator, **options: Any) -> Estimator:
    """The settings of a method by name, with some changed; options that are None keep the method's value.

    Raises:
        SettingError: when the method or an option is unknown.

    Example:
        >>> get_estimator("grad-tag", count=100).to_dict()["count"]
        100
    """
    return estimator_of(None, method, options)


def estimator_of(call: Callable[..., Any] | None, method: str | Estimator, options: Mapping[str, Any]) -> Estimator:
    """The estimator for a function that hands its ``**options`` on; its own parameters may have been meant, too.

    Raises:
        SettingError: when the method or an option is unknown.
    """
    settings = method if isinstance(method, Estimator) else _named(method)
    options = {name: value for name, value in options.items() if value is not None}
    name = f"method {settings.name!r}"
    own = [] if call is None else [known for known in names_of(call) if known != "method"]
    refuse_unknown(name if call is None else f"{call.__name__} and {name}", options, [*own, *sorted(vars(settings))])
    return replace(settings, **options)  # pyright: ignore[reportArgumentType, reportUnknownVariableType]


def _named(method: object) -> Estimator:
    named_choice(method, "method", sorted(METHODS))
    module, name = _WHERE[str(method)]
    found = getattr(importlib.import_module(f"coterie.affinity.{module}"), name)
    return found() if isinstance(found, type) else found
