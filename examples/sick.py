"""How closely are two sentences related, on a scale from 1 to 5? SICK's pairs, without word vectors or lexicons from outside.

    KRONSGD_DATA=folder python examples/sick.py    # folder/sick holds the published files; two minutes on two cores
    python examples/sick.py --quick                # a small size; made-up sentences where the set is not there

A row is a product of two things: how much the sentences overlap (a kernel over some 70 numbers) and which words were replaced
by which (a table of all pairs of words, 3 million entries that are never built). So the cost of "man" → "woman" is learned from
the training pairs, and how much it counts depends on the rest. Everything is learned from the training sentences.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

import kronsgd as ks
from kronsgd.datasets import SentenceSpace, load_sick
from kronsgd.plotting import plot_predictions

GAMMA = 0.3  # of the kernel over the overlaps, by the number of columns; by cross-validation on the training pairs
PENALTY = 3.0  # of the support vector regression on the same product; by the trial pairs
SETTINGS: dict[str, Any] = {"n_hidden": 512, "max_iter": 20, "random_state": 0}  # by the trial pairs too


def expression(space: SentenceSpace, first: Any, second: Any, train: Any) -> tuple[Any, np.ndarray]:
    """(rows as a function of pair numbers, the same features as plain columns for other models)."""
    overlap = space.overlap(first, second)
    overlap = np.clip(StandardScaler().fit(overlap[train]).transform(overlap), -4, 4)
    d = space.replaced(first, second)
    columns = np.hstack([overlap, np.abs(d.dense())])  # which sentence a word is missing in must not matter here either

    def rows(pairs: Any) -> ks.Features:
        return ks.RBF(overlap[pairs], gamma=GAMMA / overlap.shape[1]) * (1 + d[pairs] ** 2)

    return rows, columns


def made_up_pairs(n: int, seed: int = 0) -> tuple[list[str], Any, Any, np.ndarray]:
    """Sentences from a template; a pair's score falls with each replaced word, by how far apart the two words are."""
    rng = np.random.default_rng(seed)
    slots = [["man", "woman", "boy", "dog"], ["holding", "carrying", "painting", "washing"], ["guitar", "flute", "boat", "car"]]
    places = [np.sort(rng.uniform(size=len(slot))) for slot in slots]  # near each other: alike
    choice = rng.integers(4, size=(2 * n, 3))
    sentences = [f"A {a} is {b} a {c}" for a, b, c in (map(list.__getitem__, slots, map(int, row)) for row in choice)]
    far = sum(np.abs(place[choice[:n, k]] - place[choice[n:, k]]) for k, place in enumerate(places))
    return sentences, np.arange(n), np.arange(n, 2 * n), np.clip(5 - 2 * far + 0.1 * rng.normal(size=n), 1, 5)


def read(data: Path, quick: bool) -> tuple[list[str], Any, Any, np.ndarray, Any, Any]:
    """(sentences, first, second, scores, training pairs, test pairs)."""
    if data.is_dir():
        pairs = load_sick(data)
        train, test = np.concatenate([pairs.parts["train"], pairs.parts["trial"]]), pairs.parts["test"]
        train, test = (train[:800], test[:400]) if quick else (train, test)
        return pairs.sentences, pairs.first, pairs.second, pairs.scores, train, test
    if not quick:
        raise SystemExit(f"{data} is not there: set KRONSGD_DATA to the folder that holds sick/, or try --quick.")
    print(f"{data} is not there, so the sentences are made up.")
    return *made_up_pairs(600), np.arange(450), np.arange(450, 600)


def score(name: str, true: np.ndarray, predicted: np.ndarray, started: float) -> None:
    """One line: Pearson first, then Spearman and the mean squared error."""
    pearson, spearman = np.corrcoef(true, predicted)[0, 1], spearmanr(true, predicted).statistic
    error = np.mean((true - predicted) ** 2)
    print(f"{name:24} Pearson {pearson:.3f}  Spearman {spearman:.3f}  MSE {error:.3f}  ({time.perf_counter() - started:.0f} s)")


def main() -> None:
    """Features, two usual models on them, and the network on their product."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", type=Path, default=Path(os.environ.get("KRONSGD_DATA", "data")) / "sick")
    options.add_argument("--quick", action="store_true", help="a small size, for a first look")
    options.add_argument("--out", type=Path, default=Path("sick.png"), help="the picture")
    asked = options.parse_args()
    sentences, first, second, y, train, test = read(asked.data, asked.quick)
    space = SentenceSpace(sentences, known=np.unique([first[train], second[train]]))
    rows, columns = expression(space, first, second, train)
    X, X_test = rows(train), rows(test)
    started = time.perf_counter()
    ridge = RidgeCV(np.logspace(-1, 4, 11)).fit(columns[train], y[train])
    score("ridge, same features", y[test], ridge.predict(columns[test]), started)
    started = time.perf_counter()
    svr = SVR(kernel="precomputed", C=PENALTY).fit(X.inner(), y[train])
    score("SVR, same product", y[test], svr.predict(X_test.inner(X)), started)
    started = time.perf_counter()
    print(X)
    network = ks.KronRegressor(**SETTINGS).fit(X, y[train])
    predicted = np.clip(network.predict(X_test), 1, 5)
    score("kronsgd, their product", y[test], predicted, started)
    plot_predictions(y[test], predicted, asked.out, title="Relatedness of two sentences, test pairs")
    print(f"picture: {asked.out}")


if __name__ == "__main__":
    main()
