"""The comparison harness: its ridges and its tangent kernel are exact, and no test row is looked at."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import multivariate_normal
from sklearn.kernel_ridge import KernelRidge

from helpers.cli import call, mistake
from kronsgd import RBF, Bag, Dense, Kernel, OneHot, Sparse, Spectrum
from kronsgd.compare import Fold, compare, folds_of_problem, harness, random_folds
from kronsgd.compare import kernel_methods as kernels
from kronsgd.compare.columns import degree, distinct_leaves, side_by_side, without_columns, without_coordinates
from kronsgd.compare.methods import METHODS, make_method
from kronsgd.compare.selection import Prediction, chosen_setting, scores
from kronsgd.compare.tangent import limiting_tangent_kernel
from kronsgd.datasets import Problem, make_kron_teacher
from kronsgd.engines import ENGINES
from kronsgd.network import TwoLayer
from kronsgd.ridge import feature_ridge, kernel_ridge, normalised_inner, pair_ridge
from kronsgd.training.learning_rate import tangent_kernel

pytestmark = pytest.mark.usefixtures("one_thread")
RNG = np.random.default_rng(0)
DRUGS, PROTEINS = Dense(RNG.normal(size=(6, 3))), Kernel(np.corrcoef(RNG.normal(size=(7, 20))))
PENALTIES = [0.001, 0.1, 3.0]


def pair_rows(complete):
    i, j = np.divmod(RNG.permutation(42), 7) if complete else (RNG.integers(6, size=50), RNG.integers(7, size=50))
    X = (1 + DRUGS[i]) * (1 + PROTEINS[j])
    X_test = (1 + DRUGS[[0, 5, 5]]) * (1 + PROTEINS[[6, 0, 3]])
    return X, X_test, RNG.normal(size=(len(X), 2))


@pytest.mark.parametrize(("complete", "sparse"), [(True, 0), (False, 0), (False, 2)], ids=["complete", "dense", "sparse"])
def test_pair_ridge_is_ridge_on_the_dense_kernel(complete, sparse, monkeypatch):
    monkeypatch.setattr("kronsgd.ridge.SPARSE", sparse)  # a grid with repeated and missing pairs as either kind of array
    X, X_test, y = pair_rows(complete)
    found = pair_ridge(X, y, X_test, PENALTIES)
    gram, cross = normalised_inner(X, X), normalised_inner(X_test, X)
    for penalty, prediction in zip(PENALTIES, found, strict=True):
        expected = cross @ np.linalg.solve(gram + penalty * np.eye(len(y)), y - y.mean(axis=0)) + y.mean(axis=0)
        np.testing.assert_allclose(prediction, expected, atol=1e-10 if complete else 1e-6)


def test_the_path_is_scikit_learns_kernel_ridge():
    X, X_test, y = pair_rows(False)
    gram, cross = normalised_inner(X, X), normalised_inner(X_test, X)
    for penalty, prediction in zip(PENALTIES, kernel_ridge(gram, y, cross, PENALTIES), strict=True):
        model = KernelRidge(alpha=penalty, kernel="precomputed").fit(gram, y - y.mean(axis=0))
        np.testing.assert_allclose(prediction, model.predict(cross) + y.mean(axis=0), atol=1e-9)


@pytest.mark.parametrize("columns", [4, 40])
def test_feature_ridge_is_ridge_on_centred_features(columns):
    phi, phi_test, y = RNG.normal(size=(20, columns)), RNG.normal(size=(3, columns)), RNG.normal(size=(20, 2))
    for penalty, prediction in zip(PENALTIES, feature_ridge(phi, y, phi_test, PENALTIES), strict=True):
        centred = phi - phi.mean(axis=0)
        weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(columns), centred.T @ (y - y.mean(axis=0)))
        np.testing.assert_allclose(prediction, (phi_test - phi.mean(axis=0)) @ weights + y.mean(axis=0), atol=1e-9)


@pytest.mark.parametrize("threshold", [0.0, 1.3])
def test_tangent_kernel_is_the_orthant_probability(threshold):
    rho = np.array([-0.9, -0.3, 0.0, 0.4, 0.95])
    both = [multivariate_normal.cdf([-threshold] * 2, cov=[[1, r], [r, 1]]) for r in rho]
    expected = rho * both / multivariate_normal.cdf(-threshold)
    np.testing.assert_allclose(limiting_tangent_kernel(rho, threshold), expected, atol=1e-7)
    np.testing.assert_allclose(limiting_tangent_kernel(np.array([1.0, -1.0]), threshold), [1, 0], atol=1e-12)


def test_a_wide_network_starts_with_this_tangent_kernel():
    X = Dense(RNG.normal(size=(8, 3)))
    network = TwoLayer(40_000, threshold=0.8, init="gaussian", dtype="float64")
    state = ENGINES["dense"].initialize(network, X, True)
    found = tangent_kernel(ENGINES["dense"], state, np.arange(8))
    expected = limiting_tangent_kernel(X.inner(), 0.8)
    np.testing.assert_allclose(found / np.diag(found).mean(), expected, atol=0.03)


def test_columns_of_every_kind_of_table():
    i, j = np.array([0, 1, 1]), np.array([2, 0, 1])
    similarity = PROTEINS[j]
    X = (1 + DRUGS[i]) ** 2 * similarity * DRUGS[i]
    assert distinct_leaves(X) == [0, 1]  # the same table under the same index counts once
    np.testing.assert_allclose(side_by_side(X, [0, 1]), np.hstack([DRUGS.array[i], PROTEINS.gram[j]]))
    assert distinct_leaves(DRUGS[i] * DRUGS[j]) == [0, 1]  # under another index it is another column
    sparse = Sparse(sp.csr_array(np.eye(3)))[j] * OneHot([0, 1])[i]
    np.testing.assert_array_equal(side_by_side(sparse, [0, 1]).toarray(), np.hstack([np.eye(3)[j], np.eye(2)[i]]))
    vectors = RNG.normal(size=(3, 2))
    np.testing.assert_allclose(side_by_side(RBF(vectors), [0]), vectors, rtol=1e-6)
    assert degree(X) == 4
    assert degree(1 + DRUGS) == 1
    assert without_columns(X) is None
    assert "known by its kernel only" in without_coordinates(X)
    assert without_coordinates(sparse) is None


def test_columns_of_derived_tables():
    """As those of the table that holds them: sparse where it is, and none where new entities would have others."""
    vectors = RNG.normal(size=(3, 2))
    np.testing.assert_allclose(side_by_side((0.25 * RBF(vectors))[[2, 0]], [0]), 0.5 * vectors[[2, 0]], rtol=1e-6)
    assert without_columns(0.25 * RBF(vectors)) is None
    np.testing.assert_allclose(side_by_side((0.25 * PROTEINS)[[1]], [0]), 0.5 * PROTEINS.gram[[1]])
    assert "known by its kernel only" in without_coordinates(0.25 * PROTEINS)
    texts = Spectrum(["ABCD", "BCDE", "DEFG"], 2)
    columns = side_by_side(texts[[2, 0]], [0])
    assert sp.issparse(columns)
    np.testing.assert_allclose(columns.toarray(), texts[[2, 0]].dense())
    bags = Bag(DRUGS * DRUGS, [0, 0, 1, 1, 2, 2], form="items")
    assert "has no columns" in without_columns(bags)
    assert "has no coordinates" in without_coordinates(bags)
    assert without_columns(Bag(DRUGS * DRUGS, [0, 0, 1, 1, 2, 2], form="dense")) is None


def test_large_kernel_tables_have_no_columns(monkeypatch):
    monkeypatch.setattr("kronsgd.compare.columns.MOST_ANCHORS", 6)
    assert "7 entities are too many columns" in without_columns(PROTEINS)


def test_folds_cover_every_row_once_and_keep_inner_folds_inside():
    X, y, _ = make_kron_teacher(60, (3, 3), n_classes=2, random_state=0)
    folds = random_folds(X, y, 2, n_folds=3, n_inner=2)
    assert sum(len(fold.y_test) for fold in folds) == 60
    for fold in folds:
        np.testing.assert_array_equal(np.sort(np.concatenate(fold.inner)), np.arange(len(fold.y)))
        assert [len(part.y) + len(part.y_test) for part in fold.inside()] == [len(fold.y)] * 2


def test_a_problems_own_test_rows_are_the_one_fold():
    X, _, _ = make_kron_teacher(30, (3, 3), random_state=0)
    labels = np.array(["no", "yes", "yes"] * 10)
    held = [np.arange(5), np.arange(5, 10)]
    (fold,) = folds_of_problem(Problem(X[:20], labels[:20], X[20:], labels[20:], held, "own", "classification"))
    assert fold.n_classes == 2
    assert [part.tolist() for part in fold.inner] == [part.tolist() for part in held]
    np.testing.assert_array_equal(fold.y_test, labels[20:] == "yes")
    with pytest.raises(ValueError, match="class 'maybe'"):
        folds_of_problem(Problem(X[:20], labels[:20], X[20:], np.array(["maybe"] * 10), [], "own", "classification"))


def test_a_setting_is_chosen_on_training_rows_only():
    """With test targets replaced by nonsense, every method chooses and predicts the same."""
    X, y, _ = make_kron_teacher(60, (3, 3), n_neurons=2, random_state=0)
    fold = random_folds(X, y, n_folds=2, n_inner=2)[0]
    blind = Fold(fold.X, fold.y, fold.X_test, np.full(len(fold.y_test), 1e6), 0, fold.inner)
    for name in ("kronecker-ridge", "tangent-ridge", "nystrom", "svm"):
        method = make_method(name, {}, [])
        setting = chosen_setting(method, fold)
        assert chosen_setting(method, blind) == setting
        (seen,), (unseen,) = (method.predict(f, [setting], 0) for f in (fold, blind))
        np.testing.assert_array_equal(seen.values, unseen.values)


def test_the_best_setting_wins_and_ties_go_to_the_first():
    class Shifts:
        name, seeded, settings = "shifts", False, [{"by": 2.0}, {"by": 0.0}, {"by": -0.0}]

        def predict(self, fold, settings, seed):
            return [Prediction(fold.y_test + setting["by"]) for setting in settings]

    fold = random_folds(np.zeros((20, 1)), RNG.normal(size=20), n_folds=2, n_inner=2)[0]
    assert chosen_setting(Shifts(), fold) is Shifts.settings[1]


@pytest.mark.parametrize("plain", [False, True], ids=["expression", "plain array"])
@pytest.mark.parametrize("n_classes", [0, 3])
def test_every_method_beats_the_mean(plain, n_classes):
    X, y, _ = make_kron_teacher(150, (3, 2), n_neurons=3, noise=0.0, n_classes=n_classes or None, random_state=1)
    fold = random_folds(X.dense() if plain else X, y, n_classes, n_folds=2, n_inner=2)[0]
    for name in METHODS:
        if name == "linear" and not plain:
            continue  # a linear model of the two sides cannot know their interaction
        method = make_method(name, {"n_hidden": 64}, [])
        assert method.refusal(fold) is None
        (prediction,) = method.predict(fold, method.settings[len(method.settings) // 2 :][:1], 0)
        reached = scores(fold, prediction)
        if n_classes:
            assert reached["accuracy"] > np.bincount(fold.y_test).max() / len(fold.y_test), name
        else:
            assert reached["r2"] > 0.2, name


def test_what_cannot_run_says_why(monkeypatch):
    i, j = RNG.integers(6, size=40), RNG.integers(7, size=40)
    fold = random_folds(DRUGS[i] * PROTEINS[j], RNG.normal(size=40), n_folds=2)[0]
    assert "no coordinates" in make_method("tensorsketch", {}, []).refusal(fold)
    monkeypatch.setattr(kernels, "MOST_ROWS", 5)
    assert "too many for a kernel matrix" in make_method("tangent-ridge", {}, []).refusal(fold)
    assert make_method("kronecker-ridge", {}, []).refusal(fold) is None  # the grid of pairs is small
    monkeypatch.setattr(kernels, "MOST_CELLS", 5)
    assert "fill no grid" in make_method("kronecker-ridge", {}, []).refusal(fold)
    assert "more than 5" in harness_svm(monkeypatch).refusal(fold)


def harness_svm(monkeypatch):
    monkeypatch.setattr("kronsgd.compare.models.SVM_ROWS", 5)
    return make_method("svm", {}, [])


def test_a_comparison_from_its_own_processes(tmp_path):
    i, j = RNG.integers(6, size=60), RNG.integers(7, size=60)
    problem = Problem(DRUGS[i] * PROTEINS[j], DRUGS.array[i, 0] * PROTEINS.gram[j, 0], name="planted")
    seen = []
    compared = compare(problem, methods=["kronecker-ridge", "tensorsketch", "nystrom"], n_folds=2, n_inner=2, seeds=2,
                       done=seen.append)  # fmt: skip
    assert len(seen) == len(compared.rows) == 3
    assert "TensorSketch" in compared.rows[-1].name
    assert len(compared.left_out) == 1
    runs = {row.name.split(" ")[0]: row.run for row in compared.rows if row.refusal is None}
    assert len(runs["Kronecker"]["scores"]) == 2  # chance plays no part
    assert len(runs["Nyström"]["scores"]) == 4
    best = compared.rows[0].mean["mse"]
    assert best == pytest.approx(np.mean([score["mse"] for score in compared.rows[0].run["scores"]]))
    assert best <= compared.rows[1].mean["mse"]
    raw, page = compared.save(tmp_path / "out")
    assert json.loads(raw.read_text())["rows"][0]["mean"]["mse"] == best
    assert f"{best:.4g}" in page.read_text()
    assert "Left out: TensorSketch" in page.read_text()


def test_a_method_that_takes_too_long_or_fails_is_listed(monkeypatch):
    X, y, _ = make_kron_teacher(30, (3, 3), random_state=0)
    row = compare(Problem(X, y), methods=["svm"], n_folds=2, n_inner=2, seeds=1, timeout=0.01).rows[0]
    assert "stopped after 0.01 seconds" in row.refusal
    monkeypatch.setattr(harness, "_environment", lambda: {"PYTHONPATH": "nowhere", "PYTHONHOME": "nowhere"})
    row = compare(Problem(X, y), methods=["svm"], n_folds=2, n_inner=2, seeds=1).rows[0]
    assert "ended with code" in row.refusal


def test_mistakes_are_refused_before_any_work():
    X, y, _ = make_kron_teacher(30, (3, 3), random_state=0)
    with pytest.raises(ValueError, match=r"method='smv' is not known.*Did you mean 'svm'"):
        compare(Problem(X, y), methods=["smv"])
    with pytest.raises(ValueError, match="n_hiden"):
        compare(Problem(X, y), params={"n_hiden": 3})
    with pytest.raises(ValueError, match="too few for 20 folds"):
        compare(Problem(X, y), n_folds=20)
    with pytest.raises(ValueError, match="no method"):
        compare(Problem(X, y), methods=[])
    with pytest.raises(ValueError, match="no fold"):
        compare([])
    good = random_folds(X.dense(), y, n_folds=2)[0]
    with pytest.raises(ValueError, match="X contains NaN"):
        compare([replace(good, X=np.full_like(good.X, np.nan))])
    with pytest.raises(ValueError, match="no inner folds"):
        compare([replace(good, inner=())])
    with pytest.raises(ValueError, match=r"targets of shape \(15, 1\)"):
        compare([replace(good, y=good.y[:, None])])
    with pytest.raises(ValueError, match="class number 1 has only 1 rows"):
        random_folds(X, np.eye(30, dtype=int)[0], 2)


def test_the_command(own):
    folder, flags = own
    out = call("compare", *flags, "--method", "kronsgd", "--method", "kronecker-ridge", "--folds", 2, "--inner-folds", 2,
               "--seeds", 1, "--n-hidden", 32, "--set", "max_iter=2", "--search", "output_scale=0.1", "--out",
               folder / "compared")  # fmt: skip
    assert "mean squared error" in out
    assert (folder / "compared" / "comparison.md").exists()
    found = json.loads((folder / "compared" / "comparison.json").read_text())
    assert {row["name"] for row in found["rows"]} == {"kronsgd", "Kronecker kernel ridge, same kernel"}
    assert "svm" in mistake("compare", *flags, "--method", "smv")
    assert "sample weights" in mistake("compare", folder / weighted(folder, flags))


@pytest.mark.parametrize("fraction", [None, 0.3])
def test_the_command_keeps_to_the_setting(own, monkeypatch, fraction):
    """A drug that is to be new in the test is new in every fold, and in every inner fold."""
    folder, flags = own
    (folder / "cold.toml").write_text('[validation]\nsetting = "new drug"\n')
    seen = []
    module = sys.modules["kronsgd.cli.compare"]
    monkeypatch.setattr(module, "run_comparison", lambda data, **how: seen.append(data) or compare(data, **how))
    held_out = [] if fraction is None else ["--test-fraction", fraction]
    cold = ["compare", folder / "cold.toml", *flags, *held_out, "--method", "linear"]
    out = call(*cold, "--folds", 3, "--inner-folds", 2)
    assert "new drug" in out
    (folds,) = seen
    assert len(folds) == (3 if fraction is None else 1)

    def overlap(one, other):
        drug, other_drug = (next(X.leaves()).dense() for X in (one, other))
        return (np.abs(drug[:, None] - other_drug).max(axis=2) < 1e-9).any()

    for fold in folds:
        assert not overlap(fold.X, fold.X_test)
        assert len(fold.inner) == 2
        for inner in fold.inside():
            assert not overlap(inner.X, inner.X_test)
    (folder / "cold.toml").write_text('[validation]\nsetting = "both new"\n')
    assert 'setting="both new"' in mistake(*cold)
    assert "predicts an order" in mistake("compare", *flags, "--set", "loss=ranking")


def weighted(folder, flags):
    table = [flag for flag in map(str, flags) if flag.startswith(("drug=", "protein="))]
    drug, protein = (text.split("=", 1)[1].removesuffix(":kernel") for text in table[:2])
    (folder / "w.toml").write_text(
        f'[tables.drug]\nfile = "{drug}"\n[tables.protein]\nfile = "{protein}"\nkind = "kernel"\n'
        f'[pairs]\nfile = "{folder / "pairs.csv"}"\nweight = "w"\ncolumns = {{ protein = "protein_id" }}\n'
    )
    return "w.toml"
