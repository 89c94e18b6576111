"""Search for the partition with the largest worth: moves, exchanges, merges and splits."""

from coterie.grouping.search.groups import search_groups
from coterie.grouping.search.local import search

__all__ = ["search", "search_groups"]
