import json
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import coterie
from coterie.errors import ModelError, SettingError, StoreError, StoreWarning, WorkloadError
from coterie.grouping import Grouping
from coterie.serving import Predictor, export_adapters, load
from coterie.serving.saved import save_served
from coterie.store.arrays import read_pair, sealed_pair
from coterie.store.files import digest
from coterie.workload import Task, from_arrays
from coterie.workload.mlp import mlp_spec

RNG = np.random.default_rng(0)
X = RNG.normal(3.0, 5.0, size=(60, 4))
Y = pd.DataFrame(
    {
        "toxic": (X[:, 0] > 3).astype(float),
        "colour": RNG.integers(0, 3, 60).astype(float),
        "weight": 1000.0 + 50.0 * X[:, 1],
    }
)
KINDS = [Task("toxic"), Task("colour", "multiclass", classes=3), Task("weight", "regression")]
OVERLAPPING = Grouping(("toxic", "colour", "weight"), ((0, 1), (0, 2)), (1, 0, 1))


def reseal(folder, change):
    """Change the description as somebody would who also puts the checksum right."""
    text = json.loads((folder / "serve.json").read_text())
    del text["checksum"]
    found = change(text)
    (folder / "serve.json").write_text(json.dumps({**text, "checksum": digest(text)}))
    return found


def workload(**options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return from_arrays(X, Y, tasks=KINDS, hidden=(8,), **options)


def states_of(w, grouping):
    return [{**w.build_model(10 + i).state_dict()} for i in range(len(grouping.groups))]


def saved(path, w=None, grouping=OVERLAPPING):
    w = w or workload()
    states = states_of(w, grouping)
    save_served(path, w, grouping, states)
    return w, states


def by_hand(w, states, group, x):
    """The outputs of a group's model with numpy's own standardisation."""
    train = X[w.split.train.numpy()].astype(np.float32)
    raw = (x.astype(np.float32) - train.mean(0)) / train.std(0)
    model = w.build_model(0)
    model.load_state_dict(states[group])
    return model.eval()(torch.from_numpy(raw)).detach().double().numpy()


def test_each_task_is_served_by_its_group_in_raw_units(tmp_path):
    w, states = saved(tmp_path)
    answers = load(tmp_path).predict(X)
    assert list(answers) == ["toxic", "colour", "weight"]
    first, second = by_hand(w, states, 0, X), by_hand(w, states, 1, X)
    np.testing.assert_allclose(answers["toxic"], 1 / (1 + np.exp(-second[:, 0])), atol=1e-5)
    odds = np.exp(first[:, 1:4])
    np.testing.assert_allclose(answers["colour"], odds / odds.sum(1, keepdims=True), atol=1e-5)
    train = Y["weight"].to_numpy()[w.split.train.numpy()]
    np.testing.assert_allclose(answers["weight"], second[:, 4] * train.std() + train.mean(), rtol=1e-4)


def test_predictor_describes_itself_and_accepts_every_form_of_input(tmp_path):
    saved(tmp_path)
    predictor = load(str(tmp_path))
    assert predictor.tasks == ("toxic", "colour", "weight")
    assert predictor.groups == (("toxic", "colour"), ("toxic", "weight"))
    assert predictor.serves == {"toxic": 1, "colour": 0, "weight": 1}
    assert repr(predictor) == "Predictor(3 tasks, 2 models)"
    expected = predictor.predict(X)
    forms = (torch.from_numpy(X), torch.from_numpy(X).float(), pd.DataFrame(X), X.tolist(), X.astype(">f8"))
    for form in forms:
        for name, values in predictor.predict(form).items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-5)


def test_chunks_do_not_change_the_answer(tmp_path):
    saved(tmp_path)
    predictor = load(tmp_path)
    whole, parts = predictor.predict(X), predictor.predict(X, chunk=7)
    assert all(np.allclose(whole[name], parts[name], atol=1e-6) for name in whole)
    assert predictor.predict(X[:0])["colour"].shape == (0, 3)


