"""House rules that a linter does not know: sizes, one-way imports, nothing left to do, and what the house measures."""

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "coterie"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [path.relative_to(PACKAGE).as_posix() for path in FILES]

#: a room may import the rooms before it, never those after it
ORDER = (
    "workload",
    "datasets",
    "balancing",
    "training",
    "features",
    "affinity",
    "grouping",
    "evaluation",
    "store",
    "serving",
    "report",
    "pipeline",
    "cli",
    "study",
    "truth",
    "diffusion",
    "adapters",
    "benchmark",
)
#: what any room may import
COMMON = {
    "errors",
    "executors",
    "_bars",
    "_context",
    "_check",
    "_executor",
    "_files",
    "_json",
    "_lazy",
    "_progress",
    "_random",
    "_read",
    "_sealed",
    "_show",
    "_spawn",
    "_surface",
    "_process_lock",
    "_units",
    "_worker",
}
#: imports against the order, each with its reason
ALLOWED = {
    ("workload/load.py", "datasets"): "the names of the built-in workloads are looked up when asked for",
}
MAX_FILE, MAX_FUNCTION = 500, 50
#: measure of scripts/house.py -> how many offenders there may be; these numbers only go down
LIMITS = {
    "functions with more than 8 parameters": 0,
    "functions that carry 3 or more of seed, memory, store, progress, executor": 0,
    "circles of imports": 0,
    "class names defined twice": 0,
    "imports of extension rooms by core rooms": 0,
    "files over 500 lines": 0,
    "functions over 50 lines": 0,
}
#: most names that all rooms together list in ``__all__``; goes down, or up with a reason
MOST_PUBLIC_NAMES = 180
#: most files and functions that the main job on four tasks executes; meant to come down to 90 and 600. 20 functions
#: more than before since recipes have schedules, clipping, averages and weights, each of which is asked for once
MAIN_JOB = (96, 850)


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(function):
    """Lines of the body without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def room(name):
    return name.removesuffix(".py").split("/")[0]


def imports(tree):
    """The rooms of coterie that a module imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= set(names) if node.module == "coterie" else {node.module}
    return {name.split(".")[1] for name in found if name.startswith("coterie.")}


def violations(name, source):
    """Imports of `name` that go against the order."""
    own = room(name)
    if own in COMMON or own in ("__init__", "__main__"):
        return set()
    allowed = COMMON | {other for file, other in ALLOWED if file == name} | {own}
    before = set(ORDER[: ORDER.index(own)])
    if own == "workload":
        before = set()
    return imports(ast.parse(source)) - allowed - before


def test_there_is_something_to_check():
    assert len(FILES) > 10


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_file_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE, f"{path.name} has more than {MAX_FILE} lines"
    long = [f"{f.name} ({length(f)} lines)" for f in functions(ast.parse(text)) if length(f) > MAX_FUNCTION]
    assert not long, f"functions over {MAX_FUNCTION} lines: {long}"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_nothing_is_left_to_do(path):
    words = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"))
    found = re.findall(rf"\b(?:{words})\b", path.read_text(encoding="utf-8"))
    assert not found


@pytest.mark.parametrize(("path", "name"), list(zip(FILES, NAMES, strict=True)), ids=NAMES)
def test_imports_go_one_way(path, name):
    assert room(name) in {*ORDER, *COMMON, "__init__", "__main__"}, f"{name} is in no known room; add it to ORDER"
    assert not violations(name, path.read_text(encoding="utf-8"))


def test_the_check_of_imports_can_fail():
    assert violations("training/loop.py", "from coterie.affinity.affinity import Affinity") == {"affinity"}
    assert violations("training/loop.py", "def f():\n    import coterie.report.html") == {"report"}
    assert violations("training/loop.py", "from coterie import cli") == {"cli"}
    assert violations("workload/task.py", "from coterie.datasets import load") == {"datasets"}
    assert not violations("cli/run.py", "from coterie.workload import Task\nfrom coterie.errors import CoterieError")
    assert not violations("workload/load.py", "from coterie.datasets import load")


