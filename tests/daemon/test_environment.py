"""Unusual environments: no home, no working folder, no /proc, other encodings, foreign modules on the path."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from locara_sidecar import __main__ as program
from locara_sidecar.daemon import system
from support.host import command, error_of, manifest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="environments of POSIX")


def lines(folder, *more, options=None):
    opening = {
        "protocolVersion": 1,
        "clientInfo": {"name": "t", "version": "1"},
        "manifest": manifest(),
        "grants": {"user-folder": str(folder)},
    }
    drawing = {"prompt": "a lake", "options": {"steps": 1} | (options or {})}
    requests = [("initialize", opening), ("system.info", {}), ("image.generate", drawing), *more]
    messages = [
        {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        for number, (method, params) in enumerate(requests)
    ]
    return "".join(json.dumps(message) + "\n" for message in messages).encode()


def session(argv, folder, options=None, **spawn):
    """Open, call system.info, draw one picture and end; return the results by id. None may be an error."""
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **spawn
    ) as daemon:
        daemon.stdin.write(lines(folder, options=options))
        daemon.stdin.flush()
        answers = [json.loads(daemon.stdout.readline() or "{}") for _ in range(3)]
        daemon.stdin.close()
        status, errors = daemon.wait(5), daemon.stderr.read().decode()
    assert (status, "Traceback" in errors) == (0, False), errors
    assert all("result" in answer for answer in answers), (answers, errors)
    return {answer["id"]: answer["result"] for answer in answers}


def planted(code):
    start = f"{code}\nfrom locara_sidecar.__main__ import main\nmain()"
    return [sys.executable, "-c", start, "serve", "--engine", "fake"]


NO_USER = """
import pwd
def getpwuid(number):
    raise KeyError(number)
pwd.getpwuid = getpwuid
"""


def test_a_user_without_home_and_name_is_served(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    results = session(planted(NO_USER), tmp_path, env=environment)
    assert results[1]["cacheRoot"].startswith("/")
    assert results[1]["cacheRoot"].endswith("Locara" if sys.platform != "linux" else "/.cache/Locara")


def test_without_proc_the_system_is_told_all_the_same(tmp_path):
    told = session(planted("import psutil; psutil.PROCFS_PATH = '/nonexistent'"), tmp_path)[1]
    assert told["memory"]["total"] >= told["memory"]["available"] > 0
    assert 5e6 < told["memory"]["daemon"] < 200e6


def in_a_deleted_folder(*flags):
    script = 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$@"'
    return lambda folder: ["/bin/sh", "-c", script, str(folder / "gone"), *command("--engine", "fake", *flags)]


def test_a_deleted_working_folder_is_no_matter(tmp_path):
    session(in_a_deleted_folder("--cache-dir", str(tmp_path / "cache"))(tmp_path), tmp_path)


@pytest.mark.parametrize("variable", [None, "LOCARA_CACHE_DIR", "HOME"])
def test_a_relative_cache_folder_in_a_deleted_one_is_a_usage_error(variable, tmp_path):
    flags = ("--cache-dir", "cache") if variable is None else ()
    removed = ("LOCARA_CACHE_DIR", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {} if variable is None else {variable: "cache"}
    argv = in_a_deleted_folder(*flags)(tmp_path)
    done = subprocess.run(argv, input=b"", capture_output=True, timeout=20, env=environment)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"absolute" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
@pytest.mark.parametrize("variable", ["LOCARA_CACHE_DIR", "HOME", None])
def test_a_cache_folder_that_no_line_can_name_is_a_usage_error(variable, tmp_path):
    """Otherwise every model in it would fail, each with a different wrong name."""
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(odd)
    unset = ("LOCARA_CACHE_DIR", "XDG_CACHE_HOME", *([] if variable is None else [variable]))
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {} if variable is None else {variable: os.fsdecode(odd)}
    words = [*command("--engine", "fake"), *([] if variable else ["--cache-dir", odd])]
    done = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"caf?" in done.stderr
    assert b"is not valid UTF-8; choose another with --cache-dir" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
def test_a_granted_folder_that_no_answer_can_name_is_a_usage_error(tmp_path):
    """Otherwise the path of a picture saved there would not exist."""
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(odd)
    words = [*command("--engine", "fake"), "--grant", b"user-folder=" + odd]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"The name of the folder of user-folder is not valid UTF-8. ($.grants.user-folder)" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
def test_a_folder_for_temporary_files_that_no_line_can_name_is_done_without(tmp_path):
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(odd)
    session(command("--engine", "fake"), tmp_path, env={**os.environ, "TMPDIR": os.fsdecode(odd)})
    assert os.listdir(odd) == []


def test_a_relative_xdg_folder_is_ignored(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("LOCARA_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert str(system.cache_root(None)) == "/home/a/.cache/Locara"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert str(system.cache_root(None)) == "/cache/Locara"


def test_on_macos_the_cache_is_in_the_library_of_the_home_or_where_the_host_says(monkeypatch):
    """In the App Sandbox HOME is the app's container; a host with an app group names the group's folder."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delenv("LOCARA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    container = "/Users/a/Library/Containers/org.studio/Data"
    for home in ("/Users/a", container):
        monkeypatch.setenv("HOME", home)
        assert str(system.cache_root(None)) == f"{home}/Library/Caches/Locara"
    group = "/Users/a/Library/Group Containers/TEAM.studio/Library/Caches/Locara"
    assert str(system.cache_root(group)) == group
    monkeypatch.setenv("LOCARA_CACHE_DIR", group)
    assert str(system.cache_root(None)) == group


