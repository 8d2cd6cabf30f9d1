"""Tables of pairs: row numbers, targets, weights, and one sentence for each mistake."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.datasets import FEATURES, sentence, write, write_parquet
from kronsgd.datasets import (
    PairTable,
    UnknownNameError,
    read_pairs,
)
from kronsgd.features import Dense


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_pairs_are_row_numbers_targets_and_weights(tmp_path, ending):
    drugs, proteins = np.array([30, 10, 20]), ["KIT", "ABL1"]
    columns = {"p": ["ABL1", "KIT", "ABL1"], "d": [20, 30, 20], "y": [5.5, 6.0, 7.25], "w": [1, 2, 0]}
    path = tmp_path / f"pairs.{ending}"
    if ending == "parquet":
        write_parquet(path, **columns)
    else:
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        write(path, "\ufeff" + "\n".join(lines) + "\n")
    rows, y, weights = read_pairs(path, [drugs, PairTable(proteins, "proteins")], ["d", "p"], "y", weight="w")
    assert [r.tolist() for r in rows] == [[2, 0, 2], [1, 0, 1]]
    assert all(r.dtype == np.int64 for r in rows)
    np.testing.assert_array_equal(y, [5.5, 6.0, 7.25])
    np.testing.assert_array_equal(weights, [1, 2, 0])
    X = Dense(FEATURES)[rows[0]] * Dense(FEATURES[:2])[rows[1]]
    assert X.shape == (3, 4)
    assert read_pairs(path, [drugs], ["d"], "y").weights is None
    labels = read_pairs(path, [drugs, drugs], ["d", "d"], "p").y
    assert labels.tolist() == ["ABL1", "KIT", "ABL1"]
    assert read_pairs(path, [drugs], ["d"], "w").y.dtype == np.int64


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("drug,target\n1,2\n", KeyError, "has no column 'y'"),
        ("drug,yy\n1,2\n", KeyError, "Did you mean 'yy'?"),
        ("drug,y\n", ValueError, "no rows"),
        ("drug,y\n1,5\n1,NaN\n", ValueError, "no value in column 'y' at position 1"),
        ("drug,y\n1,5\n1,inf\n", ValueError, "contains infinity at position (1,)"),
        ("drug,y\n1,a\n2,\n", ValueError, "no value in column 'y' at position 1"),
        ("drug,y\n1,5\n9,6\n", KeyError, "the id '9' at position 1 is not among the 3 ids of drug"),
        ("drug,y\n1,5\n,6\n", ValueError, "contain '' at position 1"),
    ],
)
def test_bad_pairs(tmp_path, text, error, message):
    with pytest.raises(error) as info:
        read_pairs(write(tmp_path / "p.csv", text), [[1, 2, 3]], ["drug"], "y")
    assert message in sentence(info)


def test_bad_weights_and_arguments(tmp_path):
    path = write(tmp_path / "p.csv", "drug,y,w,t\n1,5,-1,a\n2,6,1,b\n")
    with pytest.raises(ValueError, match="holds the weight -1"):
        read_pairs(path, [[1, 2]], ["drug"], "y", weight="w")
    with pytest.raises(ValueError, match="holds text in the weight column 't'"):
        read_pairs(path, [[1, 2]], ["drug"], "y", weight="t")
    with pytest.raises(ValueError, match="one column for each of the 1 tables"):
        read_pairs(path, [[1, 2]], "drug", "y")
    with pytest.raises(ValueError, match=r"\.csv or \.parquet"):
        read_pairs(write(tmp_path / "p.txt", "x"), [[1, 2]], ["drug"], "y")
    damaged = tmp_path / "p.parquet"
    write_parquet(damaged, drug=[1, 2], y=[1.0, 2.0])
    damaged.write_bytes(damaged.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"not a readable \.parquet file") as info:
        read_pairs(damaged, [[1, 2]], ["drug"], "y")
    sentence(info)
    write_parquet(damaged, drug=["imatinib", "sunitinib"], y=[1.0, 2.0])
    damaged.write_bytes(damaged.read_bytes().replace(b"sunitinib", b"\xff" * 9))
    with pytest.raises(ValueError, match=r"not a readable \.parquet file"):
        read_pairs(damaged, [["imatinib"]], ["drug"], "y")
    write_parquet(damaged, drug=[1, 2], y=[1.0, float("nan")])
    with pytest.raises(ValueError, match="column 'y', contains NaN"):
        read_pairs(damaged, [[1, 2]], ["drug"], "y")


@given(st.lists(st.one_of(st.integers(-99, 99), st.text(min_size=1, max_size=3)), min_size=1, max_size=20))
@settings(deadline=None)
def test_pair_table_finds_each_id_as_a_list_would(ids):
    mixed = np.array(ids, dtype=object)
    names = [str(i) for i in ids]
    if len(set(names)) < len(names):
        with pytest.raises(ValueError, match="and again at"):
            PairTable(mixed)
    else:
        wanted = mixed[::-1]
        assert PairTable(mixed).rows(wanted).tolist() == [names.index(str(i)) for i in wanted]


def test_pair_table_ids_of_several_types_are_the_same_id():
    table = PairTable([7, 8, 9], "drugs")
    assert len(table) == 3
    for ids in ([9, 7], ["9", "7"], [9.0, 7.0], [b"9", b"7"], np.array([9, 7], dtype=np.uint8)):
        assert table.rows(ids).tolist() == [2, 0]
    assert table.rows([]).tolist() == []
    with pytest.raises(UnknownNameError, match="'007' at position 0 is not among the 3 ids of drugs"):
        table.rows(["007"])
    with pytest.raises(UnknownNameError, match="Did you mean 'imatinib'"):
        PairTable(["imatinib", "sunitinib"]).rows(["imatinb"])
    for bad, message in [([], "empty"), ([1.5], "1.5 at position 0"), ([[1]], "shape"), (["a", None], "contain None")]:
        with pytest.raises(ValueError, match=message):
            PairTable(bad)
