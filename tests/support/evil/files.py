"""Acts on files: the user's own, the granted models', the installation's."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import sys

from support.evil import Skipped, World, act, numbered, raw

FILES = "files"
_HERE = -100


@act(FILES, "read a file of the user's")
def read(world: World) -> None:
    with open(f"{world.home}/secret") as file:
        file.read()


@act(FILES, "read it through a path from the working folder")
def read_relative(world: World) -> None:
    os.chdir(world.home)
    try:
        with open("secret") as file:
            file.read()
    finally:
        os.chdir(world.scratch)


@act(FILES, "read it through the root of another process")
def read_through_root(world: World) -> None:
    with open(f"/proc/{world.victim}/root{world.home}/secret") as file:
        file.read()


@act(FILES, "list a folder of the user's")
def list_folder(world: World) -> None:
    os.listdir(world.home)


@act(FILES, "make a file there")
def make(world: World) -> None:
    with open(f"{world.home}/new", "w") as file:
        file.write("x")


@act(FILES, "make a folder there")
def make_folder(world: World) -> None:
    os.mkdir(f"{world.home}/folder")


@act(FILES, "truncate a file")
def truncate(world: World) -> None:
    os.truncate(f"{world.home}/long", 1)


@act(FILES, "rename a file")
def rename(world: World) -> None:
    os.rename(f"{world.home}/long", f"{world.home}/renamed")


@act(FILES, "move a file into scratch")
def move(world: World) -> None:
    os.rename(f"{world.home}/secret", f"{world.scratch}/moved")


@act(FILES, "link a file into scratch")
def link(world: World) -> None:
    os.link(f"{world.home}/secret", f"{world.scratch}/linked")


@act(FILES, "read through a symbolic link in scratch")
def symbolic_link(world: World) -> None:
    os.symlink(f"{world.home}/secret", f"{world.scratch}/symbolic")
    with open(f"{world.scratch}/symbolic") as file:
        file.read()


@act(FILES, "remove a file")
def remove(world: World) -> None:
    os.unlink(f"{world.home}/long")


def _request(world: World, number: int, size: int, of: str = "weights") -> None:
    """A file system's own request about a granted file."""
    fd = os.open(f"{world.model}/{of}", os.O_RDONLY)
    try:
        fcntl.ioctl(fd, number, bytearray(size))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
            raise Skipped("this file system has none") from None
        raise
    finally:
        os.close(fd)


@act(FILES, "set the version of the granted weights")
def version(world: World) -> None:
    _request(world, 0x40086604, 8)  # EXT4_IOC_SETVERSION_OLD


@act(FILES, "have the granted weights laid out anew")
def layout(world: World) -> None:
    _request(world, 0x660C, 0)  # EXT4_IOC_ALLOC_DA_BLKS


@act(FILES, "ask where on the disk the granted weights are")
def blocks(world: World) -> None:
    _request(world, 0xC020660B, 32)  # FS_IOC_FIEMAP


@act(FILES, "write the granted weights")
def write_weights(world: World) -> None:
    with open(f"{world.model}/weights", "r+") as file:
        file.write("x")


@act(FILES, "remove the granted weights")
def remove_weights(world: World) -> None:
    os.unlink(f"{world.model}/weights")


@act(FILES, "write into the installation")
def write_installation(world: World) -> None:
    path = f"{sys.prefix}/locara-evil"
    with open(path, "w"):
        os.unlink(path)


@act(FILES, "read the system's password hashes")
def shadow(world: World) -> None:
    with open("/etc/shadow") as file:
        file.read(1)


@act(FILES, "make a program in scratch that runs as the user whoever starts it")
def set_user_id(world: World) -> None:
    os.close(os.open(f"{world.scratch}/as-user", os.O_WRONLY | os.O_CREAT, 0o4755))


@act(FILES, "make a node of such a program")
def set_user_id_node(world: World) -> None:
    os.mknod(f"{world.scratch}/as-user-node", stat.S_IFREG | 0o6755)


@act(FILES, "make such a program without a name")
def set_user_id_unnamed(world: World) -> None:
    os.close(os.open(world.scratch, os.O_WRONLY | getattr(os, "O_TMPFILE", 0), 0o4755))


@act(FILES, "make such a program by openat2")
def set_user_id_in_memory(world: World) -> None:
    how = struct.pack("=QQQ", os.O_WRONLY | os.O_CREAT, 0o4755, 0)
    os.close(raw("openat2", _HERE, f"{world.scratch}/as-user-2".encode(), how, len(how)))


@act(FILES, "make a device node")
def device_node(world: World) -> None:
    os.mknod(f"{world.scratch}/disk", 0o600 | stat.S_IFBLK, os.makedev(7, 0))


