"""Parts of the command line: feature expressions, and parameters given as text."""

from __future__ import annotations

import numpy as np
import pytest

from kronsgd import Dense
from kronsgd.cli.expression import build_features, default_expression
from kronsgd.cli.parameters import typed


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "1 + 2", "2 * 3", "0 * a", "a - b", "a / b", "-a", "a ** b", "a ** 1.5", "a ** -1", "a ** True",
        "True + a", "a.b", "a[0]", "a(1)", "a if b else a", "lambda: a", "'a'", "a; b", "a == b", "a ** 65", "0 + a",
        "(" * 500 + "a",
        "c", "a\n+b)", "1e999 + a", "a" * 3000, "a ** 2 ** 2", "1 ** 2 + a", "a and b", "[a]", "{a}", "1j + a",
    ],
)  # fmt: skip
def test_an_expression_holds_nothing_but_the_algebra(text):
    with pytest.raises(ValueError, match=r".") as info:
        build_features(text, {"a": Dense([[1.0, 2.0]]), "b": Dense([[3.0]])})
    assert "\n" not in str(info.value)


def test_expressions_mean_what_they_say():
    a, b = Dense([[3.0, 4.0]], normalize=False), Dense([[2.0]], normalize=False)
    weighed = build_features("0.3 * a + b * 2 * 2", {"a": a, "b": b})
    np.testing.assert_allclose(weighed.inner(), 0.3 * a.inner() + 4 * b.inner())
    built = build_features(" (1 + a) * b ** 2 + 0.5 ", {"a": a, "b": b})
    np.testing.assert_allclose(built.inner(), ((1 + a) * b**2 + 0.5).inner())
    assert default_expression(["a"]) == "(1 + a) ** 2"
    assert default_expression(["a", "b", "c"]) == "(1 + a) * (1 + b) * (1 + c)"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n_hidden", "64", 64), ("alpha", "1", 1.0), ("shuffle", "false", False), ("threshold", "auto", "auto"),
        ("threshold", "0.5", 0.5), ("batch_size", "32", 32), ("n_jobs", "none", None), ("n_jobs", "2", 2),
        ("engine", "dense", "dense"), ("verbose", True, True), ("alpha", 0, 0.0),
    ],
)  # fmt: skip
def test_parameters_take_the_type_of_their_default(name, text, value):
    assert typed(name, text) == value
    assert type(typed(name, text)) is type(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_hidden", "6.5"), ("n_hidden", True), ("alpha", "x"), ("shuffle", "2"), ("n_jobs", "x"), ("init", [])],
)
def test_parameters_of_a_wrong_type_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        typed(name, value)
