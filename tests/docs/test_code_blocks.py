"""Every Python block of README.md and docs/*.md is run, page by page; so are the console blocks that are marked.

The blocks of one page share a namespace and run in an empty folder. Two comments steer, invisible on the page:

* ``<!-- setup`` ... ``-->``: Python that runs at this place without being shown (makes a file that the text assumes);
* ``<!-- run -->`` or ``<!-- run exit=2 -->``: the commands (lines starting with ``$ coterie``) of the next console
  block are run and must end with this exit code (0 if none is given).
"""

import re
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^(?P<ticks>```+)(?P<language>[\w{}:.-]*)[^\n]*\n(?P<body>.*?)^(?P=ticks)[ \t]*$", re.MULTILINE | re.DOTALL
)
COMMENT = re.compile(r"<!--(?P<comment>.*?)-->", re.DOTALL)
LANGUAGES = {"python", "console", "text", "json", "toml", "{math}", "{eval-rst}", "{toctree}", "{note}", "{warning}"}
RUN = re.compile(r"\s*run(?:\s+exit=(\d+))?\s*")


@dataclass(frozen=True)
class Step:
    """Something that a page does: Python code, or commands with the exit code that they should have."""

    kind: str
    text: str
    line: int
    code: int = 0


def steps(text):
    """What a page does, in the order of the page."""
    found = []
    position, marked = 0, None
    while True:
        fence, comment = FENCE.search(text, position), COMMENT.search(text, position)
        match = min((m for m in (fence, comment) if m), key=lambda m: m.start(), default=None)
        if match is None:
            return found
        line = text.count("\n", 0, match.start()) + 1
        if match is comment:
            body = match["comment"]
            run = RUN.fullmatch(body)
            if run:
                marked = int(run[1] or 0)
            elif body.lstrip().startswith("setup\n"):
                found.append(Step("python", body.split("setup\n", 1)[1], line + 1))
        else:
            if match["language"] == "python":
                found.append(Step("python", match["body"], line + 1))
            elif match["language"] == "console" and marked is not None:
                found.append(Step("console", match["body"], line + 1, marked))
            marked = None
        position = match.end()


def commands(body):
    """The command lines of a console block, continuation lines joined; shown output is dropped."""
    joined = re.sub(r"\s*\\\n\s*", " ", body)
    return [line[2:].strip() for line in joined.splitlines() if line.startswith("$ coterie")]


def run_page(name, text, scripts=None):
    """Do what a page says; its commands are run by `scripts` in the current folder."""
    namespace = {"__name__": "__page__"}
    for step in steps(text):
        if step.kind == "python":
            code = compile("\n" * (step.line - 1) + step.text, name, "exec")
            exec(code, namespace)  # noqa: S102
            continue
        wanted = commands(step.text)
        assert wanted, f"{name}:{step.line}: the block is marked to be run but has no line that starts with '$ coterie'"
        for command in wanted:
            done = scripts.command(*shlex.split(command, comments=True)[1:], cwd=Path.cwd())
            told = f"{name}:{step.line}: {command}\nexit code {done.code}\n{done.text('stdout')}\n{done.text('stderr')}"
            assert done.code == step.code, told
            assert "Traceback" not in done.text("stderr"), told


@pytest.mark.parametrize("page", [p for p in PAGES if steps(p.read_text(encoding="utf-8"))], ids=lambda p: p.name)
def test_page_runs(page, tmp_path, monkeypatch, scripts):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        run_page(page.name, page.read_text(encoding="utf-8"), scripts)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_fence_says_its_language(page):
    """A fence without a language would be neither run nor noticed."""
    text = page.read_text(encoding="utf-8")
    bare = [text.count("\n", 0, m.start()) + 1 for m in FENCE.finditer(text) if not m["language"]]
    assert not bare, f"{page.name}: fences without a language in lines {bare}"
    odd = {m["language"] for m in FENCE.finditer(text)} - LANGUAGES
    assert not odd, f"{page.name}: unexpected languages {odd}; Python must be marked `python` to be run"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_local_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    local = [link for link in links if not link.startswith(("http://", "https://", "mailto:"))]
    missing = [link for link in local if not (page.parent / link).exists()]
    assert not missing


def test_the_reader_finds_blocks():
    page = (
        "<!-- setup\nx = 1\n-->\n```python\ny = x + 1\n```\n```text\nno\n```\n"
        "<!-- run exit=2 -->\n```console\n$ coterie group \\\n    --bad\nError\n$ ls\n```\n"
        "```console\n$ coterie demo\n```\n"
    )
    first, second, third = steps(page)
    assert (first.kind, first.text, first.line) == ("python", "x = 1\n", 2)
    assert (second.text, second.line) == ("y = x + 1\n", 5)
    assert (third.kind, third.code, commands(third.text)) == ("console", 2, ["coterie group --bad"])


def test_a_broken_block_is_noticed():
    with pytest.raises(ZeroDivisionError):
        run_page("page.md", "```python\nx = 1\n```\n\n```python\nx / 0\n```\n")


def test_unmarked_command_blocks_are_not_run():
    run_page("page.md", "```console\n$ coterie --no-such-option\n```\n")