STRANGERS = ("argparse", "asyncio", "signal", "msgspec", "anyio", "subprocess", "tempfile", "psutil", "PIL", "ctypes")
"""Modules that the daemon and its engine import, none of them before our first line."""


@pytest.mark.parametrize("way", [("-P",), ()], ids=["an empty entry in PYTHONPATH", "python -m"])
def test_modules_in_the_hosts_working_folder_are_not_run(way, tmp_path):
    here = tmp_path / "project"
    here.mkdir()
    for name in STRANGERS:
        (here / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w').close()\n")
    given = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*(["", "/nonexistent", "."] if way else []), *given])}
    argv = [sys.executable, *way, "-m", "locara_sidecar", "serve", "--engine", "fake"]
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    session(argv, pictures, cwd=here, env=environment)
    assert [name for name in STRANGERS if (tmp_path / name).exists()] == []


def test_the_working_folder_stays_last_where_it_holds_packages_and_is_not_passed_on(monkeypatch, tmp_path):
    packages = tmp_path / "site-packages"
    packages.mkdir()
    for here, left in ((packages, ["/lib", "/opt", str(packages)]), (tmp_path, ["/lib", "/opt"])):
        monkeypatch.chdir(here)
        monkeypatch.setattr(sys, "path", [str(here), "/lib", "", "/opt"])
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "/a", ".", "b", str(here)]))
        program._leave_the_working_folder()
        assert sys.path == left
        assert os.environ["PYTHONPATH"] == os.pathsep.join(["/a", str(here / "b")])


def test_names_of_files_are_utf_8_whatever_the_locale(tmp_path):
    pictures = tmp_path / "Bilder ü 图"
    pictures.mkdir()
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    options = {"output": {"path": "große Wörter.png"}}
    results = session(command("--engine", "fake"), pictures, options, env=environment)
    assert os.listdir(os.fsencode(pictures)) == ["große Wörter.png".encode()]
    assert results[2]["images"][0]["relativePath"] == "große Wörter.png"


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONOPTIMIZE": "2"},
        {"TMPDIR": "/nonexistent"},
        {"TZ": "../../nowhere"},
        {"PYTHONINSPECT": "1"},
        {"LANG": "x"},
    ],
    ids=str,
)
def test_variables_that_a_host_may_have_set_do_no_harm(variables, tmp_path):
    session(command("--engine", "fake"), tmp_path, env=os.environ | variables)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sets another process's limit")
def test_a_limit_on_the_size_of_files_is_told_by_its_name(hosts):
    import resource

    host = hosts.session()
    resource.prlimit(host.process.pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    error = error_of(host.begin("a lake", steps=1, output={"path": "a.png"}))
    assert (error.kind, error.data["errno"]) == ("StorageError", "EFBIG")
    assert host.files() == []
    assert host.generate(steps=1, output={"mode": "inline"})["images"]


@pytest.mark.slow
def test_it_serves_where_sniffio_is_installed(hosts):
    """anyio then asks sniffio which event loop runs, and in a callback sniffio does not know."""
    assert importlib.util.find_spec("sniffio")
    host = hosts.spawn()
    host.open()
    assert [one["id"] for one in host.call("models.list", timeout=50)["models"]] == ["pocket"]
    assert host.call("models.usage", timeout=50)["entries"] is not None
    assert host.generate(steps=1)["images"]
