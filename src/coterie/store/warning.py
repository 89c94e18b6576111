"""The store's own warning."""

from __future__ import annotations

from coterie.errors import CoterieWarning


class StoreWarning(CoterieWarning):
    """A unit of a run directory was damaged and is computed again, or the run was begun with other versions."""
