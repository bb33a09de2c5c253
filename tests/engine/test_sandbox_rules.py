"""The requests to each kernel, on a simulated one: every version of Landlock, none at all, and refusals in between."""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from locara_sidecar.daemon.engine_host.request import model_files
from locara_sidecar.engine import sandbox
from locara_sidecar.engine.sandbox import attempts, forbidden, places, report, seatbelt
from locara_sidecar.engine.sandbox.linux import landlock, network, privileges


class Played:
    """A kernel that records its calls; ``fails`` maps a call's name to its error."""

    def __init__(self, abi=7, **fails):
        self.calls = []
        self._abi = abi
        self._fails = fails
        self._open = {}

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, *arguments))
            if name in self._fails:
                raise OSError(self._fails[name], os.strerror(self._fails[name]))
            answers = {"landlock_abi": self._abi, "create_ruleset": 100, "machine": "x86_64", "own_pid": 4711}
            return answers.get(name)

        return call

    def open_path(self, path):
        if not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, "not here")
        self._open[len(self._open) + 200] = path
        self.calls.append(("open_path", path))
        return len(self._open) + 199, os.path.isdir(path)

    def named(self, name):
        return [call[1:] for call in self.calls if call[0] == name]

    def given(self):
        """Return each path that got a rule, with the rule's bits."""
        return {self._open[parent]: access for _, parent, access in self.named("allow_beneath")}


@pytest.mark.parametrize(
    ("abi", "size", "files", "net", "scopes"),
    [
        (1, 8, (1 << 13) - 1, 0, 0),
        (2, 8, (1 << 14) - 1, 0, 0),
        (3, 8, (1 << 15) - 1, 0, 0),
        (4, 16, (1 << 15) - 1, 3, 0),
        (5, 16, (1 << 16) - 1, 3, 0),
        (6, 24, (1 << 16) - 1, 3, 3),
        (7, 24, (1 << 16) - 1, 3, 3),
        (99, 24, (1 << 16) - 1, 3, 3),
    ],
)
def test_each_version_is_asked_for_all_that_it_can_control_and_nothing_more(abi, size, files, net, scopes, tmp_path):
    kernel = Played(abi)
    (tmp_path / "file").write_text("")
    rules = [(str(tmp_path), "write"), (str(tmp_path / "file"), "run"), ("/nowhere/at/all", "read")]
    missing = landlock.restrict(kernel, abi, rules)
    assert missing == ["/nowhere/at/all"]
    assert kernel.named("create_ruleset") == [(files, net, scopes, size)]
    for path, access in kernel.given().items():
        assert access
        assert access & ~files == 0, "the kernel refuses what it does not handle"
        assert os.path.isdir(path) or access & landlock.READ_DIR == 0, "and rights of folders on a file"
    order = [call[0] for call in kernel.calls]
    assert order.index("no_new_privileges") < order.index("restrict_self")
    assert order[-1] == "close"
    assert sorted(number for (number,) in kernel.named("close")) == [100, 200, 201]


def test_scratch_is_written_and_never_executed_and_programs_are_executed_and_never_written():
    write = landlock.rights("write", 7, folder=True)
    run = landlock.rights("run", 7, folder=True)
    assert write & landlock.EXECUTE == 0
    assert write & (landlock.MAKE_CHAR | landlock.MAKE_BLOCK | landlock.IOCTL_DEV) == 0
    assert run == landlock.READ_FILE | landlock.READ_DIR | landlock.EXECUTE
    assert landlock.rights("read", 7, folder=True) == landlock.READ_FILE | landlock.READ_DIR


@pytest.mark.parametrize("failing", ["create_ruleset", "allow_beneath", "no_new_privileges", "restrict_self"])
def test_a_refusal_is_an_error_and_nothing_stays_open(failing, tmp_path):
    kernel = Played(**{failing: errno.EPERM})
    with pytest.raises(PermissionError):
        landlock.restrict(kernel, 7, [(str(tmp_path), "write")])
    opened = [200] if kernel.named("open_path") else []
    opened += [] if failing == "create_ruleset" else [100]
    assert sorted(number for (number,) in kernel.named("close")) == sorted(opened)


