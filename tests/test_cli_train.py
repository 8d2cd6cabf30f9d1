"""`kronsgd train`: settings, classes, several seeds, searching, Ctrl-C, and runs that exist."""

from __future__ import annotations

import errno
import json
import os
import signal
import tempfile
import tomllib

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

import kronsgd.cli.search as search_module
import kronsgd.cli.training as training
import kronsgd.training.loop as loop
from helpers.cli import FILES, SMALL, call, column, mistake, rows_of
from kronsgd import load
from kronsgd.cli.app import app
from kronsgd.planner import Plan


def test_the_resolved_settings_repeat_the_run(own, run):
    folder, _ = own
    call("train", run / "config.toml", "--out", folder / "again", "--quiet")
    assert (folder / "again/predictions.csv").read_text() == (run / "predictions.csv").read_text()
    assert (folder / "again/config.toml").read_text() == (run / "config.toml").read_text()


def test_toml_and_flags_say_the_same_and_flags_win(own, run):
    folder, _ = own
    settings = {
        "tables": {"drug": {"file": "drugs.npz"}, "protein": {"file": "proteins.npz", "kind": "kernel"}},
        "pairs": {"file": "pairs.csv", "target": "y", "columns": {"protein": "protein_id"}},
        "features": {"expression": "(1 + drug) * (1 + protein)"},
        "validation": {"file": "test.csv"}, "model": {"n_hidden": 8, "max_iter": 2},
    }  # fmt: skip
    (folder / "c.toml").write_text(tomli_w.dumps(settings))
    call("train", folder / "c.toml", "--set", "n_hidden=32", "--out", folder / "b", "--quiet")
    assert (folder / "b/config.toml").read_text() == (run / "config.toml").read_text()
    assert (folder / "b/predictions.csv").read_text() == (run / "predictions.csv").read_text()


def test_classification_with_weights_and_a_part_held_out(own):
    folder, flags = own
    more = ["--target", "label", "--weight", "w", "--test-fraction", "0.25", "--features", "drug * protein"]
    out = call("train", *flags, *more, *SMALL, "--out", folder / "run")
    assert "classification" in out
    assert "18 training rows, 6 test rows" in out
    metrics = json.loads((folder / "run/metrics.json").read_text())
    assert set(metrics["test"]) == {"accuracy", "log_loss", "auroc", "aupr"}
    written = rows_of(folder / "run/predictions.csv")
    assert list(written[0]) == ["drug", "protein_id", "true", "prediction", "p_binds", "p_none"]
    assert float(written[0]["p_binds"]) + float(written[0]["p_none"]) == pytest.approx(1)
    assert "accuracy" in call("evaluate", folder / "run", "--pairs", folder / "test.csv")
    assert "6 rows" in call("evaluate", folder / "run")  # the held-out rows again, from the run's own settings


def test_parameters_with_a_flag_of_their_own(own):
    folder, flags = own
    short = ["--n-hidden", 16, "--batch-size", 8, "--memory-limit", "1 GiB"]
    call("train", *flags, *SMALL, *short, "--out", folder / "run", "-q")
    settings = tomllib.loads((folder / "run/config.toml").read_text())["model"]
    assert (settings["n_hidden"], settings["batch_size"], settings["memory_limit"]) == (16, 8, "1 GiB")
    assert load(folder / "run/model.kron").n_hidden == 16  # the flag wins over --set
    refused = mistake("train", *flags, *SMALL, "--n-hidden", 2**22, "--memory-limit", "2 MiB", "--out", folder / "run2")
    assert "would need about" in refused


def test_the_end_of_an_automatic_training_is_told_calmly(own):
    folder, flags = own
    out = call("train", *flags, "--n-hidden", 32, "--out", folder / "run")
    assert "training ended: all epochs are done, as many as max_iter gives or 'auto' chose" in out
    assert "stopped" not in out


