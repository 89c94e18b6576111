"""Studies of mixtures: limits, asking and telling, imports, what is recommended and confirmed, the command line."""

import csv
import json

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import coterie
from coterie.cli.app import app
from coterie.errors import DataWarning, SettingError, WorkloadError
from coterie.study.mixtures.confirmation import MixtureConfirmation
from coterie.study.mixtures.design import mixture_design_size, next_mixtures
from coterie.study.mixtures.limits import MixtureLimits, drawn, inside
from coterie.study.mixtures.objective import MixtureAim, smallest
from coterie.study.mixtures.results import MixtureResults
from coterie.study.mixtures.steering import steering
from coterie.study.mixtures.study import MixtureStudy

optuna.logging.set_verbosity(optuna.logging.WARNING)
SOURCES, TARGETS = ("web", "code", "math", "news"), ("prose", "program")
LIMITS = MixtureLimits(most={"news": 0.5}, available={"web": 1000, "code": 100, "math": 40, "news": 400}, run=400)


def brought(mixture, seed=0, noise=0.01):
    """Losses that fall with web for prose and with code for programs; news harm both."""
    web, code, math_, news = (mixture.get(name, 0.0) for name in SOURCES)
    luck = noise * np.random.default_rng([seed, round(1e6 * web), round(1e6 * code)]).standard_normal(2)
    prose, program = (0.05 + web) ** -0.3 + 0.5 * news, (0.03 + code + 0.2 * math_) ** -0.3 + 0.5 * news
    return {"prose": 1 + prose + luck[0], "program": 1 + program + luck[1]}


def made(name="m", **options):
    usual = {"kind": "mixture", "sources": SOURCES, "targets": TARGETS, "limits": LIMITS}
    return coterie.create_study(name, **{"storage": optuna.storages.InMemoryStorage(), **usual, **options})


@pytest.fixture(scope="module")
def told():
    """A study with enough runs, the confirming ones among them."""
    study = made(models=2)
    study.optimize(brought, runs=36)
    return study, study.recommend()


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 7), st.integers(0, 10**6))
def test_mixtures_keep_their_limits(sources, seed):
    rng = np.random.default_rng(seed)
    low = rng.random(sources) * rng.random() / sources
    high = np.minimum(low + rng.random(sources) * 2, 1)
    high[rng.integers(sources)] = 1.0
    natural = rng.dirichlet(np.ones(sources))
    rows = drawn(natural, low, high, 20, rng)
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-9)
    assert (rows >= low - 1e-5).all()
    assert (rows <= high + 1e-5).all()
    free = np.zeros(sources), np.ones(sources)
    np.testing.assert_allclose(inside(natural[None], *free)[0], natural, atol=1e-5)


def test_data_limit_shares():
    low, high = LIMITS.bounds(SOURCES)
    assert low.tolist() == [0, 0, 0, 0]
    assert high.tolist() == [1, 1, 0.4, 0.5]  # code: 4 * 100 / 400
    np.testing.assert_allclose(LIMITS.natural(SOURCES), np.array([1000, 100, 40, 400]) / 1540)
    assert MixtureLimits().natural(SOURCES).tolist() == [0.25] * 4


def test_a_search_finds_the_least_of_a_bowl_within_limits():
    aim = MixtureAim(np.ones(1), np.zeros(3), np.array([1.0, 1.0, 0.2]), np.full(3, 1 / 3))
    middle = np.array([0.5, 0.1, 0.4])
    starts = drawn(aim.natural, aim.low, aim.high, 20, np.random.default_rng(0))
    found = smallest(lambda rows: ((rows - middle) ** 2).sum(1), starts, aim, np.random.default_rng(1))[0]
    np.testing.assert_allclose(found, [0.6, 0.2, 0.2], atol=0.03)


def test_the_first_runs_are_references_and_far_apart():
    study = made()
    first, second, third = study.ask(3)
    assert isinstance(study, MixtureStudy)
    np.testing.assert_allclose(list(first.shares.values()), LIMITS.natural(SOURCES), atol=1e-3)
    assert second.shares == dict.fromkeys(SOURCES, 0.25)
    low, high = study.about.bounds
    runs = [first, second, third, *study.ask(9)]
    rows = np.array([[run.shares.get(name, 0) for name in SOURCES] for run in runs])
    assert (rows >= low - 1e-5).all()
    assert (rows <= high + 1e-4).all()
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-9)
    assert len({tuple(row) for row in rows}) == 12
    third_row = rows[2 : mixture_design_size(4)]
    gaps = np.abs(np.sqrt(third_row)[:, None] - np.sqrt(rows[:8])[None]).sum(2)
    assert np.sort(gaps, 1)[:, 1].min() > 0.2


