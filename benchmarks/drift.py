"""What single precision makes of 100,000 steps: rounding of what is kept, apart from networks that go their own ways.

    python -m benchmarks.run drift

Every engine takes the same batches. Beside it, α is kept in float64 from what each step recorded: its slopes, output weights
and fired pairs. What the engine keeps is compared with that: its α, and the hidden values that it computes from α (scan),
from stored inner products (eager), from a strip (grid) or from lists that bounds have chosen (tree). Two float64 trainings,
one with targets moved by a rounding of single precision, tell how fast networks part that differ by nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import kronsgd as ks
from benchmarks.common import report
from kronsgd.engines import EagerEngine, Engine, GridEngine, ScanEngine, TreeEngine
from kronsgd.losses import LOSSES
from kronsgd.network import TwoLayer, auto_threshold
from kronsgd.parallel import threads
from kronsgd.training.learning_rate import auto_learning_rate, schedule

__all__ = ["Drift", "Run", "follow"]

STEPS, CHECKS = 100_000, (100, 1_000, 10_000, 100_000)
INNER, OUTER, M, SIZE = 8, 32, 128, 8
WINDOW = 16  # steps before a check whose hidden values are compared
UNIT = 2.0**-24  # rounding of float32
ENGINES: dict[str, Engine] = {"scan": ScanEngine(), "grid": GridEngine(), "tree": TreeEngine(), "eager": EagerEngine()}


@dataclass(frozen=True)
class Setting:
    """How a training steps."""

    schedule: str = "constant"
    alpha: float = 0.0
    train_output: bool = False
    epochs: bool = True  # False: `begin_epoch` is called once only, so that nothing is made anew


SETTINGS = {
    "constant": Setting(), "cosine": Setting("cosine"), "alpha": Setting(alpha=1e-3),
    "output trained": Setting(train_output=True), "one epoch": Setting(epochs=False),
}  # fmt: skip


@dataclass
class Drift:
    """Relative differences between what is kept and what the recorded steps add up to, after so many steps."""

    coefficients: float  # ‖α − α₆₄‖ / ‖α₆₄‖
    hidden: float  # the same of pre-activations of fired pairs, less their starting values
    terms: float  # norm of Σ_j |α_jr ⟨x_j, x_i⟩| there, in multiples of that of the sums: what rounding is multiplied by
    outputs: float  # of outputs


@dataclass
class Run:
    """One training: its outputs and drifts at the checks, and fired pairs by step."""

    outputs: dict[int, Any] = field(default_factory=dict)
    drifts: dict[int, Drift] = field(default_factory=dict)
    fired: list[Any] = field(default_factory=list)


def problem(seed: int = 0) -> tuple[ks.Features, Any]:
    """All pairs of two small tables, and a noisy target that no network of this width meets."""
    rng = np.random.default_rng(seed)
    i, j = np.divmod(np.arange(INNER * OUTER), OUTER)
    a, b = rng.normal(size=(INNER, 4)), rng.normal(size=(OUTER, 6))
    X = (1 + ks.Dense(a))[i] * (1 + ks.Dense(b))[j]
    y = a[i, 0] * b[j, 0] + 0.5 * rng.normal(size=len(i))
    return X, ((y - y.mean()) / y.std())[:, None]


def batches(steps: int) -> Any:
    """Rows of each step: one inner entity with some outer ones, so that strips are used again. Shape: (steps, SIZE)."""
    rng = np.random.default_rng(1)
    columns = np.argsort(rng.random((steps, OUTER), dtype=np.float32), axis=1)[:, :SIZE]
    return np.sort(columns + OUTER * rng.integers(INNER, size=(steps, 1)), axis=1)


class Shadow:
    """α in float64, from what the steps of an engine recorded."""

    def __init__(self, engine: Engine, state: Any) -> None:
        self.engine, self.state = engine, state
        exact = TwoLayer(**{**_plain(state.network), "dtype": "float64"})
        oracle = ScanEngine()
        fresh = oracle.initialize(exact, state.features)
        n = state.features.n_rows
        self.start = fresh.start(np.arange(n)).T  # (m, n)
        self.gram = fresh.gram.panel(np.arange(n), 64).transpose(1, 0, 2).reshape(n, -1)[:, :n]
        self.alpha = np.zeros((exact.n_hidden, n))

    def add(self, activations: Any, hidden: Any, slopes: Any, step: float, alpha: float) -> None:
        """The step's part, by the engine's own fired pairs, slopes and output weights."""
        scaled = (-step * self.state.network.scale * slopes).astype(self.state.network.dtype).astype(np.float64)
        self.alpha *= 1.0 - step * alpha
        self.alpha[:, activations.rows] += (hidden > 0).T * (self.state.output_weights.astype(np.float64) @ scaled.T)

    def hidden_of(self, rows: Any) -> tuple[Any, Any]:
        """(Σ_j α_jr ⟨x_j, x_i⟩, starting values). Shape: (S, m) each."""
        return (self.alpha @ self.gram[:, rows]).T, self.start[:, rows].T

    def terms_of(self, rows: Any) -> Any:
        """Σ_j |α_jr ⟨x_j, x_i⟩|. Shape: (S, m)."""
        return (np.abs(self.alpha) @ np.abs(self.gram[:, rows])).T

    def coefficients(self) -> Any:
        """What the engine keeps, in the rows' order, float64. Shape: (m, n)."""
        state = self.state
        if isinstance(self.engine, GridEngine):
            alpha, tables = state.coefficients, state.cells.tables
            cells = (tables.inner << alpha.segments.slice_bits) + tables.outer
            return alpha.matrix(alpha.segments.n_rows).toarray()[:, cells]
        return state.coefficients.matrix(state.features.n_rows).toarray()


