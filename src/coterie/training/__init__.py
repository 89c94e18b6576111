"""Training: one recipe, one model at a time or a whole population at once."""

from coterie.training.command import CommandTrainer
from coterie.training.cost import UnitCost, measure_cost
from coterie.training.evaluate import evaluate
from coterie.training.fit import fit
from coterie.training.job import Fit, Job
from coterie.training.loop import fit_one
from coterie.training.population import fit_population
from coterie.training.stackable import is_stackable
from coterie.training.trainer import FunctionTrainer, Outcome, Run, Trainer, train_runs
from coterie.training.units import FitUnit, fit_units

__all__ = [
    "CommandTrainer",
    "Fit",
    "FitUnit",
    "FunctionTrainer",
    "Job",
    "Outcome",
    "Run",
    "Trainer",
    "UnitCost",
    "evaluate",
    "fit",
    "fit_one",
    "fit_population",
    "fit_units",
    "is_stackable",
    "measure_cost",
    "train_runs",
]
