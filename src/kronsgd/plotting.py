"""Figures of a training run, as PNG files; matplotlib (extra `plots`) is imported only when one is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["plot_confusion", "plot_fired", "plot_loss", "plot_predictions"]

PathOrStr = str | PathLike[str]
Records = Sequence[dict[str, float]]
BLUE, ORANGE, GREY = "#1f6fb2", "#d95f02", "#555555"
MAX_LABELS = 30  # class names on an axis before they overlap
MAX_POINTS = 20_000  # in a scatter plot; more only make a blot


@contextmanager
def _axes(path: PathOrStr) -> Iterator[Any]:
    """Axes of a figure of 800 × 600 pixels that is written to `path`; the user's own backend is left alone."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('figures need matplotlib; run pip install "kronsgd[plots]".') from error
    figure = Figure(figsize=(8, 6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=12)
    yield axes
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_fontsize(14)
    axes.title.set_fontsize(15)
    figure.savefig(path, format="png")


def plot_loss(history: Records, path: PathOrStr, *, loss: str = "loss") -> None:
    """Training loss (and validation loss, where it was watched) by epoch, from a model's `history_`.

    loss: what the loss is and its unit, for the axis: it is not in the history.
    """
    with _axes(path) as axes:
        axes.set(title="Loss by epoch", xlabel="epoch", ylabel=f"{loss}, mean over rows")
        if _no_epochs(axes, history):
            return
        epochs = [record["epoch"] for record in history]
        losses = [record["loss"] for record in history]
        axes.plot(epochs, losses, color=BLUE, marker="o", markersize=4, label="training")
        if "validation_loss" in history[0]:
            held = [record["validation_loss"] for record in history]
            axes.plot(epochs, held, color=ORANGE, marker="s", markersize=4, label="validation")
            losses = losses + held
        if min(losses) > 0 and max(losses) > 10 * min(losses):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=min(0, *losses))
        axes.legend(fontsize=12, frameon=False)
        _whole_epochs(axes)


def plot_fired(history: Records, path: PathOrStr) -> None:
    """Share of neurons that fired on a row, by epoch, from a model's `history_`."""
    with _axes(path) as axes:
        axes.set(title="Neurons that fire", xlabel="epoch", ylabel="neurons that fired per row (%)")
        if _no_epochs(axes, history):
            return
        fired = [100 * record["fired"] for record in history]
        axes.plot([record["epoch"] for record in history], fired, color=BLUE, marker="o", markersize=4)
        axes.set_ylim(0, max(1.2 * max(fired), 1e-3))
        _whole_epochs(axes)


def plot_predictions(y_true: ArrayLike, y_pred: ArrayLike, path: PathOrStr, *, title: str = "Predictions") -> None:
    """Predicted against true targets, with the line of exact answers. Shape: (n,) each."""
    true, pred = np.asarray(y_true, dtype=float).ravel(), np.asarray(y_pred, dtype=float).ravel()
    if len(true) != len(pred) or not len(true):
        raise ValueError(
            f"y_true has {len(true)} values and y_pred {len(pred)}; give two lists of equal length above 0."
        )
    shown = np.linspace(0, len(true) - 1, min(len(true), MAX_POINTS)).astype(int)
    with _axes(path) as axes:
        axes.set(title=title, xlabel="true target", ylabel="predicted target (same units)")
        ends = [min(true.min(), pred.min()), max(true.max(), pred.max())]
        axes.plot(ends, ends, color=GREY, linewidth=1, linestyle="--", label="exact")
        alpha = float(np.clip(40 / np.sqrt(len(shown)), 0.15, 0.8))
        label = f"{len(shown):,} rows" if len(shown) == len(true) else f"{len(shown):,} of {len(true):,} rows"
        axes.scatter(true[shown], pred[shown], s=14, color=BLUE, alpha=alpha, linewidths=0, label=label)
        axes.set_aspect("equal", adjustable="datalim")
        axes.legend(fontsize=12, frameon=False, loc="upper left")


def plot_confusion(y_true: ArrayLike, y_pred: ArrayLike, path: PathOrStr, *, title: str = "Confusion matrix") -> None:
    """How often each true class was predicted as each class: colour by share of the true class, numbers in rows."""
    true, pred = np.asarray(y_true).ravel(), np.asarray(y_pred).ravel()
    if len(true) != len(pred) or not len(true):
        raise ValueError(
            f"y_true has {len(true)} labels and y_pred {len(pred)}; give two lists of equal length above 0."
        )
    classes, codes = np.unique(np.concatenate([true, pred]), return_inverse=True)
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (codes[: len(true)], codes[len(true) :]), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with _axes(path) as axes:
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.85)
        bar.set_label("share of the true class", size=13)
        axes.set(title=title, xlabel="predicted class", ylabel="true class")
        if len(classes) > MAX_LABELS:
            return
        names = [str(name) if len(str(name)) <= 16 else str(name)[:15] + "…" for name in classes]
        long = max(map(len, names)) > 3 and len(names) > 3
        axes.set_xticks(range(len(names)), names, rotation=45 if long else 0, ha="right" if long else "center")
        axes.set_yticks(range(len(names)), names)
        size = 12 if len(names) <= 10 else 7
        for i, j in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", color=color, fontsize=size)


def _no_epochs(axes: Any, history: Records) -> bool:
    """Whether there is nothing to draw, which the figure then says."""
    if not len(history):
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no epoch was finished", ha="center", va="center", transform=axes.transAxes, fontsize=14)
    return not len(history)


def _whole_epochs(axes: Any) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
