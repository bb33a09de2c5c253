"""The gate: may this app make this call? Pure, default deny, one rule for each word of ``Method.need``.

Whoever touches files or models asks for a :class:`Grant`, and only this module makes one; so a new
method cannot reach them without passing here.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from locara_protocol.errors import RpcError, invalid_params
from locara_protocol.manifest import MODEL_ID, Manifest, is_root
from locara_protocol.wording import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from locara_protocol.methods import Method
    from locara_sidecar.capability.policy import Policy

DOWNLOADS = "--allow-downloads"
MANAGEMENT = "--allow-model-management"

_MADE_HERE = object()
_EMPTY = Manifest(name="", publisher="", version="")


@dataclass(frozen=True)
class Wanted:
    """What a call needs.

    :param models: candidates in order: one if the call names it, else every catalogue id.
    :param digests: installed models' digests (``sha256:<hex>``); looked up only for models that a manifest pins.
    :param root: the root to save into, or None when the images stay in the answer.
    :param installed: ids with files on this machine; a denial proposes the first candidate among them.
    """

    models: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict[str, str])
    root: str | None = None
    access: Literal["read", "write"] = "write"
    installed: tuple[str, ...] = ()


@dataclass(frozen=True)
class FolderGrant:
    """Leave to use one folder; made by :func:`authorize` alone.

    :param folder: absolute, as the host resolved it; not for error messages.
    """

    root: str
    folder: Path
    access: Literal["read", "write"]
    key: InitVar[object] = None

    def __post_init__(self, key: object) -> None:
        _check(key)


@dataclass(frozen=True)
class Grant:
    """Leave for one call; made by :func:`authorize` alone.

    :param models: the granted candidates, in order.
    :param capability: and ``resource``: what was granted, for the record.
    """

    models: tuple[str, ...]
    folder: FolderGrant | None
    capability: str
    resource: str
    key: InitVar[object] = None

    def __post_init__(self, key: object) -> None:
        _check(key)


def _check(key: object) -> None:
    if key is not _MADE_HERE:
        raise TypeError("a grant is made by authorize() only")


def authorize(policy: Policy, method: Method, wanted: Wanted) -> Grant:
    """The grant for a call, or why there is none.

    :raises RpcError: CapabilityDenied with ``capability``, ``resource``, ``reason`` and, to mend it, ``declare``
        (the manifest fragment that grants *all* that this call lacks) and ``host`` (what the host must supply);
        InvalidParams for a root or a model id that no manifest could name.
    """
    rule = _RULES.get(method.need)
    if rule is None:
        raise _denied(method.name, str(method.need), "noRule", f"There is no rule that allows {method.name}.")
    return rule(policy, method, wanted)


def _nothing(policy: Policy, method: Method, wanted: Wanted) -> Grant:
    return Grant((), None, "none", method.name, _MADE_HERE)


def _generate(policy: Policy, method: Method, wanted: Wanted) -> Grant:
    return _make(policy, wanted, "text-to-image")


def _model(policy: Policy, method: Method, wanted: Wanted) -> Grant:
    return _use_model(policy, wanted)


def _download(policy: Policy, method: Method, wanted: Wanted) -> Grant:
    return _use_model(policy, wanted, DOWNLOADS)


def _import(policy: Policy, method: Method, wanted: Wanted) -> Grant:
    return _use_model(policy, wanted, MANAGEMENT)


def _manage(policy: Policy, method: Method, wanted: Wanted) -> Grant:
    _check_flag(policy, MANAGEMENT, "models")
    return Grant(wanted.models, None, "host", MANAGEMENT, _MADE_HERE)


_RULES: dict[str, Callable[[Policy, Method, Wanted], Grant]] = {
    "none": _nothing,
    "generate": _generate,
    "model": _model,
    "download": _download,
    "import": _import,
    "manage": _manage,
}
"""One rule for each word of ``Method.need``; a word that is not here is denied."""


def _use_model(policy: Policy, wanted: Wanted, flag: str | None = None) -> Grant:
    """The rule of calls about one model: the manifest declares it and, where it takes one, the host set the flag."""
    _check_names(wanted, "$.model")
    manifest = policy.manifest or _EMPTY
    model = wanted.models[0]
    if all(entry.id != model for entry in manifest.models):
        declare = {"capabilities": {"models": [{"id": model}]}}
        more = {} if flag is None or flag in policy.flags else {"host": {"flags": [flag]}}
        message = f"The app's manifest does not declare the model {model}."
        raise _denied("models", model, "notDeclared", message, declare=declare, **more)
    if flag is not None:
        _check_flag(policy, flag, model)
    return Grant((model,), None, "models", model, _MADE_HERE)


def _check_flag(policy: Policy, flag: str, resource: str) -> None:
    if flag not in policy.flags:
        message = f"The host did not start the sidecar with {flag}."
        raise _denied("host", resource, "hostFlag", message, host={"flags": [flag]})


def _make(policy: Policy, wanted: Wanted, modality: str) -> Grant:
    """The rule of calls that make images: the modality, a model, and a folder if a file is to be saved."""
    _check_names(wanted, "$.options.model")
    manifest = policy.manifest or _EMPTY
    declared = [model for model in wanted.models if any(entry.id == model for entry in manifest.models)]
    missing: list[tuple[str, str]] = []
    declare: dict[str, Any] = {}
    if modality not in manifest.modalities:
        missing.append((f"modality:{modality}", modality))
        declare["modalities"] = [modality]
    if not declared:
        model = _proposal(wanted)
        missing.append(("models", model))
        if model:  # an empty catalogue has nothing to propose
            declare.setdefault("capabilities", {})["models"] = [{"id": model}]
    if wanted.root is not None and not manifest.allows(wanted.root, wanted.access):
        missing.append((f"fs.{wanted.root}", wanted.root))
        declare.setdefault("capabilities", {})["fs"] = _fs_fragment(manifest, wanted.root, wanted.access)
    host = _host_grant(policy, wanted.root)
    if missing:
        capability, resource = missing[0]
        what = ", ".join(_words(name, value, wanted.access) for name, value in missing)
        more = {"host": host} if host else {}
        message = f"The app's manifest does not declare {what}."
        raise _denied(capability, resource, "notDeclared", message, declare=declare, **more)
    models = tuple(model for model in declared if _digest_holds(manifest, model, wanted.digests))
    if not models:
        pins = {model: [entry.digest for entry in manifest.models if entry.id == model] for model in declared}
        wanted_digests = {model: digests[0] if len(digests) == 1 else digests for model, digests in pins.items()}
        raise _denied(
            "models",
            declared[0],
            "digestMismatch",
            f"The manifest pins another version of {declared[0]} than the one that is installed.",
            host={"models": wanted_digests},
        )
    if host:
        raise _denied(
            f"fs.{wanted.root}",
            str(wanted.root),
            "noHostGrant",
            f"The manifest declares {wanted.root}, but the host has granted no folder for it.",
            host=host,
        )
    folder = None
    if wanted.root is not None:
        folder = FolderGrant(wanted.root, policy.grants[wanted.root], wanted.access, _MADE_HERE)
    used = ", ".join(models) + (f"; fs.{folder.root}:{folder.access}" if folder else "")
    return Grant(models, folder, f"modality:{modality}", used, _MADE_HERE)


def audit_folder(policy: Policy) -> FolderGrant | None:
    """Leave to append the record of decisions under ``app-data``: the one grant that the daemon takes unasked.

    None unless the manifest declares that root writable and the host granted a folder for it.
    """
    root = "app-data"
    if root not in policy.grants or not (policy.manifest or _EMPTY).allows(root, "write"):
        return None
    return FolderGrant(root, policy.grants[root], "write", _MADE_HERE)


def _check_names(wanted: Wanted, path: str) -> None:
    for model in wanted.models:
        if MODEL_ID.fullmatch(model) is None:
            raise invalid_params(path, f"{shown(model)} is not a model id.")
    if wanted.root is not None and not is_root(wanted.root):
        message = f"{shown(wanted.root)} is no root; there are user-folder, app-data and user-paths.<name>."
        raise invalid_params("$.options.output.root", message)


def _proposal(wanted: Wanted) -> str:
    installed = wanted.installed or tuple(wanted.digests)
    return next((model for model in wanted.models if model in installed), wanted.models[0] if wanted.models else "")


def _fs_fragment(manifest: Manifest, root: str, access: str) -> dict[str, Any]:
    # what is there already is replaced by a merge, so the new word must say both
    word = "read-write" if root in manifest.folders else access
    kind, _, name = root.partition(".")
    return {kind: {name: word}} if name else {kind: word}


def _host_grant(policy: Policy, root: str | None) -> dict[str, Any] | None:
    return None if root is None or root in policy.grants else {"grants": {root: "<absolute folder>"}}


def _digest_holds(manifest: Manifest, model: str, digests: Mapping[str, str]) -> bool:
    pins = [entry.digest for entry in manifest.models if entry.id == model]
    if None in pins:
        return True
    installed = digests.get(model)
    # one that is not installed is granted: that it is missing is the next check's to say
    return installed is None or installed.lower() in pins


def _words(capability: str, resource: str, access: str) -> str:
    if capability == "models":
        return f"the model {resource}"
    return f"{access} access to {resource}" if capability.startswith("fs.") else f"the modality {resource}"


def _denied(capability: str, resource: str, reason: str, message: str, **more: Any) -> RpcError:
    return RpcError("CapabilityDenied", message, capability=capability, resource=resource, reason=reason, **more)
