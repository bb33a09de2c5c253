"""Every method is denied by default, in every combination, and a denial says what would lift it."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from locara_protocol.errors import RpcError
from locara_protocol.manifest import merge
from locara_protocol.methods import METHODS, Method, Need
from locara_sidecar.capability.audit import AuditLog
from locara_sidecar.capability.authorize import (
    DOWNLOADS,
    MANAGEMENT,
    AccessRequest,
    FolderGrant,
    Grant,
    Picked,
    authorize,
)
from locara_sidecar.capability.files.confined import ConfinedFolder
from locara_sidecar.capability.policy import Policy
from support.granted_folders import manifest

GENERATE = METHODS["image.generate"]
PARTS = ("modality", "model", "fs", "grant")
CASES = [set(parts) for size in range(5) for parts in itertools.combinations(PARTS, size)]
ROOTS = (None, "user-folder", "app-data", "user-paths.out")
PIN = "sha256:" + "ab" * 32


def fs(root: str, word: str = "write") -> dict[str, Any]:
    kind, _, name = root.partition(".")
    return {kind: {name: word}} if name else {kind: word}


def policy_with(parts: set[str], root: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    declared = manifest(models=[{"id": "pocket"}] if "model" in parts else [])
    if "modality" not in parts:
        del declared["modalities"]
    if "fs" in parts and root:
        declared["capabilities"]["fs"] = fs(root)
    return declared, {root: "/somewhere"} if "grant" in parts and root else {}


def outcome(policy: Policy, wanted: AccessRequest, method: Method = GENERATE) -> Grant | RpcError:
    try:
        return authorize(policy, method, wanted)
    except RpcError as error:
        return error


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize(
    "method",
    [method for method in METHODS.values() if method.need in ("none", "generate")],
    ids=lambda method: method.name,
)
def test_nothing_is_allowed_that_is_not_declared_and_granted(method: Method, root: str | None):
    log = AuditLog()
    for count, parts in enumerate(CASES, 1):
        needed = {"modality", "model"} | ({"fs", "grant"} if root else set())
        wanted = AccessRequest(models=("pocket",), root=root)
        decision = outcome(Policy.build(*policy_with(parts, root)), wanted, method)
        entry = log.record_decision(method=method.name, wanted=wanted, decision=decision, request_id=count)
        allowed = method.need == "none" or needed <= parts
        assert isinstance(decision, Grant) == allowed, parts
        assert (entry.seq, entry.decision) == (count, "allow" if allowed else "deny")
        if isinstance(decision, Grant) and method.need != "none":
            assert decision.models == ("pocket",)
            assert (decision.folder and decision.folder.root) == root
        elif isinstance(decision, RpcError):
            assert decision.kind == "CapabilityDenied"
            expected = "notDeclared" if (needed - {"grant"}) - parts else "noHostGrant"
            assert decision.data["reason"] == expected
            assert ("declare" in decision.data) == (expected == "notDeclared")


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("models", [("pocket",), ("sd3.5-medium", "pocket")])
def test_the_fragment_and_the_host_grant_of_a_denial_are_enough(root: str | None, models: tuple[str, ...]):
    wanted = AccessRequest(models=models, root=root, installed=("pocket",))
    for parts in CASES:
        declared, grants = policy_with(parts, root)
        denied = outcome(Policy.build(declared, grants), wanted)
        if isinstance(denied, RpcError):
            data = denied.data
            mended = merge(declared, data.get("declare", {}))
            supplied = {**grants, **dict.fromkeys(data.get("host", {}).get("grants", {}), "/somewhere")}
            repeated = outcome(Policy.build(mended, supplied), wanted)
            assert isinstance(repeated, Grant), (parts, data)
            assert repeated.models == ("pocket",)


def test_without_a_manifest_one_fragment_holds_everything():
    denied = outcome(
        Policy.build(None, None), AccessRequest(models=("big", "pocket"), root="user-folder", installed=("pocket",))
    )
    assert isinstance(denied, RpcError)
    assert denied.data == {
        "capability": "modality:text-to-image",
        "resource": "text-to-image",
        "reason": "notDeclared",
        "declare": {
            "modalities": ["text-to-image"],
            "capabilities": {"models": ["pocket"], "fs": {"user-folder": "write"}},
        },
        "host": {"grants": {"user-folder": "<absolute folder>"}},
    }


def test_access_that_is_there_already_is_kept_by_the_fragment():
    declared = manifest(fs={"user-folder": "read"})
    denied = outcome(
        Policy.build(declared, {"user-folder": "/a"}), AccessRequest(models=("pocket",), root="user-folder")
    )
    assert isinstance(denied, RpcError)
    assert denied.data["capability"] == "fs.user-folder"
    assert denied.data["declare"] == {"capabilities": {"fs": {"user-folder": "read-write"}}}


FLAGS = {"download": DOWNLOADS, "manage": MANAGEMENT, "import": MANAGEMENT}


@pytest.mark.parametrize(
    "method",
    [method for method in METHODS.values() if method.need not in ("none", "generate", "edit", "pick")],
    ids=lambda method: method.name,
)
def test_calls_about_models_need_the_model_and_the_hosts_flag(method: Method):
    wanted = AccessRequest(models=("pocket",) if method.need != "manage" else ())
    for declared, flags in itertools.product((True, False), (set[str](), {DOWNLOADS}, {MANAGEMENT})):
        policy = Policy.build(manifest(models=[{"id": "pocket"}] if declared else []), None)
        policy = msgspec.structs.replace(policy, flags=frozenset(flags))
        decision = outcome(policy, wanted, method)
        right_flag = method.need not in FLAGS or FLAGS[method.need] in flags
        assert isinstance(decision, Grant) == (right_flag and (declared or method.need == "manage"))
        if isinstance(decision, RpcError) and decision.data["reason"] == "notDeclared":
            mended = merge(manifest(models=[]), decision.data["declare"])
            host = frozenset(decision.data.get("host", {}).get("flags", flags))
            again = outcome(msgspec.structs.replace(Policy.build(mended, None), flags=host), wanted, method)
            assert isinstance(again, Grant)
        elif isinstance(decision, RpcError):
            assert decision.data["reason"] == "hostFlag"
            assert decision.data["host"] == {"flags": [FLAGS[method.need]]}


class Digests(Mapping[str, str]):
    """Records which digests are requested. Hashing a model is expensive, so only pinned models may be looked up."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known = known
        self.asked: list[str] = []

    def __getitem__(self, key: str) -> str:
        self.asked.append(key)
        return self.known[key]

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_a_pin_holds_although_the_model_is_listed_without_one_too():
    other, right = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    for models, allowed in (
        (["big", f"big@{other}"], False),
        ([f"big@{other}", "big"], False),
        ([f"big@{other}", "big", f"big@{right}"], True),
    ):
        policy = Policy.build(manifest(models=models), None)
        asked = AccessRequest(models=("big",), digests={"big": right})
        assert isinstance(outcome(policy, asked), RpcError) != allowed


