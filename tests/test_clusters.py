"""The page on several machines and the scripts for clusters run, with stand-ins of what is not installed here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kronsgd as ks
from helpers.cli import SMALL

pytest.importorskip("torch.distributed")
ROOT = Path(__file__).parent.parent
CLUSTERS = ROOT / "examples/clusters"
STAND_INS = {
    "srun": 'exec "$@"\n',
    "scontrol": "echo 127.0.0.1\n",
    "torchrun": f'exec "{sys.executable}" -m torch.distributed.run "$@"\n',
}
# One worker, in this process, in a group of one.
RAY = '''
import torch.distributed as dist
class Settings:
    def __init__(self, **settings): vars(self).update(settings)
FailureConfig = RunConfig = ScalingConfig = TorchConfig = Settings
reports = []
report = reports.append
class TorchTrainer:
    def __init__(self, train, *, train_loop_config, torch_config, scaling_config, run_config):
        assert torch_config.backend == "gloo" and torch_config.timeout_s == 600
        assert (scaling_config.num_workers, scaling_config.resources_per_worker) == (3, {"CPU": 1})
        self.call = lambda: train(train_loop_config)
    def fit(self):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        self.call()
        dist.destroy_process_group()
        return Settings(metrics=reports[-1])
'''


def run(command, folder, **environment):
    whole = {**os.environ, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=whole, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_s_program_runs_on_two_ranks(tmp_path):
    (program,) = re.findall(r"```py\n(.*?)```", (ROOT / "docs/distributed.md").read_text(), flags=re.DOTALL)
    (tmp_path / "train.py").write_text(program + "\nassert (whole is None) == (int(__import__('os').environ['RANK']) > 0)\n")
    run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"], tmp_path)
    assert ks.load(tmp_path / "pairs.kron").n_hidden == 1024


def test_a_slurm_job_of_one_node_trains(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in STAND_INS.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}")
        (tools / name).chmod(0o755)
    node = {"SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "node[1-1]", "RANKS_PER_NODE": "2"}
    command = ["bash", CLUSTERS / "slurm.sh", "--dataset", "digits", *SMALL, "--out", "digits run"]
    said = run(command, tmp_path, PATH=f"{tools}:{os.environ['PATH']}", PORT="29517", **node)
    assert "neurons over 2 processes" in " ".join(said.split())
    assert (tmp_path / "digits run/model.kron").exists()


def test_ray_s_workers_train(tmp_path):
    package = tmp_path / "ray/train/torch"
    package.mkdir(parents=True)
    (tmp_path / "ray/__init__.py").write_text("")
    (tmp_path / "ray/train/__init__.py").write_text(RAY)
    (package / "__init__.py").write_text("from ray.train import TorchConfig, TorchTrainer\n")
    command = [sys.executable, CLUSTERS / "ray_train.py", "--workers", 3, "--n-hidden", 256, "--epochs", 2, "--out", "m.kron"]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    said = run(command, tmp_path, PYTHONPATH=path)
    assert "'epochs': 2" in said
    assert ks.load(tmp_path / "m.kron").n_hidden == 256
