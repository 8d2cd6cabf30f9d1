"""kill -9 at random moments of `kronsgd train`, and what the resumed run gives: the bytes of a run that was left alone.

    python -m benchmarks.run killing                                 # twenty runs each: one process, two ranks
    python -m benchmarks.killing --trials 200 --ranks 2              # over two ranks, of which one is killed

Each trial ends a run by SIGKILL while it trains, while it writes a checkpoint, or at any moment between its start and its end,
some twice, and repeats the same command until it ends by itself, on another number of threads or ranks.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import report
from kronsgd.training import checkpoints_in

MOMENTS = ("training", "writing a checkpoint", "any moment")
LIMIT = 120  # seconds of a run
POLL = 0.0002  # seconds
OPTIONS = {"n_hidden": 256, "batch_size": 8, "max_iter": 8, "engine": "scan", "learning_rate_init": 30}


def problem(folder: Path) -> list[str]:
    """Two tables and 1,200 pairs, and the flags that name them."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(40, 6)), rng.normal(size=(60, 5))
    np.save(folder / "left.npy", left)
    np.save(folder / "right.npy", right)
    i, j = np.divmod(rng.permutation(40 * 60)[:1200], 60)
    y = left[i, 0] * right[j, 0] + 0.1 * rng.normal(size=len(i))
    np.savetxt(folder / "pairs.csv", np.column_stack([i, j, y]), "%d,%d,%.17g", header="left,right,y", comments="")
    tables = [f"--table={name}={folder / name}.npy" for name in ("left", "right")]
    return [*tables, f"--pairs={folder / 'pairs.csv'}", *(f"--set={k}={v}" for k, v in OPTIONS.items()), "--quiet"]


def start(flags: list[str], out: Path, ranks: int, threads: int) -> subprocess.Popen[bytes]:
    """A run, as one process or as a launcher's ranks, in a process group of its own."""
    launcher = ["-m", "kronsgd"]
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={port}", "-m", "kronsgd"]
    command = [sys.executable, *launcher, "train", *flags, "--out", str(out)]
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads), "KRONSGD_CALIBRATION": "off"}
    return subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@contextlib.contextmanager
