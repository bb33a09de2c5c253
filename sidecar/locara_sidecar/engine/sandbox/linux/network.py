"""No network of any kind: Landlock covers only TCP, so datagrams, DNS and raw sockets are denied here.

There are two mechanisms, each sufficient on its own, and both are used where available: an empty network namespace, and
a system call filter (``calls.py``). The filter also denies local sockets with a path, through which a desktop's
services could be asked to do what the engine may not. What remains are local sockets that reach nobody: connected
pairs, and streams, which can only wait for connections, since connecting is denied. CUDA's driver creates one of those
when it starts and gives up without it. Neither mechanism affects devices or files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING

from locara_sidecar.engine.sandbox.linux.bpf import Denial, Unless, When

if TYPE_CHECKING:
    from locara_sidecar.engine.sandbox.linux.kernel import Kernel

_UNIX, _DATAGRAM, _RAW = 1, 2, 3
"""``AF_UNIX``, ``SOCK_DGRAM``, ``SOCK_RAW``, on every architecture except MIPS. A raw local socket sends datagrams."""
_TYPE = 0xF
"""The bits of a socket's type that are not flags."""

DENIED = (
    Denial("socket", errno.EACCES, Unless(0, (_UNIX,))),
    # datagrams can be sent without connecting, even from a pair
    *(Denial(name, errno.EACCES, When(1, (_DATAGRAM, _RAW), _TYPE)) for name in ("socket", "socketpair")),
    Denial("connect", errno.EACCES),
)
"""What is denied from then on, and the resulting errors. (io_uring, which needs none of these calls, is denied too.)"""


def leave(kernel: Kernel) -> str:
    """Move this process into an empty network namespace; returns a description of how.

    If possible, it also gets its own namespace for shared memory, semaphores and queues. Call it while there is one
    thread. If an ordinary user has to create a user namespace for it, ids stay the same and that namespace's
    capabilities are dropped.

    :raises OSError: if the system does not permit it; nothing has changed then.
    """
    assert sys.platform != "win32"
    try:
        kernel.leave_network()
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
    else:
        with contextlib.suppress(OSError):
            kernel.leave_shared_memory()
        return "in use"
    user, group = os.geteuid(), os.getegid()
    kernel.leave_network_as_user()
    with contextlib.suppress(OSError):
        kernel.leave_shared_memory()
    with contextlib.suppress(OSError):  # unmapped ids look odd but cause no harm
        with contextlib.suppress(FileNotFoundError):
            kernel.write_proc("setgroups", "deny")
        kernel.write_proc("uid_map", f"{user} {user} 1")
        kernel.write_proc("gid_map", f"{group} {group} 1")
    kernel.drop_capabilities()
    return "in use, inside a user namespace"
