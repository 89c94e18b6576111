"""A store in memory that counts what it computes."""

from __future__ import annotations


class CountingStore:
    """Units of work by name and key; `computed` has the name of each that was not there yet."""

    def __init__(self) -> None:
        self.units, self.computed = {}, []

    def unit(self, name, key, compute):
        """The unit, computed at most once."""
        where = (name, repr(sorted(key.items())))
        if where not in self.units:
            self.units[where] = compute()
            self.computed.append(name)
        return self.units[where]
