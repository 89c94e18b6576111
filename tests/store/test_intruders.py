"""Directories that move, links and pipes that somebody planted, files that stand under other names."""

import json
import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from coterie._files import atomic_write, read_bytes
from coterie._units import Payload, drop_shards
from coterie.errors import StoreError, StoreWarning
from coterie.store import RunDirectory
from coterie.store.files import read_json

WORK = "ten years of work\n"


def opened(path, fingerprint="f", **options):
    return RunDirectory(path, fingerprint=fingerprint, settings={}, **options)


def square(run, number):
    return run.unit("square", {"of": number}, lambda: Payload(meta={"value": number**2})).meta["value"]


def fingerprint_of(path):
    return read_json(path / "manifest.json")["fingerprint"]


def move(path):
    path.rename(path.with_name("old"))


def move_parent(path):
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.mkdir()


def swap_link(path):
    path.rename(path.with_name("old"))
    path.with_name("other").mkdir()
    path.symlink_to(path.with_name("other"))


@pytest.mark.parametrize("change", [move, move_parent, swap_link])
@pytest.mark.parametrize("again", [False, True])
def test_nothing_is_written_into_what_took_the_place_of_a_run(tmp_path, change, again):
    path = tmp_path / "runs" / "mine"
    with opened(path) as first:
        square(first, 2)
        (inode,) = {path.stat().st_ino}
        change(path)
        if again:
            opened(path, "g").close()
        with pytest.raises(StoreError, match=r"was moved, deleted or replaced.*nothing was written"):
            first.write_result({"of": "f"})
        with pytest.raises(StoreError, match="was moved"):
            square(first, 3)
    (kept,) = (p for p in tmp_path.rglob("*") if p.is_dir() and p.stat().st_ino == inode)
    assert read_json(kept / "result.json") == {"of": "f"}
    assert len(list((kept / "units").iterdir())) == 1
    if again:
        assert fingerprint_of(path) == "g"
        assert not (path / "result.json").exists()
        assert not list((path / "units").iterdir())


def test_a_unit_that_was_computed_while_the_run_moved_is_kept(tmp_path):
    path = tmp_path / "mine"

    def compute():
        move(path)
        return Payload(meta={"value": 1})

    with opened(path) as run, pytest.raises(StoreError, match="was moved"):
        run.unit("slow", {}, compute)
    with opened(tmp_path / "old") as run:
        assert run.unit("slow", {}, lambda: pytest.fail("was lost")).meta == {"value": 1}


def test_a_deleted_directory_is_said_so(tmp_path):
    with opened(tmp_path / "mine") as run:
        shutil.rmtree(tmp_path / "mine")
        with pytest.raises(StoreError, match="does not exist"):
            run.write_result({})
        with pytest.raises(StoreError, match="was moved, deleted"):
            square(run, 2)
    assert not (tmp_path / "mine").exists()


