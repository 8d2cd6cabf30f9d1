"""The group of a launcher's processes: found again after a restart, and with threads that let others compute."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

import kronsgd as ks
from helpers import one_rank
from kronsgd.distributed import process_group

dist = pytest.importorskip("torch.distributed")
LOSE_RANK_1 = """
import os, sys, threading, time
from datetime import timedelta
from pathlib import Path
sys.path.insert(0, {tests!r})
from helpers.one_rank import model, problem
import kronsgd as ks
from kronsgd.distributed import Distributed, process_group

folder = Path("checkpoints")

def die():
    while not any(folder.glob("step-*")):
        time.sleep(0.005)
    os._exit(9)

with process_group(timedelta(seconds=60)):
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        threading.Thread(target=die, daemon=True).start()
    Distributed(model(200)).fit(*problem(), checkpoint=ks.Checkpoint(folder, steps=50)).save("m.kron")
"""


@pytest.fixture
def launched(monkeypatch):
    """The variables of a launcher that has started this process only."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))


def test_the_group_lasts_as_long_as_the_block(launched):
    with process_group(timedelta(seconds=20)):
        assert (dist.get_rank(), dist.get_world_size(), dist.get_backend()) == (0, 1, "gloo")
    assert not dist.is_initialized()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have policies of their own on Linux")
def test_threads_of_gloo_do_not_push_others_aside(launched):
    before = set(os.listdir("/proc/self/task"))
    with process_group(timedelta(seconds=20)):
        started = {int(thread) for thread in set(os.listdir("/proc/self/task")) - before}
        loops, deadline = [], time.monotonic() + 20
        while not loops and time.monotonic() < deadline:  # a thread gives itself its name when it first runs
            names = {thread: Path(f"/proc/self/task/{thread}/comm").read_text().strip() for thread in started}
            loops = [thread for thread, name in names.items() if name.startswith("gloo_tcp")]
        assert loops, names
        assert {os.sched_getscheduler(thread) for thread in loops} == {os.SCHED_BATCH}
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_rank_that_is_lost_is_started_again_and_all_go_on_from_the_checkpoint(tmp_path):
    (tmp_path / "train.py").write_text(LOSE_RANK_1.format(tests=str(Path(__file__).parent)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "train.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "exitcode: 9" in done.stderr
    model = ks.load(tmp_path / "m.kron")
    alone = one_rank.model(200).fit(*one_rank.problem())
    for name, array in alone._engine.arrays(alone.state_).items():
        assert model._engine.arrays(model.state_)[name].tobytes() == array.tobytes(), name
