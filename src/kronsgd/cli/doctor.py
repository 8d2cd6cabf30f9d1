"""`kronsgd doctor`."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import typer

from kronsgd import KronRegressor, __version__
from kronsgd.cli.report import facts, say_plain
from kronsgd.datasets import make_kron_teacher
from kronsgd.kernels import scan as kernels

__all__ = ["doctor"]

LIBRARIES = ("numpy", "scipy", "numba", "scikit-learn", "safetensors", "threadpoolctl", "tqdm")
EXTRAS = {"plots": "matplotlib", "tables": "pyarrow", "torch": "torch"}


def doctor() -> None:
    """Check the installation: versions, threads, compiled kernels, optional packages. Exits with 1 if it is broken."""
    facts({
        "kronsgd": f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        "libraries": ", ".join(f"{name} {_version(name)}" for name in LIBRARIES),
        "threads": _threads(), "processor": _processor(), "BLAS": _blas(),
        **{f"extra {extra}": _extra(extra, module) for extra, module in EXTRAS.items()},
    }, "kronsgd doctor")  # fmt: skip
    broken = False
    for name, check in {"kernel cache": _cache, "training": _training}.items():
        fine, text = _run(check)
        broken |= not fine
        say_plain(f"{'ok    ' if fine else 'BROKEN'} {name}: {text}")
    say_plain("Something is broken: see above." if broken else "Everything works.")
    if broken:
        raise typer.Exit(1)


def _run(check: Callable[[], str]) -> tuple[bool, str]:
    """(whether it worked, what it said): a check that raises anything is a finding, not a crash of the doctor."""
    try:
        return True, check()
    except Exception as error:
        return False, " ".join(f"{type(error).__name__}: {error}".split())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "MISSING"


def _threads() -> str:
    import numba

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    set_by = f", NUMBA_NUM_THREADS={os.environ['NUMBA_NUM_THREADS']}" if "NUMBA_NUM_THREADS" in os.environ else ""
    return f"{numba.config.NUMBA_NUM_THREADS} for kernels on {cores} usable cores{set_by}"


def _processor() -> str:
    from llvmlite import binding  # it comes with numba and has no types

    features = binding.get_host_cpu_features()
    known = [name for name in ("sse4.2", "avx2", "fma", "avx512f", "neon", "sve") if features.get(name)]
    return f"{binding.get_host_cpu_name()}, SIMD {' '.join(known) or 'unknown'}"


def _blas() -> str:
    from threadpoolctl import threadpool_info

    found = [
        f"{pool['internal_api']} {pool['version'] or ''} ({pool['num_threads']} threads)"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    ]
    return ", ".join(dict.fromkeys(found)) or "unknown to threadpoolctl"


def _extra(extra: str, module: str) -> str:
    return f'missing; pip install "kronsgd[{extra}]"' if find_spec(module) is None else f"{module} {_version(module)}"


def _cache() -> str:
    """Where compiled kernels are kept; without it every start compiles them again, for seconds."""
    folder = Path(kernels.record.stats.cache_path)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        text = f"{folder} cannot be written ({error.strerror}); set NUMBA_CACHE_DIR to a folder that can"
        raise OSError(text) from None
    return f"{folder} can be written"


def _training() -> str:
    """A tiny problem through the compiled kernels and through plain matrices, which must agree."""
    X, y, _ = make_kron_teacher(200, (4, 4), random_state=0)
    predictions, started = [], time.perf_counter()
    for engine in ("scan", "dense"):
        model = KronRegressor(64, engine=engine, dtype="float64", max_iter=3, random_state=0).fit(X, y)
        predictions.append(model.predict(X))
    gap = float(np.abs(predictions[0] - predictions[1]).max())
    if not gap < 1e-8:
        raise ArithmeticError(
            f"the compiled kernels differ from plain matrices by {gap:.2g}; report this with the above"
        )
    return f"kernels and matrices agree to {gap:.0e} ({time.perf_counter() - started:.1f} s with compiling)"
