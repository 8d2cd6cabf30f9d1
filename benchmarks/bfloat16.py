"""α in bfloat16 beside float32: scores, outputs, training losses, and peak memory.

    KRONSGD_DATA=... python -m benchmarks.run bfloat16

The same batches from the same seeds. Beside the differences that rounding makes: those between float32 networks of two seeds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes, load_digits

import kronsgd as ks
from benchmarks.common import data_folder, peak_memory, report
from benchmarks.davis import TOML
from kronsgd.datasets import load_davis

EPOCHS, SEEDS = (1, 10, 40), (0, 1, 2)
MEMORY = {"grid": (1000, 1000, 250_000, 512), "scan": (500, 500, 50_000, 1024)}  # entities, pairs, neurons
TYPES = {"float32": "auto", "bfloat16": "bfloat16"}


def table(name: str) -> tuple[Any, ...]:
    """(X, y, X_test, y_test) of one of scikit-learn's sets, a third held back."""
    X, y = {"digits": load_digits, "diabetes": load_diabetes}[name](return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = np.split(order, [len(y) * 2 // 3])
    X = X.astype(np.float32)
    return X[train], y[train], X[test], y[test]


def planted(n1: int = 100, n2: int = 120, n: int = 6000, test: int = 1000) -> tuple[Any, ...]:
    """Pairs of two tables, and a noisy sum of two products that each side has a part in."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(n1, 16)).astype(np.float32), rng.normal(size=(n2, 16)).astype(np.float32)
    i, j = np.divmod(rng.permutation(n1 * n2)[: n + test], n2)
    y = (np.tanh(a[i, :2]) * np.tanh(b[j, :2])).sum(axis=1)
    y = y / y.std() + 0.3 * rng.normal(size=len(i))
    X = (1 + ks.Dense(a)[i]) * (1 + ks.Dense(b)[j])
    return X[:n], y[:n], X[n:], y[n:]


def davis() -> tuple[Any, ...]:
    """Setting 1, with the similarities of davis.toml."""
    problem = load_davis(data_folder("davis"), fingerprints=2.0, names=0.2)
    return problem.X, problem.y, problem.X_test, problem.y_test


def cases() -> dict[tuple[str, str], tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """(set, engine) -> (estimator, data, parameters)."""
    pairs, known = planted(), davis()
    wide = {"n_hidden": 512, "output_scale": 0.3}
    return {
        ("digits", "scan"): (ks.KronClassifier, table("digits"), {}),
        ("diabetes", "scan"): (ks.KronRegressor, table("diabetes"), {}),
        ("planted pairs", "scan"): (ks.KronRegressor, pairs, wide), ("planted pairs", "grid"): (ks.KronRegressor, pairs, wide),
        ("Davis", "grid"): (ks.KronRegressor, known, {"output_scale": 0.2, "learning_rate_init": 120_000.0}),
    }  # fmt: skip


def apart(p: Any, q: Any) -> float:
    """Relative difference of outputs, in percent."""
    return float(100 * np.linalg.norm(p - q) / np.linalg.norm(q))


def compared(kind: Any, data: tuple[Any, ...], engine: str, epochs: int, params: dict[str, Any]) -> dict[str, Any]:
    """One row: test scores (accuracy or R²), and how far outputs and training losses are apart."""
    X, y, X_test, y_test = data
    scores: dict[str, list[float]] = {name: [] for name in TYPES}
    outputs: dict[str, list[Any]] = {name: [] for name in TYPES}
    losses: dict[str, list[float]] = {name: [] for name in TYPES}
    for seed in SEEDS:
        for name, dtype in TYPES.items():
            model = kind(engine=engine, max_iter=epochs, tol=0, random_state=seed, coefficient_dtype=dtype, **params).fit(X, y)
            scores[name].append(model.score(X_test, y_test))
            outputs[name].append(model._outputs(X_test))
            losses[name].append(model.loss_curve_[-1])
    usual, narrow = (outputs[name] for name in TYPES)
    return {
        **{f"score, {name}": f"{np.mean(each):.4f} ({np.std(each):.4f})" for name, each in scores.items()},
        "outputs apart %": float(np.mean([apart(p, q) for p, q in zip(narrow, usual, strict=True)])),
        "of two seeds %": float(np.mean([apart(usual[k - 1], usual[k]) for k in range(len(SEEDS))])),
        "training loss %": 100 * (np.mean(losses["bfloat16"]) / np.mean(losses["float32"]) - 1),
    }


def train(engine: str, dtype: str, n1: int, n2: int, n: int, n_hidden: int, epochs: int = 3) -> None:
    """A fit whose memory is measured."""
    X, y, _, _ = planted(n1, n2, n, 1)
    params = {"max_iter": epochs, "learning_rate_init": 200.0, "random_state": 0}
    ks.KronRegressor(n_hidden, engine=engine, coefficient_dtype=TYPES[dtype], **params).fit(X, y)


def memory(engine: str) -> dict[str, Any]:
    """MiB at the peak of a fit, beyond a small one's."""
    size = ", ".join(map(str, MEMORY[engine]))
    peaks = {
        name: peak_memory("benchmarks.bfloat16", f"train({engine!r}, {name!r}, {size})",
                          f"train({engine!r}, {name!r}, 40, 50, 500, 64)")[1]
        for name in TYPES
    }  # fmt: skip
    n1, n2, n, n_hidden = MEMORY[engine]
    return {
        "set": f"{n:,} pairs of {n1:,} × {n2:,}, {n_hidden:,} neurons", "engine": engine,
        **{f"peak MiB, {name}": round(peak) for name, peak in peaks.items()},
    }  # fmt: skip


def main() -> None:
    """Scores, then memory."""
    rows = [
        {"set": name, "engine": engine, "epochs": epochs, **compared(kind, data, engine, epochs, params)}
        for (name, engine), (kind, data, params) in cases().items() for epochs in EPOCHS
    ]  # fmt: skip
    rows += [memory(engine) for engine in MEMORY]
    columns = dict.fromkeys(name for row in rows for name in row)
    rows = [{name: row.get(name, "") for name in columns} for row in rows]
    report(
        "bfloat16", "α in bfloat16 beside float32", rows,
        f"Scores on test rows: accuracy for digits, else R²; mean (standard deviation) of {len(SEEDS)} seeds. Settings are not "
        f"tuned; those of Davis are from {TOML.name}. Outputs apart: of the same seed. Of two seeds: both float32.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
