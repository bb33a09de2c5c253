"""No test module names what only Linux has while it is imported: elsewhere none of its tests could even be skipped."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
ONLY_LINUX = {
    "os": {
        *("O_PATH", "O_TMPFILE", "O_NOATIME", "O_DIRECT", "pidfd_open", "memfd_create", "pipe2", "copy_file_range"),
        *("setxattr", "getxattr", "listxattr", "removexattr", "sched_getaffinity", "sched_setaffinity", "SCHED_IDLE"),
        *("waitid", "P_PID", "WNOWAIT", "WEXITED"),  # on macOS from Python 3.13 on
    },
    "resource": {"prlimit"},
    "signal": {"SIGRTMIN", "SIGRTMAX", "sigtimedwait", "sigwaitinfo"},
    "socket": {"AF_NETLINK", "AF_PACKET", "AF_VSOCK", "MSG_NOSIGNAL", "SO_PEERCRED", "SOCK_CLOEXEC"},
    "select": {"POLLRDHUP", "epoll"},
    "fcntl": {"F_NOTIFY", "F_ADD_SEALS", "F_SETPIPE_SZ", "F_GETPIPE_SZ"},
}


def named(node):
    """What is evaluated of ``node`` when its module is imported: not the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if name in ONLY_LINUX.get(module, ()):
                yield f"{module}.{name}"
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            for evaluated in (*child.decorator_list, child.args):
                yield from named(evaluated)
        elif not isinstance(child, ast.Lambda):
            yield from named(child)


def test_every_test_module_can_be_imported_on_a_mac():
    found = {str(path.relative_to(ROOT)): set(named(ast.parse(path.read_text("utf-8")))) for path in ROOT.rglob("*.py")}
    assert len(found) > 200
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "FLAGS = os.O_PATH",
        "@pytest.mark.parametrize('flag', [os.O_PATH])\ndef test(flag): ...",
        "@mark(lambda: 1, x=signal.SIGRTMIN)\ndef test(): ...",
        "def opened(flags=os.O_PATH): ...",
        "class Played:\n    flags = os.O_PATH",
    ],
)
def test_what_is_evaluated_at_the_import_is_found(source):
    assert list(named(ast.parse(source)))


@pytest.mark.parametrize(
    "source", ["def test():\n    os.O_PATH", "getattr(os, 'O_PATH', 0)", "os.O_RDONLY", "use = lambda: os.O_PATH"]
)
def test_what_is_evaluated_later_or_everywhere_is_not(source):
    assert not list(named(ast.parse(source)))
