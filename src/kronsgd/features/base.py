"""The algebra of feature spaces: a space is known by its rows and the inner products between them.

Multiplying spaces (row-wise ⊗) multiplies inner products; adding spaces (concatenation) adds them. So an expression
of any dimension is evaluated from its leaves' inner products, and the product vector is never built.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from numbers import Integral, Real
from operator import add, mul
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from kronsgd.validation import as_index

if TYPE_CHECKING:
    from kronsgd.features.leaf import Leaf

MAX_FACTORS = 1024  # leaves and constants of an expression with its powers written out, as independent random factors need
LARGEST = 1e150  # constant: its square is a number

__all__ = ["Constant", "Features", "Power", "Product", "Sum", "describe_dim", "written_out"]

Array = NDArray[Any]


def describe_dim(dim: float) -> str:
    """A dimension for people: `4,096`, `3.2e+15`, or `infinitely many`."""
    if dim == math.inf:
        return "infinitely many"
    return f"{dim:,}" if dim < 10**12 else f"{float(dim):.1e}" if dim < 1e300 else f"10^{math.floor(math.log10(dim))}"


class Features(ABC):
    """Rows of a feature space of any dimension. Combine with `*`, `+`, `1 +`, `**`; pick rows with `[...]`."""

    __array_ufunc__ = None  # so that numpy scalars on the left reach __radd__ and __rmul__
    children: tuple[Features, ...] = ()

    # What every node must know -------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def dim(self) -> float:
        """Number of dimensions: an exact int, or `math.inf`."""

    @abstractmethod
    def combine(self, values: Sequence[Any]) -> Any:
        """This node's inner products from its children's (arrays or scalars that broadcast)."""

    @abstractmethod
    def join(self, coordinates: Sequence[Array]) -> Array:
        """This node's coordinates (n, d) from its children's."""

    @abstractmethod
    def rebuild(self, children: Sequence[Features]) -> Features:
        """The same node over other children."""

    @abstractmethod
    def expression(self) -> str:
        """The expression as text, without row counts."""

    # Rows ----------------------------------------------------------------------------------------------------------

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return next((leaf.n_rows for leaf in self.leaves()), 1)

    @property
    def shape(self) -> tuple[int, float]:
        """(rows, dimensions)."""
        return self.n_rows, self.dim

    @property
    def ndim(self) -> Literal[2]:
        """Always 2, as for a matrix of rows and dimensions."""
        return 2

    def leaves(self) -> Iterator[Leaf]:
        """The leaves from left to right."""
        for child in self.children:
            yield from child.leaves()

    def __len__(self) -> int:
        return self.n_rows

    def __iter__(self) -> NoReturn:
        raise TypeError("a feature expression is not iterated row by row; slice it, or call .dense() where d is small.")

    def __array__(self, dtype: Any = None, copy: Any = None) -> NoReturn:
        raise TypeError(
            f"a feature expression with {describe_dim(self.dim)} dimensions is not turned into an array by accident; "
            "call .dense() where d is small, or .inner(other) for inner products."
        )

    def __getitem__(self, rows: Any) -> Features:
        if isinstance(rows, tuple) and len(rows) == 2 and rows[1] is Ellipsis:  # how scikit-learn indexes
            rows = rows[0]
        index = as_index(self.expression(), rows, self.n_rows)
        return self._take(index)

    def _take(self, index: NDArray[np.int64]) -> Features:
        return self.rebuild([child._take(index) for child in self.children])

    # The semiring --------------------------------------------------------------------------------------------------

    def __mul__(self, other: Any) -> Features:
        if isinstance(other, Real):
            return self.weighted(_checked_weight(other))
        return NotImplemented if not isinstance(other, Features) else Product([self, other])

    def __rmul__(self, other: Any) -> Features:
        return NotImplemented if not isinstance(other, Real) else self.weighted(_checked_weight(other))

    def __add__(self, other: Any) -> Features:
        if isinstance(other, Real):
            other = Constant(float(other))
        return NotImplemented if not isinstance(other, Features) else Sum([self, other])

    def __radd__(self, other: Any) -> Features:
        return NotImplemented if not isinstance(other, Real) else Sum([Constant(float(other)), self])

    def __pow__(self, exponent: Any) -> Features:
        return Power(self, exponent)

    @abstractmethod
    def weighted(self, weight: float) -> Features:
        """These rows with all inner products times `weight` > 0, and so all coordinates times its root: `weight * rows`.

        The weight goes to leaves and constants, so that it costs no factor: to all terms of a sum, to one of a product.
        """

    # Evaluation ----------------------------------------------------------------------------------------------------

    def evaluate(self, leaf_value: Callable[[Leaf], Any]) -> Any:
        """Inner products of this node, from a function that gives those of a leaf."""
        return self.combine([child.evaluate(leaf_value) for child in self.children])

    def squared_norms(self) -> Array:
        """⟨x_i, x_i⟩ for every row. Shape: (n,). Cost: n × leaves."""
        norms = self.evaluate(lambda leaf: leaf.entity_squared_norms()[leaf.rows].astype(np.float64))
        return np.broadcast_to(norms, (self.n_rows,))

    def inner(self, other: Features | None = None) -> Array:
        """⟨x_i, x'_j⟩ between these rows and those of `other` (None: these). Shape: (n, n')."""
        other = self if other is None else other
        self.check_compatible(other)
        partner = dict(zip(map(id, self.leaves()), other.leaves(), strict=True))
        full = (self.n_rows, other.n_rows)
        value = self.evaluate(lambda leaf: leaf.entity_inner(partner[id(leaf)], leaf.rows, partner[id(leaf)].rows))
        return np.broadcast_to(value, full)

    def dense(self) -> Array:
        """Coordinates whose inner products are this space's. Shape: (n, d); kernels use the span of their entities.

        Cost: n·d numbers: for small d, tests and the dense engine only.
        """
        return self.coordinates(self)

    def coordinates(self, rows: Features) -> Array:
        """Coordinates of the `rows` of a space like this one, in this space's basis. Shape: (n', d)."""
        if not self.children:
            return self.join([np.ones((1, 1))])
        return self.join([mine.coordinates(its) for mine, its in zip(self.children, rows.children, strict=True)])

    def check_compatible(self, other: Features) -> None:
        """Raise ValueError unless `other` is the same expression over leaves of the same kind, dimension and options."""
        if not isinstance(other, Features):
            raise TypeError(f"expected a feature expression like {self.expression()}, got {type(other).__name__}.")
        reason = self.mismatch(other)
        if reason is not None:
            raise ValueError(f"these rows are not of the model's space: {reason}.")

    def mismatch(self, other: Features) -> str | None:
        """What keeps `other` from being rows of this space, as part of a sentence; None if nothing does."""
        if type(self) is type(other) and len(self.children) == len(other.children):
            reasons = (a.mismatch(b) for a, b in zip(self.children, other.children, strict=True))
            first = next((reason for reason in reasons if reason is not None), None)
            if first is not None or self._same_structure(other):
                return first
        return f"the model was built on {self.expression()}, they are {other.expression()}"

    def _same_structure(self, other: Features) -> bool:
        if type(self) is not type(other) or len(self.children) != len(other.children):
            return False
        if isinstance(self, (Constant, Power)) and self.parameter != other.parameter:  # type: ignore[attr-defined]  # of the same type
            return False
        return all(a._same_structure(b) for a, b in zip(self.children, other.children, strict=True))

    def __repr__(self) -> str:
        return f"{self.expression()}: {self.n_rows:,} rows × {describe_dim(self.dim)} dimensions"


class _Combination(Features):
    """A node over two or more children with equally many rows."""

    word = "combination"

    def __init__(self, children: Sequence[Features]) -> None:
        flat: list[Features] = []
        for child in children:  # A * (B * C) and (A * B) * C are the same space: one flat node
            flat.extend(child.children if type(child) is type(self) else [child])
        self.children = tuple(flat)
        sizes = {leaf.n_rows: child for child in flat for leaf in child.leaves()}
        if len(sizes) > 1:
            (n1, a), (n2, b) = list(sizes.items())[:2]
            raise ValueError(
                f"{a.expression()} has {n1} rows but {b.expression()} has {n2}: a {self.word} pairs row with row; index "
                "both tables first, for example A[pairs.row] * B[pairs.column]."
            )

    def rebuild(self, children: Sequence[Features]) -> Features:
        return type(self)(children)


class Product(_Combination):
    """Row-wise Kronecker product: x = a ⊗ b ⊗ …, ⟨x, x'⟩ = ⟨a, a'⟩⟨b, b'⟩ …"""

    word = "product"

    def weighted(self, weight: float) -> Features:
        simple = (k for k, child in enumerate(self.children) if not child.children)
        chosen = next(simple, 0)  # a leaf or a constant, for a sum would take the weight to every term
        return self.rebuild([child.weighted(weight) if k == chosen else child for k, child in enumerate(self.children)])

    @property
    def dim(self) -> float:
        return math.prod(child.dim for child in self.children)

    def combine(self, values: Sequence[Any]) -> Any:
        return reduce(mul, values)

    def join(self, coordinates: Sequence[Array]) -> Array:
        out = coordinates[0]
        for other in coordinates[1:]:
            out = out[:, :, None] * other[:, None, :]
            out = out.reshape(len(out), -1)
        return out

    def expression(self) -> str:
        parts = [f"({c.expression()})" if isinstance(c, Sum) else c.expression() for c in self.children]
        return " * ".join(parts)


