"""The program around its verbs: help, streams, exit codes. The pipeline is a stand-in."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import coterie as package
from coterie import _bars
from coterie._bars import Bars
from coterie.cli.options import parse_size, run_directory
from coterie.errors import DataWarning, MissingDependencyError, SettingError
from reference.command_line import coterie

VERBS = ("demo", "run", "affinity", "group", "compare", "benchmark", "study", "diffusion", "report", "plan")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1]), "COLUMNS": "100"}
RESULT = {
    "coterie": "0",
    "workload": {"name": "w", "tasks": [{"name": "a", "kind": "binary"}, {"name": "b", "kind": "binary"}]},
    "recommendation": {"text": "Train one model: do not bother.", "candidate": "all-in-one", "do_not_bother": True},
    "seconds": float("nan"),
}


class FakePipeline(SimpleNamespace):
    """Remembers how it was called."""

    def __init__(self, effect=None):
        super().__init__(effect=effect or (lambda: None), calls=[])

    def run(self, workload, **options):
        self.calls.append((workload, options))
        self.effect()
        options["progress"]("features", 1, 2)
        path = Path(options["out"])
        return SimpleNamespace(path=path, report=path / "report.html", to_dict=lambda: dict(RESULT))

    def plan(self, workload, **options):
        self.calls.append((workload, options))
        row = {"stage": "features", "what": "forward mode", "why": "14 tasks", "memory_bytes": 2**30, "flops": 1e12}
        return {"rows": [{**row, "seconds": 90.0, "disk_bytes": None}], "notes": ["nothing is on a GPU"]}


@pytest.fixture
def pipeline(monkeypatch):
    def install(effect=None):
        fake = FakePipeline(effect)
        monkeypatch.setitem(sys.modules, "coterie.pipeline", fake)
        monkeypatch.setattr(package, "pipeline", fake, raising=False)
        return fake

    return install


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_has_an_example(verb):
    result = coterie(verb, "--help")
    assert result.exit_code == 0
    assert f"Example: coterie {verb}" in " ".join(result.stdout.split())


def test_help_is_instant_and_imports_nothing_heavy():
    code = (
        "import sys\ntry:\n from coterie.cli import main\n main()\n"
        "finally:\n print(sorted({'torch', 'numpy', 'cvxpy'} & sys.modules.keys()))"
    )
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert time.perf_counter() - begin < 5  # about 0.3 s on an idle machine
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(verb in done.stdout for verb in VERBS)


def test_verbs_of_extensions_are_imported_when_they_are_called():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom coterie.cli.app import app\n"
        "for verb in ('run', 'benchmark'):\n"
        " assert CliRunner().invoke(app, [verb, '--help']).exit_code == 0\n"
        " print(sorted({'coterie.benchmark', 'coterie.diffusion', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout.splitlines() == ["[]", "['coterie.benchmark']"]


def test_a_verb_that_is_mistyped_is_guessed():
    result = coterie("benchmrak")
    assert result.exit_code == 2
    assert "Did you mean 'benchmark'?" in " ".join(result.stderr.split())


def test_version():
    result = coterie("--version")
    assert (result.exit_code, result.stdout) == (0, f"coterie {package.__version__}\n")


def test_run_passes_its_options_on(pipeline, tmp_path):
    fake = pipeline()
    result = coterie(
        *("run", "yeast", "--groups", 3, "--budget", 4, "--seeds", 2, "--method", "grad-tag", "--bases", 2),
        *("--memory", "2GiB", "--out", tmp_path, "--seed", 7, "--overwrite"),
        *("--worthwhile", 0.02),
    )
    assert result.exit_code == 0, result.stderr
    workload, options = fake.calls[0]
    del options["progress"]
    assert workload == "yeast"
    assert options == {
        "method": "grad-tag", "groups": 3, "budget": 4, "seeds": 2, "bases": 2, "out": tmp_path,
        "memory": 2**31, "seed": 7, "overwrite": True, "executor": None, "worthwhile": 0.02,
    }  # fmt: skip
    assert "do not bother" in result.stdout
    assert str(tmp_path / "report.html") in "".join(result.stdout.split())


def test_defaults_of_run(pipeline):
    fake = pipeline()
    assert coterie("run", "data/own.py:make").exit_code == 0
    options = fake.calls[0][1]
    assert (options["out"], options["memory"], options["seeds"]) == (Path("runs/own-make"), 2**30, 5)
    assert options["overwrite"] is False
    assert "bases" not in options


def test_json_is_one_object_whatever_else_is_printed(pipeline, tmp_path):
    def chatter():
        print("from the user's file")
        warnings.warn("a rare class", DataWarning, stacklevel=1)
        with warnings.catch_warnings(record=True):  # makes Python forget what it has said
            warnings.simplefilter("always")
        warnings.warn("a rare class", DataWarning, stacklevel=1)
        warnings.warn("not ours", UserWarning, stacklevel=1)

    pipeline(chatter)
    result = coterie("run", "yeast", "--out", tmp_path, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["recommendation"]["do_not_bother"] is True
    assert found["seconds"] is None
    assert found["report"] == str(tmp_path / "report.html")
    assert "from the user's file" in result.stderr
    assert result.stderr.count("Warning: a rare class") == 1
    assert "not ours" not in result.stderr
    assert "a rare class" not in coterie("run", "yeast", "--out", tmp_path, "--json", "--quiet").stderr
    assert "not ours" in coterie("run", "yeast", "--out", tmp_path, "--debug").stderr


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (SettingError("Parameter `k`:\n  too\x1b[31m large."), 1, r"Error: Parameter `k`: too\x1b[31m large."),
        (FileNotFoundError(2, "No such file or directory", "x.csv"), 1, "'x.csv': No such file"),
        (ValueError("odd"), 1, "unexpected ValueError: odd"),
        (MemoryError(), 1, "--memory"),
        (KeyboardInterrupt(), 130, "Interrupted"),
    ],
)
def test_errors_are_one_paragraph_without_a_traceback(pipeline, error, code, words):
    pipeline(lambda: _raise(error))
    for flags in ((), ("--json",), ("--quiet",)):
        result = coterie("run", "yeast", *flags)
        assert result.exit_code == code
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
        assert result.stdout == ""
        assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(pipeline):
    pipeline(lambda: _raise(SettingError("bad")))
    result = coterie("run", "yeast", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "_raise" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("run", "yeast", "--seeds", "0"),
        ("run", "yeast", "--memory", "much"),
        ("affinity", "yeast", "--order", "x"),
    ],
)
def test_usage_errors(arguments):
    result = coterie(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_unknown_workloads_get_a_suggestion(monkeypatch):
    for verb in ("compare", "run", "affinity", "plan"):
        result = coterie(verb, "yaest", "--json")
        assert result.exit_code == 1
        assert "Did you mean 'yeast'?" in " ".join(result.stderr.split())
        assert result.stdout == ""


class Told:
    text = "Do not bother."
    comparison = None


def test_demo_has_data_where_groups_pay_and_a_line_where_they_do_not(pipeline, monkeypatch, tmp_path):
    import coterie.workload as room
    from coterie import evaluation

    fake = pipeline()
    asked = []

    def compare(workload, candidates, **options):
        asked.append((workload, candidates))
        return Told

    monkeypatch.setattr(room, "load_workload", lambda name: name)
    monkeypatch.setattr(evaluation, "compare", compare)
    monkeypatch.setattr(evaluation, "recommend", lambda comparison: Told)
    result = coterie("demo", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    workload, options = fake.calls[0]
    assert workload.name == "marks"
    assert workload.n_tasks == 7
    assert options["out"] == tmp_path
    assert asked == [("yeast", {})]
    assert "report.html" in "".join(result.stdout.split())
    assert result.stdout.splitlines()[-1].endswith("Do not bother.")
    asked.clear()
    json.loads(coterie("demo", "--out", tmp_path, "--json").stdout)
    assert not asked


def test_demo_says_what_its_second_line_needs(pipeline, monkeypatch, tmp_path):
    import coterie.workload as room

    def load(name):
        raise MissingDependencyError(name)

    pipeline()
    monkeypatch.setattr(room, "load_workload", load)
    result = coterie("demo", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "coterie[data]" in result.stdout.splitlines()[-1]


def test_plan(pipeline):
    pipeline()
    result = coterie("plan", "yeast", "--json")
    assert json.loads(result.stdout)["rows"][0]["stage"] == "features"
    table = coterie("plan", "yeast").stdout
    assert all(word in table for word in ("features: 14 tasks", "forward", "1 GiB", "90 s", "nothing is on a GPU"))


def test_a_plan_that_cannot_be_is_one_paragraph(pipeline):
    fake = pipeline()
    fake.plan = lambda *_, **__: _raise(SettingError("Parameter `groups` should be at most 3. Found 99."))
    result = coterie("plan", "yeast", "--groups", 99, "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Found 99" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="pipes end differently on Windows")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_closed_pipe_ends_without_a_word(tmp_path, flags):
    (tmp_path / "A.csv").write_text("a,b,c\n0,1,2\n1,0,3\n2,3,0\n")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "coterie.cli", "group", "-a", str(tmp_path / "A.csv"), "-k", "2", *flags]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=100)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_report_writes_the_page_again(tmp_path):
    from coterie.store import RunDirectory

    assert coterie("report", tmp_path / "nowhere").exit_code == 1
    assert "holds no run" in coterie("report", tmp_path).stderr
    with RunDirectory(tmp_path, fingerprint="f", settings={}) as run:
        assert "no file" in " ".join(coterie("report", tmp_path).stderr.split())
        run.write_result(RESULT)
    result = coterie("report", tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    page = tmp_path / "report.html"
    assert json.loads(result.stdout) == {"report": str(page)}
    assert "do not bother" in page.read_text()
    refused = coterie("report", tmp_path, "--out", tmp_path / "nodir" / "x.html")
    assert refused.exit_code == 1
    assert "Cannot write" in refused.stderr
    assert "its directory does not exist" in " ".join(refused.stderr.split())
    assert not (tmp_path / "nodir").exists()
    assert coterie("report", tmp_path, "--out", tmp_path / "other.html").stdout == f"{tmp_path / 'other.html'}\n"


def test_progress_is_for_terminals_only():
    for terminal, visible, shown in ((True, True, True), (False, True, False), (True, False, False)):
        console = Console(force_terminal=terminal, width=80, record=True, file=StringIO())
        with Bars(console, visible=visible) as bars:
            bars("features [1]", 0, 3)
            bars("features [1]", 3, 3)
        told = console.export_text()
        assert ("features [1]" in told) == ("left" in told) == shown


def test_progress_in_a_notebook_is_one_line(monkeypatch):
    lines = []

    class Handle:
        def update(self, data, raw):
            lines.append((data["text/plain"], raw))

    monkeypatch.setattr(_bars, "notebook_display", lambda: lambda data, raw, display_id: Handle())
    monkeypatch.setattr(_bars.time, "monotonic", iter(range(100)).__next__)
    with _bars.following(True) as tell:
        tell("search", 0, 4)
        tell("search", 1, 4)
        tell("search", 4, 4)
    assert lines == [(text, True) for text in ("search: 0 of 4", "search: 1 of 4, 3 s left", "search: 4 of 4", "")]


def test_no_progress_where_nobody_looks(capfd):
    with _bars.following(True) as tell:
        tell("search", 1, 4)
    told = []
    with _bars.following(lambda *said: told.append(said)) as tell, _bars.following(None) as nobody:
        tell("search", 1, 4)
        nobody("search", 1, 4)
    assert told == [("search", 1, 4)]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "size"), [("2GiB", 2**31), ("500MB", 500_000_000), ("1.5 g", 1_500_000_000), ("2097152", 2**21)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "1 PB", "12", "nan", "1e9"])
def test_bad_sizes(text):
    with pytest.raises(ValueError, match="no size"):
        parse_size(text)


def test_run_directories_stay_where_they_are():
    assert run_directory("../../etc/own.py:make") == Path("runs/own-make")
    assert run_directory("..") == Path("runs/run")
    assert run_directory("C:\\data\\own.py") == Path("runs/own")


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_control_c_ends_with_130(tmp_path):
    file = tmp_path / "slow.py"
    file.write_text("import time\nprint('started', flush=True)\ntime.sleep(60)\n")
    command = [sys.executable, "-m", "coterie.cli", "compare", f"{file}:workload"]
    # tests that were started in the background ignore the signal, and a child inherits that
    default = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, preexec_fn=default
    )
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output == ""
    assert errors.startswith("Interrupted.")
