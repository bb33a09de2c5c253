"""Acts that reach others: the network, local services, shared memory, queues, keyrings."""

from __future__ import annotations

import ctypes
import os
import socket

from support.evil import World, act, raw

NETWORK, SHARED = "network", "shared"


@act(NETWORK, "connect over TCP")
def tcp(world: World) -> None:
    socket.create_connection(("127.0.0.1", world.tcp), timeout=5).close()


@act(NETWORK, "send by TCP's fast open")
def fast_open(world: World) -> None:
    with socket.socket() as stream:
        stream.settimeout(5)
        stream.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", world.tcp))


@act(NETWORK, "serve over TCP")
def serve(world: World) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()


@act(NETWORK, "send a datagram")
def udp(world: World) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(b"x", ("127.0.0.1", world.udp))


@act(NETWORK, "send a datagram over IPv6")
def udp6(world: World) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(b"x", ("::1", world.udp))


@act(NETWORK, "ask for a name")
def name(world: World) -> None:
    try:
        socket.getaddrinfo("localhost.locara.invalid", 80)
    except socket.gaierror as error:
        raise PermissionError(1, str(error)) from None


@act(NETWORK, "talk to the kernel's network (netlink)")
def netlink(world: World) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.bind((0, 0))


@act(NETWORK, "listen to raw packets")
def packets(world: World) -> None:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


@act(NETWORK, "talk to the host of a virtual machine")
def vsock(world: World) -> None:
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()


@act(NETWORK, "connect to a service with a path")
def stream(world: World) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(world.stream)


@act(NETWORK, "connect to a service with an abstract name")
def abstract(world: World) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(f"\0{world.abstract}")


@act(NETWORK, "send a datagram to a service with a path")
def datagram(world: World) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.sendto(b"x", world.datagrams)


@act(NETWORK, "send one by half of a pair")
def pair(world: World) -> None:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, two:
        one.sendto(b"x", world.datagrams)


@act(NETWORK, "set up rings for calls")
def rings(world: World) -> None:
    parameters = ctypes.create_string_buffer(120)
    os.close(raw("io_uring_setup", 4, ctypes.byref(parameters)))


@act(SHARED, "attach shared memory of another process")
def attach(world: World) -> None:
    raw("shmat", world.segment, None, 0)


@act(SHARED, "remove it")
def remove(world: World) -> None:
    raw("shmctl", world.segment, 0, None)


@act(SHARED, "make shared memory")
def make(world: World) -> None:
    segment = raw("shmget", 0, 4096, 0o600)
    raw("shmctl", segment, 0, None)


@act(SHARED, "use semaphores of another process")
def semaphores(world: World) -> None:
    raw("semctl", world.semaphores, 0, 16, 7)  # SETVAL


@act(SHARED, "send to a queue of another process")
def queue(world: World) -> None:
    raw("msgsnd", world.queue, (1).to_bytes(8, "little") + b"x", 1, 0o4000)


@act(SHARED, "make a POSIX queue")
def posix_queue(world: World) -> None:
    os.close(raw("mq_open", b"locara-evil", os.O_RDWR | os.O_CREAT, 0o600, None))
    raw("mq_unlink", b"locara-evil")


@act(SHARED, "make shared memory with a name")
def named(world: World) -> None:
    path = f"/dev/shm/locara-evil-{os.getpid()}"
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    os.unlink(path)


@act(SHARED, "look at the user's keyring")
def keyring(world: World) -> None:
    raw("keyctl", 0, -4, 1, 0, 0)  # GET_KEYRING_ID, the user's


@act(SHARED, "read the user's keyring")
def read_keyring(world: World) -> None:
    raw("keyctl", 11, -4, None, 0, 0)


@act(SHARED, "revoke the session's keyring")
def revoke(world: World) -> None:
    raw("keyctl", 1, None, 0, 0, 0)  # JOIN_SESSION_KEYRING: a new one, so that this harms nobody


@act(SHARED, "add a key")
def add(world: World) -> None:
    raw("add_key", b"user", b"locara-evil", b"x", 1, -2)  # the process's own keyring
