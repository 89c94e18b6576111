"""Predictors of values: from the results of some runs to the values of all subsets."""

from __future__ import annotations

from coterie.study.predictors.runs import ProcessPredictor
from coterie.study.predictors.table import find_predictor

__all__ = ["ProcessPredictor", "find_predictor"]
