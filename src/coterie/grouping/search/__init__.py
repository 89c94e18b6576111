"""Search for the partition with the largest worth: moves, exchanges, merges and splits."""

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use

__getattr__ = load_on_first_use(__name__, {}, earlier(__name__))
