"""What one app was granted: its manifest and the folders that the host resolved for it.

Immutable; two policies are equal if they grant the same, which is how a repeated ``initialize`` is compared with what
was fixed at spawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from locara_protocol import manifest as manifests
from locara_protocol.errors import invalid_params
from locara_protocol.manifest import Manifest
from locara_protocol.wording import join, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_PATH_BYTES = 4096


class Policy(msgspec.Struct, frozen=True):
    """A manifest, if there is one, and the folder of each granted root (absolute; it need not exist yet).

    :param flags: what the host allowed at spawn, out of ``--allow-downloads`` and ``--allow-model-management``.
    """

    manifest: Manifest | None = None
    grants: dict[str, Path] = {}
    flags: frozenset[str] = frozenset()

    @classmethod
    def build(cls, manifest: dict[str, Any] | None, grants: Mapping[str, str] | None) -> Policy:
        """Validate what a host sent. A folder that does not exist is no error here, only when saving into it.

        :param manifest: the object of ``locara.json``; None grants nothing.
        :param grants: root name to absolute folder.
        :raises RpcError: InvalidParams with a path under ``$.manifest`` or ``$.grants``.
        """
        folders = {name: _folder(name, folder) for name, folder in (grants or {}).items()}
        return cls(None if manifest is None else manifests.parse(manifest), folders)

    @property
    def app_id(self) -> str | None:
        """``<publisher>/<name>@<version>``, or None without a manifest."""
        return None if self.manifest is None else self.manifest.app_id

    def granted(self) -> list[str]:
        """Return what the app may actually use, for people: ``modality:…``, ``model:…`` and ``fs.<root>:<access>``.

        A folder is listed only if the manifest declares it and the host granted it. Unknown modalities are not listed.
        """
        if self.manifest is None:
            return []
        served = [modality for modality in self.manifest.modalities if modality in manifests.MODALITIES]
        modalities = [f"modality:{modality}" for modality in served]
        models = [f"model:{entry.id}" + (f"@{entry.digest}" if entry.digest else "") for entry in self.manifest.models]
        # a picked file is granted by being picked
        folders = [
            f"fs.{root}:{access}"
            for root, access in self.manifest.folders.items()
            if root in self.grants or root == manifests.USER_SELECTED
        ]
        return list(dict.fromkeys([*modalities, *models, *folders]))


def _folder(name: str, folder: str) -> Path:
    path = join("$.grants", name)
    if not manifests.is_root(name):
        raise invalid_params(
            path, f"{shown(name)} is not a root; the roots are user-folder, app-data and user-paths.<name>."
        )
    if "\0" in folder:
        raise invalid_params(path, f"The folder of {name} must not contain a NUL character.")
    try:
        long = len(folder.encode()) > _MAX_PATH_BYTES
    except UnicodeEncodeError:
        # an answer could not name the files in it
        raise invalid_params(path, f"The name of the folder of {name} is not valid UTF-8.") from None
    if long:
        raise invalid_params(path, f"The folder of {name} may be at most {_MAX_PATH_BYTES} bytes long.")
    resolved = Path(folder)
    if not resolved.is_absolute():
        raise invalid_params(path, f"The folder of {name} must be absolute.")
    return resolved
