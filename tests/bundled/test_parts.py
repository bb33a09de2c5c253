"""The steps that build the bundle, one by one, on folders of a few files."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bundle import build, interpreter, libraries, licences, packages, sbom
from bundle.layout import Layout, normalise

LOCKS = sorted((Path(build.__file__).parent / "lock").glob("*.txt"))


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "bundle")
    (layout.home / "bin").mkdir(parents=True)
    (layout.home / "bin" / "python3.11").write_bytes(b"\x7fELF")
    layout.site.mkdir(parents=True)
    return layout


@pytest.mark.parametrize(
    ("machine", "system", "triple"),
    [
        ("x86_64", "linux", "x86_64-unknown-linux-gnu"),
        ("arm64", "darwin", "aarch64-apple-darwin"),
        ("AMD64", "win32", "x86_64-pc-windows-msvc"),
    ],
)
def test_the_folder_has_the_target_s_name(machine, system, triple):
    assert build.target(machine, system) == triple


def test_the_script_for_windows_refuses_half_of_what_signing_takes_before_it_builds():
    """Without a time stamp's server signtool failed, after the whole build. Only read here: it was never run."""
    text = (Path(build.__file__).parent / "windows.ps1").read_text()
    refusal = text.index("if ([bool]$Thumbprint -ne [bool]$TimestampServer) { throw ")
    assert text.index("param(") < refusal < text.index("-m venv")


def test_the_page_and_the_reasons_tell_the_same_size():
    folder = Path(build.__file__).parent
    page, why = ((folder / name).read_text() for name in ("README.md", "WHY.md"))
    told = re.search(r"\| `mlx` \| ([\d.]+) MB \| ([\d,]+) \|", page)
    reasons = re.search(r"\| size \| ([\d.]+) MB .*?\n\| files \| ([\d,]+),", why)
    assert reasons is not None
    assert told is not None
    assert told.groups() == reasons.groups()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_locked_package_is_pinned_with_hashes(lock):
    entries = [line for line in lock.read_text().splitlines() if line and not line.startswith((" ", "#"))]
    assert entries
    assert all("==" in entry and entry.endswith("\\") for entry in entries)


