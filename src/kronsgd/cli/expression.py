"""Feature expressions as text: table names, numbers, +, *, ** and parentheses. Nothing is ever executed."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping

from kronsgd.features import Dense, Features
from kronsgd.validation import did_you_mean

__all__ = ["build_features", "default_expression", "used_names"]

MAX_LENGTH = 2000  # characters; Python's own parser overflows on very deep nesting
ALLOWED = "write names of tables, numbers, +, *, ** and parentheses, such as (1 + drug) * (1 + protein)."


def default_expression(names: Collection[str]) -> str:
    """`(1 + x) ** 2` for one table; `(1 + a) * (1 + b) * …` for more."""
    names = list(names)
    return f"(1 + {names[0]}) ** 2" if len(names) == 1 else " * ".join(f"(1 + {name})" for name in names)


def build_features(text: str, tables: Mapping[str, Features]) -> Features:
    """The value of an expression over named features.

    Raises ValueError on what is not allowed in an expression, on a name that no table has, and on a constant alone.
    """
    if not text.strip():
        raise ValueError(f"the feature expression is empty; {ALLOWED}")
    if len(text) > MAX_LENGTH:
        raise ValueError(f"the feature expression has {len(text)} characters; at most {MAX_LENGTH} are read.")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        value = _value(tree, text, tables)
    except (SyntaxError, RecursionError, MemoryError, OverflowError) as error:
        where = f" near character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        raise ValueError(f"the feature expression {text!r} cannot be read{where}; {ALLOWED}") from None
    if not isinstance(value, Features):
        raise ValueError(f"the feature expression {text!r} names no table; name at least one of {sorted(tables)}.")
    return value


def used_names(text: str, names: Collection[str]) -> list[str]:
    """The tables that an expression names, in the order of `names`. ValueError unless the expression is valid."""
    build_features(text, {name: Dense([[1.0]]) for name in names})
    found = {node.id for node in ast.walk(ast.parse(text.strip(), mode="eval")) if isinstance(node, ast.Name)}
    return [name for name in names if name in found]


def _value(node: ast.expr, text: str, tables: Mapping[str, Features]) -> Features | float:
    if isinstance(node, ast.Name):
        if node.id not in tables:
            raise ValueError(
                f"the feature expression {text!r} names {node.id!r}, which is no table; the tables are "
                f"{sorted(tables)}."
                f"{did_you_mean(node.id, tables)}"
            )
        return tables[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return float(node.value)
    if isinstance(node, ast.BinOp):
        return _operation(node, text, tables)
    what = ast.get_source_segment(text.strip(), node) or type(node).__name__
    raise ValueError(f"the feature expression {text!r} contains {what!r}, which is not allowed; {ALLOWED}")


def _operation(node: ast.BinOp, text: str, tables: Mapping[str, Features]) -> Features | float:
    left = _value(node.left, text, tables)
    if isinstance(node.op, ast.Pow):
        exponent = node.right.value if isinstance(node.right, ast.Constant) else None
        if type(exponent) is not int or not isinstance(left, Features):
            raise ValueError(f"the feature expression {text!r} has a power other than table ** whole number; {ALLOWED}")
        return left**exponent
    right = _value(node.right, text, tables)
    if isinstance(node.op, ast.Add):
        return left + right
    if isinstance(node.op, ast.Mult):
        return left * right
    raise ValueError(f"the feature expression {text!r} has an operation other than +, * and **; {ALLOWED}")
