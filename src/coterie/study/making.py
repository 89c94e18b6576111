"""Make a study, or open one that is there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from coterie._json import to_plain
from coterie._surface import known_arguments
from coterie.errors import SettingError, StoreError
from coterie.study.settings import MATTERS, REASK_AFTER, StudySettings
from coterie.study.storage import default_path, open_storage, reaching
from coterie.study.study import Study
from coterie.study.subset_rules import SubsetRules

#: name of the user attribute of an Optuna study that holds the settings
SETTINGS = "coterie"
#: seconds that a worker waits for the settings of a study that another one is making at this moment
_SETTLING = 5.0


@known_arguments
def create_study(
    name: str,
    *,
    tasks: Sequence[str],
    targets: Sequence[str] | None = None,
    models: int = 3,
    storage: Any = None,
    direction: str | Mapping[str, str] = "minimize",
    metric: str = "",
    cost_unit: str = "runs",
    seed: int = 0,
    reask_after: float = REASK_AFTER,
    zero_shot: bool = False,
    matters: float = MATTERS,
    rules: SubsetRules | None = None,
    load_if_exists: bool = False,
) -> Study:
    """Make a study: runs are asked for and told, by any number of workers, with any training code.

    Args:
        name: of the study; several may be in one storage.
        tasks: names of the tasks that can be trained on.
        targets: names of the tasks that are measured; None: the same.
        models: so many models may be served.
        storage: where it is kept, as in Optuna: the path of a journal file (.journal, .jsonl, .log) or of an SQLite
            file (.db, .sqlite), the address of a database, or a storage of Optuna. None is
            ``runs/NAME/study.journal``.
        direction: ``"minimize"`` for losses, ``"maximize"`` for metrics of which more is better; or one for each task.
        metric: which of several metrics decides, where runs report several.
        cost_unit: what costs of runs are counted in, for tables.
        seed: of everything random in the choice of runs.
        reask_after: seconds after which a run that was asked for and not told is asked for again.
        zero_shot: whether runs may report losses of tasks that they did not train on.
        matters: the smallest gain over one model that is worth more models, as a share.
        rules: which subsets may be trained: their sizes, tasks that are together or apart.
        load_if_exists: open the study where it is there already, with the same settings.

    Raises:
        SettingError: when an argument cannot be meant, or there is a study of that name.
        StoreError: when the storage cannot be used, or has a study of that name with other settings.
        MissingDependencyError: without Optuna: ``pip install 'coterie[study]'``.

    Example:
        >>> import optuna
        >>> study = create_study("demo", tasks=["a", "b", "c"], storage=optuna.storages.InMemoryStorage())
        >>> run = study.ask()
        >>> run.tasks, run.seed
        (('a', 'b', 'c'), 0)
        >>> study.tell(run, {"a": 0.3, "b": 0.5, "c": 0.2}).state
        'told'
    """
    if not (str(name) and str(name).isprintable()):
        raise SettingError(f"Parameter `name` should be a text of printable letters. Found {name!r:.60}.")
    settings = StudySettings(
        cast("Any", tasks), cast("Any", targets), models, direction, metric, cost_unit, seed, reask_after, zero_shot,
        matters, None if rules is None else to_plain(vars(rules)),
    )  # fmt: skip
    opened, place = open_storage(storage, name, create=True)
    import optuna

    with reaching(place):
        try:
            found = optuna.create_study(
                storage=opened,
                study_name=name,
                direction=cast("Any", settings.optuna_direction),
                sampler=optuna.samplers.RandomSampler(),
                load_if_exists=load_if_exists,
            )
        except optuna.exceptions.DuplicatedStudyError as error:
            raise SettingError(
                f"There is a study {name!r} in {place} already. Open it with coterie.load_study or "
                "load_if_exists=True, or choose another name."
            ) from error
        there = found.user_attrs.get(SETTINGS)
        if there is None:
            _refuse_foreign(found, name, place)
            found.set_user_attr(SETTINGS, settings.to_dict())
        else:
            _refuse_other(StudySettings.from_dict(there), settings, name, place)
    return Study(found, settings, place)


@known_arguments
def load_study(name: str, *, storage: Any = None) -> Study:
    """Open a study that is there.

    Args:
        name: of the study.
        storage: see :func:`create_study`.

    Raises:
        StoreError: when it is not there, or the storage cannot be used.
        MissingDependencyError: without Optuna.

    Example:
        >>> import optuna
        >>> storage = optuna.storages.InMemoryStorage()
        >>> made = create_study("demo", tasks=["a", "b"], storage=storage)
        >>> load_study("demo", storage=storage).tasks
        ('a', 'b')
    """
    opened, place = open_storage(default_path(name) if storage is None else storage, name, create=False)
    import optuna

    with reaching(place):
        try:
            found = optuna.load_study(study_name=name, storage=opened, sampler=optuna.samplers.RandomSampler())
        except KeyError as error:
            names = [one.study_name for one in optuna.get_all_study_summaries(opened, include_best_trial=False)]
            raise StoreError(
                f"There is no study {name!r} in {place}. There are {names[:10] or 'none'}. Check the name and "
                "`storage`, or make it with coterie.create_study (coterie study create)."
            ) from error
        end = time.monotonic() + _SETTLING
        while (there := found.user_attrs.get(SETTINGS)) is None:  # another process may be making it
            if time.monotonic() > end or found.get_trials(deepcopy=False):
                _refuse_foreign(found, name, place)
                raise StoreError(
                    f"The study {name!r} in {place} has no tasks: whoever was making it was stopped. Make it again "
                    "with load_if_exists=True."
                )
            time.sleep(0.05)
    return Study(found, StudySettings.from_dict(there), place)


def _refuse_foreign(found: Any, name: str, place: str) -> None:
    """Refuse a study of Optuna that has trials and no settings of ours."""
    if found.get_trials(deepcopy=False):
        raise StoreError(
            f"The study {name!r} in {place} is one of Optuna and not of Coterie: it has trials and no tasks. Choose "
            "another name or another storage."
        )


def _refuse_other(there: StudySettings, given: StudySettings, name: str, place: str) -> None:
    """Refuse to open a study with other settings than those that it has."""
    one, other = there.to_dict(), given.to_dict()
    differ = [key for key in other if one[key] != other[key]]
    if differ:
        parts = "; ".join(f"`{key}` is {one[key]!r:.80}, not {other[key]!r:.80}" for key in differ)
        raise StoreError(
            f"The study {name!r} in {place} is another one: {parts}. Open it as it is with coterie.load_study, or "
            "choose another name or storage."
        )
