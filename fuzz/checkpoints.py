"""The harness of checkpoints: a zip of a folder's files, from which a small fit goes on, falls back, or is refused.

Digests would hide all that lies behind them. So each input is tried as it is, where nothing that is damaged may be used; with
descriptions' digests made right; and with shards' sizes and digests made right, too, as someone with bad intentions would.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

import kronsgd as ks
from fuzz import promise as promises
from fuzz.promise import Broken
from kronsgd.training import checkpoints_in
from kronsgd.training.checkpoint_folder import described
from kronsgd.training.shardfile import DIGEST

__all__ = ["CASES", "LINK", "PIPE", "checkpoint", "fit"]

SMALL: dict[str, Any] = {
    "n_hidden": 6, "n_jobs": 1, "random_state": 0, "max_iter": 3, "batch_size": 4, "learning_rate_init": 5.0,
    "output_scale": 0.3, "memory_limit": "200 MiB", "threshold": 0.3,
}  # fmt: skip
EARLY = {"early_stopping": True, "n_iter_no_change": 1, "validation_fraction": 0.3}
CASES: dict[str, dict[str, Any]] = {
    **{engine: {"engine": engine, "alpha": 0.01} for engine in ("scan", "grid", "tree", "eager", "dense", "torch")},
    "early": {"engine": "tree", **EARLY}, "early-grid": {"engine": "grid", **EARLY},
    "auto": {"learning_rate_init": "auto", "max_iter": "auto", "random_state": None},
    "two-shards": {"engine": "grid", "train_output": True}, "two-shards-scan": {"engine": "scan", **EARLY},
}  # fmt: skip
NAMES = re.compile(r"\.lock|\.?step-\d{12}(-end)?(/(checkpoint\.json|shard-\d{5}-of-\d{5}\.kron))?")
LINK, PIPE, FOLDER = b"@LINK@", b"@PIPE@", b"@FOLDER@"  # contents that stand for something else than a file
MOST_FILES, MOST_BYTES = 20, 1 << 20
Files = dict[str, bytes]


def rows() -> tuple[ks.Features, Any]:
    """12 pairs of 3 and 5 entities and their targets, of numbers that are the same everywhere."""
    rng = np.random.default_rng(0)
    a, b = (ks.Dense(rng.integers(-4, 5, (k, 2)) / 4) for k in (3, 5))
    return (1 + a[np.arange(12) % 3]) * (1 + b[np.arange(12) % 5]), rng.integers(-8, 9, 12) / 4


def fit(case: str, checkpoint: ks.Checkpoint | None) -> ks.KronRegressor:
    """The fit of a case, from the start or a checkpoint."""
    np.random.seed(0)  # noqa: NPY002 (from which random_state=None draws)
    return ks.KronRegressor(**{**SMALL, **CASES[case]}).fit(*rows(), checkpoint=checkpoint)


@functools.cache
def _undisturbed(case: str) -> list[float]:
    return fit(case, None).loss_curve_


def checkpoint(data: bytes) -> None:
    """A zip with the name of a case, and a folder's files."""
    files = _unpacked(data)
    case = files.pop("case", b"").decode("latin1")
    if case not in CASES or (case == "torch" and importlib.util.find_spec("torch") is None):
        return
    versions = [files, _described(files, shards=False), _described(files, shards=True)]
    for k, version in enumerate(versions):
        if version not in versions[:k]:
            with promises.promise(ValueError, OSError) as folder:
                _go_on(case, version, folder, as_it_is=k == 0)


def _unpacked(data: bytes) -> Files:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            known = [i for i in archive.infolist() if i.filename == "case" or NAMES.fullmatch(i.filename)][:MOST_FILES]
            return {info.filename: archive.read(info) for info in known if info.file_size < MOST_BYTES}
    except Exception:  # the harness's own container
        return {}


def _described(files: Files, shards: bool) -> Files:
    """The same files with descriptions that have their own digests, and those of the shards there are."""
    out = dict(files)
    for name in files:
        folder, _, last = name.rpartition("/")
        if last != "checkpoint.json":
            continue
        try:
            meta = json.loads(files[name])
            meta.pop("digest", None)
            for k in range(len(meta["shards"]) if shards else 0):
                content = files.get(f"{folder}/shard-{k:05d}-of-{len(meta['shards']):05d}.kron")
                if content is not None:
                    meta["shards"][k] = [len(content), blake2b(content, digest_size=DIGEST).hexdigest()]
            out[name] = described(meta)
        except Exception:  # nothing that could have a digest
            continue
    return out


def _write(files: Files, folder: Path, outside: Path) -> None:
    for name, content in files.items():
        path = folder / name
        try:
            path.parent.mkdir(exist_ok=True)
            if content.startswith(LINK):
                path.symlink_to(outside if content.endswith(b"/") else outside / "precious")
            elif content.startswith(PIPE):
                os.mkfifo(path)
            elif content.startswith(FOLDER) or not (path.name == ".lock" or path.suffix):
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(content)
        except (FileExistsError, NotADirectoryError):  # a name both of a file and of a folder
            continue


@contextmanager
def _outside(folder: Path) -> Iterator[Path]:
    """A folder that nothing may touch."""
    path = folder / "outside"
    path.mkdir()
    (path / "precious").write_bytes(b"mine")
    try:
        yield path
    finally:
        if [p.name for p in path.iterdir()] != ["precious"] or (path / "precious").read_bytes() != b"mine":
            raise Broken("something outside the folder was changed")


@contextmanager
def _no_waiting_for_the_disk() -> Iterator[None]:
    known, os.fsync = os.fsync, lambda handle: None
    try:
        yield
    finally:
        os.fsync = known


def _go_on(case: str, files: Files, folder: Path, as_it_is: bool) -> None:
    """Fit; then what came out can be used, and the folder gives it once more."""
    path = folder / "c"
    path.mkdir()
    going_on = ks.Checkpoint(path, steps=4)
    with _outside(folder) as outside, _no_waiting_for_the_disk():
        _write(files, path, outside)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            model = fit(case, going_on)
        for warning in told:
            promises.check_message(Warning(str(warning.message)))
        if as_it_is and not np.allclose(model.loss_curve_, _undisturbed(case), rtol=1e-3):
            raise Broken("a damaged checkpoint was used: the fit has come to something else than an undisturbed one")
        try:
            _use(case, model, going_on, folder)
        except (ValueError, OSError) as error:
            raise Broken("what a checkpoint became cannot be used") from error


def _use(case: str, model: ks.KronRegressor, going_on: ks.Checkpoint, folder: Path) -> None:
    X, _ = rows()
    answers = model.predict(X)
    if not np.isfinite(answers).all():
        raise Broken("the model's answers are not finite")
    model.save(folder / "model.kron")
    if not np.array_equal(ks.load(folder / "model.kron").predict(X), answers):
        raise Broken("the model predicts something else after it was saved and loaded")
    if not checkpoints_in(Path(going_on.folder))[0].name.endswith("-end"):
        raise Broken("the newest checkpoint is not that of the end")
    fit(case, going_on).save(folder / "again.kron")
    if (folder / "again.kron").read_bytes() != (folder / "model.kron").read_bytes():
        raise Broken("the folder gives another model than the fit that filled it")