def follow(
    engine: Engine, dtype: str, setting: Setting, steps: int, checks: tuple[int, ...], *, shadow: bool = False,
    moved: float = 0.0, compare: list[Any] | None = None,
) -> Run:  # fmt: skip
    """A training of so many steps. shadow: keep float64 beside it; moved: how far targets are moved, relatively."""
    X, y = problem()
    y = y * (1 + moved * np.random.default_rng(2).uniform(-1, 1, y.shape))
    network = TwoLayer(M, threshold=auto_threshold(M), output_scale=1.0, seed=3, dtype=dtype, train_output=setting.train_output)
    state, run, loss = engine.initialize(network, X), Run(), LOSSES["squared"]
    rate = 0.5 * auto_learning_rate(ScanEngine(), ScanEngine().initialize(network, X), loss, SIZE, np.ones(len(y)))
    alpha = setting.alpha / rate
    beside, rows_of = Shadow(engine, state) if shadow else None, batches(steps)
    window: list[tuple[Any, ...]] = []
    engine.begin_epoch(state)
    for t in range(steps):
        if setting.epochs and t % (len(y) // SIZE) == 0:
            engine.begin_epoch(state)
        rows, step = rows_of[t], rate * schedule(setting.schedule, t, steps)
        activations = engine.forward(state, rows)
        hidden = engine.hidden(state, activations)
        run.fired.append(np.packbits(hidden > 0))
        slopes = loss.derivative(activations.outputs, y[rows]) / SIZE
        if beside is not None:
            if any(0 <= check - 1 - t < WINDOW for check in checks):
                kept = hidden.copy(), activations.outputs.copy(), state.output_weights
                window.append((*kept, *beside.hidden_of(rows), beside.terms_of(rows)))
            beside.add(activations, hidden, slopes, step, alpha)
        engine.update(state, engine.backward(state, activations, slopes, step, alpha))
        if t + 1 in checks:
            if beside is not None:
                run.drifts[t + 1] = _drift(network, beside, window)
                window.clear()
            run.outputs[t + 1] = _outputs(engine, state)
    return run


def _drift(network: TwoLayer, beside: Shadow, window: list[tuple[Any, ...]]) -> Drift:
    wrong = beside.coefficients() - beside.alpha
    parts = []
    for hidden, outputs, weights, moved, start, terms in window:
        exact = moved + start - network.threshold
        fired = hidden > 0
        answers = network.scale * np.where(fired, exact, 0) @ weights.astype(np.float64)
        compared = (hidden - exact)[fired], moved[fired], terms[fired], outputs - answers, answers
        parts.append([(part**2).sum() for part in compared])
    of_hidden, own, all_terms, of_outputs, answered = np.sqrt(np.sum(parts, axis=0))
    of_coefficients = np.linalg.norm(wrong) / np.linalg.norm(beside.alpha)
    return Drift(float(of_coefficients), *(float(x) for x in (of_hidden / own, all_terms / own, of_outputs / answered)))


def _outputs(engine: Engine, state: Any) -> Any:
    """Of all rows, without a trace in what later steps use."""
    return engine.outputs(state, state.features)


def _plain(network: TwoLayer) -> dict[str, Any]:
    return {name: getattr(network, name) for name in ("n_hidden", "threshold", "output_scale", "seed", "train_output")}


def relative(a: Any, b: Any) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def main(steps: int = STEPS) -> None:
    """Settings × engines × steps."""
    checks = tuple(check for check in CHECKS if check <= steps)
    rows = []
    with threads(1):
        for name, setting in SETTINGS.items():
            exact = follow(ENGINES["scan"], "float64", setting, steps, checks)
            other = follow(ENGINES["scan"], "float64", setting, steps, checks, moved=UNIT)
            for engine in ENGINES:
                run = follow(ENGINES[engine], "float32", setting, steps, checks, shadow=True)
                parted = np.cumsum([np.bitwise_count(a ^ b).sum() for a, b in zip(run.fired, exact.fired, strict=True)])
                for check in checks:
                    drift = run.drifts[check]
                    rows.append({
                        "setting": name, "engine": engine, "steps": check, "α kept / recorded": drift.coefficients,
                        "hidden / recorded": drift.hidden, "terms / sums": drift.terms, "outputs / recorded": drift.outputs,
                        "outputs float32 / float64": relative(run.outputs[check], exact.outputs[check]),
                        "float64 / float64, targets moved by 2⁻²⁴": relative(other.outputs[check], exact.outputs[check]),
                        "fired pairs that differ": int(parted[check - 1]),
                    })  # fmt: skip
                print(rows[-1], flush=True)
    report("drift", f"Single precision over {steps:,} steps", rows,
           "kept / recorded: what the engine keeps against the float64 sum of what its own steps recorded, relative 2-norms; "
           "it is rounding alone, multiplied by how much larger than their sums the terms are that are added up. The other "
           "columns compare trainings.")  # fmt: skip