def test_several_seeds_are_saved_and_averaged(own):
    folder, flags = own
    out = call("train", *flags, "--test", folder / "test.csv", *SMALL, "--seeds", 2, "--out", folder / "run")
    assert "averaged" in out
    assert "±" in out
    names = ["model.kron", "model-2.kron"]
    parts = []
    for name in names:
        call("predict", folder / "run" / name, "--pairs", folder / "test.csv", "--out", folder / "one.csv", "--force")
        parts.append(column(folder / "one.csv", "prediction"))
    assert not np.allclose(*parts)
    np.testing.assert_allclose(column(folder / "run/predictions.csv", "prediction"), np.mean(parts, axis=0))
    assert all(name in call("inspect", folder / "run") for name in names)
    assert [load(folder / "run" / name).random_state for name in names] == [0, 1]


# New entities in the test rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "new"), [("new drug", (True, False)), ("new protein", (False, True)), ("both new", (True, True))]
)
def test_entities_of_the_test_rows_can_be_new(own, setting, new):
    folder, flags = own
    drugs = dict(np.load(folder / "drugs.npz"))
    drugs["features"][3] = drugs["features"][0]  # D3 is D0 again: they stay together
    np.savez(folder / "drugs.npz", **drugs)
    held = ["--test-fraction", 0.4, "--test-setting", setting]
    for seed in range(3):
        run = folder / f"run{seed}"
        call("train", *flags, *SMALL, *held, "--set", f"random_state={seed}", "--out", run, "-q")
        test = rows_of(run / "predictions.csv")
        tested = {row["drug"] for row in test}, {row["protein_id"] for row in test}
        trained = [row for row in rows_of(folder / "pairs.csv") if row["drug"] not in tested[0] or not new[0]]
        trained = [row for row in trained if row["protein_id"] not in tested[1] or not new[1]]
        n_train = load(run / "model.kron").features_.n_rows
        assert 2 <= n_train <= len(trained)
        assert n_train + len(test) == 24 or all(new)  # only where both are new, pairs that mix are left out
        assert ("D0" in tested[0]) == ("D3" in tested[0]) or not new[0]
        shown = call("evaluate", run)  # the same rows again, from the run's own settings
        assert f"{len(test)} rows" in shown


def test_the_folds_of_a_search_have_what_is_new_in_the_test(own, monkeypatch):
    folder, flags = own
    seen = []
    monkeypatch.setattr(search_module, "_loss", lambda data, params, fold, setting: seen.append((data, fold)) or 1.0)
    search = ["--search", "alpha=0,0.1", "--test", folder / "test.csv", "--test-setting", "new protein"]
    call("train", *flags, *SMALL, *search, "--out", folder / "run", "-q")
    assert len(seen) == 2 * 5
    for data, (train, held) in seen:
        ids = data.train_ids["protein_id"]
        assert not set(ids[train]) & set(ids[held])
    assert "setting" not in (folder / "run/config.toml").read_text()


def test_mistakes_in_the_setting(own):
    folder, flags = own
    out = ["--out", folder / "run", "-q"]
    shown = mistake("train", *flags, "--test-fraction", 0.2, "--test-setting", "new drugs", *out)
    assert "choose one of ['pairs', 'new drug', 'new protein', 'both new']. Did you mean 'new drug'?" in shown
    assert "--test-fraction" in mistake("train", *flags, "--test-setting", "new drug", *out)
    digits = ["--dataset", "digits", "--test-fraction", 0.2, "--test-setting", "pairs"]
    assert "tables of your own" in mistake("train", *digits, *out)
    few = ["--test-fraction", 0.01, "--test-setting", "new drug"]
    assert "leaves none to train or none to test" in mistake("train", *flags, *few, *out)


# Ranking ----------------------------------------------------------------------------------------------------------------


