"""Images as bags of patches, each at its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA

from kronsgd.features.derived import Derived
from kronsgd.features.leaf import Array
from kronsgd.features.leaves import Dense
from kronsgd.parallel import map_threads, threads
from kronsgd.validation import check_array, check_finite, check_integer, check_real

__all__ = ["Patches"]

CHUNK = 1 << 22  # numbers of one array while images are mapped
LEAST_VARIANCE = 1e-6  # of the first component; what is smaller is rounding and must not be blown up
FLAT = 1e-3  # contrast of a patch, relative to the largest of the images it was learned from, below which it is only noise


class Patches(Derived):
    """Images as Σ_p φ(patch p) ⊗ ψ(place of p), scaled to norm 1: alike where alike patches are at nearby places.

    φ has the inner products ‖a‖·‖b‖·exp(β(cos(a, b) − 1)) of patches less their mean, ψ those of a Gaussian of `blur` patches'
    width, so that small shifts of an image change little (the convolutional kernel network of Mairal, Koniusz, Harchaoui and
    Schmid 2014, "Convolutional Kernel Networks", section 2). Both are used through finitely many coordinates: φ in the span
    of `n_filters` patches drawn at random (Nyström), ψ through the leading `n_places` eigenvectors over the grid of places.

    Parameters: images (entities, height, width) or (entities, height, width, channels); size: rows and columns of a patch;
    stride: pixels from patch to patch; beta > 0: larger tells patches apart more sharply; blur > 0: in strides; center:
    subtract the mean bag, which keeps fewer neurons firing; n_components: centre, and keep so many principal components of
    the bags (None: all n_filters · n_places coordinates); whiten: from 0 to 1, divide each component by its standard deviation
    to this power (0.5 to 0.75 suits digits: training gets faster and more accurate); seed: of the drawn patches. Everything
    is learned from `images` alone, without labels, and `like` uses it as it is. An image without contrast is the zero vector
    before it is centred.
    Cost for each image: P·n_filters·(patch + n_places) multiply-adds for P patches, then n_filters²·n_places.
    """

    def __init__(
        self, images: ArrayLike, size: int = 5, stride: int = 1, *, n_filters: int = 64, n_places: int = 16, beta: float = 3.0,
        blur: float = 3.0, center: bool = False, n_components: int | None = None, whiten: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        array = _checked_images("images", images)
        self.shape_in = array.shape[1:]
        self.size = check_integer("size", size, 1)
        if self.size > min(array.shape[1:3]):
            raise ValueError(f"size={size} is larger than images of {array.shape[1]} × {array.shape[2]} pixels; use less.")
        self.stride, self.beta = check_integer("stride", stride, 1), check_real("beta", beta, 0, open_low=True)
        rng = np.random.default_rng(check_integer("seed", seed, 0))
        self._learn_filters(array, check_integer("n_filters", n_filters, 1), rng)
        blur, n_places = check_real("blur", blur, 0, open_low=True), check_integer("n_places", n_places, 1)
        self.places = _places(self._windows(array[:1]).shape[1:3], blur, n_places)
        self.mean: Array | None = None
        self.components: Array | None = None
        if check_real("whiten", whiten, 0, 1) and n_components is None:
            raise ValueError(f"whiten={whiten:g} takes principal components; give n_components, such as 256, or whiten=0.")
        with threads():
            bags = self._bags(array)
            if center:
                self.mean = bags.mean(axis=0, dtype=np.float64).astype(np.float32)
            if n_components is not None:
                self._learn_components(bags, n_components, whiten, int(rng.integers(2**31)))
            self.table = self._reduced(bags)

    def like(self, images: ArrayLike) -> Patches:
        """New images in this space, by the same filters, places and components."""
        array = _checked_images("like(images)", images)
        if array.shape[1:] != self.shape_in:
            raise ValueError(f"like(images) has images of shape {array.shape[1:]}, known are {self.shape_in}; resize them.")
        with threads():
            return self.holding(self._reduced(self._bags(array)))

    # What is learned ---------------------------------------------------------------------------------------------------

    def _learn_filters(self, images: Array, n_filters: int, rng: np.random.Generator) -> None:
        """Unit patches drawn from all that are not flat; the inverse root of their kernel."""
        chosen = images[np.sort(rng.permutation(len(images))[: max(1, min(len(images), 50 * n_filters))])]
        windows = self._windows(chosen)
        flat = rng.permutation(np.prod(windows.shape[:3]))[: 50 * n_filters]
        patches = windows[np.unravel_index(flat, windows.shape[:3])].reshape(len(flat), -1).astype(np.float32)
        unit, norms = _directions(patches, 0.0)
        self.least = float(FLAT * norms.max(initial=0.0))
        unit = np.unique(unit[norms > self.least].round(6), axis=0)
        if len(unit) == 0:
            raise ValueError("no patch of the images has any contrast; give images whose pixels differ, or a larger size.")
        self.filters: Array = unit[rng.permutation(len(unit))[:n_filters]].astype(np.float32)
        values, vectors = scipy.linalg.eigh(np.exp(self.beta * (self.filters @ self.filters.T - 1)).astype(np.float64))
        kept = values > 1e-6 * values[-1]
        self.root: Array = (vectors[:, kept] / np.sqrt(values[kept]) @ vectors[:, kept].T).astype(np.float32)

    def _learn_components(self, bags: Array, n_components: int, whiten: float, seed: int) -> None:
        most = min(bags.shape)
        check_integer("n_components", n_components, 1, most)
        solver = PCA(n_components, svd_solver="randomized" if 5 * n_components < most else "full", random_state=seed).fit(bags)
        variance = solver.explained_variance_ / max(float(solver.explained_variance_[0]), np.finfo(np.float32).tiny)
        variance = np.maximum(variance, LEAST_VARIANCE)
        self.mean = solver.mean_.astype(np.float32)
        self.components = np.asarray(solver.components_ * variance[:, None] ** (-whiten / 2), dtype=np.float32)

    # Images to bags ----------------------------------------------------------------------------------------------------

    def _windows(self, images: Array) -> Array:
        """Views of all patches. Shape: (n, grid rows, grid columns, ...) and a patch."""
        windows = np.lib.stride_tricks.sliding_window_view(images, (self.size, self.size), axis=(1, 2))
        return windows[:, :: self.stride, :: self.stride]

    def _bags(self, images: Array) -> Array:
        """(n, n_filters · n_places) in single precision."""
        n_patches, n_filters = len(self.places), len(self.filters)
        out = np.empty((len(images), n_filters, self.places.shape[1]), dtype=np.float32)
        step = max(1, CHUNK // (n_patches * max(n_filters, self.filters.shape[1])))

        def fill(start: int) -> None:
            windows = self._windows(images[start : start + step])
            unit, norms = _directions(windows.reshape(windows.shape[0] * n_patches, -1).astype(np.float32), self.least)
            values = unit @ self.filters.T
            values -= 1
            values *= self.beta
            np.exp(values, out=values)
            values *= norms[:, None]
            pooled = values.reshape(-1, n_patches, n_filters).transpose(0, 2, 1) @ self.places
            out[start : start + step] = self.root @ pooled

        map_threads(fill, range(0, len(images), step))
        return out.reshape(len(images), -1)

    def _reduced(self, bags: Array) -> Dense:
        if self.mean is not None:
            bags -= self.mean
        return Dense(bags if self.components is None else bags @ self.components.T)

    def recipe(self) -> tuple[dict[str, Array], dict[str, Any]]:
        arrays = {"filters": self.filters, "root": self.root, "places": self.places}
        learned = {"mean": self.mean, "components": self.components}
        arrays |= {name: array for name, array in learned.items() if array is not None}
        options = {"shape": [int(s) for s in self.shape_in], "size": self.size, "stride": self.stride}
        return arrays, {**options, "beta": self.beta, "least": self.least}

    def use_recipe(self, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> None:
        self.size, self.stride = check_integer("size", options["size"], 1), check_integer("stride", options["stride"], 1)
        self.beta, self.least = check_real("beta", options["beta"], 0), check_real("least", options["least"], 0)
        self.shape_in = tuple(check_integer("shape", s, 1) for s in options["shape"])
        self.filters = check_array("filters", arrays, (None, self.size**2 * self.shape_in[2]), "f")
        n = len(self.filters)
        n_patches = int(np.prod([(side - self.size) // self.stride + 1 for side in self.shape_in[:2]]))
        self.root, self.places = check_array("root", arrays, (n, n), "f"), check_array("places", arrays, (n_patches, None), "f")
        self.mean = self.components = None
        width = n * self.places.shape[1]
        if "mean" in arrays:
            self.mean = check_array("mean", arrays, (width,), "f")
        if "components" in arrays:
            self.components = check_array("components", arrays, (self.table.n_coordinates, width), "f")
        elif self.table.n_coordinates != width:
            raise ValueError("the maps of patches do not fit their table")


def _checked_images(name: str, images: ArrayLike) -> Array:
    """(n, height, width, channels), in single precision."""
    array = np.asarray(images)
    if array.ndim not in (3, 4) or array.dtype.kind not in "biuf" or 0 in array.shape:
        raise ValueError(
            f"{name} is {array.dtype} of shape {array.shape}; give numbers of shape (images, height, width) or "
            "(images, height, width, channels), for example .reshape(-1, 28, 28)."
        )
    check_finite(name, array)
    array = array.astype(np.float32, copy=False)
    return array[..., None] if array.ndim == 3 else array


def _directions(patches: Array, least: float) -> tuple[Array, Array]:
    """(patches less their mean, scaled to norm 1; their norms, 0 where at most `least`). Shape: (n, d), (n,)."""
    centred = patches - patches.mean(axis=1, keepdims=True) if patches.shape[1] > 1 else patches
    norms = np.sqrt(np.einsum("ij,ij->i", centred, centred))
    norms[norms <= least] = 0
    return centred / np.where(norms > 0, norms, 1)[:, None], norms


def _places(grid: tuple[int, int], blur: float, n_places: int) -> NDArray[np.float32]:
    """Coordinates of the grid's places: leading eigenvectors of a Gaussian kernel, times the roots of their eigenvalues.

    Shape: (places, at most n_places). Cost: those of the rows' and of the columns' kernels, whose Kronecker product it is.
    """
    roots = []
    for side in grid:
        at = np.arange(side, dtype=np.float64)
        values, vectors = np.linalg.eigh(np.exp(-0.5 * ((at[:, None] - at) / blur) ** 2))
        roots.append(vectors * np.sqrt(np.maximum(values, 0)))
    all_places = np.einsum("ai,bj->abij", *roots).reshape(grid[0] * grid[1], -1)
    sizes = np.einsum("ij,ij->j", all_places, all_places)
    order = np.argsort(-sizes, kind="stable")[:n_places]
    return all_places[:, order[sizes[order] > 1e-6 * sizes.max()]].astype(np.float32)
