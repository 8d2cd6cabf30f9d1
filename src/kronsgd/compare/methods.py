"""The methods by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kronsgd.compare.kernel_methods import CountSketch, KroneckerRidge, Landmarks, TangentRidge
from kronsgd.compare.models import Kron, boosting, linear, perceptron, support_vectors
from kronsgd.compare.selection import Method, Setting
from kronsgd.network import auto_threshold
from kronsgd.validation import check_choice

__all__ = ["GRID", "METHODS", "make_method"]

METHODS = ("kronsgd", "kronecker-ridge", "tangent-ridge", "mlp", "boosting", "svm", "nystrom", "tensorsketch", "linear")
GRID: list[Setting] = [{"output_scale": scale} for scale in (0.1, 0.03, 0.3)]


def make_method(name: str, params: dict[str, Any], grid: Sequence[Setting]) -> Method:
    """A method; `params` and `grid` are those of the estimator, whose threshold the tangent kernel shares."""
    check_choice("method", name, METHODS)
    if name == "kronsgd":
        return Kron(params, list(grid) or [{}])
    if name == "tangent-ridge":
        threshold = params.get("threshold", "auto")
        return TangentRidge(auto_threshold(params.get("n_hidden", 1024)) if threshold == "auto" else float(threshold))
    others: dict[str, Callable[[], Method]] = {
        "kronecker-ridge": KroneckerRidge, "nystrom": Landmarks, "tensorsketch": CountSketch, "mlp": perceptron,
        "boosting": boosting, "svm": support_vectors, "linear": linear,
    }  # fmt: skip
    return others[name]()
