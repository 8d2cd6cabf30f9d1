"""Checks on user input: each failure is one sentence with the value, what is allowed, and the next step."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MOST",
    "as_float_matrix",
    "as_index",
    "brief",
    "check_array",
    "check_choice",
    "check_count",
    "check_finite",
    "check_integer",
    "check_real",
    "check_switch",
    "did_you_mean",
    "float_type",
]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def brief(error: Exception) -> str:
    """An error's message as one line of bearable length: it may quote a file."""
    return " ".join(str(error).split())[:300]


MOST = 2**31 - 1  # of what is numbered in 32 bits


def check_count(what: str, n: int, instead: str) -> None:
    """Raise ValueError where there are more of something than 32 bits can number. instead: the next step."""
    if n > MOST:
        raise ValueError(f"{n:,} {what} are too many: they are numbered in 32 bits, so at most {MOST:,} can be; {instead}.")


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of the `allowed` words."""
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not known; choose one of {allowed}.{did_you_mean(str(value), allowed)}")


def check_integer(name: str, value: Any, low: int, high: float = np.inf) -> int:
    """`value` as an int in [low, high]; TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r} is not an integer; give a whole number of at least {low}.")
    if not low <= int(value) <= high:
        top = "" if high == np.inf else f" and at most {high:g}"
        raise ValueError(f"{name}={value!r} is out of range; give a whole number of at least {low}{top}.")
    return int(value)


def check_real(name: str, value: Any, low: float, high: float = np.inf, *, open_low: bool = False) -> float:
    """`value` as a finite float in [low, high] (or (low, high]); TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} is not a number; give a real number.")
    try:
        value = float(value)
    except OverflowError:  # an integer beyond what floating point holds
        value = np.inf if value > 0 else -np.inf
    inside = (low < value if open_low else low <= value) and value <= high and np.isfinite(value)
    if not inside:
        left, right = ("(" if open_low else "["), (")" if high == np.inf else "]")
        raise ValueError(f"{name}={value!r} is out of range; allowed is {left}{low:g}, {high:g}{right}.")
    return value


def check_switch(name: str, value: Any) -> None:
    """Raise TypeError unless `value` is True or False (or 0, 1, as command lines and old code have it)."""
    if not isinstance(value, (bool, np.bool_)) and not (isinstance(value, Integral) and value in (0, 1)):
        raise TypeError(f"{name}={value!r} is neither True nor False; give one of them.")


def check_finite(name: str, array: NDArray[Any], place: Callable[[int], tuple[int, ...]] | None = None) -> None:
    """Raise ValueError naming the first NaN or infinity in `array`.

    place: the position of entry k to name, where the array holds the entries of another (a sparse one).
    """
    if array.dtype.kind != "f" or np.isfinite(array.sum(dtype=np.float64)):
        return
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = tuple(int(i) for i in bad[0])
        word = "NaN" if np.isnan(array[where]) else "infinity"
        shown = where if place is None else place(where[0])
        raise ValueError(
            f"{name} contains {word} at position {shown} ({len(bad)} such values in all); only finite numbers are "
            "allowed: drop these rows or fill them in, for example with sklearn.impute.SimpleImputer."
        )


def as_float_matrix(name: str, value: Any) -> NDArray[np.floating[Any]]:
    """`value` as a C-contiguous 2-D float array: float32 and float64 stay, integers and booleans become float32."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {array.dtype}; give numbers (float32, float64, integers or booleans).")
    if array.ndim != 2:
        raise ValueError(
            f"{name} has shape {array.shape}; give a 2-D array with a row for each entity, for example "
            ".reshape(-1, 1) for a single column."
        )
    if array.shape[0] == 0 or array.shape[1] == 0:
        raise ValueError(f"{name} has shape {array.shape}; at least one row and one column are needed.")
    array = np.ascontiguousarray(array, dtype=float_type(array.dtype))
    check_finite(name, array)
    return array


def float_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that numbers of this one are kept in: float32 and float64 of any byte order stay, all else becomes float32."""
    native = dtype.newbyteorder("=")
    return native if native in (np.float32, np.float64) else np.dtype(np.float32)


def as_index(name: str, value: Any, n_entities: int) -> NDArray[np.int64]:
    """Row numbers, a slice or a boolean mask as an int64 array of numbers in [0, n_entities)."""
    if isinstance(value, slice):
        return np.arange(n_entities, dtype=np.int64)[value]
    array = np.atleast_1d(np.asarray(value))
    if array.dtype == bool:
        if array.shape != (n_entities,):
            raise IndexError(f"a boolean mask of shape {array.shape} cannot select from {name} with {n_entities} rows.")
        return np.flatnonzero(array).astype(np.int64)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise IndexError(
            f"{name} is indexed by a list of row numbers, a slice or a mask, not by {array.dtype} of shape {array.shape}; "
            "translate names into row numbers first, for example with kronsgd.datasets.PairTable."
        )
    array = array.astype(np.int64)
    outside = (array < -n_entities) | (array >= n_entities)
    if outside.any():
        where = int(np.argmax(outside))
        raise IndexError(
            f"row number {int(array[where])} at position {where} is outside {name}, which has {n_entities} rows "
            f"(0 to {n_entities - 1})."
        )
    return np.where(array < 0, array + n_entities, array)


def check_array(name: str, arrays: Mapping[str, NDArray[Any]], shape: tuple[int | None, ...], kind: str) -> NDArray[Any]:
    """`arrays[name]`, checked for shape (None: any), dtype kind and finite values."""
    if name not in arrays:
        raise ValueError(f"array '{name}' is missing")
    array = np.ascontiguousarray(arrays[name])
    fits = array.ndim == len(shape) and all(s is None or s == got for s, got in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.kind != kind:
        raise ValueError(f"array '{name}' is {array.dtype} of shape {array.shape}, expected kind '{kind}' of shape {shape}")
    if kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"array '{name}' contains NaN or infinity")
    return array
