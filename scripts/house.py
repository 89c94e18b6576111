"""Measure the house: how wide, how long, how tangled the source is. Prints each measure and, with --list, who offends.

``python scripts/house.py`` reads the source as text; ``--job`` also runs the main job on four tasks and counts the
files and functions that it executes. ``tests/test_house.py`` holds the measures to their limits.
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import io
import sys
import threading
import tokenize
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "coterie"
#: rooms that stand on the core; no core room may import them
EXTENSIONS = ("text", "graph", "diffusion", "adapters", "benchmark")
#: the top verbs keep their keyword arguments: they are what users type
VERBS = (
    "run",
    "create_study",
    "compare",
    "estimate_affinity",
    "estimate_from_checkpoints",
    "add_task",
    "plan",
    "benchmark",
    "group",
    "validate_gradients",
    "from_arrays",
    "from_dataset",
    "from_datasets",
    "from_loaders",
    "from_text",
    "from_causal",
    "from_graph",
    "validate_gradients",
)
#: what orchestration hands on, and would be one object
CARRIED = {"seed", "memory", "store", "progress", "executor"}
MAX_PARAMETERS, MAX_CARRIED, MAX_FILE, MAX_FUNCTION = 8, 2, 500, 50

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(root: Path = SOURCE) -> dict[str, str]:
    """Path below the package -> text, for every module."""
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))}


#: syntax tree of a text; every measure wants that of every file
parse = functools.cache(ast.parse)


@functools.cache
def nodes(text: str) -> list[ast.AST]:
    """Every node of the syntax tree of a text."""
    return list(ast.walk(parse(text)))


def functions(text: str) -> Iterator[Function]:
    """Every function of a module, nested ones and methods included."""
    return (node for node in nodes(text) if isinstance(node, Function))


def parameters(function: Function) -> set[str]:
    """Names of a function's parameters without `self`, `cls`, `*args` and `**kwargs`."""
    given = function.args
    return {argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)} - {"self", "cls"}


