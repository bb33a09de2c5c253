"""A machine without Python: a root folder with the C library and a shell, or one made by debootstrap.

As a program, started by root in a mount and a process namespace of its own (``command`` writes that line): makes the
folder its root, with the bundle (if any) mounted read-only somewhere in it, becomes another user and is replaced by a
command.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

_BIND, _REC, _PRIVATE, _REMOUNT, _READ_ONLY, _DETACH = 0x1000, 0x4000, 1 << 18, 0x20, 0x1, 0x2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_C_LIBRARY = (
    *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0"),
    *("librt.so.1", "libutil.so.1", "libresolv.so.2"),
)


def minimal(folder: Path) -> Path:
    """Make a root folder with nothing but the C library and ``sh``."""
    shell = shutil.which("dash") or "/bin/sh"
    listed = subprocess.run(["ldd", shell], capture_output=True, text=True, check=True).stdout
    loader = next(word for word in listed.split() if word.startswith("/") and "ld-linux" in word)
    libraries = Path(next(word for word in listed.split() if word.endswith("/libc.so.6"))).parent
    for name in _C_LIBRARY:
        source = Path(loader) if Path(loader).name == name else libraries / name
        if source.exists():
            target = folder / str(source).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source.resolve(), target)
    folder.chmod(0o755)  # for every user: it becomes the root
    (folder / "bin").mkdir()
    shutil.copy(Path(shell).resolve(), folder / "bin" / "sh")
    return folder


def command(root: Path, bundle: Path | None, at: str, *words: str, user: int = 0) -> list[str]:
    """Return the command that runs ``words`` in ``root`` as ``user``, with ``bundle`` (if any) mounted at ``at``."""
    start = ["unshare", "--mount", "--pid", "--fork", "--kill-child", sys.executable, "-I", __file__]
    return [*start, str(root), str(bundle or ""), at, str(user), *words]


def _main(root: str, bundle: str, at: str, user: str, *words: str) -> None:
    inside = root + at
    for folder in (*([inside] if bundle else []), *(f"{root}/{name}" for name in ("proc", "dev", "sys", "tmp"))):
        os.makedirs(folder, exist_ok=True)
    _mount("none", "/", "", _REC | _PRIVATE)
    _mount(root, root, "", _BIND)
    if bundle:  # what was made before the mount is below it, not in it
        _mount(bundle, inside, "", _BIND)
        _mount("none", inside, "", _REMOUNT | _BIND | _READ_ONLY)
    _mount("proc", f"{root}/proc", "proc", 0)
    _mount("/dev", f"{root}/dev", "", _BIND | _REC)
    _mount("/sys", f"{root}/sys", "", _BIND | _REC)
    _mount("tmpfs", f"{root}/tmp", "tmpfs", 0)
    os.chmod(f"{root}/tmp", 0o1777)
    os.chdir(root)
    number = _PIVOT_ROOT[os.uname().machine]
    _check(_libc.syscall(number, b".", b"."))
    _check(_libc.umount2(b".", _DETACH))
    os.chdir("/")
    if int(user):
        os.setgroups([])
        os.setgid(int(user))
        os.setuid(int(user))
    os.execve(words[0], list(words), dict(os.environ))


_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    _check(_libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None))


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    _main(*sys.argv[1:])
