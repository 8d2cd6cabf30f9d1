"""Checkpoints on the disk: ended while writing, damaged, refused; there is always a whole one once there was one."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from helpers.checkpoints import SMALL, Killed, ended_after, fit, pairs, rewrite, saved
from kronsgd import Checkpoint, KronRegressor
from kronsgd.training import checkpoint as checkpoints
from kronsgd.training import checkpoint_folder, checkpoints_in, shardfile

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data():
    return pairs()


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """What is in the kernel's hands is safe from anything but a loss of power."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# Ended while writing -------------------------------------------------------------------------------------------------


def count_writes(monkeypatch, data, checkpoint) -> int:
    """Calls that write, flush, rename or remove in one whole run."""
    count = [0]
    with monkeypatch.context() as patched:
        break_at(patched, None, count)
        fit(data, checkpoint)
    return count[0]


def break_at(patched, number, count, error=Killed):
    """The number'th of all calls that touch the disk raises, halfway."""

    def breaking(function):
        def call(*args, **kwargs):
            count[0] += 1
            if count[0] == number:
                if function is shardfile.write:
                    function(args[0], args[1][: len(args[1]) // 2])
                raise error() if error is Killed else error
            return function(*args, **kwargs)

        return call

    for module in (shardfile, checkpoint_folder):
        for name in ("write", "flush_to_disk", "flush_folder"):
            if hasattr(module, name):
                patched.setattr(module, name, breaking(getattr(module, name)))
    patched.setattr(checkpoint_folder.os, "rename", breaking(os.rename))


def test_ended_at_each_write(data, tmp_path, monkeypatch):
    """As by kill -9: nothing is cleaned up. There is always a whole checkpoint once there was one, and the end is the same."""
    whole = saved(fit(data), tmp_path)
    n_calls = count_writes(monkeypatch, data, Checkpoint(tmp_path / "c", steps=20))
    assert n_calls >= 20
    for number in range(1, n_calls + 1):
        folder = tmp_path / str(number)
        with monkeypatch.context() as patched:
            break_at(patched, number, [0])
            patched.setattr(checkpoint_folder.shutil, "rmtree", lambda *a, **k: None)  # the process is gone
            with pytest.raises(Killed):
                fit(data, Checkpoint(folder, steps=20))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # none is found damaged
            assert saved(fit(data, Checkpoint(folder, steps=20)), tmp_path) == whole
        assert not list(folder.glob(".step-*"))
        assert [path.name for path in checkpoints_in(folder)][:2] == ["step-000000000052-end", "step-000000000040"]


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be flushed there")
def test_all_is_on_the_disk_before_it_has_its_name(data, tmp_path, monkeypatch):
    """Or a power cut could leave a checkpoint under its name without its bytes."""
    flushed, renamed = list[int](), list[int]()
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino))
    rename = os.rename

    def checked(aside, target):
        files = list(aside.iterdir())
        assert sorted(path.name for path in files) == ["checkpoint.json", "shard-00000-of-00001.kron"]
        assert {path.stat().st_ino for path in (*files, aside)} <= set(flushed)
        rename(aside, target)
        renamed.append(len(flushed))

    monkeypatch.setattr(checkpoint_folder.os, "rename", checked)
    fit(data, Checkpoint(tmp_path / "c", steps=20))
    assert len(renamed) == 3
    assert all(flushed[place] == (tmp_path / "c").stat().st_ino for place in renamed)


