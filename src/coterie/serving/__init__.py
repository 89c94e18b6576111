"""The trained group models as one predictor: ``coterie.load(run).predict(x)``."""

from coterie.serving.predictor import Predictor, load
from coterie.serving.saved import save_served

__all__ = ["Predictor", "load", "save_served"]
