"""The parameters that both estimators share: described and checked once."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec

from kronsgd.engines import ENGINES
from kronsgd.planner.limits import parse_memory
from kronsgd.training import BATCHINGS, SCHEDULES
from kronsgd.validation import check_choice, check_integer, check_real, check_switch, did_you_mean

__all__ = ["check_known", "check_params", "described", "names_checked", "unchanged_on_error"]

P = ParamSpec("P")

SWITCHES = (
    "antisymmetric", "train_output", "normalize", "standardize", "shuffle", "early_stopping", "warm_start", "verbose",
)  # fmt: skip

PARAMETERS = """

    The network is f_c(x) = (γ/√m) Σ_r a_rc max(⟨w_r, x⟩ − b, 0) on rows x of norm 1; neuron r fires on x when ⟨w_r, x⟩ > b.
    X is a feature expression such as `(1 + drugs[i]) * (1 + proteins[j])`, or a plain 2-D array, which stands for
    `(1 + Z) ** 2` with Z its scaled columns.

    Parameters
    ----------
    n_hidden : int, default=1024
        Number of neurons m of each network.
    n_networks : int, default=1
        Networks E that are trained side by side on the same batches, each from its own seed, and averaged; each is, to
        rounding, what it would be alone. They share inner products: with engine="scan" five cost about three trainings,
        with "grid", which forms few, as many as they are.
    engine : {"auto", "scan", "tree", "eager", "dense", "grid", "torch"}, default="auto"
        How steps are computed; never what they are. "scan" never builds the product, "dense" does. "tree" is "scan" for small
        batches and wide networks: it evaluates only the neurons that can fire, to the same last bit. "eager" is for single rows
        of small problems: it stores every inner product of a row and a neuron. "grid" is for products of factors with
        different row indices, such as `A[i] * B[j]`, where many of all pairs are observed: a block of pairs then costs far
        less than its rows one by one. "torch" is "scan" on a graphics card, with PyTorch (the extra `torch`). "auto" takes the
        fastest of the others for the given `batching` that fits into memory, by counted work and built-in rates
        (`print(ks.plan(X, n_hidden=m))` explains it).
    threshold : float or "auto", default="auto"
        b; "auto" is √(0.4 ln m), which lets a few percent of the neurons fire.
    output_scale : float, default=0.1
        γ. At 1 the network stays close to its tangent kernel; smaller values let it learn features.
    init : {"structured", "gaussian"}, default="structured"
        w(0): Kronecker products of Gaussian factors, or N(0, I) over all coordinates (moderate dimensions only).
    init_rank : int, default=1
        Number of Kronecker products that are added up in each structured w_r(0).
    antisymmetric : bool, default=True
        Neurons come in pairs with equal w(0) and opposite a, so that f = 0 at the start.
    train_output : bool, default=False
        Train the output weights a too.
    normalize : bool, default=True
        Scale every row of the whole expression to norm 1.
    standardize : bool, default=True
        Scale the columns of a plain array to mean 0 and variance 1 first.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision; "auto" is that of a plain array, and float32 for an expression.
    coefficient_dtype : {"auto", "bfloat16"}, default="auto"
        How what is learned, the coefficients α, is kept between steps: "auto" is `dtype`; "bfloat16" takes 2 bytes a number
        instead of 4, for the engines "scan" and "grid" in float32. Steps are then rounded: on five problems outputs moved by
        0.04 to 5.4 %, less than from one seed to another, and test scores hardly at all (docs/scale.md).
    batching : {"auto", "random", "blocks"}, default="auto"
        What a step sees: rows drawn at random, or a block of the grid, that is all rows between some entities of one side
        of a product and at most 64 of the other. Either way every row is in one batch per epoch. "auto" is "blocks" for
        engine="grid", else "random"; with the same batching all engines take the same steps.
    batch_size : int or "auto", default="auto"
        Rows per step, about so many for blocks. "auto" is min(64, rows), for blocks a sixteenth of the rows between 64
        and 1024.
    learning_rate : {"cosine", "linear", "constant"}, default="cosine"
        Schedule: step t of T uses learning_rate_init · ½(1 + cos(πt/T)), · (1 − t/T), or itself; t = 0 … T − 1.
    learning_rate_init : float or "auto", default="auto"
        Step on the mean gradient of a batch; "auto" is the inverse of the largest eigenvalue of the network's own tangent
        kernel on a batch times the loss's curvature, halved if the loss should diverge.
    max_iter : int or "auto", default="auto"
        Epochs; 0 only initialises. "auto" asks the tangent kernel's generalised cross-validation how long to train.
    alpha : float, default=0.0
        Penalty (alpha/2) Σ_r ‖(γ/√m)(w_r − w_r(0))‖² on what is learned.
    shuffle : bool, default=True
        Draw batches at random; False takes consecutive rows, or blocks of consecutive entities.
    tol, n_iter_no_change : float, default=1e-4; int, default=10
        Stop when the training loss has not fallen by tol for n_iter_no_change epochs.
    early_stopping, validation_fraction : bool, default=False; float, default=0.1
        Hold out a part of the rows, stop when its loss has not fallen for n_iter_no_change epochs, keep the best model.
    warm_start : bool, default=False
        Let fit go on from the fitted model, with these rows added to those it knows.
    random_state : int, RandomState or None, default=None
        Seed of initial weights and batches.
    n_jobs : int or None, default=None
        Threads; None uses all. The result does not depend on it.
    memory_limit : float, str or "auto", default="auto"
        Memory that fit may take: bytes (1 MiB or more), or text such as "8 GiB"; "auto" is 0.9 of what is free. What
        cannot fit is refused before it is allocated. Where more neurons fire in training than the plan could know, training
        ends before it takes more than that, and keeps the model of its last step (stop_reason_ says so).
    verbose : bool, default=False
        Show a progress bar.

    Attributes
    ----------
    features_ : the training rows as an expression; `features(X)` gives that of other rows.
    engine_, threshold_, learning_rate_, max_iter_ : what "auto" became.
    plan_ : what each engine would cost, at the densities that training has measured.
    history_ : a dict per epoch: loss, fired (share of pairs), learning_rate, seconds, rows_per_second, validation_loss.
    loss_curve_ : the losses in history_.
    n_iter_ : epochs trained.
    stop_reason_ : why training ended; a StopReason whose value is a sentence with advice.
    output_weights_ : a (n_hidden, outputs); `hidden_weights()` gives W (n_hidden, d) where d is small. Of E networks, all
        neurons and outputs together: `state_.network.member_neurons(e)` are the neurons of network e.
    """


def described(summary: str, parameters: str, attributes: str) -> str:
    """An estimator's docstring: what is its own, and what both share."""
    return summary + PARAMETERS.replace("\n    Attributes\n", parameters + "\n    Attributes\n") + attributes


