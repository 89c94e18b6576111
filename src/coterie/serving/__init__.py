"""The trained group models as one predictor: ``coterie.load(run).predict(x)``."""

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use
from coterie.serving.adapters import export_adapters
from coterie.serving.predictor import Predictor, load

__all__ = [
    "Predictor",
    "export_adapters",
    "load",
]

__getattr__ = load_on_first_use(__name__, {}, earlier(__name__))
