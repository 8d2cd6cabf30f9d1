"""What the README and the pages in docs show runs."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

README = Path(__file__).parent.parent / "README.md"
PAGES = sorted((README.parent / "docs").glob("*.md"))


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def test_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks("python"):
        exec(block, namespace)
    assert (tmp_path / "pairs.kron").exists()
    assert namespace["model"].score(namespace["X"][1500:], namespace["y"][1500:]) > 0.5


def test_there_are_pages():
    assert PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_of_pages_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # where pickle finds a class that the page defines
    for block in blocks("python", page):
        exec(block, module.__dict__)


@pytest.mark.parametrize(("page", "least"), [(README, 5), (README.parent / "docs/pairs.md", 4)], ids=["README", "pairs"])
def test_commands_and_flags_exist(page, least):
    from kronsgd.cli.app import app

    group = typer.main.get_command(app)
    text = "\n".join(blocks("bash", page)).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("kronsgd ")]
    assert len(lines) >= least
    for line in lines:
        _, name, *words = shlex.split(line, comments=True)
        command = group.commands[name]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("target", ["demo", "test"])
def test_quick_start_has_the_two_commands(target):
    assert f"make {target}" in blocks("bash")[0]
