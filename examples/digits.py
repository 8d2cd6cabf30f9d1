"""Handwritten digits as bags of patches: five-fold accuracy beside a support vector machine, and the digits that are missed.

    python examples/digits.py            # about a minute on two cores; --quick: seconds

An image is the sum over its patches of patch ⊗ place (`ks.Patches`), which small shifts hardly change; a two-layer network
learns from that. Patches are learned from each fold's training images, and the network's output scale and the whitening
are chosen on inner folds of the training rows, so that no test digit is seen before it is scored.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

import kronsgd as ks

GRID = list(itertools.product((0.25, 0.5, 0.75), (0.1, 0.3)))  # of whiten, output_scale


def fitted(images: Any, y: Any, setting: tuple[float, float], n_filters: int) -> tuple[ks.KronClassifier, ks.Patches]:
    whiten, scale = setting
    patches = ks.Patches(images, 3, n_filters=n_filters, n_places=16, beta=4.0, blur=1.5, n_components=96, whiten=whiten)
    model = ks.KronClassifier(512, output_scale=scale, max_iter=30, random_state=0).fit(patches, y)
    return model, patches


def predict(trained: tuple[ks.KronClassifier, ks.Patches], images: Any) -> Any:
    model, patches = trained
    return model.predict(patches.like(images))


def choose(images: Any, y: Any, n_filters: int, n_inner: int) -> tuple[float, float]:
    """The setting with the most right answers on `n_inner` of four inner folds; the first of all where there are none."""
    if n_inner == 0:
        return GRID[0]
    inner = list(StratifiedKFold(4, shuffle=True, random_state=1).split(images, y))[:n_inner]
    right = [
        sum((predict(fitted(images[a], y[a], setting, n_filters), images[b]) == y[b]).sum() for a, b in inner)
        for setting in GRID
    ]
    return GRID[int(np.argmax(right))]


def draw(path: Path, images: Any, y: Any, answers: Any) -> None:
    """The digits that were missed, with what they are and what they were taken for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    missed = np.flatnonzero(y != answers)[:24]
    n_rows = max(1, -(-len(missed) // 8))
    figure = Figure(figsize=(8, 1.3 * n_rows), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for cell, i in enumerate(missed):
        axes = figure.add_subplot(n_rows, 8, cell + 1)
        axes.imshow(images[i], cmap="gray_r")
        axes.set_title(f"{y[i]}, not {answers[i]}", fontsize=8)
        axes.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"picture: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300 digits and one setting, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder for the picture")
    args = parser.parse_args()
    logging.getLogger("kronsgd").setLevel(logging.ERROR)
    pixels, y = load_digits(return_X_y=True)
    images = (pixels[:300] if args.quick else pixels).astype(np.float32).reshape(-1, 8, 8) / 16
    y, n_filters, n_inner = y[: len(images)], 16 if args.quick else 64, 0 if args.quick else 2
    answers, svm, started = np.empty_like(y), np.empty_like(y), time.perf_counter()
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(images, y):
        setting = choose(images[train], y[train], n_filters, n_inner)
        answers[test] = predict(fitted(images[train], y[train], setting, n_filters), images[test])
        svm[test] = SVC(C=10).fit(pixels[train], y[train]).predict(pixels[test])
        print(f"fold: {np.mean(answers[test] == y[test]):.4f} with whiten, output_scale = {setting}")
    print(f"kronsgd on bags of patches: {np.mean(answers == y):.4f} ({time.perf_counter() - started:.0f} s)")
    print(f"SVM on pixels: {np.mean(svm == y):.4f}")
    draw(args.out / "digits.png", images, y, answers)


if __name__ == "__main__":
    main()
