"""Training: one recipe, one model at a time or a whole population at once."""

from coterie.training.command import CommandTrainer
from coterie.training.fit import fit
from coterie.training.trainer import FunctionTrainer, Outcome, Run, Trainer
from coterie.training.units import measure_cost

__all__ = [
    "CommandTrainer",
    "FunctionTrainer",
    "Outcome",
    "Run",
    "Trainer",
    "fit",
    "measure_cost",
]