def test_what_is_told_is_there_when_it_is_opened_again(tmp_path):
    study = made(storage=tmp_path / "s.journal", size="1B", weights={"program": 3})
    run = study.ask()
    study.tell(run, brought(run.shares), cost=2)
    study.tell(study.ask(), [3.0, 2.0])
    study.tell(study.ask(), failed="out of memory")
    study.add({"web": 0.5, "code": 0.5}, {"prose": 2.0}, variant="size 1M", seed=3)
    again = coterie.load_study("m", storage=tmp_path / "s.journal")
    assert isinstance(again, MixtureStudy)
    assert (again.settings, again.runs) == (study.settings, study.runs)
    results = again.results()
    assert results.sizes == ("", "", "size 1M")
    assert results.costs.tolist() == [2, 2, 2]
    assert np.isnan(results.losses[2]).tolist() == [False, True]
    np.testing.assert_allclose(again.about.shares_of_targets, [0.25, 0.75])
    with pytest.raises(SettingError, match="already"):
        again.add([0.5, 0.5, 0, 0], {"prose": 2.0}, variant="size 1M", seed=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": SOURCES}, "`tasks` has no meaning"),
        ({"targets": None}, "needs `sources` and `targets`"),
        ({"weights": {"proze": 1}}, "Did you mean 'prose'"),
        ({"weights": {"prose": -1}}, "at least 0"),
        ({"weights": dict.fromkeys(TARGETS, 0)}, "All weights are 0"),
        ({"limits": MixtureLimits(most=dict.fromkeys(SOURCES, 0.1))}, "allow no mixture"),
        ({"limits": MixtureLimits(least={"cod": 0.1})}, "no source"),
        ({"natural": {"web": 70, "code": 30}}, "add up to 1"),
        ({"kind": "mixtures"}, "kind"),
        ({"kind": "subsets"}, "`sources` has no meaning"),
    ],
)
def test_settings_that_cannot_be_meant(options, message):
    with pytest.raises(SettingError, match=message):
        made(**options)


def test_limits_out_of_range():
    for wrong in ({"least": {"a": 2}}, {"available": {"a": 0}}, {"run": -1}, {"epochs": 0}):
        with pytest.raises(SettingError):
            MixtureLimits(**wrong)


def test_two_tables_are_read_by_name_or_order(tmp_path):
    study = made()
    pandas = pytest.importorskip("pandas")
    rows = drawn(np.full(4, 0.25), *study.about.bounds, 5, np.random.default_rng(0))
    losses = [brought(dict(zip(SOURCES, row, strict=True))) for row in rows]
    ratios = pandas.DataFrame(rows, columns=SOURCES).assign(run=list("abcde"), seed=range(5))
    metrics = pandas.DataFrame(losses).assign(run=list("abcde"))[::-1]
    added = study.add_table(ratios, metrics, variant="300 steps")
    assert [run.seed for run in added] == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(study.results().losses, [list(one.values()) for one in losses])
    assert study.results().sizes == ("300 steps",) * 5
    with pytest.warns(DataWarning, match="5 of 5 rows"):
        assert study.add_table(ratios, metrics, variant="300 steps") == []
    for name, table in (("ratios.csv", ratios.drop(columns="run")), ("metrics.csv", metrics[::-1].drop(columns="run"))):
        table.to_csv(tmp_path / name, index=False)
    other = made("other")
    other.add_table(tmp_path / "ratios.csv", tmp_path / "metrics.csv")
    np.testing.assert_allclose(other.results().losses, study.results().losses)
    with pytest.raises(SettingError, match="unknown columns"):
        other.add_table(tmp_path / "metrics.csv", tmp_path / "ratios.csv")
    with pytest.raises(SettingError, match="same runs"):
        other.add_table(ratios, metrics.assign(run=list("abcdx")))
    with pytest.raises(SettingError, match="5 rows and that of metrics 4"):
        other.add_table(ratios.drop(columns="run"), metrics.drop(columns="run")[1:])
    with pytest.raises(SettingError, match=r"Row 2 .*add up to"):
        other.add_table(ratios.assign(web=[rows[0, 0], 9, *rows[2:, 0]]), metrics)
    with pytest.raises(SettingError, match="`metrics` is missing"):
        other.add_table(ratios)


