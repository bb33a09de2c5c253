"""The app's manifest, ``locara.json``: what an app says it needs.

This module defines which members exist and what they may contain. Members that grant something (``modalities``,
``capabilities.models``, ``capabilities.fs``, ``capabilities.net``) are read strictly: a name that looks like a
misspelling of one of ours is an error, never a silent "no". But manifests evolve, so any other name is kept unread,
grants nothing, and gives a :class:`Notice`. Other capability families and descriptive members are kept without one.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from locara_protocol.errors import invalid_params
from locara_protocol.wording import MISSPELT, join, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SCHEMA = "locara/v1"
"""The only supported schema."""

Access = Literal["read", "write", "read-write"]
"""What an app may do in a folder."""

MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,127}")
"""The pattern of a model id; use a full match."""

CARRIED = (
    "displayName",
    "description",
    "longDescription",
    "license",
    "homepage",
    "repository",
    "author",
    "icon",
    "screenshots",
    "category",
    "tags",
    "tooling",
    "profiles",
    "storage",
    "entry",
    "build",
)
MODALITIES = ("text-to-image", "image-to-image", "image-text-to-image")
"""The modalities that this sidecar serves; an app may also list those of other sidecars."""

USER_SELECTED = "user-selected"
"""The member of ``fs`` for files that the user picked; not a root, because the host grants no folder for it."""

_LABELS = ("schema", "name", "publisher", "version")
_TOP = ("modalities", "capabilities")
_MODEL = ("id", "digest", "reason", "required")
_FS = ("user-folder", "app-data", "user-paths", USER_SELECTED)
_NET = ("allowed_hosts", "allowed_ports")
_FAMILIES = ("models", "fs", "net")
REMARKS = ("$", "_", "//", "#", "x-")
"""Prefixes of names that are notes for people and tools, because JSON has no comments: kept without a notice."""
ACCESS = ("read", "write", "read-write")
SELECTED = ("read", "read-write")
PINNED = re.compile(r"sha256:[0-9a-fA-F]{64}")
_DIGEST_OF_ANY_FORM = re.compile(r"(?:sha-?256[:-])?[0-9a-f]{64}", re.IGNORECASE)
LABEL = re.compile(r"[^\s/@\x00-\x1f\x7f](?:[^/@\x00-\x1f\x7f]{0,126}[^\s/@\x00-\x1f\x7f])?")
PATH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MAX_ENTRIES = 1024
MAX_MODALITY = 128
MAX_NOTICES = 32
"""The maximum number of notices per manifest; one more then says how many were left out."""

# how similar to one of ours a name must be to count as a misspelling, where MISSPELT does not fit: at the top level
# only two names grant something; modalities share most of their letters, and image-text-to-text is a real name
_TOP_MISSPELT = 0.75
_MODALITY_MISSPELT = 0.85


class ModelEntry(msgspec.Struct, frozen=True):
    """One entry of ``capabilities.models``; ``digest`` is ``sha256:<64 hex>`` in lower case, or None for any."""

    id: str
    digest: str | None = None


class Network(msgspec.Struct, frozen=True):
    """The app's own ``net``. It never widens anything here: the engine has no network in any case."""

    allowed: bool = False
    hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()


class Notice(msgspec.Struct, frozen=True):
    """Something in a manifest that is kept and grants nothing; ``kind`` is UnknownMember or UnknownModality."""

    kind: str
    path: str
    message: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A validated manifest.

    :param models: in the manifest's order.
    :param folders: root name (``user-folder``, ``app-data``, ``user-paths.<name>``) or ``user-selected`` to access;
        if absent, access is denied.
    :param carried: every other member unchanged, other capability families under ``capabilities``.
    :param unread: unknown members within ``capabilities.models``, ``fs`` and ``net``, by path.
    :param notices: about members that were kept but not recognized; at most :data:`MAX_NOTICES` + 1.
    """

    name: str
    publisher: str
    version: str
    modalities: tuple[str, ...] = ()
    models: tuple[ModelEntry, ...] = ()
    folders: dict[str, Access] = {}
    net: Network = Network()
    carried: dict[str, Any] = {}
    unread: dict[str, Any] = {}
    notices: tuple[Notice, ...] = ()

    @property
    def app_id(self) -> str:
        """``<publisher>/<name>@<version>``."""
        return f"{self.publisher}/{self.name}@{self.version}"

    def allows(self, root: str, access: Literal["read", "write"]) -> bool:
        """Whether the manifest declares this access to this root."""
        return access in self.folders.get(root, "").split("-")


def parse(value: dict[str, Any], path: str = "$.manifest") -> Manifest:
    """Validate a manifest's JSON object. ``null`` for an optional member means the same as absent.

    :raises RpcError: InvalidParams whose ``data.path`` starts with ``path`` and names the offending member.
    """
    return _Reader(path).manifest(value)


def merge(manifest: dict[str, Any], fragment: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest with a ``declare`` fragment applied: objects are merged, lists appended, the rest replaced.

    Neither argument is changed.
    """
    merged = copy.deepcopy(manifest)
    for name, new in fragment.items():
        old = merged.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            merged[name] = merge(cast("dict[str, Any]", old), cast("dict[str, Any]", new))
        elif isinstance(old, list) and isinstance(new, list):
            merged[name] = [*cast("list[Any]", old), *copy.deepcopy(cast("list[Any]", new))]
        else:
            merged[name] = copy.deepcopy(new)
    return merged


