"""Neurons over ranks: several processes or machines train one network, on torch.distributed."""

from kronsgd.distributed.estimator import Distributed, gathered, thread_budget
from kronsgd.distributed.exchange import TorchExchange
from kronsgd.distributed.group import process_group

__all__ = ["Distributed", "TorchExchange", "gathered", "process_group", "thread_budget"]
