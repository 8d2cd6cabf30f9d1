"""What one exchange between ranks takes, by algorithm, number of ranks, latency and bandwidth: hosts joined by a slow link.

    python -m benchmarks.run hosts

The hosts are network namespaces of this machine (`benchmarks.relay`): Linux, root, and PyTorch.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from benchmarks.common import report
from benchmarks.relay import LINK, address
from kronsgd.distributed import process_group

NUMBERS = 64 * 64  # float32 that a step exchanges: 64 blocks' partial outputs of 64 rows, 16 KB in all
GIGABIT = 1.25e8  # bytes/s
FAR = 0.02  # seconds one way, beside which nothing else counts: it tells how often an algorithm waits for the line
PORT = 29511


class Hosts:
    """Hosts with addresses of their own, joined by a slow network; `with` ends all that was started on them.

    latency: seconds one way. bandwidth: bytes/s of each host's line. seconds: after which the network is gone, come what may.
    """

    def __init__(self, number: int, latency: float = 0.0, bandwidth: float = GIGABIT, seconds: float = 300.0) -> None:
        self.number, self._settings = number, (number, latency, bandwidth, seconds)
        self._started: list[subprocess.Popen[str]] = []
        self._logs = 0

    @staticmethod
    def missing() -> str:
        """Why there can be no hosts on this machine; empty where they can."""
        if not sys.platform.startswith("linux") or os.geteuid() != 0:
            return "network namespaces need Linux and root"
        without = [name for name in ("ip", "nsenter") if shutil.which(name) is None]
        without += [] if os.access("/dev/net/tun", os.R_OK | os.W_OK) else ["/dev/net/tun"]
        if without:
            return f"network namespaces need {' and '.join(without)}"
        try:
            with Hosts(1, seconds=10):
                return ""
        except RuntimeError as error:
            return str(error)

    def __enter__(self) -> Hosts:
        relay = Path(__file__).with_name("relay.py")
        self._relay = subprocess.Popen(
            [sys.executable, str(relay), *map(str, self._settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._relay.stdout is not None
        self._namespaces = self._relay.stdout.readline().split()
        if len(self._namespaces) != self.number:
            raise RuntimeError(f"the hosts did not come up: {self._relay.communicate()[1].strip().splitlines()[-1:]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started:
            with suppress(ProcessLookupError):
                process.kill()
            process.communicate()
        with suppress(subprocess.TimeoutExpired):
            self._relay.communicate(timeout=5)  # closes its input, which ends it
        self._relay.kill()
        self._relay.wait()

    def cut(self) -> None:
        """End the network, as if all cables were pulled."""
        self._relay.kill()

    def start(self, host: int, command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """A process on a host, with what it prints kept; gloo finds the host's interface by its name."""
        whole = {**os.environ, "GLOO_SOCKET_IFNAME": LINK, "OMP_NUM_THREADS": "1", **(environment or {})}
        process = subprocess.Popen(
            ["nsenter", f"--net={self._namespaces[host]}", "--", *command], env=whole, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._started.append(process)
        return process


def finish(processes: Sequence[subprocess.Popen[str]], timeout: float) -> list[str]:
    """What they print, once all have ended. RuntimeError with the first one's errors if any fails or takes too long."""
    end, outputs = time.monotonic() + timeout, []
    try:
        for process in processes:
            output, errors = process.communicate(timeout=max(0.1, end - time.monotonic()))
            if process.returncode:
                raise RuntimeError(f"{process.args} failed ({process.returncode}):\n{errors}")
            outputs.append(output)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{error.cmd} has not ended after {timeout} s") from error
    finally:
        for process in processes:
            process.kill()
    return outputs


# ---- a rank: times every algorithm


def doubling(parts: Any, rank: int, size: int, dist: Any) -> None:
    """All-gather in ⌈log2 K⌉ rounds (Bruck et al. 1997): in round k, what is there goes 2^k ranks down.

    parts (K, numbers): row 0 is the rank's own; afterwards row j is rank + j's.
    """
    have = 1
    while have < size:
        number = min(have, size - have)
        sent = dist.isend(parts[:number], (rank - have) % size)
        dist.irecv(parts[have : have + number], (rank + have) % size).wait()
        sent.wait()
        have += number


def work(repetitions: int) -> None:
    """Print rank 0's median seconds and every rank's processor seconds of one exchange, by algorithm."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    rank, size = dist.get_rank(), dist.get_world_size()
    own = torch.full((NUMBERS // size,), float(rank))
    parts, copies = torch.empty(size, NUMBERS // size), torch.empty(size, NUMBERS // size)

    def ring() -> None:
        dist.all_gather(list(parts), own)

    def direct() -> None:
        copies[:] = own
        dist.all_to_all_single(parts, copies)

    def rounds() -> None:
        parts[0] = own
        doubling(parts, rank, size, dist)

    out = {}
    for name, exchange in {"all_gather": ring, "all_to_all": direct, "doubling": rounds}.items():
        seconds, processor = [], time.process_time()
        for _ in range(repetitions + 2):
            started = time.perf_counter()
            exchange()
            seconds.append(time.perf_counter() - started)
        out[name] = (median(seconds[2:]), (time.process_time() - processor) / len(seconds))
        assert sorted(parts[:, 0].tolist()) == list(range(size)), name
    dist.barrier()
    print(json.dumps(out))


# ---- the benchmark


def launched(rank: int, size: int, master: str) -> dict[str, str]:
    """What a launcher tells a rank."""
    return {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": master, "MASTER_PORT": str(PORT)}


def between_hosts(size: int, latency: float, bandwidth: float, repetitions: int) -> dict[str, float]:
    """Median seconds of an exchange, by algorithm, with one rank on each of so many hosts."""
    program = [sys.executable, "-m", "benchmarks.hosts", str(repetitions)]
    with Hosts(size, latency, bandwidth) as hosts:
        outputs = finish([hosts.start(rank, program, launched(rank, size, address(0))) for rank in range(size)], 120)
    return {name: seconds for name, (seconds, _) in json.loads(outputs[0]).items()}


def on_one_host(size: int, repetitions: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of an exchange over loopback, and processor seconds of each rank, by algorithm."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.hosts", str(repetitions)], text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env={**environment, **launched(rank, size, "127.0.0.1")},
        )
        for rank in range(size)
    ]  # fmt: skip
    ranks = [json.loads(output) for output in finish(processes, 120)]
    processor = {name: sum(rank[name][1] for rank in ranks) / size for name in ranks[0]}
    return {name: seconds for name, (seconds, _) in ranks[0].items()}, processor


def line() -> tuple[float, float]:
    """The relay itself at its fastest: (seconds there and back, bytes/s), over one TCP connection."""
    server = (
        "import socket; s = socket.create_server(('', 5000)); print(flush=True); c, _ = s.accept()\n"
        "c.setsockopt(6, 1, 1)\nfor _ in range(300): c.sendall(c.recv(64))\nwhile c.recv(1 << 20): pass"
    )
    client = (
        "import socket, time; from statistics import median; t = time.perf_counter\n"
        f"c = socket.create_connection(('{address(0)}', 5000)); c.setsockopt(6, 1, 1)\n"
        "def there_and_back():\n    start = t(); c.sendall(b'x' * 64); c.recv(64); return t() - start\n"
        "rtt, start, n = median(there_and_back() for _ in range(300)), t(), 0\n"
        "while t() - start < 2: n += c.send(bytes(1 << 18))\n"
        "print(rtt, n / (t() - start))"
    )
    with Hosts(2, 0.0, 1e12) as hosts:
        listening = hosts.start(0, [sys.executable, "-c", server])
        assert listening.stdout is not None
        listening.stdout.readline()
        rtt, rate = finish([hosts.start(1, [sys.executable, "-c", client])], 60)[0].split()
    return float(rtt), float(rate)


def main() -> None:
    """Rounds, then two hosts over many networks, then many ranks on one machine."""
    if why := Hosts.missing():
        print(f"hosts: left out, because {why}.")
        return
    rows: list[dict[str, Any]] = []
    for size in (2, 4, 8):
        seconds = between_hosts(size, FAR, 1e12, 5)
        rows.append({"ranks": size, "hosts": size, "one way, ms": 1e3 * FAR, "Mbit/s": "any", **cells(seconds)})
    for latency in (0.0, 1e-4, 5e-4, 2e-3):
        for bandwidth in (GIGABIT / 10, GIGABIT):
            seconds = between_hosts(2, latency, bandwidth, 200)
            rows.append({"ranks": 2, "hosts": 2, "one way, ms": 1e3 * latency, "Mbit/s": 8e-6 * bandwidth, **cells(seconds)})
    for size in (2, 4, 8, 16):
        seconds, processor = on_one_host(size, 200)
        own = {f"{name}, processor ms": 1e3 * value for name, value in processor.items()}
        rows.append({"ranks": size, "hosts": 1, "one way, ms": "", "Mbit/s": "", **cells(seconds), **own})
    rtt, rate = line()
    columns = list(rows[-1])
    report("hosts", "An exchange of 16 KB in two latencies, or in a few rounds of them, not in twice the number of ranks",
           [{column: row.get(column, "") for column in columns} for row in rows],
           f"Median ms of one exchange of {4 * NUMBERS:,} bytes in all. The relay between hosts adds {1e6 * rtt:.0f} µs there "
           f"and back and carries at most {8e-6 * rate:,.0f} Mbit/s. A message of gloo is a question, an answer and the data "
           f"on its way, so two latencies; at {1e3 * FAR:.0f} ms all else is nothing beside them: all_gather takes 2(K − 1) of "
           f"them, all_to_all with the same part for everyone 2, doubling 2 log2 K. On one host {os.cpu_count()} cores run all "
           "ranks, so wall time is the ranks' processor time added up; processor ms are of one rank, with gloo's "
           "thread.")  # fmt: skip


def cells(seconds: Mapping[str, float]) -> dict[str, float]:
    """As a table's columns."""
    return {f"{name}, ms": 1e3 * value for name, value in seconds.items()}


if __name__ == "__main__":
    with process_group():
        work(int(sys.argv[1]))
