"""A new process: what an import loads, and how long until the first step once kernels are cached on disk.

    python -m benchmarks.run startup
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.common import report

IMPORT = """
import sys, time
t = time.perf_counter()
import kronsgd
print(time.perf_counter() - t, *[m for m in ("torch", "matplotlib", "typer", "pydantic") if m in sys.modules])
"""
FIRST_STEP = """
import time
import numpy as np, kronsgd as ks
from kronsgd.training import loop
first = []
real = loop.train_step
def timed(*args):
    out = real(*args)
    first.append(time.perf_counter())
    return out
loop.train_step = timed
rng = np.random.default_rng(0)
x = ks.Dense(rng.normal(size=(2000, 64)))
started = time.perf_counter()
ks.KronRegressor(n_hidden=2048, max_iter=1, random_state=0).fit((1 + x) ** 2, rng.normal(size=2000))
print(first[0] - started)
"""


def run(code: str) -> list[str]:
    """What a fresh interpreter prints for `code`."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def main() -> None:
    """Medians of five processes, after one that fills the cache."""
    run(FIRST_STEP)
    steps = sorted(float(run(FIRST_STEP)[0]) for _ in range(5))
    imports = [run(IMPORT) for _ in range(5)]
    seconds = sorted(float(i[0]) for i in imports)
    assert all(len(i) == 1 for i in imports), imports
    rows = [
        {"what": "import kronsgd", "median s": seconds[2], "max s": seconds[-1], "optional packages loaded": "none"},
        {"what": "fit: call to end of first step (n = 2,000, m = 2,048, second run)", "median s": steps[2], "max s": steps[-1],
         "optional packages loaded": ""},
    ]  # fmt: skip
    report("startup", "a second process starts at once", rows)
