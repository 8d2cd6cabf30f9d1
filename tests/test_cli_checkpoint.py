"""`kronsgd train --checkpoint-every … --resume`: a run that is ended goes on to the same files."""

from __future__ import annotations

import json

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from helpers.cli import FILES, call, mistake
from kronsgd.cli.app import app
from kronsgd.cli.keeping import Keeping
from kronsgd.planner import Plan
from kronsgd.training import checkpoint, checkpoints_in

OPTIONS = ["--set", "n_hidden=32", "--set", "max_iter=3", "--set", "batch_size=4", "--quiet"]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def ended(monkeypatch):
    """Run a command and end it after so many checkpoints."""

    def run(n_saves, *args):
        save, count = checkpoint.Keeper.save, [0]

        def ending(self, position):
            save(self, position)
            count[0] += 1
            if count[0] == n_saves:
                raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(checkpoint.Keeper, "save", ending)
            with pytest.raises(Killed):
                call("train", *args)

    return run


def models(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.kron")}


def test_resume(own, ended):
    folder, flags = own
    command = [*flags, *OPTIONS, "--seeds", "2", "--search", "output_scale=0.1,0.3", "--folds", "2", "--test-fraction", "0.2"]
    call("train", *command, "--out", folder / "whole")
    out = folder / "run"
    command += ["--checkpoint-every", "3 steps", "--resume", "--out", out]
    ended(2, *command)  # in the first network
    assert {path.name for path in out.iterdir()} == {"checkpoints"}
    assert not list(folder.glob(".run.*"))
    with pytest.MonkeyPatch.context() as patched:  # what the search has found is known already
        patched.setattr("kronsgd.cli.training.run_search", lambda *_: pytest.fail("searched again"))
        ended(9, *command)  # in the second network
        told = call("train", *[word for word in command if word != "--quiet"])
    assert "searched before" in told
    assert "going on from" in told
    assert "seed-1, step-0000000000" in told
    assert {path.name for path in out.iterdir()} == FILES | {"model-2.kron", "search.json", "predictions.csv"}
    assert models(out) == models(folder / "whole")
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [(record["seed"], record["epoch"]) for record in history] == [(s, e) for s in (0, 1) for e in (1, 2, 3)]
    assert "is finished" in call("train", *[word for word in command if word != "--quiet"])
    assert models(out) == models(folder / "whole")


def test_toml(own, ended):
    folder, flags = own
    (folder / "c.toml").write_text('[checkpoint]\nevery = "2 steps"\nresume = true\n')
    ended(1, folder / "c.toml", *flags, *OPTIONS, "--out", folder / "run")
    call("train", folder / "c.toml", *flags, *OPTIONS, "--out", folder / "run")
    call("train", *flags, *OPTIONS, "--out", folder / "whole")
    assert models(folder / "run") == models(folder / "whole")
    assert "resume" not in (folder / "run" / "config.toml").read_text()


def test_a_finished_run_is_not_taken_for_another(own):
    folder, flags = own
    command = ["train", *flags, *OPTIONS, "--out", folder / "run", "--resume"]
    call(*command)
    written = models(folder / "run")
    assert "is finished" in call(*(word for word in command if word != "--quiet"))
    said = "is finished, and its settings or data were others than these; give another --out"
    assert said in mistake(*command, "--set", "n_hidden=16")
    assert "give one of them" in mistake(*command, "--force")
    with (folder / "pairs.csv").open("a") as stream:
        stream.write((folder / "pairs.csv").read_text().splitlines()[1] + "\n")
    assert said in mistake(*command)
    assert models(folder / "run") == written
    call(*command[:-1], "--force", "--quiet")
    assert models(folder / "run") != written


def test_what_is_there_is_not_replaced_unasked(own, ended):
    folder, flags = own
    command = [*flags, *OPTIONS, "--checkpoint-every", "2 steps", "--out", folder / "run"]
    ended(2, *command)
    assert "holds checkpoints of a run; go on with --resume" in mistake("train", *command)
    assert "n_hidden=16 differs from 32 in the checkpoint" in mistake("train", *command, "--resume", "--set", "n_hidden=16")
    assert (folder / "run" / "checkpoints" / "seed-0").is_dir()
    call("train", *command, "--force", "--set", "n_hidden=16")
    assert not (folder / "run" / "checkpoints").exists()


def test_checkpoints_of_another_seed_or_of_a_live_run_are_left_alone(own, ended):
    folder, flags = own
    command = [*flags, *OPTIONS, "--checkpoint-every", "2 steps", "--out", folder / "run"]
    ended(2, *command)
    kept = folder / "run" / "checkpoints" / "seed-0"
    told = mistake("train", *command, "--resume", "--set", "random_state=1")
    assert "holds checkpoints of seed-0, but random_state=1 and 1 network ask for others" in told
    assert "is not over; go on with the same kronsgd train and --resume" in mistake("inspect", folder / "run")
    with FileLock(kept / ".lock"):
        assert "another process is writing checkpoints" in mistake("train", *command, "--force")
    assert checkpoints_in(kept)


def test_more_memory_goes_on(own, monkeypatch):
    folder, flags = own
    flags = [*flags, *OPTIONS[:-1], "--set", "engine=scan"]
    command = ["train", *flags, "--checkpoint-every", "2 steps", "--out", folder / "run", "--resume"]
    call("train", *flags, "--out", folder / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(Plan, "most_coefficients", lambda self, engine: 30)
        result = CliRunner().invoke(app, [str(word) for word in command])
    assert result.exit_code == 1
    assert "training was ended by memory_limit; the model so far was kept" in result.stderr
    assert "Go on with --resume and more memory." in result.stderr
    assert models(folder / "run") != models(folder / "whole")
    assert "going on from" in call(*command)
    assert models(folder / "run") == models(folder / "whole")


@pytest.mark.parametrize(
    ("text", "steps", "minutes"),
    [("10 min", None, 10), ("1.5h", None, 90), ("500 steps", 500, None), ("1 step", 1, None), ("0.5 minutes", None, 0.5)],
)
def test_times(text, steps, minutes, own, monkeypatch):
    folder, flags = own
    seen = []
    monkeypatch.setattr(Keeping, "checkpoint", lambda self, seed: seen.append((self.steps, self.minutes)))
    call("train", *flags, *OPTIONS, "--checkpoint-every", text, "--out", folder / "run")
    assert seen == [(steps, minutes)]


@pytest.mark.parametrize("text", ["often", "10", "0 min", "1.5 steps", "-3 min", "10 min 3"])
def test_times_that_are_none(text, own):
    folder, flags = own
    told = mistake("train", *flags, *OPTIONS, "--checkpoint-every", text, "--out", folder / "run")
    assert "says no time; give more than 0, for example" in told
