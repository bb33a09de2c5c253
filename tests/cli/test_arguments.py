"""The command-line parser: what it builds, and what building it costs."""

import subprocess
import sys

import pytest

from locara_sidecar.cli import arguments

HEAVY = {"torch", "mlx", "numpy", "PIL", "huggingface_hub", "rich", "shutil", "lzma", "bz2"}


def test_serve_imports_nothing_heavy():
    code = "import sys, locara_sidecar.daemon.serve, locara_sidecar.cli.commands.serve"
    code += "; from locara_sidecar.cli import arguments"
    code += "; arguments.parser('serve').parse_args(['serve']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize("command", arguments.COMMANDS)
def test_a_command_is_the_same_whether_or_not_the_others_are_built(command, capsys):
    shown = []
    for parser in (arguments.parser(command), arguments.parser()):
        with pytest.raises(SystemExit):
            parser.parse_args([command, "--help"])
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


@pytest.mark.parametrize(("columns", "longest"), [("100", 100), ("200", 200), ("none", 80)])
def test_help_is_as_wide_as_the_terminal(columns, longest, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit):
        arguments.parser().parse_args(["serve", "--help"])
    widths = [len(line) for line in capsys.readouterr().out.splitlines()]
    assert longest * 0.6 < max(widths) <= longest
