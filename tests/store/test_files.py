import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from coterie._sealed import pack, unpack
from coterie._units import Payload
from coterie.errors import StoreError, StoreWarning
from coterie.store import RunDirectory
from coterie.store.arrays import read_pair, sealed_pair
from coterie.store.files import (
    atomic_write,
    canonical,
    digest,
    read_json,
    remove_temporary,
    to_plain,
    write_json,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_json_on_disk_is_what_to_plain_says(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "x.json"
    write_json(path, value)
    assert repr(read_json(path)) == repr(to_plain(value))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_finite_floats_come_back_bit_by_bit(value):
    assert repr(json.loads(canonical({"x": value}))["x"]) == repr(value)


def test_numpy_values_and_non_finite_numbers_become_plain():
    value = {
        "a": np.float32(0.1),
        "b": np.array([1.0, math.nan, math.inf]),
        "c": (np.int64(2), np.bool_(True)),
        3: {"z", "a"},
    }
    assert to_plain(value) == {"a": float(np.float32(0.1)), "b": [1.0, None, None], "c": [2, True], "3": ["a", "z"]}


def test_what_is_no_json_is_refused():
    with pytest.raises(StoreError, match="object cannot be written"):
        to_plain({"a": object()})


def test_digest_does_not_depend_on_the_order_of_keys_but_on_values():
    assert digest({"a": 1, "b": [2.5]}) == digest({"b": [2.5], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({"a": 0.1}) != digest({"a": np.float32(0.1)})


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "x"
    atomic_write(path, b"old")

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StoreError, match="no space left for 3 bytes"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_an_interrupted_write_leaves_no_rubbish(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "x", b"new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "read-only"),
        (errno.EACCES, "read-only"),
        (errno.ENOSPC, "no space"),
        (errno.EIO, "the system said"),
    ],
)
def test_refusals_of_the_system_are_explained(tmp_path, monkeypatch, number, words):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match=words):
        atomic_write(tmp_path / "x", b"new")


def test_paths_below_files_and_missing_directories(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="a part of this path is a file"):
        atomic_write(tmp_path / "file" / "x", b"")
    with pytest.raises(StoreError, match="does not exist"):
        atomic_write(tmp_path / "nowhere" / "x", b"")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1}{', b"[" * 100_000])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(StoreError, match="not valid JSON"):
        read_json(tmp_path / "x.json")


NO_JSON = ["NaN", "Infinity", "-Infinity", "1e999", "-1E400"]


@pytest.mark.parametrize("number", NO_JSON)
def test_numbers_that_json_does_not_have_are_refused(tmp_path, number):
    (tmp_path / "x.json").write_text('{"a": [1, ' + number + "]}")
    with pytest.raises(StoreError, match=f"{number} is no JSON|{number} is beyond"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"a": [1, 1.7976931348623157e308]}')
    assert read_json(tmp_path / "x.json") == {"a": [1, 1.7976931348623157e308]}


@pytest.mark.parametrize("number", NO_JSON)
def test_checksums_tell_null_from_what_is_written_as_null(tmp_path, number):
    with RunDirectory(tmp_path / "run", fingerprint="f", settings={}) as run:
        run.unit("u", {}, lambda: Payload(meta={"value": None}))
        (path,) = run.units.glob("*.json")
        path.write_text(path.read_text().replace("null", number, 1))
        with pytest.warns(StoreWarning, match="damaged"):
            assert run.unit("u", {}, lambda: Payload(meta={"value": "again"})).meta == {"value": "again"}

    data = pack("k", {"value": None}, {"a": torch.ones(2)})
    head = data[8 : 8 + int.from_bytes(data[:8], "little")].replace(b"null", number.encode())
    with pytest.raises(StoreError, match="damaged"):
        unpack("k", len(head).to_bytes(8, "little") + head + data[-8:], "x")

    names = ("x.json", "x.safetensors")
    for name, content in sealed_pair(names, {"format": 2, "value": None}, {"a": torch.ones(2)}).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / names[0]).write_text((tmp_path / names[0]).read_text().replace("null", number))
    with pytest.raises(StoreError, match="not valid JSON"):
        read_pair(tmp_path, names, 2)


def test_missing_json(tmp_path):
    with pytest.raises(StoreError, match="There is no file"):
        read_json(tmp_path / "x.json")
    with pytest.raises(StoreError, match="Cannot read"):
        read_json(tmp_path)


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    (tmp_path / ".coterie-1-2.tmp").write_text("x")
    (tmp_path / "own.tmp").write_text("x")
    assert remove_temporary(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["own.tmp"]


def test_lone_surrogates_survive(tmp_path):
    name = os.fsdecode(b"\xff")
    write_json(tmp_path / "x.json", {name: name})
    assert read_json(Path(tmp_path) / "x.json") == {name: name}
