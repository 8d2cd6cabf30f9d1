"""What the examples share: their arguments, learning curves, and a picture."""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kronsgd.compare import Fold
from kronsgd.compare.selection import Method, chosen_setting, scores

T = TypeVar("T")
BLUE, ORANGE, GREEN, GREY = "#1f6fb2", "#d95f02", "#1b9e77", "#777777"


def arguments(doc: str | None, **data: str) -> argparse.Namespace:
    """--quick, --out, and a --flag with its help for each of `data`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs (seconds)")
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder for the picture")
    for name, text in data.items():
        parser.add_argument(f"--{name}", help=text)
    warnings.filterwarnings("ignore", category=UserWarning)  # of baselines that stop at their iteration limit
    logging.getLogger("kronsgd").setLevel(logging.ERROR)  # a step that was halved is no news here
    return parser.parse_args()


def loaded(read: Callable[[str], T], folder: str) -> T:
    """What a loader reads from a folder; its errors as one line."""
    try:
        return read(folder)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None


def learning_curve(
    X: Any, y: Any, truth: Any, sizes: Sequence[int], methods: Mapping[str, Method], n_test: int, n_inner: int = 2
) -> dict[str, list[float]]:
    """Relative squared error on the last `n_test` rows against their noiseless truth, for each number of training rows.

    Settings are chosen on inner folds of those training rows alone.
    """
    test = np.arange(len(y) - n_test, len(y))
    curves: dict[str, list[float]] = {name: [] for name in methods}
    for n in sizes:
        inner = tuple(np.sort(part) for part in np.array_split(np.random.default_rng(0).permutation(n), n_inner))
        fold = Fold(X[:n], y[:n], X[test], truth[test], 0, inner)
        for name, method in methods.items():
            started = time.perf_counter()
            setting = chosen_setting(method, fold)
            (prediction,) = method.predict(fold, [setting], 0)
            curves[name].append(1 - scores(fold, prediction)["r2"])
            print(f"{n:6,} rows  {name:38} error {curves[name][-1]:.3f}  ({time.perf_counter() - started:.1f} s, {setting})")
    return curves


def picture(path: Path, draw: Callable[[Any], None], width: float = 6.4) -> None:
    """Save what `draw` puts on the axes, and say where."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"picture: {path}")


def draw_curves(axes: Any, sizes: Sequence[int], curves: Mapping[str, Sequence[float]], title: str) -> None:
    """Error by number of training rows, both on logarithmic axes."""
    for name, errors in curves.items():
        axes.plot(sizes, errors, marker="o", label=name)
    axes.set(xscale="log", yscale="log", title=title, xlabel="training rows", ylabel="squared error / variance, new rows")
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    if not any(low <= 10.0**power <= high for power in range(-12, 13)):  # less than a decade: no power of ten to label
        axes.set_yticks(errors_at := [low, (low * high) ** 0.5, high], [f"{error:.2g}" for error in errors_at])
    axes.legend(frameon=False, fontsize=9)
