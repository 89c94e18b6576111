"""Projected gradients of margins: forward mode, reverse mode, the planner that chooses, the validator."""

from coterie.features.directions import RandomDirections
from coterie.features.features import FeatureOptions, compute_features
from coterie.features.validate import GradientReport, validate_gradients

__all__ = [
    "FeatureOptions",
    "GradientReport",
    "RandomDirections",
    "compute_features",
    "validate_gradients",
]
