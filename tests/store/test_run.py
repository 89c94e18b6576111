import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from coterie._units import Payload
from coterie.errors import SettingError, StoreError, StoreWarning
from coterie.store import MemoryRun, RunDirectory, open_run
from coterie.store import manifest as manifest_module
from coterie.store.manifest import read_manifest


def opened(path, **changes):
    return RunDirectory(path, **{"fingerprint": "f", "settings": {"seeds": 3}, **changes})


def example():
    arrays = {
        "strided": np.arange(6.0)[::2],
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3)),
        "flags": np.array([True, False]),
        "bytes_swapped": np.arange(3, dtype=">f8"),
        "nan": np.array([np.nan, -0.0, np.inf]),
        "tensor": torch.ones(2, 3, requires_grad=True).T,
        "half": torch.full((2,), 1.5, dtype=torch.bfloat16),
    }
    return Payload(arrays, {"losses": (0.1, float("nan"), np.float32(0.1)), "name": "ä<b>"})


def same(one, two):
    assert one.meta == two.meta
    assert list(one.arrays) == list(two.arrays)
    for name, value in one.arrays.items():
        other = two.arrays[name]
        assert type(value) is type(other)
        assert value.dtype == other.dtype
        assert value.shape == other.shape
        left, right = torch.as_tensor(value), torch.as_tensor(other)
        assert (
            left.numpy(force=True).tobytes() == right.numpy(force=True).tobytes()
            if left.dtype != torch.bfloat16
            else True
        )
        assert torch.equal(left.nan_to_num(), right.nan_to_num())


def never():
    raise AssertionError("computed again")


@pytest.mark.parametrize("make", [opened, lambda _: MemoryRun()], ids=["directory", "memory"])
def test_a_unit_is_computed_once_and_comes_back_the_same(tmp_path, make):
    with make(tmp_path / "run") as run:
        fresh = run.unit("a", {"k": 1}, example)
        same(fresh, run.unit("a", {"k": 1}, never))
        assert run.unit("a", {"k": 2}, lambda: Payload(meta={"x": 1})).meta == {"x": 1}
        assert run.unit("b", {"k": 1}, lambda: Payload(meta={"x": 2})).meta == {"x": 2}
    assert fresh.meta == {"losses": [0.1, None, float(np.float32(0.1))], "name": "ä<b>"}


def test_a_reopened_run_reads_its_units(tmp_path):
    with opened(tmp_path) as run:
        fresh = run.unit("a", {"k": (1, 2)}, example)
    with opened(tmp_path) as run, warnings.catch_warnings():
        warnings.simplefilter("error")
        same(fresh, run.unit("a", {"k": [1, 2]}, never))


def test_what_comes_back_does_not_alias_what_was_computed(tmp_path):
    array = np.zeros(3)
    with opened(tmp_path) as run:
        kept = run.unit("a", {}, lambda: Payload({"x": array})).arrays["x"]
    array[:] = 1
    assert not kept.any()


def test_text_arrays_are_refused(tmp_path):
    with opened(tmp_path) as run:
        for bad in (np.array(["a"]), np.array([None]), [1.0], np.ones(2, complex)):
            with pytest.raises(StoreError):
                run.unit("a", {}, lambda bad=bad: Payload({"x": bad}))
        assert not list(run.units.iterdir())


def _files(path):
    return next(path.glob("units/*.safetensors")), next(path.glob("units/*.json"))


def flip(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def edit(file):
    record = json.loads(file.read_text())
    record["meta"]["name"] = "other"
    file.write_text(json.dumps(record))


DAMAGE = {
    "truncated tensors": lambda tensors, record: tensors.write_bytes(tensors.read_bytes()[:-9]),
    "empty tensors": lambda tensors, record: tensors.write_bytes(b""),
    "flipped bit": lambda tensors, record: flip(tensors),
    "missing tensors": lambda tensors, record: tensors.unlink(),
    "truncated record": lambda tensors, record: record.write_bytes(record.read_bytes()[:40]),
    "empty record": lambda tensors, record: record.write_bytes(b""),
    "changed record": lambda tensors, record: edit(record),
    "other record": lambda tensors, record: record.write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_unit_is_computed_again_with_a_warning(tmp_path, damage):
    with opened(tmp_path) as run:
        fresh = run.unit("fits", {"k": 1}, example)
    damage(*_files(tmp_path))
    with opened(tmp_path) as run:
        with pytest.warns(StoreWarning, match="unit of 'fits'.*computed again"):
            same(fresh, run.unit("fits", {"k": 1}, example))
        same(fresh, run.unit("fits", {"k": 1}, never))


def test_a_unit_without_its_record_is_not_finished(tmp_path):
    with opened(tmp_path) as run:
        run.unit("fits", {"k": 1}, example)
    _files(tmp_path)[1].unlink()
    with opened(tmp_path) as run:
        same(run.unit("fits", {"k": 1}, example), run.unit("fits", {"k": 1}, never))


def test_other_settings_or_another_workload_are_refused_and_named(tmp_path):
    opened(tmp_path).close()
    with pytest.raises(StoreError, match=r"`seeds` is 3 there and 5 here.*another directory.*overwrite=True"):
        opened(tmp_path, settings={"seeds": 5})
    with pytest.raises(StoreError, match="`budget` is not set there and 2 here"):
        opened(tmp_path, settings={"seeds": 3, "budget": 2})
    with pytest.raises(StoreError, match=r"the workload .* is another one"):
        opened(tmp_path, fingerprint="g")
    with pytest.raises(StoreError, match=r"begun by an earlier version, .*it is not known whether.*overwrite=True"):
        opened(tmp_path, fingerprint="2-f")
    opened(tmp_path).close()  # and a refusal left nothing locked


def test_overwrite_replaces_the_run_and_only_the_run(tmp_path):
    with opened(tmp_path) as run:
        run.unit("a", {}, lambda: Payload(meta={"x": 1}))
        run.write_result({"x": float("nan")})
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "units" / "mine.json").write_text("mine")
    with opened(tmp_path, settings={"seeds": 5}, overwrite=True) as run:
        assert not run.result_path.exists()
        assert run.unit("a", {}, lambda: Payload(meta={"x": 2})).meta == {"x": 2}
    assert (tmp_path / "notes.txt").read_text() == (tmp_path / "units" / "mine.json").read_text() == "mine"


def test_files_of_others_are_not_written_over(tmp_path):
    (tmp_path / "result.json").write_text("mine")
    with pytest.raises(StoreError, match=r"has result.json but no manifest.json"):
        opened(tmp_path)
    assert (tmp_path / "result.json").read_text() == "mine"


def test_units_without_a_manifest_are_a_damaged_run(tmp_path):
    with opened(tmp_path) as run:
        run.unit("a", {}, lambda: Payload())
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(StoreError, match="has units but no manifest"):
        opened(tmp_path)
    opened(tmp_path, overwrite=True).close()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1}'])
