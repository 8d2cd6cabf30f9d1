"""SIGTERM, by which schedulers and launchers end a process: training stops after its step, what it has learned is kept."""

from __future__ import annotations

import os
import pkgutil
import re
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

import kronsgd.cli.fitting as fitting
import kronsgd.training.loop as loop
from helpers.cli import FILES, call
from kronsgd import load
from kronsgd.cli.app import app
from kronsgd.training import checkpoints_in, stopping_at
from kronsgd.training.interrupt import deferred_interrupt

OPTIONS = ["--set", "n_hidden=32", "--set", "max_iter=50", "--set", "batch_size=4", "--set", "engine=scan", "--quiet"]


@pytest.fixture
def told(monkeypatch):
    """Run `train` and send it SIGTERM in some of its steps: what comes out."""

    def run(steps, *args):
        original, count = loop.train_step, [0]

        def step(*args, **kwargs):
            count[0] += 1
            for _ in range(steps.count(count[0])):
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(loop, "train_step", step)
            return CliRunner().invoke(app, ["train", *map(str, args)])

    return run


def test_the_model_is_kept_and_the_exit_code_says_why(own, told):
    folder, flags = own
    before = signal.getsignal(signal.SIGTERM)
    result = told((3,), *flags, *OPTIONS, "--seeds", 2, "--out", folder / "run")
    assert result.exit_code == 143
    assert f"warning: training was ended by SIGTERM; the model so far was kept in {folder / 'run'}.\n" in result.stderr
    assert {path.name for path in (folder / "run").iterdir()} == FILES  # no second network
    model = load(folder / "run/model.kron")
    assert (model.stop_reason_.name, model.n_iter_) == ("INTERRUPTED", 0)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_checkpoint_of_that_step_is_gone_on_from_to_the_same_bytes(own, told):
    folder, flags = own
    call("train", *flags, *OPTIONS, "--out", folder / "whole")
    command = [*flags, *OPTIONS, "--checkpoint-every", "2 h", "--resume", "--out", folder / "run"]
    for last, sent in ((3, (3,)), (10, (7,)), (24, (14, 14))):  # a second signal changes nothing
        result = told(sent, *command)
        assert result.exit_code == 143
        assert "Go on with --resume." in result.stderr
        assert checkpoints_in(folder / "run/checkpoints/seed-0")[0].name == f"step-{last:012d}"
    call("train", *command)
    assert (folder / "run/model.kron").read_bytes() == (folder / "whole/model.kron").read_bytes()
    assert not (folder / "run/checkpoints").exists()


@pytest.mark.parametrize("where", ["kronsgd.cli.fitting.predict_rows", "kronsgd.cli.training._write"])
def test_what_comes_after_training_does_not_keep_it_from_being_written(where, own, monkeypatch):
    folder, flags = own
    work = pkgutil.resolve_name(where)

    def told_to_end(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return work(*args)

    monkeypatch.setattr(where, told_to_end)
    call("train", *flags, *OPTIONS, "--set", "max_iter=2", "--out", folder / "run")
    assert load(folder / "run/model.kron").stop_reason_.name == "MAX_ITER"


def test_between_two_networks_no_further_one_is_begun(own, monkeypatch):
    folder, flags = own
    predict = fitting.predict_rows

    def told_to_end(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return predict(*args)

    monkeypatch.setattr(fitting, "predict_rows", told_to_end)
    args = [*flags, *OPTIONS, "--set", "max_iter=2", "--seeds", 2, "--checkpoint-every", "2 h", "--out", folder / "run"]
    result = CliRunner().invoke(app, ["train", *map(str, args)])
    assert result.exit_code == 143
    assert load(folder / "run/model.kron").stop_reason_.name == "MAX_ITER"
    assert not (folder / "run/model-2.kron").exists()
    monkeypatch.setattr(fitting, "predict_rows", predict)
    call("train", *args, "--resume")
    call("train", *args[:-4], "--out", folder / "whole")
    for name in ("model.kron", "model-2.kron"):
        assert (folder / "run" / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_handlers_are_what_they_were():
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with stopping_at(signal.SIGTERM, signal.SIGINT) as come:
        with deferred_interrupt() as interrupted:
            assert not interrupted()
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert interrupted()
        signal.raise_signal(signal.SIGINT)  # no KeyboardInterrupt
    assert come == {signal.SIGTERM, signal.SIGINT}
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before
    with deferred_interrupt() as interrupted:
        assert not interrupted()


# Over ranks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ranks(own):
    """(folder, arguments, how to start them on two ranks) of a training of 360 steps; no checkpoint is due in folder/run."""
    pytest.importorskip("torch.distributed")
    folder, flags = own
    args = ["train", *flags, *OPTIONS, "--set", "max_iter=60", "--set", "tol=0", "--set", "n_iter_no_change=60"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "kronsgd"]
    command += [*args, "--checkpoint-every", "2 h", "--resume", "--out", folder / "run"]

    def start():
        environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment)

    return folder, args, start


def ended(start, folder, end):
    """Start a training, end it when all ranks have begun, and wait: (exit code, standard error, step of the checkpoint)."""
    process, checkpoints = start(), folder / "run/checkpoints/seed-0"
    deadline = time.monotonic() + 120
    while not (checkpoints / ".lock").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    end(process)
    _, errors = process.communicate(timeout=60)
    (saved,) = checkpoints_in(checkpoints)
    return process.returncode, errors, int(saved.name.split("-")[1])


def workers(process):
    """The process ids of what torchrun has started, by rank."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    return sorted(map(int, children.stdout.split()))


def test_torchrun_is_ended_and_all_ranks_stop_with_one_checkpoint(ranks):
    folder, args, start = ranks
    code, errors, step = ended(start, folder, lambda process: process.terminate())
    assert code != 0  # torchrun's own, 1
    assert errors.count("training was ended by SIGTERM; the model so far was kept") == 1, errors
    assert "SIGKILL" not in errors
    assert "error" not in [line.split()[0] for line in errors.splitlines() if line]
    assert 0 < step < 360
    assert load(folder / "run/model.kron").stop_reason_.name == "INTERRUPTED"
    process = start()
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    call(*args, "--out", folder / "whole")
    assert (folder / "run/model.kron").read_bytes() == (folder / "whole/model.kron").read_bytes()


def test_one_rank_is_ended_and_all_stop_with_one_checkpoint(ranks):
    folder, _, start = ranks
    code, errors, step = ended(start, folder, lambda process: os.kill(workers(process)[1], signal.SIGTERM))
    assert code != 0
    assert errors.count("training was ended by SIGTERM; the model so far was kept") == 1, errors
    codes = re.findall(r"exitcode *: (-?\d+)", errors)
    assert "143" in codes  # torchrun ends the other as soon as it sees that
    assert set(codes) <= {"143", "-15"}, errors
    assert 0 < step < 360
    assert load(folder / "run/model.kron").stop_reason_.name == "INTERRUPTED"