def names_checked(init: Callable[P, None], base: Any = None) -> Callable[P, None]:
    """`__init__` with a suggestion for a misspelt name; scikit-learn still sees its signature.

    base: an `__init__` whose parameters stand for `init`'s keyword arguments, `**shared`.
    """
    signature = inspect.signature(init)
    if base is not None:
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {p.name for p in own}
        shared = [p for p in inspect.signature(base).parameters.values() if p.name not in names]
        signature = signature.replace(parameters=[*own, *shared])
    known = sorted(set(signature.parameters) - {"self"})

    @functools.wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        _check_names(type(args[0]).__name__, kwargs, known, TypeError)
        init(*args, **kwargs)

    checked.__signature__ = signature  # type: ignore[attr-defined]  # inspect reads it, but functions declare none
    return checked


def check_known(model: Any, names: Iterable[str]) -> None:
    """Raise ValueError, with a suggestion, for the first name that is not a parameter."""
    _check_names(type(model).__name__, names, sorted(model.get_params()), ValueError)


def _check_names(owner: str, names: Iterable[str], known: list[str], kind: type[Exception]) -> None:
    for name in names:
        if name not in known:
            raise kind(
                f"Invalid parameter {name!r} for estimator {owner}; valid parameters are {known}."
                f"{did_you_mean(name, known)}"
            )


@contextlib.contextmanager
def unchanged_on_error(model: Any) -> Iterator[None]:
    """A call that fails leaves the estimator as it was."""
    before = dict(model.__dict__)
    try:
        yield
    except BaseException:
        model.__dict__.clear()
        model.__dict__.update(before)
        raise


def check_params(model: Any) -> None:
    """Raise TypeError or ValueError for the first parameter out of range."""
    check_choice("engine", model.engine, ["auto", *ENGINES])
    check_choice("batching", model.batching, ["auto", *BATCHINGS])
    check_choice("dtype", model.dtype, ["auto", "float32", "float64"])
    check_choice("coefficient_dtype", model.coefficient_dtype, ["auto", "bfloat16"])
    if not isinstance(model.learning_rate, str):
        raise TypeError(
            f"learning_rate={model.learning_rate!r} is not a schedule {list(SCHEDULES)}; a step goes to learning_rate_init."
        )
    check_choice("learning_rate", model.learning_rate, SCHEDULES)
    check_integer("n_networks", model.n_networks, 1)
    if model.max_iter != "auto":
        check_integer("max_iter", model.max_iter, 0)
    check_integer("n_iter_no_change", model.n_iter_no_change, 1)
    check_real("alpha", model.alpha, 0)
    check_real("output_scale", model.output_scale, 0, open_low=True)
    if model.n_jobs is not None:
        check_integer("n_jobs", model.n_jobs, -1)
    if model.memory_limit != "auto":  # that would ask the system what is free
        parse_memory(model.memory_limit)
    for name in SWITCHES:
        check_switch(name, getattr(model, name))
    check_real("tol", model.tol, 0)
    if model.early_stopping:
        check_real("validation_fraction", model.validation_fraction, 0, 0.9, open_low=True)
    if model.batch_size != "auto":
        check_integer("batch_size", model.batch_size, 1)
    if model.learning_rate_init != "auto":
        check_real("learning_rate_init", model.learning_rate_init, 0, open_low=True)
    if model.threshold != "auto":
        check_real("threshold", model.threshold, -math.inf)
    model._check_own_params()
