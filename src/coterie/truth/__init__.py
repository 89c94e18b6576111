"""Published results of really trained subsets and mixtures, for measuring predictors."""

from __future__ import annotations

from coterie.truth.tables import Mixtures, load, names

__all__ = ["Mixtures", "load", "names"]
