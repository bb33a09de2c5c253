"""The app's manifest, ``locara.json``: what an app says that it needs.

Owned here: which members exist and what they may hold. Members that decide something here
(``modalities``, ``capabilities.models``, ``capabilities.fs``, ``capabilities.net``) are read strictly,
so that a misspelt one is an error and never a silent "no"; other capability families and the
descriptive members are carried unread and grant nothing.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from locara_protocol.errors import invalid_params
from locara_protocol.wording import join, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SCHEMA = "locara/v1"
"""The one schema that is understood."""

Access = Literal["read", "write", "read-write"]
"""What an app may do in a folder."""

MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,127}")
"""What a model id looks like; a full match is meant."""

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
_TOP = ("schema", "name", "publisher", "version", "modalities", "capabilities", *CARRIED)
_MODEL = ("id", "reason", "required")
_FS = ("user-folder", "app-data", "user-paths")
_NET = ("allowed_hosts", "allowed_ports")
ACCESS = ("read", "write", "read-write")
PINNED = re.compile(r"sha256:[0-9a-fA-F]{64}")
LABEL = re.compile(r"[^\s/@\x00-\x1f\x7f](?:[^/@\x00-\x1f\x7f]{0,126}[^\s/@\x00-\x1f\x7f])?")
MODALITY = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
PATH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MAX_ENTRIES = 1024


class ModelEntry(msgspec.Struct, frozen=True):
    """One entry of ``capabilities.models``; ``digest`` is ``sha256:<64 hex>`` in lower case, or None for any."""

    id: str
    digest: str | None = None


class Network(msgspec.Struct, frozen=True):
    """The app's own ``net``. It never widens anything here: the engine has no network whatever it says."""

    allowed: bool = False
    hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that was checked.

    :param models: in the manifest's order.
    :param folders: root name (``user-folder``, ``app-data``, ``user-paths.<name>``) to access; absent is denied.
    :param carried: every other member as it stands, other capability families under ``capabilities``.
    """

    name: str
    publisher: str
    version: str
    modalities: tuple[str, ...] = ()
    models: tuple[ModelEntry, ...] = ()
    folders: dict[str, Access] = {}
    net: Network = Network()
    carried: dict[str, Any] = {}

    @property
    def app_id(self) -> str:
        """``<publisher>/<name>@<version>``."""
        return f"{self.publisher}/{self.name}@{self.version}"

    def allows(self, root: str, access: Literal["read", "write"]) -> bool:
        """Whether the manifest declares that access to that root."""
        return access in self.folders.get(root, "").split("-")


def parse(value: dict[str, Any], path: str = "$.manifest") -> Manifest:
    """Check a manifest's JSON object. ``null`` for an optional member is the same as absent.

    :raises RpcError: InvalidParams whose ``data.path`` starts with ``path`` and names the member at fault.
    """
    top = _members(value, path, _TOP)
    if top.get("schema") != SCHEMA:
        raise invalid_params(join(path, "schema"), f'The manifest must say "schema": "{SCHEMA}".')
    capabilities = _members(top.get("capabilities", {}), join(path, "capabilities"), None)
    inner = join(path, "capabilities")
    carried = {name: top[name] for name in CARRIED if name in top}
    others = {name: capabilities[name] for name in capabilities if name not in ("models", "fs", "net")}
    if others:
        carried["capabilities"] = others
    return Manifest(
        name=_label(top, "name", path),
        publisher=_label(top, "publisher", path),
        version=_label(top, "version", path),
        modalities=tuple(_modalities(top.get("modalities", []), join(path, "modalities"))),
        models=tuple(_models(capabilities.get("models", []), join(inner, "models"))),
        folders=dict(_folders(capabilities.get("fs", {}), join(inner, "fs"))),
        net=_net(capabilities.get("net", False), join(inner, "net")),
        carried=carried,
    )


def merge(manifest: dict[str, Any], fragment: dict[str, Any]) -> dict[str, Any]:
    """The manifest with a ``declare`` fragment applied: objects are merged, lists appended, the rest replaced.

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


def _members(value: object, path: str, known: Sequence[str] | None) -> dict[str, Any]:
    """An object without its nulls.

    :param known: the names it may have; None for any.
    """
    if not isinstance(value, dict):
        raise invalid_params(path, f"{path} must be an object.")
    members = cast("dict[str, Any]", value)
    for name in members if known is not None else ():
        if name not in (known or ()):
            meant = nearest(name, known or ())
            advice = f" Was {meant} meant?" if meant else ""
            raise invalid_params(join(path, name), f"{path} has no member {shown(name)}.{advice}")
    return {name: member for name, member in members.items() if member is not None}


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
        raise invalid_params(at, f"{at} must be 1 to 128 characters without / and @, and without spaces around it.")
    return value


def _modalities(value: object, path: str) -> Iterator[str]:
    for at, item in _items(value, path):
        if not isinstance(item, str) or MODALITY.fullmatch(item) is None:
            raise invalid_params(at, f"{at} must be a modality such as text-to-image.")
        yield item


def _models(value: object, path: str) -> Iterator[ModelEntry]:
    for at, item in _items(value, path):
        entry = _members(item, at, _MODEL)
        given = entry.get("id")
        model, pinned, digest = given.partition("@") if isinstance(given, str) else ("", "", "")
        if MODEL_ID.fullmatch(model) is None or (pinned and PINNED.fullmatch(digest) is None):
            at = join(at, "id")
            raise invalid_params(at, f"{at} must be a model id, alone or followed by @sha256: and 64 hex digits.")
        yield ModelEntry(model, digest.lower() if pinned else None)


def _folders(value: object, path: str) -> Iterator[tuple[str, Access]]:
    if value is False:
        return
    fs = _members(value, path, _FS)
    for name in ("user-folder", "app-data"):
        access = _access(fs.get(name, False), join(path, name))
        if access is not None:
            yield name, access
    named = _members(fs.get("user-paths", {}), join(path, "user-paths"), None)
    for name, given in named.items():
        at = join(join(path, "user-paths"), name)
        if PATH_NAME.fullmatch(name) is None:
            raise invalid_params(at, f"The name {shown(name)} must be letters, digits, - and _, at most 64.")
        access = _access(given, at)
        if access is not None:
            yield f"user-paths.{name}", access


def _access(value: object, path: str) -> Access | None:
    if value is False:
        return None
    if not isinstance(value, str) or value not in ACCESS:
        raise invalid_params(path, f'{path} must be "read", "write", "read-write" or false.')
    return value


def _net(value: object, path: str) -> Network:
    if isinstance(value, bool):
        return Network(allowed=value)
    net = _members(value, path, _NET)
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
