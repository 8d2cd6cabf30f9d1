"""The exchange of several ranks: one all-gather a step, on torch.distributed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.exchange import Exchange

__all__ = ["TorchExchange"]

Array = NDArray[Any]


class TorchExchange(Exchange):
    """Over a process group (None: the default one). RuntimeError where none has been initialised.

    A `gather` sends the parts of all neuron blocks but its own, and a few numbers of 8 bytes for each other rank, whatever the
    sizes of the problem. n_gathers and n_sent (bytes) count them.
    """

    shared = True

    def __init__(self, group: Any = None) -> None:
        import torch
        import torch.distributed as dist

        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError(
                "there is no process group; do this within `with kronsgd.distributed.process_group():` on every rank, or fit "
                "the estimator itself to train in one process."
            )
        self._torch, self._dist, self._group = torch, dist, group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        cuda = dist.get_backend(group) == "nccl"
        self._device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        self._counts = [0] * self.size
        self._wish = self._stop = self._left = False
        self.n_gathers = self.n_sent = 0

    def share(self, n_blocks: int) -> tuple[int, int]:
        bounds = [n_blocks * rank // self.size for rank in range(self.size + 1)]
        self._counts = np.diff(bounds).tolist()
        return bounds[self.rank], bounds[self.rank + 1]

    def gather(
        self, partial: Array, axis: int, numbers: Sequence[float], meanwhile: Callable[[], None] = lambda: None
    ) -> tuple[Array, list[float]]:
        own = np.moveaxis(partial, axis, 0)
        block = math.prod(own.shape[1:]) * partial.itemsize
        head = np.array([self._wish, *numbers], dtype=np.float64).tobytes()
        message = np.zeros(len(head) + max(self._counts) * block, dtype=np.uint8)
        message[: len(head)] = np.frombuffer(head, np.uint8)
        message[len(head) : len(head) + len(own) * block] = np.ascontiguousarray(own).reshape(-1).view(np.uint8)
        messages = self._all_gather(message, meanwhile)
        heads = np.ascontiguousarray(messages[:, : len(head)]).view(np.float64).sum(axis=0)
        self._stop = bool(heads[0] > 0)
        blocks = [messages[k, len(head) : len(head) + count * block] for k, count in enumerate(self._counts)]
        whole = np.concatenate(blocks).view(partial.dtype).reshape(-1, *own.shape[1:])
        return np.ascontiguousarray(np.moveaxis(whole, 0, axis)), heads[1:].tolist()

    def _all_gather(self, message: Array, meanwhile: Callable[[], None]) -> Array:
        """Every rank's message, by recursive doubling (Bruck et al. 1997). Shape: (bytes,) -> (ranks, bytes).

        ⌈log₂ ranks⌉ rounds; gloo's own all-gather passes messages round a ring, in as many rounds as there are ranks.
        meanwhile: called in the first round, whose messages every rank can send at once.
        """
        out = self._torch.empty((self.size, len(message)), dtype=self._torch.uint8, device=self._device)
        out[0], known = self._tensor(message), 1  # row i is from rank (own + i) mod ranks
        while known < self.size:
            count = min(known, self.size - known)
            send, receive = out[:count], out[known : known + count]
            calls = (self._dist.isend, send, -known), (self._dist.irecv, receive, known)
            with self._connected():
                under_way = self._dist.batch_isend_irecv([
                    self._dist.P2POp(call, tensor, group=self._group, group_peer=(self.rank + step) % self.size)
                    for call, tensor, step in calls
                ])
            try:
                if known == 1:
                    meanwhile()
            finally:  # or what is under way would be lost, and the others wait for it
                with self._connected():
                    for work in under_way:
                        work.wait()
            known += count
        self.n_gathers, self.n_sent = self.n_gathers + 1, self.n_sent + (self.size - 1) * len(message)
        return np.roll(out.cpu().numpy(), self.rank, axis=0)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """What torch raises where another rank has gone, in plain words."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if self._left or not self._dist.is_initialized():
                raise RuntimeError(
                    "the process group has ended; predict, gather and save on every rank while it is there."
                ) from None
            raise ConnectionError(
                f"rank {self.rank} of {self.size} has lost the others ({str(error).splitlines()[0]}): one has stopped, cannot "
                "be reached, or has not called what this rank has; see its messages, and go on from the last checkpoint."
            ) from error

    def _tensor(self, array: Array) -> Any:
        return self._torch.from_numpy(array).to(self._device)

    def total(self, number: float) -> float:
        tensor = self._tensor(np.array([number], dtype=np.float64))
        with self._connected():
            self._dist.all_reduce(tensor, group=self._group)
        return float(tensor.cpu()[0])

    def check_same(self, own: Mapping[str, str]) -> None:
        """Raise ValueError on every rank unless all have the same texts under the same names."""
        every: list[Any] = [None] * self.size
        with self._connected():
            self._dist.all_gather_object(every, dict(own), group=self._group)
        for what, rank in product(dict.fromkeys(chain(*every)), range(self.size)):
            if every[rank].get(what) != every[0].get(what):
                raise ValueError(f"rank {rank} has other {what} than rank 0; give every rank the same, in the same order.")

    def fold(self, parts: Iterable[Array]) -> Array:
        """One rank after the other adds its own. Cost: an array sent from rank to rank, and from the last one to all."""
        own = list(parts)
        so_far = self._tensor(np.zeros_like(own[0]))
        with self._connected():
            if self.rank:
                self._dist.recv(so_far, group=self._group, group_src=self.rank - 1)
                own.insert(0, so_far.cpu().numpy())
            so_far = self._tensor(super().fold(own))
            if self.rank < self.size - 1:
                self._dist.send(so_far, group=self._group, group_dst=self.rank + 1)
            self._dist.broadcast(so_far, group=self._group, group_src=self.size - 1)
        return np.asarray(so_far.cpu().numpy())

    def collect(self, arrays: dict[str, Array]) -> list[dict[str, Array]] | None:
        out: list[Any] | None = None if self.rank else [None] * self.size
        with self._connected():
            self._dist.gather_object(arrays, out, group=self._group, group_dst=0)
        return out

    def broadcast(self, value: Any) -> Any:
        values = [value]
        with self._connected():
            self._dist.broadcast_object_list(values, group=self._group, group_src=0)
        return values[0]

    def barrier(self) -> None:
        with self._connected():
            self._dist.barrier(group=self._group)

    def agreed(self, wish: bool) -> bool:
        self._wish = wish
        return self._stop

    def leave(self) -> None:
        """End this rank's connections, for good: the others are told at once, and wait for it no longer.

        Not so of a group that was given, which ends when nothing in this program refers to it any more.
        """
        if not self._left and self._dist.is_initialized():
            self._left = True
            self._dist.destroy_process_group(self._group)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a rank's part cannot be written by itself; call Distributed.save or .gather on every rank.")
