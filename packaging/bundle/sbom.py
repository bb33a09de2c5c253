"""The bill of materials of a bundle, in CycloneDX 1.6: packages, interpreter, included libraries, and the model."""

from __future__ import annotations

import functools
import hashlib
import subprocess
import uuid
from datetime import UTC, datetime
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from bundle.layout import Layout

_NAMESPACE = uuid.UUID("0b7f6a2e-6f2b-5b39-9f3c-1d6f0d7a4a55")  # ours, generated once


class Component(msgspec.Struct, frozen=True):
    """One component of the bundle.

    :param licence: an SPDX expression if the package has one, otherwise its own description of the licence.
    :param notes: its folder ``*.dist-info``; for an included library, the file that was copied.
    """

    kind: str
    name: str
    version: str
    licence: str
    purl: str = ""
    notes: Path | None = None
    sha256: str = ""


def components(layout: Layout, python: str, carried: dict[str, Path]) -> list[Component]:
    """Return all components, sorted by name.

    :param carried: name → file of this machine, as ``libraries.carry`` returns it.
    """
    found = [_package(folder) for folder in layout.site.glob("*.dist-info")]
    found.append(Component("platform", "CPython", python, "PSF-2.0", f"pkg:generic/python@{python}"))
    for name, source in carried.items():
        package, version = debian_package(source)
        purl = f"pkg:deb/debian/{package}@{version}" if package else ""
        digest = hashlib.sha256((layout.home / "lib" / name).read_bytes()).hexdigest()
        found.append(Component("library", name, version, "", purl, source, digest))
    model = layout.site / "locara_sidecar" / "models" / "pocket"
    own = next(each.version for each in found if each.name == "locara-sidecar")
    weights = hashlib.sha256()
    for path in sorted(model.rglob("*.safetensors")):
        weights.update(path.read_bytes())
    found.append(Component("machine-learning-model", "pocket", own, "Apache-2.0", sha256=weights.hexdigest()))
    return sorted(found, key=lambda each: (each.kind, each.name.lower()))


def _package(folder: Path) -> Component:
    said = HeaderParser().parsestr((folder / "METADATA").read_text(encoding="utf-8"))
    name, version = said["Name"], said["Version"]
    short = (said["License"] or "").strip()
    licence = (
        said["License-Expression"] or (short if "\n" not in short else "") or _classified(said.get_all("Classifier"))
    )
    return Component("library", name, version, licence, f"pkg:pypi/{name.lower().replace('_', '-')}@{version}", folder)


def _classified(classifiers: list[str] | None) -> str:
    words = [each.rpartition(" :: ")[2] for each in classifiers or [] if each.startswith("License ::")]
    return " AND ".join(words)


@functools.cache
def debian_package(path: Path) -> tuple[str, str]:
    """Return the Debian package that a file belongs to, and its version; two empty strings elsewhere."""
    for place in (str(path), str(path).removeprefix("/usr")):
        try:
            owner = subprocess.run(["dpkg", "-S", place], capture_output=True, text=True, check=True).stdout
            package = owner.split(": ")[0].split(",")[0]
            words = ["dpkg-query", "-W", "-f", "${Version}", package]
            version = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            continue
        return package.split(":")[0], version
    return "", ""


def document(contents: list[Component], target: str, engine: str, epoch: int) -> dict[str, Any]:
    """Build the document; the same contents give the same document.

    :param epoch: its time, in seconds since 1970.
    """
    known = [_component(each) for each in contents]
    subject = next(each for each in known if each["name"] == "locara-sidecar")
    serial = uuid.uuid5(_NAMESPACE, msgspec.json.encode([known, target, engine], order="sorted").hex())
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {**subject, "type": "application", "bom-ref": "bundle", "description": f"{engine}, {target}"},
        },
        "components": known,
    }


def _component(each: Component) -> dict[str, Any]:
    found: dict[str, Any] = {"type": each.kind, "bom-ref": f"{each.kind}/{each.name}", "name": each.name}
    if each.version:
        found["version"] = each.version
    if each.licence:
        found["licenses"] = [{"license": {"name": each.licence}}]
    if each.purl:
        found["purl"] = each.purl
    if each.sha256:
        found["hashes"] = [{"alg": "SHA-256", "content": each.sha256}]
    return found
