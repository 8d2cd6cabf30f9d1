"""Which engine, what it costs, and why: the fastest one that is exact here and fits into memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from kronsgd.engines import ENGINES
from kronsgd.engines.device import ON_PROCESSOR
from kronsgd.features.base import Features, describe_dim
from kronsgd.initial import MAX_COORDINATES
from kronsgd.network import TwoLayer
from kronsgd.planner.gpu import Gpu, gpu_in_use
from kronsgd.planner.limits import describe_bytes, parse_memory
from kronsgd.planner.memory import ON_GPU, Parts, device_parts, peak_bytes
from kronsgd.planner.problem import Problem, Schedule
from kronsgd.planner.rates import Rates, current_rates
from kronsgd.planner.work import ON_HOST, STEP_WORK, Work, epoch_steps
from kronsgd.validation import MOST

__all__ = ["EngineCost", "Plan", "make_plan"]

STEP = 0.1  # of all coefficients: more than one step adds to what a training has that comes near its limit


@dataclass(frozen=True)
class EngineCost:
    """What one engine would cost, or why it cannot be used."""

    engine: str
    work: dict[str, Work]  # of a step, by phase
    seconds: float  # a step
    steps: int  # an epoch
    memory: float  # bytes, at the worst moment of a fit
    parts: Parts  # of it
    refused: str = ""  # why it cannot be used
    device_memory: float = 0  # bytes beside `memory`, on a graphics card

    @property
    def epoch_seconds(self) -> float:
        """Time to visit every row once."""
        return self.seconds * self.steps

    @property
    def flops(self) -> float:
        """Of a step."""
        return sum(work.flops for work in self.work.values())

    @property
    def moved(self) -> float:
        """Bytes gathered, copied or passed over in a step."""
        return sum(work.moved for work in self.work.values())


@dataclass(frozen=True)
class Plan:
    """The costs of all engines for one problem, and the engine to use.

    `print(plan)` shows them as a table, `engine` is the choice (None if there is none), `costs` has a record for each
    engine. `choose()` gives the choice too, or raises an error that says what would fit. The torch engine is among them only
    where it was asked for, so that neither choices nor tables depend on what is installed, nor on the machine's graphics card.
    """

    problem: Problem
    memory_limit: float  # bytes
    rates: Rates = field(repr=False)
    wanted: str = "auto"  # the engine that was asked for
    gpu: Gpu | None = field(default=None, repr=False)  # of the torch engine, where it was asked for

    @property
    def costs(self) -> dict[str, EngineCost]:
        """By engine."""
        names = (name for name in STEP_WORK if name in ENGINES and (name != "torch" or self.wanted == "torch"))
        return {name: self._cost(name) for name in names}

    @property
    def fastest(self) -> EngineCost | None:
        """The engine that was asked for, or the fastest that can be used; None if it cannot, or none can."""
        usable = [cost for cost in self.costs.values() if not cost.refused and self.wanted in ("auto", cost.engine)]
        return min(usable, key=lambda cost: cost.epoch_seconds, default=None)

    @property
    def engine(self) -> str | None:
        """The engine to use, if any can be."""
        best = self.fastest
        return None if best is None else best.engine

    def choose(self) -> str:
        """The engine to use. MemoryError if none fits into memory, ValueError if the one asked for cannot be exact here."""
        engine = self.engine
        if engine is None:
            raise self._refusal()
        return engine

    def corrected(self, fired: float | None = None, alpha: float | None = None) -> Plan:
        """The plan for densities that were measured in training: shares of (row, neuron) pairs that fire, and in α."""
        known: dict[str, Any] = {} if fired is None else {"fired": fired}
        if alpha is not None:
            known |= {"alpha": alpha, "alpha_last": alpha}
        return replace(self, problem=replace(self.problem, **known))

    def most_coefficients(self, engine: str) -> float:
        """How many coefficients a training with this engine may come to within memory_limit; infinite if all of them."""
        p, low, high = self.problem, 0.0, 1.0

        def fits(share: float) -> bool:
            grown = replace(p, alpha_last=share, fired=max(p.fired, share))
            return peak_bytes(engine, grown)[0] <= self.memory_limit

        if fits(high):
            return math.inf
        while high - low > 1e-4 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        rows = p.sides[2] if engine == "grid" and p.sides is not None else p.n_rows
        step = min(p.schedule.batch_size, STEP * rows)  # is over before it is looked at
        return low * (rows - step) * p.network.n_hidden

    def _cost(self, engine: str) -> EngineCost:
        p, reason = self.problem, _unfit(engine, self.problem)
        if reason:
            return EngineCost(engine, {}, math.inf, 1, math.inf, {}, reason)
        work = STEP_WORK[engine](p)
        seconds = sum(self._seconds(engine, phase) for phase in work)
        gpu = self.gpu if engine == "torch" else None
        memory, parts = peak_bytes(engine if gpu is None else ON_GPU, p)
        device = 0.0 if gpu is None else sum(device_parts(p).values())
        refused = "" if memory <= self.memory_limit else f"needs more than {describe_bytes(self.memory_limit)}"
        if gpu is not None and device > gpu.usable:
            refused = f"needs more than {describe_bytes(gpu.usable)} on {gpu.name}"
        if self.wanted == "auto":
            refused = _not_meant(engine, p.schedule) or refused
        return EngineCost(engine, work, seconds, epoch_steps(engine, p), memory, parts, refused, device)

    def _seconds(self, engine: str, phase: str) -> float:
        """Of a phase of a step."""
        p, work = self.problem, STEP_WORK[engine](self.problem)[phase]
        if engine == "torch" and self.gpu is not None and phase != ON_HOST:
            return self.gpu.seconds(work, p.itemsize)
        size = p.schedule.block_size if engine == "grid" and p.schedule.blocks else p.schedule.batch_size
        return self.rates.seconds(work, p.itemsize, size)

    def _refusal(self) -> Exception:
        costs = self.costs
        asked = costs.get(self.wanted)
        if asked is not None and asked.memory == math.inf:
            other = replace(self, wanted="auto").fastest
            use = f'use engine="{other.engine}".' if other else 'leave engine="auto".'
            return ValueError(f'engine="{self.wanted}" cannot be used here: {asked.refused}; {use}')
        least = asked or min(costs.values(), key=lambda cost: cost.memory)
        need, most, where, network = least.memory, self.memory_limit, "", self.problem.network
        if self.gpu is not None and least.device_memory > self.gpu.usable:
            need, most, where = least.device_memory, self.gpu.usable, f" on {self.gpu.name}"
        share = f"a rank's share, {network.n_hidden} neurons, of " if network.exchange.shared else ""
        return MemoryError(
            f'engine="{least.engine}" would need about {describe_bytes(need)}{where} for {share}n_hidden='
            f"{network.whole.own_hidden} and {self.problem.n_rows:,} rows, but only {describe_bytes(most)} "
            f"may be used; {self._advice()}"
        )

    def _advice(self) -> str:
        """What would fit."""
        if self.problem.network.exchange.shared:
            return "start more ranks, or raise memory_limit."
        other = replace(self, wanted="auto").fastest
        if other is not None:
            return f'engine="{other.engine}" would fit with {describe_bytes(other.memory)}.'
        neurons = self._largest("n_hidden")
        rows = self._largest("n_rows")
        fits = [f"n_hidden={neurons}"] * (neurons > 0) + [f"{rows:,} rows"] * (rows > 1)
        if not fits:
            return "not even a single pair of neurons would fit: free some memory or raise memory_limit."
        return f"{' or '.join(fits)} would fit, or raise memory_limit."

    def _largest(self, what: str) -> int:
        """The largest n_hidden (even) or n_rows, to about three percent, with which some engine fits; 0 if none does."""
        p = self.problem
        low, high = 0, p.network.own_hidden if what == "n_hidden" else p.n_rows
        while high - low > max(2, low // 32):
            middle = (low + high) // 4 * 2
            fits = middle > 0 and replace(self, problem=_resized(p, what, middle)).fastest is not None
            low, high = (middle, high) if fits else (low, middle)
        return low

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and texts, for JSON."""
        p = self.problem
        engines = {
            name: {
                "chosen": name == self.engine, "refused": cost.refused or None,
                "gflop_per_step": _finite(cost.flops / 1e9, cost), "bytes_per_step": _finite(cost.moved, cost),
                "seconds_per_step": _finite(cost.seconds, cost),
                "seconds_per_epoch": _finite(cost.epoch_seconds, cost),
                "memory_bytes": _finite(cost.memory, cost), "memory_parts": dict(cost.parts),
                **({"device_memory_bytes": cost.device_memory} if cost.device_memory else {}),
            }
            for name, cost in self.costs.items()
        }  # fmt: skip
        return {
            "engine": self.engine, "n_rows": p.n_rows, "dimension": describe_dim(p.dim),
            "n_hidden": p.network.own_hidden, "n_networks": p.network.n_networks, "n_outputs": p.network.own_outputs,
            "batch_size": p.schedule.batch_size,
            "threshold": p.network.threshold, "dtype": p.network.dtype, "fired": p.fired, "coefficients": p.alpha,
            "memory_limit_bytes": _finite(self.memory_limit), "rates": self.rates.source, "engines": engines,
        }  # fmt: skip

    def __str__(self) -> str:
        p = self.problem
        lines = [
            f"{p.n_rows:,} rows × {describe_dim(p.dim)} dimensions, {p.network.size}, batches of "
            f"{p.schedule.batch_size}, threshold {p.network.threshold:.3g}: {100 * p.fired:.2g} % of the pairs fire, "
            f"{100 * p.alpha:.2g} % have a coefficient"
        ]
        header = ("engine", "GFLOP/step", "MB/step", "ms/step", "s/epoch", "peak memory", "")
        table = [header, *(self._row(cost) for cost in self.costs.values())]
        widths = [max(len(row[k]) for row in table) for k in range(len(header) - 1)]
        for row in table:
            cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:-1], widths[1:], strict=True)), row[-1]]
            lines.append("  ".join(cells).rstrip())
        own = "" if self.gpu is None else f"; those of torch by {self.gpu.source}"
        lines.append(f"Memory limit {describe_bytes(self.memory_limit)}. Times by {self.rates.source}{own}.")
        if self.wanted == "torch" and self.gpu is None:
            lines.append(ON_PROCESSOR)
        return "\n".join(lines)

    def _row(self, cost: EngineCost) -> tuple[str, ...]:
        mark = "→ " if cost.engine == self.engine else "  "
        if cost.memory == math.inf:
            return (mark + cost.engine, "–", "–", "–", "–", "–", f"cannot: {cost.refused}")
        times = {phase: self._seconds(cost.engine, phase) for phase in cost.work}
        phase = max(times, key=lambda phase: times[phase])
        share = times[phase] / cost.seconds
        note = f"cannot: {cost.refused}" if cost.refused else f"{100 * share:.0f} % of the time for {phase}"
        if cost.device_memory:
            note += f"; {describe_bytes(cost.device_memory)} on the GPU"
        return (
            mark + cost.engine, f"{cost.flops / 1e9:.3g}", f"{cost.moved / 1e6:.3g}", f"{1e3 * cost.seconds:.3g}",
            f"{cost.epoch_seconds:.3g}", describe_bytes(cost.memory), note,
        )  # fmt: skip


