"""What the user sees when a command fails: a sentence and an exit status, never a traceback."""

from __future__ import annotations

import logging
import os
import tempfile
import traceback
from typing import TYPE_CHECKING, Any

from locara_sidecar.cli.output.console import Console
from locara_sidecar.machine import own_files

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

CANCELLED = 130
"""The status of a command ended by Ctrl-C, as in shells."""
_UPDATED = "locara-sidecar: An update replaced the sidecar's files while this command ran. Run it again."


def run(command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Run a command; return its status, or that of what stopped it.

    An unexpected exception is our fault: it is written to a file, whose path is printed. Unless an update has replaced
    our files meanwhile: then nothing that failed says anything, and the user is told that.
    """
    console = Console()
    status = _run(console, command, options)
    if status == 1 and own_files.are_replaced():
        console.error(_UPDATED)
    return status


def _run(console: Console, command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    logging.getLogger().addHandler(
        logging.NullHandler()
    )  # the sentence says it; otherwise logging's last resort would print it, too
    try:
        return command(options)
    except KeyboardInterrupt:
        console.restore()
        say(console, "The request was cancelled.")
        return CANCELLED
    except OSError as error:
        say(console, reason(error))
        return 1
    except Exception as error:  # noqa: BLE001 -- the last place before the interpreter's own traceback
        if own_files.are_replaced():
            return 1
        say(console, f"This is a bug in locara-sidecar ({type(error).__name__}); {_written(error)}")
        return 1


def say(console: Console, sentence: str) -> None:
    """Print an error to stderr."""
    console.settle()
    console.error(f"locara-sidecar: {sentence}")


def reason(error: OSError) -> str:
    """Return the system's message, with the file that it is about.

    In a working folder that was deleted, no relative path leads anywhere; the system does not say that.
    """
    why = error.strerror or str(error) or type(error).__name__
    name: Any = error.filename
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if isinstance(error, FileNotFoundError) and not os.path.isabs(str(name)) and _is_nowhere():
        why = "The working folder was deleted; go to another one, or name files by absolute paths"
    return why if name is None else f"{name}: {why}"


def advice(
    kind: str, data: dict[str, Any], model: str | None, *, from_hub: bool = True, retryable: bool = False
) -> str | None:
    """Suggest what to type next, if that would help.

    :param data: the error's.
    :param model: the model that the command was about.
    :param from_hub: whether it can be downloaded.
    :param retryable: whether the same command may succeed later.
    """
    which = data.get("model", model)
    if kind == "ModelNotInstalled" and which:
        how = f"download {which}" if from_hub else f"import {which} FOLDER"
        return f"To install it: locara-sidecar models {how}"
    if kind == "DownloadFailed" and retryable and which:
        return f"To go on where it stopped: locara-sidecar models download {which}"
    if kind == "ModelNotFound":
        return "To see all models: locara-sidecar models list"
    return None


def _is_nowhere() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _written(error: Exception) -> str:
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="locara-fault-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return "and the details could not be written to a file."
    return f"the details are in {file.name}"
