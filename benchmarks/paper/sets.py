"""What the paper's network is trained on here, and one training of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from benchmarks.common import data_folder
from kronsgd import Features
from kronsgd.datasets import load_davis, load_digits, load_mnist
from kronsgd.engines import ENGINES, Engine
from kronsgd.losses import LOSSES
from kronsgd.network import TwoLayer
from kronsgd.training import Settings, auto_learning_rate, train

Array = NDArray[Any]
BATCH = 64


@dataclass(frozen=True, eq=False)
class Set:
    """Training and test rows of products. Shape: targets (n, C), labels (n',): classes, or numbers."""

    name: str
    X: Features
    targets: Array
    X_test: Features
    labels: Array
    loss: str = "softmax"
    n_hidden: int = 1024
    epochs: int = 20

    def score(self, outputs: Array) -> float:
        """Share of test rows that are classified right, or the mean squared error."""
        if self.loss == "softmax":
            return float(np.mean(outputs.argmax(axis=1) == self.labels))
        return float(np.mean((outputs[:, 0] - self.labels) ** 2))


def digits() -> Set:
    """Scikit-learn's digits, x ⊗ x, a fifth of them to test on."""
    problem = load_digits()
    train_rows, test_rows = train_test_split(np.arange(1797), test_size=0.2, random_state=0, stratify=problem.y)
    X = problem.X * problem.X
    return Set("digits", X[train_rows], np.eye(10)[problem.y[train_rows]], X[test_rows], problem.y[test_rows])


def mnist() -> Set:
    """The first 2,000 training and test images, x ⊗ x: 614,656 dimensions."""
    problem = load_mnist(data_folder("mnist"), 2000)
    assert problem.X_test is not None
    test = problem.X_test[:2000]
    return Set("MNIST, 2,000 rows", problem.X * problem.X, np.eye(10)[problem.y], test * test, problem.y_test[:2000], epochs=10)


def davis() -> Set:
    """Davis without its last training fold, which is tested on; the affinities' mean is taken off."""
    problem = load_davis(data_folder("davis"))
    fold = len(problem.folds) - 1
    rows, held = problem.training_rows(fold), problem.folds[fold]
    mean = problem.y[rows].mean()
    targets = (problem.y[rows] - mean)[:, None]
    return Set("Davis, fold 4", problem.X[rows], targets, problem.X[held], problem.y[held] - mean, "squared", 512, 3)


def sets() -> list[Set]:
    """Those whose files are there."""
    makers: list[Callable[[], Set]] = [mnist, davis] if "KRONSGD_DATA" in os.environ else []
    return [digits(), *(make() for make in makers)]


@dataclass
class Run:
    """One training of the paper's network at the automatic step size of its threshold."""

    data: Set
    threshold: float
    output_scale: float
    engine_name: str = "scan"

    def __post_init__(self) -> None:
        data = self.data
        self.engine: Engine = ENGINES[self.engine_name]
        network = TwoLayer(
            data.n_hidden, data.targets.shape[1], threshold=self.threshold, output_scale=self.output_scale
        )  # fmt: skip
        self.state = self.engine.initialize(network, data.X)
        self.weights = np.ones(len(data.targets))
        self.rate = auto_learning_rate(self.engine, self.state, LOSSES[data.loss], BATCH, self.weights)

    def train(self, first: int, last: int) -> None:
        """Epochs first … last − 1, at a constant step size, so that all have taken equal steps at any epoch."""
        settings = Settings(self.rate, "constant", last - first, BATCH, tol=0.0, n_iter_no_change=10**6)
        rows = np.arange(len(self.data.targets))
        train(self.engine, self.state, LOSSES[self.data.loss], rows, self.data.targets, self.weights, settings, None, first)

    def fired(self, n_rows: int | None = None) -> Array:
        """Which neurons fire on the first training rows. Shape: (n, m), bool."""
        rows = np.arange(len(self.data.targets))[:n_rows]
        parts = [rows[k : k + BATCH] for k in range(0, len(rows), BATCH)]
        return np.concatenate([self.engine.hidden(self.state, self.engine.forward(self.state, part)) > 0 for part in parts])

    def score(self) -> float:
        """On the test rows."""
        return self.data.score(self.engine.outputs(self.state, self.data.X_test))
