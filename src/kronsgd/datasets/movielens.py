"""MovieLens ratings in any of the layouts in which GroupLens publishes them; nothing is downloaded."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.datasets.files import damaged, existing_file

__all__ = ["Ratings", "load_movielens"]

Array = NDArray[Any]
Index = NDArray[np.int64]
logger = logging.getLogger(__name__)
NO_GENRE = "(no genres listed)"
FLAGS = 19  # genre columns at the end of a line of u.item
LAYOUTS = {"u.data": "ml-100k", "ratings.dat": "ml-1m or ml-10m", "ratings.csv": "ml-latest, ml-20m, ml-25m or ml-32m"}


@dataclass(frozen=True, eq=False)
class Ratings:
    """Ratings of items by users, and what is known of both.

    Shape: user, item (n,) row numbers of the tables; y (n,) stars; time (n,) seconds since 1970; user_ids (users,),
    item_ids (items,); genres (items, G) 0 or 1 with their names; people (users, P) 0 or 1 for gender, age group and
    occupation, with their names, and P = 0 where the set does not say. Items that no one has rated are kept.
    """

    user: Index
    item: Index
    y: Array
    time: Index
    user_ids: Index
    item_ids: Index
    titles: list[str]
    genres: Array
    genre_names: list[str]
    people: Array
    people_names: list[str]


def load_movielens(folder: str | PathLike[str]) -> Ratings:
    """Read ml-100k (u.data, u.item, u.user), ml-1m and ml-10m (*.dat), or ml-latest-small, ml-20m and later (*.csv).

    Raises FileNotFoundError where there is no such folder or file, ValueError with file and line where one is damaged.
    Source: Harper and Konstan 2015, ACM TiiS 5, 19.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the folder of an unpacked MovieLens set.")
    name = next((name for name in LAYOUTS if (folder / name).exists()), None)
    if name is None:
        raise FileNotFoundError(
            f"{folder} holds none of {list(LAYOUTS)}; give the folder of an unpacked MovieLens set, such as ml-100k, in "
            "which one of them lies."
        )
    read: dict[str, tuple[Callable[[Path], _Movies], Callable[[Path], _People | None]]] = {
        "u.data": (_item_file, _user_file), "ratings.dat": (_movies_dat, _users_dat), "ratings.csv": (_movies_csv, _nobody),
    }  # fmt: skip
    numbers = _rating_numbers(folder / name)
    movies, people = read[name][0](folder), read[name][1](folder)
    out = _assembled(folder / name, numbers, movies, people)
    logger.info("read %d ratings of %d items by %d users from %s", len(out.y), len(out.titles), len(out.user_ids), folder)
    return out


# Lines -----------------------------------------------------------------------------------------------------------------

_Movies = dict[int, tuple[str, list[str]]]  # id -> (title, genres)
_People = dict[int, list[str]]  # id -> traits


def _lines(path: Path, separator: str, fields: int) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each line; the older sets are written in Latin-1."""
    with existing_file(path).open(encoding="latin-1", newline=None) as stream:
        for number, line in enumerate(stream, start=1):
            parts = line.rstrip("\r\n").split(separator)
            if len(parts) < fields:
                raise damaged(path, f"has {len(parts)} fields instead of {fields} in line {number}")
            yield number, parts


def _table(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each line of a csv file after its header."""
    with existing_file(path).open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        try:
            width = len(next(reader))
            for parts in reader:
                if len(parts) != width:
                    raise damaged(path, f"has {len(parts)} fields instead of {width} in line {reader.line_num}")
                yield reader.line_num, parts
        except (UnicodeDecodeError, csv.Error) as error:
            raise damaged(path, f"is not a csv file in UTF-8 ({error})") from error