def test_an_ordinary_user_leaves_the_network_inside_a_user_namespace():
    kernel = Played(leave_network=errno.EPERM)
    assert network.leave(kernel) == "in use, inside a user namespace"
    order = [call[0] for call in kernel.calls]
    assert order[:2] == ["leave_network", "leave_network_as_user"]
    user = os.geteuid()
    assert ("uid_map", f"{user} {user} 1") in kernel.named("write_proc")
    assert kernel.named("write_proc")[0] == ("setgroups", "deny")
    refused = Played(leave_network=errno.EPERM, leave_network_as_user=errno.EPERM)
    with pytest.raises(PermissionError):
        network.leave(refused)


@pytest.mark.parametrize("lacking", [(), ("leave_shared_memory",)])
def test_shared_memory_is_left_where_that_can_be(lacking):
    kernel = Played(**dict.fromkeys(lacking, errno.EINVAL))
    assert network.leave(kernel) == "in use"
    assert kernel.named("leave_shared_memory") == [()]


# --- privileges and limits ------------------------------------------------------------------


def test_every_capability_is_dropped_and_none_can_come_back():
    kernel = Played()
    privileges.give_up(kernel)
    order = [call[0] for call in kernel.calls]
    assert order[0] == "no_new_privileges"
    assert order[-1] == "drop_capabilities", "the bounding set and the bits need one themselves"
    asked = kernel.named("prctl")
    assert {number for option, number, *_ in asked if option == 24} >= set(range(41)), "PR_CAPBSET_DROP"
    assert (47, 4) in asked, "PR_CAP_AMBIENT, all cleared"
    assert (28, 0xEF) in asked, "PR_SET_SECUREBITS"


def test_an_ordinary_user_has_no_bounding_set_to_drop_and_goes_on():
    kernel = Played(prctl=errno.EPERM)
    privileges.give_up(kernel)
    assert kernel.named("drop_capabilities") == [()]
    with pytest.raises(PermissionError):
        privileges.give_up(Played(drop_capabilities=errno.EPERM))


def test_capabilities_go_after_the_namespaces_that_need_them_and_before_the_filter_that_needs_no_new_privileges(
    tmp_path,
):
    kernel = Played()
    sandbox._confine_linux(kernel, [(str(tmp_path), "write")], [], {})
    order = [call[0] for call in kernel.calls]
    steps = ["leave_network", "drop_capabilities", "install_filter", "restrict_self"]
    assert [name for name in order if name in steps] == steps
    assert order.index("no_new_privileges") < order.index("install_filter")


def test_no_core_no_large_file_no_more_than_a_share_and_where_it_counts_alone_not_many_threads(tmp_path):
    def limits(prepared_from, **options):
        kernel = Played()
        privileges.limit(kernel, prepared_from, **options)
        return dict(kernel.named("limit"))

    plain = limits(None, counted_alone=False)
    shared = {resource.RLIMIT_NOFILE: 1024, resource.RLIMIT_SIGPENDING: 1024}
    first = {resource.RLIMIT_NICE: 0, resource.RLIMIT_RTPRIO: 0}
    assert plain == {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 1 << 30, **shared, **first}
    assert limits(None, counted_alone=True)[resource.RLIMIT_NPROC] == 4096
    (tmp_path / "model" / "vae").mkdir(parents=True)
    for path in (tmp_path / "model" / "a", tmp_path / "model" / "vae" / "b", tmp_path / "blob"):
        with open(path, "wb") as file:
            file.truncate(5 << 30)
    (tmp_path / "model" / "c").symlink_to("../blob")
    prepared = limits([str(tmp_path / "model"), str(tmp_path / "blob"), "/nowhere"], counted_alone=False)
    assert (16 << 30) <= prepared[resource.RLIMIT_FSIZE] < (16 << 30) + 4096


# --- which files ----------------------------------------------------------------------------


def test_no_rule_gives_a_home_folder_a_root_or_a_temporary_folder(tmp_path):
    home = str(tmp_path / "home")
    os.makedirs(f"{home}/scratch")
    given = dict(places.rules(f"{home}/scratch", ["relative", "/", home, str(tmp_path), f"{home}/model"], home))
    assert given[f"{home}/scratch"] == "write"
    assert given[f"{home}/model"] == "read"
    assert not {"/", home, str(tmp_path), "relative", "/tmp", "/home", "/var", "/etc", "/run", "/dev"} & set(given)
    assert [path for path, right in given.items() if right == "write"] == [f"{home}/scratch"]
    given = dict(places.rules(f"{home}/scratch", [], home, ["relative", "/", home, str(tmp_path), f"{home}/into"]))
    assert [path for path, right in given.items() if right == "write"] == [f"{home}/scratch", f"{home}/into"]
    assert all(path.startswith("/dev/") for path, right in given.items() if right == "device")


