"""The clustering SDP of Peng and Wei: a solver of its own, with a certificate."""

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use

__getattr__ = load_on_first_use(__name__, {}, earlier(__name__))
