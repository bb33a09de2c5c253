"""``locara-sidecar doctor --verify``: checks that the files that an app ships are the ones that were built."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from locara_sidecar.cli.output.guard import reason, say
from locara_sidecar.machine import bundle

if TYPE_CHECKING:
    from pathlib import Path

    from locara_sidecar.cli.output.console import Console

_MOST = 20  # lines of each kind


def run(console: Console, *, json: bool, root: Path | None = None) -> int:
    """Print the differences; return 0 if there are none, 1 if there are some or this is not such a folder.

    :param root: the folder; default: the one that this interpreter is in.
    """
    root = root or bundle.folder()
    if root is None:
        say(console, "this is not the folder that an app ships, so there is no list to check its files against")
        return 1
    try:
        found = bundle.verify(root)
    except (OSError, ValueError) as error:
        say(console, f"{root} cannot be checked: {reason(error) if isinstance(error, OSError) else error}")
        return 1
    if json:
        console.json({"folder": str(root), "sound": found.sound, **msgspec.to_builtins(found)})
        return 0 if found.sound else 1
    kinds = (
        ("altered", found.altered),
        ("missing", found.missing),
        ("not in the list", found.extra),
        ("not executable", found.not_executable),
    )
    for words, names in kinds:
        for name in names[:_MOST]:
            console.line(f"{words}: {name}")
        if len(names) > _MOST:
            console.line(f"{words}: {len(names) - _MOST} more (see --json)")
    ending = "as built" if found.sound else "not as built; install the app again"
    console.line(f"{root}: {found.files} files, {ending}.")
    return 0 if found.sound else 1