def is_root(name: str) -> bool:
    """Whether this is the name of a root: ``user-folder``, ``app-data`` or ``user-paths.<name>``."""
    kind, dot, rest = name.partition(".")
    if dot:
        return kind == "user-paths" and PATH_NAME.fullmatch(rest) is not None
    return name in ("user-folder", "app-data")


class _Reader:
    """One pass over a manifest; collects the members that are kept unread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._unread: dict[str, Any] = {}
        self._notices: list[Notice] = []
        self._left_out = 0

    def manifest(self, value: object) -> Manifest:
        """Read the manifest.

        :raises RpcError: InvalidParams.
        """
        path = self._path
        top = self._members(value, path, _TOP, (*_LABELS, *CARRIED), _TOP_MISSPELT)
        carried = {name: top[name] for name in CARRIED if name in top} | self._unread
        self._unread = {}
        if top.get("schema") != SCHEMA:
            raise invalid_params(join(path, "schema"), f'The manifest must say "schema": "{SCHEMA}".')
        inner = join(path, "capabilities")
        capabilities = self._capabilities(top.get("capabilities", {}), inner)
        others = {name: capabilities[name] for name in capabilities if name not in _FAMILIES}
        if others:
            carried["capabilities"] = others
        return Manifest(
            name=_label(top, "name", path),
            publisher=_label(top, "publisher", path),
            version=_label(top, "version", path),
            modalities=tuple(self._modalities(top.get("modalities", []), join(path, "modalities"))),
            models=tuple(self._models(capabilities.get("models", []), join(inner, "models"))),
            folders=dict(self._folders(capabilities.get("fs", {}), join(inner, "fs"))),
            net=self._net(capabilities.get("net", False), join(inner, "net")),
            carried=carried,
            unread=self._unread,
            notices=self._told(),
        )

    def _notice(self, kind: str, path: str, message: str) -> None:
        if len(self._notices) < MAX_NOTICES:
            self._notices.append(Notice(kind, path, message))
        else:
            self._left_out += 1

    def _told(self) -> tuple[Notice, ...]:
        if self._left_out:
            message = f"{self._left_out} more members or modalities of the manifest are not known either."
            return (*self._notices, Notice("UnknownMember", self._path, message))
        return tuple(self._notices)

    def _members(
        self,
        value: object,
        path: str,
        known: Sequence[str],
        others: Sequence[str] = (),
        likeness: float = MISSPELT,
    ) -> dict[str, Any]:
        """Return an object without its nulls and without unknown members, which are kept aside.

        :param known: the names that grant something: a name that looks like a misspelling of one is refused.
        :param others: further names that it may have.
        """
        if not isinstance(value, dict):
            raise invalid_params(path, f"{path} must be an object.")
        found: dict[str, Any] = {}
        for name, member in cast("dict[str, Any]", value).items():
            if name in known or name in others:
                if member is not None:
                    found[name] = member
                continue
            at = join(path, name)
            meant = nearest(name, known, likeness)
            if meant and not name.startswith(REMARKS):
                raise invalid_params(at, f"{path} has no member {shown(name)}. Did you mean {meant}?")
            self._carry(name, member, at, known)
        return found

    def _carry(self, name: str, member: Any, at: str, known: Sequence[str]) -> None:
        self._unread[at if at.startswith(f"{self._path}.capabilities") else name] = member
        if not name.startswith(REMARKS):
            meant = nearest(name, known)
            advice = f" Did you mean {meant}?" if meant else ""
            self._notice("UnknownMember", at, f"{at} is not known here and grants nothing.{advice}")

    def _capabilities(self, value: object, path: str) -> dict[str, Any]:
        """Return the families of capabilities: ours and any others, whose contents are not checked here."""
        if not isinstance(value, dict):
            raise invalid_params(path, f"{path} must be an object.")
        families = {name: member for name, member in cast("dict[str, Any]", value).items() if member is not None}
        for name in families:
            ours = name in _FAMILIES or name.startswith(REMARKS)
            if not ours and (meant := nearest(name, _FAMILIES, MISSPELT)):
                at = join(path, name)
                self._notice("UnknownMember", at, f"{at} grants nothing here. Did you mean {meant}?")
        return families

    def _modalities(self, value: object, path: str) -> Iterator[str]:
        for at, item in _items(value, path):
            if not isinstance(item, str) or not 0 < len(item) <= MAX_MODALITY:
                raise invalid_params(at, f"{at} must be a modality such as text-to-image.")
            if item not in MODALITIES:
                meant = nearest(item.replace(" ", "-"), MODALITIES, _MODALITY_MISSPELT)
                if meant:
                    raise invalid_params(at, f"{at} is not a modality. Did you mean {meant}?")
                self._notice("UnknownModality", at, f"{shown(item)} is not supported here and grants nothing.")
            yield item

    def _models(self, value: object, path: str) -> Iterator[ModelEntry]:
        if not isinstance(value, list):
            raise invalid_params(path, f'{path} must be an array of model ids, as in ["pocket"].')
        for place, item in _items(cast("object", value), path):
            if isinstance(item, str):
                yield _model(item, place)
            elif isinstance(item, dict):
                yield self._model(cast("dict[str, Any]", item), place)
            else:
                raise invalid_params(place, f"{place} must be a model id, or an object that has it as id.")

    def _model(self, value: dict[str, Any], path: str) -> ModelEntry:
        for name, member in value.items():
            # an unknown name would be kept unread, and so every version of the model granted
            known = name in _MODEL or name.startswith(REMARKS)
            if not known and isinstance(member, str) and _DIGEST_OF_ANY_FORM.fullmatch(member):
                at = join(path, name)
                raise invalid_params(at, f"{at} does not pin the model to a digest. Did you mean digest?")
        entry = self._members(value, path, _MODEL)
        model = _model(entry.get("id"), join(path, "id"))
        given, at = entry.get("digest"), join(path, "digest")
        if given is None:
            return model
        if not isinstance(given, str) or PINNED.fullmatch(given) is None:
            raise invalid_params(at, f"{at} must be sha256: and 64 hex digits.")
        if model.digest not in (None, given.lower()):
            raise invalid_params(at, f"{at} differs from the digest in id.")
        return ModelEntry(model.id, given.lower())

    def _folders(self, value: object, path: str) -> Iterator[tuple[str, Access]]:
        if value is False:
            return
        fs = self._members(value, path, _FS)
        for name in ("user-folder", "app-data"):
            access = _access(fs.get(name, False), join(path, name), ACCESS)
            if access is not None:
                yield name, access
        access = _access(fs.get(USER_SELECTED, False), join(path, USER_SELECTED), SELECTED)
        if access is not None:
            yield USER_SELECTED, access
        yield from self._user_paths(fs.get("user-paths", {}), join(path, "user-paths"))

    def _user_paths(self, value: object, path: str) -> Iterator[tuple[str, Access]]:
        if not isinstance(value, dict):
            raise invalid_params(path, f"{path} must be an object.")
        for name, given in cast("dict[str, Any]", value).items():
            at = join(path, name)
            if given is None:
                continue
            if PATH_NAME.fullmatch(name) is None and name.startswith(REMARKS):
                self._carry(name, given, at, ())
                continue
            if PATH_NAME.fullmatch(name) is None:
                raise invalid_params(at, f"The name {shown(name)} must be letters, digits, - and _, at most 64.")
            access = _access(given, at, ACCESS)
            if access is not None:
                yield f"user-paths.{name}", access

    def _net(self, value: object, path: str) -> Network:
        if isinstance(value, bool):
            return Network(allowed=value)
        net = self._members(value, path, _NET)
        hosts: list[str] = []
        for at, host in _items(net.get("allowed_hosts", []), join(path, "allowed_hosts")):
            if not isinstance(host, str) or not 0 < len(host) <= 253:
                raise invalid_params(at, f"{at} must be the name of a host.")
            hosts.append(host)
        ports: list[int] = []
        for at, port in _items(net.get("allowed_ports", []), join(path, "allowed_ports")):
            if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
                raise invalid_params(at, f"{at} must be a port from 1 to 65535.")
            ports.append(port)
        return Network(allowed=True, hosts=tuple(hosts), ports=tuple(ports))


def _model(given: object, at: str) -> ModelEntry:
    model, pinned, digest = given.partition("@") if isinstance(given, str) else ("", "", "")
    if MODEL_ID.fullmatch(model) is None or (pinned and PINNED.fullmatch(digest) is None):
        raise invalid_params(at, f"{at} must be a model id, alone or followed by @sha256: and 64 hex digits.")
    return ModelEntry(model, digest.lower() if pinned else None)


def _items(value: object, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, list):
        raise invalid_params(path, f"{path} must be an array.")
    items = cast("list[Any]", value)
    if len(items) > MAX_ENTRIES:
        raise invalid_params(path, f"{path} may have at most {MAX_ENTRIES} entries.")
    for index, item in enumerate(items):
        yield f"{path}[{index}]", item


def _label(top: dict[str, Any], name: str, path: str) -> str:
    value = top.get(name)
    if not isinstance(value, str) or LABEL.fullmatch(value) is None:
        at = join(path, name)
        raise invalid_params(at, f"{at} must be 1 to 128 characters without / and @, with no space at either end.")
    return value


def _access(value: object, path: str, words: Sequence[str]) -> Access | None:
    if value is False:
        return None
    if not isinstance(value, str) or value not in words:
        allowed = ", ".join(f'"{word}"' for word in words)
        raise invalid_params(path, f"{path} must be {allowed} or false.")
    return cast("Access", value)
