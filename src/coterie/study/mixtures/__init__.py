"""Mixtures of data sets: from the results of some runs to what any proportions would bring."""

from __future__ import annotations
