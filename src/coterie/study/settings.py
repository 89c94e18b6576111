"""What a study is about: its tasks, the direction of their losses, how many models may be served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie._check import flag, is_number, positive, whole_number
from coterie._show import short_repr
from coterie._surface import known_arguments
from coterie.errors import SettingError
from coterie.study.subset_rules import SubsetRules

#: gain over one model from which more models are worth their price, as in a comparison
MATTERS = 0.01
#: what a metric may be asked to be
DIRECTIONS = ("minimize", "maximize")
#: seconds after which a run that nobody has told is asked for again: a day, longer than most trainings
REASK_AFTER = 86_400.0


@known_arguments
@short_repr
@dataclass(frozen=True)
class StudySettings:
    """What a study is about. It is kept in the storage, so that every worker has the same.

    Args:
        tasks: names of the tasks that can be trained on.
        targets: names of the tasks that are measured; None: the same.
        models: so many models may be served.
        direction: ``"minimize"`` or ``"maximize"``, for all targets or as a mapping of targets to one of them.
        metric: which of several metrics decides; empty where a run reports one number a task.
        cost_unit: what costs of runs are counted in.
        seed: of everything random in the choice of runs.
        reask_after: seconds after which a run that was asked for and not told is asked for again.
        zero_shot: whether runs may report losses of tasks that they did not train on.
        matters: the smallest gain over one model that is worth more models, as a share.
        rules: which subsets may be trained, as a mapping of what :class:`SubsetRules` takes.

    Raises:
        SettingError: when one of them cannot be meant.

    Example:
        >>> StudySettings(("a", "b", "c"), models=2).signs
        array([1., 1., 1.])
    """

    tasks: tuple[str, ...]
    targets: tuple[str, ...] | None = None
    models: int = 3
    direction: str | Mapping[str, str] = "minimize"
    metric: str = ""
    cost_unit: str = "runs"
    seed: int = 0
    reask_after: float = REASK_AFTER
    zero_shot: bool = False
    matters: float = MATTERS
    rules: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", _names(self.tasks, "tasks", least=2))
        targets = self.tasks if self.targets is None else _names(self.targets, "targets", least=1)
        object.__setattr__(self, "targets", targets)
        whole_number(self.models, "models", low=1)
        whole_number(self.seed, "seed", low=0)
        object.__setattr__(self, "reask_after", positive(self.reask_after, "reask_after"))
        flag(self.zero_shot, "zero_shot")
        for name in ("metric", "cost_unit"):
            if not isinstance(getattr(self, name), str):
                raise SettingError(f"Parameter `{name}` should be a text. Found {getattr(self, name)!r}.")
        if not (is_number(self.matters) and 0 <= self.matters < 1):
            raise SettingError(
                f"Parameter `matters` should be a share from 0 to 1, such as {MATTERS}. Found {self.matters!r}."
            )
        self._check_direction()
        everything = np.ones((1, len(self.tasks)), dtype=bool)
        self.subset_rules.allowed(self.tasks, everything)  # raises for names and sizes that cannot be

    @property
    def subset_rules(self) -> SubsetRules:
        """Which subsets may be trained."""
        given = dict(self.rules or {})
        if given.get("sizes") is not None:
            given["sizes"] = tuple(given["sizes"])
        return SubsetRules(**given)

    def _check_direction(self) -> None:
        given = self.direction
        ways = dict.fromkeys(self.measured, given) if isinstance(given, str) else dict(given)
        if isinstance(given, Mapping) and set(given) != set(self.measured):
            odd = sorted(set(map(str, given)) ^ set(self.measured))
            raise SettingError(
                f"Parameter `direction` should be one of {DIRECTIONS}, or give one for each target. Tasks that are on "
                f"one side only: {odd[:5]}."
            )
        wrong = {task: way for task, way in ways.items() if way not in DIRECTIONS}
        if wrong:
            raise SettingError(
                f"Parameter `direction` should be one of {DIRECTIONS}, for all tasks or by task. Found {wrong!r:.80}."
            )
        if not isinstance(given, str):
            object.__setattr__(self, "direction", {task: ways[task] for task in self.measured})

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the targets."""
        return self.tasks if self.targets is None else self.targets

    @property
    def signs(self) -> NDArray[np.float64]:
        """(targets,) 1 where less is better, -1 where more is."""
        way = self.direction
        ways = [way if isinstance(way, str) else way[task] for task in self.measured]
        return np.array([1.0 if one == "minimize" else -1.0 for one in ways])

    @property
    def optuna_direction(self) -> str:
        """Direction of the mean over tasks that Optuna's tools show: maximised where all metrics are."""
        return "maximize" if (self.signs < 0).all() else "minimize"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return {**asdict(self), "tasks": list(self.tasks), "targets": list(self.measured)}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> StudySettings:
        """The inverse of :meth:`to_dict`; what a later version adds is left out."""
        known = {one.name for one in fields(StudySettings)}
        return StudySettings(**{key: value for key, value in data.items() if key in known})

    def numbers(self, names: Sequence[str], parameter: str = "tasks") -> tuple[int, ...]:
        """Positions of tasks that can be trained on, in the order of the study.

        Raises:
            SettingError: for a task that is not in the study, or is named twice, or none at all.
        """
        listed = [names] if isinstance(names, str) else list(names)
        for name in listed:
            self.check_name(name, self.tasks, parameter)
        if not listed or len(set(listed)) < len(listed):
            raise SettingError(
                f"Parameter `{parameter}` should name one task or more, each once. Found {listed!r:.80}."
            )
        return tuple(sorted(self.tasks.index(name) for name in listed))

    @staticmethod
    def check_name(name: object, known: Sequence[str], parameter: str) -> None:
        """Refuse a name that is not among the known ones, and say which is like it."""
        if name not in known:
            known = list(dict.fromkeys(known))  # most targets are sources, too
            near = get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            shown = ", ".join(map(repr, known[:10])) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
            raise SettingError(f"Parameter `{parameter}`: the study has no task {name!r}.{hint} Its tasks are {shown}.")


def _names(value: Any, parameter: str, *, least: int) -> tuple[str, ...]:
    """Different names without white space around them."""
    listed = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    good = all(isinstance(name, str) and name and name == name.strip() and name.isprintable() for name in listed)
    if len(listed) < least or len(set(listed)) < len(listed) or not good:
        raise SettingError(
            f"Parameter `{parameter}` should be a list of at least {least} different names without white space around "
            f"them. Found {value!r:.80}."
        )
    return tuple(listed)
