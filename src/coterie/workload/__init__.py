"""What the user brings: tasks, data with missing labels, a model and a recipe."""

from coterie.workload.build import from_arrays, from_datasets
from coterie.workload.fingerprint import fingerprint
from coterie.workload.graph import from_graph
from coterie.workload.load import load_workload
from coterie.workload.losses import MarginLoss, get_loss, register_loss
from coterie.workload.mlp import Mlp, build_from_spec, mlp_spec
from coterie.workload.recipe import Recipe
from coterie.workload.structure import HeadSpec, Structure, find_structure
from coterie.workload.task import Task
from coterie.workload.text import encode_text, from_text
from coterie.workload.validate import validate
from coterie.workload.workload import Split, Workload

__all__ = [
    "HeadSpec",
    "MarginLoss",
    "Mlp",
    "Recipe",
    "Split",
    "Structure",
    "Task",
    "Workload",
    "build_from_spec",
    "encode_text",
    "find_structure",
    "fingerprint",
    "from_arrays",
    "from_datasets",
    "from_graph",
    "from_text",
    "get_loss",
    "load_workload",
    "mlp_spec",
    "register_loss",
    "validate",
]
