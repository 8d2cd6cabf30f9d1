"""`python -m fuzz.seeds`: small whole inputs for each target, as corpus/NAME/seed-*; none holds anything drawn by a clock."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from safetensors.numpy import save

import kronsgd as ks
from fuzz.checkpoints import CASES, fit
from kronsgd.cli.runfolder import write_tables
from kronsgd.cli.tables import Table
from kronsgd.engines.shards import part
from kronsgd.modelfile import KEY, read_model
from kronsgd.training import Keeper, checkpoints_in
from kronsgd.training.checkpoint_folder import NAME, described, read_meta, shard_name
from kronsgd.training.shardfile import read_shard, write_shard

CORPUS = Path(__file__).parent / "corpus"
OPTIONS: dict[str, Any] = {
    "n_hidden": 6, "n_jobs": 1, "random_state": 0, "max_iter": 2, "batch_size": 4, "learning_rate_init": 5.0,
    "output_scale": 0.3, "engine": "scan", "memory_limit": "64 MiB", "threshold": 0.3,
}  # fmt: skip
N = 8


def _kernel() -> ks.Kernel:
    known = ks.Kernel(np.eye(4) + 0.5)
    return known.append_entities(known.new_entities(np.full((1, 4), 0.4), 1.5))


def _leaves(rng: np.random.Generator) -> dict[str, ks.Features]:
    return {
        "dense": ks.Dense(rng.normal(size=(N, 2)), center=True, scale=True),
        "float32": ks.Dense(rng.normal(size=(N, 2)).astype("f4")),
        "sparse": ks.Sparse(sp.random(N, 5, 0.5, random_state=0)), "onehot": ks.OneHot(np.arange(N) % 3, 4),
        "kernel": _kernel()[np.arange(N) % 5], "rbf": ks.RBF(rng.normal(size=(4, 2)))[np.arange(N) % 4],
        "tanimoto": ks.Tanimoto(rng.integers(0, 2, (N, 4)).astype(float)),
        "lowrank": ks.LowRank(rng.normal(size=(N, 2)), rng.normal(size=(2, 5))),
        "spectrum": ks.Spectrum(["abab", "abba", "baab", "bbbb"] * 2, 2, idf=True),
        "weighted": 0.3 * ks.Dense(rng.normal(size=(N, 2))),
        "categories": ks.Categories({"x": ["u", "v"] * 4, "y": [1, 2, 3, 4] * 2}),
        "patches": ks.Patches(rng.normal(size=(N, 4, 4)), 3, n_filters=3, n_places=2, center=True),
        "bag-dense": ks.Bag(ks.Dense(rng.normal(size=(9, 2))), np.arange(9) % N),
        "bag-items": ks.Bag(ks.RBF(rng.normal(size=(9, 2))), np.arange(9) % N),
        "bag-sparse": ks.Bag(ks.OneHot(np.arange(9)), np.arange(9) % N, form="sparse", normalize=True),
    }  # fmt: skip


def models() -> dict[str, bytes]:
    """A model for each engine, and for each few kinds of leaf."""
    rng = np.random.default_rng(0)
    i, j = np.arange(N) % 3, np.arange(N) % 5
    pairs = (1 + ks.Dense(rng.normal(size=(3, 2)))[i]) * (0.5 * ks.OneHot(np.arange(5))[j] + 1)
    leaves = list(_leaves(rng).items())
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        **{engine: (pairs, {"engine": engine, "alpha": 0.01}) for engine in ("scan", "grid", "tree", "eager", "dense")},
        "gaussian": (pairs, {"init": "gaussian", "dtype": "float64"}), "rank": (pairs, {"init_rank": 3, "engine": "grid"}),
        "bfloat16": (pairs, {"coefficient_dtype": "bfloat16", "threshold": 0.0}),
        "networks": (pairs, {"n_networks": 2, "train_output": True}), "array": (rng.normal(size=(N, 2)), {}),
        "powers": ((1 + ks.Dense(rng.normal(size=(N, 2)))) ** 3, {"antisymmetric": False}),
        **{f"leaf-{name}": (leaf * ks.OneHot(np.arange(N) % 2), {}) for name, leaf in leaves},
    }  # fmt: skip
    out = {}
    for name, (X, options) in cases.items():
        out[name] = _saved(ks.KronRegressor(**{**OPTIONS, **options}).fit(X, rng.normal(size=N)))
    labels = np.array(["no", "yes", "so"])[np.arange(N) % 3]
    out["classes"] = _saved(ks.KronClassifier(**OPTIONS).fit(pairs, labels))
    return out


def _saved(model: Any) -> bytes:
    """Its file, without the digest, which would hide from a fuzzer what lies behind it."""
    model.history_ = [{**record, "seconds": 0.0, "rows_per_second": 0.0} for record in model.history_]
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "m")
        arrays, meta = read_model(Path(folder) / "m")
    return save(arrays, metadata={KEY: json.dumps(meta)})


def run_folders() -> dict[str, bytes]:
    """Folders of runs over two tables."""
    rng, out = np.random.default_rng(1), {}
    leaves = {name: leaf for name, leaf in _leaves(rng).items() if leaf.n_rows == N}
    names = list(leaves)
    for k in range(0, len(names) - 1, 2):
        a, b = leaves[names[k]], leaves[names[k + 1]]
        tables = {
            "a": Table(a, np.array([f"D{e}" for e in range(N)]), "a", "dense", {"normalize": True}, "a"),
            "b": Table(b, np.arange(N), "b", "dense", {}),
        }
        model = ks.KronRegressor(**OPTIONS).fit((1 + a) * b, rng.normal(size=N))
        with tempfile.TemporaryDirectory() as folder:
            write_tables(Path(folder), tables, expression="(1 + a) * b", task="regression", target="y", models=["model.kron"])
            parts = {name: (Path(folder) / name).read_bytes() for name in ("tables.json", "tables/a.npz", "tables/b.npz")}
        out[f"{names[k]}-{names[k + 1]}"] = _zipped({**parts, "model.kron": _saved(model), "link": b""})
    return out


def _zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def tables() -> dict[str, bytes]:
    """Files of entities of every ending and kind."""
    x, ids = np.arange(6.0).reshape(3, 2), np.array(["p", "q", "r"])
    matrix = sp.csr_array(x)
    sparse = {name: getattr(matrix, name) for name in ("indices", "indptr", "data")}
    sparse |= {"format": np.array("csr"), "shape": np.array([3, 2])}
    files = {
        "npy dense": _npy(x), "npy onehot": _npy(np.arange(3)), "npy kernel": _npy(np.eye(3) + 1),
        "npy rbf": _npy(x.astype("f4")), "npy tanimoto": _npy(np.eye(3)),
        "npy patches": _npy(np.arange(75.0).reshape(3, 5, 5) % 7), "npy categories": _npy(np.array([["u", "v"]] * 3)),
        "npz dense": _npz(features=x, ids=ids), "npz sparse": _npz(ids=ids, **sparse),
        "npz spectrum": _npz(features=np.array(["abcd", "bcda", "cd"])), "npz bag": _npz(features=x, ids=np.array([1, 1, 2])),
        "csv dense": b"id,u,v\np,1,2\nq,3,4.5\n", "csv spectrum": b"id,s\np,abcab\nq,bca\n",
        "csv categories": b"id,u,v\np,x,2\nq,y,\n", "csv bag": b"bag_id,u\nb,1\nb,2\nc,3\n",
        "csv onehot": b"id,u\n1,0\n2,3\n",
        "txt -": b"1 2 3\n4 5 6.5\n", "gz -": gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, 5) + b"12345", mtime=0),
    }  # fmt: skip
    return {head.replace(" ", "-"): head.encode() + b"\n" + content for head, content in files.items()}


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _npz(**arrays: Any) -> bytes:
    return _zipped({f"{name}.npy": _npy(array) for name, array in arrays.items()})


def texts() -> dict[str, dict[str, bytes]]:
    """Pairs, settings and expressions."""
    settings = {
        "own": "[tables.a]\nfile = 'a.npy'\nkind = 'kernel'\npsd = 'clip'\n[tables.b]\nfile = 'b.csv'\nids = 'x'\n"
        "[pairs]\nfile = 'p.csv'\ntarget = 'y'\nweight = 'w'\ngroups = 'a'\n[pairs.columns]\na = 'c'\n"
        "[features]\nexpression = '(1 + a) * b ** 2'\n[validation]\nfraction = 0.2\nsetting = 'new a'\n"
        "[model]\nn_hidden = 64\nlearning_rate_init = 'auto'\n[search]\noutput_scale = [0.1, 1]\nfolds = 2\n",
        "published": "[data]\ndataset = 'davis'\npath = 'x'\nsplit = 'drugs'\ndrug_power = 2\n[ensemble]\nseeds = 3\n",
        "digits": "[data]\ndataset = 'digits'\n[model]\nclass_weight = 'balanced'\nrandom_state = 3\nshuffle = false\n",
    }  # fmt: skip
    expressions = ["(1 + a) * (1 + b)", "a ** 2 * c + 0.3 * b", "((a + b) ** 2 * 0.5 + c) * 3", "a", "1 + 2 * 3 * a * b * c"]
    return {
        "config": {name: text.encode() for name, text in settings.items()},
        "expression": {str(k): text.encode() for k, text in enumerate(expressions)},
        "pairs": {"plain": b"a,b,y,w\na,0,1.5,1\nb,8,2,0.5\n7,3,-1,2\n", "text": b'y,a,b,w\n"x",a,1,1\nz,b,2,0\n'},
    }


def checkpoints() -> dict[str, bytes]:
    """Folders with two checkpoints of a fit that was ended, one of them with two shards as two ranks leave them."""
    out = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            _end_after_two(case, Path(folder))
            files = {"case": case.encode()}
            for path in checkpoints_in(Path(folder)):
                files |= {f"{path.name}/{name}": content for name, content in _without_times(path, case).items()}
            out[case] = _zipped(dict(sorted(files.items())))
    return out


class _Ended(Exception):
    """Stands for the end of a process."""


def _end_after_two(case: str, folder: Path) -> None:
    save, left = Keeper.save, [0]

    def ending(self: Keeper, position: Any) -> None:
        save(self, position)
        if not left:
            raise _Ended
        left.pop()

    Keeper.save = ending  # type: ignore[method-assign]
    try:
        fit(case, ks.Checkpoint(folder, steps=2))
    except _Ended:
        pass
    finally:
        Keeper.save = save  # type: ignore[method-assign]


def _without_times(path: Path, case: str) -> dict[str, bytes]:
    """A checkpoint's files, of the same bytes whenever it is written."""
    meta = read_meta(path)
    meta["position"]["seconds"] = 0.0
    meta["position"]["records"] = [{**r, "seconds": 0.0, "rows_per_second": 0.0} for r in meta["position"]["records"]]
    n, shards = (2 if case.startswith("two-shards") else 1), read_shard(path / shard_name(0, 1), *meta["shards"][0])
    meta["shards"], out = [], {}
    for k in range(n):
        arrays = {f"{kind}.{name}": array for kind in ("state", "kept") for name, array in _part(shards, kind, k, n)}
        name = shard_name(k, n)
        (path / "new").unlink(missing_ok=True)
        meta["shards"].append(list(write_shard(path / "new", arrays)))
        out[name] = (path / "new").read_bytes()
    return {**out, NAME: described(meta)}


def _part(shard: dict[str, Any], prefix: str, k: int, n: int) -> list[tuple[str, Any]]:
    """The k'th of n parts of a shard's neurons."""
    arrays = {name.removeprefix(f"{prefix}."): array for name, array in shard.items() if name.startswith(f"{prefix}.")}
    if n == 1 or not arrays:
        return list(arrays.items())
    m = len(arrays["output_weights"])
    return list(part(arrays, k * m // n, (k + 1) * m // n).items())


def main() -> None:
    """Write all."""
    for target, inputs in {
        "model": models(), "run_folder": run_folders(), "table": tables(), "checkpoint": checkpoints(), **texts()
    }.items():  # fmt: skip
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in inputs.items():
            (folder / f"seed-{name}").write_bytes(content)


if __name__ == "__main__":
    main()