def test_a_pinned_digest_must_be_the_installed_one():
    policy = Policy.build(manifest(models=[{"id": f"big@{PIN.upper().replace('SHA', 'sha')}"}, {"id": "pocket"}]), None)
    right, wrong, none = Digests({"big": PIN}), Digests({"big": "sha256:" + "0" * 64}), Digests({})
    both = ("big", "pocket", "other")
    assert authorize(policy, GENERATE, AccessRequest(models=both, digests=right)).models == ("big", "pocket")
    assert authorize(policy, GENERATE, AccessRequest(models=both, digests=wrong)).models == ("pocket",)
    assert authorize(policy, GENERATE, AccessRequest(models=both, digests=none)).models == ("big", "pocket")
    assert right.asked == ["big"]
    denied = outcome(policy, AccessRequest(models=("big",), digests=wrong))
    assert isinstance(denied, RpcError)
    assert (denied.data["reason"], denied.data["resource"]) == ("digestMismatch", "big")
    assert denied.data["host"] == {"models": {"big": PIN}}


def test_default_candidates_keep_their_order_and_lose_the_undeclared():
    policy = Policy.build(manifest(models=[{"id": "c"}, {"id": "a"}]), None)
    assert authorize(policy, GENERATE, AccessRequest(models=("a", "b", "c"))).models == ("a", "c")