HARNESS = {
    "results": {
        "prose": {"alias": "prose", "acc,none": 0.5, "acc_stderr,none": 0.02, "acc_norm,none": 0.6,
                  "acc_norm_stderr,none": "N/A"},
        "program": {"exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": 0.01,
                    "exact_match,flexible-extract": 0.3, "alias": " - program"},
    },
    "groups": {"all": {"acc,none": 0.4, "acc_stderr,none": 0.01}},
    "higher_is_better": {"prose": {"acc": True}},
}  # fmt: skip


def test_results_of_the_evaluation_harness_are_read(tmp_path):
    (tmp_path / "model").mkdir()
    file = tmp_path / "model" / "results_2026-01-01.json"
    file.write_text(json.dumps(HARNESS))
    study = made(direction="maximize")
    run = study.tell(study.ask(), file)
    assert run.losses == {"prose": (0.6, 0.0), "program": (0.25, 0.01)}
    assert study.results().losses.tolist() == [[-0.6, -0.25]]
    assert made(direction="maximize", metric="exact_match").about.metric == "exact_match"
    named = coterie.create_study(
        "n", kind="mixture", sources=SOURCES, direction="maximize", storage=optuna.storages.InMemoryStorage(),
        targets=["prose:acc", "program:exact_match,flexible-extract", "all"],
    )  # fmt: skip
    losses = named.tell(named.ask(), tmp_path).losses
    assert list(losses.values()) == [(0.5, 0.02), (0.3, 0.0), (0.4, 0.01)]
    wrong = coterie.create_study(
        "w", kind="mixture", sources=SOURCES, targets=["prose:f1"], storage=optuna.storages.InMemoryStorage()
    )
    with pytest.raises(SettingError, match="has no 'f1'"):
        wrong.tell(wrong.ask(), file)
    file.write_text(json.dumps({"samples": []}))
    with pytest.raises(SettingError, match="no results of lm-evaluation-harness"):
        study.tell(study.ask(), file)


def test_a_mixture_is_found_and_confirmed(told):
    study, found = told
    assert found.verdict == "yes"
    assert found.recommended == "recommended"
    low, high = study.about.bounds
    shares = np.array([found.mixture.get(name, 0) for name in SOURCES])
    assert (shares <= high + 1e-4).all()
    assert (shares >= low).all()
    grid = [(a, b) for a in np.linspace(0, 1, 51) for b in np.linspace(0, 1 - a, 51)]
    best = min(sum(brought({"web": a, "code": b, "math": 1 - a - b}, noise=0).values()) for a, b in grid if a + b > 0.6)
    mine = sum(brought(found.mixture, noise=0).values())
    assert mine < best + 0.03
    assert "news" in found.dropped
    assert "web" not in found.dropped
    assert "code" not in found.dropped
    assert all(one.steerable for one in found.targets)
    named = {one.name: one for one in found.candidates}
    assert set(named) == {"natural", "uniform", "best run", "recommended"}
    assert named["natural"].measured.low > 0
    assert named["natural"].seeds >= 3
    assert found.groups.worth
    assert found.groups.serves["prose"] != found.groups.serves["program"]
    assert found.to_frame().shape[0] == 2
    assert json.loads(json.dumps(found.to_dict()))["mixture"] == found.mixture
    assert study.ask().enough
    assert "Train on this mixture" in study._repr_html_()


def test_values_are_predicted_with_errors(told):
    study, _ = told
    asked = [{"web": 0.5, "code": 0.3, "math": 0.2}, [0.2, 0.5, 0.2, 0.1]]
    values, errors = study.predict(asked)
    wanted = [list(brought(dict(zip(SOURCES, one, strict=True)) if isinstance(one, list) else one, noise=0).values())
              for one in asked]  # fmt: skip
    assert (np.abs(values - wanted) < 4 * errors + 0.02).all()
    assert study.predict(asked, predictor="linear")[0].shape == (2, 2)
    with pytest.raises(SettingError, match="mixtures"):
        study.predict([{"web": 0.5}])


def test_nothing_is_claimed_without_fresh_seeds():
    study = made()
    with pytest.raises(WorkloadError, match="no finished run"):
        study.recommend()
    for number, row in enumerate(drawn(np.full(4, 0.25), *study.about.bounds, 14, np.random.default_rng(1))):
        study.add(row, brought(dict(zip(SOURCES, row, strict=True))), seed=number)
    found = study.recommend()
    assert found.verdict == "undecided"
    assert len(found.confirm) == 12  # the mixture and two rivals, four seeds each
    assert {run.seed for run in found.confirm} == {14, 15, 16, 17}
    assert study.recommend().confirmation.to_dict() == found.confirmation.to_dict()


