"""Losses against finite differences and literal definitions; training with them against the dense engine."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.estimators import EXACT, pairs
from kronsgd import Dense, KronClassifier, KronRegressor, load
from kronsgd.losses import LOSSES, Huber, Members, Ranking
from kronsgd.metrics import concordance_index, per_entity
from kronsgd.training import epoch_batches

pytestmark = pytest.mark.usefixtures("one_thread")


def cases():
    """Name -> (loss, outputs (S, C), targets, its own share of the derivative)."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(30, 2))
    ranked = np.column_stack([rng.integers(0, 4, 30), rng.integers(0, 5, 30)]).astype(float)
    ranked[0, 1] = 99  # alone in its group
    return {
        "huber": (Huber(0.7), 2 * rng.normal(size=(30, 2)), numbers, 1),
        "ranking": (Ranking(), 2 * rng.normal(size=(30, 1)), ranked, 1),
        "ranking, all pairs": (Ranking(), 2 * rng.normal(size=(30, 1)), ranked * [1, 0], 1),
        "three networks": (Members(Huber(0.7), 3), rng.normal(size=(30, 6)), numbers, 3),
        "three rankings": (Members(Ranking(), 3), rng.normal(size=(30, 3)), ranked, 3),
        "three of classes": (Members(LOSSES["softmax"], 3), rng.normal(size=(30, 12)), np.eye(4)[rng.integers(0, 4, 30)], 3),
    }


@pytest.mark.parametrize("name", cases())
def test_derivative_and_curvature_by_finite_differences(name):
    loss, f, y, share = cases()[name]
    assert loss.n_outputs(y) == f.shape[1]
    assert loss.value(f, y).shape == (30,)
    h, got = 1e-6, loss.derivative(f, y)
    assert got.shape == f.shape
    hessian = np.empty((f.size, f.size))
    for k in range(f.size):
        step = h * np.eye(f.size)[k].reshape(f.shape)
        numeric = share * (loss.value(f + step, y).sum() - loss.value(f - step, y).sum()) / (2 * h)
        assert got.flat[k] == pytest.approx(numeric, abs=1e-7)
        hessian[k] = ((loss.derivative(f + step, y) - loss.derivative(f - step, y)) / (2 * h)).ravel()
    assert np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1] <= loss.curvature + 1e-8
    far = np.full_like(f, 1e4) * np.where(np.arange(f.size).reshape(f.shape) % 2, 1, -1)
    assert np.isfinite(loss.value(far, y)).all()


def test_ranking_equals_its_definition():
    loss, f, y, _ = cases()["ranking"]
    expected, total = np.zeros(30), 0.0
    for i in range(30):
        for j in range(30):
            if y[i, 1] == y[j, 1] and y[i, 0] > y[j, 0]:
                pair = np.log1p(np.exp(f[j, 0] - f[i, 0])) / ((y[:, 1] == y[i, 1]).sum() - 1)
                expected[[i, j]] += pair / 2
                total += pair
    np.testing.assert_allclose(loss.value(f, y), expected)
    assert loss.value(f, y).sum() == pytest.approx(total)
    assert loss.value(f, y)[0] == loss.derivative(f, y)[0, 0] == 0  # alone in its group


def test_huber_is_squared_near_and_linear_far():
    y = np.zeros((3, 1))
    f = np.array([[0.5], [3.0], [-4.0]])
    np.testing.assert_allclose(Huber(1.0).value(f, y), [0.125, 2.5, 3.5])
    np.testing.assert_allclose(Huber(1.0).derivative(f, y)[:, 0], [0.5, 1.0, -1.0])
    np.testing.assert_array_equal(Huber(1e9).value(f, y), LOSSES["squared"].value(f, y))


@pytest.mark.parametrize("engine", ["scan", "grid", "tree"])
@pytest.mark.parametrize("loss", ["huber", "ranking"])
def test_training_takes_the_dense_engines_steps(engine, loss):
    X, y = pairs()
    options = {**EXACT, "loss": loss, "delta": 0.5, "batching": "random", "shuffle": True, "max_iter": 5, "n_networks": 2}
    groups = {"groups": np.arange(30) % 4} if loss == "ranking" else {}
    model = KronRegressor(**options, engine=engine).fit(X, y, **groups)
    exact = KronRegressor(**options, engine="dense").fit(X, y, **groups)
    np.testing.assert_allclose(model.predict_members(X), exact.predict_members(X), atol=1e-10)
    np.testing.assert_allclose(model.loss_curve_, exact.loss_curve_, rtol=1e-10)
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    assert np.ptp(model.predict(X)) > 1e-3


