"""Training: one recipe, one model at a time or a whole population at once."""

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use
from coterie.training.adapter_plan import AdapterPlan, plan_adapters
from coterie.training.command import CommandTrainer
from coterie.training.evaluate import evaluate
from coterie.training.fit import fit
from coterie.training.trainer import FunctionTrainer, Outcome, Run, Trainer
from coterie.training.units import measure_cost

__all__ = [
    "AdapterPlan",
    "CommandTrainer",
    "FunctionTrainer",
    "Outcome",
    "Run",
    "Trainer",
    "evaluate",
    "fit",
    "measure_cost",
    "plan_adapters",
]

__getattr__ = load_on_first_use(__name__, {}, earlier(__name__))
