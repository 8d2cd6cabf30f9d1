"""Engines: different ways to take the same exact steps."""

from kronsgd.engines.base import Activations, Engine, State, Step
from kronsgd.engines.dense import DenseEngine
from kronsgd.engines.eager import EagerEngine
from kronsgd.engines.grid import GridEngine
from kronsgd.engines.scan import ScanEngine
from kronsgd.engines.torch_ import TorchEngine
from kronsgd.engines.tree import TreeEngine

__all__ = [
    "ENGINES", "Activations", "DenseEngine", "EagerEngine", "Engine", "GridEngine", "ScanEngine", "State", "Step",
    "TorchEngine", "TreeEngine",
]  # fmt: skip

ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (DenseEngine(), ScanEngine(), GridEngine(), TreeEngine(), EagerEngine(), TorchEngine())
}
