"""The examples run at their small size, without any data."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SICK = Path(__file__).parents[1] / "examples" / "sick.py"


def run(tmp_path, *flags):
    outside = {name: value for name, value in os.environ.items() if name != "KRONSGD_DATA"}
    command = [sys.executable, str(SICK), *flags]
    return subprocess.run(command, cwd=tmp_path, env=outside, capture_output=True, text=True, check=False)


def test_sick_on_made_up_sentences(tmp_path):
    result = run(tmp_path, "--quick")
    assert result.returncode == 0, result.stderr
    assert "sick is not there, so the sentences are made up." in result.stdout
    pearson = {name: float(value) for name, value in re.findall(r"(ridge|SVR|kronsgd).*Pearson (\S+)", result.stdout)}
    assert pearson["kronsgd"] > 0.9
    assert pearson["kronsgd"] > pearson["ridge"]
    assert (tmp_path / "sick.png").read_bytes().startswith(b"\x89PNG")


def test_sick_says_what_is_missing(tmp_path):
    result = run(tmp_path)
    assert result.returncode != 0
    assert result.stderr == "data/sick is not there: set KRONSGD_DATA to the folder that holds sick/, or try --quick.\n"
