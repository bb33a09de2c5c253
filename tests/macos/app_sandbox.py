"""A tiny app in the App Sandbox that becomes the sidecar, so that a check can observe it there.

The app's only program replaces itself with the command that it gets. The process stays in its sandbox, so interpreter,
daemon and engine are inside it, as when a sandboxed host spawns them. It is signed ad hoc, which needs no account and
works on this machine only. NOT RUN by us so far.
"""

from __future__ import annotations

import plistlib
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

IDENTIFIER = "org.locara.check-mac"
"""Also the name of the app's container in ``~/Library/Containers``."""
_NAME = "LocaraCheck"
_PROGRAM = "#include <unistd.h>\nint main(int c, char **v) { return c < 2 || execv(v[1], v + 1) ? 127 : 0; }\n"
_SECONDS = 120


def entitlements(readable: Iterable[Path]) -> dict[str, object]:
    """The App Sandbox, with permission to read folders outside the container, where Python and this project are."""
    return {
        "com.apple.security.app-sandbox": True,
        "com.apple.security.temporary-exception.files.absolute-path.read-only": [f"{p}/" for p in readable],
    }


def build(folder: Path, readable: Iterable[Path]) -> Path:
    """Create the app below ``folder``; return its program, to put in front of a command.

    :raises OSError: if the compiler is missing.
    :raises subprocess.CalledProcessError: if compiling or signing failed; ``stderr`` says why.
    """
    contents = folder / f"{_NAME}.app" / "Contents"
    program = contents / "MacOS" / _NAME
    program.parent.mkdir(parents=True)
    info = {
        "CFBundleIdentifier": IDENTIFIER,
        "CFBundleName": _NAME,
        "CFBundleExecutable": _NAME,
        "CFBundlePackageType": "APPL",
        "CFBundleShortVersionString": "1.0",
        "LSUIElement": True,
    }
    (contents / "Info.plist").write_bytes(plistlib.dumps(info))
    source, allowed = folder / "program.c", folder / "entitlements.plist"
    source.write_text(_PROGRAM, encoding="utf-8")
    allowed.write_bytes(plistlib.dumps(entitlements(readable)))
    _run("cc", "-o", str(program), str(source))
    if sys.platform == "darwin":
        _run("/usr/bin/codesign", "--force", "--sign", "-", "--entitlements", str(allowed), str(contents.parent))
    return program


def _run(*words: str) -> None:
    if not shutil.which(words[0]):
        raise FileNotFoundError(f"{words[0]} is missing: xcode-select --install installs it")
    subprocess.run(words, check=True, capture_output=True, text=True, timeout=_SECONDS)
