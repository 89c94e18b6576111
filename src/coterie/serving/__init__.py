"""The trained group models as one predictor: ``coterie.load(run).predict(x)``."""

from coterie.serving.adapters import export_adapters
from coterie.serving.predictor import Predictor, load

__all__ = [
    "Predictor",
    "export_adapters",
    "load",
]