def test_the_locks_say_what_the_constraints_say():
    pinned = dict(
        line.lower().replace("_", "-").split("==")
        for line in Path(build.ROOT, "packaging", "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for lock in LOCKS:
        for line in lock.read_text().splitlines():
            name, _, rest = line.partition("==")
            if rest and not line.startswith(" ") and name in pinned:
                assert rest.split()[0] == pinned[name], f"{name} in {lock.name}: run make bundle-lock"


def test_what_is_left_out_is_left_out_whole():
    lock = (
        "# made\na==1 \\\n    --hash=sha256:00\nhf-xet==2 ; x \\\n    --hash=sha256:11 \\\n    --hash=sha256:22\nz==3\n"
    )
    assert packages.wanted(lock) == "# made\na==1 \\\n    --hash=sha256:00\nz==3\n"


@pytest.mark.parametrize(
    ("path", "unused"),
    [
        ("numpy/core.pyi", True),
        ("numpy/core.py", False),
        ("distutils-precedence.pth", True),
        ("PIL/_avif.cpython-311.so", True),
        ("PIL/_imaging.cpython-311.so", False),
        ("a-1.dist-info/RECORD", True),
        ("a-1.dist-info/direct_url.json", True),
        ("a-1.dist-info/licenses/LICENSE", False),
        ("mlx/lib/mlx.metallib", False),
        ("bitsandbytes/libbitsandbytes_cuda126.so", True),
        ("bitsandbytes/libbitsandbytes_rocm72.so", True),
        ("bitsandbytes/libbitsandbytes_cuda130.so", False),
        ("bitsandbytes/libbitsandbytes_cpu.so", False),
        ("nvidia/nvshmem/lib/nvshmem_transport_libfabric.so.3", True),
        ("nvidia/nvshmem/lib/libnvshmem_host.so.3", False),
        ("triton/backends/nvidia/include/cuda.h", False),
    ],
)
def test_only_what_nothing_loads_is_deleted(path, unused):
    assert packages.is_unused(path) == unused


def test_the_cuda_that_the_locked_torch_is_for_is_the_one_that_is_kept():
    lock = Path(build.__file__).parent / "lock" / "torch.txt"
    assert "\nnvidia-cudnn-cu13==" in lock.read_text(), "packages.py leaves out what is for CUDA 11 and 12"


def test_tests_and_headers_are_deleted_where_they_are_no_part_of_the_program(tmp_path):
    for name in ("a/tests/t.py", "a/include/h.h", "a/real.py", "torch/testing/tests/t.py", "a/b/tests/deep/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    packages.prune(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"a/real.py", "torch/testing/tests/t.py"}


def test_no_compiled_module_under_the_gpl_is_copied():
    names = ["readline.cpython-311-x86_64-linux-gnu.so", "_gdbm.cpython-311.so", "_ssl.cpython-311.so", "math.so"]
    assert interpreter._unused("lib/python3.11/lib-dynload", names) == set(names[:2])


def test_the_c_library_and_drivers_are_the_machine_s_own():
    needed = ["libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "libcuda.so.1", "libnvidia-ml.so.1", "libssl.so.3"]
    assert libraries.missing([*needed, "libmlx.so", "libcrypto.so.3"], ["libmlx.so"]) == {
        "libssl.so.3",
        "libcrypto.so.3",
    }


def test_the_glibc_that_is_needed_is_the_newest_that_any_file_asks_for(tmp_path):
    (tmp_path / "a.so").write_bytes(b"\x7fELF\0GLIBC_2.9\0GLIBC_2.17\0GLIBC_2.2.5\0")
    (tmp_path / "b.txt").write_bytes(b"\0GLIBC_2.99\0")
    assert libraries.glibc(tmp_path) == "2.17"


def test_times_and_permissions_say_nothing_of_the_machine_that_built(layout):
    layout.launcher.write_text("#!/bin/sh\n")
    (layout.site / "a.py").write_text("")
    (layout.site / "a.py").chmod(0o600)
    (layout.site / "empty").mkdir()
    normalise(layout, 1_700_000_000)
    found = {path.relative_to(layout.root).as_posix(): path.stat() for path in layout.root.rglob("*")}
    assert {status.st_mtime for status in found.values()} == {1_700_000_000}
    modes = {name: oct(status.st_mode & 0o777) for name, status in found.items() if "." in name.rpartition("/")[2]}
    assert modes["python/lib/python3.11/site-packages/a.py"] == "0o644"
    assert modes["python/bin/python3.11"] == "0o755"
    assert os.access(layout.launcher, os.X_OK)
    assert not (layout.site / "empty").exists()


def test_a_link_is_refused(layout):
    (layout.site / "a.py").symlink_to("/etc/passwd")
    with pytest.raises(RuntimeError, match="is a link"):
        normalise(layout, 0)


# --- the bill of materials and the licences --------------------------------------------------------


def package(layout, name, metadata, *files):
    folder = layout.site / f"{name}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{metadata}")
    for file in files:
        (folder / file).write_text("words")


def contents(layout):
    package(layout, "locara-sidecar", "License-Expression: Apache-2.0\n", "LICENSE")
    model = layout.site / "locara_sidecar" / "models" / "pocket"
    model.mkdir(parents=True)
    (model / "THIRD_PARTY_NOTICES").write_text("words")
    (model / "w.safetensors").write_bytes(b"w")
    (layout.library / "LICENSE.txt").write_text("PSF")
    return sbom.components(layout, "3.11.9", {})


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT\n", "MIT"),
        ("License: BSD\n", "BSD"),
        ("License: A long\n        text\n\nClassifier: x\n", ""),
        ("Classifier: License :: OSI Approved :: Apache Software License\n", "Apache Software License"),
    ],
)
def test_a_component_s_licence_is_what_its_package_says(layout, metadata, licence):
    package(layout, "Some_Thing", metadata)
    (found,) = (each for each in contents(layout) if each.name == "Some_Thing")
    assert found.licence == licence
    assert found.purl == "pkg:pypi/some-thing@1.0"


def test_the_bill_of_materials_is_the_same_for_the_same_contents(layout):
    known = contents(layout)
    one, same = (sbom.document(known, "t", "mlx", 1) for _ in range(2))
    assert one == same
    assert one["serialNumber"] != sbom.document([known[0], *known[2:]], "t", "mlx", 1)["serialNumber"]
    names = {each["name"] for each in one["components"]}
    assert {"CPython", "pocket", "locara-sidecar"} <= names


def test_a_component_without_a_licence_stops_the_build(layout):
    package(layout, "nameless", "")
    with pytest.raises(RuntimeError, match=r"nameless \(licence unknown\)"):
        licences.collect(layout, contents(layout), build.ROOT, Path("/nowhere"))


def test_every_component_has_its_licence_in_a_folder_of_its_own(layout):
    package(layout, "apache", "License: Apache 2.0\n")
    package(layout, "mit", "License: MIT\n", "LICENSE.md", "NOTICE")
    licences.collect(layout, contents(layout), build.ROOT, Path("/nowhere"))
    found = {path.relative_to(layout.licences).as_posix() for path in layout.licences.rglob("*") if path.is_file()}
    assert {"apache-1.0/LICENSE", "mit-1.0/LICENSE.md", "mit-1.0/NOTICE", "CPython-3.11.9/LICENSE.txt"} <= found
    assert "pocket-1.0/THIRD_PARTY_NOTICES" in found


def test_a_licence_beside_a_package_s_code_is_found_by_what_the_installer_noted(layout):
    package(layout, "maker_part", "License: Proprietary\n")
    package(layout, "mit", "License: MIT\n", "LICENSE.md")
    listed = ["maker/part/LICENSE.txt", "maker/part/license.py", "maker/part/lib.so"]
    for name in (*listed, "maker/other/LICENSE.txt"):
        (layout.site / name).parent.mkdir(parents=True, exist_ok=True)
        (layout.site / name).write_text(name)
    for name in ("maker_part", "mit"):
        record = layout.site / f"{name}-1.0.dist-info" / "RECORD"
        record.write_text("".join(f"{each},sha256=x,1\n" for each in listed))
    licences.gather(layout.site)
    packages.prune(layout.site)
    licences.collect(layout, contents(layout), build.ROOT, Path("/nowhere"))
    found = {path.name: path.read_text() for path in (layout.licences / "maker_part-1.0").iterdir()}
    assert found == {"LICENSE.txt": "maker/part/LICENSE.txt"}
    assert [path.name for path in (layout.licences / "mit-1.0").iterdir()] == ["LICENSE.md"]


# --- the launcher ---------------------------------------------------------------------------------


@pytest.fixture
def started(layout):
    """Run a launcher whose interpreter prints its arguments."""
    text = Path(build.__file__).with_name("launcher.sh").read_text()
    layout.launcher.write_text(text.replace("@PYTHON@", "python3.11"))
    layout.python.write_text('#!/bin/sh\necho "$0"; for word in "$@"; do echo "[$word]"; done\n')
    for path in (layout.launcher, layout.python):
        path.chmod(0o755)

    def run(*words, cwd=layout.root):
        done = subprocess.run(words, cwd=cwd, env={}, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return run


@pytest.mark.skipif(sys.platform == "win32", reason="no shell")
def test_the_launcher_finds_its_folder_from_anywhere(layout, started, tmp_path):
    link = tmp_path / "link to it"
    link.symlink_to("one more")
    (tmp_path / "one more").symlink_to(layout.launcher)
    for words, cwd in (
        ([str(layout.launcher)], "/"),
        (["./locara-sidecar"], layout.root),
        (["/bin/sh", "locara-sidecar"], layout.root),
        ([str(link)], "/"),
        (["../link to it"], layout.root),
    ):
        first, *_ = started(*words, cwd=cwd)
        assert os.path.isabs(first)
        assert os.path.realpath(first) == str(layout.python), words


@pytest.mark.skipif(sys.platform == "win32", reason="no shell")
def test_the_launcher_hands_on_each_word_as_it_is_to_an_isolated_interpreter(layout, started):
    _, *words = started(str(layout.launcher), "demo", "a  b", "$HOME", "")
    assert words == ["[-I]", "[-X]", "[utf8]", "[-B]", "[-m]", "[locara_sidecar]", "[demo]", "[a  b]", "[$HOME]", "[]"]
