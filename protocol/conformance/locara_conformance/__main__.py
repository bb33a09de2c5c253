"""The command line: ``locara-conformance [OPTIONS] -- COMMAND …``, and ``locara-conformance host … -- ADAPTER …``."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from locara_conformance import page, report, runner
from locara_conformance.checks import CHECKS, chosen
from locara_conformance.host import referee, scenarios
from locara_conformance.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from locara_conformance.checks import Result

HOLD, BROKEN, USAGE, HARNESS, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit statuses: all MUSTs hold; one does not, or an expectation is stale; a wrong command line; the harness failed, or
could not tell what it found; Ctrl-C."""
LONGEST = 86400.0
"""The largest ``--timeout`` in seconds: a day."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :returns: one of the exit statuses above; the harness's own faults take precedence over the implementation's.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal in the C locale has no arrows
    try:
        return _host(given[1:]) if given[:1] == ["host"] else _implementation(given)
    except KeyboardInterrupt:
        sys.stderr.write("\nlocara-conformance: interrupted; no report was written\n")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python would complain once more at its end
        sys.stderr.write("locara-conformance: standard output was closed; no report was written\n")
        return HARNESS


def _implementation(given: list[str]) -> int:
    """Run ``locara-conformance`` without ``host``: test an implementation."""
    options, command = _split(_parser(), given)
    try:
        checks = chosen(options.only)
        expected = _expected(options.expected_failures, CHECKS)
    except KeyError as error:
        return _usage(f"there is no check or group called {error.args[0]}")
    except (OSError, ValueError) as error:
        return _usage(str(error))
    if options.list:
        print("\n".join(f"{one.id:28} {one.level:6} {one.clause}" for one in checks))
        return HOLD
    if not command:
        return _usage(
            "name the implementation after --, as in: locara-conformance -- locara-sidecar serve --engine fake"
        )
    if shutil.which(command[0]) is None:
        return _usage(f"{command[0]} is not a program that can be run")
    if why := _unwritable(options):
        return _usage(why)
    tell = options.text is None and not options.quiet
    results = runner.run(
        command,
        checks,
        timeout=options.timeout,
        at_once=options.jobs,
        progress=lambda one: print(report.line(one), flush=True) if tell else None,
    )
    stale = mark_expected(results, expected)
    return _write(options, command, results, stale) or verdict(results, stale)


def _host(given: list[str]) -> int:
    """Run ``locara-conformance host``: play scenarios to a client."""
    options, command = _split(_host_parser(), given)
    try:
        wanted = scenarios.chosen(options.scenario)
        expected = _expected(options.expected_failures, scenarios.load())
    except KeyError as error:
        return _usage(f"there is no scenario or file of them called {error.args[0]}")
    except (OSError, ValueError) as error:
        return _usage(str(error))
    if options.list:
        print("\n".join(f"{one.id:28} {one.description}" for one in wanted))
        return HOLD
    if not command:
        return _usage("name the adapter of the client after --, as in: locara-conformance host -- node adapter.js")
    if shutil.which(command[0]) is None:
        return _usage(f"{command[0]} is not a program that can be run")
    if why := _unwritable(options):
        return _usage(why)
    tell = options.text is None and not options.quiet
    results = referee.run(
        command,
        wanted,
        timeout=options.timeout,
        progress=lambda one: print(report.line(one), flush=True) if tell else None,
    )
    stale = mark_expected(results, expected)
    return _write(options, command, results, stale) or verdict(results, stale)


def mark_expected(results: Sequence[Result], expected: Sequence[str]) -> list[str]:
    """Mark the failures that are in the list; return the entries of checks that ran and did not fail."""
    by_id = {one.check.id: one for one in results}
    stale: list[str] = []
    for id in expected:
        result = by_id.get(id)
        if result is None:
            continue
        if result.outcome in (Outcome.FAILURE, Outcome.WARNING):
            result.expected = True
        else:
            stale.append(id)
    return stale


def verdict(results: Sequence[Result], stale: Sequence[str]) -> int:
    """Return the exit status for results."""
    if any(one.outcome is Outcome.ERROR for one in results):
        return HARNESS
    broken = any(one.outcome is Outcome.FAILURE and not one.expected for one in results)
    return BROKEN if broken or stale else HOLD


def _expected(path: Path | None, known: Container[str]) -> list[str]:
    """Return the ids in a file of expected failures: one per line, ``#`` begins a comment.

    :raises ValueError: for an unknown id.
    """
    if path is None:
        return []
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8") from None
    ids = [line.partition("#")[0].strip() for line in lines]
    ids = [id for id in ids if id]
    if unknown := [id for id in ids if id not in known]:
        raise ValueError(f"{path}: there is no check called {unknown[0]}")
    return ids


def _split(parser: argparse.ArgumentParser, given: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options, and the command after ``--``."""
    at = given.index("--") if "--" in given else len(given)
    options, rest = parser.parse_known_args(given[:at])
    if rest:
        hint = "" if "--" in given or rest[0].startswith("-") else " (the command goes after --)"
        parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    return options, given[at + 1 :]


