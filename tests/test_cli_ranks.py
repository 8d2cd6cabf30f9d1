"""`torchrun ... -m kronsgd train`: several processes write what one process writes, and only the first one speaks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from helpers.cli import SMALL, call, mistake

FILES = ("model.kron", "model-2.kron", "predictions.csv", "config.toml", "tables.json")


def python(*args, **env):
    command = [sys.executable, "-m", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ, **env}, check=False)


def over_ranks(size, *args):
    return python("torch.distributed.run", "--standalone", f"--nproc-per-node={size}", "-m", "kronsgd", *args)


def test_two_processes_write_the_files_of_one(own):
    folder, flags = own
    args = ["train", *flags, "--test", folder / "test.csv", *SMALL, "--set", "engine=scan", "--seeds", "2"]
    call(*args, "--out", folder / "alone", "--quiet")
    done = over_ranks(2, *args, "--out", folder / "ranks")
    assert done.returncode == 0, done.stderr
    for name in FILES:
        assert (folder / "ranks" / name).read_bytes() == (folder / "alone" / name).read_bytes(), name
    assert done.stdout.count("training rows") == 1
    assert "scan, neurons over 2 processes" in " ".join(done.stdout.split())
    assert "rank 1" not in done.stderr


def test_a_folder_in_use_is_refused_before_anything_starts(own):
    folder, flags = own
    (folder / "full").mkdir()
    (folder / "full/notes.txt").write_text("mine")
    done = over_ranks(2, "train", *flags, *SMALL, "--out", folder / "full")
    assert done.returncode != 0
    assert "is not empty" in done.stderr
    assert os.listdir(folder / "full") == ["notes.txt"]


def test_one_of_several_processes_that_cannot_find_the_others(own, monkeypatch):
    folder, flags = own
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    said = mistake("train", *flags, *SMALL, "--out", folder / "out")
    assert "RANK and MASTER_ADDR and MASTER_PORT are not set; start the processes with torchrun" in said


@pytest.mark.parametrize(("name", "value"), [("MASTER_ADDR", "no-such-host.invalid"), ("MASTER_PORT", "none")])
def test_a_wrong_address_is_named_at_once(own, name, value):
    folder, flags = own
    known = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", name: value}
    done = python("kronsgd", "train", *flags, *SMALL, "--out", folder / "out", **known)
    assert done.returncode == 2
    assert done.stderr.startswith("error (rank 1): rank 1 could not join the others at")
    assert value in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_only_the_first_process_does_what_is_not_training(own, run):
    folder, _ = own
    done = over_ranks(2, "predict", run, "--pairs", folder / "test.csv", "--out", folder / "p.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written") == 1
