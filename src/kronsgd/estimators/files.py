"""Fitted estimators as files: all that `predict` and further training need, as arrays and JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from kronsgd.engines import ENGINES
from kronsgd.engines.device import NoDevice
from kronsgd.estimators.inputs import ArrayMap
from kronsgd.estimators.parameters import check_params
from kronsgd.features.serialize import features_from_state, features_state
from kronsgd.modelfile import read_model, write_model
from kronsgd.network import TwoLayer
from kronsgd.parallel import threads
from kronsgd.planner import check_restorable
from kronsgd.training import StopReason
from kronsgd.validation import brief, check_choice, check_real

__all__ = ["load_model", "plain_params", "save_model"]

Array = NDArray[Any]
OF_THE_MACHINE = ("n_jobs", "memory_limit", "verbose")  # parameters that change no model; one that is loaded has their defaults
TIMES = ("seconds", "rows_per_second")


def save_model(model: Any, path: str | os.PathLike[str]) -> None:
    """Write the model to one safetensors file; training can be continued from it to the last bit."""
    check_is_fitted(model, "state_")
    arrays, tree = features_state(model.features_)
    basis_arrays, basis_tree = features_state(model._engine.basis(model.state_), "basis")
    arrays |= basis_arrays
    arrays |= {f"state.{k}": v for k, v in model._engine.arrays(model.state_).items()}
    if model._array_map is not None:
        arrays |= {"input.mean": model._array_map.mean, "input.scale": model._array_map.scale}
    meta = {
        "class": type(model).__name__, "params": plain_params(model), "network": asdict(model.state_.network),
        "engine": model.engine_, "normalize": bool(model.state_.normalize), "features": tree, "basis": basis_tree,
        "history": _without_times(model.history_), "n_iter": model.n_iter_, "max_iter": getattr(model, "max_iter_", None),
        "stop_reason": model.stop_reason_.name, "learning_rate": model.learning_rate_,
        "n_features_in": getattr(model, "n_features_in_", None),
        "feature_names_in": [str(name) for name in getattr(model, "feature_names_in_", [])], "own": model._own_state(),
    }  # fmt: skip
    write_model(path, arrays, meta)


def plain_params(model: Any) -> dict[str, Any]:
    """The parameters that make the model what it is; a generator as random_state is not kept."""
    own = {name: value for name, value in model.get_params().items() if name not in OF_THE_MACHINE}
    own = {name: value.item() if isinstance(value, np.generic) else value for name, value in own.items()}
    return {name: value if isinstance(value, (str, int, float, bool)) else None for name, value in own.items()}


def _without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Records of what does not depend on the machine: the same training gives the same file."""
    return [{name: value for name, value in record.items() if name not in TIMES} for record in history]


def load_model(path: str | os.PathLike[str], classes: Mapping[str, Any]) -> Any:
    """The estimator that was saved at `path`. ValueError for anything but a whole, consistent model file."""
    arrays, meta = read_model(path)
    try:
        model = classes[meta["class"]](**meta["params"])
        with threads(model.n_jobs):
            _restore(model, arrays, meta)
    except (ModuleNotFoundError, NoDevice):  # of engine="torch": the file may well be whole
        raise
    except Exception as error:  # whatever a damaged or hostile file provokes
        raise ValueError(f"{path} is not a consistent kronsgd model ({brief(error)}); save the model again.") from None
    return model


def _restore(model: Any, arrays: dict[str, Array], meta: dict[str, Any]) -> None:
    check_params(model)
    check_choice("engine", meta["engine"], ENGINES)
    network = TwoLayer(**meta["network"])
    if network.narrow and not ENGINES[meta["engine"]].narrow:
        raise ValueError(f"engine {meta['engine']!r} keeps no bfloat16")
    if arrays["state.output_weights"].shape != (network.n_hidden, network.n_outputs):  # before anything is allocated
        raise ValueError("the output weights do not fit the network")
    features = features_from_state(arrays, meta["features"])
    basis = features_from_state(arrays, meta["basis"], "basis")
    shapes = {k.removeprefix("state."): array.shape for k, array in arrays.items() if k.startswith("state.")}
    check_restorable(meta["engine"], network, features, basis, shapes)
    if not all(isinstance(record, dict) for record in meta["history"]):
        raise ValueError("the history is no list of epochs")
    model.engine_, model.n_iter_, model.history_ = meta["engine"], int(meta["n_iter"]), list(meta["history"])
    model.threshold_, model.learning_rate_ = network.threshold, check_real("learning_rate", meta["learning_rate"], 0)
    model.stop_reason_ = StopReason[meta["stop_reason"]]
    if meta["max_iter"] is not None:
        model.max_iter_ = int(meta["max_iter"])
    if meta["n_features_in"] is not None:
        model.n_features_in_ = int(meta["n_features_in"])
    if meta["feature_names_in"]:
        if not isinstance(meta["feature_names_in"], list) or not all(isinstance(n, str) for n in meta["feature_names_in"]):
            raise ValueError("the names of columns are no list of names")
        model.feature_names_in_ = np.array(meta["feature_names_in"], dtype=object)
    model._array_map = ArrayMap.from_arrays(arrays) if "input.mean" in arrays else None
    model.state_ = model._engine.initialize(network, features, bool(meta["normalize"]), basis)
    own = {k.removeprefix("state."): v for k, v in arrays.items() if k.startswith("state.")}
    model._engine.restore(model.state_, own)
    model._restore_own(meta["own"])
