"""MovieLens, from small files in each of its layouts."""

from __future__ import annotations

import numpy as np
import pytest

from kronsgd.datasets import load_movielens

FLAGS = lambda *on: "|".join("1" if k in on else "0" for k in range(19))  # noqa: E731
ML_100K = {
    "u.data": "196\t242\t3\t881250949\n22\t7\t1\t878887116\n196\t7\t5\t878887117\n",
    "u.item": f"7|Café (1995)|01-Jan-1995||url|{FLAGS(1, 5)}\n242|Kolya (1996)|24-Jan-1997||url|{FLAGS()}\n",
    "u.genre": "\n".join(f"{name}|{k}" for k, name in enumerate(["unknown", "Action", *"cdefghijklmnopqrs"])) + "\n\n",
    "u.user": "22|25|M|writer|40206\n196|49|F|doctor|55105\n",
}
ML_1M = {
    "ratings.dat": "196::242::3::881250949\n22::7::1::878887116\n196::7::5::878887117\n",
    "movies.dat": "7::Café (1995)::Action|f\n242::Kolya (1996)::Drama\n",
    "users.dat": "22::M::25::10::48067\n196::F::45::16::70072\n",
}
ML_LATEST = {
    "ratings.csv": "userId,movieId,rating,timestamp\n196,242,3.0,881250949\n22,7,1.0,878887116\n196,7,5.0,878887117\n",
    "movies.csv": 'movieId,title,genres\n7,"Café, The (1995)",Action|f\n242,Kolya (1996),(no genres listed)\n',
}
SETS = {"ml-100k": ML_100K, "ml-1m": ML_1M, "ml-latest": ML_LATEST}


def write(folder, files):
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8" if name.endswith("csv") else "latin-1")
    return folder


@pytest.mark.parametrize("name", SETS)
def test_every_layout_is_read(name, tmp_path):
    read = load_movielens(write(tmp_path, SETS[name]))
    np.testing.assert_array_equal(read.user_ids[read.user], [196, 22, 196])
    np.testing.assert_array_equal(read.item_ids[read.item], [242, 7, 7])
    np.testing.assert_array_equal(read.y, [3, 1, 5])
    assert read.time[0] == 881250949
    assert read.titles[0].startswith("Café")
    action = read.genres[:, read.genre_names.index("Action")]
    np.testing.assert_array_equal(action, [1, 0])
    if name == "ml-latest":
        assert read.people.shape == (2, 0)
    else:
        assert [read.people_names[k] for k in np.flatnonzero(read.people[1])][:2] == ["age from 45", "gender F"]


@pytest.mark.parametrize("name", SETS)
def test_an_optional_table_may_be_missing(name, tmp_path):
    files = {key: text for key, text in SETS[name].items() if key not in ("u.genre", "users.dat")}
    assert len(load_movielens(write(tmp_path, files)).y) == 3


@pytest.mark.parametrize(("name", "file", "text", "said"), [
    ("ml-100k", "u.data", "1\t2\t3\n", "3 fields instead of 4 in line 1"),
    ("ml-100k", "u.data", "196\t242\t9\t1\n", "0.5 to 5 stars"),
    ("ml-100k", "u.data", "196\tx\t3\t1\n", "four numbers belong"),
    ("ml-100k", "u.data", "196\t8\t3\t1\n", "item 8, which the table of items does not have"),
    ("ml-100k", "u.user", "a|25|M|writer|1\n", "'a' in line 1"),
    ("ml-1m", "users.dat", "22::M::25::10::48067\n", "user 196, which the table of users"),
    ("ml-latest", "ratings.csv", "userId,movieId,rating,timestamp\n", "holds no rating"),
    ("ml-latest", "ratings.csv", "userId,movieId,rating,timestamp\n1,2,3\n", "3 fields instead of 4 in line 2"),
    ("ml-latest", "movies.csv", "", "is empty"),
])  # fmt: skip
def test_damaged_files_are_named(name, file, text, said, tmp_path):
    write(tmp_path, {**SETS[name], file: text})
    with pytest.raises(ValueError, match=said) as error:
        load_movielens(tmp_path)
    assert file in str(error.value) or "ratings.dat" in str(error.value)


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load_movielens(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds none of \['u.data'"):
        load_movielens(tmp_path)
    (tmp_path / "ratings.csv").write_text("a,b,c,d\n1,2,3,4\n")
    with pytest.raises(FileNotFoundError, match=r"movies\.csv does not exist"):
        load_movielens(tmp_path)
