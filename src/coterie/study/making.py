"""Make a study, or open one that is there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from coterie._check import choice
from coterie._json import to_plain
from coterie._surface import known_arguments
from coterie.errors import SettingError, StoreError
from coterie.study.mixtures.limits import MixtureLimits
from coterie.study.mixtures.settings import MIXTURE, SUBSETS, MixtureSettings
from coterie.study.settings import MATTERS, REASK_AFTER, StudySettings
from coterie.study.storage import default_path, open_storage, quiet, reaching
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
    tasks: Sequence[str] | None = None,
    kind: str = SUBSETS,
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    models: int | None = None,
    storage: Any = None,
    direction: str | Mapping[str, str] = "minimize",
    metric: str = "",
    cost_unit: str = "runs",
    seed: int = 0,
    reask_after: float = REASK_AFTER,
    zero_shot: bool = False,
    matters: float | None = None,
    rules: SubsetRules | None = None,
    weights: Mapping[str, float] | None = None,
    limits: MixtureLimits | Mapping[str, Any] | None = None,
    natural: Mapping[str, float] | None = None,
    size: str = "",
    units: str | None = None,
    load_if_exists: bool = False,
) -> Study:
    """Make a study: runs are asked for and told, by any number of workers, with any training code.

    Args:
        name: of the study; several may be in one storage.
        tasks: names of the tasks that can be trained on.
        kind: ``"subsets"``: which tasks to train together; ``"mixture"``: in what proportions to train on `sources`.
        sources: names of the data sets of a mixture.
        targets: names of the tasks that are measured; None: the same. A mixture needs them.
        models: so many models may be served; 3, or 1 mixture, unless it is said.
        storage: where it is kept, as in Optuna: the path of a journal file (.journal, .jsonl, .log) or of an SQLite
            file (.db, .sqlite), the address of a database, or a storage of Optuna. None is
            ``runs/NAME/study.journal``.
        direction: ``"minimize"`` for losses, ``"maximize"`` for metrics of which more is better; or one for each task.
        metric: which of several metrics decides, where runs report several.
        cost_unit: what costs of runs are counted in, for tables.
        seed: of everything random in the choice of runs.
        reask_after: seconds after which a run that was asked for and not told is asked for again.
        zero_shot: whether runs may report losses of tasks that they did not train on.
        matters: the smallest gain over one model that is worth more models, as a share: .01; for mixtures, over the
            natural mixture: 0.
        rules: which subsets may be trained: their sizes, tasks that are together or apart.
        weights: of a mixture: target -> weight in the objective, 1 where it is not named.
        limits: of a mixture: least and largest shares, and data that are available, see
            :class:`coterie.study.mixtures.limits.MixtureLimits`; or a mapping of its fields.
        natural: of a mixture: source -> share of the natural mixture; None: by the data that are available, else even.
        size: of a mixture: the model that is asked about, in your own words.
        units: of a mixture: what weights are of, ``"raw"`` numbers or in standard deviations over runs (``"spread"``);
            None: raw where all targets have one direction.
        load_if_exists: open the study where it is there already, with the same settings.

    Returns:
        A :class:`coterie.Study`, or for mixtures a :class:`coterie.study.mixtures.study.MixtureStudy`.

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
    choice(kind, "kind", (SUBSETS, MIXTURE))
    common = (direction, metric, cost_unit, seed, reask_after)
    mixed = {"sources": sources, "weights": weights, "limits": limits, "natural": natural, "units": units}
    if kind == MIXTURE:
        _refuse_given({"tasks": tasks, "rules": rules}, "kind='mixture'", "`sources`, `targets` and `limits`")
        if sources is None or targets is None:
            raise SettingError("A study with kind='mixture' needs `sources` and `targets`, each a list of names.")
        settings: StudySettings = MixtureSettings(
            cast("Any", sources), cast("Any", targets), 1 if models is None else models, *common, True, matters or 0.0,
            None, MIXTURE, weights, {} if limits is None else MixtureLimits.of(limits).to_dict(), natural, size, units,
        )  # fmt: skip
    else:
        _refuse_given(mixed, "kind='subsets'", "`tasks`")
        if tasks is None:
            raise SettingError("Parameter `tasks` is missing: a list of names of tasks that can be trained on.")
        settings = StudySettings(
            cast("Any", tasks), cast("Any", targets), 3 if models is None else models, *common, zero_shot,
            MATTERS if matters is None else matters, None if rules is None else to_plain(vars(rules)),
        )  # fmt: skip
    opened, place = open_storage(storage, name, create=True)
    import optuna

    with reaching(place), quiet(optuna):
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
            _refuse_other(_settings_of(there), settings, name, place)
    return _study(found, settings, place)


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
    return _study(found, _settings_of(there), place)


def _settings_of(there: Mapping[str, Any]) -> StudySettings:
    """The settings that are stored with a study."""
    return (MixtureSettings if there.get("kind") == MIXTURE else StudySettings).from_dict(there)


def _study(found: Any, settings: StudySettings, place: str) -> Study:
    """A study of the kind that its settings say."""
    if isinstance(settings, MixtureSettings):
        from coterie.study.mixtures.study import MixtureStudy

        return MixtureStudy(found, settings, place)
    return Study(found, settings, place)


def _refuse_given(given: Mapping[str, Any], kind: str, instead: str) -> None:
    """Refuse arguments of another kind of study."""
    odd = [name for name, value in given.items() if value is not None]
    if odd:
        raise SettingError(f"Parameter `{odd[0]}` has no meaning with {kind}. Such a study takes {instead}.")


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
