"""One sentence for each mistake with tables and expressions."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import scipy.sparse as sp

from helpers.arrays import normal
from kronsgd import RBF, Dense, Kernel, OneHot, Sparse, Tanimoto

pytestmark = pytest.mark.usefixtures("one_thread")

x3 = normal(3, 2)
bad_nan, bad_inf = x3.copy(), x3.copy()
bad_nan[1, 0], bad_inf[2, 1] = np.nan, np.inf
REFUSED = {
    "NaN": (lambda: Dense(bad_nan), ValueError, r"Dense\(array\) contains NaN at position \(1, 0\)"),
    "infinity": (lambda: RBF(bad_inf), ValueError, r"contains infinity at position \(2, 1\)"),
    "NaN in a sparse matrix": (lambda: Sparse(sp.csr_array(bad_nan)), ValueError, "NaN"),
    "NaN in a kernel": (lambda: Kernel(np.full((2, 2), np.nan)), ValueError, "NaN"),
    "one dimension": (lambda: Dense(np.ones(3)), ValueError, r"shape \(3,\).*reshape"),
    "no rows": (lambda: Dense(np.ones((0, 3))), ValueError, "at least one row"),
    "no columns": (lambda: Dense(np.ones((3, 0))), ValueError, "at least one row and one column"),
    "no columns in a sparse matrix": (lambda: Sparse(sp.csr_array((3, 0))), ValueError, "at least one row"),
    "text": (lambda: Dense(np.array([["a"]])), TypeError, "dtype"),
    "complex": (lambda: RBF(np.ones((2, 2)) * 1j), TypeError, "dtype complex128"),
    "objects": (lambda: Dense(np.array([[object()]])), TypeError, "dtype object"),
    "an array as sparse": (lambda: Sparse(x3), TypeError, "use Dense"),
    "text categories": (lambda: OneHot(["a", "b"]), TypeError, r"numpy\.unique"),
    "float categories": (lambda: OneHot([0.0, 1.0]), TypeError, "category numbers"),
    "no categories": (lambda: OneHot(np.zeros(0, dtype=int)), TypeError, "non-empty"),
    "a category below 0": (lambda: OneHot([0, -1]), ValueError, "category -1 is outside 0 to 0"),
    "a category too large": (lambda: OneHot([0, 5], 3), ValueError, "category 5 is outside 0 to 2"),
    "a kernel that is not square": (lambda: Kernel(np.ones((2, 3))), ValueError, "square"),
    "a kernel that is not symmetric": (
        lambda: Kernel([[1.0, 0.5], [0.2, 1.0]]), ValueError, r"entry \(0, 1\) is 0.5 but \(1, 0\) is 0.2",
    ),
    "a kernel that is not positive": (
        lambda: Kernel([[1.0, 2.0], [2.0, 1.0]]), ValueError, r"smallest eigenvalue is -1.*psd=\"clip\"",
    ),
    "self-similarity of 0": (lambda: Kernel([[1.0, 0.0], [0.0, 0.0]]), ValueError, "entity 1 has self-similarity 0"),
    "an unknown psd": (lambda: Kernel(np.eye(2), psd="clp"), ValueError, "Did you mean 'clip'"),
    "new entities with too few columns": (
        lambda: Kernel(np.eye(3)).new_entities(np.ones((1, 2))), ValueError, "cross has 2 columns; give .* 3 entities",
    ),
    "new entities with a NaN": (lambda: Kernel(np.eye(1)).new_entities([[np.nan]]), ValueError, "cross contains NaN"),
    "fingerprints that are not binary": (lambda: Tanimoto([[0.0, 0.5]]), ValueError, "contains 0.5; .* 0 and 1 only"),
    "gamma of 0": (lambda: RBF(x3, gamma=0.0), ValueError, "gamma=0.0 is out of range"),
    "gamma as text": (lambda: RBF(x3, gamma="scale"), TypeError, "gamma='scale' is not a number"),
    "an exponent of 0": (lambda: Dense(x3) ** 0, ValueError, "whole number from 1 to 64"),
    "a fractional exponent": (lambda: Dense(x3) ** 0.5, ValueError, "whole number from 1 to 64"),
    "an exponent of True": (lambda: Dense(x3) ** True, ValueError, "whole number"),
    "an infinite constant": (lambda: Dense(x3) + math.inf, ValueError, "constant of inf"),
    "a constant of 0": (lambda: 0 + Dense(x3), ValueError, "constant of 0"),
    "a weight of 0": (lambda: 0 * Dense(x3), ValueError, "weight of 0 is not allowed; .* above 0"),
    "a weight below 0": (lambda: Dense(x3) * -0.5, ValueError, "weight of -0.5 is not allowed"),
    "a weight that is not finite": (lambda: math.nan * Dense(x3), ValueError, "weight of nan is not allowed"),
    "a weight of True": (lambda: True * Dense(x3), ValueError, "weight of True"),
    "another weight": (lambda: (2 * Dense(x3)).inner(3 * Dense(x3)), ValueError, "made with other options"),
    "mismatched rows in a product": (
        lambda: Dense(x3) * Dense(normal(4, 2)), ValueError, r"has 3 rows but .* has 4: a product pairs row with row",
    ),
    "mismatched rows in a sum": (lambda: Dense(x3) + 1 + Dense(normal(4, 2)), ValueError, "a sum pairs row with row"),
    "a row outside": (lambda: Dense(x3)[[0, 3]], IndexError, r"row number 3 at position 1 is outside .* \(0 to 2\)"),
    "a row far below": (lambda: Dense(x3)[-4], IndexError, "row number -4"),
    "a mask of another length": (lambda: Dense(x3)[[True, False]], IndexError, r"mask of shape \(2,\)"),
    "rows by name": (lambda: Dense(x3)[["a"]], IndexError, "translate names into row numbers"),
    "rows by floats": (lambda: Dense(x3)[[0.0]], IndexError, "float64"),
    "iteration": (lambda: list(Dense(x3)), TypeError, "slice it"),
    "an accidental array": (lambda: np.asarray(Dense(x3) * Dense(x3)), TypeError, r"4 dimensions.*\.dense\(\)"),
    "an array as the other side": (lambda: Dense(x3).inner(x3), TypeError, "ndarray"),
    "another dimension": (lambda: Dense(x3).inner(Dense(normal(3, 5))), ValueError, "not of the model's space"),
    "another expression": (lambda: (Dense(x3) * Dense(x3)).inner(Dense(x3) + Dense(x3)), ValueError, "built on"),
    "another constant": (lambda: (1 + Dense(x3)).inner(2 + Dense(x3)), ValueError, "not of the model's space"),
    "another exponent": (lambda: (Dense(x3) ** 2).inner(Dense(x3) ** 3), ValueError, "not of the model's space"),
    "another gamma": (lambda: RBF(x3, 1.0).inner(RBF(x3, 2.0)), ValueError, "gamma=2"),
    "another kernel table": (lambda: Kernel(np.eye(2)).inner(Kernel(np.ones((2, 2)))), ValueError, "not of the model's space"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name):
    make, kind, message = REFUSED[name]
    with pytest.raises(kind) as error:
        make()
    text = str(error.value)
    assert re.search(message, text, flags=re.DOTALL), text
    assert "\n" not in text
    assert text.endswith((".", ")", "?"))


def test_operators_with_other_types():
    a = Dense(x3)
    for wrong in (lambda: a * "2", lambda: a * x3, lambda: x3 * a, lambda: a + "1", lambda: "1" + a):
        with pytest.raises(TypeError):
            wrong()