def test_the_interpreter_the_packages_and_the_tools_are_given_to_run():
    given = dict(places.rules("/nowhere", [], os.path.expanduser("~")))
    running = [path for path, right in given.items() if right == "run"]

    def covered(path):
        return any(os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep) for folder in running)

    import PIL

    import locara_protocol
    import locara_sidecar

    needed = [
        sys.executable,
        "/bin/sh",
        *(module.__file__ for module in (os, json, PIL, locara_protocol, locara_sidecar)),
    ]
    assert all(covered(path) for path in needed), [path for path in needed if not covered(path)]


def test_an_installation_in_a_home_folder_itself_gives_its_parts_only(monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/home/a")
    monkeypatch.setenv("CUDA_HOME", "/")
    given = dict(places.rules("/nowhere", [], "/home/a"))
    assert given["/home/a/lib"] == "run"
    assert not {"/home/a", "/home", "/"} & set(given)


def test_of_the_control_groups_only_the_limits_of_its_own_are_given(tmp_path):
    given = dict(places.rules("/nowhere", [], "/home/a"))
    assert "/sys/devices" in given
    assert "/sys/kernel/mm" in given
    assert not {"/sys", "/sys/fs", "/sys/fs/cgroup", "/sys/kernel"} & set(given)
    assert not [path for path in given if path.endswith((".procs", ".threads"))]
    group, mounted = tmp_path / "cgroup", tmp_path / "mounted"
    group.write_text("1:name=systemd:/x\n0::/user.slice/app\n")
    limits = list(places._limits(group, mounted))
    assert {f"{mounted}/user.slice/app/memory.max", f"{mounted}/memory.stat"} <= set(limits)
    assert {os.path.dirname(path) for path in limits} == {
        f"{mounted}/user.slice/app",
        f"{mounted}/user.slice",
        str(mounted),
    }
    group.write_text("0::/../../elsewhere\n")
    assert {os.path.dirname(path) for path in places._limits(group, mounted)} <= {str(mounted)}, "nothing outside"
    assert list(places._limits(tmp_path / "none", mounted)) == []


def test_of_a_graphics_card_only_what_computes_is_given(monkeypatch):
    nodes = ["/dev/dri/card0", "/dev/dri/renderD128", "/dev/nvidia0", "/dev/null", "/dev/sda"]
    monkeypatch.setattr(places.glob, "glob", lambda pattern: fnmatch.filter(nodes, pattern))
    given = [path for path, right in places.rules("/nowhere", [], None) if right == "device"]
    assert sorted(given) == ["/dev/dri/renderD128", "/dev/null", "/dev/nvidia0"]


def test_every_cache_and_temporary_folder_is_below_scratch(monkeypatch, tmp_path):
    import tempfile

    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(tempfile, "tempdir", "/elsewhere")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    places.redirect_caches(str(tmp_path))
    for name in (
        "HOME",
        "TMPDIR",
        "XDG_CACHE_HOME",
        "HF_HOME",
        "TORCH_HOME",
        "TORCHINDUCTOR_CACHE_DIR",
        "MPLCONFIGDIR",
    ):
        assert (os.environ[name] + "/").startswith(f"{tmp_path}/"), name
    assert tempfile.tempdir is None


def test_links_out_of_a_model_s_folder_are_files_of_the_model(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1").write_text("weights")
    (tmp_path / "blobs" / "2").write_text("of another model")
    (tmp_path / "model" / "vae").mkdir(parents=True)
    (tmp_path / "model" / "vae" / "weights").symlink_to("../../blobs/1")
    (tmp_path / "model" / "inside").symlink_to("vae")
    (tmp_path / "name").symlink_to("model")
    assert model_files(tmp_path / "name") == [str(tmp_path / "model"), str(tmp_path / "blobs" / "1")]


# --- what is told ---------------------------------------------------------------------------

BLOCKED = dict.fromkeys(("readOutside", "writeOutside", "tcp", "udp", "localSockets", "signals"), "blocked")
CALLED = dict.fromkeys((*forbidden.ROWS, "capabilities"), "blocked")


def test_it_counts_as_enforced_only_if_every_attempt_was_blocked():
    assert report("landlock", BLOCKED, {}).enforced
    assert report("landlock", BLOCKED | CALLED, {}).enforced
    for name in BLOCKED | CALLED:
        for outcome in ("open", "unknown"):
            found = report("landlock", BLOCKED | CALLED | {name: outcome}, {})
            assert not found.enforced, name
            assert found.details[name] == outcome
    assert not report("landlock", BLOCKED, {"threads": "2 were running"}).enforced
    weaker = report("landlock", {**BLOCKED, "signals": "open"}, {})
    assert "signalling" in weaker.reason


def test_one_that_compiles_may_start_processes_and_nothing_else():
    compiling = report("landlock", BLOCKED | CALLED | {"processes": "open"}, {}, processes=True)
    assert compiling.enforced
    assert "told to compile" in compiling.reason
    assert not report("landlock", BLOCKED | CALLED | {"outliving": "open"}, {}, processes=True).enforced


@pytest.mark.parametrize(
    ("outcomes", "worst"),
    [
        (["blocked", "open", "unknown"], "open"),
        (["blocked", "unknown"], "blocked"),
        (["blocked", "blocked"], "blocked"),
        (["unknown"], "unknown"),
        ([], "unknown"),
    ],
)
def test_one_way_that_is_open_is_what_counts(outcomes, worst):
    assert attempts.worst(outcomes) == worst


@pytest.mark.skipif(sys.platform != "linux", reason="looks for threads in /proc")
def test_a_thread_that_was_running_already_is_told():
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    told = {}
    sandbox._confine_linux(Played(), [], [], told)
    end.set()
    thread.join()
    assert "threads" in told


@pytest.mark.skipif(sys.platform != "linux", reason="plays a Linux kernel")
@pytest.mark.parametrize("lacking", ["landlock_abi", "all"])
def test_a_system_that_offers_nothing_is_told_as_it_is(lacking, tmp_path):
    names = ["landlock_abi"] if lacking == "landlock_abi" else ["landlock_abi", "leave_network", "install_filter"]
    code = f"""
import errno, json, msgspec, os
from engine.test_sandbox_rules import Played
from locara_sidecar.engine import sandbox
kernel = Played(**dict.fromkeys({names!r}, errno.ENOSYS))
print(msgspec.json.encode(sandbox.confine({str(tmp_path / "scratch")!r}, [], kernel)).decode())
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    found = json.loads(done.stdout)
    assert not found["enforced"]
    assert found["details"]["readOutside"] == found["details"]["writeOutside"] == "open"
    assert found["details"]["landlock"] == "not available (ENOSYS)"
    assert found["kind"] == ("namespace+seccomp" if lacking == "landlock_abi" else "none")
    assert os.listdir(tmp_path) == [], "what the attempt wrote is gone again"


def test_attempts_find_this_unconfined_process_open(tmp_path):
    found = attempts.all_attempts([str(tmp_path)], str(tmp_path))
    assert {found[name] for name in ("readOutside", "writeOutside", "tcp", "udp")} == {"open"}
    if sys.platform == "linux":
        free = ("fileAttributes", "signals", "otherProcesses", "processes", "outliving", "capabilities")
        assert {found[name] for name in free} == {"open"}
    assert attempts.read("/nowhere/at/all") == "unknown"
    assert os.listdir(tmp_path) == []


# --- macOS ----------------------------------------------------------------------------------


def test_the_seatbelt_profile_is_well_formed_and_quotes_what_it_is_given():
    text = seatbelt.profile(['/tmp/a "b"\\'], ["/opt/python"], ["/models/a"])
    depth, quoted, escaped = 0, False, False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif not quoted:
            depth += {"(": 1, ")": -1}.get(character, 0)
        assert depth >= 0
    assert (depth, quoted) == (0, False)
    lines = text.splitlines()
    assert lines[0] == "(version 1)"
    assert "(deny network*)" in lines
    assert lines.index("(deny file-write*)") < lines.index('(allow file-write* (subpath "/tmp/a \\"b\\"\\\\"))')
    assert lines.index("(deny file-read-data)") < lines.index('(allow file-read-data (subpath "/models/a"))')
    assert lines.index("(deny process-exec*)") < lines.index('(allow process-exec* (subpath "/opt/python"))')
    assert '(allow process-exec* (subpath "/models/a"))' not in lines
    with pytest.raises(OSError, match="control"):
        seatbelt.profile(["/tmp/\n(allow default)"], [], [])


@pytest.mark.skipif(sys.platform == "darwin", reason="here it would confine the tests")
def test_there_is_no_seatbelt_elsewhere():
    with pytest.raises(OSError, match="macOS"):
        seatbelt.load("(version 1)")