def test_ranking_within_the_entities_of_a_table(own):
    folder, flags = own
    ranking = ["--set", "loss=ranking", "--groups", "drug"]
    call("train", *flags, *SMALL, *ranking, "--test", folder / "test.csv", "--out", folder / "run", "-q")
    metrics = json.loads((folder / "run/metrics.json").read_text())
    assert set(metrics["train"]) == {"spearman", "concordance_index", "ci_per_drug", "ci_per_protein_id"}  # no errors
    call("train", *flags, *SMALL, "--set", "loss=ranking", "--out", folder / "all", "-q")  # all pairs are compared
    X = load(folder / "run/model.kron").features_
    assert not np.allclose(load(folder / "run/model.kron").predict(X), load(folder / "all/model.kron").predict(X))
    call("train", folder / "run/config.toml", "--out", folder / "again", "-q")
    assert (folder / "again/predictions.csv").read_text() == (folder / "run/predictions.csv").read_text()
    call("train", *flags, *SMALL, *ranking, "--search", "alpha=0,0.1", "--out", folder / "found", "-q")
    found = json.loads((folder / "found/search.json").read_text())
    assert found["score"] == "1 − concordance index"
    assert all(0 <= value <= 1 for result in found["results"] for value in result["folds"])


def test_mistakes_in_groups(own):
    folder, flags = own
    out = ["--out", folder / "run", "-q"]
    assert "Did you mean 'drug'?" in mistake("train", *flags, *SMALL, "--groups", "drg", "--set", "loss=ranking", *out)
    assert "leave groups out" in mistake("train", *flags, *SMALL, "--groups", "drug", *out)
    assert "leave them out for classes" in mistake("train", *flags, *SMALL, "--groups", "drug", "--target", "label", *out)
    assert "for classification" in mistake("train", *flags, *SMALL, "--target", "label", "--set", "loss=huber", *out)


def test_weights_of_classes(own):
    folder, flags = own
    call("train", *flags, *SMALL, "--target", "label", "--set", "class_weight=balanced", "--out", folder / "run", "-q")
    assert load(folder / "run/model.kron").class_weight == "balanced"
    assert "balanced, or none" in mistake("train", *flags, "--set", "class_weight=2", "--out", folder / "run2", "-q")


# Searching ------------------------------------------------------------------------------------------------------------


def test_search_looks_at_training_rows_only_and_refits_the_best(own):
    folder, flags = own
    search = ["--search", "output_scale=0.01,0.5", "--search", "max_iter=1,2", "--folds", 2]
    out = call("train", *flags, *SMALL, *search, "--test", folder / "test.csv", "--out", folder / "run")
    assert "best" in out
    found = json.loads((folder / "run/search.json").read_text())
    assert len(found["results"]) == 4
    assert {len(result["folds"]) for result in found["results"]} == {2}
    assert found["best"] == min(found["results"], key=lambda r: r["mean"])["setting"]
    model = tomllib.loads((folder / "run/config.toml").read_text())["model"]
    assert {name: model[name] for name in found["best"]} == found["best"]
    (folder / "test.csv").write_text((folder / "test.csv").read_text().replace("binds", "none").replace(",2", ",9"))
    call("train", *flags, *SMALL, *search, "--test", folder / "test.csv", "--out", folder / "run2", "-q")
    again = json.loads((folder / "run2/search.json").read_text())
    assert [r["folds"] for r in again["results"]] == [r["folds"] for r in found["results"]]


def test_search_of_a_classifier_is_scored_by_log_loss(own):
    folder, flags = own
    call("train", *flags, "--target", "label", *SMALL, "--search", "alpha=0,0.1", "--out", folder / "run", "-q")
    found = json.loads((folder / "run/search.json").read_text())
    assert found["score"] == "log loss"
    assert found["n_folds"] == 5


