"""Every input of the fuzzer's corpus, replayed without a fuzzer: whole files and such as once found a defect."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import promise, targets

CORPUS = Path(targets.__file__).parent / "corpus"
INPUTS = [path for name in targets.TARGETS for path in sorted((CORPUS / name).iterdir())]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_promise_is_kept(path, monkeypatch):
    if path.name.startswith("seed-"):  # a whole file, which is not to be refused either

        def refused(error):
            raise promise.Broken("a whole file is refused") from error

        monkeypatch.setattr(promise, "check_message", refused)
    assert targets.TARGETS[path.parent.name](path.read_bytes()) is None  # raises where it is broken
