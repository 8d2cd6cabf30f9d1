"""Ranks on two hosts, which are network namespaces of this machine joined by a slow link: the same bytes, and no rank hangs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from benchmarks.hosts import Hosts, finish
from benchmarks.relay import address

import kronsgd as ks
from helpers import one_rank

pytest.importorskip("torch.distributed")
LATENCY, PATIENCE, FOREVER = 1e-4, 5.0, 1_000_000  # seconds one way, seconds that gloo waits, epochs


@pytest.fixture
def hosts():
    if why := Hosts.missing():
        pytest.skip(why)
    with Hosts(2, LATENCY, seconds=120) as both:
        yield both


def begin(hosts, out, epochs):
    """Both ranks, once they have found each other."""
    command = [sys.executable, *map(str, (Path(one_rank.__file__), PATIENCE, out, epochs))]
    names = {"WORLD_SIZE": "2", "MASTER_ADDR": address(0), "MASTER_PORT": "29500", "NUMBA_NUM_THREADS": "1"}
    ranks = [hosts.start(rank, command, {**names, "RANK": str(rank)}) for rank in range(2)]
    assert [rank.stdout.readline() for rank in ranks] == ["training\n"] * 2
    return ranks


def learned(model):
    return {name: array.tobytes() for name, array in model._engine.arrays(model.state_).items()}


def test_two_hosts_give_the_bytes_of_one_process(hosts, tmp_path):
    finish(begin(hosts, tmp_path / "two.kron", 5), timeout=60)
    assert learned(ks.load(tmp_path / "two.kron")) == learned(one_rank.model(5).fit(*one_rank.problem()))


def lost(rank, within):
    """What the rank says last, which must end with an error in time."""
    started = time.monotonic()
    _, errors = rank.communicate(timeout=60)
    assert time.monotonic() - started < within
    assert rank.returncode == 1
    return errors.strip().splitlines()[-1]


def test_the_end_of_rank_0_is_the_end_of_the_other(hosts, tmp_path):
    ranks = begin(hosts, tmp_path / "m.kron", FOREVER)
    time.sleep(1)
    ranks[0].kill()
    assert "ConnectionError: rank 1 of 2 has lost the others" in lost(ranks[1], within=PATIENCE)


def test_without_the_network_both_ranks_end_when_they_have_waited_long_enough(hosts, tmp_path):
    ranks = begin(hosts, tmp_path / "m.kron", FOREVER)
    time.sleep(1)
    hosts.cut()
    for k, rank in enumerate(ranks):
        assert f"ConnectionError: rank {k} of 2 has lost the others" in lost(rank, within=4 * PATIENCE)


def test_the_link_is_as_slow_as_was_asked():
    if why := Hosts.missing():
        pytest.skip(why)
    server = "import socket; c, _ = socket.create_server(('', 5000)).accept()\nfor _ in range(20): c.sendall(c.recv(9))"
    client = (
        "import socket, sys, time\nfor _ in range(50):\n  try: c = socket.create_connection((sys.argv[1], 5000)); break\n"
        "  except OSError: time.sleep(0.1)\n"
        "for _ in range(20):\n  t = time.perf_counter(); c.sendall(b'x'); c.recv(9); print(time.perf_counter() - t)"
    )
    with Hosts(2, 0.02, seconds=60) as slow:
        there = [slow.start(0, [sys.executable, "-c", server]), slow.start(1, [sys.executable, "-c", client, address(0)])]
        seconds = np.array(finish(there, timeout=30)[1].split(), dtype=float)
    assert 0.04 <= np.median(seconds) < 0.05