def make_plan(
    network: TwoLayer, features: Features, schedule: Schedule, *, normalize: bool = True, engine: str = "auto",
    memory_limit: float | str = "auto", rates: Rates | None = None,
) -> Plan:  # fmt: skip
    """The costs of every engine; nothing of the size of the problem is allocated. ValueError for a bad memory_limit.

    ModuleNotFoundError for the torch engine without PyTorch.
    """
    limit, gpu = parse_memory(memory_limit), gpu_in_use() if engine == "torch" else None
    return Plan(Problem.of(network, features, schedule, normalize), limit, rates or current_rates(), engine, gpu)


def _unfit(engine: str, p: Problem) -> str:
    """Why an engine cannot take exact steps on this problem, or nothing."""
    if p.network.narrow and not ENGINES[engine].narrow:
        return 'coefficient_dtype="bfloat16" is for the scan and the grid engine'
    if engine == "dense":
        if not p.has_coordinates:
            return "a kernel's entities have no exact coordinates"
        need = (2 * p.network.n_hidden + p.n_rows) * p.d * p.itemsize
        if need > 2 * MAX_COORDINATES or 8 * p.network.n_hidden * p.d > MAX_COORDINATES:
            return f"the product itself would take {describe_bytes(need)}"
    if engine in ("scan", "tree", "eager") and p.n_rows > MOST:
        return f"its rows are numbered in 32 bits, at most {MOST:,}"
    if engine == "grid" and p.sides is None:
        return "no product of factors with different row indices"
    if engine == "grid" and p.network.init != "structured":
        return 'init is not "structured"'
    return ""


def _not_meant(engine: str, schedule: Schedule) -> str:
    """Why an engine, exact though it is, is only taken when asked for, or nothing."""
    if engine == "grid" and not schedule.blocks:
        return 'made for batching="blocks"'
    if engine == "eager" and schedule.stream:
        return "stores numbers for every row that comes"
    return ""


def _resized(p: Problem, what: str, size: int) -> Problem:
    """The problem with another n_hidden, or with the first `size` rows."""
    if what == "n_hidden":
        return replace(p, network=replace(p.network, n_hidden=p.network.n_networks * max(2, size)))
    tables = tuple(replace(table, entities=min(table.entities, size), span=min(table.span, size)) for table in p.tables)
    smaller = {name: min(getattr(p.schedule, name), size) for name in ("probe", "batch_size", "block_size")}
    schedule = replace(p.schedule, **smaller)
    return replace(p, n_rows=max(1, size), tables=tables, schedule=schedule)


def _finite(value: float, cost: EngineCost | None = None) -> float | None:
    return None if value == math.inf or (cost is not None and cost.memory == math.inf) else value
