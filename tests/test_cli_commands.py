"""`kronsgd doctor`, help, version, and a missing package."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from helpers.cli import call, mistake
from kronsgd.cli import main
from kronsgd.cli.app import app


def test_doctor():
    out = call("doctor")
    for text in ("numpy", "numba", "threads", "BLAS", "kernel cache", "agree", "matplotlib", "Everything works"):
        assert text in out


def test_doctor_finds_what_is_broken(monkeypatch):
    import kronsgd.cli.doctor as doctor

    def broken() -> str:
        raise OSError("the folder cannot be written")

    monkeypatch.setattr(doctor, "_cache", broken)
    monkeypatch.setattr(doctor, "EXTRAS", {"plots": "no_such_module"})
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "BROKEN kernel cache: OSError: the folder cannot be written" in result.stdout
    assert 'pip install "kronsgd[plots]"' in result.stdout


@pytest.mark.parametrize("command", ["train", "predict", "evaluate", "compare", "inspect", "plan", "doctor"])
def test_every_command_and_option_has_a_help_text(command):
    from typer.main import get_command

    found = get_command(app).commands[command]
    assert found.help
    for param in found.params:
        assert getattr(param, "help", None), param.name
    assert "Usage" in call(command, "--help")


def test_version_and_bare_call():
    import kronsgd

    assert call("--version") == f"kronsgd {kronsgd.__version__}\n"
    assert all(name in call() for name in ("train", "predict", "rank", "evaluate", "compare", "inspect", "doctor"))
    assert "Did you mean 'train', 'rank'?" in mistake("trian")
    out = subprocess.run([sys.executable, "-m", "kronsgd", "--version"], capture_output=True, text=True, check=True)
    assert out.stdout == f"kronsgd {kronsgd.__version__}\n"


@pytest.mark.parametrize("package", ["typer", "rich", "pydantic", "tomli_w"])
def test_without_the_extra_one_sentence_names_it(package, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("kronsgd.cli.") or name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f'error: the command line needs {package}; run pip install "kronsgd[cli]".\n'
