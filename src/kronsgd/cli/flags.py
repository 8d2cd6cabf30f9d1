"""Flags and TOML files as one tree of settings; flags win."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kronsgd.cli.config import KIND_OPTIONS
from kronsgd.cli.parameters import number_or_text
from kronsgd.validation import did_you_mean

__all__ = ["Flags", "merge", "read_toml", "split_flag", "table_flag"]


@dataclass
class Flags:
    """What was given on the command line; None or an empty list: not given."""

    dataset: str | None = None
    data: Path | None = None
    option: list[str] = field(default_factory=list)
    task: str | None = None
    table: list[str] = field(default_factory=list)
    pairs: Path | None = None
    target: str | None = None
    weight: str | None = None
    column: list[str] = field(default_factory=list)
    features: str | None = None
    test: Path | None = None
    test_fraction: float | None = None
    set_: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)
    folds: int | None = None
    seeds: int | None = None
    n_hidden: int | None = None
    batch_size: int | None = None
    memory_limit: str | None = None
    test_setting: str | None = None
    groups: str | None = None
    checkpoint_every: str | None = None
    resume: bool = False


def read_toml(path: Path | None) -> dict[str, Any]:
    """The settings in a TOML file, its relative paths made absolute from the folder it lies in. None: no settings."""
    if path is None:
        return {}
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; give the path of a TOML file, or flags only.")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # the message tells line and column
        raise ValueError(f"{path} is not valid TOML: {error}; correct that line.") from None
    tables = raw.get("tables")
    sections = [raw.get(name) for name in ("data", "pairs", "validation")]
    for section in [*sections, *(tables.values() if isinstance(tables, dict) else [])]:
        for key in ("path", "file"):
            if isinstance(section, dict) and isinstance(section.get(key), str):
                section[key] = str(path.resolve().parent / section[key])
    return raw


def merge(raw: dict[str, Any], flags: Flags) -> dict[str, Any]:
    """`raw` with what the flags say put over it. ValueError on a flag that cannot be read."""
    single = {
        ("data", "dataset"): flags.dataset, ("data", "path"): _absolute(flags.data), ("data", "task"): flags.task,
        ("pairs", "file"): _absolute(flags.pairs), ("pairs", "target"): flags.target, ("pairs", "weight"): flags.weight,
        ("pairs", "groups"): flags.groups, ("features", "expression"): flags.features,
        ("validation", "file"): _absolute(flags.test),
        ("validation", "fraction"): flags.test_fraction, ("validation", "setting"): flags.test_setting,
        ("search", "folds"): flags.folds,
        ("ensemble", "seeds"): flags.seeds,
        ("checkpoint", "every"): flags.checkpoint_every, ("checkpoint", "resume"): flags.resume or None,
        ("model", "n_hidden"): flags.n_hidden,
        ("model", "batch_size"): flags.batch_size, ("model", "memory_limit"): flags.memory_limit,
    }  # fmt: skip
    for name, text in (split_flag("--option", item) for item in flags.option):
        _section(raw, "data")[name] = text
    for name, text in (split_flag("--set", item) for item in flags.set_):
        _section(raw, "model")[name] = text
    for (section, key), value in single.items():  # after --set, over which a parameter's own flag wins
        if value is not None:
            _section(raw, section)[key] = value
    for name, text in (split_flag("--search", item) for item in flags.search):
        _section(raw, "search")[name] = [number_or_text(part.strip()) for part in text.split(",")]
    for name, table in (table_flag(item) for item in flags.table):
        _section(raw, "tables")[name] = table
    for name, column in (split_flag("--column", item) for item in flags.column):
        _section(_section(raw, "pairs"), "columns")[name] = column
    return raw


def split_flag(flag: str, text: str) -> tuple[str, str]:
    """`NAME=VALUE` as (name, value)."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise ValueError(f"{flag} {text!r} is not of the form NAME=VALUE; write for example {_example(flag)}.")
    return name.strip(), value.strip()


def table_flag(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME=FILE[:KIND[,OPTION=VALUE…]]` as (name, table section)."""
    name, rest = split_flag("--table", text)
    file, colon, tail = rest.rpartition(":")
    if not colon or "/" in tail or "\\" in tail:  # no kind, or the colon of C:\...
        return name, {"file": str(Path(rest).resolve())}
    kind, *options = tail.split(",")
    if kind not in KIND_OPTIONS:
        hint = did_you_mean(kind, KIND_OPTIONS)
        raise ValueError(f"--table {text!r} has the kind {kind!r}; the kinds are {list(KIND_OPTIONS)}.{hint}")
    given = dict(split_flag("--table", option) for option in options)
    return name, {"file": str(Path(file).resolve()), "kind": kind, **given}


def _example(flag: str) -> str:
    examples = {"--table": "drug=drugs.npz:kernel", "--column": "drug=drug_id", "--set": "n_hidden=4096"}
    return "drug=D5" if flag == "TABLE=ID" else f"{flag} {examples.get(flag, 'drug_power=2')}"


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _section(raw: dict[str, Any], name: str) -> dict[str, Any]:
    section = raw.setdefault(name, {})
    if not isinstance(section, dict):
        raise ValueError(f"{name}={section!r} is not a section; write [{name}] and its keys below.")
    return section
