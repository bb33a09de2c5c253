"""``python -m locara_protocol.generate`` writes the committed schema files; with ``--check`` it compares them.

Generates the folder ``protocol/schema/v1`` next to this package, two modules in ``clients/`` and the types of the Rust
crate. The output depends only on the tables and the message types, so it is reproducible byte for byte.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from locara_protocol import PROTOCOL_VERSION, rust_source
from locara_protocol.generation import openrpc, schemas, typing_source

RUST = Path(__file__).resolve().parent.parent / "rust" / "src"
DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "schema" / f"v{PROTOCOL_VERSION}"


def files() -> dict[str, bytes]:
    """Return every generated file: name to contents."""
    documents = {"openrpc.json": openrpc.document(), **schemas.documents()}
    return {name: msgspec.json.format(msgspec.json.encode(tree), indent=2) + b"\n" for name, tree in documents.items()}


def stale(folder: Path) -> list[str]:
    """Return the names of files in ``folder`` that are missing, different, or no longer generated."""
    wanted = files()
    present = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    return sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))


def write(folder: Path) -> list[str]:
    """Bring ``folder`` up to date and return the names that changed."""
    wanted = files()
    folder.mkdir(parents=True, exist_ok=True)
    changed = stale(folder)
    for name in changed:
        if name in wanted:
            (folder / name).write_bytes(wanted[name])
        else:
            (folder / name).unlink()
    return changed


def modules(*, write_them: bool, folder: Path = Path(__file__).parent / "clients", rust: Path = RUST) -> list[str]:
    """Return the names of the generated modules that differ, Rust's included; with ``write_them``, write them."""
    changed: list[str] = []
    sources = {folder / name: source for name, source in typing_source.files().items()}
    sources[rust / "schema.rs"] = rust_source.source()
    for file, source in sources.items():
        if not file.exists() or file.read_bytes() != source:
            changed.append(file.name)
            if write_them:
                file.write_bytes(source)
    return changed


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    :returns: 0, or 1 if ``--check`` found a stale file.
    """
    parser = argparse.ArgumentParser(prog="python -m locara_protocol.generate", description="The schema files.")
    parser.add_argument("--check", action="store_true", help="compare only; status 1 if a file is stale")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="where the files are")
    options = parser.parse_args(arguments)
    changed = stale(options.folder) if options.check else write(options.folder)
    changed += modules(write_them=not options.check)
    for name in changed:
        sys.stderr.write(f"{'stale' if options.check else 'wrote'}: {name}\n")
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    raise SystemExit(main())
