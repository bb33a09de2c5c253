"""No network of any kind: Landlock covers TCP only, so datagrams, names and raw sockets are taken away here.

Two means, each enough by itself, and both are used where the system has them: an empty network namespace, and a
filter on system calls (``calls.py``), which also closes local sockets
with a path, through which a desktop's services could be asked to do what the engine may not. What it leaves are local
sockets that reach nobody: connected pairs, and streams, which can only wait to be connected to, since connecting is
denied. CUDA's driver makes one of those when it starts and gives up without it. Neither touches devices or files.
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
"""``AF_UNIX``, ``SOCK_DGRAM``, ``SOCK_RAW``, on every architecture but MIPS; a raw local socket is a datagram one."""
_TYPE = 0xF
"""The bits of a socket's type that are not flags."""

DENIED = (
    Denial("socket", errno.EACCES, Unless(0, (_UNIX,))),
    # datagrams need no connection to be sent, not even those of a pair
    *(Denial(name, errno.EACCES, When(1, (_DATAGRAM, _RAW), _TYPE)) for name in ("socket", "socketpair")),
    Denial("connect", errno.EACCES),
)
"""What is denied from then on, and the error that it gives. (Rings, which need none of these calls, are denied too.)"""


def leave(kernel: Kernel) -> str:
    """Move this process into an empty network namespace, and into one of its own for shared memory, semaphores and
    queues where there is such a thing; returns how that went, in words.

    Call it while there is one thread. Where an ordinary user has to make a user namespace for it, ids stay what
    they are and the capabilities of that namespace are given up.

    :raises OSError: where the system does not permit it; nothing has changed then.
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
    with contextlib.suppress(OSError):  # ids that are not mapped look odd and cost nothing
        with contextlib.suppress(FileNotFoundError):
            kernel.write_proc("setgroups", "deny")
        kernel.write_proc("uid_map", f"{user} {user} 1")
        kernel.write_proc("gid_map", f"{group} {group} 1")
    kernel.drop_capabilities()
    return "in use, inside a user namespace"
