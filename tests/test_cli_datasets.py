"""The command line on published sets, from small files in their layout."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest

from helpers.cli import SMALL, call, column, mistake, rows_of


@pytest.fixture
def davis(tmp_path):
    """Davis in small: 6 drugs, 5 proteins, two training lists and a test list."""
    from kronsgd.datasets.davis import DRUGS, KD, PROTEINS

    folder, rng = tmp_path / "davis", np.random.default_rng(1)
    (folder / "folds").mkdir(parents=True)
    np.savetxt(folder / KD, 10 ** rng.uniform(0, 4, (6, 5)))
    for name, n in ((DRUGS, 6), (PROTEINS, 5)):
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
