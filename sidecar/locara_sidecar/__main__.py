"""``locara-sidecar`` and ``python -m locara_sidecar``."""

from __future__ import annotations

import contextlib
import os
import sys

from locara_sidecar.machine import own_files


def main() -> None:
    """Run the command that the arguments name; ``serve`` if they name none."""
    parent = os.getppid()  # first of all, so that the watch notices even a host that dies before the watch begins
    serves = sys.argv[1:2] in ([], ["serve"]) or sys.argv[1].startswith("-")
    try:
        _main(parent, serves=serves)
    except KeyboardInterrupt:  # while modules are imported; later cli/output/guard.py or the daemon handles it
        if serves:
            os._exit(0)
        with contextlib.suppress(OSError):
            os.write(2, b"locara-sidecar: The request was cancelled.\n")
        os._exit(130)
    except Exception as error:
        own_files.start_anew(error)
        raise


def _main(parent: int, *, serves: bool) -> None:
    _speak_utf8()
    _leave_the_working_folder()
    if serves:
        from locara_sidecar.daemon.process import ending

        ending.end_quietly()
    try:
        lack = _lack() if serves else None
        if lack is None:
            from locara_sidecar.cli.arguments import run

            sys.exit(run(sys.argv[1:], parent))
    except MemoryError:
        lack = "it needs more memory; raise `ulimit -v` or `ulimit -d` if one is set"
    with contextlib.suppress(OSError):
        os.write(2, f"locara-sidecar: cannot start: {lack}\n".encode())
    os._exit(1)


def _lack() -> str | None:
    """Return what the process lacks to serve. Called before any large import, which could fail with any error
    for lack of it.
    """
    from locara_sidecar.daemon.process import limits

    try:
        limits.check()
    except RuntimeError as error:
        return str(error)
    return None


def _speak_utf8() -> None:
    """Restart in UTF-8 mode if file names would be in another encoding, because the contract's are in UTF-8.

    Python does so by itself in the C locale, but not if PYTHONUTF8 forbids it, nor in a Latin-1 locale.
    """
    if os.name != "posix" or sys.getfilesystemencoding() == "utf-8":
        return
    from locara_sidecar.machine.processes import interpreter

    os.environ["PYTHONUTF8"] = "1"
    with contextlib.suppress(OSError):
        interpreter.again_in_utf8()


def _leave_the_working_folder() -> None:
    """Import nothing from the host's working directory, here or in our child processes.

    It is on the path under ``python -m``, and through an empty entry in PYTHONPATH. If it contains packages, ours
    included, it stays, after all others.
    """
    try:
        here = os.getcwd()
    except OSError:  # it was deleted
        here = ""
    libraries = (os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.dirname(os.__file__))
    if here in sys.path or "" in sys.path:
        sys.path[:] = [place for place in sys.path if place not in ("", here)]
        if here in libraries or os.path.basename(here) in ("site-packages", "dist-packages"):
            sys.path.append(here)
    if given := os.environ.get("PYTHONPATH"):
        places = [os.path.join(here, place) for place in given.split(os.pathsep) if place]
        os.environ["PYTHONPATH"] = os.pathsep.join(place for place in places if os.path.normpath(place) != here)


if __name__ == "__main__":
    main()