def test_an_existing_run_is_replaced_only_when_forced(own, run):
    _, flags = own
    before = (run / "model.kron").read_bytes()
    assert "--force" in mistake("train", *flags, *SMALL, "--out", run, "-q")
    (run / "notes.txt").write_text("mine")
    mistake("train", *flags, "--set", "n_hidden=33", "--out", run, "-q", "--force")
    assert (run / "model.kron").read_bytes() == before
    call("train", *flags, "--set", "n_hidden=16", "--set", "max_iter=1", "--out", run, "-q", "--force")
    assert {p.name for p in run.iterdir()} == FILES | {"notes.txt"}  # no predictions.csv of the old run
    assert load(run / "model.kron").n_hidden == 16


# Around training ------------------------------------------------------------------------------------------------------


def interrupt_after(monkeypatch, steps: int) -> None:
    """Press Ctrl-C in the middle of training."""
    original, count = loop.train_step, [0]

    def step(*args, **kwargs):
        count[0] += 1
        if count[0] == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **kwargs)

    monkeypatch.setattr(loop, "train_step", step)


def test_ctrl_c_keeps_the_model_and_writes_the_run(own, monkeypatch):
    folder, flags = own
    interrupt_after(monkeypatch, 3)
    args = ["train", *flags, *SMALL, "--set", "max_iter=50", "--seeds", 2, "--out", folder / "run"]
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0
    assert "interrupted" in result.stderr
    assert load(folder / "run/model.kron").stop_reason_.name == "INTERRUPTED"
    assert not (folder / "run/model-2.kron").exists()


def test_ctrl_c_in_a_search_writes_nothing(own, monkeypatch):
    folder, flags = own
    interrupt_after(monkeypatch, 3)
    args = ["train", *flags, *SMALL, "--search", "alpha=0,1", "--out", folder / "run", "-q"]
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 130
    assert not (folder / "run").exists()
    assert not list(folder.glob(".run*"))


def test_a_fit_that_memory_ends_is_not_scored(own, monkeypatch):
    folder, flags = own
    monkeypatch.setattr(Plan, "most_coefficients", lambda self, engine: 30)
    told = mistake("train", *flags, *SMALL, "--set", "engine=scan", "--search", "alpha=0,1", "--out", folder / "run")
    assert "ended a fit with alpha=0.0 before it was over" in " ".join(told.split())
    assert not (folder / "run").exists()


def test_divergence_is_told_and_exits_with_1(own):
    folder, flags = own
    args = ["train", *flags, *SMALL, "--set", "learning_rate_init=1e30", "--set", "max_iter=5", "--out", folder / "run"]
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 1
    assert "warning: learning_rate_init" in result.stderr
    assert load(folder / "run/model.kron").stop_reason_.name == "DIVERGED"


def full_disk(monkeypatch, folder):
    """No room for a run in this folder."""
    staged = training.staged

    def refusing(out):
        if out.parent == folder:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
        return staged(out)

    monkeypatch.setattr(training, "staged", refusing)


def test_a_run_that_finds_its_disk_full_goes_to_the_temporary_folder(own, monkeypatch):
    folder, flags = own
    (folder / "spare").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "spare"))
    full_disk(monkeypatch, folder)
    said = mistake("train", *flags, *SMALL, "--test", folder / "test.csv", "--out", folder / "run", "-q")
    (run,) = folder.glob("spare/kronsgd-*/run")
    assert said == (
        f"error: the run could not be written to {folder / 'run'} (No space left on device); it is in {run} instead: move it "
        "from there."
    )
    assert {path.name for path in run.iterdir()} == FILES | {"predictions.csv"}
    assert "6 rows" in call("evaluate", run, "--pairs", folder / "test.csv")


def test_a_run_without_room_anywhere_says_so(own, monkeypatch):
    folder, flags = own
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "none"))
    full_disk(monkeypatch, folder)
    args = ["train", *flags, *SMALL, "--out", folder / "run", "-q"]
    assert "nor does the temporary folder take it: make room, and train again with --checkpoint-every" in mistake(*args)
    assert "make room, and go on with --resume." in mistake(*args, "--checkpoint-every", "2 h")
    monkeypatch.undo()
    call(*args, "--resume")
