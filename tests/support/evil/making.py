"""What a malicious engine writes instead of a prepared model, for the tests of the store and, in a child process, for
the campaign. Each function gets the folder of the component that it should write, and one of the user's files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "secret"
_WEIGHTS = "model-00001-of-00001.safetensors"


def secret_beside(control: str) -> Path:
    """Return the user's file, which lies next to the evil engine's orders."""
    return Path(control).with_name(SECRET)


def honest(into: Path) -> Path:
    """Write what should be written; return the component's folder."""
    from support.prepared_forms import made_files  # loads the store, which most acts do without

    for path, data in made_files("8bit").items():
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        (into / path).write_bytes(data)
    return into / "transformer"


def _weights(made: Path) -> Path:
    return made / _WEIGHTS


def sparse(made: Path, _: Path) -> None:
    """8 GiB that use no disk space."""
    with (made / "more.safetensors").open("wb") as file:
        file.truncate(8 << 30)


def many(made: Path, _: Path) -> None:
    """More files than a component may have."""
    for number in range(1001):
        (made / f"{number}.json").write_text("{}")


def pipe(made: Path, _: Path) -> None:
    """A FIFO, which blocks whoever opens it."""
    os.mkfifo(made / "more.safetensors")


def link(made: Path, secret: Path) -> None:
    """A link that leads outside."""
    _weights(made).unlink()
    _weights(made).symlink_to(secret)


def folder_link(made: Path, secret: Path) -> None:
    """A link in place of a folder."""
    (made / "deeper").symlink_to(secret.parent)


def second_name(made: Path, secret: Path) -> None:
    """A second name (hard link) for one of the user's files."""
    _weights(made).unlink()
    os.link(secret, _weights(made))


def deep(made: Path, _: Path) -> None:
    """Nested folders, deeper than a path may be long."""
    here = os.open(made, os.O_RDONLY)
    for _level in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def program(made: Path, _: Path) -> None:
    """An executable file."""
    (made / "attack.py").write_text("raise SystemExit")


def _swap(made: Path, secret: Path) -> None:
    """Alternate between the weights and a link to the user's file under the same name, as long as both exist."""
    real, other = _weights(made).with_name("kept"), _weights(made)
    with contextlib.suppress(OSError):
        os.rename(other, real)
        while True:
            os.symlink(secret, other)
            os.unlink(other)
            os.link(real, other)
            os.unlink(other)


def _write_on(made: Path, _: Path) -> None:
    """Keep writing through an open descriptor, as long as the process lives or the test runs."""
    fd = os.open(_weights(made), os.O_RDWR)
    for number in range(2_000_000):
        os.pwrite(fd, number.to_bytes(8, "big"), 4096)
    os.close(fd)


MADE: dict[str, Callable[[Path, Path], None]] = {
    "a sparse file of 8 GiB": sparse,
    "1,001 files": many,
    "a pipe among the files": pipe,
    "a link for the weights": link,
    "a link for a folder": folder_link,
    "the user's file under another name": second_name,
    "3,000 folders within each other": deep,
    "a program among the files": program,
}
DURING: dict[str, Callable[[Path, Path], None]] = {
    "files swapped for links while they are published": _swap,
    "weights written through a kept descriptor": _write_on,
}