def body_length(function: Function) -> int:
    """Lines of a function's body without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def is_command(name: str) -> bool:
    """Whether a module holds commands of the program, whose parameters are what users type."""
    return name.startswith("cli/") or name.endswith(("/command.py", "_command.py"))


def inner_functions(files: dict[str, str]) -> Iterator[tuple[str, Function]]:
    """``file:line name`` and function, without the top verbs and the commands, which may have many parameters."""
    for name, text in files.items():
        for function in () if is_command(name) else functions(text):
            if function.name not in VERBS:
                yield f"{name}:{function.lineno} {function.name}", function


def wide_functions(files: dict[str, str]) -> list[str]:
    """Functions with more than eight parameters; the top verbs and the commands of the program may have more."""
    return [
        f"{place} ({len(parameters(f))} parameters)"
        for place, f in inner_functions(files)
        if len(parameters(f)) > MAX_PARAMETERS
    ]


def carriers(files: dict[str, str]) -> list[str]:
    """Functions that carry three or more of seed, memory, store, progress, executor; the top verbs may."""
    return [
        f"{place} ({', '.join(sorted(parameters(f) & CARRIED))})"
        for place, f in inner_functions(files)
        if len(parameters(f) & CARRIED) > MAX_CARRIED
    ]


def long_functions(files: dict[str, str]) -> list[str]:
    """Functions of more than fifty lines without their docstring."""
    return [
        f"{name}:{f.lineno} {f.name} ({body_length(f)} lines)"
        for name, text in files.items()
        for f in functions(text)
        if body_length(f) > MAX_FUNCTION
    ]


def long_files(files: dict[str, str]) -> list[str]:
    """Files of more than five hundred lines."""
    return [f"{name} ({text.count(chr(10))} lines)" for name, text in files.items() if text.count("\n") > MAX_FILE]


def twice_named_classes(files: dict[str, str]) -> list[str]:
    """Class names that are defined in more than one place."""
    where: dict[str, list[str]] = defaultdict(list)
    for name, text in files.items():
        for node in nodes(text):
            if isinstance(node, ast.ClassDef):
                where[node.name].append(f"{name}:{node.lineno}")
    return [f"{name}: {', '.join(places)}" for name, places in sorted(where.items()) if len(places) > 1]


def import_graph(files: dict[str, str]) -> dict[str, set[str]]:
    """Module -> modules of the package that are imported while it is imported."""
    modules = {module_name(name): text for name, text in files.items()}
    graph: dict[str, set[str]] = {}
    for module, text in modules.items():
        targets = {target for node in _at_import(parse(text)) for target in _targets(node, modules)}
        graph[module] = targets - {module}
    return graph


def module_name(path: str) -> str:
    """``affinity/linear.py`` -> ``coterie.affinity.linear``."""
    return ".".join(("coterie", *path.removesuffix(".py").split("/"))).removesuffix(".__init__")


def _at_import(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run when the module is imported: not those in functions or below TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not isinstance(node, Function | ast.Lambda):
            yield from _at_import(node)


def _targets(node: ast.Import | ast.ImportFrom, modules: dict[str, str]) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names if alias.name in modules}
    if not node.module or node.module.split(".")[0] != "coterie":
        return set()
    names = {f"{node.module}.{alias.name}" for alias in node.names}
    inside = names & set(modules)
    return inside | ({node.module} if inside != names and node.module in modules else set())


def import_circles(files: dict[str, str]) -> list[str]:
    """Groups of modules that import each other while they are imported (strongly connected components)."""
    graph = import_graph(files)
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[str] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for target in sorted(graph[module]):
            if target not in order:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], order[target])
        if low[module] == order[module]:
            component = [stack.pop()]
            while component[-1] != module:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(" -> ".join(sorted(component)))

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return found


def core_imports_of_extensions(files: dict[str, str]) -> list[str]:
    """Imports of an extension room by a core room, wherever in the module they stand."""
    found: list[str] = []
    for name, text in files.items():
        room = name.removesuffix(".py").split("/")[0]
        if room in (*EXTENSIONS, "__init__"):
            continue
        for node in nodes(text):
            targets = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            targets += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            if isinstance(node, ast.ImportFrom) and node.module == "coterie":
                targets += [f"coterie.{alias.name}" for alias in node.names]
            hits = {t for t in targets if t.startswith("coterie.") and t.split(".")[1] in EXTENSIONS}
            found += [f"{name}:{getattr(node, 'lineno', 0)} {hit}" for hit in sorted(hits)]
    return found


def code_lines(text: str) -> int:
    """Lines that hold code: no docstrings, comments, blank lines, imports."""
    skipped: set[int] = set()
    for node in nodes(text):
        if isinstance(node, ast.Import | ast.ImportFrom):
            skipped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        holder = isinstance(node, ast.Module | ast.ClassDef | Function)
        if holder and node.body and isinstance(node.body[0], ast.Expr) and ast.get_docstring(node, clean=False):
            skipped |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            held |= set(range(token.start[0], token.end[0] + 1))
    return len(held - skipped)


def this_copy() -> None:
    """Make sure that what is imported is the package that is measured, and not another copy that is installed."""
    sys.path.insert(0, str(SOURCE.parent))
    import coterie

    if Path(coterie.__file__).parent != SOURCE:
        raise SystemExit(f"{coterie.__file__} was imported, not {SOURCE}. Set PYTHONPATH to {SOURCE.parent}.")


def public_names() -> dict[str, list[str]]:
    """Room -> the names that it lists in ``__all__``."""
    import importlib

    this_copy()
    rooms = sorted(path.parent for path in SOURCE.rglob("__init__.py"))
    found: dict[str, list[str]] = {}
    for room in rooms:
        name = module_name(f"{room.relative_to(SOURCE.parent).as_posix()}/__init__.py").replace(
            "coterie.coterie", "coterie"
        )
        found[name] = list(getattr(importlib.import_module(name), "__all__", []))
    return {name: listed for name, listed in found.items() if listed}


def main_job() -> tuple[int, int]:
    """Files and functions of the package that the main job on four tasks executes, in all threads.

    What runs while modules are imported does not count: bodies of classes, and decorators.
    """
    this_copy()
    import numpy as np

    import coterie
    import coterie.pipeline
    import coterie.serving.saved

    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 8))
    y = (x[:, [0, 0, 1, 1]] + rng.normal(size=(240, 4)) > 0).astype(float)
    seen: set[tuple[str, str, int]] = set()
    package = str(SOURCE)

    def look(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        inside = code.co_filename.startswith(package) and code.co_flags & inspect.CO_OPTIMIZED  # no body of a class
        if event == "call" and inside:
            seen.add((code.co_filename, code.co_qualname, code.co_firstlineno))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threading.setprofile(look)
        sys.setprofile(look)
        try:
            recipe = coterie.Recipe(epochs=2, check_every=2)
            coterie.run(coterie.from_arrays(x, y, recipe=recipe, hidden=(8,)), groups=2, seeds=2, bases=1)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    named = {entry for entry in seen if not entry[1].rsplit(".", 1)[-1].startswith("<")}
    return len({file for file, _, _ in named}), len(named)


#: measure -> what lists its offenders
LISTS: dict[str, Callable[[dict[str, str]], list[str]]] = {
    "functions with more than 8 parameters": wide_functions,
    "functions that carry 3 or more of seed, memory, store, progress, executor": carriers,
    "circles of imports": import_circles,
    "class names defined twice": twice_named_classes,
    "imports of extension rooms by core rooms": core_imports_of_extensions,
    "files over 500 lines": long_files,
    "functions over 50 lines": long_functions,
}


def main() -> None:
    """Print the measures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="name the offenders of each measure")
    parser.add_argument("--job", action="store_true", help="run the main job and count what it executes")
    arguments = parser.parse_args()
    files = sources()
    for title, offenders in LISTS.items():
        found = offenders(files)
        print(f"{len(found):6}  {title}")
        if arguments.list:
            print("".join(f"          {line}\n" for line in found), end="")
    print(f"{len(files):6}  files")
    print(f"{sum(map(code_lines, files.values())):6}  lines of code")
    print(f"{sum(map(len, public_names().values())):6}  public names")
    if arguments.job:
        job_files, job_functions = main_job()
        print(f"{job_files:6}  files that the main job executes")
        print(f"{job_functions:6}  functions that it executes")


if __name__ == "__main__":
    main()
