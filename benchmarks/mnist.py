"""MNIST from 10,000 and from all 60,000 training rows: kronsgd beside kernels, sketches, SVMs and an MLP, in the same run.

    KRONSGD_DATA=... python -m benchmarks.run mnist

Each method's setting is the best on training rows 8,000 to 10,000 after training on the first 8,000; with that setting it
trains on the first 10,000 (and on all 60,000 where that takes minutes) and is scored once on the 10,000 test rows.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from sklearn.kernel_approximation import Nystroem, PolynomialCountSketch
from sklearn.linear_model import RidgeClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

import kronsgd as ks
from benchmarks.common import data_folder, report
from kronsgd.datasets import load_mnist

SMALL, KEPT, N_TEST = 10_000, 8_000, 10_000  # rows of the small problem; of these, rows trained on while settings are chosen
PATCHES: dict[str, Any] = {"size": 5, "n_filters": 128, "n_places": 16, "beta": 4.0, "blur": 3.0, "n_components": 256}
Rows = Any  # a feature expression or an array


@dataclass(frozen=True, eq=False)
class Method:
    """Fits rows and labels with a setting and gives the model; from which features; whether it goes up to 60,000 rows."""

    name: str
    features: str
    fit: Callable[..., Any]
    settings: tuple[dict[str, Any], ...]
    large: bool


class ProductRidge:
    """Exact kernel ridge with (x·x')²: of rows scaled to norm 1; one solve with all pairs of training rows."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def fit(self, x: Any, y: Any) -> ProductRidge:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        gram = (x @ x.T).astype(np.float64) ** 2
        gram[np.diag_indices_from(gram)] += self.alpha
        self.x, self.a = x, scipy.linalg.solve(gram, 2 * np.eye(10)[y] - 1, assume_a="pos", overwrite_a=True)
        return self

    def predict(self, x: Any) -> Any:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return ((x @ self.x.T).astype(np.float64) ** 2 @ self.a).argmax(axis=1)


def kron(**fixed: Any) -> Callable[..., Any]:
    """A KronClassifier with 1,024 neurons on an expression."""
    return lambda X, y, **setting: ks.KronClassifier(1024, random_state=0, **fixed, **setting).fit(X, y)


def sklearn(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda X, y, **setting: make(**setting).fit(X, y)


def mlp(**setting: Any) -> Any:
    return MLPClassifier(1024, max_iter=30, random_state=0, **setting)


def tensor_sketch(alpha: float) -> Any:
    return make_pipeline(PolynomialCountSketch(degree=2, n_components=4096, random_state=0), RidgeClassifier(alpha))


def quadratic_svm(**setting: Any) -> Any:
    return SVC(kernel="poly", degree=2, coef0=1, **setting)


def nystroem(alpha: float) -> Any:
    sample = Nystroem(kernel="poly", degree=2, gamma=1.0, coef0=0.0, n_components=2000, random_state=0)
    return make_pipeline(sample, RidgeClassifier(alpha))


SCALES = ({"output_scale": 0.3}, {"output_scale": 1.0})
COSTS = ({"C": 3.0}, {"C": 10.0})
ALPHAS = ({"alpha": 1e-3}, {"alpha": 1e-2})
METHODS = (
    Method("kronsgd", "patches", kron(max_iter=15), SCALES, True),
    Method("kronsgd, x ⊗ x", "pixels ⊗ pixels", kron(max_iter=10), ({"output_scale": 0.3},), False),
    Method("kronsgd, x ⊗ x", "patches ⊗ patches", kron(max_iter=10), ({"output_scale": 0.3},), False),
    Method("exact (x·x')² ridge", "unit pixels", sklearn(ProductRidge), ALPHAS, False),
    Method("Nyström 2,000 of (x·x')² + ridge", "unit pixels", sklearn(nystroem), ALPHAS, True),
    Method("TensorSketch 4,096 of (x·x')² + ridge", "unit pixels", sklearn(tensor_sketch), ALPHAS, False),
    Method("SVC, RBF", "pixels", sklearn(SVC), COSTS, False),
    Method("SVC, polynomial of degree 2", "pixels", sklearn(quadratic_svm), COSTS, False),
    Method("MLPClassifier(1024)", "pixels", sklearn(mlp), ({"alpha": 1e-4}, {"alpha": 1e-2}), True),
    Method("ridge", "patches as an array", sklearn(RidgeClassifier), ALPHAS, True),
    Method("exact (x·x')² ridge", "patches as an array", sklearn(ProductRidge), ALPHAS, False),
    Method("SVC, RBF", "patches as an array", sklearn(SVC), COSTS, True),
    Method("MLPClassifier(1024)", "patches as an array", sklearn(mlp), ({"alpha": 1e-4}, {"alpha": 1e-2}), True),
)  # fmt: skip


def representations(pixels: Any, new: Any) -> tuple[dict[str, tuple[Rows, Rows]], float]:
    """(training rows, test rows) by name, without a look at labels; the seconds that patches took."""
    unit, unit_new = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (pixels, new))
    centred = ks.Dense(pixels, center=True)
    started = time.perf_counter()
    patches = ks.Patches(pixels.reshape(-1, 28, 28), **PATCHES, whiten=0.75)
    seconds = time.perf_counter() - started
    new_patches = patches.like(new.reshape(-1, 28, 28))
    scale = np.float32(np.sqrt(PATCHES["n_components"]))  # numbers of order 1, as an MLP likes them
    arrays = [np.ascontiguousarray(patches.coordinates(x) * scale) for x in (patches, new_patches)]
    return {
        "pixels": (pixels, new), "unit pixels": (unit, unit_new), "patches": (patches, new_patches),
        "pixels ⊗ pixels": (centred**2, centred.like(new) ** 2), "patches ⊗ patches": (patches**2, new_patches**2),
        "patches as an array": (arrays[0], arrays[1]),
    }, seconds  # fmt: skip


def accuracy(model: Any, X: Rows, y: Any) -> float:
    return float(np.mean(model.predict(X) == y))


def chosen(method: Method, X: Rows, y: Any) -> dict[str, Any]:
    """The setting that is best on rows KEPT to SMALL of the training rows; no look at them where there is only one."""
    if len(method.settings) == 1:
        return method.settings[0]
    held = np.arange(KEPT, SMALL)
    kept = np.arange(KEPT)
    scores = [accuracy(method.fit(X[kept], y[kept], **setting), X[held], y[held]) for setting in method.settings]
    return method.settings[int(np.argmax(scores))]


def row(method: Method, setting: Mapping[str, Any], data: Any, y: Any, y_test: Any, seconds: float) -> dict[str, Any]:
    """One line of the table: trained on all rows of `data`, scored on the test rows."""
    X, X_test = data[method.features]
    started = time.perf_counter()
    model = method.fit(X, y, **setting)
    fitted = time.perf_counter() - started
    ours = isinstance(model, ks.KronClassifier)
    line = {
        "training rows": len(y), "model": method.name, "features": method.features.removesuffix(" as an array"),
        "chosen": ", ".join(f"{name} {value:g}" for name, value in setting.items()),
        "test accuracy": accuracy(model, X_test, y_test), "seconds to fit": round(fitted, 1),
        "seconds for features": round(seconds, 1) if "patches" in method.features else 0.0,
        "engine": model.engine_ if ours else "", "fired %": round(100 * model.history_[-1]["fired"], 1) if ours else "",
    }  # fmt: skip
    print(line, flush=True)
    return line


def main() -> None:
    """10,000 rows, then 60,000 with the settings chosen there. ROWS=small leaves out the second part."""
    warnings.simplefilter("ignore")
    problem = load_mnist(data_folder("mnist"), center=False)
    pixels, new = (x.coordinates(x) for x in (problem.X, problem.X_test))
    pixels, new = (x / x.max(axis=1, keepdims=True) for x in (pixels, new))  # back from norm 1 to 0 … 1
    data, seconds = representations(pixels[:SMALL], new)
    small, settings, rows = problem.y[:SMALL], {}, []
    for method in METHODS:
        settings[method] = chosen(method, data[method.features][0], small)
        rows.append(row(method, settings[method], data, small, problem.y_test, seconds))
    if os.environ.get("ROWS") != "small":
        data, seconds = representations(pixels, new)
        rows += [row(m, settings[m], data, problem.y, problem.y_test, seconds) for m in METHODS if m.large]
    options = ", ".join(f"{name}={value}" for name, value in PATCHES.items())
    note = (
        f"Patches: ks.Patches(images, {options}, whiten=0.75), learned from the training images without labels. Settings: "
        "of at most two, the better on 2,000 of the first 10,000 training rows."
    )
    report("mnist", "MNIST: what the structure of a row is worth", rows, note)