def test_each_model_runs_once_and_idle_ones_not_at_all(tmp_path):
    w = workload()
    grouping = Grouping(w.task_names, ((0, 1, 2), (0, 1)), (0, 0, 0))
    saved(tmp_path, w, grouping)
    predictor, calls = load(tmp_path), [0, 0]
    for index, model in enumerate(predictor.models):
        model.register_forward_hook(lambda *_, index=index: calls.__setitem__(index, calls[index] + 1))
    predictor.predict(X)
    assert calls == [1, 0]


def test_predict_frame(tmp_path):
    saved(tmp_path)
    frame = pd.DataFrame(X, index=[f"row {i}" for i in range(60)])
    table = load(tmp_path).predict_frame(frame)
    assert list(table.columns) == ["toxic", "colour=0", "colour=1", "colour=2", "weight"]
    assert list(table.index[:2]) == ["row 0", "row 1"]


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (X[:, :3], r"shape \(rows, 4\). Found \(60, 3\)"),
        (X[0], r"x\[None\]"),
        (np.where(X > 8, np.nan, X), "missing or infinite"),
        (np.where(X > 8, 1e300, X), "missing or infinite"),
        ({"a": X}, "should be one array"),
        (np.full((2, 4), "a"), "should hold numbers"),
        (3.0, "shape"),
    ],
)
def test_bad_inputs_are_named(tmp_path, x, words):
    saved(tmp_path)
    with pytest.raises(WorkloadError, match=words):
        load(tmp_path).predict(x)


