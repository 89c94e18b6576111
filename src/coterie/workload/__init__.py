"""What the user brings: tasks, data with missing labels, a model and a recipe."""

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use
from coterie.workload.build import from_arrays, from_datasets
from coterie.workload.fingerprint import fingerprint as fingerprint  # the module has the same name
from coterie.workload.from_dataset import from_dataset, from_loaders
from coterie.workload.graph import from_graph
from coterie.workload.load import load_workload
from coterie.workload.losses import MarginLoss, get_loss, register_loss
from coterie.workload.propagation import propagate
from coterie.workload.recipe import Recipe
from coterie.workload.sparse import SparseLabels
from coterie.workload.task import Task
from coterie.workload.text.from_text import from_text
from coterie.workload.text.tokens import encode_text
from coterie.workload.torch_losses import FocalLoss, GaussianLoss, QuantileLoss, SmoothedLoss, TorchLoss
from coterie.workload.validate import validate
from coterie.workload.workload import Split, Workload

__all__ = [
    "FocalLoss",
    "GaussianLoss",
    "MarginLoss",
    "QuantileLoss",
    "Recipe",
    "SmoothedLoss",
    "SparseLabels",
    "Split",
    "Task",
    "TorchLoss",
    "Workload",
    "encode_text",
    "from_arrays",
    "from_dataset",
    "from_datasets",
    "from_graph",
    "from_loaders",
    "from_text",
    "get_loss",
    "load_workload",
    "propagate",
    "register_loss",
    "validate",
]

__getattr__ = load_on_first_use(__name__, {}, earlier(__name__))
