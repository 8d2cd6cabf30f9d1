"""Scores against twins that follow each definition literally."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from kronsgd import metrics
from kronsgd.metrics import aupr_score, concordance_index, hit_rate_at_k, ndcg_at_k, per_entity, precision_at_k, rm2_score

few = st.integers(-3, 3).map(float)  # a few values, so that ties are common
pairs_of = st.lists(st.tuples(few, few), min_size=2, max_size=40)


def slow_concordance(y_true, y_pred):
    """Every pair with different targets, one at a time."""
    right = count = 0.0
    for i in range(len(y_true)):
        for j in range(len(y_true)):
            if y_true[i] > y_true[j]:
                count += 1
                right += 1.0 if y_pred[i] > y_pred[j] else 0.5 if y_pred[i] == y_pred[j] else 0.0
    return right / count


def slow_average_precision(positive, y_pred):
    """Σ (R_k − R_{k−1}) P_k over the thresholds from the highest prediction down."""
    area = recall = 0.0
    for threshold in sorted(set(y_pred), reverse=True):
        chosen = [p for p, score in zip(positive, y_pred, strict=True) if score >= threshold]
        new_recall = sum(chosen) / sum(positive)
        area += (new_recall - recall) * sum(chosen) / len(chosen)
        recall = new_recall
    return area


def slow_rm2(y_true, y_pred, squared):
    """Both fits by least squares: with an intercept for r², through the origin for r₀²."""
    total = sum((y - np.mean(y_true)) ** 2 for y in y_true)
    slope, intercept = np.polyfit(y_pred, y_true, 1)
    r2 = 1 - sum((y - slope * p - intercept) ** 2 for y, p in zip(y_true, y_pred, strict=True)) / total
    k = np.linalg.lstsq(np.asarray(y_pred)[:, None], np.asarray(y_true), rcond=None)[0][0]
    r02 = 1 - sum((y - k * p) ** 2 for y, p in zip(y_true, y_pred, strict=True)) / total
    return r2 * (1 - abs(r2**2 - r02**2) ** 0.5) if squared else r2 * (1 - abs(r2 - r02) ** 0.5)


@given(pairs_of)
@settings(max_examples=200, deadline=None)
def test_concordance_index_equals_its_definition_on_ties(pairs):
    y_true, y_pred = map(list, zip(*pairs, strict=True))
    if len(set(y_true)) == 1:
        with pytest.raises(ValueError, match="no pair can be compared"):
            concordance_index(y_true, y_pred)
    else:
        assert concordance_index(y_true, y_pred) == pytest.approx(slow_concordance(y_true, y_pred), abs=1e-15)


@pytest.mark.parametrize("n", [2, 3, 64, 65, 257])
def test_concordance_index_equals_its_definition_without_ties(n):
    rng = np.random.default_rng(n)
    y_true, y_pred = rng.standard_normal(n), rng.standard_normal(n)
    assert concordance_index(y_true, y_pred) == pytest.approx(slow_concordance(y_true, y_pred), abs=1e-15)


def test_concordance_index_of_known_orders():
    y = np.array([5.0, 5.0, 6.0, 7.0])
    assert concordance_index(y, y) == 1.0
    assert concordance_index(y, -y) == 0.0
    assert concordance_index(y, np.zeros(4)) == 0.5
    assert concordance_index([0, 1, 2], [0, 2, 1]) == pytest.approx(2 / 3)


def test_concordance_index_is_fast_and_exact_at_a_million_rows():
    n = 1_000_000
    y = np.arange(n)
    swapped = y.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert concordance_index(y, swapped) == pytest.approx(1 - 1 / (n * (n - 1) / 2), abs=1e-16)


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=3, max_size=30), st.booleans())
@settings(max_examples=100, deadline=None)
def test_rm2_equals_least_squares(pairs, squared):
    y_true, y_pred = (np.round(v, 2) for v in np.array(pairs).T)
    if np.ptp(y_true) == 0 or np.ptp(y_pred) == 0:
        with pytest.raises(ValueError, match="r² is not defined"):
            rm2_score(y_true, y_pred)
    else:
        expected = slow_rm2(y_true, y_pred, squared)  # the square root turns rounding of 1e-13 into 1e-6
        assert rm2_score(y_true, y_pred, squared=squared) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_rm2_by_hand():
    # y = (1, 2, 3), ŷ = (1, 2, 4): r² = 27/28, k = 17/21, Σ(y − kŷ)² = 14 − 17²/21 = 5/21, r₀² = 1 − 5/42 = 37/42
    r2, r02 = 27 / 28, 37 / 42
    assert rm2_score([1, 2, 3], [1, 2, 4]) == pytest.approx(r2 * (1 - (r2 - r02) ** 0.5))
    assert rm2_score([1, 2, 3], [1, 2, 4], squared=True) == pytest.approx(r2 * (1 - (r2**2 - r02**2) ** 0.5))
    assert rm2_score([1, 2, 3], [1, 2, 3]) == pytest.approx(1.0, abs=1e-7)


@given(st.lists(st.tuples(st.sampled_from([5.0, 6.9, 7.0, 7.1, 9.0]), few), min_size=2, max_size=30))
@settings(max_examples=100, deadline=None)
def test_aupr_equals_the_sum_over_thresholds(pairs):
    y_true, y_pred = map(list, zip(*pairs, strict=True))
    positive = [y > 7.0 for y in y_true]
    if all(positive) or not any(positive):
        with pytest.raises(ValueError, match="one side of threshold=7"):
            aupr_score(y_true, y_pred)
    else:
        assert aupr_score(y_true, y_pred) == pytest.approx(slow_average_precision(positive, y_pred))


def test_aupr_threshold_is_strict():
    assert aupr_score([5, 7, 8], [1, 3, 2]) == pytest.approx(0.5)
    assert aupr_score([5, 7, 8], [1, 3, 2], threshold=6) == pytest.approx(1.0)


# Errors and correlations ------------------------------------------------------------------------------------------------


def test_errors_and_correlations_against_their_definitions():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 6, 40).astype(float), rng.normal(size=40)
    assert metrics.root_mean_squared_error(y, p) == pytest.approx(sklearn.metrics.mean_squared_error(y, p) ** 0.5)
    assert metrics.mean_absolute_error(y, p) == pytest.approx(sklearn.metrics.mean_absolute_error(y, p))
    assert metrics.pearson_correlation(y, p) == pytest.approx(np.corrcoef(y, p)[0, 1])
    ranks = [np.array([(v > u).sum() + ((v == u).sum() + 1) / 2 for v, u in zip(a, [a] * 40, strict=True)]) for a in (y, p)]
    assert metrics.spearman_correlation(y, p) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    for score in (metrics.pearson_correlation, metrics.spearman_correlation):
        with pytest.raises(ValueError, match="all of y_pred are 1"):
            score([1.0, 2.0], [1.0, 1.0])


# Partners of each entity ------------------------------------------------------------------------------------------------


def every_order(y, scores):
    """The targets in each order that the scores allow; ties come in every order."""
    for order in itertools.permutations(range(len(y))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            yield [y[i] for i in order]


def slow_at_k(y, scores, k):
    """(hit rate, precision, NDCG) of one entity, averaged over every order of its ties."""
    ideal = sum(g / np.log2(2 + r) for r, g in enumerate(sorted(y, reverse=True)[:k]))
    orders = [order[:k] for order in every_order(y, scores)]
    dcg = np.mean([sum(g / np.log2(2 + r) for r, g in enumerate(order)) for order in orders])
    return np.mean([any(o) for o in orders]), np.mean([sum(o) / len(o) for o in orders]), dcg / ideal


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=1, max_size=6), st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_scores_at_k_equal_their_definitions_on_ties(rows, k):
    y, scores = [float(r[0]) for r in rows], [float(r[1]) for r in rows]
    entities = ["a"] * len(y)
    if not any(y):
        with pytest.raises(ValueError, match="is defined for no entity"):
            hit_rate_at_k(y, scores, entities, k)
        return
    expected = slow_at_k(y, scores, k)
    for score, value in zip((hit_rate_at_k, precision_at_k, ndcg_at_k), expected, strict=True):
        assert score(y, scores, entities, k) == pytest.approx(value)


def test_entities_count_alike_however_many_rows_they_have():
    rng = np.random.default_rng(0)
    entities = np.repeat(["a", "b", "c"], [20, 5, 1])
    y, p = rng.normal(size=26), rng.normal(size=26)
    expected = np.mean([concordance_index(y[:20], p[:20]), concordance_index(y[20:25], p[20:25])])  # "c" has no pair
    mixed = rng.permutation(26)
    assert per_entity(concordance_index, y[mixed], p[mixed], entities[mixed]) == pytest.approx(expected)
    known_drugs = np.where(entities == "a", 1.0, 0.0)  # knows the entities' levels and nothing within them
    assert per_entity(concordance_index, y, known_drugs, entities) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: per_entity(concordance_index, [1, 2], [1, 2], ["a", "b"]), "concordance_index is defined for no entity"),
        (lambda: per_entity(concordance_index, [1, 2], [1, 2], ["a"]), r"entities has shape \(1,\)"),
        (lambda: hit_rate_at_k([7.1, 0], [1, 2], [0, 0]), "relevant has the value 7.1"),
        (lambda: precision_at_k([1, 0], [1, 2], [0, 0], 0), "k=0 is out of range"),
        (lambda: ndcg_at_k([-1, 2], [1, 2], [0, 0]), "negative gains"),
    ],
)
def test_mistakes_in_scores_by_entity(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("score", [concordance_index, rm2_score, aupr_score, metrics.root_mean_squared_error,
                                   metrics.mean_absolute_error, metrics.pearson_correlation,
                                   metrics.spearman_correlation])  # fmt: skip
def test_bad_input_is_one_sentence(score):
    with pytest.raises(ValueError, match="y_true has shape"):
        score([5.0, 8.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="non-empty"):
        score([], [])
    with pytest.raises(ValueError, match="1-D"):
        score([[5.0, 8.0]], [[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"y_pred contains NaN at position \(1,\)"):
        score([5.0, 8.0], [1.0, np.nan])
