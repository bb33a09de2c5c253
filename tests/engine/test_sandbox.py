"""A confined process cannot, an unconfined one can: each attempt has its control, so zero successes mean something."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest

from locara_sidecar.machine.engine_choice import installed
from support.host import Sidecar, command, manifest

DRAWING = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in installed()]
OUTLAW = Path(__file__).parents[1] / "support" / "outlaw.py"


def missing(means):
    """Return why this machine cannot confine a process by that means, or None; tried in a child process."""
    code = {
        "landlock": "Kernel().landlock_abi()",
        "filter": "from locara_sidecar.engine.sandbox.linux import calls\n"
        "Kernel().no_new_privileges()\ncalls.apply(Kernel(), processes=False)",
    }[means]
    lines = f"from locara_sidecar.engine.sandbox.linux.kernel import Kernel\n{code}"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def offered():
    """Skip where the system offers no complete confinement; its report is then tested with a simulated kernel."""
    for means in ("landlock", "filter"):
        if sys.platform != "linux" or (why := missing(means)):
            pytest.skip(f"no {means} confinement on this system: {why if sys.platform == 'linux' else sys.platform}")


@pytest.fixture
def world(tmp_path):
    """A user's files, a scratch folder, a granted model, and four servers on this machine."""
    for name in ("home", "scratch", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "home" / "secret").write_text("secret")
    (tmp_path / "home" / "long").write_text("a user's file")
    (tmp_path / "model" / "weights").write_text("weights")
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as services,  # pytest's own folders are too long for an address
        socket.socket() as tcp,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as stream,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        for server in (tcp, udp):
            server.bind(("127.0.0.1", 0))
        for server, name in ((stream, "stream"), (datagrams, "datagrams")):
            server.bind(f"{services}/{name}")
        for server in (tcp, stream):
            server.listen(16)
        for server in (udp, datagrams):
            server.setblocking(False)
        yield {
            "scratch": str(tmp_path / "scratch"),
            "datagram servers": (udp, datagrams),
            "plan": {
                "secret": str(tmp_path / "home" / "secret"),
                "outside": str(tmp_path / "home"),
                "readable": [str(tmp_path / "model")],
                "tcp": tcp.getsockname()[1],
                "udp": udp.getsockname()[1],
                "stream": stream.getsockname(),
                "datagrams": datagrams.getsockname(),
            },
        }


