"""Readers of stored files, on files that were damaged: a clear error, or something that can be used. Nothing else."""

import json
import random
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from coterie._json import json_bytes
from coterie._sealed import pack, unpack
from coterie._units import Payload
from coterie.affinity import Affinity
from coterie.affinity.grad_tae_model import GradTAEModel
from coterie.benchmark import markdown, page
from coterie.benchmark.plot import panel
from coterie.cli.groupings import read_groupings
from coterie.cli.per_task import read_per_task
from coterie.diffusion.affinity import StepAffinity
from coterie.diffusion.config import DiffusionConfig
from coterie.diffusion.page import render as render_study
from coterie.diffusion.study import SAMPLES, StepStudy
from coterie.errors import CoterieError, ModelError, SettingError, StoreError, WorkloadError
from coterie.evaluation import Comparison
from coterie.grouping import Grouping
from coterie.report.html import render
from coterie.serving import load
from coterie.store import RunDirectory
from coterie.store.arrays import decode, encode, read_pair, sealed_pair
from coterie.store.files import read_json
from coterie.store.manifest import read_manifest
from reference.damage import damage_bytes, damage_json, damage_tensors, damage_text
from reference.stored import benchmark_result, comparison, gain_model, made_study, served, step_affinity
from report.sample_result import sample_result

STUDY = made_study()
X = np.random.default_rng(1).normal(size=(3, 4))
TABLE = Affinity([[0, 0.25, -1 / 3], [0.125, 0, 1e-9], [2, -0.5, 0]], ("a", "b & c", "d"))
GROUPING = Grouping(("a", "b & c", "d"), ((0, 1), (1, 2)), (0, 0, 1), 1.5, 2.0, "sdp", {"gap": 0.5, "how": "x"})


