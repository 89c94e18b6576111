"""Projected gradients of margins: forward mode, reverse mode, the planner that chooses, the validator."""

from coterie.features.directions import Directions, StackedDirections
from coterie.features.features import compute_features
from coterie.features.heads import HeadFeatures, head_displacement
from coterie.features.modes import differentiable
from coterie.features.part import PartFeatures, TaskFeatures
from coterie.features.plan import FeaturePlan, plan_features
from coterie.features.random_directions import RandomDirections
from coterie.features.storage import FeatureMatrix
from coterie.features.validate import GradientReport, validate_gradients

__all__ = [
    "Directions",
    "FeatureMatrix",
    "FeaturePlan",
    "GradientReport",
    "HeadFeatures",
    "PartFeatures",
    "RandomDirections",
    "StackedDirections",
    "TaskFeatures",
    "compute_features",
    "differentiable",
    "head_displacement",
    "plan_features",
    "validate_gradients",
]
