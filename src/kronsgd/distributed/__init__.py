"""Neurons over ranks: several processes or machines train one network, on torch.distributed."""

from kronsgd.distributed.estimator import Distributed, gathered, thread_budget
from kronsgd.distributed.exchange import TorchExchange

__all__ = ["Distributed", "TorchExchange", "gathered", "thread_budget"]
