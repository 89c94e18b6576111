"""Texts on terminals of other encodings, names that would steer a terminal, and Ctrl-C pressed twice."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import coterie as package
from coterie._bars import shown
from coterie.cli.app import app
from coterie.cli.streams import plain_letter
from coterie.store import RunDirectory

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1]), "COLUMNS": "100"}
#: a minus sign, Greek, a letter outside Latin, a box character, half of a surrogate pair
NAMES = ("\u2212a", "\u03bb\u00e9", "\u65e5\u672c", "\u2502x", "\udcffy")


def coterie(*arguments, charset="utf-8"):
    return CliRunner(charset=charset).invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "A.csv"
    lines = [",".join(("target", *NAMES[:4])), *(f"{name},0,.1,-.2,.3" for name in NAMES[:4])]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run"
    with RunDirectory(path, fingerprint="f", settings={}) as made:
        made.write_result({"recommendation": {"text": "Train \u2212 one."}})
    return path


@pytest.mark.parametrize("charset", ["ascii", "cp1252", "latin-1", "cp437", "koi8-r", "shift_jis", "utf-8"])
def test_every_encoding_takes_every_text(table, run, charset, tmp_path):
    for arguments in (
        ("group", "--affinity", table, "--groups", 2),
        ("group", "--affinity", table, "--groups", 2, "--json"),
        ("report", run),
        ("report", run, "--out", tmp_path / "\u2212\u03bb.html"),
        ("group", "--affinity", tmp_path / NAMES[4]),
        ("group", "--affinity", table, "--budget", 2, "--costs", tmp_path / NAMES[2]),
        ("--help",),
        ("run", "--help"),
        ("group", NAMES[2], f"--{NAMES[1]}"),
        (NAMES[3],),
    ):
        done = coterie(*arguments, charset=charset)
        assert done.exception is None or isinstance(done.exception, SystemExit), (arguments, done.exception)
        assert done.exit_code == (1 if "--affinity" in arguments and "--groups" not in arguments else done.exit_code)
        assert "unexpected" not in done.output


def test_what_an_encoding_lacks_is_readable(table):
    text = coterie("group", "--affinity", table, "--groups", 2, charset="ascii").output
    for part in ("-a", "lambda\\xe9", "\\u65e5\\u672c", "|x"):
        assert part in text
    found = json.loads(coterie("group", "--affinity", table, "--groups", 2, "--json", charset="ascii").stdout)
    assert sorted(found["serves"]) == sorted(NAMES[:4])
    assert [plain_letter(c) for c in "\u2026\u2192\u0394\u256d\u2588"] == ["...", "->", "Delta", "+", "#"]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii:strict"])
def test_the_program_itself_on_a_redirect(run, encoding):
    done = subprocess.run(
        [sys.executable, "-m", "coterie.cli", "report", str(run), "--out", str(run / "\u03bb\u2212.html")],
        env={**ENVIRONMENT, "PYTHONIOENCODING": encoding}, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(b"lambda-.html")


STEERING = "\x1b[31m", "\x9b2J", "\x07", "\u202e", "\x1b]0;title\x07"


@pytest.mark.parametrize("steering", STEERING)
def test_nothing_in_a_name_or_a_path_steers_the_terminal(tmp_path, run, table, steering):
    bad = tmp_path / f"x{steering}y"
    for arguments in (
        ("group", "--affinity", bad),
        ("group", "--affinity", table, "--groups", 2, "--out", bad),
        ("report", bad),
        ("report", run, "--out", bad),
        ("run", f"{bad}.py:workload"),
        ("diffusion", "--config", bad),
        ("compare", "digits", "--grouping", bad),
        (f"x{steering}y",),
        ("run", f"--x{steering}y"),
        ("group", "--affinity", table, "--groups", f"x{steering}y"),
        ("group", "--affinity", table, "--singletons", f"x{steering}y", "--budget", 2),
    ):
        done = coterie(*arguments)
        assert not set(re.sub(r"\x1b\[[0-9;]*m", "", done.output.replace(bad.name, "SENT"))) & set("\x1b\x9b\x07\u202e")
        assert "SENT" not in done.output.replace(bad.name, "SENT"), arguments


def test_escapes_are_shown():
    assert shown("a\x1b[0m\n\u202e\udcff b") == "a\\x1b[0m\\n\\u202e\\udcff b"


@pytest.mark.parametrize(
    "arguments", [("report", "run"), ("group", "--affinity", "/A.csv"), ("run", "w.py"), ("demo",)]
)
def test_a_deleted_working_directory_is_said(tmp_path, monkeypatch, arguments):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    done = coterie(*arguments)
    assert done.exit_code == 1
    assert "working directory, which was deleted" in " ".join(done.output.split())


SLOW = """
import sys, time
try:
    print("ready", file=sys.stderr, flush=True)  # from here on an interruption meets the pause below
    time.sleep(60)
finally:
    time.sleep(PAUSE)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(("pause", "signals"), [(0.0, 1), (30.0, 2), (30.0, 3)])
def test_ctrl_c_leaves_no_traceback_however_often_it_is_pressed(tmp_path, pause, signals):
    (tmp_path / "slow.py").write_text(SLOW.replace("PAUSE", str(pause)))
    # tests that were started in the background ignore the signal, and a child inherits that
    default = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    process = subprocess.Popen(
        [sys.executable, "-m", "coterie.cli", "run", "slow.py", "--out", "out"],
        cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=default,
    )  # fmt: skip
    assert process.stderr.readline() == "ready\n"
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    out, errors = process.communicate(timeout=60)
    # a third one may meet a program that has closed its handlers already; shells call both 130
    assert process.returncode in (130, *([-signal.SIGINT] if signals == 3 else []))
    assert "Traceback" not in errors
    assert "nterrupted" in errors
    assert out == ""
