"""Bags: a row is a sum over items, whatever the items are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kronsgd.features.base import Features
from kronsgd.features.derived import Derived
from kronsgd.features.grouping import coordinate_dim
from kronsgd.features.item_sums import ItemSums, bag_matrix, item_width
from kronsgd.features.leaf import Array, Leaf
from kronsgd.features.leaves import Dense, Sparse
from kronsgd.features.serialize import compress, features_from_state, features_state
from kronsgd.features.summed import expected_entries, summed_dense, summed_sparse
from kronsgd.validation import check_choice, check_finite, check_integer

__all__ = ["Bag"]

FORMS = ["auto", "dense", "sparse", "items"]
MAX_DENSE, MAX_SPARSE = 1 << 27, 1 << 22  # numbers in a table of sums; coordinates, which each neuron draws a number for
SCATTERED = 8  # what a number in a sparse product costs, in multiples of one in a dense product


class Bag(Derived):
    """Sets of items: x_bag = Σ weight · φ(item) over the items in it, so ⟨x, x'⟩ sums the inner products of all pairs of items.

    Parameters: items: any expression, a row for each item (`patch * position`; `word ** 2` for second-order pooling;
    kernels); owner (items,): the number of the bag that each belongs to; weights (items,), default 1; n_bags: default: the
    largest owner + 1; normalize: scale every bag to norm 1, as sums such as `1 + bag` need; form: see below. A bag without
    items is the zero vector, like a row of zeros.

    What is kept is what makes an inner product between two bags cheapest, counted for N items in B bags:
    "dense": the sums of the items' D coordinates, where these are finitely many (D multiplications each);
    "sparse": the same, of which few are not 0 (at most those of N/B items, 8 each);
    "items": the items themselves ((N/B)² inner products between items, in tiles of bounded memory; each pair of different
    items is evaluated once for a whole panel). Coordinates then span the bags, as those of RBF span its entities.
    Making sums costs N·D once. Entities that are not in the table of a Kernel are taken as their projections on its span.
    The form is part of the space: bring new bags in with `like`.
    """

    def __init__(
        self, items: Features, owner: ArrayLike, weights: ArrayLike | None = None, n_bags: int | None = None, *,
        normalize: bool = False, form: str = "auto",
    ) -> None:  # fmt: skip
        check_choice("form", form, FORMS)
        bags = _checked_bags(items, owner, weights, n_bags)
        self.normalize = bool(normalize)
        self.form = _cheapest_form(items, bags.shape[0]) if form == "auto" else form
        if self.form != "items" and not has_coordinates(items):
            raise ValueError(f'form="{form}" needs coordinates, which {items.expression()} does not have; use form="items".')
        self.item = compress(items[[0]])
        self.table = self._table(items, bags)

    def like(self, items: Features, owner: ArrayLike, weights: ArrayLike | None = None, n_bags: int | None = None) -> Bag:
        """New bags in this space. ValueError where the items are of another space."""
        bags = _checked_bags(items, owner, weights, n_bags)
        self.item.check_compatible(items)
        return self.holding(self._table(items, bags))

    def _table(self, items: Features, bags: Any) -> Leaf:
        if self.form == "dense":
            return Dense(summed_dense(self.item, items, bags), normalize=self.normalize)
        if self.form == "sparse":
            return Sparse(summed_sparse(self.item, items, bags), normalize=self.normalize)
        return ItemSums.of(items, bags, self.normalize)

    @property
    def dim(self) -> float:
        return self.item.dim

    def recipe(self) -> tuple[dict[str, Array], dict[str, Any]]:
        arrays, tree = features_state(self.item, "item")
        return arrays, {"item": tree, "normalize": self.normalize, "form": self.form}

    def use_recipe(self, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> None:
        self.item = features_from_state(arrays, options["item"], "item")
        self.normalize, self.form = bool(options["normalize"]), str(options["form"])
        check_choice("form", self.form, FORMS[1:])

    def _same_structure(self, other: Features) -> bool:
        if not isinstance(other, Bag) or (self.normalize, self.form) != (other.normalize, other.form):
            return False
        return self.item._same_structure(other.item) and self.table._same_structure(other.table)

    def expression(self) -> str:
        return f"Bag({self.n_entities:,} of {self.item.expression().replace('(1 × ', '(')})"


def has_coordinates(items: Features) -> bool:
    """Whether all items of the space, also those to come, have the same finitely many coordinates."""
    return all(leaf.own_coordinates for leaf in items.leaves())


def _cheapest_form(items: Features, n_bags: int) -> str:
    """The form with the fewest operations for one inner product between bags of the mean size."""
    size = items.n_rows / n_bags
    costs = {"items": size**2 * item_width(items)}
    if has_coordinates(items):
        d = coordinate_dim(items)
        if n_bags * d <= MAX_DENSE:
            costs["dense"] = float(d)
        entries = expected_entries(items)
        if entries < d <= MAX_SPARSE:
            costs["sparse"] = SCATTERED * min(float(d), size * entries)
    return min(costs, key=lambda form: costs[form])


def _checked_bags(items: Features, owner: ArrayLike, weights: ArrayLike | None, n_bags: int | None) -> Any:
    """(bags, items) weights as CSR. One sentence for each mistake."""
    if not isinstance(items, Features):
        raise TypeError(
            f"Bag takes a feature expression over the items, not {type(items).__name__}; wrap an array in Dense."
        )
    n = items.n_rows
    if n == 0:
        raise ValueError("Bag has no items; at least one is needed, though single bags may be empty.")
    numbers = np.asarray(owner)
    if numbers.shape != (n,) or numbers.dtype.kind not in "iu":
        raise ValueError(
            f"owner is {numbers.dtype} of shape {numbers.shape}; give the number of its bag, a whole number, for each of the "
            f"{n} items."
        )
    if n_bags is None and numbers.max() >= 1000 * n + 1_000_000:
        raise ValueError(
            f"owner[{int(np.argmax(numbers))}] is {int(numbers.max())} for {n} items, so that nearly all bags would be empty; "
            "number bags from 0, as numpy.unique(owner, return_inverse=True)[1] does, or pass n_bags."
        )
    count = int(numbers.max()) + 1 if n_bags is None else check_integer("n_bags", n_bags, 1)
    outside = (numbers < 0) | (numbers >= count)
    if outside.any():
        where = int(np.argmax(outside))
        raise ValueError(
            f"owner[{where}] is {int(numbers[where])}, but bags are numbered 0 to {count - 1}; correct it, or raise n_bags."
        )
    return bag_matrix(_checked_weights(weights, n), numbers.astype(np.int64), count)


def _checked_weights(weights: ArrayLike | None, n: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(n)
    array = np.asarray(weights)
    if array.shape != (n,) or array.dtype.kind not in "biuf":
        raise ValueError(f"weights is {array.dtype} of shape {array.shape}; give a number for each of the {n} items.")
    array = array.astype(np.float64)
    check_finite("weights", array)
    return array
