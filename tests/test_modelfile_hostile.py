"""Model files, run folders and expressions that are made to do harm: refused before memory is taken or a place is read."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from helpers.arrays import normal
from helpers.modelfile import fitted
from kronsgd import Dense, KronClassifier, KronRegressor, OneHot, load, modelfile
from kronsgd.cli.expression import build_features
from kronsgd.cli.flags import read_toml
from kronsgd.cli.runfolder import open_run
from kronsgd.features.base import Constant, describe_dim
from kronsgd.planner.limits import describe_bytes

MIB = 2**20


def refused(path, match):
    """Refused with one line, and hardly any memory."""
    tracemalloc.start()
    with pytest.raises(ValueError, match=match) as error:
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(str(error.value).splitlines()) == 1
    assert peak < 16 * MIB


def changed(path, model, change):
    """The model's file with `change(arrays, meta)` done to it."""
    model.save(path)
    arrays, meta = modelfile.read_model(path)
    change(arrays, meta)
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path, metadata={modelfile.KEY: json.dumps(meta)})
    return path


@pytest.mark.parametrize("name", ["rows", "tail_rows"])
def test_cells_beyond_the_outer_entities(name, tmp_path):
    """A grid of 5 outer entities numbers them with 3 bits: 6 is no cell, though it is below the next inner entity's first."""
    model, _ = fitted("grid")
    if name == "rows":
        model.state_.coefficients.compact()

    def change(arrays, meta):
        rows = arrays[f"state.{name}"] = arrays[f"state.{name}"].copy()
        last = int(arrays["state.indptr"][1] if name == "rows" else arrays["state.tail_len"][0]) - 1
        rows[last] = rows[last] | 7

    refused(changed(tmp_path / "m", model, change), "outside the 5 outer entities|outside the 6 outer entities")


@pytest.mark.parametrize("change", [lambda index: index.astype(float), lambda index: index > 0, lambda index: index[None]])
def test_row_index_of_another_kind(change, tmp_path):
    def use(arrays, meta):
        name = next(name for name in arrays if name.startswith("features") and name.endswith(".index"))
        arrays[name] = change(arrays[name])

    refused(changed(tmp_path / "m", fitted()[0], use), "index")


def nested(kind, levels, parameter):
    def change(arrays, meta):
        for tree in ("features", "basis"):
            for _ in range(levels):
                meta[tree] = {"kind": kind, "children": [meta[tree]], "parameter": parameter}
            for name in [name for name in arrays if name.startswith(tree)]:
                arrays[tree + ".0" * levels + name.removeprefix(tree)] = arrays.pop(name)

    return change


def many_powers(arrays, meta):
    ones = [{"kind": "Constant", "children": [], "parameter": 1.0}] * 16
    power = {"kind": "Power", "children": [{"kind": "Sum", "children": ones}], "parameter": 64}
    nested("Sum", 1, 1)(arrays, meta)
    meta["features"]["children"] += [power] * 20


def update(part, **values):
    return lambda arrays, meta: (meta if part is None else meta[part]).update(values)


