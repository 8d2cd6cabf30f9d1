"""Checkpoints from elsewhere, whose digests are right: refused with one sentence, and nothing outside is touched."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from helpers.checkpoints import ended_after, fit, pairs, rewrite
from helpers.datasets import sentence
from kronsgd import Checkpoint
from kronsgd.training import checkpoints_in

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data():
    return pairs()


@pytest.fixture
def folder(data, tmp_path):
    """Two checkpoints, neither of them the end."""
    with pytest.MonkeyPatch.context() as patched:
        assert ended_after(patched, 2, data, Checkpoint(tmp_path / "c", steps=20))
    return tmp_path / "c"


@pytest.mark.parametrize("configuration", [None, [1], "x", {"network": 3}, {"network": {"seed": -1}, "engine_": ["scan"]}])
def test_a_configuration_that_is_none(configuration, data, tmp_path, monkeypatch):
    """A drawn seed and a chosen engine are taken from it, before anything is compared."""
    chosen = {"random_state": None, "engine": "auto"}
    assert ended_after(monkeypatch, 1, data, Checkpoint(tmp_path / "c", steps=20), **chosen)
    rewrite(checkpoints_in(tmp_path / "c")[0], configuration=configuration)
    with pytest.raises(ValueError, match="differs from None in the checkpoint") as info:
        fit(data, Checkpoint(tmp_path / "c"), **chosen)
    sentence(info)


@pytest.mark.parametrize("name", ["a\nb", "x" * 9000])
def test_messages_do_not_repeat_whole_files(name, folder, data):
    newest = checkpoints_in(folder)[0]
    known = json.loads((newest / "checkpoint.json").read_text())["configuration"]
    rewrite(newest, configuration={**known, name: [name] * 1000})
    with pytest.raises(ValueError, match="=None differs from") as info:
        fit(data, Checkpoint(folder))
    assert len(sentence(info)) < 500


@pytest.mark.parametrize("make", [lambda lock: lock.symlink_to(lock.parent.parent / "precious"), os.mkdir, os.mkfifo])
def test_a_lock_that_is_no_file_is_refused(make, folder, data):
    (folder.parent / "precious").write_text("mine")
    (folder / ".lock").unlink(missing_ok=True)
    make(folder / ".lock")
    with pytest.raises(ValueError, match=r"\.lock is not a plain file; remove it") as info:
        fit(data, Checkpoint(folder))
    sentence(info)
    assert (folder.parent / "precious").read_text() == "mine"


def test_attempts_come_to_an_end(data, tmp_path, monkeypatch):
    """Each attempt that diverges halves the step; a checkpoint cannot claim to be beyond the last."""
    from kronsgd.estimators import base

    monkeypatch.setattr(base, "auto_learning_rate", lambda *_: 1e9)
    options = {"learning_rate_init": "auto"}
    assert ended_after(monkeypatch, 1, data, Checkpoint(tmp_path / "c", steps=1), **options)
    rewrite(checkpoints_in(tmp_path / "c")[0], attempt=10**6, learning_rate=1e300)
    with pytest.warns(UserWarning, match="grew without bound"):
        model = fit(data, Checkpoint(tmp_path / "c"), **options)
    assert model.learning_rate_ == 1e300


@pytest.mark.parametrize("aside", [False, True])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.write_text("x"), lambda path: path.symlink_to("nowhere")])
def test_what_has_the_name_of_the_next_checkpoint_gives_way(make, aside, folder, data):
    """A pipe that is opened would wait for ever."""
    newest = checkpoints_in(folder)[0]
    shutil.rmtree(newest)
    make(newest.with_name("." + newest.name) if aside else newest)
    fit(data, Checkpoint(folder, steps=20))
    assert newest.is_dir()
