"""What this machine can do: the rate of a float32 matrix product and of reading memory, for others to be measured against.

    python -m benchmarks.run limits
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.common import interleaved, report
from benchmarks.opponents import use_all_cores

SIZE, BYTES, REPETITIONS = 4096, 1 << 30, 4


def gemm_rates(size: int = SIZE, repetitions: int = REPETITIONS) -> dict[str, float]:
    """GFLOP/s of a square float32 product, by NumPy and by PyTorch, on all cores."""
    use_all_cores()
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    out, x, y = np.empty_like(a), torch.from_numpy(a), torch.from_numpy(b)
    tensor = torch.empty_like(x)
    seconds = interleaved(
        {"NumPy": lambda: np.matmul(a, b, out=out), "PyTorch": lambda: torch.mm(x, y, out=tensor)}, repetitions, of=min
    )
    return {name: 2e-9 * size**3 / s for name, s in seconds.items()}


def read_rate(repetitions: int = REPETITIONS) -> float:
    """GB/s of summing an array far larger than any cache, on all cores."""
    use_all_cores()
    array = torch.ones(BYTES // 4)
    return 1e-9 * BYTES / interleaved({"read": array.sum}, repetitions, of=min)["read"]


def main() -> None:
    """Both."""
    rows = [{"what": f"float32 product of {SIZE} × {SIZE} matrices, {name}", "rate": rate, "unit": "GFLOP/s"}
            for name, rate in gemm_rates().items()]  # fmt: skip
    rows.append({"what": f"reading {BYTES >> 20} MiB, PyTorch sum", "rate": read_rate(), "unit": "GB/s"})
    report("limits", "What the machine can do", rows, f"Best of {REPETITIONS}, all cores.")