class Sum(_Combination):
    """Concatenation: x = [a, b, …], ⟨x, x'⟩ = ⟨a, a'⟩ + ⟨b, b'⟩ + …"""

    word = "sum"

    def weighted(self, weight: float) -> Features:
        return self.rebuild([child.weighted(weight) for child in self.children])

    @property
    def dim(self) -> float:
        return sum(child.dim for child in self.children)

    def combine(self, values: Sequence[Any]) -> Any:
        return reduce(add, values)

    def join(self, coordinates: Sequence[Array]) -> Array:
        (n,) = np.broadcast_shapes(*((len(c),) for c in coordinates))  # a constant has one row for all
        return np.concatenate([np.broadcast_to(c, (n, c.shape[1])) for c in coordinates], axis=1)

    def expression(self) -> str:
        return " + ".join(c.expression() for c in self.children)


class Power(Features):
    """x = a ⊗ a ⊗ … (p times), ⟨x, x'⟩ = ⟨a, a'⟩^p."""

    def __init__(self, base: Features, exponent: Any) -> None:
        if isinstance(exponent, bool) or not isinstance(exponent, Integral) or not 1 <= int(exponent) <= 64:
            raise ValueError(f"exponent {exponent!r} is not allowed; give a whole number from 1 to 64.")
        if int(exponent) * written_out(base) > MAX_FACTORS:
            raise ValueError(
                f"({base.expression()[:200]}) ** {exponent} has {int(exponent) * written_out(base):,} factors with all powers "
                f"written out; at most {MAX_FACTORS:,} are allowed: leave out powers of powers."
            )
        self.children = (base,)
        self.parameter = int(exponent)

    @property
    def dim(self) -> float:
        return self.children[0].dim ** self.parameter

    def combine(self, values: Sequence[Any]) -> Any:
        return reduce(mul, [values[0]] * self.parameter)

    def join(self, coordinates: Sequence[Array]) -> Array:
        return Product.join(self, list(coordinates) * self.parameter)  # type: ignore[arg-type]  # a Power is no Product

    def weighted(self, weight: float) -> Features:
        return Power(self.children[0].weighted(weight ** (1 / self.parameter)), self.parameter)

    def rebuild(self, children: Sequence[Features]) -> Features:
        return Power(children[0], self.parameter)

    def expression(self) -> str:
        base = self.children[0]
        text = base.expression()
        whole = not base.children and " * " not in text  # a weighted leaf is a product to read
        return f"{text} ** {self.parameter}" if whole else f"({text}) ** {self.parameter}"


