"""The command line: the round trip of a run, what its folder holds, and one line for each mistake."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

import kronsgd.training.loop as loop
from kronsgd import Dense, KronRegressor, load
from kronsgd.cli import main
from kronsgd.cli.app import app
from kronsgd.cli.expression import build_features, default_expression
from kronsgd.cli.parameters import typed

SMALL = ["--set", "n_hidden=32", "--set", "max_iter=2"]
FILES = {"model.kron", "config.toml", "history.jsonl", "metrics.json", "tables.json", "tables",
         "loss.png", "fired.png", "predictions.png"}  # fmt: skip


def call(*args) -> str:
    """Standard output of a command that works."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0, result.stderr or result.exception
    return result.stdout


def mistake(*args) -> str:
    """The one line on stderr of a command that is wrong."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning:")]
    assert result.exit_code == 2, (result.exit_code, result.exception)
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert not lines[0].startswith("error: '")  # a KeyError's quotes
    return lines[0]


def rows_of(path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def column(path, name) -> np.ndarray:
    return np.array([float(row[name]) for row in rows_of(path)])


def write_pairs(path: Path, drugs, proteins, **columns) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["drug", "protein_id", *columns])
        writer.writerows(zip(drugs, proteins, *columns.values(), strict=True))
    return path


@pytest.fixture
def own(tmp_path):
    """Six drugs with ids and features, five proteins with a kernel, and thirty pairs: (folder, flags)."""
    rng = np.random.default_rng(0)
    drugs, latent = rng.normal(size=(6, 3)), rng.normal(size=(5, 4))
    ids, names = [f"D{k}" for k in range(6)], [f"P{k}" for k in range(5)]
    np.savez(tmp_path / "drugs.npz", features=drugs, ids=np.array(ids))
    np.savez(tmp_path / "proteins.npz", features=latent @ latent.T + np.eye(5), ids=np.array(names))
    d, p = np.divmod(np.arange(30), 5)
    y = (drugs[d, :1] * latent[p, :1]).ravel() + 3
    label = np.where(y > np.median(y), "binds", "none")
    take = lambda rows: ([ids[k] for k in d[rows]], [names[k] for k in p[rows]])  # noqa: E731
    train, test = np.arange(24), np.arange(24, 30)
    for name, part in (("pairs.csv", train), ("test.csv", test)):
        write_pairs(tmp_path / name, *take(part), y=y[part], label=label[part], w=1.0 + part % 2)
    flags = ["--table", f"drug={tmp_path / 'drugs.npz'}", "--table", f"protein={tmp_path / 'proteins.npz'}:kernel",
             "--pairs", tmp_path / "pairs.csv", "--column", "protein=protein_id"]  # fmt: skip
    return tmp_path, flags


@pytest.fixture
def run(own):
    """A run on own tables with test pairs."""
    folder, flags = own
    call("train", *flags, "--test", folder / "test.csv", *SMALL, "--out", folder / "run", "--quiet")
    return folder / "run"


# The round trip -------------------------------------------------------------------------------------------------------


def test_train_predict_evaluate(own):
    folder, flags = own
    out = call("train", *flags, "--test", folder / "test.csv", *SMALL, "--out", folder / "run")
    assert "24 training rows, 6 test rows" in out
    assert "(1 + drug) * (1 + protein)" in out
    assert "n_hidden=32" in out
    assert "concordance index" in out
    assert {p.name for p in (folder / "run").iterdir()} == FILES | {"predictions.csv"}
    call("predict", folder / "run", "--pairs", folder / "test.csv", "--out", folder / "p.csv")
    written = rows_of(folder / "run/predictions.csv")
    assert list(written[0]) == ["drug", "protein_id", "true", "prediction"]
    assert [row["drug"] for row in written] == ["D4", "D5", "D5", "D5", "D5", "D5"]
    np.testing.assert_array_equal(
        column(folder / "p.csv", "prediction"), column(folder / "run/predictions.csv", "prediction")
    )
    call("evaluate", folder / "run", "--pairs", folder / "test.csv", "--json", folder / "s.json")
    scores, metrics = json.loads((folder / "s.json").read_text()), json.loads((folder / "run/metrics.json").read_text())
    assert scores.pop("rows") == 6
    assert scores == metrics["test"]
    assert set(scores) == {"mse", "rmse", "mae", "r2", "pearson", "concordance_index", "rm2"}
    assert len((folder / "run/history.jsonl").read_text().splitlines()) == 2


def test_the_run_folder_needs_no_other_file(own, run):
    folder, _ = own
    moved = run.rename(folder / "moved")
    for name in ("drugs.npz", "proteins.npz", "pairs.csv"):
        (folder / name).unlink()
    call("predict", moved / "model.kron", "--pairs", folder / "test.csv", "--out", folder / "p.csv")
    np.testing.assert_array_equal(
        column(folder / "p.csv", "prediction"), column(moved / "predictions.csv", "prediction")
    )


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
    assert set(metrics["test"]) == {"accuracy", "log_loss", "auroc"}
    written = rows_of(folder / "run/predictions.csv")
    assert list(written[0]) == ["drug", "protein_id", "true", "prediction", "p_binds", "p_none"]
    assert float(written[0]["p_binds"]) + float(written[0]["p_none"]) == pytest.approx(1)
    assert "accuracy" in call("evaluate", folder / "run", "--pairs", folder / "test.csv")
    assert "6 rows" in call("evaluate", folder / "run")  # the held-out rows again, from the run's own settings


def test_several_seeds_are_saved_and_averaged(own):
    folder, flags = own
    out = call("train", *flags, "--test", folder / "test.csv", *SMALL, "--seeds", 2, "--out", folder / "run")
    assert "averaged" in out
    assert "±" in out
    names = ["model.kron", "model-2.kron"]
    parts = []
    for name in names:
        call("predict", folder / "run" / name, "--pairs", folder / "test.csv", "--out", folder / "one.csv")
        parts.append(column(folder / "one.csv", "prediction"))
    assert not np.allclose(*parts)
    np.testing.assert_allclose(column(folder / "run/predictions.csv", "prediction"), np.mean(parts, axis=0))
    assert all(name in call("inspect", folder / "run") for name in names)
    assert [load(folder / "run" / name).random_state for name in names] == [0, 1]


def test_new_entities(own, run):
    folder, _ = own
    known = np.load(folder / "drugs.npz")["features"]
    np.savez(folder / "new.npz", features=known[[2, 3]], ids=np.array(["N1", "D0"]))
    gram = np.load(folder / "proteins.npz")["features"]
    # kernel values with a known entity's own scale: the new entity is then that entity
    np.savez(folder / "cross.npz", features=gram[[1]], self_similarity=gram[[1], [1]], ids=np.array(["Q"]))
    pairs = write_pairs(folder / "q.csv", ["N1", "D0", "D2", "D3", "D2", "D2"], ["P1", "P1", "P1", "P1", "Q", "P0"])
    tables = ["--table", f"drug={folder / 'new.npz'}", "--table", f"protein={folder / 'cross.npz'}"]
    call("predict", run, "--pairs", pairs, *tables, "--out", folder / "p.csv")
    p = column(folder / "p.csv", "prediction")
    assert p[0] == pytest.approx(p[2])  # N1 has the features of D2
    assert p[1] == pytest.approx(p[3])  # D0 was replaced by the features of D3
    assert p[4] == pytest.approx(p[2])  # Q is P1
    assert p[5] != pytest.approx(p[2])
    np.save(folder / "numbered.npy", known[:2])
    pairs = write_pairs(folder / "r.csv", [1, 0], ["P1", "P1"])
    call("predict", run, "--pairs", pairs, "--table", f"drug={folder / 'numbered.npy'}", "--out", folder / "p.csv")
    assert len(rows_of(folder / "p.csv")) == 2


@pytest.mark.parametrize(
    ("kind", "features"),
    [
        ("sparse", np.eye(6, 9)), ("onehot", np.arange(6)), ("rbf,gamma=0.5", np.eye(6)), ("tanimoto", np.eye(6, 8)),
        ("dense,normalize=false", 2 * np.eye(6)), ("kernel,psd=clip", np.eye(6) + 0.1),
    ],
)  # fmt: skip
def test_every_kind_of_table_comes_back_from_the_folder(own, kind, features):
    folder, flags = own
    np.savez(folder / "t.npz", features=features, ids=np.array([f"D{k}" for k in range(6)]))
    own_flags = ["--table", f"drug={folder / 't.npz'}:{kind}", *flags[2:], "--features", "(drug + 1) ** 2 * protein"]
    call("train", *own_flags, *SMALL, "--test", folder / "test.csv", "--out", folder / "run", "-q")
    call("predict", folder / "run", "--pairs", folder / "test.csv", "--out", folder / "p.csv")
    np.testing.assert_array_equal(
        column(folder / "p.csv", "prediction"), column(folder / "run/predictions.csv", "prediction")
    )


def test_a_table_that_the_expression_does_not_use_is_not_needed_later(own):
    folder, flags = own
    call("train", *flags, "--features", "1 + drug", *SMALL, "--out", folder / "run", "-q")
    assert set(json.loads((folder / "run/tables.json").read_text())["tables"]) == {"drug"}
    call("predict", folder / "run", "--out", folder / "p.csv")  # one table: all its entities
    assert [row["drug"] for row in rows_of(folder / "p.csv")] == [f"D{k}" for k in range(6)]


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


# Published sets -------------------------------------------------------------------------------------------------------


@pytest.fixture
def davis(tmp_path):
    """Davis in small: 6 drugs, 5 proteins, two training lists and a test list."""
    from kronsgd.datasets.published import DAVIS_DRUGS, DAVIS_KD, DAVIS_PROTEINS

    folder, rng = tmp_path / "davis", np.random.default_rng(1)
    (folder / "folds").mkdir(parents=True)
    np.savetxt(folder / DAVIS_KD, 10 ** rng.uniform(0, 4, (6, 5)))
    for name, n in ((DAVIS_DRUGS, 6), (DAVIS_PROTEINS, 5)):
        a = rng.uniform(0, 1, (n, 8))
        np.savetxt(folder / name, a @ a.T)
    order = rng.permutation(30).tolist()
    (folder / "folds/train_fold_setting1.txt").write_text(json.dumps([order[:12], order[12:24]]))
    (folder / "folds/test_fold_setting1.txt").write_text(json.dumps(order[24:]))
    return folder


def test_davis_with_a_searched_loader_option_and_the_published_folds(davis, tmp_path):
    flags = ["--dataset", "davis", "--data", davis, "--option", "protein_power=1", "--search", "data.drug_power=1,2"]
    out = call("train", *flags, *SMALL, "--out", tmp_path / "run")
    assert "drug * protein = Kernel" in out
    found = json.loads((tmp_path / "run/search.json").read_text())
    assert found["n_folds"] == 2
    data = tomllib.loads((tmp_path / "run/config.toml").read_text())["data"]
    assert data["drug_power"] == found["best"]["data.drug_power"]
    assert data["protein_power"] == 1
    written = tmp_path / "run/predictions.csv"
    call("predict", tmp_path / "run", "--pairs", written, "--out", tmp_path / "p.csv")
    np.testing.assert_array_equal(column(tmp_path / "p.csv", "prediction"), column(written, "prediction"))
    for flags in ([], ["--dataset", "davis", "--data", davis]):
        call("evaluate", tmp_path / "run", *flags, "--json", tmp_path / "s.json")
        mse = json.loads((tmp_path / "s.json").read_text())["mse"]
        assert mse == json.loads((tmp_path / "run/metrics.json").read_text())["test"]["mse"]


def test_sick(tmp_path):
    from kronsgd.datasets.published import SICK_FILES, SICK_HEADER

    words = ["a dog runs", "the cat sleeps", "a dog sleeps", "the bird sings", "a bird runs"]
    lines = [f"{i * 5 + j}\t{a}\t{b}\t{1 + (i + j) % 5}\t{'NEUTRAL' if i < j else 'ENTAILMENT'}"
             for i, a in enumerate(words) for j, b in enumerate(words)]  # fmt: skip
    for k, name in enumerate(SICK_FILES.values()):
        (tmp_path / name).write_text("\n".join(["\t".join(SICK_HEADER), *lines[8 * k : 8 * k + 8]]))
    flags = ["--dataset", "sick", "--data", tmp_path, "--option", "target=entailment"]
    call("train", *flags, "--features", "(first + second) ** 2", *SMALL, "--out", tmp_path / "run", "-q")
    written = tmp_path / "run/predictions.csv"
    assert list(rows_of(written)[0])[:3] == ["first", "second", "true"]
    call("predict", tmp_path / "run", "--pairs", written, "--out", tmp_path / "p.csv")
    np.testing.assert_array_equal(column(tmp_path / "p.csv", "p_NEUTRAL"), column(written, "p_NEUTRAL"))


def test_digits_and_inspect(tmp_path):
    out = call("train", "--dataset", "digits", "--set", "n_hidden=32", "--set", "max_iter=1", "--out", tmp_path / "run")
    assert "(1 + x) ** 2" in out
    assert "no test rows" in out
    shown = call("inspect", tmp_path / "run/model.kron")
    for text in ("KronClassifier", "1,797", "32 neurons", "10 outputs", "MAX_ITER", "raise max_iter", "MiB"):
        assert text in shown
    assert "has no test rows" in mistake("evaluate", tmp_path / "run")


def test_inspect_of_a_dense_model_without_a_run(tmp_path):
    rng = np.random.default_rng(0)
    KronRegressor(8, engine="dense", max_iter=0, random_state=0).fit(
        Dense(rng.normal(size=(20, 3))), rng.normal(size=20)
    ).save(tmp_path / "m.kron")
    shown = call("inspect", tmp_path / "m.kron")
    assert "24 weights" in shown
    assert "no epoch was finished" in shown
    assert "tables.json" in mistake("predict", tmp_path / "m.kron", "--out", tmp_path / "p.csv")


# Mistakes -------------------------------------------------------------------------------------------------------------


MISTAKES = {
    "no data": ([], "nothing to train on"),
    "unknown set": (["--dataset", "digit"], "Did you mean 'digits'?"),
    "no folder": (["--dataset", "davis"], "--data FOLDER"),
    "wrong folder": (["--dataset", "mnist", "--data", "/no/such"], "/no/such is not a folder"),
    "folder for nothing": (["--dataset", "digits", "--data", "."], "has no use here"),
    "option of another set": (["--dataset", "digits", "--option", "drug_power=1"], "drug_power is no option"),
    "unknown option": (["--dataset", "digits", "--option", "drug_powr=1"], "Did you mean 'drug_power'?"),
    "both": (["--dataset", "digits", "--pairs", "p.csv"], "both dataset"),
    "tables alone": (["--table", "a=b.npy"], "--pairs FILE"),
    "pairs alone": (["--pairs", "b.csv"], "--table NAME=FILE:KIND"),
    "no form": (["--dataset", "digits", "--set", "n_hidden"], "NAME=VALUE"),
    "unknown parameter": (["--dataset", "digits", "--set", "n_hiden=3"], "Did you mean 'n_hidden'?"),
    "wrong type": (["--dataset", "digits", "--set", "n_hidden=many"], "n_hidden='many'"),
    "odd": (["--dataset", "digits", "--set", "n_hidden=33"], "n_hidden=33 is odd"),
    "unknown engine": (["--dataset", "digits", "--set", "engine=scn"], "Did you mean 'scan'?"),
    "empty expression": (["--dataset", "digits", "--features", " "], "expression is empty"),
    "unknown name": (["--dataset", "digits", "--features", "1 + y"], "names 'y', which is no table"),
    "code": (["--dataset", "digits", "--features", "__import__('os')"], "not allowed"),
    "unreadable": (["--dataset", "digits", "--features", "(1 + x"], "cannot be read"),
    "search of nothing": (["--dataset", "digits", "--folds", "2"], "nothing to search"),
    "search of a wrong name": (["--dataset", "digits", "--search", "scale=1,2"], "scale"),
    "search of a wrong option": (["--dataset", "digits", "--search", "data.drugs=1,2"], "drugs"),
    "folds": (["--dataset", "digits", "--search", "alpha=0,1", "--folds", "0"], "folds=0"),
    "fraction": (["--dataset", "digits", "--test-fraction", "2"], "fraction=2.0 in [validation]"),
    "small fraction": (["--dataset", "digits", "--test-fraction", "1e-9"], "too few"),
    "test file of a set": (["--dataset", "digits", "--test", "t.csv"], "their own test rows"),
    "seeds": (["--dataset", "digits", "--seeds", "0"], "seeds=0"),
    "kind": (["--table", "a=b.npy:kernle", "--pairs", "p.csv"], "Did you mean 'kernel'?"),
    "table option": (["--table", "a=b.npy:dense,gamma=1", "--pairs", "p.csv"], "gamma is no option"),
    "table name": (["--table", "a-b=b.npy", "--pairs", "p.csv"], "cannot stand in an expression"),
    "unknown flag": (["--dtaset", "digits"], "--dtaset"),
    "no number": (["--dataset", "digits", "--seeds", "x"], "'--seeds'"),
    "no config": (["no.toml"], "no.toml is not a file"),
}


@pytest.mark.parametrize(("flags", "text"), MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_call_is_one_line_and_leaves_nothing(flags, text, tmp_path):
    assert text in mistake("train", *flags, "--out", tmp_path / "run", "-q")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data]\ndataset = \n", "line 2"),
        ("[dat]\n", "Did you mean 'data'?"),
        ("[data]\ndatset = 'digits'\n", "Did you mean 'dataset'?"),
        ("data = 3\n", "data"),
        ("[pairs]\ntarget='y'\n[tables.a]\nfile='a.npy'\n", "'file' in [pairs] is missing"),
        ("[data]\ndataset='digits'\n[model]\nn_hidden=1.5\n", "n_hidden=1.5"),
        ("[data]\ndataset='digits'\n[model]\nshuffle=3\n", "shuffle=3"),
        ("[data]\ndataset='digits'\n[search]\nalpha=0.1\n", "is not a list"),
        ("[data]\ndataset='digits'\n[tables.a]\nfile='a.npy'\n", "both dataset"),
        ("[tables.a]\nfile='a.npy'\nknd='rbf'\n[pairs]\nfile='p.csv'\n", "Did you mean 'kind'?"),
        ("[tables.a]\nfile='a.npy'\n[pairs]\nfile='p.csv'\ncolumns={b='c'}\n", "names the table 'b'"),
    ],
)
def test_mistakes_in_toml(text, message, tmp_path):
    (tmp_path / "c.toml").write_text(text)
    assert message in mistake("train", tmp_path / "c.toml", "--out", tmp_path / "run", "-q")


def test_mistakes_in_the_users_files(own):
    folder, flags = own
    out = ["--out", folder / "run", "-q", *SMALL]
    assert "missing.npz" in mistake("train", "--table", f"drug={folder / 'missing.npz'}", *flags[2:], *out)
    assert "no column 'yy'" in mistake("train", *flags, "--target", "yy", *out)
    assert "no column 'protein'" in mistake("train", *flags[:-2], *out)
    assert "--task classification" in mistake("train", *flags, "--target", "label", "--task", "regression", *out)
    bad = write_pairs(folder / "bad.csv", ["D0", "D9"], ["P0", "P1"], y=[1, 2])
    assert "'D9' at position 1" in mistake("train", *flags, "--test", bad, *out)
    assert "Did you mean 'drug'?" in mistake("train", *flags, "--features", "durg * protein", *out)
    (folder / "file").write_text("x")
    assert "is a file" in mistake("train", *flags, "--out", folder / "file")


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


def test_mistakes_after_training(own, run):
    folder, _ = own
    pairs, out = folder / "test.csv", ["--out", folder / "p.csv"]
    bad = write_pairs(folder / "bad.csv", ["D0"], ["P99"])
    assert "P99" in mistake("predict", run, "--pairs", bad, *out)
    assert "does not exist" in mistake("predict", folder / "nothing", "--pairs", pairs, *out)
    assert "no tables.json" in mistake("predict", folder, "--pairs", pairs, *out)
    assert "--pairs FILE" in mistake("predict", run, *out)
    assert "cannot be written" in mistake("predict", run, "--pairs", pairs, "--out", folder / "no/p.csv")
    assert "Did you mean 'drug'?" in mistake("predict", run, "--table", "drg=x.npz", "--pairs", pairs, *out)
    assert "no column 'z'" in mistake("predict", run, "--column", "drug=z", "--pairs", pairs, *out)
    np.save(folder / "wide.npy", np.ones((2, 7)))
    assert "wide.npy" in mistake("predict", run, "--table", f"drug={folder / 'wide.npy'}", "--pairs", pairs, *out)
    assert "5 known" in mistake("predict", run, "--table", f"protein={folder / 'wide.npy'}", "--pairs", pairs, *out)
    assert "no column 'q'" in mistake("evaluate", run, "--pairs", pairs, "--target", "q")
    assert "text" in mistake("evaluate", run, "--pairs", pairs, "--target", "label")
    assert "give one of them" in mistake("evaluate", run, "--pairs", pairs, "--dataset", "davis")
    assert "give --pairs FILE too" in mistake("evaluate", run, "--target", "y")
    assert "no model" in mistake("inspect", folder)
    assert not (folder / "p.csv").exists()


def test_damaged_runs(own, run):
    folder, _ = own
    data = (run / "model.kron").read_bytes()
    (run / "model.kron").write_bytes(data[: len(data) // 2])
    assert "not a whole kronsgd model" in mistake("inspect", run)
    (run / "model.kron").write_bytes(data)
    (run / "tables/drug.npz").write_bytes(b"PK")
    assert "drug.npz" in mistake("evaluate", run, "--pairs", folder / "test.csv")
    (run / "tables.json").write_text('{"version": 3}')
    assert "tables.json is damaged" in mistake("evaluate", run, "--pairs", folder / "test.csv")


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


def test_divergence_is_told_and_exits_with_1(own):
    folder, flags = own
    args = ["train", *flags, *SMALL, "--set", "learning_rate_init=1e30", "--set", "max_iter=5", "--out", folder / "run"]
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 1
    assert "warning: learning_rate_init" in result.stderr
    assert load(folder / "run/model.kron").stop_reason_.name == "DIVERGED"


def test_doctor():
    out = call("doctor")
    for text in ("numpy", "numba", "threads", "BLAS", "kernel cache", "agree", "matplotlib", "Everything works"):
        assert text in out


def test_doctor_finds_what_is_broken(monkeypatch):
    import kronsgd.cli.doctor as doctor

    def broken() -> str:
        raise OSError("the folder cannot be written")

    monkeypatch.setattr(doctor, "_cache", broken)
    monkeypatch.setattr(doctor, "EXTRAS", {"plots": "no_such_module"})
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "BROKEN kernel cache: OSError: the folder cannot be written" in result.stdout
    assert 'pip install "kronsgd[plots]"' in result.stdout


@pytest.mark.parametrize("command", ["train", "predict", "evaluate", "inspect", "doctor"])
def test_every_command_and_option_has_a_help_text(command):
    from typer.main import get_command

    found = get_command(app).commands[command]
    assert found.help
    for param in found.params:
        assert getattr(param, "help", None), param.name
    assert "Usage" in call(command, "--help")


def test_version_and_bare_call():
    import kronsgd

    assert call("--version") == f"kronsgd {kronsgd.__version__}\n"
    assert all(name in call() for name in ("train", "predict", "evaluate", "inspect", "doctor"))
    assert "Did you mean 'train'?" in mistake("trian")
    out = subprocess.run([sys.executable, "-m", "kronsgd", "--version"], capture_output=True, text=True, check=True)
    assert out.stdout == f"kronsgd {kronsgd.__version__}\n"


@pytest.mark.parametrize("package", ["typer", "rich", "pydantic", "tomli_w"])
def test_without_the_extra_one_sentence_names_it(package, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("kronsgd.cli.") or name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f'error: the command line needs {package}; run pip install "kronsgd[cli]".\n'


# Parts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "1 + 2", "2 * a", "a * 2", "a - b", "a / b", "-a", "a ** b", "a ** 1.5", "a ** -1", "a ** True",
        "True + a", "a.b", "a[0]", "a(1)", "a if b else a", "lambda: a", "'a'", "a; b", "a == b", "a ** 65", "0 + a",
        "(" * 500 + "a",
        "c", "a\n+b)", "1e999 + a", "a" * 3000, "a ** 2 ** 2", "1 ** 2 + a", "a and b", "[a]", "{a}", "1j + a",
    ],
)  # fmt: skip
def test_an_expression_holds_nothing_but_the_algebra(text):
    with pytest.raises(ValueError, match=r".") as info:
        build_features(text, {"a": Dense([[1.0, 2.0]]), "b": Dense([[3.0]])})
    assert "\n" not in str(info.value)


def test_expressions_mean_what_they_say():
    a, b = Dense([[3.0, 4.0]], normalize=False), Dense([[2.0]], normalize=False)
    built = build_features(" (1 + a) * b ** 2 + 0.5 ", {"a": a, "b": b})
    np.testing.assert_allclose(built.inner(), ((1 + a) * b**2 + 0.5).inner())
    assert default_expression(["a"]) == "(1 + a) ** 2"
    assert default_expression(["a", "b", "c"]) == "(1 + a) * (1 + b) * (1 + c)"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n_hidden", "64", 64), ("alpha", "1", 1.0), ("shuffle", "false", False), ("threshold", "auto", "auto"),
        ("threshold", "0.5", 0.5), ("batch_size", "32", 32), ("n_jobs", "none", None), ("n_jobs", "2", 2),
        ("engine", "dense", "dense"), ("verbose", True, True), ("alpha", 0, 0.0),
    ],
)  # fmt: skip
def test_parameters_take_the_type_of_their_default(name, text, value):
    assert typed(name, text) == value
    assert type(typed(name, text)) is type(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_hidden", "6.5"), ("n_hidden", True), ("alpha", "x"), ("shuffle", "2"), ("n_jobs", "x"), ("init", [])],
)
def test_parameters_of_a_wrong_type_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        typed(name, value)
