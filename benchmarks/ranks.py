"""Two ranks against one, measured, and the bytes that a step sends.

    python -m benchmarks.run ranks
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import report, target
from benchmarks.hosts import Hosts, finish, launched
from benchmarks.problems import Training, automatic, random_pairs
from benchmarks.relay import address
from kronsgd.distributed import TorchExchange, process_group
from kronsgd.engines.shards import join
from kronsgd.exchange import ALONE, Exchange
from kronsgd.network import Part, TwoLayer
from kronsgd.parallel import threads

BATCH, COLUMNS, ENTITIES = 64, 64, 1024
MEASURED = ((8192, 65_536), (25_000, 16_384), (8192, 4096), (2048, 2048))  # rows, neurons
TURNS, STEPS, LATENCY = 5, 200, 1e-4
LARGER = {  # factors on neurons, rows and dimensions
    "as it is": (1, 1, 1), "neurons × 16": (16, 1, 1), "rows × 16": (1, 16, 1), "dimensions × 4,096": (1, 1, 4096)
}  # fmt: skip


def work(exchange: Exchange, n_rows: int, n_hidden: int) -> None:
    """An epoch, then timed steps; print seconds a step and a digest of the whole network's arrays."""
    pairs = random_pairs(n_rows, (COLUMNS, COLUMNS), ENTITIES)
    network: TwoLayer = automatic(n_hidden)
    network = Part.on_rank(network, exchange) if exchange.shared else network
    training = Training(pairs.X, pairs.y, network, BATCH, rate=1e3).settle()
    exchange.barrier()
    started = time.perf_counter()
    for _ in range(STEPS):
        training.step()
    exchange.barrier()
    seconds = (time.perf_counter() - started) / STEPS
    shards = exchange.collect(training.engine.arrays(training.state))
    if shards is not None:
        arrays = join(shards)
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(arrays[name]).tobytes() for name in sorted(arrays)))
        print(json.dumps({"seconds": seconds, "digest": digest.hexdigest()}))


def sent(exchange: Any) -> None:
    """Print the bytes that this rank sends in one step, for problems of several sizes."""
    out = {}
    for name, (neurons, rows, columns) in LARGER.items():
        pairs = random_pairs(1024 * rows, (64 * int(columns**0.5), 64 * int(columns**0.5)), 64)
        training = Training(pairs.X, pairs.y, Part.on_rank(automatic(1024 * neurons), exchange))
        before = exchange.n_sent
        training.step()
        out[name] = exchange.n_sent - before
    if exchange.rank == 0:
        print(json.dumps(out))


def command(rank: int, size: int, master: str, *arguments: int) -> tuple[list[str], dict[str, str]]:
    """Of one rank: its program, and what the environment says."""
    program = [sys.executable, "-m", "benchmarks.ranks", *map(str, arguments)]
    return program, {**launched(rank, size, master), "NUMBA_NUM_THREADS": "1"}


def ranks(size: int, *arguments: int) -> dict[str, Any]:
    """What rank 0 of so many on this machine prints."""
    processes = []
    for rank in range(size):
        program, names = command(rank, size, "127.0.0.1", *arguments)
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **names}
        processes.append(
            subprocess.Popen(program, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
    return dict(json.loads(finish(processes, 300)[0]))


def between_hosts(n: int, m: int) -> dict[str, Any]:
    """What rank 0 prints, with each of two ranks on a host of its own."""
    with Hosts(2, LATENCY) as hosts:
        processes = [hosts.start(rank, *command(rank, 2, address(0), n, m)) for rank in range(2)]
        return dict(json.loads(finish(processes, 300)[0]))


def measured() -> list[dict[str, Any]]:
    """One rank against two, on one core each, in turns."""
    rows = []
    for n, m in MEASURED:
        turns = [(ranks(1, n, m), ranks(2, n, m)) for _ in range(TURNS)]
        assert len({run["digest"] for turn in turns for run in turn}) == 1, "the models differ"
        one, two = (median(turn[k]["seconds"] for turn in turns) for k in range(2))
        apart = between_hosts(n, m) if not Hosts.missing() else None
        assert apart is None or apart["digest"] == turns[0][0]["digest"]
        rows.append({"rows": n, "neurons": m, "1 rank, ms": 1e3 * one, "2 ranks, ms": 1e3 * two, "speed-up": one / two,
                     "of single turns": " ".join(f"{a['seconds'] / b['seconds']:.2f}" for a, b in turns),
                     "2 hosts, ms": "" if apart is None else 1e3 * apart["seconds"]})  # fmt: skip
    return [{**row, "target": "" if k else target(row["speed-up"], at_least=1.85)} for k, row in enumerate(rows)]


def main() -> None:
    """Speed, and bytes."""
    rows, counted = measured(), ranks(2)
    assert len(set(counted.values())) == 1, counted
    report("ranks", "Two ranks on a core each train nearly twice as fast as one, to the same bytes", rows,
           f"Steps of {BATCH} rows after an epoch, with one thread a rank, each pinned to a core; medians of {TURNS} runs of "
           f"{STEPS} steps in turns. All arrays of the whole network are the same bytes in every run. Two hosts: a core each "
           f"of this machine, joined by a line of {1e6 * LATENCY:.0f} µs one way and 1 Gbit/s, whose relay needs some of the "
           f"cores, too. A rank of two sends {counted['as it is']:,} bytes a step for 1,024 rows and neurons and 4,096 "
           f"dimensions, and as many for {', '.join(name for name in LARGER if name != 'as it is')}.")  # fmt: skip


def main_of_rank(*arguments: int) -> None:
    """One rank's work, on one core."""
    rank, alone = int(os.environ["RANK"]), os.environ["WORLD_SIZE"] == "1"
    os.sched_setaffinity(0, [sorted(os.sched_getaffinity(0))[rank]])
    with threads(1), nullcontext() if alone else process_group():
        exchange = ALONE if alone else TorchExchange()
        work(exchange, *arguments) if arguments else sent(exchange)


if __name__ == "__main__":
    main_of_rank(*map(int, sys.argv[1:]))
