"""Methods of grouping to compare with: each as it comes, without the local improvement of the relaxation's groups."""

from coterie.grouping.peers.agglomerative import agglomerative_labels, merge_tree
from coterie.grouping.peers.constant import all_in_one_labels, single_task_labels
from coterie.grouping.peers.leiden import LeidenFound, leiden_partition
from coterie.grouping.peers.random_groups import random_partition

__all__ = [
    "LeidenFound",
    "agglomerative_labels",
    "all_in_one_labels",
    "leiden_partition",
    "merge_tree",
    "random_partition",
    "single_task_labels",
]
