"""What a graphics card can do at most, and what the torch engine's coefficients cost on it, stored whole or as lists.

The figures are the makers', for the card's whole peak; nothing in here was measured, and a real step takes longer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kronsgd.engines.device import Device
from kronsgd.planner.limits import SHARE
from kronsgd.planner.problem import Problem
from kronsgd.planner.work import Work

__all__ = ["GPUS", "Gpu", "coefficient_seconds", "gpu_in_use"]


@dataclass(frozen=True)
class Gpu:
    """Operations per second; pairs of numbers are for float32 and float64."""

    name: str
    gemm: tuple[float, float]  # flops, float32 without rounding to TF32
    tf32: float  # flops, where the user has allowed it
    moved: float  # bytes of its memory
    cache: float  # bytes of its second-level cache: an estimate, for makers do not say
    free: float = 0.0  # bytes of memory
    launch: float = 8e-6  # seconds of a call from Python

    def seconds(self, work: Work, itemsize: int) -> float:
        """The roofline: arithmetic or memory, whichever takes longer."""
        return max(work.gemm / self.gemm[itemsize != 4], work.moved / self.moved) + work.calls * self.launch

    @property
    def usable(self) -> float:
        """Bytes that a fit may take."""
        return SHARE * self.free

    @property
    def source(self) -> str:
        """Of the times, for people."""
        return f"peak figures of {self.name} by its maker, not measured"


GPUS = (
    Gpu("NVIDIA H200", (67e12, 67e12), 494e12, 4.8e12, 5.5e12),
    Gpu("NVIDIA H100", (67e12, 67e12), 494e12, 3.35e12, 5.5e12),
    Gpu("NVIDIA A100", (19.5e12, 19.5e12), 156e12, 2.0e12, 4.0e12),
)


def gpu_in_use() -> Gpu | None:
    """The card that the torch engine would use, None where that is the processor. ModuleNotFoundError without PyTorch.

    One that is not known counts as the slowest that is.
    """
    device = Device.current()
    if not device.is_gpu:
        return None
    label = device.label
    known = next((gpu for gpu in GPUS if gpu.name in label), replace(GPUS[-1], name=f"{label}, taken for an A100"))
    return replace(known, free=device.free_bytes)


def coefficient_seconds(p: Problem, gpu: Gpu, tf32: bool = False) -> dict[str, float]:
    """Least time of a step's sums over coefficients with α stored whole, and as lists of those that are not 0.

    Whole: 2·S·n·m flops and n·m numbers from memory. Lists: nnz numbers with their places from memory, and for each of them a
    row of S numbers from the cache.
    """
    size, pairs, item = p.schedule.batch_size, float(p.n_rows) * p.network.n_hidden, p.itemsize
    flops = gpu.tf32 if tf32 and item == 4 else gpu.gemm[item != 4]
    nnz = p.alpha * pairs
    return {
        "whole": max(2.0 * size * pairs / flops, item * pairs / gpu.moved),
        "lists": max(nnz * size * item / gpu.cache, nnz * (item + 4.0) / gpu.moved),
    }
