"""Signs a bundle on a Mac, has it notarised, and reports unsigned files. **Never run on a Mac.**

Usage, on a Mac with Apple silicon, after ``make bundle``::

    PYTHONPATH=packaging .venv/bin/python -m bundle.sign_macos FOLDER --identity "Developer ID Application: …"
        [--sandboxed] [--notarise PROFILE] [--dry-run]

``PROFILE`` was created by ``xcrun notarytool store-credentials``; no password is requested or passed. A folder cannot
be stapled, only an app, a disk image or a package. So sign the app that contains the folder afterwards, notarise the
whole app and staple it (``--staple APP``). The list of hashes is rewritten, since signing changes files.
"""

from __future__ import annotations

import argparse
import json
import plistlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bundle import macho
from locara_sidecar.machine import bundle as shipped

if TYPE_CHECKING:
    from collections.abc import Iterable

ENTITLEMENTS = Path(__file__).parent / "entitlements"


def entitlements(*, sandboxed: bool) -> Path:
    """The programs' entitlements: none for a plain app; in the App Sandbox, the two that inherit the app's sandbox."""
    return ENTITLEMENTS / ("sandboxed.plist" if sandboxed else "plain.plist")


def signing(root: Path, identity: str, *, sandboxed: bool) -> list[list[str]]:
    """Return a ``codesign`` command for each Mach-O file, in order. Libraries get no entitlements: they have those of
    the program that loads them.

    :raises RuntimeError: if there is nothing to sign, so this is not a bundle for macOS.
    """
    files = macho.inside_out(root)
    if not any(what == "program" for _, what in files):
        raise RuntimeError(f"{root} contains no program for macOS")
    lines: list[list[str]] = []
    for path, what in files:
        words = ["codesign", "--force", "--timestamp", "--options", "runtime", "--sign", identity]
        if what == "program":
            file = entitlements(sandboxed=sandboxed)
            if plistlib.loads(file.read_bytes()):
                words += ["--entitlements", str(file)]
        lines.append([*words, str(path)])
    return lines


def unsigned(root: Path) -> list[Path]:
    """Return the Mach-O files with an invalid signature, or without the hardened runtime, according to ``codesign``."""
    return [path for path, _ in macho.inside_out(root) if not _holds(path)]


def _holds(path: Path) -> bool:
    verified = subprocess.run(["codesign", "--verify", "--strict", str(path)], capture_output=True, check=False)
    shown = subprocess.run(
        ["codesign", "--display", "--verbose=2", str(path)], capture_output=True, text=True, check=False
    )
    return verified.returncode == 0 and is_hardened(shown.stderr)


def is_hardened(shown: str) -> bool:
    """Whether the output of ``codesign --display --verbose=2`` names the hardened runtime and a certificate."""
    flags = next((line for line in shown.splitlines() if line.startswith("CodeDirectory ")), "")
    return "runtime" in flags and "\nAuthority=" in f"\n{shown}"


def packing(root: Path, archive: Path) -> list[str]:
    """Pack the folder in the format that the notary service requires."""
    return ["ditto", "-c", "-k", "--keepParent", str(root), str(archive)]


def submitting(archive: Path, profile: str) -> list[str]:
    """Submit the archive and wait for the answer, which takes minutes or more."""
    words = ["xcrun", "notarytool", "submit", str(archive), "--keychain-profile", profile]
    return [*words, "--wait", "--output-format", "json"]


def refusal(answer: str, profile: str) -> str | None:
    """Return why the archive was not accepted, or None; ``notarytool`` exits with 0 whatever the answer is."""
    try:
        told = json.loads(answer)
        status, number = told["status"], told.get("id")
    except (ValueError, TypeError, KeyError):
        return f"the notary's answer cannot be read: {answer.strip()}"
    if status == "Accepted":
        return None
    return f"not notarised ({status}); why: xcrun notarytool log {number} --keychain-profile {profile}"


def _run(lines: Iterable[list[str]], *, dry: bool) -> None:
    for words in lines:
        print(" ".join(words))
        if not dry:
            subprocess.run(words, check=True)


def main() -> int:
    """Return 0 if everything is signed; with ``--dry-run``, print what would be done, on any system."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--identity", required=True)
    parser.add_argument("--sandboxed", action="store_true", help="for an app of the App Sandbox")
    parser.add_argument("--notarise", metavar="PROFILE")
    parser.add_argument("--staple", metavar="APP", type=Path, help="the notarised app around it")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    dry = options.dry_run
    _run(signing(options.folder, options.identity, sandboxed=options.sandboxed), dry=dry)
    if not dry:
        shipped.write(options.folder)
        if wrong := unsigned(options.folder):
            print("not signed:", *wrong, sep="\n  ")
            return 1
    if options.notarise:
        with tempfile.TemporaryDirectory() as scratch:
            archive = Path(scratch, "bundle.zip")
            words = submitting(archive, options.notarise)
            _run([packing(options.folder, archive)], dry=dry)
            print(" ".join(words))
            if not dry:
                answer = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
                if why := refusal(answer, options.notarise):
                    print(why)
                    return 1
    if options.staple:
        _run([["xcrun", "stapler", "staple", str(options.staple)]], dry=dry)
    return 0


if __name__ == "__main__":
    sys.exit(main())
