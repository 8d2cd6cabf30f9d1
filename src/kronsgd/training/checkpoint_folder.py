"""A folder of checkpoints: each is whole or not there, however a run ends, and no two runs write into the same folder.

    folder/step-000000001000/shard-00000-of-00002.kron      each rank's arrays (safetensors)
    folder/step-000000001000/shard-00001-of-00002.kron
    folder/step-000000001000/checkpoint.json                written last: everything else, and the shards' sizes and digests

A checkpoint is written into .step-…, flushed to the disk and renamed; then older ones go, but for the last good one before it.
Nothing in a file names another file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import reprlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.engines import ENGINES
from kronsgd.exchange import Exchange
from kronsgd.training.shardfile import DIGEST, flush_folder, flush_to_disk, open_regular, read_shard, write, write_shard
from kronsgd.validation import brief, check_integer

__all__ = ["FORMAT", "CheckpointFolder", "Found", "checkpoints_in"]

Array = NDArray[Any]
FORMAT = 1
NAME = "checkpoint.json"
STEP = re.compile(r"step-(\d{12})(-end)?")
KEPT = 2  # good checkpoints: the newest, and one in case that is found damaged
MOST_JSON = 1 << 28  # bytes
MOST_RANKS = 64


@dataclass(frozen=True)
class Found:
    """A checkpoint whose description is whole."""

    path: Path
    meta: dict[str, Any]

    @property
    def step(self) -> int:
        """Steps that the run had taken."""
        return int(self.meta["step"])

    @property
    def configuration(self) -> dict[str, Any]:
        """What must be the same; empty where there is nothing of the kind."""
        its = self.meta.get("configuration")
        return its if isinstance(its, dict) else {}

    def chosen(self) -> tuple[int | None, str | None]:
        """The seed that was drawn and the engine that was chosen; None where the file names none that can have been."""
        network, engine = self.configuration.get("network"), self.configuration.get("engine_")
        seed = network.get("seed") if isinstance(network, dict) else None
        known = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32
        chosen = isinstance(engine, str) and engine in ENGINES and engine != "torch"  # which is taken only when asked for
        return (seed if known else None), (engine if chosen else None)

    def shards(self, rank: int, size: int) -> list[dict[str, Array]]:
        """The arrays of all shards in order, or of this rank's own if there are as many as ranks. ValueError where damaged."""
        known = self.meta["shards"]
        chosen = [rank] if len(known) == size else range(len(known))
        return [read_shard(self.path / shard_name(k, len(known)), *known[k]) for k in chosen]


def shard_name(rank: int, size: int) -> str:
    """`shard-00000-of-00002.kron`."""
    return f"shard-{rank:05d}-of-{size:05d}.kron"


def checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoints, the newest first; links are none."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if STEP.fullmatch(p.name) and p.is_dir() and not p.is_symlink()), reverse=True)


