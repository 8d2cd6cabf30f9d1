"""`kronsgd inspect`."""

from __future__ import annotations

from typing import Any

from kronsgd.cli.options import RunPath
from kronsgd.cli.parameters import changed
from kronsgd.cli.report import facts
from kronsgd.cli.runfolder import open_models
from kronsgd.engines import ENGINES
from kronsgd.features.base import describe_dim

__all__ = ["inspect"]


def inspect(run: RunPath) -> None:
    """Show what a run or a model file holds: features, network, size, and how training went.

    Example: kronsgd inspect runs/own
    """
    for name, model in open_models(run).items():
        facts(_describe(model), name)


def _describe(model: Any) -> dict[str, Any]:
    features, network = model.features_, model.state_.network
    arrays = ENGINES[model.engine_].arrays(model.state_)
    if "tail_len" in arrays:  # the scan engine: a coefficient for each row on which a neuron has fired
        count = len(arrays["values"]) + int(arrays["tail_len"].sum())
        share = count / (features.n_rows * network.n_hidden)
        stored = f"{count:,} coefficients ({100 * share:.1f}% of rows × neurons)"
    else:
        stored = f"{arrays['weights'].size:,} weights"
    size = sum(array.nbytes for array in arrays.values()) / 2**20
    outputs = f"{network.own_outputs} output" + ("s" if network.own_outputs > 1 else "")
    return {
        "model": type(model).__name__,
        "features": features.expression(),
        "dimension": describe_dim(features.dim),
        "rows": f"{features.n_rows:,} (those it was trained on)",
        "network": f"{network.size}, {outputs}, threshold {network.threshold:.4g}, "
        f"output scale {network.output_scale:g}, {network.init} start, {network.dtype}, seed {network.seed}",
        "engine": model.engine_,
        "memory": f"{stored}, {size:.2f} MiB",
        "parameters": ", ".join(f"{k}={v}" for k, v in changed(model.get_params()).items()) or "all at their defaults",
        "history": _history(model),
        "training ended": f"{model.stop_reason_.name}: {model.stop_reason_.value}",
    }


def _history(model: Any) -> str:
    records = model.history_
    if not records:
        return "no epoch was finished"
    first, last = records[0], records[-1]
    return (
        f"{len(records)} epochs, loss {first['loss']:.4g} → {last['loss']:.4g}, {100 * last['fired']:.1f}% fired, "
        f"step {model.learning_rate_:.3g}"
    )
