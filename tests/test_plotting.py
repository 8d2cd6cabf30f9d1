"""Figures: PNG files of 800 × 600 pixels whatever the history holds, without a display and without a global backend."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from kronsgd.plotting import plot_confusion, plot_fired, plot_loss, plot_predictions

HISTORY = [{"epoch": k + 1, "loss": 2.0**-k, "fired": 0.2 / (k + 1)} for k in range(6)]


def size(path) -> tuple[int, int]:
    """Width and height in a PNG file's header."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The figure that was drawn last, and where to write it."""
    from matplotlib.figure import Figure

    figures = []
    original = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), original(self, *a, **k))[1])
    return figures, tmp_path / "figure.png"


@pytest.mark.parametrize("plot", [plot_loss, plot_fired])
@pytest.mark.parametrize("history", [HISTORY, HISTORY[:1], []])
def test_history_is_drawn_at_any_length(plot, history, drawn):
    figures, path = drawn
    plot(history, path)
    assert size(path) == (800, 600)
    axes = figures[0].axes[0]
    assert axes.get_xlabel() == "epoch"
    assert axes.get_ylabel()
    assert axes.get_title()
    if history:
        assert list(axes.lines[0].get_xdata()) == [record["epoch"] for record in history]
    else:
        assert "no epoch" in axes.texts[0].get_text()


def test_validation_loss_is_drawn_beside_the_training_loss(drawn):
    figures, path = drawn
    plot_loss([{**record, "validation_loss": 3.0} for record in HISTORY], path, loss="log loss (nats)")
    axes = figures[0].axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "validation"]
    assert "nats" in axes.get_ylabel()


def test_fired_is_in_percent(drawn):
    figures, path = drawn
    plot_fired(HISTORY, path)
    assert figures[0].axes[0].lines[0].get_ydata()[0] == pytest.approx(20.0)


@pytest.mark.parametrize("n", [1, 50, 30_000])
def test_predictions_show_the_exact_line_and_no_more_points_than_can_be_seen(n, drawn):
    figures, path = drawn
    y = np.random.default_rng(0).normal(size=n)
    plot_predictions(y, y + 0.1, path)
    assert size(path) == (800, 600)
    (points,) = figures[0].axes[0].collections
    assert len(points.get_offsets()) == min(n, 20_000)


@pytest.mark.parametrize("labels", [["no", "yes"], ["a rather long name of a class"] * 4 + list("bcd"), range(40)])
def test_confusion_counts_every_row(labels, drawn):
    figures, path = drawn
    true = np.array(list(labels))
    plot_confusion(true, np.roll(true, 1), path)
    assert size(path) == (800, 600)
    shown = sum(int(text.get_text()) for text in figures[0].axes[0].texts)
    assert shown == (len(true) if len(set(labels)) <= 30 else 0)


@pytest.mark.parametrize("plot", [plot_predictions, plot_confusion])
def test_unequal_lengths_are_refused(plot, tmp_path):
    with pytest.raises(ValueError, match="equal length"):
        plot([1, 2], [1], tmp_path / "x.png")
    with pytest.raises(ValueError, match="equal length"):
        plot([], [], tmp_path / "x.png")


def test_without_matplotlib_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"kronsgd\[plots\]"):
        plot_loss(HISTORY, tmp_path / "x.png")
