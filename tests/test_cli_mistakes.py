"""One line for each mistake in a call of `kronsgd train`, and nothing left behind."""

from __future__ import annotations

import pytest

from helpers.cli import SMALL, mistake, write_pairs

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