class Constant(Features):
    """One dimension that holds the same number c in every row: ⟨x, x'⟩ = c²."""

    def __init__(self, value: float) -> None:
        if not 0 < abs(value) < LARGEST or abs(value) * LARGEST < 1:
            raise ValueError(
                f"a constant of {value} cannot be appended; give a number other than 0 whose square is one too, as in 1 + A."
            )
        self.parameter = float(value)

    @property
    def dim(self) -> float:
        return 1

    def combine(self, values: Sequence[Any]) -> Any:
        return self.parameter**2

    def join(self, coordinates: Sequence[Array]) -> Array:
        return coordinates[0] * self.parameter

    def weighted(self, weight: float) -> Features:
        return Constant(self.parameter * math.sqrt(weight))

    def rebuild(self, children: Sequence[Features]) -> Features:
        return self

    def _take(self, index: NDArray[np.int64]) -> Features:
        return self

    def expression(self) -> str:
        return f"{self.parameter:g}"


def written_out(node: Features) -> int:
    """Leaves and constants of an expression with its powers written out."""
    own = sum(map(written_out, node.children)) if node.children else 1
    return own * node.parameter if isinstance(node, Power) else own


def _checked_weight(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(value) or value <= 0:
        raise ValueError(
            f"a weight of {value} is not allowed; inner products are multiplied by a finite number above 0, as in "
            "0.3 * A + 0.7 * B: leave out a term that should not count."
        )
    return float(value)