def bytes_of(write):
    """The content of a file that `write` writes at a path."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "x")
        return (Path(folder) / "x").read_bytes()


class Reader:
    """A reader of one file. Subclasses say how a whole file is made and used."""

    name = "x"
    allowed = (StoreError,)

    def good(self):
        """Bytes of a whole file."""
        raise NotImplementedError

    def use(self, folder):
        """Read it, and do what is done with it; errors of the reading."""
        raise NotImplementedError

    def prepare(self, folder):
        """Files beside it."""

    def damage(self, data, rng):
        """The file, damaged."""
        return damage_bytes(data, rng)


class JsonReader(Reader):
    def damage(self, data, rng):
        if rng.random() < 0.2:
            return damage_bytes(data, rng)
        return json.dumps(damage_json(json.loads(data), rng)).encode("utf-8", "surrogatepass")


class SealedReader(Reader):
    """A file with a checksum, which whoever damaged it put right again, or not."""

    kind = ""

    def damage(self, data, rng):
        if rng.random() < 0.2:
            return damage_bytes(data, rng)
        facts, tensors = unpack(self.kind, data, "x")
        if rng.random() < 0.6:
            changed = damage_json(facts, rng)
            facts = changed if isinstance(changed, dict) else {"tasks": changed}
        else:
            tensors = damage_tensors(tensors, rng)
        return pack(self.kind, facts, tensors)


class SavedAffinity(JsonReader):
    def good(self):
        return bytes_of(TABLE.save)

    def use(self, folder):
        found = Affinity.load(folder / "x")
        json.dumps(found.to_dict(), allow_nan=False)
        found._repr_html_()


class Table(Reader):
    allowed = (StoreError, WorkloadError)

    def good(self):
        return bytes_of(TABLE.to_csv)

    def damage(self, data, rng):
        return damage_text(data.decode(), rng) if rng.random() < 0.7 else damage_bytes(data, rng)

    def use(self, folder):
        found = Affinity.from_csv(folder / "x")
        assert found.values.shape == (len(found.tasks),) * 2
        off = ~np.eye(len(found.tasks), dtype=bool)
        assert np.isfinite(found.values[off]).all()


class SavedGrouping(JsonReader):
    def good(self):
        return bytes_of(GROUPING.save)

    def use(self, folder):
        found = Grouping.load(folder / "x")
        json.dumps(found.to_dict(), allow_nan=False)
        assert found.subsets.shape == (found.n_groups, len(found.tasks))
        found._repr_html_()


class GivenGrouping(SavedGrouping):
    allowed = (StoreError, SettingError)

    def use(self, folder):
        read_groupings([folder / "x"], GROUPING.tasks)


class PerTask(Table):
    allowed = (StoreError, SettingError)

    def good(self):
        return b"task,cost\r\na,1.5\r\nb & c,20\r\nd,3\r\n"

    def use(self, folder):
        assert np.isfinite(read_per_task(folder / "x", TABLE.tasks, "--costs")).all()


class Configuration(Table):
    allowed = (SettingError,)

    def good(self):
        return DiffusionConfig.example().encode()

    def damage(self, data, rng):
        if rng.random() < 0.5:
            return super().damage(data, rng)
        value = rng.choice(["[" * 3000 + "]" * 3000, "9" * 3000, "0x" + "f" * 5000, "[[1]]", "{a = 1}", "nan", "-inf"])
        lines = data.decode().splitlines()
        place = rng.choice([number for number, line in enumerate(lines) if "=" in line])
        lines[place] = f"{lines[place].partition('=')[0].lstrip('# ')} = {value}"
        return "\n".join(lines).encode()

    def use(self, folder):
        DiffusionConfig.read(folder / "x").to_dict()


class Manifest(JsonReader):
    name = "manifest.json"

    def good(self):
        with tempfile.TemporaryDirectory() as folder:
            RunDirectory(folder, fingerprint="f", settings={"seeds": 3, "nested": {"a": [1]}}).close()
            return (Path(folder) / "manifest.json").read_bytes()

    def use(self, folder):
        read_manifest(folder)
        RunDirectory(folder, fingerprint="f", settings={"seeds": 3, "nested": {"a": [1]}}).close()


class Unit(Reader):
    """Both files of a unit: whatever happened to them, the right value comes back."""

    def __init__(self, suffix):
        self.suffix = suffix

    @staticmethod
    def ask(folder):
        with RunDirectory(folder, fingerprint="f", settings={}) as run:
            found = run.unit("u", {"of": 1}, lambda: Payload({"a": np.arange(5.0)}, {"value": [1, None]}))
        assert found.meta == {"value": [1, None]}
        assert found.arrays["a"].tolist() == [0, 1, 2, 3, 4]

    def prepare(self, folder):
        self.ask(folder)
        self.path = next((folder / "units").glob(f"*.{self.suffix}"))
        self.whole = self.path.read_bytes()

    def good(self):
        return b""

    def damage(self, data, rng):
        if self.suffix == "json" and rng.random() < 0.6:
            return json.dumps(damage_json(json.loads(self.whole), rng)).encode("utf-8", "surrogatepass")
        return damage_bytes(self.whole, rng)

    def use(self, folder):
        self.path.write_bytes((folder / "x").read_bytes())
        self.ask(folder)


class Result(JsonReader):
    allowed = (StoreError, SettingError)

    def good(self):
        return json_bytes(sample_result())

    def use(self, folder):
        assert "</html>" in render(read_json(folder / "x"))


class Benchmark(JsonReader):
    def good(self):
        return json_bytes(benchmark_result())

    def use(self, folder):
        found = [page.read_result(folder / "x")]
        page.render(found).encode("utf-8", "xmlcharrefreplace")
        markdown.fill("<!-- benchmark: digits --> old <!-- end -->", found)
        panel(found[0])


class Diffusion(JsonReader):
    name = "result.json"

    def good(self):
        return json_bytes(STUDY.facts)

    def prepare(self, folder):
        (folder / SAMPLES).write_bytes(encode(dict(STUDY.samples)))

    def use(self, folder):
        render_study(StepStudy.load(folder))


class DiffusionSamples(Reader):
    name = "samples.safetensors"

    def good(self):
        return encode(dict(STUDY.samples))

    def prepare(self, folder):
        (folder / "result.json").write_bytes(json_bytes(STUDY.facts))

    def damage(self, data, rng):
        if rng.random() < 0.5:
            return damage_bytes(data, rng)
        return encode(damage_tensors(decode(data, None), rng))

    def use(self, folder):
        render_study(StepStudy.load(folder))


class SavedComparison(SealedReader):
    kind = "coterie comparison 2"

    def good(self):
        return comparison().to_bytes()

    def use(self, folder):
        found = Comparison.load(folder / "x")
        found.to_dict()
        found._repr_html_()


class SavedSteps(SealedReader):
    kind = "coterie step affinity 2"

    def good(self):
        return bytes_of(step_affinity().save)

    def use(self, folder):
        assert np.isfinite(StepAffinity.load(folder / "x").full()).all()


class SavedModel(SealedReader):
    kind = "coterie gain model 2"

    def good(self):
        return bytes_of(gain_model().save)

    def use(self, folder):
        found = GradTAEModel.load(folder / "x")
        found.pairwise()


class Served(Reader):
    """A description and its tensors, with checksums that were put right again, or not."""

    names = ("serve.json", "serve.safetensors")

    def good(self):
        return b""

    def make(self, folder):
        served(folder)

    def prepare(self, folder):
        self.make(folder)
        self.now = self.files = {name: (folder / name).read_bytes() for name in self.names}
        self.pair = read_pair(folder, self.names, 2)

    def damage(self, data, rng):
        if rng.random() < 0.3:
            name = rng.choice(sorted(self.files))
            self.now = {**self.files, name: damage_bytes(self.files[name], rng)}
            return b""
        description, tensors = self.pair
        if rng.random() < 0.7:
            changed = damage_json(description, rng)
            description = changed if isinstance(changed, dict) else {"tasks": changed}
        else:
            tensors = damage_tensors(tensors, rng)
        try:
            self.now = sealed_pair(self.names, description, tensors)
        except (StoreError, ValueError, RecursionError):  # nothing that could be written
            self.now = self.files
        return b""

    def put(self, folder):
        for name, data in self.now.items():
            (folder / name).write_bytes(data)

    def use(self, folder):
        self.put(folder)
        try:
            predictor = load(folder)
        except ModelError:  # it claims that code of the user's own makes its models
            return
        try:
            found = predictor.predict(X)
        except CoterieError:  # of a predictor for other inputs
            return
        assert set(found) == set(predictor.tasks)


class Adapters(Served):
    names = ("adapters.json", "adapters.safetensors")
    allowed = (StoreError, SettingError)

    def make(self, folder):
        from coterie.adapters import Dense, Image, attach, save
        from reference.adapters import backbone

        self.backbone = backbone("vit")
        save(attach(self.backbone, {"a": Dense(2), "b c": Image(3)}), folder)
        self.fresh = backbone("vit")

    def use(self, folder):
        from coterie.adapters.saved import load

        self.put(folder)
        load(folder, self.fresh).detach()


READERS = {
    "affinity": SavedAffinity, "table": Table, "grouping": SavedGrouping, "given grouping": GivenGrouping,
    "costs": PerTask, "configuration": Configuration, "manifest": Manifest, "unit": lambda: Unit("json"),
    "tensors of a unit": lambda: Unit("safetensors"), "result": Result, "benchmark": Benchmark,
    "study": Diffusion, "samples": DiffusionSamples, "comparison": SavedComparison, "step affinity": SavedSteps,
    "gain model": SavedModel, "served models": Served, "adapters": Adapters,
}  # fmt: skip


def attack(name, folder, count, seed):
    """The errors that a reader should not have raised, by their texts, and how often something was refused."""
    reader, rng = READERS[name](), random.Random(f"{name} {seed}")
    reader.prepare(folder)
    whole = reader.good()
    found, refused = {}, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            (folder / reader.name).write_bytes(reader.damage(whole, rng))
            try:
                reader.use(folder)
            except reader.allowed:
                refused += 1
            except Exception as error:
                found.setdefault(f"{type(error).__name__}: {str(error)[:150]}", number)
    return found, refused


@pytest.mark.parametrize("name", READERS)
def test_whole_files_are_read(tmp_path, name):
    reader = READERS[name]()
    reader.prepare(tmp_path)
    if "unit" in name:
        return  # done while it was made ready
    (tmp_path / reader.name).write_bytes(reader.good())
    reader.use(tmp_path)


@pytest.mark.parametrize("n_steps", [2**31, 50_000, 2.0, True, None, "5", 10**400, 4])
def test_a_map_of_steps_beyond_any_schedule_reserves_no_memory(tmp_path, n_steps):
    facts, tensors = unpack(SavedSteps.kind, SavedSteps().good(), "x")
    (tmp_path / "x").write_bytes(pack(SavedSteps.kind, {**facts, "n_steps": n_steps}, tensors))
    with pytest.raises(StoreError, match="step affinity"):
        StepAffinity.load(tmp_path / "x")


@pytest.mark.parametrize("change", [{"embedding": 2**31}, {"decoder": 2**20}, {"embedding": 10**30}])
def test_adapters_reserve_no_memory_for_sizes_that_are_only_claimed(tmp_path, change):
    reader = Adapters()
    reader.prepare(tmp_path)
    reader.now = sealed_pair(reader.names, {**reader.pair[0], **change}, reader.pair[1])
    with pytest.raises(StoreError, match=r"larger than any|64 bits"):
        reader.use(tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_refused_or_of_use(tmp_path, name):
    found, refused = attack(name, tmp_path, 40, 0)
    assert not found
    assert refused or "unit" in name


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_refused_or_of_use_ten_thousand_times(tmp_path, name):
    assert not attack(name, tmp_path, 10_000, 1)[0]