HOSTILE = {
    "powers of powers": (nested("Power", 4, 64), "written out; at most 1,024 are allowed"),
    "endless nesting": (nested("Sum", 450, 1), "nested deeper than 200 levels|not JSON|recursion"),
    "many powers": (many_powers, "have 20,4.. factors, more than 16,384"),
    "no seed": (update("network", seed=None), "seed=None is not an integer"),
    "an abstract leaf": (lambda a, m: m["features"]["children"][1].update(kind="SpanLeaf"), "unknown feature kind 'SpanLeaf'"),
    "a huge rank": (update("network", init_rank=10**9), "only .* are free"),
    "a huge rank of a grid": (lambda a, m: (m.update(engine="grid"), m["network"].update(init_rank=10**9)), "are free|missing"),
    "huge true Gaussian weights": (
        lambda a, m: (
            m["network"].update(init="gaussian"),
            [m[tree]["children"][1]["options"].update(n_categories=10**12) for tree in ("features", "basis")],
        ),
        "only .* are free",
    ),
    "a huge dense matrix": (
        lambda a, m: (
            m.update(engine="dense"),
            [m[tree]["children"][1]["options"].update(n_categories=10**6) for tree in ("features", "basis")],
        ),
        "the weights do not have a row of 4,000,000 coordinates",
    ),
    "columns named by a number": (update(None, feature_names_in=3), "no list of names"),
    "a history of numbers": (update(None, history=[1, 2]), "no list of epochs"),
    "a mean of two axes": (update("own", y_mean=[[0.0]]), "mean and scale do not fit"),
    "a scale without an inverse": (lambda a, m: a.update({"state.scale": np.array([1e-300])}), "holds 1e-300, not a factor"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_model(name, tmp_path):
    change, match = HOSTILE[name]
    refused(changed(tmp_path / "m", fitted()[0], change), match)


@pytest.mark.parametrize(("name", "value"), [("mean", np.zeros(5)), ("scale", np.zeros(4)), ("scale", np.ones(3))])
def test_columns_of_an_array_model(name, value, tmp_path):
    model = KronRegressor(6, max_iter=1, learning_rate_init=1.0, random_state=0).fit(normal(20, 4), normal(20))
    refused(changed(tmp_path / "m", model, lambda a, m: a.update({f"input.{name}": value})), r"input\.scale")


@pytest.mark.parametrize(
    ("classes", "kind"), [({"a": 1}, "O"), ([["a"], ["b"], ["c"]], "O"), (["a", "b", "c"], "iu"), ("abc", "U")]
)
def test_classes_that_are_no_list(classes, kind, tmp_path):
    model, _ = fitted(estimator=KronClassifier)
    refused(changed(tmp_path / "m", model, update("own", classes=classes, dtype=kind)), "classes")


def test_number_of_too_many_digits(tmp_path):
    model, _ = fitted()
    path = changed(tmp_path / "m", model, lambda a, m: None)
    arrays, meta = modelfile.read_model(path)
    text = json.dumps(meta).replace('"n_iter": 2', '"n_iter": ' + "1" * 5000)
    save_file(arrays, path, metadata={modelfile.KEY: text})
    refused(path, "is not JSON")


def rewrite(run, change):
    tree = json.loads((run / "tables.json").read_text())
    change(tree["tables"]["drug"], tree)
    (run / "tables.json").write_text(json.dumps(tree))


FOLDERS = {
    "a path upwards": (lambda entry, tree: entry.update(file="../outside.npz"), "not in the folder of the run"),
    "a link": (lambda entry, tree: entry.update(file="tables/link.npz"), "not in the folder of the run"),
    "a model elsewhere": (lambda entry, tree: tree.update(models=["../run/../model.kron"]), "not in the folder of the run"),
    "an empty array that is not": (lambda entry, tree: entry["tree"].update(empty={"x": [[10**6, 10**6], "<f8"]}), "damaged"),
    "a tree of lists": (lambda entry, tree: entry["tree"].update(empty=[1]), "damaged"),
    "an abstract leaf": (lambda entry, tree: entry["tree"].update(kind="VectorKernel"), "unknown feature kind"),
    "endless nesting": (
        lambda entry, tree: [entry.update(tree={"kind": "Sum", "children": [entry["tree"]]}) for _ in range(220)], "deeper"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_hostile_run_folder(name, run, tmp_path):
    np.savez(tmp_path / "outside.npz", ids=np.array(["a"]), **{"table.array": np.ones((1, 2))})
    (run / "tables" / "link.npz").symlink_to(tmp_path / "outside.npz")
    change, match = FOLDERS[name]
    rewrite(run, change)
    with pytest.raises(ValueError, match=match) as error:
        open_run(run)
    assert len(str(error.value).splitlines()) == 1


def test_table_at_an_absolute_path(run, tmp_path):
    np.savez(tmp_path / "outside.npz", ids=np.array(["a"]))
    rewrite(run, lambda entry, tree: entry.update(file=str(tmp_path / "outside.npz")))
    with pytest.raises(ValueError, match="not in the folder of the run"):
        open_run(run)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("((x ** 64) ** 64) ** 64", "4,096 factors with all powers written out; at most 1,024"),
        ("((1 + x) ** 64) ** 9", "1,152 factors"),
        ("x + 1e200", "a constant of 1e"),
        ("1e-200 + x", "a constant of 1e-200"),
        ("x + 1" + "0" * 400, "cannot be read"),
    ],
)
def test_expression_that_explodes(text, match):
    with pytest.raises(ValueError, match=match) as error:
        build_features(text, {"x": OneHot([0, 1])})
    assert len(str(error.value)) < 1000


def test_dimensions_of_thousands_of_digits():
    """They are exact whole numbers, which Python turns neither into floats nor into text."""
    X = (Dense(normal(4, 10**5)) ** 64) ** 16
    assert X.dim == 10**5120
    assert repr(X).endswith("4 rows × 10^5120 dimensions")
    assert describe_bytes(8 * X.dim) == "10^5120 B"
    assert describe_dim(10**301) == "10^301"
    np.testing.assert_allclose(X.squared_norms(), 1)


def test_nested_settings(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("x = " + "[" * 5000)
    with pytest.raises(ValueError, match="is not valid TOML"):
        read_toml(path)


def test_constants_that_have_squares():
    assert Constant(1e149).combine([]) > 0
    assert Constant(-1e-149).combine([]) > 0


def test_a_message_does_not_repeat_a_whole_file(tmp_path):
    model, _ = fitted("scan")
    model.learning_rate_ = ["x" * 99] * 99
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match=r"is not a consistent kronsgd model \(learning_rate=") as info:
        load(tmp_path / "m")
    assert len(str(info.value)) < 1000
