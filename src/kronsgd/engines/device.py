"""Where the torch engine computes: the only module that imports PyTorch, and not before the engine is used."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kronsgd.validation import check_choice

__all__ = ["ON_PROCESSOR", "VARIABLE", "Device", "NoDevice", "load_torch"]

Array = NDArray[Any]
T = TypeVar("T")
ON_PROCESSOR = 'engine="torch" computes on the processor here, which is for tests: engine="scan" takes the same steps faster.'
VARIABLE = "KRONSGD_DEVICE"  # of the environment: a device by PyTorch's name, where not the first GPU, or else the processor


def load_torch() -> Any:
    """PyTorch. ModuleNotFoundError that says what to install."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'engine="torch" needs PyTorch, which is not installed; run pip install "kronsgd[torch]", or use engine="scan".'
        ) from error
    return torch


class NoDevice(ValueError):
    """The environment names a device that is not there."""


@dataclass(frozen=True)
class Device:
    """A device by PyTorch's name, "cpu" or "cuda:0", and arrays on their way to it and back. A pickle opens on any other."""

    name: str

    @classmethod
    def current(cls) -> Device:
        """The one that the environment names, the current GPU, or the processor. ValueError for a name that is none here."""
        torch = load_torch()
        gpus = [f"cuda:{k}" for k in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
        wanted = os.environ.get(VARIABLE)
        if wanted:
            try:
                check_choice(VARIABLE, wanted, ["cpu", *gpus])
            except ValueError as error:
                raise NoDevice(f"{error} PyTorch sees {len(gpus)} graphics cards here.") from None
            return cls(wanted)
        return cls(f"cuda:{torch.cuda.current_device()}" if gpus else "cpu")

    def __reduce__(self) -> tuple[Any, ...]:
        return Device.current, ()

    @property
    def is_gpu(self) -> bool:
        """Whether it has memory of its own."""
        return self.name != "cpu"

    @property
    def label(self) -> str:
        """The GPU's name as its maker has it, or "cpu"."""
        return str(load_torch().cuda.get_device_name(self.name)) if self.is_gpu else self.name

    @property
    def free_bytes(self) -> float:
        """Of a GPU's memory, that what PyTorch holds in reserve included."""
        torch = load_torch()
        reserve = torch.cuda.memory_reserved(self.name) - torch.cuda.memory_allocated(self.name)
        return float(torch.cuda.mem_get_info(self.name)[0] + reserve)

    def tensor(self, array: Array) -> Any:
        """The array on the device: on the processor the same memory, which nobody may write to."""
        torch = load_torch()
        if not array.flags.writeable:
            array = array.copy()
        return torch.from_numpy(array).to(self.name)

    def copy(self, array: Array) -> Any:
        """A copy of the array, aligned as PyTorch aligns: a matrix product's last bits may depend on that."""
        return self.tensor(array).clone(memory_format=load_torch().contiguous_format)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A tensor of zeros. MemoryError where it does not fit."""
        torch = load_torch()
        kind = getattr(torch, np.dtype(dtype).name)
        return self._allocate(lambda: torch.zeros(shape, dtype=kind, device=self.name), shape, kind.itemsize)

    def _allocate(self, make: Callable[[], T], shape: tuple[int, ...], itemsize: int) -> T:
        try:
            return make()
        except RuntimeError as error:  # OutOfMemoryError on a GPU, RuntimeError of the processor's allocator
            need = np.prod(shape, dtype=float) * itemsize / 2**30
            size = " × ".join(f"{length:,}" for length in shape)
            raise MemoryError(
                f'engine="torch" needs {need:.3g} GiB on {self.label} for {size} numbers, which are not free; use fewer '
                'rows or neurons, or engine="scan", which keeps only coefficients that are not 0.'
            ) from error

    @staticmethod
    def numpy(tensor: Any) -> Array:
        """The tensor as an array; on the processor the same memory."""
        return np.asarray(tensor.cpu().numpy())
