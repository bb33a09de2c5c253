"""The gate: decides whether this app may make this call. Pure, default deny, one rule for each word of ``Method.need``.

Code that touches files or models requires a :class:`Grant`, and only this module creates one; so a new method cannot
reach them without passing the gate.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from locara_protocol.errors import RpcError, invalid_params
from locara_protocol.manifest import MODEL_ID, USER_SELECTED, Manifest, is_root
from locara_protocol.records import Record
from locara_protocol.wording import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Mapping, Sequence

    from locara_protocol.methods import Method, Need
    from locara_sidecar.capability.policy import Policy

DOWNLOADS = "--allow-downloads"
MANAGEMENT = "--allow-model-management"

_MADE_HERE = object()
_EMPTY = Manifest(name="", publisher="", version="")


Access = Literal["read", "write"]


class Source(Record, frozen=True):
    """A file to read.

    :param at: the parameter that names its root, such as ``$.image.root``.
    """

    root: str
    at: str


class Picked(Record, frozen=True):
    """A file that the user picked, or is just picking.

    :param name: its own, without its folder, for the record.
    :param at: the parameter that names it to be read, such as ``$.image.handle``.
    """

    access: Access
    name: str
    at: str | None = None


class AccessRequest(Record, frozen=True):
    """What a call needs.

    :param models: candidates in order: one if the call names it, else every suitable catalogue id.
    :param modalities: the modality that a candidate needs, if it is not the method's usual one.
    :param digests: installed models' digests (``sha256:<hex>``); looked up only for models that a manifest pins.
    :param root: the root to save into, or None if the images stay in the answer.
    :param sources: the files to read.
    :param picked: the picked files that are used.
    :param installed: ids with files on this machine; a denial suggests the first candidate among them.
    """

    models: tuple[str, ...] = ()
    modalities: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    digests: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    root: str | None = None
    sources: tuple[Source, ...] = ()
    picked: tuple[Picked, ...] = ()
    installed: Collection[str] = ()

    def unreadable(self, root: str, refused: Container[tuple[str, Access]]) -> dict[str, str]:
        """Return the parameter that first names a file in a root that may not be read, as a member of an error.

        :param refused: the uses that are not allowed.
        """
        named = [(source.root, source.at) for source in self.sources]
        named += [(USER_SELECTED, file.at) for file in self.picked if file.at is not None]
        at = next((at for place, at in named if place == root), None)
        return {} if at is None or (root, "read") not in refused else {"path": at}

    @property
    def folders(self) -> list[tuple[str, Access]]:
        """Return every root that is used and how, each once."""
        writes: list[tuple[str, Access]] = [] if self.root is None else [(self.root, "write")]
        reads: list[tuple[str, Access]] = [(source.root, "read") for source in self.sources]
        return list(dict.fromkeys([*writes, *reads]))

    def undeclared_picks(self, manifest: Manifest) -> list[tuple[str, Access]]:
        """Return the uses of picked files that the manifest does not declare."""
        picks: list[tuple[str, Access]] = [(USER_SELECTED, file.access) for file in self.picked]
        return [pick for pick in dict.fromkeys(picks) if not manifest.allows(*pick)]


class FolderGrant(Record, frozen=True):
    """Permission to use one folder; created only by :func:`authorize`.

    :param folder: absolute, as the host resolved it; not for error messages.
    """

    root: str
    folder: Path
    access: Access
    key: object = None

    def __post_init__(self) -> None:
        _check(self)


class Grant(Record, frozen=True):
    """Permission for one call; created only by :func:`authorize`.

    :param models: the granted candidates, in order.
    :param folder: where to save; sources: where to read each of the files, in order.
    :param capability: and ``resource``: what was granted, for the record.
    :param picks: what may be done with each of the picked files, in order.
    :param need: the rule that gave it: permission to describe a model is no permission to download it.
    """

    models: tuple[str, ...]
    folder: FolderGrant | None
    capability: str
    resource: str
    sources: tuple[FolderGrant, ...] = ()
    picks: tuple[Access, ...] = ()
    need: Need = "none"
    key: object = None

    def __post_init__(self) -> None:
        _check(self)

    def require(self, model: str, *needs: Need) -> None:
        """Check the grant; called by everything that loads, downloads, imports or checks a model.

        :raises TypeError: if it is for another model, or another purpose: a bug of ours.
        """
        if model not in self.models or self.need not in needs:
            raise TypeError(f"a grant of {self.need} for {', '.join(self.models)} does not cover {needs} for {model}")


def _check(grant: Grant | FolderGrant) -> None:
    if grant.key is not _MADE_HERE:
        raise TypeError("only authorize() makes a grant")
    msgspec.structs.force_setattr(grant, "key", None)  # a copy with other members has no key either


def authorize(policy: Policy, method: Method, wanted: AccessRequest) -> Grant:
    """Return the grant for a call, or raise why there is none.

    :raises RpcError: CapabilityDenied with ``capability``, ``resource``, ``reason`` and, as a remedy, ``declare`` (the
        manifest fragment that grants *everything* this call lacks) and ``host`` (what the host must supply), and the
        ``path`` of a file that may not be read; InvalidParams for a root or a model id that no manifest could name.
    """
    rule = _RULES.get(method.need)
    if rule is None:
        raise _denied(method.name, str(method.need), "noRule", f"No rule allows {method.name}.")
    return msgspec.structs.replace(rule(policy, method, wanted), need=method.need, key=_MADE_HERE)


def _nothing(_policy: Policy, method: Method, _wanted: AccessRequest) -> Grant:
    return Grant((), None, "none", method.name, key=_MADE_HERE)


def _generate(policy: Policy, _method: Method, wanted: AccessRequest) -> Grant:
    return _make(policy, wanted, "text-to-image")


def _edit(policy: Policy, _method: Method, wanted: AccessRequest) -> Grant:
    return _make(policy, wanted, "image-to-image")


def _pick(policy: Policy, _method: Method, wanted: AccessRequest) -> Grant:
    """The rule of ``host.pickFile``: the host vouches for the file, the manifest must declare picked files."""
    manifest = policy.manifest or _EMPTY
    (file,) = wanted.picked
    capability = f"fs.{USER_SELECTED}"
    if not manifest.allows(USER_SELECTED, file.access):
        declare = {"capabilities": {"fs": _fs_fragment(manifest, [(USER_SELECTED, file.access)])}}
        message = f"The app's manifest does not declare {file.access} access to files that the user selects."
        raise _denied(capability, file.name, "notDeclared", message, declare=declare)
    return Grant((), None, f"{capability}:{file.access}", file.name, picks=(file.access,), key=_MADE_HERE)


def folder_of_pick(grant: Grant, folder: str) -> FolderGrant:
    """Return permission to open the picked file's folder, for that file.

    :raises TypeError: with a grant for anything but ``host.pickFile``: a bug of ours.
    """
    if grant.need != "pick":
        raise TypeError(f"a grant of {grant.need} does not allow a file to be picked")
    return FolderGrant(USER_SELECTED, Path(folder), grant.picks[0], _MADE_HERE)


def access_of_pick(grant: Grant) -> Access:
    """Return what may be done with a file that is handed over instead of its path.

    :raises TypeError: with a grant for anything but ``host.pickFile``: a bug of ours.
    """
    if type(grant) is not Grant or grant.need != "pick":
        raise TypeError("only a grant for host.pickFile allows a file to be picked")
    return grant.picks[0]


def _model(policy: Policy, _method: Method, wanted: AccessRequest) -> Grant:
    return _use_model(policy, wanted)


def _download(policy: Policy, _method: Method, wanted: AccessRequest) -> Grant:
    return _use_model(policy, wanted, DOWNLOADS)


def _import(policy: Policy, _method: Method, wanted: AccessRequest) -> Grant:
    return _use_model(policy, wanted, MANAGEMENT)


def _manage(policy: Policy, _method: Method, wanted: AccessRequest) -> Grant:
    _check_flag(policy, MANAGEMENT, "models")
    return Grant(wanted.models, None, "host", MANAGEMENT, key=_MADE_HERE)


_RULES: dict[str, Callable[[Policy, Method, AccessRequest], Grant]] = {
    "none": _nothing,
    "generate": _generate,
    "edit": _edit,
    "pick": _pick,
    "model": _model,
    "download": _download,
    "import": _import,
    "manage": _manage,
}
"""One rule for each word of ``Method.need``; any other word is denied."""


def _use_model(policy: Policy, wanted: AccessRequest, flag: str | None = None) -> Grant:
    """The rule of calls about one model: the manifest declares it and, if a flag is needed, the host set it."""
    _check_names(wanted, "$.model")
    manifest = policy.manifest or _EMPTY
    model = wanted.models[0]
    if all(entry.id != model for entry in manifest.models):
        declare = {"capabilities": {"models": [model]}}
        more = {} if flag is None or flag in policy.flags else {"host": {"flags": [flag]}}
        message = f"The app's manifest does not declare the model {model}."
        raise _denied("models", model, "notDeclared", message, declare=declare, **more)
    if flag is not None:
        _check_flag(policy, flag, model)
    _check_digests(manifest, [model], wanted.digests)
    return Grant((model,), None, "models", model, key=_MADE_HERE)


def _check_flag(policy: Policy, flag: str, resource: str) -> None:
    if flag not in policy.flags:
        message = f"The host did not start the sidecar with {flag}."
        raise _denied("host", resource, "hostFlag", message, host={"flags": [flag]})


def _make(policy: Policy, wanted: AccessRequest, usual: str) -> Grant:
    """The rule of calls that make images: a model, the modality that it needs, and a folder for each file that is
    saved or read.

    :param usual: the modality of candidates that name none of their own.
    """
    _check_names(wanted, "$.options.model")
    manifest = policy.manifest or _EMPTY
    modality = {model: wanted.modalities.get(model, usual) for model in wanted.models}
    declared = [model for model in wanted.models if any(entry.id == model for entry in manifest.models)]
    able = [model for model in declared if modality[model] in manifest.modalities]
    ungranted = [folder for folder in wanted.folders if folder[0] not in policy.grants]
    grants = dict.fromkeys((root for root, _ in ungranted), "<absolute folder>")
    host = {"host": {"grants": grants}} if ungranted else {}
    at: dict[str, str] = {}
    missing: list[tuple[str, str, str]] = []
    declare: dict[str, Any] = {}
    if not able:
        model = _proposal(wanted, declared or wanted.models)
        needed = modality.get(model, usual)
        if needed not in manifest.modalities:
            missing.append((f"modality:{needed}", needed, f"the modality {needed}"))
            declare["modalities"] = [needed]
        if not declared:
            missing.append(("models", model, f"the model {model}"))
            if model:  # an empty catalogue has nothing to suggest
                declare["capabilities"] = {"models": [model]}
    lacking = [folder for folder in wanted.folders if not manifest.allows(*folder)]
    lacking += wanted.undeclared_picks(manifest)
    if lacking:
        at = {} if missing else wanted.unreadable(lacking[0][0], lacking)
        missing += [(f"fs.{root}", root, f"{access} access to {root}") for root, access in lacking]
        declare.setdefault("capabilities", {})["fs"] = _fs_fragment(manifest, lacking)
    if missing:
        capability, resource, _ = missing[0]
        message = f"The app's manifest does not declare {', '.join(words for _, _, words in missing)}."
        raise _denied(capability, resource, "notDeclared", message, declare=declare, **host, **at)
    models = _check_digests(manifest, able, wanted.digests)
    if ungranted:
        root = ungranted[0][0]
        message = f"The manifest declares {root}, but the host has granted no folder for it."
        raise _denied(f"fs.{root}", root, "noHostGrant", message, **host, **wanted.unreadable(root, ungranted))
    folder = None if wanted.root is None else _folder(policy, wanted.root, "write")
    uses = [", ".join(models), *(f"fs.{root}:{access}" for root, access in wanted.folders)]
    uses += [f"fs.{USER_SELECTED}:{file.access} {file.name}" for file in wanted.picked]
    return Grant(
        models,
        folder,
        ", ".join(dict.fromkeys(f"modality:{modality[model]}" for model in models)),
        "; ".join(uses),
        tuple(_folder(policy, source.root, "read") for source in wanted.sources),
        tuple(file.access for file in wanted.picked),
        key=_MADE_HERE,
    )


def _folder(policy: Policy, root: str, access: Access) -> FolderGrant:
    return FolderGrant(root, policy.grants[root], access, _MADE_HERE)


def audit_folder(policy: Policy) -> FolderGrant | None:
    """Return permission to append the audit record in ``app-data``: the only grant that the daemon gives itself.

    None unless the manifest declares that root writable and the host granted a folder for it.
    """
    root = "app-data"
    if root not in policy.grants or not (policy.manifest or _EMPTY).allows(root, "write"):
        return None
    return FolderGrant(root, policy.grants[root], "write", _MADE_HERE)


def _check_names(wanted: AccessRequest, path: str) -> None:
    for model in wanted.models:
        if MODEL_ID.fullmatch(model) is None:
            raise invalid_params(path, f"{shown(model)} is not a model id.")
    named = [(source.root, source.at) for source in wanted.sources]
    for root, at in [(wanted.root, "$.options.output.root"), *named]:
        if root is not None and not is_root(root):
            message = f"{shown(root)} is not a root; the roots are user-folder, app-data and user-paths.<name>."
            raise invalid_params(at, message)


def _proposal(wanted: AccessRequest, candidates: Sequence[str]) -> str:
    installed = wanted.installed or wanted.digests
    return next((model for model in candidates if model in installed), candidates[0] if candidates else "")


def _fs_fragment(manifest: Manifest, lacking: Sequence[tuple[str, Access]]) -> dict[str, Any]:
    """Return the ``fs`` members that declare all of ``lacking``."""
    fragment: dict[str, Any] = {}
    for root in dict.fromkeys(root for root, _ in lacking):
        wanted = {access for name, access in lacking if name == root}
        # a merge replaces the existing word, so the new one must cover both
        both = root in manifest.folders or len(wanted) > 1 or (root == USER_SELECTED and "write" in wanted)
        word = "read-write" if both else next(iter(wanted))
        kind, _, name = root.partition(".")
        if name:
            fragment.setdefault(kind, {})[name] = word
        else:
            fragment[kind] = word
    return fragment


def _check_digests(manifest: Manifest, models: list[str], digests: Mapping[str, str]) -> tuple[str, ...]:
    """Return the declared ``models`` whose pinned digest, if any, is the installed model's."""
    holding = tuple(model for model in models if _digest_holds(manifest, model, digests))
    if not holding:
        pins = {model: _pins(manifest, model) for model in models}
        raise _denied(
            "models",
            models[0],
            "digestMismatch",
            f"The manifest pins a different version of {models[0]} from the one that is installed.",
            host={"models": {model: found[0] if len(found) == 1 else found for model, found in pins.items()}},
        )
    return holding


def _pins(manifest: Manifest, model: str) -> list[str]:
    """Return the digests that it may have; none means any. An entry without a digest does not lift another
    one's pin.
    """
    return [entry.digest for entry in manifest.models if entry.id == model and entry.digest is not None]


def _digest_holds(manifest: Manifest, model: str, digests: Mapping[str, str]) -> bool:
    pins = _pins(manifest, model)
    if not pins:
        return True
    installed = digests.get(model)
    # one that is not installed is granted: the next check reports that it is missing
    return installed is None or installed.lower() in pins


def _denied(capability: str, resource: str, reason: str, message: str, **more: Any) -> RpcError:
    return RpcError("CapabilityDenied", message, capability=capability, resource=resource, reason=reason, **more)