def test_huber_withstands_outliers():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    clean = x[:, 0] + x[:, 1] * x[:, 2]
    y = clean + 0.05 * rng.normal(size=300)
    y[:20] += rng.choice([-60.0, 60.0], 20)
    options = {"n_hidden": 128, "random_state": 0, "n_jobs": 1, "output_scale": 0.3, "max_iter": 60}
    errors = {
        loss: np.mean((KronRegressor(**options, loss=loss, delta=0.3).fit(x, y).predict(x) - clean) ** 2)
        for loss in ("squared", "huber")
    }
    assert errors["huber"] < 0.2 * errors["squared"]
    model = KronRegressor(**options, loss="huber").fit(x, y)
    assert model.y_mean_[0] == np.quantile(y, 0.5, method="inverted_cdf")
    assert model.y_scale_[0] < 3 < np.std(y)


def test_ranking_learns_orders_within_groups_only():
    """Groups differ by huge levels that say nothing of the order within a group."""
    rng = np.random.default_rng(0)
    a, b = Dense(rng.normal(size=(12, 3))), Dense(rng.normal(size=(15, 3)))
    i, j = np.divmod(np.arange(180), 15)
    order = a.array[i, 0] * b.array[j, 0] + 0.5 * b.array[j, 1]
    y = order + 1000 * rng.normal(size=12)[i]
    X = (1 + a[i]) * (1 + b[j])
    options = {"n_hidden": 128, "random_state": 0, "n_jobs": 1, "output_scale": 0.3, "max_iter": 30}
    model = KronRegressor(**options, loss="ranking").fit(X, y, groups=i)
    squared = KronRegressor(**options).fit(X, y)
    assert per_entity(concordance_index, y, model.predict(X), i) > 0.95
    assert per_entity(concordance_index, y, model.predict(X), i) > per_entity(concordance_index, y, squared.predict(X), i)
    whole = KronRegressor(**options, loss="ranking").fit(X, y)  # all pairs: the levels count
    assert whole.score(X, y) == concordance_index(y, whole.predict(X))
    assert whole.score(X, y) > model.score(X, y) + 0.1


def test_clicks_are_ranked_above_the_rest():
    """Implicit feedback: 1 for what a user took, 0 for what was shown, users as groups."""
    rng = np.random.default_rng(0)
    users, items = rng.normal(size=(15, 3)), rng.normal(size=(20, 3))
    i, j = np.divmod(np.arange(300), 20)
    taste = np.einsum("ij,ij->i", users[i], items[j])
    y = (taste > 1).astype(int)
    X = Dense(users)[i] * Dense(items)[j]
    model = KronRegressor(128, loss="ranking", random_state=0, n_jobs=1, max_iter=30, output_scale=0.3).fit(X, y, groups=i)
    assert per_entity(concordance_index, y, model.predict(X), i) > 0.95


def test_automatic_choices_streams_and_held_out_rows_with_groups():
    X, y = pairs()
    groups = np.array(list("abc"))[np.arange(30) % 3]
    model = KronRegressor(64, loss="ranking", n_jobs=1, random_state=0, early_stopping=True, validation_fraction=0.3)
    model.fit(X, y, groups=groups)
    assert np.isfinite([record["validation_loss"] for record in model.history_]).all()
    model.partial_fit(X[:10], y[:10], groups=groups[:10])
    assert np.isfinite(model.predict(X)).all()
    left_out = np.arange(30) >= 5
    options = {**EXACT, "loss": "ranking"}
    weighted = KronRegressor(**options).fit(X, y, left_out.astype(float), groups=groups)
    fewer = KronRegressor(**options).fit(X[5:], y[5:], groups=groups[5:])
    np.testing.assert_allclose(weighted.predict(X), fewer.predict(X))