def unruled(methods: dict[str, Method]) -> list[str]:
    """Return the methods whose need has no rule: they are denied although everything is declared and granted."""
    everything = Policy.build(*policy_with({"modality", "model", "fs", "grant"}, "user-folder"))
    wanted = AccessRequest(models=("pocket",), picked=(Picked("read", "a.png"),))
    decisions = {name: outcome(everything, wanted, method) for name, method in methods.items()}
    return [
        name
        for name, decision in decisions.items()
        if isinstance(decision, RpcError) and decision.data.get("reason") == "noRule"
    ]


def test_every_method_says_what_it_needs_and_the_gate_has_a_rule_for_it():
    assert unruled(METHODS) == []
    assert {method.need for method in METHODS.values()} <= set(get_args(Need))


def test_control_a_new_method_without_a_rule_for_its_need_is_caught():
    new = msgspec.structs.replace(GENERATE, name="image.erase", need="erase")  # type: ignore[arg-type]
    assert unruled({**METHODS, "image.erase": new}) == ["image.erase"]
    with pytest.raises(TypeError, match="need"):
        Method(name="x.y", summary="", params=GENERATE.params, result=GENERATE.result)  # type: ignore[call-arg]


def test_an_unknown_need_is_denied():
    method = msgspec.structs.replace(GENERATE, name="x.y", need="everything")  # type: ignore[arg-type]
    denied = outcome(Policy.build(manifest(), None), AccessRequest(models=("pocket",)), method)
    assert isinstance(denied, RpcError)
    assert (denied.kind, denied.data["reason"]) == ("CapabilityDenied", "noRule")


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        (AccessRequest(models=("pocket",), root="home"), "$.options.output.root"),
        (AccessRequest(models=("pocket",), root="user-paths.../x"), "$.options.output.root"),
        (AccessRequest(models=(f"pocket@{PIN}",)), "$.options.model"),
        (AccessRequest(models=("../pocket",)), "$.options.model"),
    ],
)
def test_what_no_manifest_could_name_is_a_bad_parameter(wanted: AccessRequest, path: str):
    error = outcome(Policy.build(manifest(), None), wanted)
    assert isinstance(error, RpcError)
    assert (error.kind, error.data["path"]) == ("InvalidParams", path)


def test_grants_are_made_by_the_gate_alone(tmp_path: Path):
    with pytest.raises(TypeError):
        FolderGrant("user-folder", tmp_path, "write")
    with pytest.raises(TypeError):
        Grant(("pocket",), None, "x", "y")
    policy = Policy.build(manifest(fs={"user-folder": "write"}), {"user-folder": str(tmp_path)})
    grant = authorize(policy, GENERATE, AccessRequest(models=("pocket",), root="user-folder"))
    assert grant.folder is not None
    for made in (grant, grant.folder):
        with pytest.raises(TypeError):
            msgspec.structs.replace(made, folder=Path("/"))
    with pytest.raises(AttributeError):
        grant.folder.folder = Path("/")  # type: ignore[misc]
    with pytest.raises(TypeError):
        ConfinedFolder(str(tmp_path))  # type: ignore[arg-type]


def test_a_grant_is_leave_for_its_own_model_and_rule_and_for_nothing_else():
    grant = authorize(Policy.build(manifest(), None), METHODS["models.verify"], AccessRequest(models=("pocket",)))
    grant.require("pocket", "generate", "model")
    for model, need in (("other", "model"), ("pocket", "download"), ("pocket", "none")):
        with pytest.raises(TypeError):
            grant.require(model, need)  # type: ignore[arg-type]
