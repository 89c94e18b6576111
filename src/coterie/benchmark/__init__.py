"""How much skill a method buys for its price, measured on really trained subsets.

Names are loaded when they are used.
"""

from typing import TYPE_CHECKING

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use

if TYPE_CHECKING:
    from coterie.benchmark.bank import Bank, make_bank
    from coterie.benchmark.entries import ENTRIES, Entry, select
    from coterie.benchmark.page import write_page
    from coterie.benchmark.run import Options, benchmark

__all__ = ["ENTRIES", "Bank", "Entry", "Options", "benchmark", "make_bank", "select", "write_page"]

#: which module brings a name
_LAZY = {
    "ENTRIES": "entries",
    "Bank": "bank",
    "Entry": "entries",
    "Options": "run",
    "benchmark": "run",
    "make_bank": "bank",
    "select": "entries",
    "write_page": "page",
}

__getattr__ = load_on_first_use(__name__, _LAZY, {**earlier(__name__), "find_bed": "coterie.benchmark.run:find_data"})