def test_batches_go_from_group_to_group():
    groups = np.arange(100) % 7
    batches = epoch_batches(100, 12, shuffle=True, seed=0, epoch=0, groups=groups)
    assert sorted(np.concatenate(batches)) == list(range(100))
    assert max(len(set(groups[batch])) for batch in batches) <= 3
    again = epoch_batches(100, 12, shuffle=True, seed=0, epoch=1, groups=groups)
    assert any(not np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


@pytest.mark.parametrize(
    ("params", "fit", "message"),
    [
        ({"loss": "rank"}, {}, "loss='rank' is not known; choose one of .* Did you mean 'ranking'"),
        ({"loss": "huber", "delta": 0}, {}, "delta=0"),
        ({}, {"groups": np.zeros(30)}, "leave groups out"),
        ({"loss": "ranking"}, {"groups": np.zeros(3)}, r"groups has shape \(3,\) but y has \(30,\)"),
        ({"loss": "ranking"}, {"sample_weight": np.linspace(1, 2, 30)}, "knows no weights of rows"),
    ],
)
def test_mistakes(params, fit, message):
    X, y = pairs()
    with pytest.raises(ValueError, match=message):
        KronRegressor(**EXACT, **params).fit(X, y, **fit)
    with pytest.raises(ValueError, match="give 1-D y"):
        KronRegressor(**EXACT, loss="ranking").fit(X, np.column_stack([y, y]))


# Weights of classes ----------------------------------------------------------------------------------------------------


def unbalanced():
    X, y = pairs(40)
    return X, np.where(y > np.quantile(y, 0.8), "rare", "common")


@pytest.mark.parametrize("class_weight", ["balanced", {"rare": 3.0}, {"rare": 3.0, "common": 0.5}])
def test_class_weights_are_sample_weights(class_weight):
    X, y = unbalanced()
    own = np.linspace(0.5, 1.5, 40)
    if class_weight == "balanced":
        totals = {label: own[y == label].sum() for label in ("rare", "common")}
        factor = np.array([own.sum() / (2 * totals[label]) for label in y])
    else:
        factor = np.array([class_weight.get(label, 1.0) for label in y])
    model = KronClassifier(**EXACT, class_weight=class_weight).fit(X, y, own)
    twin = KronClassifier(**EXACT).fit(X, y, own * factor)
    np.testing.assert_allclose(model.decision_function(X), twin.decision_function(X), atol=1e-12)
    plain = KronClassifier(**EXACT).fit(X, y, own)
    assert model.predict_proba(X)[:, 1].mean() > plain.predict_proba(X)[:, 1].mean()  # "rare" comes second


def test_mistakes_in_class_weights():
    X, y = unbalanced()
    for class_weight, message in (
        ("balance", 'give "balanced"'),
        ({"rae": 2}, "class_weight names the class 'rae', but y has"),
        ({"rare": -1}, r"class_weight\['rare'\]=-1"),
    ):
        with pytest.raises(ValueError, match=message):
            KronClassifier(**EXACT, class_weight=class_weight).fit(X, y)
    with pytest.raises(ValueError, match="needs all rows at once"):
        KronClassifier(**EXACT, class_weight="balanced").partial_fit(X, y, classes=np.unique(y))
    stream = KronClassifier(**EXACT, class_weight={"rare": 2}).partial_fit(X[:1], ["common"], classes=np.unique(y))
    assert stream.partial_fit(X, y).predict(X).shape == (40,)
    stream = KronClassifier(**EXACT, class_weight={"rae": 2})
    with pytest.raises(ValueError, match="names the class 'rae', but y has"):
        stream.partial_fit(X, y, classes=np.unique(y))
    with pytest.raises(ValueError, match="names the class 'rae', but y has"):
        KronClassifier(**EXACT).fit(X, y).set_params(class_weight={"rae": 2}).fit(X, y)


@pytest.mark.parametrize("labels", [["common", "rare"], [3, 8], [False, True]])
def test_class_weights_are_kept_in_files(labels, tmp_path):
    X, y = unbalanced()
    y = np.array(labels)[(y == "rare").astype(int)]
    model = KronClassifier(**EXACT, class_weight={np.array(labels)[1]: 3.0}).fit(X, y)
    model.save(tmp_path / "m.kron")
    loaded = load(tmp_path / "m.kron")
    assert loaded.class_weight == {labels[1]: 3.0}
    for one in (model, loaded):
        one.partial_fit(X[:10], y[:10])
    assert loaded.decision_function(X).tobytes() == model.decision_function(X).tobytes()


@pytest.mark.parametrize("loss", ["squared", "ranking"])
def test_rows_of_weight_zero_are_not_there_in_a_stream(loss):
    X, y = pairs(30)
    kept = np.arange(30) % 3 > 0
    model, twin = (KronRegressor(**EXACT, loss=loss).partial_fit(X[:10], y[:10]) for _ in range(2))
    model.partial_fit(X, y, kept.astype(float))
    twin.partial_fit(X[kept], y[kept])
    np.testing.assert_array_equal(model.predict(X), twin.predict(X))
