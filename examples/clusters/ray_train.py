"""Train one network on the workers of a Ray cluster.

    pip install "ray[train]" "kronsgd[torch]"
    python examples/clusters/ray_train.py --workers 8 --cpus 4 --out /shared/pairs.kron

Ray Train starts the workers and joins them in a process group; kronsgd spreads the neurons over it. /shared is a folder that
all workers see.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np

import kronsgd as ks


def problem() -> tuple[Any, Any]:
    """20,000 pairs of two tables: the same on every worker, for each of them needs all rows."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(300, 16)), rng.normal(size=(400, 16))
    i, j = rng.integers(300, size=20_000), rng.integers(400, size=20_000)
    return (1 + ks.Dense(left)[i]) * (1 + ks.Dense(right)[j]), left[i, 0] * right[j, 0]


def train(config: dict[str, Any]) -> None:
    """What each worker runs."""
    import ray.train

    from kronsgd.distributed import Distributed

    X, y = problem()
    own = ks.KronRegressor(config["n_hidden"], max_iter=config["epochs"], n_jobs=config["cpus"], random_state=0)
    checkpoint = ks.Checkpoint(config["out"] + ".checkpoints")  # a worker that is lost costs ten minutes, not the training
    model = Distributed(own).fit(X, y, checkpoint=checkpoint)
    model.save(config["out"])
    ray.train.report({"r2": model.score(X, y), "epochs": model.estimator_.n_iter_})


def main() -> None:
    """Start the workers and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="best 2, 4, 8 … 64")
    parser.add_argument("--cpus", type=int, default=1, help="cores of each worker")
    parser.add_argument("--n-hidden", type=int, default=16_384)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", required=True, help="file of the model, in a folder that all workers see")
    args = parser.parse_args()

    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        train,
        train_loop_config={**vars(args), "out": os.path.abspath(args.out)},
        torch_config=TorchConfig(backend="gloo", timeout_s=600),
        scaling_config=ScalingConfig(num_workers=args.workers, resources_per_worker={"CPU": args.cpus}),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=3)),
    )
    print(trainer.fit().metrics)


if __name__ == "__main__":
    main()
