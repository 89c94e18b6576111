"""All methods by name; a method's module is read when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import replace
from typing import Any

from coterie.affinity.estimator import Estimator
from coterie.errors import SettingError

#: name -> module below coterie.affinity, and what in it is the method: settings, or a class whose defaults are meant
_WHERE = {
    "secants": ("grad_tae", "SECANTS"),
    "task-vectors": ("grad_tae", "TASK_VECTORS"),
    "grad-tag": ("grad_tae", "GRAD_TAG"),
    "grad-tag-blocks": ("grad_tae", "GRAD_TAG_BLOCKS"),
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
    settings = method if isinstance(method, Estimator) else _named(method)
    options = {name: value for name, value in options.items() if value is not None}
    unknown = sorted(set(options) - set(vars(settings)))
    if unknown:
        raise SettingError(f"Unknown options {unknown} of method {settings.name!r}. Known: {sorted(vars(settings))}.")
    return replace(settings, **options)  # pyright: ignore[reportArgumentType, reportUnknownVariableType]


def _named(method: object) -> Estimator:
    if not isinstance(method, str) or method not in _WHERE:
        near = difflib.get_close_matches(str(method), METHODS, n=1)
        raise SettingError(
            f"Parameter `method` should be one of {sorted(METHODS)}. Found {method!r}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    module, name = _WHERE[method]
    found = getattr(importlib.import_module(f"coterie.affinity.{module}"), name)
    return found() if isinstance(found, type) else found