@act(FILES, "write a file of a terabyte")
def large(world: World) -> None:
    fd = os.open(f"{world.scratch}/large", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(fd, 1 << 40)
    finally:
        os.close(fd)
        os.unlink(f"{world.scratch}/large")


@act(FILES, "chmod by name")
def chmod(world: World) -> None:
    os.chmod(f"{world.home}/secret", 0o666)


@act(FILES, "fchmodat2")
def chmod_again(world: World) -> None:
    raw("fchmodat2", _HERE, f"{world.home}/secret".encode(), 0o666, 0)


@act(FILES, "chmod of the granted weights, by descriptor")
def chmod_descriptor(world: World) -> None:
    with open(f"{world.model}/weights") as file:
        os.fchmod(file.fileno(), 0o666)


@act(FILES, "chmod in scratch through a link out of it")
def chmod_link(world: World) -> None:
    if not os.path.islink(f"{world.scratch}/out"):
        os.symlink(f"{world.home}/secret", f"{world.scratch}/out")
    os.chmod(f"{world.scratch}/out", 0o644)


@act(FILES, "chown")
def chown(world: World) -> None:
    os.chown(f"{world.home}/secret", os.getuid(), os.getgid())


@act(FILES, "chown by descriptor")
def chown_descriptor(world: World) -> None:
    with open(f"{world.model}/weights") as file:
        os.fchown(file.fileno(), os.getuid(), os.getgid())


@act(FILES, "change a file's times")
def times(world: World) -> None:
    os.utime(f"{world.home}/secret", (1, 1))


@act(FILES, "change the times of the granted weights, by descriptor")
def times_descriptor(world: World) -> None:
    with open(f"{world.model}/weights") as file:
        os.utime(file.fileno(), (1, 1))


@act(FILES, "set an extended attribute")
def attribute(world: World) -> None:
    try:
        os.setxattr(f"{world.home}/secret", "user.evil", b"x")
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise Skipped("this file system has none") from None
        raise


@act(FILES, "read an extended attribute")
def get_attribute(world: World) -> None:
    os.getxattr(f"{world.home}/secret", "user.kept")


@act(FILES, "list extended attributes")
def list_attributes(world: World) -> None:
    os.listxattr(f"{world.home}/secret")


@act(FILES, "change the weights' memory past its protection")
def own_memory(world: World) -> None:
    with open(f"{world.model}/weights", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    with open("/proc/self/maps") as file:
        where = next(int(line.split("-")[0], 16) for line in file if line.endswith("/model/weights\n"))
    memory = os.open(f"/proc/self/task/{os.getpid()}/mem", os.O_RDWR)
    try:
        os.pwrite(memory, b"evil", where)
    finally:
        os.close(memory)
        mapped.close()


@act(FILES, "exchange the weights with a file in scratch")
def exchange(world: World) -> None:
    with open(f"{world.scratch}/exchanged", "w") as file:
        file.write("evil")
    numbers = {"x86_64": 316, "aarch64": 276}
    names = (f"{world.scratch}/exchanged".encode(), f"{world.model}/weights".encode())
    numbered(numbers[os.uname().machine], _HERE, names[0], _HERE, names[1], 2)


@act(FILES, "link the weights into scratch")
def link_weights(world: World) -> None:
    os.link(f"{world.model}/weights", f"{world.scratch}/linked-weights")


@act(FILES, "read through a descriptor that only names a file")
def by_name_only(world: World) -> None:
    folder = os.open(world.home, os.O_PATH)
    try:
        os.close(os.open("secret", os.O_RDONLY, dir_fd=folder))
    finally:
        os.close(folder)


@act(FILES, "remove an extended attribute")
def attribute_removed(world: World) -> None:
    try:
        os.removexattr(f"{world.home}/secret", "user.kept")
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENODATA):
            raise Skipped("there is none to remove") from None
        raise


@act(FILES, "set the flags of the granted weights")
def flags(world: World) -> None:
    with open(f"{world.model}/weights") as file:
        try:
            fcntl.ioctl(file.fileno(), 0x40086602, ctypes.c_int(0x80))  # FS_IOC_SETFLAGS, noatime
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
                raise Skipped("this file system has none") from None
            raise


@act(FILES, "watch a folder of the user's")
def watch(world: World) -> None:
    fd = raw("inotify_init1", 0)
    try:
        raw("inotify_add_watch", fd, world.home.encode(), 0xFFF)
    finally:
        os.close(fd)


@act(FILES, "watch it by fanotify")
def watch_more(world: World) -> None:
    os.close(raw("fanotify_init", 0x200, 0))  # FAN_REPORT_FID, which an ordinary user may


@act(FILES, "be signalled what happens in a granted folder")
def notified(world: World) -> None:
    fd = os.open(world.model, os.O_RDONLY)
    try:
        fcntl.fcntl(fd, fcntl.F_NOTIFY, fcntl.DN_ACCESS)
    finally:
        os.close(fd)


@act(FILES, "name a file by a handle")
def handle(world: World) -> None:
    buffer = ctypes.create_string_buffer(136)
    buffer[0:4] = (128).to_bytes(4, "little")
    mount = ctypes.c_int()
    raw("name_to_handle_at", _HERE, f"{world.home}/secret".encode(), ctypes.byref(buffer), ctypes.byref(mount), 0)


@act(FILES, "open a file by a handle")
def open_handle(world: World) -> None:
    buffer = ctypes.create_string_buffer(136)
    raw("open_by_handle_at", _HERE, ctypes.byref(buffer), 0)
