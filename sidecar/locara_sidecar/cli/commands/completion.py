"""``locara-sidecar completion``: shell completion of our commands, flags, models and paths.

shtab generates a script from the parser once, so that pressing a key does not start Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import shtab

from locara_sidecar.cli.output.console import Console
from locara_sidecar.cli.output.guard import say
from locara_sidecar.models import catalogue

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_FILES = {"FILE": shtab.FILE, "IMAGE": shtab.FILE, "PATH": shtab.FILE, "DIR": shtab.DIRECTORY}


def run(options: argparse.Namespace, whole: argparse.ArgumentParser) -> int:
    """Print the script for ``options.shell``; return 0, or 2 for an impossible ``--catalogue``.

    :param whole: the command line's parser, with all commands.
    """
    try:
        models = [entry.id for entry in catalogue.load(options.catalogue)]
    except catalogue.CatalogueError as error:
        say(Console(), str(error))
        return 2
    _teach(whole, models)
    Console().line(shtab.complete(whole, options.shell))
    return 0


def _teach(parser: argparse.ArgumentParser, models: list[str]) -> None:
    """Set each argument's possible values: as choices or as ``complete``, shtab's attribute."""
    actions: list[Any] = parser._actions  # noqa: SLF001 -- argparse lists them nowhere else
    for action in actions:
        choices = cast("dict[str, argparse.ArgumentParser] | Sequence[str] | None", action.choices)
        if isinstance(choices, dict):  # the parsers of the commands, by name
            for each in choices.values():
                _teach(each, models)
        elif action.dest == "model":
            action.choices = models
        elif action.dest == "folder":
            action.complete = shtab.DIRECTORY
        elif action.metavar in _FILES:
            action.complete = _FILES[action.metavar]
