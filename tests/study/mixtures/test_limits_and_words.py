"""Studies of mixtures: rivals keep limits, what is said of few runs, tables as pandas makes them, quiet Optuna."""

import logging

import numpy as np
import optuna
import pytest

import coterie
from coterie.errors import SettingError
from coterie.study.mixtures.limits import MixtureLimits

SOURCES = ("web", "code", "math")
LIMITS = {"available": {"web": 1000, "code": 100, "math": 40}, "most": {"web": 0.5}}
ROWS = [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.4, 0.6, 0.0]]


def made(**options):
    storage = optuna.storages.InMemoryStorage()
    return coterie.create_study("m", kind="mixture", sources=SOURCES, targets=["t"], storage=storage, **options)


def test_the_natural_mixture_keeps_limits():
    study = made(limits=LIMITS)
    assert study.settings == made(limits=MixtureLimits(**LIMITS)).settings
    for row in ROWS:
        study.add(row, [2.0 + row[0]])
    assert study.aim().natural[0] == pytest.approx(0.5, abs=1e-6)
    assert all(one.mixture.get("web", 0) <= 0.5 + 1e-6 for one in study.recommend().candidates)
    assert made(limits=LIMITS, natural={"web": 1}).about.natural_shares[0] == pytest.approx(0.5, abs=1e-6)
    assert [part.shape for part in study.predict([])] == [(0, 1), (0, 1)]


@pytest.mark.parametrize("wrong", [[0.5], {"mosst": {}}, {"most": [0.5]}, {"available": 3}, "web"])
def test_limits_that_cannot_be_meant(wrong):
    with pytest.raises(SettingError, match=r"most|available|limits"):
        made(limits=wrong)


def test_little_is_said_of_little():
    study = made()
    study.add(ROWS[0], [1e-9], variant="size 1M")
    found = study.recommend()
    assert found.verdict == "undecided"
    assert "too little" in found.text
    assert "no run of the own size was told" in found.text
    assert found.dropped == ()
    assert all(one.gain is None for one in found.candidates)


def test_gains_near_an_objective_of_nothing_are_shares_of_the_spread():
    study = made()
    for row in [*ROWS, [1 / 3] * 3]:
        study.add(row, [row[0] - 1 / 3])
    gains = [one.gain.mean for one in study.recommend().candidates if one.gain]
    assert gains
    assert np.abs(gains).max() < 10


def test_seeds_of_tables_as_pandas_makes_them():
    pandas = pytest.importorskip("pandas")
    ratios = pandas.DataFrame(ROWS[:2], columns=list(SOURCES))
    metrics = pandas.DataFrame({"t": [1.0, 2.0]})
    study = made()
    assert [run.seed for run in study.add_table(ratios.assign(seed=[1.0, np.nan]), metrics)] == [1, None]
    for column in ("seed", "cost"):
        with pytest.raises(SettingError, match=f"column '{column}'"):
            study.add_table(ratios.assign(**{column: ["x", "y"]}), metrics)
    with pytest.raises(SettingError, match="seed"):
        study.add_table(ratios.assign(seed=[1.5, 2]), metrics)


def test_making_a_study_leaves_out_messages_of_optuna():
    before, lines = optuna.logging.get_verbosity(), []
    handler = logging.Handler()
    handler.emit = lines.append
    optuna.logging.set_verbosity(optuna.logging.INFO)
    logging.getLogger("optuna").addHandler(handler)
    try:
        made()
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
        assert lines == []
    finally:
        logging.getLogger("optuna").removeHandler(handler)
        optuna.logging.set_verbosity(before)
