"""`kronsgd.plan`: what a fit would cost, before it is begun."""

from __future__ import annotations

from typing import Any

import numpy as np

from kronsgd.estimators.inputs import read_rows
from kronsgd.estimators.parameters import check_params
from kronsgd.estimators.planning import planned
from kronsgd.estimators.regressor import KronRegressor
from kronsgd.features.base import Features
from kronsgd.planner import Plan
from kronsgd.validation import check_integer

__all__ = ["plan"]


def plan(X: Any, n_hidden: int = 1024, *, n_outputs: int = 1, **params: Any) -> Plan:
    """What fitting an estimator with these parameters on X would take: `print(ks.plan(X, n_hidden=8192))`.

    X: a feature expression or a plain array. n_outputs: columns of y, or classes if more than two. params: those of
    an estimator. Counts the flops, the bytes and the peak memory of each engine and allocates nothing of their size.
    Choices by engine="auto" and estimated times use built-in rates unless `kronsgd plan --calibrate` was run on this machine
    (KRONSGD_CALIBRATION=off ignores what it measured); a plan never measures anything itself.
    """
    params.pop("class_weight", None)  # a classifier's, which costs nothing
    model = KronRegressor(n_hidden).set_params(**params)
    check_params(model)
    rows = read_rows(model, X, reset=True, minimum=2)
    features = model._features(rows, None, reset=True)
    own = "float32" if isinstance(rows, Features) else str(np.asarray(rows).dtype)
    network = model._make_network(
        check_integer("n_outputs", n_outputs, 1), own if model.dtype == "auto" else model.dtype, seed=0
    )
    return planned(model, network, features)
