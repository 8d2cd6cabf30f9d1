"""Ratings: (user or their traits) ⊗ (film or its genres), beside means, ridge and matrix factorisation.

    python examples/recommender.py                        # planted ratings, about a minute; --quick: seconds
    python examples/recommender.py --data ml-100k/        # or ml-latest-small/, ml-1m/: an unpacked MovieLens folder

A user is [1, who they are, their traits], a film [1, which it is, its genres], and a rating depends on the product: 1 ⊗ film
is what everyone thinks of a film, traits ⊗ genres what people like them think of films like it, user ⊗ film the rest. A fifth
of the ratings is held out; settings are chosen on a tenth of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import Ridge

import kronsgd as ks
from _shared import BLUE, GREY, arguments, loaded, picture
from kronsgd.datasets import Ratings, load_movielens

Array = Any
Model = Callable[[Array, Array], Array]  # (training rows, rows to predict) -> ratings


def planted(n_users: int, n_items: int, n_ratings: int) -> Ratings:
    """Taste depends on traits and, half as much, on the person; ratings are whole stars."""
    rng = np.random.default_rng(0)
    genres = (rng.random((n_items, 8)) < 0.3).astype(np.float32)
    people = np.eye(6, dtype=np.float32)[rng.integers(6, size=n_users)]
    taste = people @ rng.normal(size=(6, 8)) + 0.5 * rng.normal(size=(n_users, 8))
    cells = rng.permutation(n_users * n_items)[:n_ratings]
    user, item = np.divmod(cells, n_items)
    quality, mood = rng.normal(size=n_items), rng.normal(size=n_users)
    liking = np.einsum("nk,nk->n", taste[user], genres[item]) / 1.5 + 0.4 * quality[item] + 0.4 * mood[user]
    y = np.clip(np.round(3.5 + 0.8 * liking + 0.4 * rng.normal(size=n_ratings)), 1, 5)
    names = [f"film {k}" for k in range(n_items)]
    return Ratings(user, item, y, np.zeros_like(user), np.arange(n_users), np.arange(n_items), names, genres,
                   [f"genre {k}" for k in range(8)], people, [f"trait {k}" for k in range(6)])  # fmt: skip


def kron_model(data: Ratings, n_hidden: int, scale: float) -> Model:
    """Who and what as categories, traits and genres as tables where the set has them."""
    user: Any = 1 + ks.OneHot(np.arange(len(data.user_ids)))[data.user]
    item: Any = 1 + ks.OneHot(np.arange(len(data.item_ids)))[data.item]
    if data.people.shape[1]:
        user = user + ks.Dense(data.people, center=True)[data.user]
    if data.genres.shape[1]:
        item = item + ks.Dense(data.genres, center=True)[data.item]
    X = user * item
    model = ks.KronRegressor(n_hidden, output_scale=scale, random_state=0)
    return lambda train, test: model.fit(X[train], data.y[train]).predict(X[test])


def global_mean(data: Ratings) -> Model:
    return lambda train, test: np.full(len(test), data.y[train].mean())


def biases(data: Ratings, damping: float) -> Model:
    """mean + how the film is rated + how the user rates, each drawn towards 0 where ratings are few."""

    def predict(train: Array, test: Array) -> Array:
        mean, user, item = data.y[train].mean(), data.user[train], data.item[train]
        b, c = np.zeros(len(data.item_ids)), np.zeros(len(data.user_ids))
        for _ in range(10):
            b = _damped(item, data.y[train] - mean - c[user], len(b), damping)
            c = _damped(user, data.y[train] - mean - b[item], len(c), damping)
        return mean + b[data.item[test]] + c[data.user[test]]

    return predict


def _damped(group: Array, values: Array, n: int, damping: float) -> Array:
    return np.bincount(group, values, n) / (np.bincount(group, minlength=n) + damping)


def ridge(data: Ratings, alpha: float) -> Model:
    """A linear model of who, what, traits and genres."""
    tables = [(sp.identity(len(data.user_ids)), data.user), (sp.csr_matrix(data.people), data.user),
              (sp.identity(len(data.item_ids)), data.item), (sp.csr_matrix(data.genres), data.item)]  # fmt: skip
    X = sp.hstack([sp.csr_matrix(table)[rows] for table, rows in tables if table.shape[1]]).tocsr()
    return lambda train, test: Ridge(alpha=alpha).fit(X[train], data.y[train]).predict(X[test])


def factorisation(data: Ratings, rank: int, penalty: float) -> Model:
    """Alternating least squares on what the biases leave (Koren, Bell and Volinsky 2009)."""

    def predict(train: Array, test: Array) -> Array:
        both = np.concatenate([train, test])
        base = biases(data, 5.0)(train, both)
        rest, user, item = data.y[train] - base[: len(train)], data.user[train], data.item[train]
        rng = np.random.default_rng(0)
        Q = 0.1 * rng.normal(size=(len(data.item_ids), rank))
        for _ in range(10):
            P = _least_squares(user, Q[item], rest, len(data.user_ids), penalty)
            Q = _least_squares(item, P[user], rest, len(data.item_ids), penalty)
        return base[len(train) :] + np.einsum("nk,nk->n", P[data.user[test]], Q[data.item[test]])

    return predict


def _least_squares(group: Array, factors: Array, values: Array, n: int, penalty: float) -> Array:
    """One ridge regression for each group, all at once. Shape: (n, rank)."""
    pick = sp.csr_matrix((np.ones(len(group)), (group, np.arange(len(group)))), shape=(n, len(group)))
    rank = factors.shape[1]
    squares = (pick @ (factors[:, :, None] * factors[:, None, :]).reshape(len(group), -1)).reshape(n, rank, rank)
    return np.linalg.solve(squares + penalty * np.eye(rank), (pick @ (factors * values[:, None]))[:, :, None])[:, :, 0]


def main() -> None:
    args = arguments(__doc__, data="folder of an unpacked MovieLens set")
    sizes = (40, 30, 600) if args.quick else (400, 300, 20_000)
    data = loaded(load_movielens, args.data) if args.data else planted(*sizes)
    n = len(data.y)
    print(f"{n:,} ratings of {len(data.item_ids):,} films by {len(data.user_ids):,} users")
    order = np.random.default_rng(1).permutation(n)
    test, train = order[: n // 5], order[n // 5 :]
    held, kept = train[: len(train) // 10], train[len(train) // 10 :]
    n_hidden = 64 if args.quick else 1024
    models: dict[str, list[Model]] = {
        "mean": [global_mean(data)],
        "user and film means": [biases(data, d) for d in (1, 5, 20)],
        "ridge on who, what, traits, genres": [ridge(data, a) for a in (1, 5, 20)],
        "matrix factorisation": [factorisation(data, k, p) for k in (4, 8, 16) for p in (2.0, 5.0, 15.0)],
        "kronsgd, user ⊗ film": [kron_model(data, n_hidden, s) for s in (0.1, 0.3)],
    }
    errors = {}
    for name, choices in models.items():
        started = time.perf_counter()
        losses = [np.mean((model(kept, held) - data.y[held]) ** 2) for model in choices] if len(choices) > 1 else [0.0]
        prediction = choices[int(np.argmin(losses))](train, test)
        errors[name] = float(np.sqrt(np.mean((prediction - data.y[test]) ** 2)))
        print(f"{name:36} root mean squared error {errors[name]:.4f} stars  ({time.perf_counter() - started:.1f} s)")

    def draw(axes: Any) -> None:
        bars = axes.barh(list(errors), list(errors.values()), color=[BLUE if "kron" in name else GREY for name in errors])
        axes.bar_label(bars, fmt="%.3f", padding=3)
        axes.set(title="Held-out ratings", xlabel="root mean squared error (stars)", xlim=(0, 1.15 * max(errors.values())))

    picture(args.out / "recommender.png", draw, width=7.5)


if __name__ == "__main__":
    main()
