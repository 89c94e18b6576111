"""How much skill a method buys for its price, measured on really trained subsets."""

from coterie.benchmark.bank import Bank, make_bank
from coterie.benchmark.entries import ENTRIES, Entry, select
from coterie.benchmark.page import write_page
from coterie.benchmark.run import Options, benchmark, find_bed, prepare

__all__ = [
    "ENTRIES",
    "Bank",
    "Entry",
    "Options",
    "benchmark",
    "find_bed",
    "make_bank",
    "prepare",
    "select",
    "write_page",
]