def test_a_deleted_working_directory(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for call in (lambda: opened("mine"), lambda: atomic_write("x", b""), lambda: read_json("x")):
        with pytest.raises(StoreError, match=r"deleted|does not exist|There is no file"):
            call()


PLANTED = (
    "manifest.json", "result.json", "report.html", "affinity.csv", "groups.json", "groups.json.partial",
    ".report.html.PID.tmp", ".coterie-1-1.tmp", "comparison.safetensors", "serve.json",
)  # fmt: skip


@pytest.mark.parametrize("kind", [os.symlink, os.link])
@pytest.mark.parametrize("name", PLANTED)
def test_planted_links_are_never_written_through(tmp_path, name, kind):
    victim, run = tmp_path / "thesis.txt", tmp_path / "run"
    victim.write_text(WORK)
    run.mkdir()
    kind(victim, run / name.replace("PID", str(os.getpid())))
    with opened(run, overwrite=True) as mine:
        mine.write_result({})
        mine.write("affinity.csv", b"x")
        atomic_write(run / name, b"mine")
    assert (run / name).read_bytes() == b"mine"
    assert not (run / name).is_symlink()
    assert victim.read_text() == WORK


@pytest.mark.parametrize(("kind", "words"), [(os.symlink, "a link stands there"), (os.link, "hard link.*cp -a`")])
def test_a_planted_lock_is_refused(tmp_path, kind, words):
    victim, run = tmp_path / "thesis.txt", tmp_path / "run"
    victim.write_text(WORK)
    run.mkdir()
    kind(victim, run / ".lock")
    with pytest.raises(StoreError, match=words):
        opened(run)
    assert victim.read_text() == WORK


def copy_with_links(source, target):
    shutil.copytree(source, target, copy_function=os.link)  # as `cp -al` does


def test_a_run_copied_as_hard_links_goes_on_without_its_lock_and_leaves_the_original_alone(tmp_path):
    path, copy = tmp_path / "mine", tmp_path / "copy"
    with opened(path) as run:
        square(run, 2)
        run.write_result({"of": 2})
    copy_with_links(path, copy)
    with pytest.raises(StoreError, match=r"another name elsewhere.*delete this file if it is a lock"):
        opened(copy)
    (copy / ".lock").unlink()
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with opened(copy) as run:
        assert square(run, 2) == 4
        square(run, 3)
        run.write_result({"of": 3})
    assert before == {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("folder", ["units", "shards"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_planted_folders_are_refused_and_what_is_behind_them_is_left_alone(tmp_path, folder, overwrite):
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    opened(run).close()
    (run / "units").rmdir()
    elsewhere.mkdir()
    names = [f"{'0' * 64}.json", f"{'0' * 64}-00000.safetensors", ".coterie-1-1.tmp"]
    for name in names:
        (elsewhere / name).write_text(WORK)
    (run / folder).symlink_to(elsewhere)
    with pytest.raises(StoreError, match=f"{folder}.*a link stands there"):
        opened(run, overwrite=overwrite)
    drop_shards(run / folder)
    assert sorted(p.name for p in elsewhere.iterdir()) == sorted(names)


def make_socket(path):
    socket.socket(socket.AF_UNIX).bind(str(path.relative_to(Path.cwd())))  # names of sockets are short


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.mkdir(), make_socket])
def test_what_is_no_file_is_neither_read_nor_written_nor_waited_for(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for name in ("x", "run/.lock", "run/manifest.json"):
        make(tmp_path / name)
    start = time.monotonic()
    for call in (
        lambda: read_bytes(tmp_path / "x"),
        lambda: atomic_write(tmp_path / "x", b"new"),
        lambda: opened(tmp_path / "run"),
    ):
        with pytest.raises(StoreError, match=r"a directory|a pipe or a device|Cannot (read|write)"):
            call()
    lock = tmp_path / "run" / ".lock"
    (lock.rmdir if lock.is_dir() else lock.unlink)()
    with pytest.raises(StoreError):
        opened(tmp_path / "run")
    assert time.monotonic() - start < 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "x"]


def test_devices_stay_what_they_are():
    with pytest.raises(StoreError, match="a pipe or a device stands there"):
        atomic_write("/dev/null", b"x")
    with pytest.raises(StoreError, match="a pipe or a device"):
        read_bytes("/dev/zero")


def test_names_that_no_file_system_has(tmp_path):
    for call in (lambda: atomic_write("a\0b", b""), lambda: read_bytes("a\0b"), lambda: opened("a\0b")):
        with pytest.raises(StoreError, match="null"):
            call()
    for call in (lambda: atomic_write(tmp_path / ("a" * 300), b""), lambda: read_bytes(tmp_path / ("a" * 300))):
        with pytest.raises(StoreError, match="too long"):
            call()


def swap(one, two):
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def test_a_unit_is_what_its_name_says(tmp_path):
    with opened(tmp_path) as run:
        assert [square(run, k) for k in (1, 2)] == [1, 4]
    swap(*sorted((tmp_path / "units").glob("*.json")))
    with opened(tmp_path) as run, pytest.warns(StoreWarning, match="another unit than the name"):
        assert [square(run, k) for k in (1, 2)] == [1, 4]


def test_a_unit_of_another_run_is_not_taken_over(tmp_path):
    for name, value in (("a", 1), ("b", 2)):
        with opened(tmp_path / name, name) as run:
            run.unit("value", {}, lambda value=value: Payload(meta={"value": value}))
    (mine,), (theirs,) = ((tmp_path / name / "units").glob("*.json") for name in "ab")
    mine.write_bytes(theirs.read_bytes())
    with opened(tmp_path / "a", "a") as run, pytest.warns(StoreWarning, match="another unit"):
        assert run.unit("value", {}, lambda: Payload(meta={"value": 1})).meta == {"value": 1}


def test_a_unit_whose_name_was_changed_inside_is_not_taken(tmp_path):
    with opened(tmp_path) as run:
        square(run, 3)
    (path,) = (tmp_path / "units").glob("*.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "key": {"of": 4}}))
    with opened(tmp_path) as run, pytest.warns(StoreWarning, match="checksum"):
        assert square(run, 3) == 9


def test_old_temporaries_beside_a_file_are_cleaned_and_only_those(tmp_path):
    ours, young, theirs = ".coterie-1-0123456789abcdef.tmp", ".coterie-2-0123456789abcdef.tmp", "notes.tmp"
    for name in (ours, young, theirs):
        (tmp_path / name).write_text("half")
        if name != young:
            os.utime(tmp_path / name, (0, 0))
    atomic_write(tmp_path / "x", b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([young, theirs, "x"])