def test_a_full_disk_at_each_write(data, tmp_path, monkeypatch):
    n_calls = count_writes(monkeypatch, data, Checkpoint(tmp_path / "c", steps=20))
    full = OSError(errno.ENOSPC, "No space left on device")
    for number in range(1, n_calls + 1):
        folder = tmp_path / str(number)
        with monkeypatch.context() as patched:
            break_at(patched, number, [0], full)
            with pytest.raises(OSError, match=r"step [0-9]+ could not be written to .*No space left") as info:
                fit(data, Checkpoint(folder, steps=20))
        assert info.value.errno == errno.ENOSPC
        assert str(folder) in str(info.value)
        assert not list(folder.glob(".step-*"))
        good = checkpoints_in(folder)
        before = [path.name for path in good if path.name in str(info.value)]
        assert before or "there is none yet" in str(info.value)
    assert before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_is_really_full(data, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(OSError, match="could not be written") as info:
            fit(data, Checkpoint(disk / "c", steps=2), n_hidden=256)
        assert info.value.errno == errno.ENOSPC
        assert not list((disk / "c").glob(".step-*"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_two_good_ones_are_kept(data, tmp_path):
    fit(data, Checkpoint(tmp_path / "c", steps=10))
    assert [path.name for path in checkpoints_in(tmp_path / "c")] == ["step-000000000052-end", "step-000000000050"]


# One folder, one run -------------------------------------------------------------------------------------------------


def test_a_second_run_is_refused(data, tmp_path, monkeypatch):
    def second(self, position):
        with pytest.raises(BlockingIOError, match="another process is writing"):
            fit(data, Checkpoint(tmp_path / "c"))
        raise Killed

    monkeypatch.setattr(checkpoints.Keeper, "save", second)
    with pytest.raises(Killed):
        fit(data, Checkpoint(tmp_path / "c", steps=5))


PROGRAM = """
import sys
import numpy as np
from kronsgd import Checkpoint, Dense, KronRegressor
rng = np.random.default_rng(0)
x = Dense(rng.normal(size=(300, 4)).astype("f4"))
model = KronRegressor(64, batch_size=2, max_iter=12, random_state=0, n_jobs=1, engine="scan", learning_rate_init=5.0)
model.fit(x * x, rng.normal(size=300), checkpoint=Checkpoint(sys.argv[1], steps=20) if sys.argv[1] else None)
model.save(sys.argv[2])
"""


def test_kill_9(tmp_path):
    """A real process, ended for good; its lock goes with it."""
    folder = tmp_path / "c"
    arguments = [sys.executable, "-c", PROGRAM]
    process = subprocess.Popen([*arguments, str(folder), str(tmp_path / "never")], stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not checkpoints_in(folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "never").exists()
    subprocess.run([*arguments, str(folder), str(tmp_path / "again")], check=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["", "", str(tmp_path / "whole")])
        exec(PROGRAM, {})
    assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(data, tmp_path):
    """Two checkpoints, neither of them the end."""
    with pytest.MonkeyPatch.context() as patched:
        assert ended_after(patched, 2, data, Checkpoint(tmp_path / "c", steps=20))
    return tmp_path / "c"


def one_sentence(info) -> str:
    text = str(info.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_other_data_and_settings_are_refused(folder, data, tmp_path):
    X, y = data
    whole = saved(fit(data), tmp_path)
    for other in ((X, y + 1e-9), (X[::-1], y), (X[:-1], y[:-1]), (X * X, y)):
        with pytest.raises(ValueError, match="rows, targets or weights differ") as info:
            fit(other, Checkpoint(folder))
        one_sentence(info)
    with pytest.raises(ValueError, match="rows, targets or weights differ"):
        KronRegressor(**SMALL).fit(X, y, np.linspace(1, 2, 200), checkpoint=Checkpoint(folder))
    for name, value in (("n_hidden", 32), ("max_iter", 5), ("random_state", 1), ("engine", "dense"), ("tol", 0.1)):
        with pytest.raises(ValueError, match=f"^{name}={value!r} differs from {SMALL.get(name, 0.0001)!r} in") as info:
            fit(data, Checkpoint(folder), **{name: value})
        one_sentence(info)
    assert saved(fit(data, Checkpoint(folder)), tmp_path) == whole  # nothing was lost


def test_checkpoints_are_not_overwritten_unasked(folder, data):
    with pytest.raises(ValueError, match="holds checkpoints, the newest step-000000000040") as info:
        fit(data, Checkpoint(folder, resume=False))
    one_sentence(info)
    assert len(checkpoints_in(folder)) == 2


def test_warm_start_and_wrong_arguments(data, tmp_path):
    with pytest.raises(ValueError, match="warm_start=True cannot"):
        fit(data, Checkpoint(tmp_path), warm_start=True)
    with pytest.raises(TypeError, match=r"give checkpoint=kronsgd\.Checkpoint"):
        fit(data, str(tmp_path))
    with pytest.raises(ValueError, match="steps=0"):
        Checkpoint(tmp_path, steps=0)
    with pytest.raises(ValueError, match="minutes=0"):
        Checkpoint(tmp_path, minutes=0)
    with pytest.raises(TypeError, match="folder=3"):
        Checkpoint(3)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        fit(data, Checkpoint(tmp_path / "file"))


def test_another_format_is_refused(folder, data):
    rewrite(checkpoints_in(folder)[0], format=2)
    with pytest.raises(ValueError, match="has format 2; this version of kronsgd reads format 1") as info:
        fit(data, Checkpoint(folder))
    one_sentence(info)


def shard_of(path: Path) -> Path:
    return path / "shard-00000-of-00001.kron"


def deep(path) -> bytes:
    """The description with lists as deep as JSON may be read, but not shown in a message."""
    meta = json.loads((path / "checkpoint.json").read_text())
    meta.pop("digest")
    meta["attempt"] = json.loads("[" * 900 + "]" * 900)
    return checkpoint_folder.described(meta)


def rewrite_shard(path, **arrays):
    """Other arrays, with a size and a digest that fit."""
    known = {**load_file(shard_of(path)), **arrays}
    save_file(known, shard_of(path))
    shard_of(path).rename(path / "old")
    size, digest = shardfile.write_shard(shard_of(path), load_file(path / "old"))
    rewrite(path, shards=[[size, digest]])


def listed_twice(path):
    """Tails that have each neuron's first row again."""
    arrays = load_file(shard_of(path))
    indptr, rows = arrays["state.indptr"], arrays["state.rows"]
    known = np.diff(indptr) > 0
    assert known.any()
    return {
        "state.tail_first": 64 * np.arange(len(indptr)), "state.tail_len": known.astype(np.int64),
        "state.tail_rows": rows[indptr[:-1][known]], "state.tail_values": np.full(known.sum(), 0.1, "f4"),
    }  # fmt: skip


def foreign(path):
    """A shard with numbers of 8 bits, and a size and a digest that fit."""
    header = json.dumps({"state.x": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(4)
    shard_of(path).write_bytes(content)
    rewrite(path, shards=[[len(content), blake2b(content, digest_size=shardfile.DIGEST).hexdigest()]])


def position(path, **changes):
    rewrite(path, position={**json.loads((path / "checkpoint.json").read_text())["position"], **changes})


def cut(path, at):
    path.write_bytes(path.read_bytes()[:at])


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def replace_by_link(path):
    path.rename(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


DAMAGES = {
    "a cut shard": lambda p: cut(shard_of(p), 5000),
    "an empty shard": lambda p: cut(shard_of(p), 0),
    "a flipped bit": lambda p: flip(shard_of(p), -9),
    "no shard": lambda p: shard_of(p).unlink(),
    "a linked shard": lambda p: replace_by_link(shard_of(p)),
    "a pipe": lambda p: (shard_of(p).unlink(), os.mkfifo(shard_of(p))),
    "a linked description": lambda p: replace_by_link(p / "checkpoint.json"),
    "no description": lambda p: (p / "checkpoint.json").unlink(),
    "a cut description": lambda p: cut(p / "checkpoint.json", 200),
    "a changed description": lambda p: flip(p / "checkpoint.json", -90),
    "not JSON": lambda p: (p / "checkpoint.json").write_bytes(b"\xff\x00"),
    "deep JSON": lambda p: (p / "checkpoint.json").write_text("[" * 100_000),
    "a list": lambda p: (p / "checkpoint.json").write_text("[1]"),
    "a huge number": lambda p: (p / "checkpoint.json").write_text('{"format": ' + "9" * 5000 + "}"),
    "many shards": lambda p: rewrite(p, shards=[[1, "0" * 64]] * 10_000),
    "a shard of another size": lambda p: rewrite(p, shards=[[2**62, "0" * 64]]),
    "a shard of a negative size": lambda p: rewrite(p, shards=[[-1, "0" * 64]]),
    "a path for a digest": lambda p: rewrite(p, shards=[[1, "../../etc/passwd"]]),
    "no position": lambda p: rewrite(p, position=None),
    "a step before the start": lambda p: position(p, batch=-1),
    "epochs after the end": lambda p: position(p, epoch=50),
    "other steps than its name's": lambda p: position(p, n_steps=2**53),
    "another step than its name's": lambda p: rewrite(p, step=39),
    "a number beyond floating point": lambda p: position(p, best=10**400),
    "records without numbers": lambda p: position(p, records=[{"loss": 1.0}] * 3),
    "a training that never ends": lambda p: rewrite(p, max_iter=10**12),
    "another step size": lambda p: rewrite(p, learning_rate=1e-3),
    "a deep attempt": lambda p: (p / "checkpoint.json").write_bytes(deep(p)),
    "an end that is none": lambda p: rewrite(p, stop_reason="MAX_ITER"),
    "records of nothing": lambda p: position(p, records=[7]),
    "text for numbers": lambda p: position(p, sums="ab"),
    "a reason that is none": lambda p: rewrite(p, stop_reason="BORED"),
    "an attempt that is none": lambda p: rewrite(p, attempt="x"),
    "arrays of another shape": lambda p: rewrite_shard(p, **{"state.output_weights": np.zeros((3, 1), "f4")}),
    "numbers that are none": lambda p: rewrite_shard(p, **{"state.output_weights": np.full((64, 1), np.nan, "f4")}),
    "a row in a list and in its tail": lambda p: rewrite_shard(p, **listed_twice(p)),
    "a type that numpy lacks": lambda p: foreign(p),
    "a factor of 0": lambda p: rewrite_shard(p, **{"state.scale": np.zeros(1)}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_one_before_a_damaged_one_is_used(damage, folder, data, tmp_path):
    whole = saved(fit(data), tmp_path)
    newest, before = checkpoints_in(folder)
    damage(newest)
    with pytest.warns(UserWarning, match=r"step-000000000040 is damaged .*; trying the one before") as told:
        model = fit(data, Checkpoint(folder, steps=20))
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert len(str(told[0].message)) < 500
    assert saved(model, tmp_path) == whole
    assert before.name == "step-000000000020"
    assert [path.name for path in checkpoints_in(folder)] == ["step-000000000052-end", "step-000000000040"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert saved(fit(data, Checkpoint(folder)), tmp_path) == whole


@pytest.mark.parametrize("name", ["a cut shard", "no description", "a step before the start"])
def test_no_whole_checkpoint_is_refused(name, folder, data):
    for path in checkpoints_in(folder):
        DAMAGES[name](path)
    refused = pytest.raises(ValueError, match=r"no checkpoint in .* is whole")
    with pytest.warns(UserWarning, match="damaged") as told, refused as info:
        fit(data, Checkpoint(folder))
    assert ["trying the one before" in str(warning.message) for warning in told] == [True, False]
    one_sentence(info)


def test_links_and_strangers_are_left_alone(folder, data, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    (folder / "step-000000000099").symlink_to(outside)
    (folder / ".step-000000000098").symlink_to(outside)
    (folder / "notes").mkdir()
    fit(data, Checkpoint(folder, steps=20))
    assert (outside / "precious").read_text() == "mine"
    assert (folder / "notes").is_dir()
