"""The best partners of one entity, and scores of all pairs: from the estimator and from the command line."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.cli import SMALL, call, column, mistake, rows_of, write_pairs
from helpers.estimators import EXACT
from kronsgd import Dense, Kernel, KronClassifier, KronRegressor, load
from kronsgd.cli import predict as predict_module

pytestmark = pytest.mark.usefixtures("one_thread")


RAW = np.random.default_rng(2).normal(size=(8, 4))


def tables():
    latent = np.random.default_rng(0).normal(size=(7, 4))
    return Dense(RAW), Kernel(latent @ latent.T + np.eye(7))


def partly_measured(share=0.4):
    """(left, right, X, y, which cells were measured): missing cells are rows that are not there."""
    left, right = tables()
    rng = np.random.default_rng(1)
    measured = rng.random((8, 7)) < share
    measured[3] = [True, True, False, True, True, False, False]
    i, j = np.nonzero(measured)
    return left, right, (1 + left[i]) * (1 + right[j]), rng.normal(size=len(i)), measured


@pytest.mark.parametrize("engine", ["grid", "scan", "tree", "dense"])
def test_missing_cells_are_absent_rows(engine):
    """Training sees measured cells only: what the others would hold does not matter, and they are predicted all the same."""
    left, right, X, y, measured = partly_measured()
    model = KronRegressor(**EXACT, engine=engine, batching="random").fit(X, y)
    exact = KronRegressor(**EXACT, engine="dense", batching="random").fit(X, y)
    i, j = np.divmod(np.arange(56), 7)
    weights = measured.ravel().astype(float)  # the whole grid, with rubbish of weight 0 where nothing was measured
    filled = np.full(56, 1e6)
    filled[measured.ravel()] = y
    whole = KronRegressor(**EXACT, engine=engine, batching="random").fit((1 + left[i]) * (1 + right[j]), filled, weights)
    np.testing.assert_allclose(model.predict_grid(X), exact.predict_grid(X), atol=1e-9)
    np.testing.assert_allclose(whole.predict_grid(X), exact.predict_grid(X), atol=1e-9)


@pytest.mark.parametrize("engine", ["grid", "scan"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_rank_is_the_order_of_the_grid(engine, side, tmp_path):
    _, _, X, y, measured = partly_measured()
    model = KronRegressor(**EXACT, engine=engine).fit(X, y)
    model.save(tmp_path / "m.kron")
    grid, known = (model.predict_grid(X), measured) if side == "left" else (model.predict_grid(X).T, measured.T)
    order = np.argsort(-grid[3], kind="stable")
    partners, scores = model.rank(X, 3, 4, side=side, exclude_known=False)
    np.testing.assert_array_equal(partners, order[:4])
    np.testing.assert_allclose(scores, grid[3][order[:4]], atol=1e-10)
    unknown = [p for p in order if not known[3, p]]
    for one in (model, load(tmp_path / "m.kron")):
        np.testing.assert_array_equal(one.rank(X, 3, 100, side=side)[0], unknown)
    if side == "left":
        np.testing.assert_array_equal(model.rank(X, 3, 7, exclude_known=False)[0], model.top_k(X, 7)[0][3])


def test_rank_of_new_entities_and_of_known_ones_under_other_numbers():
    left, right, X, y, measured = partly_measured()
    model = KronRegressor(**EXACT).fit(X, y)
    new = left.like(np.vstack([np.ones((1, 4)), RAW[[3]]]))  # number 1 is the training table's number 3
    rows = np.array([0, 1, 0])
    pairs = (1 + new[rows]) * (1 + right[[0, 1, 2]])
    assert len(model.rank(pairs, 0, 100)[0]) == 7  # nothing of it is known
    assert set(model.rank(pairs, 1, 100)[0]) == set(np.flatnonzero(~measured[3]))


def test_a_classifier_ranks_by_log_odds_and_refuses_several_classes():
    _, _, X, y, _ = partly_measured(0.8)
    model = KronClassifier(**EXACT).fit(X, y > 0)
    grid = model.predict_grid(X)
    np.testing.assert_array_equal(model.rank(X, 2, 7, exclude_known=False)[0], np.argsort(-grid[2], kind="stable"))
    model = KronClassifier(**EXACT).fit(X, np.digitize(y, [-0.5, 0.5]))
    with pytest.raises(ValueError, match="the model gives 3"):
        model.rank(X, 2, exclude_known=False)


def test_mistakes():
    left, right, X, y, _ = partly_measured()
    model = KronRegressor(**EXACT).fit(X, y)
    for arguments, message in (
        ({"entity": 8}, "entity=8 is out of range; give a whole number of at least 0 and at most 7"),
        ({"entity": 1, "k": 0}, "k=0 is out of range"),
        ({"entity": 1, "side": "top"}, "side='top' is not known"),
    ):
        with pytest.raises(ValueError, match=message):
            model.rank(X, **arguments)
    whole = KronRegressor(**EXACT).fit((1 + left[[0] * 7]) * (1 + right[range(7)]), np.arange(7.0))
    partners, scores = whole.rank(X, 0)  # all are known
    assert len(partners) == len(scores) == 0


# On the command line ---------------------------------------------------------------------------------------------------


def test_all_pairs_of_a_run(own, run, monkeypatch):
    folder, _ = own
    monkeypatch.setattr(predict_module, "AT_ONCE", 7)
    call("predict", run, "--all", "--out", folder / "all.csv")
    written = rows_of(folder / "all.csv")
    assert [(row["drug"], row["protein_id"]) for row in written] == [(f"D{d}", f"P{p}") for d in range(6) for p in range(5)]
    pairs = write_pairs(folder / "q.csv", [row["drug"] for row in written], [row["protein_id"] for row in written])
    call("predict", run, "--pairs", pairs, "--out", folder / "q_out.csv")
    np.testing.assert_allclose(column(folder / "all.csv", "prediction"), column(folder / "q_out.csv", "prediction"), atol=1e-6)
    assert "give one of them" in mistake("predict", run, "--all", "--pairs", pairs, "--out", folder / "x.csv")
    assert [path.name for path in folder.glob(".*.part")] == []


def test_partners_of_an_entity(own, run):
    folder, _ = own
    call("predict", run, "--all", "--out", folder / "all.csv")
    of_d4 = [row for row in rows_of(folder / "all.csv") if row["drug"] == "D4"]
    expected = [row["protein_id"] for row in sorted(of_d4, key=lambda row: -float(row["prediction"]))]
    shown = call("rank", run, "drug=D4", "--known", "--k", 3, "--out", folder / "best.csv")
    assert [row["protein_id"] for row in rows_of(folder / "best.csv")] == expected[:3]
    assert "drug=D4: 3 of 5 partners" in shown
    call("rank", run, "drug=D4", "--out", folder / "best.csv", "--force")  # pairs.csv has D4 with P0 to P3
    assert [row["protein_id"] for row in rows_of(folder / "best.csv")] == ["P4"]
    call("rank", run, "protein=P0", "--known", "--out", folder / "best.csv", "--force")
    assert len(rows_of(folder / "best.csv")) == 6
    assert list(rows_of(folder / "best.csv")[0]) == ["protein_id", "drug", "prediction"]


def test_partners_by_class(own):
    folder, flags = own
    call("train", *flags, "--target", "label", *SMALL, "--out", folder / "run", "-q")
    call("rank", folder / "run", "drug=D5", "--k", 2, "--out", folder / "best.csv")
    p = column(folder / "best.csv", "p_none")
    assert p[0] >= p[1]


def test_mistakes_on_the_command_line(own, run):
    folder, flags = own
    assert "Did you mean 'drug'?" in mistake("rank", run, "drgu=D4")
    assert "D9" in mistake("rank", run, "drug=D9")
    assert "NAME=VALUE" in mistake("rank", run, "D4")
    assert "--known" in mistake("rank", run, "drug=D0")
    assert "--k=0" in mistake("rank", run, "drug=D4", "--k", 0)
    (folder / "mine.csv").write_text("mine")
    assert "--force" in mistake("rank", run, "drug=D4", "--out", folder / "mine.csv")
    call("train", *flags, "--features", "1 + drug", *SMALL, "--out", folder / "one", "-q")
    assert "two tables" in mistake("rank", folder / "one", "drug=D4")
