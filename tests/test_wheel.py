"""The wheel holds the whole package."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "check_wheel.py"


@pytest.fixture
def script():
    """The script that checks wheels, as a module."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("check_wheel", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.slow
def test_wheel_is_complete(tmp_path, script):
    wheel = script.build(tmp_path)
    assert script.problems(wheel) == []


@pytest.mark.slow
def test_a_missing_file_is_noticed(tmp_path, script):
    import zipfile

    wheel = script.build(tmp_path)
    thin = tmp_path / "thin.whl"
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(thin, "w") as target:
        for name in source.namelist():
            if name not in ("coterie/errors.py", "coterie/py.typed"):
                target.writestr(name, source.read(name))
    assert script.problems(thin)[:2] == ["missing: coterie/errors.py", "missing: coterie/py.typed"]
