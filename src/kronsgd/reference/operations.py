"""What the reference algorithm counts instead of seconds."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Operations"]


@dataclass
class Operations:
    """Scalar operations so far. Take a `copy` before and subtract it after, to see what one phase costs."""

    multiply_adds: int = 0
    comparisons: int = 0
    nodes_written: int = 0  # stored numbers: leaves and inner nodes

    def copy(self) -> Operations:
        """The counts as they are now."""
        return Operations(self.multiply_adds, self.comparisons, self.nodes_written)

    def __sub__(self, before: Operations) -> Operations:
        return Operations(*(getattr(self, f.name) - getattr(before, f.name) for f in fields(self)))

    @property
    def total(self) -> int:
        """All of them, each as one."""
        return self.multiply_adds + self.comparisons + self.nodes_written