class CheckpointFolder:
    """A folder that this run alone may write to, on all ranks of an exchange."""

    def __init__(self, path: Path, exchange: Exchange) -> None:
        self.path, self.exchange = path, exchange
        self.good: list[str] = []  # names of checkpoints that were read or written whole
        self._told: set[str] = set()  # of which there was a warning

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path, resume: bool, exchange: Exchange) -> Iterator[CheckpointFolder]:
        """Made where it is missing, and locked. ValueError or BlockingIOError where this run may not use it."""
        folder = cls(path, exchange)
        with contextlib.ExitStack() as stack:
            folder.on_first_rank(lambda: folder._take(resume, stack))
            yield folder
            folder.exchange.barrier()  # before the lock goes

    def _take(self, resume: bool, stack: contextlib.ExitStack) -> None:
        from filelock import FileLock, Timeout  # here, for it takes a while to import

        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; give a folder for the checkpoints.")
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self.path / ".lock"
        if lock.is_symlink() or (lock.exists() and not lock.is_file()):
            raise ValueError(f"{lock} is not a plain file; remove it, or give another folder.")
        try:
            stack.enter_context(FileLock(lock, timeout=0))
        except Timeout:
            raise BlockingIOError(
                f"another process is writing checkpoints to {self.path}; wait for it or end it, or give another folder."
            ) from None
        for left in self.path.glob(".step-*"):  # by a process that was ended while writing
            if STEP.fullmatch(left.name[1:]):
                _remove(left)
        known = checkpoints_in(self.path)
        if known and not resume:
            raise ValueError(
                f"{self.path} holds checkpoints, the newest {known[0].name}; go on from them with resume=True (--resume on "
                "the command line), or give another folder."
            )

    def on_first_rank(self, action: Callable[[], Any]) -> Any:
        """What the action gives on rank 0 (of what JSON holds), on every rank; its OSError or ValueError, too."""
        error: Exception | None = None
        value = None
        if self.exchange.rank == 0:
            try:
                value = action()
            except (OSError, ValueError) as raised:
                error = raised
        failed, value = self.exchange.broadcast([None if error is None else [type(error).__name__, str(error)], value])
        if error is not None:
            raise error
        if failed is not None:
            raise {"ValueError": ValueError}.get(failed[0], OSError)(failed[1])
        return value

    # Reading -----------------------------------------------------------------------------------------------------------

    def candidates(self) -> Iterator[Found]:
        """Checkpoints whose descriptions are whole, the newest first, with a warning of each that is not.

        ValueError at the end: whoever needs none of them has found nothing to go on with. None at all: nothing is raised.
        """
        names = self.on_first_rank(lambda: [path.name for path in checkpoints_in(self.path)])
        for name in names:
            try:
                meta = self.on_first_rank(lambda name=name: read_meta(self.path / name))  # type: ignore[misc]
            except Damaged as error:
                self.warn(name, error)
                continue
            yield Found(self.path / name, meta)
        if names:
            raise ValueError(
                f"no checkpoint in {self.path} is whole, of {len(names)}; take the files from a copy, or start anew in another "
                "folder."
            )

    def warn(self, name: str, error: Exception) -> None:
        """Say that a checkpoint cannot be used."""
        if self.exchange.rank == 0 and name not in self._told:
            self._told.add(name)
            why = brief(error)
            oldest = [path.name for path in checkpoints_in(self.path)][-1:]
            then = "" if name in oldest else "; trying the one before"
            warnings.warn(f"the checkpoint {self.path / name} is damaged ({why}){then}.", stacklevel=2)

    # Writing -----------------------------------------------------------------------------------------------------------

    def write(self, step: int, end: bool, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
        """Write a checkpoint, on all ranks. OSError where some rank cannot; the folder is then as it was."""
        name = f"step-{step:012d}" + "-end" * end
        aside, rank, size = self.path / f".{name}", self.exchange.rank, self.exchange.size
        try:
            self.on_first_rank(aside.mkdir)
            own = self._write_shard(aside / shard_name(rank, size), arrays)
            shards = self.exchange.collect(own)
            self.on_first_rank(lambda: self._finish(aside, name, {**meta, "step": step}, shards or []))
        except OSError as error:
            last = f"the last good checkpoint there is {self.good[-1]}" if self.good else "there is none yet"
            told = OSError(
                f"the checkpoint of step {step:,} could not be written to {self.path} ({error.strerror or error}); {last}. "
                "Make room or mend the disk, and resume."
            )
            told.errno = error.errno
            raise told from error
        finally:
            if rank == 0 and os.path.lexists(aside):
                with contextlib.suppress(OSError):
                    _remove(aside)
        self.good = [*(old for old in self.good if old != name), name][-KEPT:]
        if rank == 0:
            for old in checkpoints_in(self.path):
                if old.name not in self.good:
                    shutil.rmtree(old, ignore_errors=True)  # a folder, as `checkpoints_in` says

    def _write_shard(self, path: Path, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The shard's size and digest, or why there is none, as arrays that ranks can send."""
        try:
            size, digest = write_shard(path, arrays)
            return {"size": np.array([size]), "digest": np.frombuffer(bytes.fromhex(digest), np.uint8)}
        except OSError as error:
            if self.exchange.size == 1:
                raise
            reason = (error.strerror or str(error)).encode()
            return {"failed": np.frombuffer(reason, np.uint8), "size": np.array([error.errno or 0])}

    def _finish(self, aside: Path, name: str, meta: dict[str, Any], shards: list[dict[str, Array]]) -> None:
        """Describe the shards, and give the checkpoint its name."""
        failed = next((shard for shard in shards if "failed" in shard), None)
        if failed is not None:
            raise OSError(int(failed["size"][0]), failed["failed"].tobytes().decode())
        known = [[int(shard["size"][0]), shard["digest"].tobytes().hex()] for shard in shards]
        with (aside / NAME).open("xb") as file:
            write(file, described({**meta, "format": FORMAT, "shards": known}))
            flush_to_disk(file)
        flush_folder(aside)
        target = self.path / name
        if os.path.lexists(target):  # of a run that went on from an earlier one: this one is damaged, or the same
            _remove(target)
        os.rename(aside, target)
        flush_folder(self.path)


def _remove(path: Path) -> None:
    """Whatever is there. rmtree would open a pipe, and wait for someone to write to it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


class Damaged(ValueError):
    """A checkpoint is not as it was written."""


def described(meta: dict[str, Any]) -> bytes:
    """JSON with a digest of itself."""
    return json.dumps({**meta, "digest": _digest(meta)}, allow_nan=False).encode()


def read_meta(path: Path) -> dict[str, Any]:
    """What `described` was given. Damaged where it is not; ValueError for another format."""
    try:
        with open_regular(path / NAME) as file:
            text = file.read(MOST_JSON + 1)
        if len(text) > MOST_JSON:
            raise ValueError(f"{NAME} has more than {MOST_JSON:,} bytes")
        meta = json.loads(text)
        if not isinstance(meta, dict):
            raise ValueError(f"{NAME} holds no description")
        found = meta.get("format")
    except (ValueError, RecursionError, OSError) as error:
        raise Damaged(str(error)) from None
    if isinstance(found, int) and found != FORMAT:
        raise ValueError(
            f"{path} has format {reprlib.repr(found)}; this version of kronsgd reads format {FORMAT}: go on with the version "
            "that wrote it, or start anew in another folder."
        )
    try:
        if meta.pop("digest", None) != _digest(meta) or found != FORMAT:
            raise ValueError(f"{NAME} is not as it was written")
        step, named = check_integer("step", meta["step"], 0, 10**12 - 1), STEP.fullmatch(path.name)
        if named is not None and int(named[1]) != step:
            raise ValueError(f"{NAME} is of step {step}")
        shards = meta["shards"]
        if not isinstance(shards, list) or not 1 <= len(shards) <= MOST_RANKS:
            raise ValueError(f"{NAME} names no shards")
        for size, digest in shards:
            check_integer("size", size, 0, 2**63)
            if not isinstance(digest, str) or len(digest) != 2 * DIGEST:
                raise ValueError(f"{NAME} has no digest of a shard")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(str(error)) from None
    return meta


def _digest(meta: Mapping[str, Any]) -> str:
    text = json.dumps(meta, allow_nan=False)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST).hexdigest()