def test_a_confirmation_is_of_the_mixture_that_was_written_down():
    shares, other = np.array([0.7, 0.3]), np.array([0.5, 0.5])
    written = MixtureConfirmation(shares, {"uniform": other}, np.ones(1), 2.0, 5)
    runs = [(shares, 5, 1.0), (other, 5, 1.2), (shares, 6, 1.1), (other, 6, 1.3), (shares, 4, 9.0), (other, 7, 1.0)]
    results = MixtureResults(
        ("a", "b"), ("t",), np.array([run[0] for run in runs]), np.array([[run[2]] for run in runs]),
        np.array([run[1] for run in runs]), ("",) * 6, np.ones(6),
    )  # fmt: skip
    np.testing.assert_allclose(written.gains(results, "uniform"), [0.1, 0.1])
    assert not written.is_better(results)
    wanted = [(tuple(run.shares), run.seed) for run in written.wanted(results)]
    assert ((0.7, 0.3), 7) in wanted
    assert ((0.5, 0.5), 7) not in wanted
    again = MixtureConfirmation.from_dict(written.to_dict())
    np.testing.assert_allclose(again.gains(results, "uniform"), [0.1, 0.1])
    with pytest.raises(SettingError, match="stored confirmation"):
        MixtureConfirmation.from_dict({"shares": [1]})


def test_what_does_not_follow_the_mixture_is_not_steerable():
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.ones(4), 30)
    losses = np.concatenate([(0.1 + shares[:, :1]) ** -0.3, rng.standard_normal((30, 3))], 1)
    found = steering(MixtureResults.of(SOURCES, tuple("abcd"), shares, losses))
    assert found.steerable.tolist() == [True, False, False, False]
    assert found.skill[0] > 0.8
    assert found.p[0] < 0.05


def test_a_design_goes_on_where_runs_are_under_way():
    aim = MixtureAim(np.ones(1), np.zeros(3), np.ones(3), np.full(3, 1 / 3))
    nothing = MixtureResults.of(("a", "b", "c"), ("t",), np.zeros((0, 3)), np.zeros((0, 1)))
    first = next_mixtures(nothing, aim, 3).runs
    rest = next_mixtures(nothing, aim, 3, taken=[(run.shares, 0) for run in first]).runs
    rows = np.stack([run.shares for run in (*first, *rest)])
    assert len(np.unique(rows.round(3), axis=0)) == 6


def test_from_a_shell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments, code=0):
        found = CliRunner().invoke(app, ["study", *map(str, arguments), "--json"])
        assert found.exit_code == code, found.output
        return json.loads(found.stdout) if not code else found.stderr

    call("create", "mix", "--kind", "mixture", "--sources", ",".join(SOURCES), "--targets", "prose,program", "--most",
         "news=.5", "--available", "web=1000,code=100,math=40,news=400", "--run", 400)  # fmt: skip
    run = call("ask", "mix")
    assert sum(run["mixture"].values()) == pytest.approx(1)
    assert call("tell", "mix", 0, "prose=2.0", "program=3.0")["state"] == "told"
    call("add", "mix", "prose=1.9", "program=2.5", "--mixture", "web=.5,code=.5", "--seed", 2)
    assert "web=0.7,code=0.3" in call("add", "mix", "prose=1", "--mixture", "web", code=1)
    rows = drawn(np.full(4, 0.25), np.zeros(4), np.array([1, 1, 0.4, 0.5]), 8, np.random.default_rng(0))
    for name, header, table in (
        ("ratios.csv", SOURCES, rows.tolist()),
        ("metrics.csv", TARGETS, [[*brought(dict(zip(SOURCES, row, strict=True))).values()] for row in rows]),
    ):
        with open(tmp_path / name, "w", newline="") as file:
            csv.writer(file).writerows([header, *table])
    assert len(call("import", "mix", "ratios.csv", "metrics.csv")["added"]) == 8
    assert len(call("show", "mix")["runs"]) == 10
    assert np.shape(call("predict", "mix", "ratios.csv", "--predictor", "log-linear")["values"]) == (8, 2)
    found = call("recommend", "mix", "--predictor", "linear")
    assert sum(found["mixture"].values()) == pytest.approx(1, abs=1e-3)
    plain = CliRunner().invoke(app, ["study", "recommend", "mix", "--predictor", "linear"])
    assert plain.exit_code == 0, plain.output
    assert "steerable" in plain.output
