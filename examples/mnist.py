"""MNIST as bags of patches: how accuracy grows with training, how many neurons fire, and which digits are missed.

    python examples/mnist.py --data FOLDER             # 10,000 training images, about a minute on two cores
    python examples/mnist.py --data FOLDER --rows 60000
    python examples/mnist.py --quick                   # seconds; without --data: scikit-learn's digits, enlarged

FOLDER holds the four files train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and
t10k-labels-idx1-ubyte.gz. The same network learns from raw pixels and from `ks.Patches` of the training images, which are the
sum over an image's patches of patch ⊗ place. Neither has many coordinates, so the planner takes the dense engine, plain SGD
on all of them, as soon as there are more rows than that; what is gained is gained by the structure. Settings were chosen
on held-out training images.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import kronsgd as ks
from kronsgd.datasets import load_mnist


def read(folder: str | None, quick: bool, n_train: int, n_test: int) -> tuple[Any, Any, Any, Any]:
    """(training images, digits, test images, digits), images of 28 × 28."""
    if folder is None and quick:
        print("no --data: scikit-learn's digits, enlarged.")
        small, y = load_digits(return_X_y=True)
        images = np.pad(np.kron(small.reshape(-1, 8, 8) / 16, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
        return images[:n_train], y[:n_train], images[n_train:][:n_test], y[n_train:][:n_test]
    if folder is None:
        raise SystemExit("error: --data FOLDER is missing; see --help for the files, or try --quick.")
    try:
        problem = load_mnist(folder, n_train, center=False)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error} Download the four idx files of MNIST (by LeCun, Cortes and Burges) there.") from None
    images, new_images = (x.coordinates(x).reshape(-1, 28, 28) for x in (problem.X, problem.X_test[np.arange(n_test)]))
    return images, problem.y, new_images, problem.y_test[:n_test]


def learn(name: str, X: Any, y: Any, X_test: Any, y_test: Any, epochs: int) -> tuple[ks.KronClassifier, Any]:
    """The trained model and its answers on the test images."""
    started = time.perf_counter()
    model = ks.KronClassifier(1024, output_scale=1.0, max_iter=epochs, random_state=0).fit(X, y)
    seconds, answers = time.perf_counter() - started, model.predict(X_test)
    first, last = (100 * model.history_[i]["fired"] for i in (0, -1))
    print(f"{name}: {np.mean(answers == y_test):.4f} right, engine {model.engine_!r}, {first:.0f} → {last:.0f} % fired, "
          f"trained in {seconds:.0f} s")  # fmt: skip
    return model, answers


def draw(path: Path, models: dict[str, ks.KronClassifier], images: Any, y: Any, answers: Any) -> None:
    """Training loss by epoch, and the first test digits that are missed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2)
    axes = left.subplots()
    for name, model in models.items():
        axes.plot(np.arange(1, len(model.loss_curve_) + 1), model.loss_curve_, marker="o", markersize=3, label=name)
    axes.set(xlabel="epoch", ylabel="training loss", yscale="log")
    axes.legend(frameon=False)
    missed = np.flatnonzero(y != answers)[:20]
    for cell, i in enumerate(missed):
        tile = right.add_subplot(4, 5, cell + 1)
        tile.imshow(images[i], cmap="gray_r")
        tile.set_title(f"{y[i]}, not {answers[i]}", fontsize=8)
        tile.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"picture: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the four MNIST files")
    parser.add_argument("--rows", type=int, default=10_000, help="training images to use, the first so many")
    parser.add_argument("--quick", action="store_true", help="500 training and test images, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder for the picture")
    args = parser.parse_args()
    logging.getLogger("kronsgd").setLevel(logging.ERROR)
    n_train, n_test, n_filters, epochs = (500, 500, 16, 5) if args.quick else (args.rows, 10_000, 128, 15)
    images, y, new_images, y_test = read(args.data, args.quick, n_train, n_test)
    pixels = ks.Dense(images.reshape(n_train, -1), center=True)
    started = time.perf_counter()
    patches = ks.Patches(
        images, 5, n_filters=n_filters, n_places=16, beta=4.0, blur=3.0, n_components=2 * n_filters, whiten=0.75
    )
    print(f"patches of {n_train:,} images: {time.perf_counter() - started:.0f} s; {patches}")
    models = {}
    models["pixels"], _ = learn("pixels", pixels, y, pixels.like(new_images.reshape(n_test, -1)), y_test, epochs)
    models["patches"], answers = learn("patches", patches, y, patches.like(new_images), y_test, epochs)
    draw(args.out / "mnist.png", models, new_images, y_test, answers)


if __name__ == "__main__":
    main()