class Own(nn.Module):
    """A module with BatchNorm, a tied weight, a token input and a plain one."""

    def __init__(self, width=6):
        super().__init__()
        self.embedding = nn.Embedding(5, width)
        self.norm = nn.BatchNorm1d(width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.head = nn.Linear(width, 2)

    def forward(self, token, value):
        hidden = self.norm(self.embedding(token) + value)
        return self.head(self.second(torch.relu(self.first(hidden))))


PARTS = {"token": np.arange(40) % 5, "value": np.linspace(0, 1, 40, dtype=np.float32)[:, None]}
PAIR = Grouping(("a", "b"), ((0,), (1,)), (0, 1))


def own_workload(**options):
    y = np.stack([np.arange(40) % 2, np.arange(40) // 2 % 2], 1).astype(float)
    return from_arrays(PARTS, y, tasks=["a", "b"], build_model=lambda seed: Own(), **options)


def own_states(w):
    states = []
    for seed in (1, 2):
        model = w.build_model(seed)
        model.norm(torch.randn(30, 6))  # running statistics that differ from the initial ones
        states.append({k: v.detach().clone() for k, v in [*model.named_parameters(), *model.named_buffers()]})
    return states


def test_a_module_of_ones_own_is_served_by_build_model_or_workload(tmp_path):
    w = own_workload()
    states = own_states(w)
    save_served(tmp_path, w, PAIR, states)
    model = w.build_model(0).eval()
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            value.copy_(states[1][name])
        expected = torch.sigmoid(model(**w.inputs)[:, 1]).numpy()
    for options in ({"build_model": lambda seed: Own()}, {"build_model": Own}, {"workload": w}):
        np.testing.assert_allclose(load(tmp_path, **options).predict(PARTS)["b"], expected, atol=1e-6)
    with pytest.raises(ModelError, match="a module of your own, which is code"):
        load(tmp_path)


def test_a_forward_function_must_come_from_somewhere(tmp_path):
    def forward(model, batch):
        return model(batch["token"], batch["value"])

    w = own_workload(forward=forward)
    save_served(tmp_path, w, PAIR, own_states(w))
    with pytest.raises(ModelError, match="a forward function of your own"):
        load(tmp_path, build_model=Own)
    one, two = load(tmp_path, workload=w), load(tmp_path, build_model=Own, forward=forward)
    np.testing.assert_array_equal(one.predict(PARTS)["a"], two.predict(PARTS)["a"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token": PARTS["token"] + 0.5}, "whole numbers"),
        ({"token": PARTS["token"][:9]}, "same number of rows"),
        ({"value": np.full((40, 1), np.nan)}, "missing or infinite"),
        ({"value": np.zeros((40, 2))}, "shape"),
        ({"token": PARTS["token"] + 9}, "model of group 0 fails"),
    ],
)
def test_bad_mappings_are_named(tmp_path, changes, words):
    w = own_workload()
    save_served(tmp_path, w, PAIR, own_states(w))
    with pytest.raises((WorkloadError, ModelError), match=words):
        load(tmp_path, workload=w).predict({**PARTS, **changes})


def test_an_array_where_a_mapping_is_needed(tmp_path):
    w = own_workload()
    save_served(tmp_path, w, PAIR, own_states(w))
    with pytest.raises(WorkloadError, match="should be a mapping with the keys"):
        load(tmp_path, workload=w).predict(PARTS["value"])


def test_another_model_or_other_tasks_are_refused(tmp_path):
    w = own_workload()
    save_served(tmp_path, w, PAIR, own_states(w))
    with pytest.raises(ModelError, match=r"head.weight \(\(2, 6\) saved, \(2, 7\) in the model\)"):
        load(tmp_path, build_model=lambda seed: Own(7))
    with pytest.raises(ModelError, match="not in the model"):
        load(tmp_path, build_model=lambda seed: nn.Linear(2, 2))
    with pytest.raises(ModelError, match="its tasks should be those of the run"):
        load(tmp_path, workload=workload())


def test_a_file_that_a_run_names_is_run_only_when_the_caller_names_it(tmp_path):
    (tmp_path / "own.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
        "import numpy as np, torch\nfrom torch import nn\nfrom coterie.workload import from_arrays\n"
        "x = np.random.default_rng(0).normal(size=(40, 3))\n"
        "def workload():\n"
        "    return from_arrays(x, x[:, :2] > 0, tasks=['a', 'b'], build_model=lambda seed: nn.Linear(3, 2))\n"
    )
    from coterie.workload import load_workload

    w = load_workload(f"{tmp_path / 'own.py'}:workload")
    save_served(tmp_path, w, PAIR, states_of(w, PAIR))
    (tmp_path / "ran").unlink()
    with pytest.raises(ModelError, match=r"runs none unless you say so.*own.py:workload'"):
        load(tmp_path)
    load(tmp_path, build_model=lambda seed: nn.Linear(3, 2))
    for changes in ({"forward": True}, {"forward": True, "model_spec": mlp_spec(3, (), 2)}):
        reseal(tmp_path, lambda text, changes=changes: text.update(changes))
        for given in ({}, {"build_model": lambda seed: nn.Linear(3, 2)}):
            with pytest.raises((ModelError, StoreError), match=r"forward function|other models"):
                load(tmp_path, **given)
    reseal(tmp_path, lambda text: text.update(forward=False, model_spec=None))
    with pytest.raises(ModelError, match="not stored"):
        export_adapters(tmp_path, tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    found = load(tmp_path, workload=w.reference)
    assert found.predict(np.zeros((2, 3)))["a"].shape == (2,)
    assert (tmp_path / "ran").exists()
    (tmp_path / "own.py").unlink()
    with pytest.raises(ModelError, match=r"own.py:workload.*cannot be loaded.*`workload=`"):
        load(tmp_path, workload=w.reference)


def test_missing_and_damaged_runs(tmp_path):
    with pytest.raises(StoreError, match="no served models"):
        load(tmp_path)
    saved(tmp_path)
    tensors = tmp_path / "serve.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-1] + b"x")
    with pytest.raises(StoreError, match="checksum"):
        load(tmp_path)
    tensors.unlink()
    with pytest.raises(StoreError, match="There is no file"):
        load(tmp_path)
    tensors.write_bytes(whole)
    assert isinstance(load(tmp_path), Predictor)
    (tmp_path / "serve.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(StoreError, match="not of a format"):
        load(tmp_path)
    (tmp_path / "serve.json").write_text("{")
    with pytest.raises(StoreError, match="not valid JSON"):
        load(tmp_path)

    class NotWritten:
        path = None

    with pytest.raises(StoreError, match="not written"):
        load(NotWritten())


def test_states_and_grouping_must_fit(tmp_path):
    w = workload()
    with pytest.raises(SettingError, match="each of the 2 groups"):
        save_served(tmp_path, w, OVERLAPPING, states_of(w, OVERLAPPING)[:1])
    other = Grouping(("x", "y", "z"), ((0, 1, 2),), (0, 0, 0))
    with pytest.raises(SettingError, match="tasks of the workload"):
        save_served(tmp_path, w, other, states_of(w, other))
    assert not list(tmp_path.iterdir())


def named(path):
    frame = pd.DataFrame(X, columns=["p", "q", "r", "s"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        w = from_arrays(frame, Y, tasks=KINDS, hidden=(8,))
    saved(path, w)
    return frame, load(path)


def test_columns_of_a_frame_are_found_by_name(tmp_path):
    frame, predictor = named(tmp_path)
    assert predictor.input_names == ("p", "q", "r", "s")
    expected = predictor.predict(X)
    for form in (frame, frame[["s", "p", "r", "q"]], pd.DataFrame(X)):
        answers = predictor.predict(form)
        assert all(np.array_equal(answers[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.drop(columns="q").assign(extra=1.0), r"Missing: \['q'\]; not known: \['extra'\]"),
        (lambda x: x.drop(columns="q"), r"Missing: \['q'\]; not known: none"),
        (lambda x: x.rename(columns={"q": "Q"}), r"Missing: \['q'\]; not known: \['Q'\]"),
        (lambda x: x[["p", "q", "r", "s", "s"]], r"more than once: \['s'\]"),
    ],
)
def test_other_columns_of_a_frame_are_refused(tmp_path, change, words):
    frame, predictor = named(tmp_path)
    with pytest.raises(WorkloadError, match=words):
        predictor.predict(change(frame))


def test_a_description_without_names_still_loads(tmp_path):
    frame, _ = named(tmp_path)
    assert reseal(tmp_path, lambda text: text.pop("input_names")) == ["p", "q", "r", "s"]
    predictor = load(tmp_path)
    assert predictor.input_names is None
    assert predictor.predict(frame)["toxic"].shape == (60,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.pop("tasks"), "'tasks' is missing"),
        (lambda text: text.pop("sha256"), "is damaged: its checksum"),
        (lambda text: text["tasks"][0].update(scale="1"), "entry 0 of 'tasks' is no task"),
        (lambda text: text["tasks"][2].update(center=10**30), "entry 2 of 'tasks' is no task"),
        (lambda text: text["tasks"][0].update(center=10**400), "entry 0 of 'tasks' is no task"),
        (lambda text: text["model_spec"].update(hidden=5), "description of its models"),
        (lambda text: text["model_spec"].update(hidden=[10**30]), "other models than the saved one"),
        (lambda text: text.update(inputs={"parts": {}}), "'inputs' has no valid shape"),
        (lambda text: text["inputs"].update(dtype="float8_e4m3fn"), "'inputs' has no valid shape"),
        (lambda text: text["inputs"].update(shape=[7]), "'input_center' has the shape"),
        (lambda text: text.pop("forward"), "'forward' is missing"),
        (lambda text: text.update(tasks="abc"), "'tasks' is of the type str"),
        (lambda text: text.update(tasks=[]), "'tasks' is empty"),
        (lambda text: text.update(tasks=[3]), "entry 0 of 'tasks' is no task"),
        (lambda text: text["tasks"][0].update(colour=1), "entry 0 of 'tasks' is no task"),
        (lambda text: text["serves"].update(toxic=2), "'toxic' group 2, but there are 2 groups"),
        (lambda text: text["serves"].update(toxic=-1), "'toxic' group -1"),
        (lambda text: text["serves"].update(toxic="0"), "'toxic' group '0'"),
        (lambda text: text["serves"].update(weight=0), "was not trained on it"),
        (lambda text: text["serves"].pop("toxic"), r"no group for \['toxic'\]"),
        (lambda text: text["serves"].update(other=0), r"unknown tasks \['other'\]"),
        (lambda text: text["groups"][0].append("other"), "group 0 is no list of tasks"),
        (lambda text: text["inputs"].update(dtype="nonsense"), "'inputs' has no valid shape"),
        (lambda text: text.update(input_names="abcd"), "'input_names'"),
    ],
)
def test_a_damaged_description_is_named(tmp_path, change, words):
    saved(tmp_path)
    reseal(tmp_path, change)
    with pytest.raises(StoreError, match=words):
        load(tmp_path)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.int64, torch.bool])
def test_a_standardisation_of_another_type_is_refused(tmp_path, kind):
    saved(tmp_path)
    names = ("serve.json", "serve.safetensors")
    description, tensors = read_pair(tmp_path, names, 2)
    tensors["input_scale"] = tensors["input_scale"].to(kind)
    for name, data in sealed_pair(names, description, tensors).items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(StoreError, match="'input_scale' has the"):
        load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text["tasks"][1].update(scale=2 * text["tasks"][1]["scale"]),
        lambda text: text["tasks"].reverse(),
        lambda text: text["groups"].reverse(),
        lambda text: text.update(forward=True),
        lambda text: text.update(input_names=["a", "b", "c", "d"]),
        lambda text: text.update(note="more"),
        lambda text: text.update(format=1),
    ],
)
def test_whatever_decides_a_prediction_is_under_the_checksum(tmp_path, change):
    saved(tmp_path)
    text = json.loads((tmp_path / "serve.json").read_text())
    change(text)
    (tmp_path / "serve.json").write_text(json.dumps(text))
    with pytest.raises(StoreError, match="its checksum is not that of its content"):
        load(tmp_path)


def test_what_an_earlier_version_wrote_is_read_with_a_word(tmp_path):
    saved(tmp_path)
    before = load(tmp_path).predict(X)
    text = json.loads((tmp_path / "serve.json").read_text())
    del text["checksum"]
    (tmp_path / "serve.json").write_text(json.dumps({**text, "format": 1}))
    with pytest.warns(StoreWarning, match="has no checksum"):
        after = load(tmp_path).predict(X)
    assert all((after[name] == before[name]).all() for name in before)


@pytest.mark.parametrize("chunk", [0, -3, 2.5, None, "7", True])
def test_chunk_is_a_whole_number_of_at_least_1(tmp_path, chunk):
    saved(tmp_path)
    with pytest.raises(SettingError, match="`chunk` should be a whole number of at least 1"):
        load(tmp_path).predict(X, chunk=chunk)


def test_a_predictor_knows_the_devices(tmp_path):
    saved(tmp_path)
    with pytest.raises(SettingError, match="`device`"):
        load(tmp_path).to("warp")


def test_a_run_without_a_directory_serves_what_one_with_a_directory_serves(tmp_path):
    """Also a module of one's own, which a directory needs to be told about."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 4)).astype("float32")
    y = (x[:, :3] > 0).astype(float)

    def build(seed):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))

    work = coterie.from_arrays(x, y, build_model=build, recipe=coterie.Recipe(epochs=2, batch_size=32))
    options = {"groups": 2, "seeds": 1, "method": "cosine"}
    kept = coterie.run(work, **options)
    written = coterie.run(work, out=tmp_path / "run", **options)
    assert kept.path is None
    assert written.files == {}
    stages = [[row["stage"] for row in result.result["costs"]] for result in (kept, written)]
    assert stages[0] == stages[1]
    assert kept.result["seconds"] == sum(row["seconds"] for row in kept.result["costs"])
    found = coterie.load(kept).predict(x)
    expected = coterie.load(written, build_model=build).predict(x)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("run", [None, 5, {"path": None}, OVERLAPPING, np.zeros(3)])
def test_what_is_no_run_is_named(run):
    with pytest.raises(SettingError, match=f"`run` should be a run directory.* type {type(run).__name__}"):
        load(run)
