"""The examples of hosts in ``protocol/examples``: each is run against the daemon and prints what its page says.

An example whose toolchain is missing is skipped; if LOCARA_TOOLCHAINS names the toolchain, as in CI, it fails.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "protocol" / "examples"
PACKAGE = EXAMPLES.parent / "typescript"
SIDECAR = [sys.executable, "-m", "locara_sidecar", "serve", "--engine", "fake"]
WANTED = re.compile(
    r"((step \d of 4, preview of \d+ bytes)\n){4}"
    r"saved (?P<path>.*star\.png)\n"
    r"cancelled: RequestCancelled\n"
    r"error: InvalidParams at \$\.options\.steps\n"
)


def built(*command):
    """A way to build an example; PROGRAM stands for the program's path."""
    return lambda program: subprocess.run([word.replace("PROGRAM", str(program)) for word in command], check=True)


HOSTS = {
    "node.mjs": (["node"], None, ["node", "node.mjs"]),
    "node_package.mjs": (["node"], None, ["node", "node_package.mjs"]),
    "plain.py": ([], None, [sys.executable, "plain.py"]),
    "client.py": ([], None, [sys.executable, "client.py"]),
    "host.sh": (["bash", "jq"], None, ["bash", "host.sh"]),
    "host.rs": (
        ["rustc"],
        built("rustc", "--edition", "2021", "-o", "PROGRAM", str(EXAMPLES / "host.rs")),
        ["PROGRAM"],
    ),
    "host.go": (["go"], built("go", "build", "-o", "PROGRAM", str(EXAMPLES / "host.go")), ["PROGRAM"]),
    "Host.swift": (["swiftc"], built("swiftc", str(EXAMPLES / "Host.swift"), "-o", "PROGRAM"), ["PROGRAM"]),
}
"""File to the programs that it needs, how it is built, and how it is run."""


def needed(*programs):
    """Skips the test if a program is missing; fails it if the program was promised."""
    missing = [program for program in programs if shutil.which(program) is None]
    if set(missing) & set(os.environ.get("LOCARA_TOOLCHAINS", "").split()):
        pytest.fail(f"{', '.join(missing)} is not here, and LOCARA_TOOLCHAINS says it is")
    if missing:
        pytest.skip(f"{', '.join(missing)} is not here")


@pytest.fixture
def package(tmp_path):
    """The examples' folder beside an installed ``@locara/image``, as a project of a user has it."""
    if not (PACKAGE / "dist" / "node.js").exists():
        needed("@locara/image")  # make test-typescript builds it
    project = tmp_path / "project"
    (project / "node_modules" / "@locara").mkdir(parents=True)
    (project / "node_modules" / "@locara" / "image").symlink_to(PACKAGE, target_is_directory=True)
    shutil.copy(EXAMPLES / "node_package.mjs", project)
    return project


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", HOSTS)
def test_a_host_shows_previews_cancels_and_tells_an_error(name, tmp_path, request):
    programs, build, run = HOSTS[name]
    needed(*programs)
    where = request.getfixturevalue("package") if name == "node_package.mjs" else EXAMPLES
    program = tmp_path / "host"
    if build is not None:
        build(program)
    folder = tmp_path / "pictures"
    folder.mkdir()
    command = [word.replace("PROGRAM", str(program)) for word in run]
    done = subprocess.run([*command, str(folder), *SIDECAR], cwd=where, capture_output=True, text=True, timeout=60)
    found = WANTED.fullmatch(done.stdout)
    assert found, done.stdout + done.stderr[-2000:]
    assert done.returncode == 0
    assert [path.name for path in folder.iterdir()] == ["star.png"]
    assert Path(found["path"]).read_bytes().startswith(b"\x89PNG")


def test_none_is_longer_than_sixty_lines_and_each_is_on_the_page():
    page = (EXAMPLES / "README.md").read_text()
    for name in HOSTS:
        assert len((EXAMPLES / name).read_text().splitlines()) <= 60, name
        assert f"`{name}`" in page
    assert {path.name for path in EXAMPLES.iterdir()} == {*HOSTS, "README.md"}


def test_the_page_shows_what_they_print():
    shown = re.findall(r"^    ((?:step|saved|cancelled|error).*)$", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert WANTED.fullmatch("".join(f"{line}\n" for line in shown))


def test_a_toolchain_that_is_promised_must_be_there(monkeypatch):
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not here"):
        needed("no-such-program")
    monkeypatch.setenv("LOCARA_TOOLCHAINS", "node no-such-program")
    with pytest.raises(pytest.fail.Exception):
        needed("no-such-program")