def running(*args: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The run; whatever is left of it is ended afterwards."""
    process = start(*args)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def whole_run(flags: list[str], out: Path, ranks: int, threads: int) -> tuple[float, bytes]:
    """(seconds, the model's bytes) of a run that is left alone. SystemExit with what it said where it fails."""
    started = time.perf_counter()
    with running(flags, out, ranks, threads) as process:
        said, _ = process.communicate(timeout=LIMIT)
        if process.returncode:
            raise SystemExit(f"the run failed with {process.returncode}:\n{said.decode()[-3000:]}")
    return time.perf_counter() - started, (out / "model.kron").read_bytes()


def victim(process: subprocess.Popen[bytes], ranks: int, rng: random.Random) -> tuple[int, str]:
    """(process id, who it is): the run, or one rank of it."""
    if ranks == 1:
        return process.pid, "the process"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    if len(children) < ranks:  # not yet started
        return process.pid, "the launcher"
    rank = rng.randrange(ranks)
    return int(children[rank]), f"rank {rank}"


def wait_for(moment: str, checkpoints: Path, usual: float, rng: random.Random, over: Callable[[], bool]) -> None:
    """Until it is time to kill, or the run is over."""
    seed = checkpoints / "seed-0"
    deadline = time.perf_counter() + (rng.uniform(0, usual) if moment == "any moment" else LIMIT)
    appearances, there, after = rng.randint(1, 12), False, rng.uniform(0, 0.005)
    while not over() and time.perf_counter() < deadline:
        if moment == "training" and len(checkpoints_in(seed)) > 0:
            time.sleep(rng.uniform(0, 0.3))
            return
        if moment == "writing a checkpoint":
            aside = any(seed.glob(".step-*"))
            appearances -= aside and not there
            there = aside
            if appearances == 0:
                time.sleep(after)
                return
        time.sleep(POLL)


def killed(flags: list[str], out: Path, ranks: int, moment: str, usual: float, rng: random.Random) -> dict[str, Any]:
    """Start a run and kill it; what was hit, and what is left."""
    with running(flags, out, ranks, 1) as process:
        wait_for(moment, out / "checkpoints", usual, rng, lambda: process.poll() is not None)
        who = "nobody: it was over"
        if process.poll() is None:
            pid, who = victim(process, ranks, rng)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            process.communicate(timeout=LIMIT)
    seed = out / "checkpoints" / "seed-0"
    return {"killed": who, "half-written": len(list(seed.glob(".step-*"))), "whole": len(checkpoints_in(seed))}


def trial(k: int, folder: Path, flags: list[str], most_ranks: int, usual: float, expected: bytes) -> dict[str, Any]:
    """Kill once or twice, then let the same command run to its end."""
    rng, moment, out = random.Random(k), MOMENTS[k % len(MOMENTS)], folder / f"run{k}"
    hits = [
        killed(flags, out, rng.choice([1, most_ranks]) if n else most_ranks, moment, usual, rng)
        for n in range(rng.choice([1, 1, 2]))
    ]
    ranks, threads = rng.choice(range(1, most_ranks + 1)), rng.choice([1, 2])
    seconds, model = whole_run(flags, out, ranks, threads)
    kept = (out / "checkpoints").exists()
    shutil.rmtree(out)
    row = {
        "killed during": moment, "kills": sum(hit["killed"] != "nobody: it was over" for hit in hits),
        "while a checkpoint was half written": sum(hit["half-written"] > 0 for hit in hits),
        "resumed from a checkpoint": sum(hit["whole"] > 0 for hit in hits),
        "resumed on": f"{ranks} ranks, {threads} threads", "same bytes": model == expected and not kept, "seconds": seconds,
    }  # fmt: skip
    print(f"{k:4d} {row} {[hit['killed'] for hit in hits]}", flush=True)
    return row


def trials(n: int, ranks: int, first: int) -> list[dict[str, Any]]:
    """A row for each kind of moment."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plain = problem(folder)
        whole_run(plain, folder / "compiled", ranks, 1)
        _, expected = whole_run(plain, folder / "alone", 1, 2)
        flags = [*plain, "--checkpoint-every=25 steps", "--resume"]
        usual, same = whole_run(flags, folder / "checkpointed", ranks, 1)
        assert same == expected, "checkpoints change the model"
        rows = [trial(first + k, folder, flags, ranks, usual, expected) for k in range(n)]
    counted = ("kills", "while a checkpoint was half written", "resumed from a checkpoint")
    table = []
    for moment in MOMENTS:
        own = [row for row in rows if row["killed during"] == moment]
        if own:
            table.append(
                {"processes": ranks, "killed during": moment, "runs": len(own),
                 **{name: sum(row[name] for row in own) for name in counted},
                 "the same model file": f"{sum(row['same bytes'] for row in own)} of {len(own)}", "s undisturbed": usual}
            )  # fmt: skip
    return table


def main(n: int = 20, ranks: int | None = None, first: int = 0) -> None:
    """One process, and two ranks where PyTorch is installed; or so many ranks."""
    sizes = [ranks] if ranks else [1, 2] if find_spec("torch") else [1]
    table = [row for size in sizes for row in trials(n, size, first)]
    report(
        "killing", "A run that is ended by kill -9 at any moment gives the same model file when it is resumed", table,
        "Checkpoints every 25 of 1,200 steps. A resumed run has 1 or 2 threads, and as many ranks as before or fewer.",
    )  # fmt: skip
    failed = [row for row in table if not row["the same model file"].endswith(f"of {row['the same model file'].split()[0]}")]
    assert not failed, failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--ranks", type=int)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial, which seeds it")
    given = parser.parse_args()
    main(given.trials, given.ranks, given.first)