def test_a_damaged_manifest_is_named(tmp_path, content):
    opened(tmp_path).close()
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match=r"manifest.json.*another directory.*overwrite=True \(--overwrite\)") as caught:
        opened(tmp_path)
    assert "Delete" not in str(caught.value)
    with opened(tmp_path, overwrite=True) as run:
        run.unit("a", {}, lambda: Payload(meta={"x": 1}))
    with opened(tmp_path) as run:
        assert run.unit("a", {}, never).meta == {"x": 1}


def test_a_directory_with_files_of_others_is_mentioned_once(tmp_path):
    for name in ("a.txt", "b.txt", "c.txt", "d.txt", ".hidden"):
        (tmp_path / name).write_text("mine")
    with pytest.warns(StoreWarning, match=r"'a.txt', 'b.txt', 'c.txt' and 1 more") as caught:
        opened(tmp_path).close()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(tmp_path).close()
        opened(tmp_path / "empty").close()


@pytest.mark.parametrize("out", ["", "  "])
def test_an_empty_path_is_refused(out):
    with pytest.raises(SettingError, match=r"`out`.*empty"):
        open_run(out, fingerprint="f", settings={})


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_places_where_no_directory_can_be():
    with pytest.raises(StoreError, match=r"cannot be created.*Choose another directory"):
        opened("/proc/coterie-run")


def test_a_newer_format_is_refused(tmp_path):
    opened(tmp_path).close()
    manifest = read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(StoreError, match="format 99"):
        opened(tmp_path)


def test_other_versions_are_warned_about(tmp_path, monkeypatch):
    opened(tmp_path).close()
    monkeypatch.setattr(manifest_module, "versions", lambda: {"coterie": "x", "torch": "99"})
    with pytest.warns(StoreWarning, match="torch .* -> 99"):
        opened(tmp_path).close()


def test_the_manifest_says_what_the_run_is_about(tmp_path):
    opened(tmp_path, settings={"seeds": 3, "ridge": float("nan")}).close()
    manifest = read_manifest(tmp_path)
    assert manifest["fingerprint"] == "f"
    assert manifest["settings"] == {"seeds": 3, "ridge": None}
    assert {"python", "torch", "numpy", "coterie"} <= manifest["created"]["versions"].keys()


def test_leftovers_of_a_killed_process_are_cleaned(tmp_path):
    opened(tmp_path).close()
    for place in (tmp_path, tmp_path / "units"):
        (place / ".coterie-77-0.tmp").write_bytes(b"half")
    opened(tmp_path).close()
    assert not list(tmp_path.rglob("*.tmp"))


def test_paths_that_cannot_be_runs(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file"):
        opened(tmp_path / "file")
    with pytest.raises(StoreError, match="is a file"):
        opened(tmp_path / "file" / "run")
    with pytest.raises(StoreError, match="found nothing there"):
        opened(tmp_path / "nowhere", create=False)
    with pytest.raises(StoreError, match="holds no run"):
        opened(tmp_path, create=False)
    with pytest.raises(StoreError, match="found a file there"):
        read_manifest(tmp_path / "file")


def test_a_read_only_directory_is_said_so(tmp_path, monkeypatch):
    real = os.open

    def refuse(path, flags, *rest, **more):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match="read-only"):
        opened(tmp_path / "run")


def test_no_space_is_said_before_the_disk_is_full(tmp_path, monkeypatch):
    import shutil

    with opened(tmp_path) as run:
        run.unit("a", {}, lambda: Payload(meta={"x": 1}))
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
        with pytest.raises(StoreError, match="no space left"):
            run.unit("b", {}, example)
        assert run.unit("a", {}, never).meta == {"x": 1}


def test_a_failing_computation_leaves_nothing(tmp_path):
    with opened(tmp_path) as run:
        with pytest.raises(ZeroDivisionError):
            run.unit("a", {}, lambda: 1 / 0)
        assert not list(run.units.iterdir())


def test_open_run_without_a_path_is_in_memory():
    with open_run(None, fingerprint="f", settings={}) as run:
        assert isinstance(run, MemoryRun)
        run.write_result({"x": float("nan")})
        assert run.result == {"x": None}
        assert run.path is None
