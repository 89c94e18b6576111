"""Projected gradients of margins: forward mode, reverse mode, the planner that chooses, the validator."""

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use
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

__getattr__ = load_on_first_use(__name__, {}, earlier(__name__))
