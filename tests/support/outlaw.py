"""Tries what a confined engine must not do: in Python, natively, and from a child process. Run as a program.

    python outlaw.py on|compiling|off SCRATCH < {"secret": …, "outside": …, "tcp": port, "udp": port, "readable": […],
                                       "stream": path, "datagrams": path}

Prints {attempt: "done" or why not}. ``compiling``: in the sandbox of an engine that may start a compiler. ``off`` is
the control: the same attempts without the sandbox.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import subprocess
import sys

AF_INET, SOCK_STREAM, SOCK_DGRAM, LOOPBACK = 2, 1, 2, 0x0100007F


class Address(ctypes.Structure):
    _fields_ = (
        *(("family", ctypes.c_uint16), ("port", ctypes.c_uint16), ("address", ctypes.c_uint32)),
        ("zero", ctypes.c_uint64),
    )


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def python_tcp(port):
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def python_udp(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(b"python", ("127.0.0.1", port))


def local_stream(path):
    assert sys.platform != "win32"
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(path)


def local_datagram(path):
    assert sys.platform != "win32"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(b"local", path)


def local_datagram_of_a_pair(path, kind=socket.SOCK_DGRAM):
    assert sys.platform != "win32"
    one, two = socket.socketpair(socket.AF_UNIX, kind)
    with one, two:
        one.sendto(b"pair", path)


def python_name():
    socket.getaddrinfo("localhost", 80)


def python_read(path):
    with open(path) as file:
        file.read()


def python_list(path):
    os.listdir(path)


def python_write(path):
    with open(path, "w") as file:
        file.write("x")


def native(libc, kind, port):
    fd = checked(libc.socket(AF_INET, kind, 0))
    address = Address(AF_INET, socket.htons(port), LOOPBACK, 0)
    if kind == SOCK_STREAM:
        checked(libc.connect(fd, ctypes.byref(address), 16))
    else:
        checked(libc.sendto(fd, b"native", 6, 0, ctypes.byref(address), 16))


def native_open(libc, path, flags):
    os.close(checked(libc.open(path.encode(), flags, 0o600)))


def child(code, *words):
    """Do the same in a separate process, which reports its errno as its exit status."""
    text = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import outlaw\ntry: outlaw.{code}\n"
    text += "except OSError as error: sys.exit(error.errno if error.errno and 0 < error.errno < 200 else 201)"
    status = subprocess.run([sys.executable, "-c", text, *words], stderr=subprocess.DEVNULL, check=False).returncode
    if status:
        raise OSError(status, os.strerror(status))


def shell(command, path):
    """Do the same with a program of the system."""
    words = ["/bin/sh", "-c", command, "sh", path]
    if subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
        raise PermissionError(errno.EACCES, "the shell could not")


def packet():
    socket.socket(getattr(socket, "AF_PACKET", 17), socket.SOCK_RAW).close()


def main():
    plan = json.loads(sys.stdin.read())
    mode, scratch = sys.argv[1:]
    found = {}
    if mode != "off":
        from locara_sidecar.engine import sandbox

        found["report"] = sandbox.confine(scratch, plan["readable"], processes=mode == "compiling").enforced
    libc = ctypes.CDLL(None, use_errno=True)
    tcp, udp, secret, outside = plan["tcp"], plan["udp"], plan["secret"], plan["outside"]
    attempts = {
        "python tcp": lambda: python_tcp(tcp),
        "python udp": lambda: python_udp(udp),
        "local stream": lambda: local_stream(plan["stream"]),
        "local datagram": lambda: local_datagram(plan["datagrams"]),
        "local datagram of a pair": lambda: local_datagram_of_a_pair(plan["datagrams"]),
        "local raw of a pair": lambda: local_datagram_of_a_pair(plan["datagrams"], socket.SOCK_RAW),
        "child stream": lambda: child(f"local_stream({plan['stream']!r})"),
        "python name": python_name,
        "python read": lambda: python_read(secret),
        "python list": lambda: python_list(outside),
        "python write": lambda: python_write(f"{outside}/python"),
        "python truncate": lambda: os.truncate(f"{outside}/long", 1),
        "python rename": lambda: os.rename(f"{outside}/long", f"{outside}/renamed"),
        "python link": lambda: os.link(secret, f"{scratch}/link"),
        "native tcp": lambda: native(libc, SOCK_STREAM, tcp),
        "native udp": lambda: native(libc, SOCK_DGRAM, udp),
        "native read": lambda: native_open(libc, secret, os.O_RDONLY),
        "native write": lambda: native_open(libc, f"{outside}/native", os.O_WRONLY | os.O_CREAT),
        "child tcp": lambda: child(f"python_tcp({tcp})"),
        "child udp": lambda: child(f"python_udp({udp})"),
        "child read": lambda: shell('cat "$1"', secret),
        "child write": lambda: shell('echo x > "$1"', f"{outside}/child"),
        "raw packets": packet,
    }
    for name, attempt in attempts.items():
        try:
            attempt()
            found[name] = "done"
        except OSError as error:
            found[name] = errno.errorcode.get(error.errno or 0, repr(error))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
