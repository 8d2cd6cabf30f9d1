"""Digests of data: the same for the same data wherever they lie, another for any other."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from kronsgd import Dense, OneHot
from kronsgd.features import mapped
from kronsgd.features.mapped import MappedRows
from kronsgd.training import fingerprint

pytestmark = pytest.mark.usefixtures("one_thread")
ROWS = np.random.default_rng(0).standard_normal((50, 3))


def test_any_change_gives_another():
    base, index = Dense(ROWS), np.arange(10)
    changed = ROWS.copy()
    changed[7, 1] = np.nextafter(changed[7, 1], 9)
    others = [
        (base[index], None), (base[index], np.ones(3)), (base[index], np.ones(3, np.float32)), (base[index], np.ones((3, 1))),
        (base[index], ["a", "b"]), (base[index], np.array(["a", "c"], dtype=object)), (base[index], np.ones(3), np.ones(3)),
        (base[index + 1], None), (base[index] * base[index], None), (Dense(changed)[index], None), (Dense(ROWS[:10]), None),
        (OneHot(index), None), (ROWS, None), (np.zeros((0, 3)), None), (np.float64(3), None),
    ]  # fmt: skip
    assert len({fingerprint(*values) for values in others}) == len(others)
    assert fingerprint(base[index], np.ones(3)) == fingerprint(Dense(ROWS.copy())[index], np.ones(3))


def test_a_table_in_a_file_has_that_of_one_in_memory_and_is_never_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "IN_MEMORY", 0)
    monkeypatch.setattr(mapped, "CHUNK", 1 << 10)
    monkeypatch.setitem(fingerprint.__globals__, "CHUNK", 1 << 18)
    array = np.random.default_rng(0).standard_normal((10_000, 100))  # 8 MB
    np.save(tmp_path / "table.npy", array)
    table, twin = Dense(np.load(tmp_path / "table.npy", mmap_mode="r")), Dense(array)
    assert isinstance(table.array, MappedRows)
    tracemalloc.start()
    digest = fingerprint(table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert digest == fingerprint(twin)
    assert peak < 4e6
