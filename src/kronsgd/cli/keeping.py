"""Checkpoints of a run, under OUT/checkpoints: a folder for each seed's network, and what a search has chosen."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

from kronsgd import Checkpoint
from kronsgd.cli.config import Config
from kronsgd.cli.runfolder import CHECKPOINTS, write_json
from kronsgd.datasets.files import read_json
from kronsgd.exchange import ALONE
from kronsgd.training import CheckpointFolder, checkpoints_in

__all__ = ["Keeping", "digest_of", "read_keeping"]

EVERY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(steps?|min|minutes?|h|hours?)\s*")


@dataclass(frozen=True)
class Keeping:
    """How often, where, and whether to go on from what is there."""

    folder: Path
    steps: int | None
    minutes: float | None
    resume: bool

    def checkpoint(self, seed: int) -> Checkpoint:
        """Of the network with this seed."""
        return Checkpoint(self.folder / f"seed-{seed}", self.steps, self.minutes, self.resume)

    def newest(self, seed: int) -> str | None:
        """The checkpoint that this network goes on from, if all is well with it."""
        found = checkpoints_in(self.folder / f"seed-{seed}") if self.resume else []
        return found[0].name if found else None

    def searched(self, config: Config) -> dict[str, Any] | None:
        """The result of the same search, by the run that this one goes on from."""
        file = self.folder / "search.json"
        kept = read_json(file) if self.resume and file.is_file() else {}
        if not isinstance(kept, dict) or kept.get("of") != _search_of(config) or not isinstance(kept.get("result"), dict):
            return None
        return dict(kept["result"])

    def keep_search(self, config: Config, result: dict[str, Any]) -> None:
        """For `searched`, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / ".search.json"
        write_json(aside, {"of": _search_of(config), "result": result})
        os.replace(aside, self.folder / "search.json")

    def check_seeds(self, wanted: range) -> None:
        """ValueError where there are checkpoints of networks with other seeds, which would be forgotten."""
        others = [seed.name for seed in sorted(self.folder.glob("seed-*")) if seed.name not in {f"seed-{k}" for k in wanted}]
        if others:
            raise ValueError(
                f"{self.folder} holds checkpoints of {others[0]}, but random_state={wanted.start} and {len(wanted)} "
                f"network{'s' * (len(wanted) > 1)} ask for others; resume with the same, or give --force or another --out."
            )

    def clear(self) -> None:
        """Remove the checkpoints; files of others stay. BlockingIOError, and nothing removed, where a run is writing them."""
        seeds = [seed for seed in self.folder.glob("seed-*") if seed.is_dir()]  # rmtree would wait at a pipe for ever
        for seed in seeds:
            with CheckpointFolder.opened(seed, True, ALONE):
                pass
        for seed in seeds:
            shutil.rmtree(seed, ignore_errors=True)
        for name in ("search.json", ".search.json"):
            (self.folder / name).unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _search_of(config: Config) -> dict[str, Any]:
    raw = config.model_dump(mode="json", exclude={"checkpoint"})
    return {**raw, "model": {k: v for k, v in raw["model"].items() if k not in ("n_jobs", "memory_limit", "verbose")}}


def digest_of(config: Config) -> str:
    """Of the settings that decide what comes out, and of what is in the files that they name."""
    files = [table.file for table in config.tables.values()] + [config.validation.file]
    files += [] if config.pairs is None else [config.pairs.file]
    digest = blake2b(json.dumps(_search_of(config), sort_keys=True, default=str).encode(), digest_size=16)
    for file in files:
        if file is not None and Path(file).is_file():
            with Path(file).open("rb") as stream:
                digest.update(file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def read_keeping(config: Config, out: Path) -> Keeping | None:
    """What [checkpoint] asks for; None: nothing. ValueError for a time that cannot be read."""
    every, resume = config.checkpoint.every, config.checkpoint.resume
    if every is None:
        return Keeping(out / CHECKPOINTS, None, None, True) if resume else None
    match = EVERY.fullmatch(every)
    number, unit = match.groups() if match else ("0", "")
    if float(number) <= 0 or (unit.startswith("s") and not number.isdigit()):
        raise ValueError(
            f'--checkpoint-every {every!r} says no time; give more than 0, for example "10 min", "2 h" or "500 steps".'
        )
    if unit.startswith("s"):
        return Keeping(out / CHECKPOINTS, int(number), None, resume)
    return Keeping(out / CHECKPOINTS, None, float(number) * (60 if unit.startswith("h") else 1), resume)