def attempt(world, mode):
    done = subprocess.run(
        [sys.executable, str(OUTLAW), mode, world["scratch"]],
        input=json.dumps(world["plan"]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("mode", ["on", "compiling"])
def test_files_network_and_names_are_out_of_reach_in_python_natively_and_for_children(offered, world, mode):
    found = attempt(world, mode)
    assert found.pop("report") is True
    assert not [name for name, outcome in found.items() if outcome == "done"], found
    assert sorted(os.listdir(world["plan"]["outside"])) == ["long", "secret"]
    assert os.listdir(world["scratch"]) == []
    for server in world["datagram servers"]:
        with pytest.raises(BlockingIOError):
            server.recv(100)


def test_control_without_the_sandbox_the_same_attempts_succeed(world):
    found = attempt(world, "off")
    expected = set(found) - ({"raw packets"} if os.getuid() or sys.platform != "linux" else set())
    assert {name for name, outcome in found.items() if outcome == "done"} >= expected, found
    for server in world["datagram servers"]:
        assert server.recv(100)
    assert {"python", "native", "child", "renamed"} <= set(os.listdir(world["plan"]["outside"]))


def confined(world, code, *, env=None, processes=False, seconds=60):
    """Run code in a confined process; return what it printed."""
    lines = (
        "import os, sys, json\nfrom locara_sidecar.engine import sandbox\n"
        f"report = sandbox.confine({world['scratch']!r}, {world['plan']['readable']!r}, processes={processes})\n{code}"
    )
    done = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, timeout=seconds, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_folder_to_prepare_into_is_writable_and_what_lies_beside_it_is_not(offered, world, tmp_path):
    for name in ("into", "beside"):
        (tmp_path / name).mkdir()
    code = f"""
import json
from locara_sidecar.engine import sandbox
report = sandbox.confine({world["scratch"]!r}, [], writable=[{str(tmp_path / "into")!r}])
found = [report.enforced]
for name in ("into", "beside"):
    try:
        open({str(tmp_path)!r} + "/" + name + "/file", "w").close()
        found.append(name)
    except PermissionError:
        found.append("denied")
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == [True, "into", "denied"]


def test_what_an_engine_needs_goes_on_working(offered, world):
    code = f"""
import multiprocessing.connection, socket, subprocess, tempfile, threading, ctypes
assert open({world["plan"]["readable"][0]!r} + "/weights").read() == "weights"
one, two = socket.socketpair()
one.sendall(b"pair")
assert two.recv(9) == b"pair"
with tempfile.NamedTemporaryFile() as file:
    file.write(b"x")
    assert file.name.startswith({world["scratch"]!r})
assert os.path.expanduser("~") == {world["scratch"]!r}
os.makedirs(os.environ["TORCHINDUCTOR_CACHE_DIR"])
try:  # what libraries ask a program for is asked in vain, and told as Python tells it
    subprocess.check_output(["/bin/sh", "-c", "true"])
except PermissionError:
    pass
named = []
def name_itself():  # as CUDA does
    with open(f"/proc/self/task/{{threading.get_native_id()}}/comm", "w") as comm:
        comm.write("cuda")
    named.append(open(f"/proc/self/task/{{threading.get_native_id()}}/comm").read())
thread = threading.Thread(target=name_itself)
thread.start(); thread.join()
assert named == ["cuda\\n"], named
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):  # waiting to be connected to, as CUDA does, too
    for address in (f"\\0locara-{{os.getpid()}}-{{kind}}", f"w{{int(kind)}}"):
        waiting = socket.socket(socket.AF_UNIX, kind)
        os.chdir({world["scratch"]!r})
        waiting.bind(address)
        waiting.listen()
for name in ("self/status", "self/maps", "thread-self/stat", "self/mountinfo", "cpuinfo", "sys/kernel/osrelease"):
    open("/proc/" + name).read(1)
open("/proc/" + str(os.getpid()) + "/cgroup").read(1)
os.urandom(1); open("/dev/urandom", "rb").read(1); open("/sys/devices/system/cpu/online").read()
import zoneinfo, ssl, sqlite3, PIL.Image
print("fine")
"""
    assert confined(world, code) == "fine\n"


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.timeout(300)
def test_threads_that_the_user_wants_bound_to_processors_are_made_all_the_same(offered, world):
    """GNU's OpenMP, which comes with torch, ends the process if it may not bind a thread that it makes."""
    code = """
import torch
assert torch.get_num_threads() == 2
print((torch.ones(500, 500) @ torch.ones(500, 500)).max().item())
"""
    pytest.importorskip("torch")
    env = {**os.environ, "OMP_PROC_BIND": "true", "OMP_PLACES": "cores", "OMP_NUM_THREADS": "2"}
    assert confined(world, code, env=env, seconds=280) == "500.0\n"


def test_one_that_compiles_starts_programs(offered, world):
    code = """
import subprocess
assert report.enforced, report
assert report.details["processes"] == "open", report
print(subprocess.check_output(["/bin/sh", "-c", "echo a | cat && cat /proc/meminfo > /dev/null"], text=True))
"""
    assert confined(world, code, processes=True) == "a\n\n"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
def test_a_compiler_runs_inside_and_its_library_loads_but_its_program_does_not_start(offered, world):
    code = """
import ctypes, subprocess
os.chdir(os.environ["TMPDIR"])
open("a.c", "w").write("int answer(void) { return 42; } int main(void) { return 0; }")
subprocess.run(["cc", "-shared", "-fPIC", "-o", "a.so", "a.c"], check=True)
assert ctypes.CDLL("./a.so").answer() == 42
subprocess.run(["cc", "-o", "a.out", "a.c"], check=True)
try:
    subprocess.run(["./a.out"])
except PermissionError:
    print("refused")
"""
    assert confined(world, code, processes=True) == "refused\n"


def test_a_process_without_any_privilege_is_confined_too(offered, world):
    """If the tests run as root, the capabilities are dropped first, which leaves what an ordinary user may do."""
    if os.getuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("setpriv is not here to take the privileges away")
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    words = [*drop, sys.executable, "-m", "locara_sidecar.engine.sandbox", "--probe"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    report = json.loads(done.stdout)
    if all(report["details"][means].startswith("not available") for means in ("networkNamespace", "callFilter")):
        pytest.skip("without privileges this system offers no way to leave the network")
    assert (done.returncode, report["enforced"]) == (0, True), report
    assert report["details"]["networkNamespace"].startswith(("in use, inside a user namespace", "not available"))


def test_the_engine_still_dies_with_the_process_that_started_it(offered, world):
    lines = f"""
import ctypes
from locara_sidecar.engine import sandbox
libc, signal = ctypes.CDLL(None), ctypes.c_int()
libc.prctl(1, 9)  # PR_SET_PDEATHSIG
sandbox.confine({world["scratch"]!r}, [])
libc.prctl(2, ctypes.byref(signal))
print(signal.value)
"""
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if shutil.which("setpriv") else []
    for words in ([], drop if os.getuid() == 0 else []):
        done = subprocess.run([*words, sys.executable, "-c", lines], capture_output=True, text=True, check=False)
        assert done.stdout == "9\n", done.stderr


def test_no_descriptor_but_those_of_its_own_in_proc_is_left_open(offered, world):
    code = """
held = []
for fd in os.listdir("/proc/self/fd"):
    if int(fd) > 2 and os.path.lexists(f"/proc/self/fd/{fd}"):
        held.append(os.readlink(f"/proc/self/fd/{fd}"))
print(json.dumps([held, os.getpid()]))
"""
    held, pid = json.loads(confined(world, code))
    held = [path for path in held if "/libffi.so." not in path]  # since its 3.4 it may keep its own file open, to read
    assert sorted(held) == [f"/proc/{pid}", f"/proc/{pid}/task"]


# --- the engine -----------------------------------------------------------------------------


def test_the_engine_tells_what_holds_and_before_it_has_started_nobody_knows(offered, hosts):
    host = hosts.session()
    before = host.call("system.info")["sandbox"]
    assert (before["enforced"], before["details"]) == (False, {})
    assert "until the engine starts" in before["reason"]
    host.generate(steps=1)
    found = host.call("system.info")["sandbox"]
    assert found["enforced"], found
    assert {found["details"][name] for name in ("readOutside", "writeOutside", "tcp", "udp")} == {"blocked"}
    assert set(found["kind"].split("+")) <= set(before["kind"].split("+")) == {"landlock", "namespace", "seccomp"}


@pytest.mark.quick_cases("mlx")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("engine", DRAWING)
def test_an_engine_loads_and_draws_inside(offered, hosts, engine):
    models = Path(__file__).parents[2] / "fixtures" / "models"
    host = hosts.session("--catalogue", str(models), models=("tiny-sd3",), engine=engine)
    asked = {"prompt": "a red circle", "options": {"steps": 2}}
    assert host.call("image.generate", asked, timeout=150)["images"]
    assert host.call("system.info")["sandbox"]["enforced"]


@pytest.fixture
def with_path(spec, tmp_path):
    """Return a job whose model is in a folder of this name."""

    def make(name):
        made = spec(job=name)
        return msgspec.structs.replace(made, model=msgspec.structs.replace(made.model, path=str(tmp_path / name)))

    return make


def test_a_job_with_another_model_s_folder_gets_an_engine_that_may_read_it(drive, with_path, tmp_path):
    async def one_by_one(client):
        engines = []
        for name in ("a", "a", "b"):
            await client.make(with_path(name))
            engines.append(len(client.started))
        return engines

    assert drive(one_by_one) == [1, 1, 2]
    assert drive(one_by_one, readable=lambda: [str(tmp_path / "a"), str(tmp_path / "b")]) == [1, 1, 1]


def test_a_cancelled_start_for_another_model_leaves_nothing_behind(drive, with_path):
    async def body(client):
        await client.make(with_path("a"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.fails, with_path("b"))
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            client.cancel("b")
        await client.make(with_path("a"))

    drive(body)


# --- nothing on the network -----------------------------------------------------------------

NETWORK = ("connect(", "sendto(", "sendmsg(", "sendmmsg(")
BARRED = ("EACCES", "EPERM", "ENETUNREACH")


def reached(trace):
    """Return the traced calls that had an internet address and were not refused at once."""
    pending, found = {}, []
    for line in trace.splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            pending[pid] = call.removesuffix("<unfinished ...>")
            continue
        if call.startswith("<... "):
            call = pending.pop(pid, "") + call.partition("resumed>")[2]
        if call.startswith(NETWORK) and "AF_INET" in call and not any(f"= -1 {name}" in call for name in BARRED):
            found.append(call)
    return found


def traced(tmp_path, command):
    if shutil.which("strace") is None:
        pytest.skip("strace is not here")
    trace = tmp_path / "trace"
    words = ["strace", "-f", "--seccomp-bpf", "-e", "trace=%network", "-o", str(trace), *command]
    if subprocess.run([*words[:5], "-o", str(trace), "true"], capture_output=True, check=False).returncode:
        pytest.skip("processes may not be traced here")
    return words, trace


@pytest.mark.quick_cases("fake", "mlx")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("engine", ["fake", *DRAWING])
def test_a_whole_generate_reaches_for_no_network_under_a_tracer_or_in_an_empty_namespace(engine, tmp_path):
    catalogue = str(Path(__file__).parents[2] / "fixtures" / "models")
    words, trace = traced(tmp_path, command("--engine", engine, "--catalogue", catalogue, "--log-level", "error"))
    alone = ["unshare", "-n"] if os.getuid() == 0 else ["unshare", "-Un"]
    if shutil.which("unshare") and subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0:
        words = [*alone, *words]
    with Sidecar(words) as sidecar:
        sidecar.initialize(manifest=manifest("tiny-sd3", "pocket"), grants={"user-folder": str(tmp_path)})
        asked = {"prompt": "a red circle", "options": {"model": "tiny-sd3", "steps": 2}}
        assert sidecar.call("image.generate", asked, timeout=150)["images"]
    text = trace.read_text()
    assert "exited with" in text  # the tracer saw it end
    assert reached(text) == []


def test_control_the_tracer_sees_a_datagram_a_connection_and_a_question_for_a_name(tmp_path):
    code = (
        "import socket\n"
        "a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.sendto(b'x', ('127.0.0.1', 9))\n"
        "b = socket.socket(); b.settimeout(1); b.connect_ex(('127.0.0.1', 1))\n"
    )
    words, trace = traced(tmp_path, [sys.executable, "-c", code])
    subprocess.run(words, check=True)
    assert [call.partition("(")[0] for call in reached(trace.read_text())] == ["sendto", "connect"]
