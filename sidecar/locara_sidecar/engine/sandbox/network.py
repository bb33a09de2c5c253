"""No network of any kind: Landlock covers TCP only, so datagrams, names and raw sockets are taken away here.

Two means, each enough by itself, and both are used where the system has them: an empty network namespace, and a
filter on the system calls that make sockets (through libseccomp, which comes with most distributions). The filter also
closes local sockets with a path, through which a desktop's services could be asked to do what the engine may not; pairs
of connected sockets go on working. Neither touches devices or files.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from locara_sidecar.engine.sandbox.kernel import Kernel

DENIED = {
    "socket": errno.EACCES,
    "connect": errno.EACCES,  # half of a pair of datagram sockets could be connected to another address
    "bind": errno.EACCES,
    "io_uring_setup": errno.ENOSYS,  # rings make and connect sockets without the calls above
}
"""System calls and the error that they give from then on."""


def leave(kernel: Kernel) -> str:
    """Move this process into an empty network namespace; returns how that went, in words.

    Call it while there is one thread. Where an ordinary user has to make a user namespace for it, ids stay what
    they are and the capabilities of that namespace are given up.

    :raises OSError: where the system does not permit it; nothing has changed then.
    """
    try:
        kernel.leave_network()
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
    else:
        return "in use"
    user, group = os.geteuid(), os.getegid()
    kernel.leave_network_as_user()
    with contextlib.suppress(OSError):  # ids that are not mapped look odd and cost nothing
        with contextlib.suppress(FileNotFoundError):
            kernel.write_proc("setgroups", "deny")
        kernel.write_proc("uid_map", f"{user} {user} 1")
        kernel.write_proc("gid_map", f"{group} {group} 1")
    kernel.drop_capabilities()
    return "in use, inside a user namespace"


def filter_calls(kernel: Kernel) -> str:
    """Deny the calls of :data:`DENIED`; returns the library that was used.

    :raises OSError: where there is no such library, or the kernel refuses.
    """
    return f"in use, libseccomp {kernel.deny_calls(DENIED)}"