def _whole(path: Path, number: int, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise damaged(path, f"has {text!r} in line {number}, where a whole number belongs") from None


# Ratings ---------------------------------------------------------------------------------------------------------------


def _rating_numbers(path: Path) -> Array:
    """(user, item, stars, time) of each line. Shape: (n, 4), float64."""
    separator = {"u.data": "\t", "ratings.dat": "::", "ratings.csv": ","}[path.name]
    rows = _table(path) if separator == "," else _lines(path, separator, 4)
    values: list[float] = []
    for number, parts in rows:
        try:
            values += map(float, parts[:4])
        except ValueError:
            raise damaged(path, f"has {parts[:4]} in line {number}, where four numbers belong") from None
        if len(parts) != 4 or not 0.5 <= values[-2] <= 5:
            raise damaged(path, f"has {parts} in line {number}, where user, item, 0.5 to 5 stars and a time belong")
    if not values:
        raise damaged(path, "holds no rating")
    return np.array(values).reshape(-1, 4)


# Movies and people -----------------------------------------------------------------------------------------------------


def _item_file(folder: Path) -> _Movies:
    path, out = folder / "u.item", {}
    names = [parts[0] for _, parts in _lines(folder / "u.genre", "|", 1) if parts[0]] if (folder / "u.genre").exists() else []
    names = names if len(names) == FLAGS else [f"genre {k}" for k in range(FLAGS)]
    for number, parts in _lines(path, "|", 5 + FLAGS):
        flags = parts[-FLAGS:]
        out[_whole(path, number, parts[0])] = parts[1], [n for n, flag in zip(names, flags, strict=True) if flag == "1"]
    return out


def _movies_dat(folder: Path) -> _Movies:
    path = folder / "movies.dat"
    return {_whole(path, k, parts[0]): (parts[1], _genres(parts[-1])) for k, parts in _lines(path, "::", 3)}


def _movies_csv(folder: Path) -> _Movies:
    path = folder / "movies.csv"
    return {_whole(path, k, parts[0]): (parts[1], _genres(parts[-1])) for k, parts in _table(path)}


def _genres(text: str) -> list[str]:
    return [] if text == NO_GENRE else text.split("|")


def _user_file(folder: Path) -> _People:
    path = folder / "u.user"
    return {
        _whole(path, k, parts[0]): _traits(_whole(path, k, parts[1]), parts[2], parts[3]) for k, parts in _lines(path, "|", 5)
    }


def _users_dat(folder: Path) -> _People | None:
    path = folder / "users.dat"
    if not path.exists():  # ml-10m has none
        return None
    return {
        _whole(path, k, parts[0]): _traits(_whole(path, k, parts[2]), parts[1], parts[3]) for k, parts in _lines(path, "::", 5)
    }


def _nobody(folder: Path) -> _People | None:
    return None


def _traits(age: int, gender: str, occupation: str) -> list[str]:
    """Age groups as ml-1m has them."""
    group = max((low for low in (18, 25, 35, 45, 50, 56) if age >= low), default=1)
    return [f"gender {gender}", f"age from {group}", f"occupation {occupation}"]


# Together --------------------------------------------------------------------------------------------------------------


def _assembled(path: Path, numbers: Array, movies: _Movies, people: _People | None) -> Ratings:
    item_ids = np.array(sorted(movies), dtype=np.int64)
    user_ids = np.unique(numbers[:, 0]).astype(np.int64) if people is None else np.array(sorted(people), dtype=np.int64)
    genres, genre_names = _indicators([movies[i][1] for i in item_ids.tolist()])
    traits, people_names = _indicators([people[i] if people else [] for i in user_ids.tolist()])
    return Ratings(
        _rows(path, "user", user_ids, numbers[:, 0]), _rows(path, "item", item_ids, numbers[:, 1]), numbers[:, 2],
        numbers[:, 3].astype(np.int64), user_ids, item_ids, [movies[i][0] for i in item_ids.tolist()], genres, genre_names,
        traits, people_names,
    )  # fmt: skip


def _rows(path: Path, what: str, ids: Index, wanted: Array) -> Index:
    """Row number of each id. ValueError on one that its own table does not have."""
    places = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    unknown = np.flatnonzero(ids[places] != wanted)
    if len(unknown):
        raise damaged(path, f"rates with the {what} {wanted[unknown[0]]:g}, which the table of {what}s does not have")
    return places.astype(np.int64)


def _indicators(names: Iterable[list[str]]) -> tuple[Array, list[str]]:
    """0 or 1 for each name. Shape: (rows, names)."""
    names = list(names)
    columns = sorted({name for row in names for name in row})
    number = {name: k for k, name in enumerate(columns)}
    out = np.zeros((len(names), len(columns)), dtype=np.float32)
    for k, row in enumerate(names):
        out[k, [number[name] for name in row]] = 1
    return out, columns
