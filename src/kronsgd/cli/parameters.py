"""Estimator parameters from text or TOML, typed by each parameter's default."""

from __future__ import annotations

from typing import Any

from kronsgd import KronClassifier, KronRegressor
from kronsgd.estimators import KronEstimator
from kronsgd.validation import did_you_mean

__all__ = ["changed", "defaults", "make_model", "number_or_text", "typed"]

ESTIMATORS: dict[str, type[KronEstimator]] = {"regression": KronRegressor, "classification": KronClassifier}
BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def defaults(task: str | None = None) -> dict[str, Any]:
    """The parameters with their defaults: those of the task's estimator, or of both."""
    both = {name: estimator().get_params() for name, estimator in ESTIMATORS.items()}
    return dict(both[task]) if task else {name: value for own in both.values() for name, value in own.items()}


def make_model(task: str, params: dict[str, Any]) -> KronEstimator:
    """An unfitted estimator for "regression" or "classification". ValueError for a parameter of the other one."""
    wrong = next((name for name in params if name not in defaults(task)), None)
    if wrong is not None:
        raise ValueError(f"{wrong}={params[wrong]!r} sets no parameter of a model for {task}; leave it out, or see --task.")
    return ESTIMATORS[task](**params)


def changed(params: dict[str, Any]) -> dict[str, Any]:
    """Those parameters that differ from the defaults."""
    return {name: value for name, value in params.items() if value != defaults()[name]}


def number_or_text(text: str) -> Any:
    """An int, a float, a bool, or else the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def typed(name: str, value: Any) -> Any:
    """A parameter's value, from text (a flag) or as TOML has it, of its default's type. ValueError where it is not."""
    known = defaults()
    if name not in known:
        raise ValueError(
            f"{name}={value!r} sets no parameter of the model; the parameters are "
            f"{sorted(known)}.{did_you_mean(name, known)}"
        )
    default = known[name]
    given = number_or_text(value) if isinstance(value, str) else value
    if isinstance(default, bool):
        given = BOOLEANS.get(str(value).lower())
        return _checked(name, value, given, isinstance(given, bool), "true or false")
    if name == "class_weight":
        return _checked(name, value, None if given == "none" else given, given in ("balanced", "none"), "balanced, or none")
    if default is None:
        none = isinstance(given, str) and given.lower() == "none"
        return None if none else _checked(name, value, given, _is_integer(given), "a whole number, or none")
    if isinstance(default, int):
        return _checked(name, value, given, _is_integer(given), "a whole number")
    if isinstance(default, float):
        is_real = isinstance(given, float) or _is_integer(given)
        return _checked(name, value, float(given) if is_real else given, is_real, "a number")
    fine = isinstance(given, (str, int, float)) and not isinstance(given, bool)
    return _checked(name, value, given, fine, f"a word such as {default!r}, or a number where that is allowed")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _checked(name: str, value: Any, given: Any, fine: bool, allowed: str) -> Any:
    if not fine:
        raise ValueError(
            f"{name}={value!r} is not allowed for the model; give {allowed} (default: {defaults()[name]})."
        )
    return given