def test_the_check_of_lengths_can_fail():
    source = "def f():\n" + '    """Text."""\n' + "    x = 1\n" * 60
    assert length(functions(ast.parse(source))[0]) == 60


@pytest.fixture(scope="module")
def house():
    """The script that measures the house, as a module."""
    spec = importlib.util.spec_from_file_location("house", ROOT / "scripts" / "house.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("measure", LIMITS)
def test_the_house_keeps_its_measures(house, measure):
    assert set(LIMITS) == set(house.LISTS)
    found = house.LISTS[measure](house.sources())
    assert len(found) <= LIMITS[measure], "\n".join(found)


def test_the_public_names_are_few_and_in_the_reference(house):
    listed = house.public_names()
    assert sum(map(len, listed.values())) <= MOST_PUBLIC_NAMES
    reference = set(
        re.findall(
            r"^\.\. (?:auto|py:)\w+:: (coterie[\w.]+)$", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.M
        )
    )
    missing = [
        f"{room}.{name}" for room, names in listed.items() for name in names if not stands(room, name, reference)
    ]
    assert not missing, f"docs/api.md lacks {missing}"


def stands(room, name, reference):
    """Whether the reference has a public name, as itself, at the top level, or with the errors."""
    value = getattr(importlib.import_module(room), name)
    top = importlib.import_module("coterie")
    return (
        f"{room}.{name}" in reference
        or (f"coterie.{name}" in reference and getattr(top, name, None) is value)
        or getattr(value, "__module__", "") in reference
    )


def test_the_check_of_public_names_can_fail():
    assert stands("coterie.affinity", "Affinity", {"coterie.Affinity"})
    assert stands("coterie.store", "open_run", {"coterie.store.open_run"})
    assert stands("coterie", "SettingError", {"coterie.errors"})
    assert not stands("coterie.grouping", "METHODS", {"coterie.affinity.METHODS"})
    assert not stands("coterie.serving", "load", {"coterie.load_workload", "coterie.adapters.load"})


@pytest.mark.slow
def test_the_main_job_goes_through_few_files_and_functions(house):
    files, functions_ = house.main_job()
    assert (files, functions_) > (50, 300)
    assert files <= MAIN_JOB[0]
    assert functions_ <= MAIN_JOB[1]


def unknown_places(text):
    """Places, ``file.py`` or ``file.py:name`` between backticks, that a page names and that are not there."""
    found = []
    for path, name in re.findall(r"`([\w/]+\.py)(?::([\w.]+))?`", text):
        files = [base / path for base in (PACKAGE, PACKAGE / "affinity/scores", ROOT) if (base / path).is_file()]
        source = files[0].read_text(encoding="utf-8") if files else ""
        missing = [part for part in name.split(".") if not re.search(rf"^ *(?:def |class )?{part}\b", source, re.M)]
        found += [f"{path}:{name}"] if missing or not files else []
    return found


def test_the_page_for_contributors_names_what_there_is():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert text.count(".py:") > 30
    assert not unknown_places(text)
    assert unknown_places("`cli/run.py:walk` and `cli/run.py:run` and `walk.py`") == ["cli/run.py:walk", "walk.py:"]


def test_the_measures_of_the_house_can_fail(house):
    eight = ", ".join(f"p{i}: int" for i in range(8))
    files = {
        "training/a.py": f"from coterie.training.b import f\n\ndef g({eight}, seed, memory, store): ...\nclass A: ...",
        "training/b.py": "from coterie.training import a\nclass A: ...\ndef f():\n    import coterie.diffusion.page\n",
        "cli/run.py": f"def run({eight}, seed, memory, store): ...",
        "graph/command.py": f"def graph({eight}, seed, memory, store): ...",
    }
    found = {measure: len(list_offenders(files)) for measure, list_offenders in house.LISTS.items()}
    assert list(found.values()) == [1, 1, 1, 1, 1, 0, 0]
    long = {"a.py": "def f():\n" + "    x = 1\n" * 501}
    assert house.long_files(long)
    assert house.long_functions(long)