def _unwritable(options: argparse.Namespace) -> str | None:
    """Say why a report could not be written: better before the run than after it."""
    for file in (options.json, options.junit, options.html, options.text):
        try:
            if file is not None:
                file.open("ab").close()
        except OSError as error:
            return f"{file} cannot be written: {error.strerror}"
    return None


def _write(options: argparse.Namespace, command: Sequence[str], results: Sequence[Result], stale: Sequence[str]) -> int:
    """Write the reports; if one cannot be written, the others still are.

    :returns: HARNESS if there was such a file, else 0.
    """
    reports: list[tuple[Path | None, Callable[[], str]]] = [
        (options.json, lambda: report.as_json(command, results, stale)),
        (options.junit, lambda: report.junit(results)),
        (options.html, lambda: page.page(command, results, stale)),
        (options.text, lambda: report.text(results, stale)),
    ]
    status = 0
    for file, made in reports:
        try:
            if file is not None:
                file.write_text(made(), encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            sys.stderr.write(f"locara-conformance: {file} could not be written: {error.strerror}\n")
            status = HARNESS
    if options.text is None and not options.quiet:
        print("\n" + report.text(results, stale, all_lines=False), end="", flush=True)
    return status


def _usage(sentence: str) -> int:
    sys.stderr.write(f"locara-conformance: {sentence}\n")
    return USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="locara-conformance",
        usage="locara-conformance [OPTIONS] -- COMMAND …\n"
        "       locara-conformance host [OPTIONS] [SCENARIO …] -- ADAPTER …",
        description="Tests an implementation of the Locara image-sidecar protocol from outside. The command is what a "
        "host would spawn; it needs the fake engine (`locara-sidecar serve --engine fake`).",
        epilog="Status: 0 if all MUSTs hold, 1 if one does not or an expected failure is stale, 2 for a wrong command "
        "line, 3 if the harness itself failed or a report could not be written, 130 after Ctrl-C.",
    )
    parser.add_argument("--only", action="append", default=[], metavar="ID", help="a check or a group; may be repeated")
    parser.add_argument("--timeout", type=_seconds, default=10.0, metavar="SECONDS", help="to wait for an answer (10)")
    jobs = min(4, os.cpu_count() or 1)
    parser.add_argument(
        "--jobs", type=_number, default=jobs, metavar="N", help=f"groups that run at the same time ({jobs})"
    )
    _add_reports(parser)
    return parser


def _number(word: str) -> int:
    if not word.isascii() or not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of at least 1")
    return int(word)


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST:  # NaN is neither
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of seconds above 0, up to a day")
    return seconds


def _host_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="locara-conformance host",
        usage="locara-conformance host [OPTIONS] [SCENARIO …] -- ADAPTER …",
        description="Tests a host's client library: plays a sidecar that is slow, bursty, out of spec or dying, and "
        "checks what the client's caller saw. The adapter is a small program around the client; its form is in "
        "protocol/conformance/README.md.",
        epilog="Status: as without `host`.",
    )
    parser.add_argument(
        "scenario", nargs="*", metavar="SCENARIO", help="a scenario, or a file of them; without any, all are played"
    )
    parser.add_argument("--timeout", type=_seconds, default=30.0, metavar="SECONDS", help="for a whole scenario (30)")
    _add_reports(parser)
    return parser


def _add_reports(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--list", action="store_true", help="list everything and run nothing")
    parser.add_argument(
        "--expected-failures",
        type=Path,
        metavar="FILE",
        help="ids that may fail, one per line; an id that does not fail is stale",
    )
    parser.add_argument("--text", type=Path, metavar="FILE", help="write the text there instead of to standard output")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write JSON with the exchanges")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one HTML page")
    parser.add_argument("--quiet", action="store_true", help="write nothing to standard output")


if __name__ == "__main__":
    raise SystemExit(main())
