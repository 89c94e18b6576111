"""The demo for real: on its data the answer is yes."""

import json

import pytest
from typer.testing import CliRunner

from coterie.cli.app import app


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::coterie.errors.CoterieWarning")
def test_the_demo_ends_in_a_yes(tmp_path):
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo"), "--json"])
    assert done.exit_code == 0, done.stderr
    advice = json.loads(done.stdout)["recommendation"]
    assert advice["verdict"] == "yes"
    assert advice["models"] == 2
