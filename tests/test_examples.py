"""Every example runs with --quick, says what it did, and leaves a picture."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith("_"))
SIGNATURES = {".png": b"\x89PNG", ".svg": b"<?xml"}

pytestmark = pytest.mark.skipif(not EXAMPLES, reason="the examples do not lie beside the tests")


def test_there_are_examples():
    names = {"recommender", "fusion", "feature_learning", "crosses", "affinity", "digits", "mnist", "sick"}
    assert names <= {path.stem for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path):
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, str(path), "--quick"], cwd=tmp_path, env=environment, capture_output=True,
                           text=True, timeout=120, check=False)  # fmt: skip
    if ended.returncode and "KRONSGD_DATA" in ended.stderr:
        pytest.skip("this example needs a published set, and KRONSGD_DATA does not name its folder")
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"\d\.\d", ended.stdout), "the summary holds no number"
    named = re.findall(r"(\S+\.(?:png|svg))\b", ended.stdout)
    assert named, ended.stdout
    for picture in (tmp_path / name for name in named):
        assert picture.read_bytes().startswith(SIGNATURES[picture.suffix])
        assert picture.stat().st_size > 2000


@pytest.mark.parametrize("name", ["recommender", "affinity"])
def test_a_wrong_folder_is_one_line(name, tmp_path):
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--data", "nowhere"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert re.fullmatch(r"error: nowhere is not a folder; .*\.\n", ended.stderr)


def run_without_data(tmp_path, *flags):
    outside = {name: value for name, value in os.environ.items() if name != "KRONSGD_DATA"}
    command = [sys.executable, str(FOLDER / "sick.py"), *flags]
    return subprocess.run(command, cwd=tmp_path, env=outside, capture_output=True, text=True, timeout=120, check=False)


def test_sick_on_made_up_sentences(tmp_path):
    result = run_without_data(tmp_path, "--quick")
    assert result.returncode == 0, result.stderr
    assert "sick is not there, so the sentences are made up." in result.stdout
    pearson = {name: float(value) for name, value in re.findall(r"(ridge|SVR|kronsgd).*Pearson (\S+)", result.stdout)}
    assert pearson["kronsgd"] > max(0.9, pearson["ridge"])


def test_sick_says_what_is_missing(tmp_path):
    result = run_without_data(tmp_path)
    assert result.returncode != 0
    assert result.stderr == "data/sick is not there: set KRONSGD_DATA to the folder that holds sick/, or try --quick.\n"
