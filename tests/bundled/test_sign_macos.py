"""What can be tested of macOS signing without a Mac: which files, in which order, with which options."""

import plistlib
import struct
from pathlib import Path

import pytest

from bundle import macho, sign_macos

PROGRAM, LIBRARY, BUNDLE = 2, 6, 8


def thin(kind, *commands, order="<"):
    magic = 0xFEEDFACF
    body = b"".join(struct.pack(f"{order}II", command, 16) + bytes(8) for command in commands)
    return struct.pack(f"{order}8I", magic, 0, 0, kind, len(commands), len(body), 0, 0) + body


def universal(*slices):
    head, body, at = b"", b"", 4096
    for each in slices:
        head += struct.pack(">5I", 0, 0, at + len(body), len(each), 0)
        body += each
    return (struct.pack(">2I", 0xCAFEBABE, len(slices)) + head).ljust(at, b"\0") + body


@pytest.fixture
def folder(tmp_path):
    files = {
        "python/bin/python3.13": thin(PROGRAM),
        "python/lib/libpython3.13.dylib": thin(LIBRARY),
        "python/lib/python3.13/lib-dynload/_ssl.so": universal(thin(BUNDLE), thin(BUNDLE)),
        "python/lib/python3.13/site-packages/a/deep/no_suffix": thin(LIBRARY, order=">"),
        "python/lib/python3.13/site-packages/a/tool": universal(thin(PROGRAM)),
        "python/lib/python3.13/site-packages/a/text.so": b"#!/bin/sh\n",
        "python/lib/python3.13/site-packages/a/Java.class": b"\xca\xfe\xba\xbe\0\0\0\x41" + bytes(40),
        "python/lib/python3.13/site-packages/a/empty.dylib": b"",
        "locara-sidecar": b"#!/bin/sh\n",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "python/lib/linked.dylib").symlink_to("libpython3.13.dylib")
    return tmp_path


def test_mach_o_files_are_found_by_what_they_are(folder):
    found = {path.relative_to(folder).as_posix(): what for path, what in macho.inside_out(folder)}
    assert found == {
        "python/bin/python3.13": "program",
        "python/lib/libpython3.13.dylib": "library",
        "python/lib/python3.13/lib-dynload/_ssl.so": "library",
        "python/lib/python3.13/site-packages/a/deep/no_suffix": "library",
        "python/lib/python3.13/site-packages/a/tool": "program",
    }


def test_what_is_inside_is_signed_before_what_is_around_it(folder):
    order = [path for path, _ in macho.inside_out(folder)]
    kinds = [what for _, what in macho.inside_out(folder)]
    assert kinds == sorted(kinds)  # libraries, then programs
    for at, path in enumerate(order):
        later = [other for other, what in zip(order[at:], kinds[at:], strict=True) if what == kinds[at]]
        assert all(len(other.parts) <= len(path.parts) for other in later)


def test_every_file_is_signed_with_the_hardened_runtime_and_a_time(folder):
    lines = sign_macos.signing(folder, "Developer ID Application: X", sandboxed=False)
    assert [Path(words[-1]) for words in lines] == [path for path, _ in macho.inside_out(folder)]
    for words in lines:
        assert words[words.index("--options") + 1] == "runtime"
        assert "--timestamp" in words
        assert "--deep" not in words


def test_programs_in_the_app_sandbox_inherit_it_and_libraries_get_nothing(folder):
    lines = sign_macos.signing(folder, "X", sandboxed=True)
    given = {Path(words[-1]).name for words in lines if "--entitlements" in words}
    assert given == {"python3.13", "tool"}
    assert not any("--entitlements" in words for words in sign_macos.signing(folder, "X", sandboxed=False))


def test_the_entitlements_are_exactly_these():
    plain, inherited = (plistlib.loads(sign_macos.entitlements(sandboxed=each).read_bytes()) for each in (False, True))
    assert plain == {}
    assert inherited == {"com.apple.security.app-sandbox": True, "com.apple.security.inherit": True}


@pytest.mark.parametrize(
    ("shown", "hardened"),
    [
        ("CodeDirectory v=20500 size=1 flags=0x10000(runtime) hashes=1\nAuthority=Developer ID Application: X\n", True),
        ("CodeDirectory v=20400 size=1 flags=0x20002(adhoc,linker-signed) hashes=1\nSignature=adhoc\n", False),
        ("CodeDirectory v=20500 size=1 flags=0x0(none) hashes=1\nAuthority=Developer ID Application: X\n", False),
        ("CodeDirectory v=20500 size=1 flags=0x10002(adhoc,runtime) hashes=1\n", False),
        ("runtime: code object is not signed at all\n", False),
    ],
)
def test_a_signature_of_nobody_does_not_count(shown, hardened):
    assert sign_macos.is_hardened(shown) == hardened


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ('{"id": "1-2", "status": "Accepted", "message": "Processing complete"}', None),
        ('{"id": "1-2", "status": "Invalid", "message": "Processing complete"}', "notarytool log 1-2"),
        ('{"message": "no status"}', "cannot be read"),
        ("", "cannot be read"),
        ("[]", "cannot be read"),
    ],
)
def test_what_the_notary_refused_is_not_notarised_though_its_tool_ends_with_0(answer, why):
    said = sign_macos.refusal(answer, "profile")
    assert said is None if why is None else why in said


def test_the_notary_is_asked_for_an_answer_that_can_be_read():
    words = sign_macos.submitting(Path("a.zip"), "profile")
    assert words[words.index("--output-format") + 1] == "json"
    assert "--wait" in words


def test_room_for_a_signature_is_seen(tmp_path):
    (tmp_path / "signed").write_bytes(thin(LIBRARY, 0x19, 0x1D))
    (tmp_path / "bare").write_bytes(thin(LIBRARY, 0x19))
    assert macho.has_signature(tmp_path / "signed")
    assert not macho.has_signature(tmp_path / "bare")


def test_a_folder_for_another_system_is_refused(tmp_path):
    (tmp_path / "python3.13").write_bytes(b"\x7fELF" + bytes(60))
    with pytest.raises(RuntimeError, match="no program for macOS"):
        sign_macos.signing(tmp_path, "X", sandboxed=False)
