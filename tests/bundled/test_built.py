"""The folder that ``make bundle`` builds works on machines without Python. ``make test-bundle`` sets LOCARA_BUNDLE to
it, and LOCARA_BUNDLE_TOOLS to the tools that read it."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from locara_protocol.client import RemoteError, Sidecar
from locara_sidecar.machine import bundle
from support import clean_room
from support.host import eventually, manifest
from support.hub import FakeHub
from support.model_store import entry_data

BUNDLE = Path(os.environ.get("LOCARA_BUNDLE", "/nonexistent"))
TOOLS = Path(os.environ.get("LOCARA_BUNDLE_TOOLS", "/nonexistent"))
ROOT = Path(__file__).parents[2]
AT = "/opt/Größe 图 app/side car"
NOBODY = 65534
POISONED = {"PYTHONHOME": "/nope", "PYTHONPATH": "/nope", "LD_LIBRARY_PATH": "/nope", "HOME": "/tmp/home"}
FACTS = json.loads((BUNDLE / bundle.FACTS).read_text()) if BUNDLE.exists() else {"engine": "none"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not BUNDLE.exists(), reason="make test-bundle names a built folder"),
]
needs_engine = pytest.mark.skipif(FACTS["engine"] == "none", reason="built without an engine")
needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="another root folder takes root on Linux",
)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Run a command of the bundle, mounted read-only in a root folder that has only the C library and ``sh``."""
    given = os.environ.get("LOCARA_CLEAN_ROOM")  # for example one made by debootstrap
    root = Path(given) if given else clean_room.minimal(tmp_path_factory.mktemp("room"))

    def run(*words, user=NOBODY, env=POISONED):
        line = clean_room.command(root, BUNDLE, AT, f"{AT}/locara-sidecar", *words, user=user)
        return subprocess.run(line, env=env, capture_output=True, text=True, timeout=280, check=False)

    return run


@pytest.fixture
def moved(tmp_path):
    """A copy, made of hard links, at a path with spaces and non-ASCII letters. To change a file, replace it."""
    folder = tmp_path / "Größe 图" / "a b"
    shutil.copytree(BUNDLE, folder, copy_function=os.link)
    return folder


def replace(path, text):
    path.unlink()
    path.write_text(text)


def session(folder, out, *flags, stderr=subprocess.DEVNULL):
    out.mkdir(exist_ok=True)
    sidecar = Sidecar([str(folder / "locara-sidecar"), "serve", *flags], env={"HOME": str(out)}, stderr=stderr)
    asked = manifest("pocket", fs={"user-folder": "read-write", "user-selected": "read-write"})
    asked["modalities"].append("image-to-image")
    sidecar.initialize(manifest=asked, grants={"user-folder": str(out)})
    return sidecar


def drawn(sidecar, **options):
    result = sidecar.call("image.generate", {"prompt": "a red circle", "options": options}, timeout=200)
    return Path(result["images"][0]["path"])


# --- without Python ---------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("user", [0, NOBODY])
def test_where_no_python_is_the_engine_is_confined(room, user):
    done = room("doctor", "--json", user=user)
    told = json.loads(done.stdout)
    assert told["sandbox"]["enforced"], told["sandbox"]
    available = {engine["name"] for engine in told["engines"] if engine["available"]}
    assert available == {"fake", FACTS["engine"]} - {"none"}


@needs_root
def test_where_no_python_is_the_list_of_files_is_checked(room):
    done = room("doctor", "--verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("as built.\n")


@needs_root
@needs_engine
def test_where_no_python_is_pocket_is_drawn(room):
    done = room("demo", "a red circle", "--engine", FACTS["engine"], "--steps", "1", "--out", "/tmp/out")
    assert done.returncode == 0, done.stderr
    assert f"pocket on {FACTS['engine']}" in done.stdout


@needs_engine
def test_a_model_is_downloaded_and_tried_by_the_engine(moved, tmp_path):
    hub = FakeHub()
    hub.add("org/mine", ROOT / "sidecar" / "locara_sidecar" / "models" / "pocket")
    catalogue = tmp_path / "catalogue"
    catalogue.mkdir()
    (catalogue / "mine.json").write_text(json.dumps(entry_data("mine", "org/mine")))
    words = [moved / "locara-sidecar", "models", "download", "mine", "--catalogue", catalogue]
    environment = {**POISONED, "HF_ENDPOINT": hub.url, "HOME": str(tmp_path)}
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280, check=False)
    finally:
        hub.close()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mine is installed" in done.stdout


