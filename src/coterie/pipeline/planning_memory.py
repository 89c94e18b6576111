"""What a run keeps in memory and leaves on disk, from shapes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coterie.evaluation.trainings import STATE_BYTES

#: bytes of JSON that a validation check takes in a history
CHECK = 27
#: bytes of the header of a tensor in a safetensors file
HEADER = 90
#: JSON that every unit brings, and manifest, lock and description of the served models together
UNIT, FIXED = 700, 4000
#: while a unit is written: what was computed, the settled copy, and the bytes of the file, once as parts and once whole
COPIES = 4


@dataclass(frozen=True)
class Sizes:
    """What sizes are made from.

    Attributes:
        state: bytes of the parameters and buffers of a model.
        tensors: how many tensors these are.
        n_tasks: number of tasks.
        members: models that the comparison trains with one seed.
        seeds: number of seeds.
        candidates: groupings in the comparison, the simple ones included.
        labels: labels of the half that chooses and of the test part, all tasks.
        member_labels: the same, summed over the tasks of every member.
        checks: validation checks of a member.
    """

    state: int
    tensors: int
    n_tasks: int
    members: int
    seeds: int
    candidates: int
    labels: int
    member_labels: float
    checks: float

    @property
    def states_kept(self) -> bool:
        """Whether the comparison keeps the parameters that it trained."""
        return self.state * self.members * self.seeds <= STATE_BYTES

    @property
    def states(self) -> float:
        """Bytes of all parameters that the comparison keeps."""
        return float(self.state * self.members * self.seeds) if self.states_kept else 0.0

    @property
    def units(self) -> float:
        """Bytes on disk of the units of the comparison."""
        losses = 4 * self.member_labels + 16 * self.members * self.n_tasks
        headers = HEADER * (2 * self.members + self.tensors + 2)
        text = UNIT + self.members * (CHECK * self.checks + 130 + 4 * self.n_tasks / 2)
        return self.states + self.seeds * (losses + headers + text)

    @property
    def table(self) -> float:
        """Bytes of ``comparison.safetensors``."""
        return 4.0 * self.candidates * self.seeds * self.labels + 16 * self.labels + 1200 + 120 * self.n_tasks

    @property
    def held(self) -> float:
        """Bytes in memory at the end of the comparison: parameters, losses by member and by candidate, a copy of these.

        One more candidate, a mixture, makes a second array of the losses by candidate.
        """
        return self.states + 4.0 * self.seeds * self.member_labels + 2 * self.table

    @property
    def unit(self) -> float:
        """Bytes of the arrays of one unit of the comparison."""
        return (self.state * self.members if self.states_kept else 0) + 4.0 * self.member_labels


def trainings_unit(state: int, tensors: int, n_tasks: int, members: int, checks: float) -> float:
    """Bytes on disk of a unit with trained models, their parameters included."""
    return members * (state + 16 * n_tasks + 130 + CHECK * checks) + HEADER * (tensors + 2) + UNIT


def resident() -> tuple[int, int] | None:
    """Bytes of this process in main memory, now and at most so far; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="ignore").splitlines()
        found = {
            line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))
        }
        return found["VmRSS"], found["VmHWM"]
    except (OSError, KeyError, ValueError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return most, most


def write_seconds() -> float:
    """Seconds of the processor to copy, encode and checksum a byte of a unit."""
    from coterie._units import Payload
    from coterie.pipeline.planning_time import timed
    from coterie.store.arrays import encode, settle
    from coterie.store.files import digest

    payload = Payload({"x": np.zeros(2**19)})
    _, timing = timed(lambda: digest(encode(settle(payload).arrays)))
    return timing.cpu / (8 * 2**19)