# --- moved, updated, left alone -----------------------------------------------------------------------


def test_one_process_for_the_daemon_and_one_for_the_engine(moved, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(moved)
    with session(link, tmp_path / "out", "--engine", "fake") as sidecar:
        assert drawn(sidecar).stat().st_size
        daemon = psutil.Process(sidecar.process.pid)
        engines = daemon.children(recursive=True)
        assert len(engines) == 1
        for process in (daemon, *engines):
            assert Path(process.exe()) == moved / FACTS["commandWithoutShell"][0]
            assert process.cmdline()[1:5] == ["-I", "-X", "utf8", "-B"]


def test_the_daemon_and_its_engine_end_with_their_host(moved, tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from bundled.test_built import session;"
        "s = session(Path(sys.argv[1]), Path(sys.argv[2]), '--engine', 'fake');"
        "s.start('image.generate', {'prompt': 'x', 'options': {'steps': 50}}, stream=True);"
        "print(s.process.pid, flush=True); time.sleep(100)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "LOCARA_FAKE_STEP_MS": "2000"}
    words = [sys.executable, "-c", program, str(moved), str(tmp_path / "out")]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as host:
        daemon = psutil.Process(int(host.stdout.readline()))
        family = [daemon, *daemon.children(recursive=True)]
        host.kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []


def test_an_old_daemon_draws_on_when_an_update_has_replaced_its_folder(moved, tmp_path):
    """An engine started after the update comes from the new folder, and so do modules that the daemon imports later."""
    with session(moved, tmp_path / "out", "--engine", "fake") as sidecar:
        first = drawn(sidecar, seed=1)
        moved.rename(moved.parent / "old")
        shutil.copytree(BUNDLE, moved, copy_function=os.link)
        shutil.rmtree(moved.parent / "old")
        assert drawn(sidecar, seed=1).read_bytes() == first.read_bytes()
        psutil.Process(sidecar.process.pid).children()[0].kill()
        assert drawn(sidecar, seed=1).read_bytes() == first.read_bytes()
        assert sidecar.call("system.info", timeout=60)["version"] == FACTS["version"]
    with session(moved, tmp_path / "out", "--engine", "fake") as sidecar:
        assert drawn(sidecar).exists()


@needs_engine
@pytest.mark.parametrize(("phase", "image"), [("loading", 1), ("encoding", 1), ("denoising", 1), ("denoising", 2)])
def test_what_an_old_daemon_draws_as_its_folder_is_replaced_is_drawn(moved, tmp_path, phase, image):
    """Its confined engine can import nothing more, so another one draws the picture again; the host sees one job."""
    new, old, steps = moved.with_name("new"), moved.with_name("old"), []
    shutil.copytree(BUNDLE, new, copy_function=os.link)
    with session(moved, tmp_path / "out") as sidecar:
        options = {"seed": 7, "steps": 4, "count": 2}
        call = sidecar.start("image.generate", {"prompt": "a red circle", "options": options}, stream=True)
        for step in call.messages():
            if (step["phase"], step["image"]) == (phase, image) and new.exists():
                moved.rename(old)
                new.rename(moved)
                shutil.rmtree(old)
            steps += [(step["image"], step["step"])] if step["phase"] == "denoising" and step["step"] else []
        drawn_first = [Path(image["path"]).read_bytes() for image in call.result()["images"]]
        assert steps == [(image, step) for image in (1, 2) for step in (1, 2, 3, 4)]
        for kind in ("jpeg", "webp"):
            assert drawn(sidecar, steps=1, output={"mimeType": f"image/{kind}"}).exists()
        again = sidecar.call("image.generate", {"prompt": "a red circle", "options": options}, timeout=200)["images"]
        assert [Path(image["path"]).read_bytes() for image in again] == drawn_first
        assert not sidecar.violations


@pytest.mark.skipif(sys.platform == "win32", reason="a process keeps its id only elsewhere")
@pytest.mark.parametrize("module", ["machine/supported", "daemon/process/hostwatch"])
def test_a_daemon_that_is_started_as_its_folder_is_replaced_starts_from_the_new_one(moved, tmp_path, module):
    """It ended with status 1."""
    new, old = moved.with_name("new"), moved.with_name("old")
    shutil.copytree(BUNDLE, new, copy_function=os.link)
    file = next(moved.rglob(f"locara_sidecar/{module}.py"))
    next(file.parent.glob(f"__pycache__/{file.stem}.*.pyc")).unlink()
    replace(
        file,
        f"import os\nos.rename({str(moved)!r}, {str(old)!r})\nos.rename({str(new)!r}, {str(moved)!r})\nimport gone",
    )
    with session(moved, tmp_path / "out", "--engine", "fake") as sidecar:
        assert drawn(sidecar, seed=1).exists()
        assert sidecar.call("models.list", timeout=60)["models"]
    assert new.exists() == (module == "models/cache/digest")


def test_an_old_daemon_needs_no_module_of_a_new_version_that_has_none_of_that_name(moved, tmp_path):
    log = tmp_path / "log"
    flags = ("--engine", "fake", "--allow-model-management", "--log-level", "debug")
    with log.open("wb") as stderr, session(moved, tmp_path / "out", *flags, stderr=stderr) as sidecar:
        modules = next(moved.rglob("locara_sidecar/daemon")).parent
        assert eventually(lambda: "modules are kept" in log.read_text(), 60)
        for gone in ("daemon", "capability", "models/cache", "models/imports"):
            shutil.rmtree(modules / gone)
        picture = drawn(sidecar, seed=1)
        source = {"data": base64.b64encode(picture.read_bytes()).decode(), "mimeType": "image/png"}
        assert sidecar.call("image.edit", {"prompt": "a red circle", "image": source}, timeout=60)["images"]
        assert sidecar.call("host.pickFile", {"path": str(picture), "access": "read"})["handle"]
        for method in ("models.list", "models.usage", "models.gc", "jobs.list", "audit.capabilityLog"):
            assert sidecar.call(method, timeout=60), method
        assert sidecar.call("system.info", timeout=60)["version"] == FACTS["version"]


def test_an_old_daemon_needs_nothing_of_a_new_version_s_python(moved, tmp_path):
    """Calls that need a process of the new version say that there is none."""
    log = tmp_path / "log"
    flags = ("--engine", "fake", "--allow-model-management", "--allow-downloads", "--log-level", "debug")
    with log.open("wb") as stderr, session(moved, tmp_path / "out", *flags, stderr=stderr) as sidecar:
        assert eventually(lambda: "modules are kept" in log.read_text(), 60)
        library = next(moved.rglob("site-packages")).parent
        library.rename(library.with_name("python4.0"))

        def refused(method, params):
            with pytest.raises(RemoteError) as caught:
                sidecar.call(method, params, timeout=60)
            return caught.value.kind

        for method in ("system.info", "rpc.discover", "models.list", "models.usage", "models.gc", "jobs.list"):
            assert sidecar.call(method, timeout=60) is not None, method
        picked = sidecar.call("host.pickFile", {"path": str(tmp_path / "out" / "new.png"), "access": "write"})
        options = {"output": {"handle": picked["handle"]}}
        assert refused("image.generate", {"prompt": "x", "options": options}) == "EngineUnavailable"
        assert refused("image.generate", {"prompt": "x", "options": {"stepz": 4}}) == "InvalidParams"
        assert refused("models.load", {"model": "pocket"}) == "EngineUnavailable"
        assert not sidecar.violations


@needs_engine
def test_an_old_daemon_whose_model_is_elsewhere_after_an_update_says_so(moved, tmp_path):
    """Pocket is below the Python's folder. It used to be reported as not installed, or as a damaged file."""
    log = tmp_path / "log"
    with log.open("wb") as stderr, session(moved, tmp_path / "out", "--log-level", "debug", stderr=stderr) as sidecar:
        assert eventually(lambda: "modules are kept" in log.read_text(), 60)
        library = next(moved.rglob("site-packages")).parent
        library.rename(library.with_name("python4.0"))
        for method, params in (("image.generate", {"prompt": "x"}), ("models.load", {"model": "pocket"})):
            with pytest.raises(RemoteError, match="Restart the sidecar") as caught:
                sidecar.call(method, params, timeout=60)
            assert (caught.value.kind, caught.value.data["reason"]) == ("EngineUnavailable", "updated")
        with pytest.raises(RemoteError, match="Restart the sidecar") as caught:
            sidecar.call("models.verify", {"model": "pocket"}, timeout=60)
        assert caught.value.kind == "StorageError"


@pytest.mark.parametrize("method", ["models.verify", "image.generate", "system.info"])
def test_what_an_old_daemon_is_asked_while_its_folder_is_away_waits_for_it(moved, tmp_path, method):
    """Between the two renames, here three seconds."""
    flags, away = ("--engine", "fake", "--log-level", "debug"), moved.with_name("away")
    params = {"models.verify": {"model": "pocket"}, "image.generate": {"prompt": "x"}}.get(method, {})
    log = tmp_path / "log"
    with log.open("wb") as stderr, session(moved, tmp_path / "out", *flags, stderr=stderr) as sidecar:
        assert eventually(lambda: "modules are kept" in log.read_text(), 60)
        moved.rename(away)
        back = threading.Timer(3, away.rename, [moved])
        back.start()
        assert sidecar.call(method, params, timeout=60)
        back.join()


def test_what_dpkg_unpacks_beside_its_files_does_not_change_what_pocket_is(moved, tmp_path):
    model = next(moved.rglob("locara_sidecar/models/pocket"))
    with session(moved, tmp_path / "out", "--engine", "fake") as sidecar:
        before = sidecar.call("models.verify", {"model": "pocket"}, timeout=60)
        os.link(model / "word_list.json", model / "word_list.json.dpkg-new")
        assert sidecar.call("models.verify", {"model": "pocket"}, timeout=60) == before


def test_an_old_daemon_tells_its_host_when_the_new_engine_is_of_another_version(moved, tmp_path):
    frames = next(moved.rglob("locara_sidecar/ipc/frames.py"))
    with session(moved, tmp_path / "out", "--engine", "fake") as sidecar:
        for compiled in frames.parent.glob("__pycache__/frames.*.pyc"):
            compiled.unlink()
        text = frames.read_text()
        assert text.count("\nVERSION = ") == 1
        replace(frames, text.replace("\nVERSION = ", "\nVERSION = 1000 + "))
        with pytest.raises(Exception, match="version") as caught:
            drawn(sidecar)
        assert (caught.value.kind, caught.value.data["reason"]) == ("EngineUnavailable", "updated")
        assert sidecar.call("ping")
    with session(moved, tmp_path / "out", "--engine", "fake") as sidecar:
        assert drawn(sidecar).exists()


def test_what_was_changed_in_the_folder_is_named(moved):
    package = next(moved.rglob("site-packages/locara_sidecar"))
    replace(package / "__init__.py", '"""Mine."""\n\n__version__ = "0.1.0"\n')
    (package / "models" / "pocket" / "word_list.json").unlink()
    (package.parent / "sitecustomize.py").write_text("")
    done = subprocess.run([moved / "locara-sidecar", "doctor", "--verify", "--json"], env={}, capture_output=True)
    told = json.loads(done.stdout)
    below = package.parent.relative_to(moved).as_posix()
    assert told["altered"] == [f"{below}/locara_sidecar/__init__.py"]
    assert told["missing"] == [f"{below}/locara_sidecar/models/pocket/word_list.json"]
    assert told["extra"] == [f"{below}/sitecustomize.py"]
    assert done.returncode == 1


# --- what is in it ------------------------------------------------------------------------------------


def test_nothing_in_it_names_the_machine_that_built_it():
    paths = (str(BUNDLE.parent).encode(), str(ROOT).encode(), sys.base_prefix.encode())
    found = [path for path in BUNDLE.rglob("*") if path.is_file() and any(each in path.read_bytes() for each in paths)]
    # CPython compiles its configured prefix into its library, but uses it for nothing that the bundle has
    allowed = ("libpython", "_sysconfigdata", "python3.")
    assert [path for path in found if not path.name.startswith(allowed)] == []


def test_bytecode_is_there_for_our_modules_and_is_never_compared_with_times():
    compiled = list(next(BUNDLE.rglob("site-packages/locara_sidecar")).rglob("*.pyc"))
    assert len(compiled) > 100
    assert {path.read_bytes()[4:8] for path in BUNDLE.rglob("*.pyc")} == {b"\x01\0\0\0"}


@pytest.mark.skipif(FACTS["engine"] == "torch" or sys.platform != "linux", reason="the bound is MLX's on Linux")
def test_it_has_at_most_250_megabytes():
    assert sum(path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file()) <= 250e6


@pytest.mark.skipif(sys.platform != "linux", reason="the page's figures are of Linux")
def test_the_page_tells_its_size_and_number_of_files():
    """To one in a hundred: another interpreter has a few other files."""
    page = (ROOT / "packaging" / "bundle" / "README.md").read_text()
    told = re.search(rf"\| `{FACTS['engine']}` \| ([\d.,]+) MB[^|]*\| ([\d,]+) \|", page)
    size, count = (float(figure.replace(",", "")) for figure in told.groups())
    files = [path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file()]
    assert sum(files) / 1e6 == pytest.approx(size, rel=0.01)
    assert len(files) == pytest.approx(count, rel=0.01)


@pytest.mark.skipif(not TOOLS.exists(), reason="make test-bundle names the tools")
def test_the_bill_of_materials_is_valid_and_names_every_licence():
    program = (
        "import sys; from cyclonedx.validation.json import JsonStrictValidator as V;"
        "from cyclonedx.schema import SchemaVersion as S; sys.exit(V(S.V1_6).validate_str(sys.stdin.read()))"
    )
    text = (BUNDLE / "sbom.cdx.json").read_text()
    subprocess.run([TOOLS / "bin" / "python", "-c", program], input=text, text=True, check=True)
    for each in json.loads(text)["components"]:
        folder = f"{each['name']}-{each.get('version', '')}".rstrip("-")
        assert any((BUNDLE / "LICENSES" / folder).iterdir()), folder


@pytest.mark.timeout(1500)  # torch's: 5 GB, and each file is compared
@pytest.mark.skipif(not TOOLS.exists(), reason="make test-bundle names the tools")
def test_a_second_build_is_the_same_to_the_byte(tmp_path):
    words = [
        sys.executable,
        "-m",
        "bundle.build",
        "--engine",
        FACTS["engine"],
        "--tools",
        str(TOOLS),
        "--out",
        tmp_path,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "packaging"), "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run(words, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["diff", "-r", BUNDLE, tmp_path / BUNDLE.name], check=True)
    for path in BUNDLE.rglob("*"):
        one, other = path.lstat(), (tmp_path / BUNDLE.name / path.relative_to(BUNDLE)).lstat()
        assert (one.st_mode, one.st_mtime) == (other.st_mode, other.st_mtime), path
