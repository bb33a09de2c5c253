"""Defines the list of things that the model draws, and where the three pictures of each come from.

    python -m pocket_model.things [--work WORK]

Downloads the npm packages below once, and lists the things that all three sets have. A thing is one entry of the
Unicode list; flags, keycaps, letters, plain geometry (``pocket_model.drawings`` has that), variants by skin, hair,
gender and direction are left out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocket_model import places

PACKAGES = {
    "noto": ("@iconify-json/noto", "1.2.9"),
    "flat": ("@iconify-json/fluent-emoji-flat", "1.2.6"),
    "3d": ("@lobehub/fluent-emoji-3d", "1.1.0"),
    "list": ("unicode-emoji-json", "0.9.0"),
    "words": ("emojilib", "4.0.3"),
    "tags": ("emojibase-data", "17.0.0"),
}
STYLES = ("noto", "flat", "3d")
"""The picture sets; captions call them cartoon, flat and 3d."""
_LEFT_OUT_SUBGROUPS = frozenset(
    {"alphanum", "keycap", "geometric", "skin-tone", "hair-style", "family", "flag", "country-flag",
     "subdivision-flag", "gender", "punctuation", "currency", "av-symbol", "transport-sign", "zodiac"}
)  # fmt: skip
_LEFT_OUT_STARTS = ("man ", "woman ", "men ", "women ", "Japanese ", "keycap")
_LEFT_OUT_PARTS = (
    "facing right",
    "-thirty",
    "input ",
    "person: ",
    " hair",
    "button (blood",
    "middle finger",
    "END ",
    "BACK ",
    "TOP ",
    "SOON ",
    "ON! ",
)
_KEPT = frozenset({"man", "woman", "woman dancing", "man dancing", "woman with headscarf", "dollar banknote"})


@dataclass(frozen=True)
class Thing:
    """One thing: its character, its name in the Unicode list, and its key in each picture set."""

    character: str
    name: str
    group: str
    keys: tuple[str, str, str]


def fetched(work: Path, package: str) -> Path:
    """The unpacked folder of one of PACKAGES, downloaded with ``npm pack`` if it is not there yet."""
    name, version = PACKAGES[package]
    folder = work / "packages" / package
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as place:
            subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=place, check=True, capture_output=True)
            (archive,) = Path(place).glob("*.tgz")
            with tarfile.open(archive) as tar:
                tar.extractall(place, filter="data")
            shutil.move(Path(place) / "package", folder)
    return folder


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def all_things(work: Path) -> list[Thing]:
    """Every thing that all three sets have, in the order of the Unicode list."""
    listed = read_json(fetched(work, "list") / "data-by-emoji.json")
    tags = read_json(fetched(work, "tags") / "en" / "data.json")
    groups = read_json(fetched(work, "tags") / "en" / "messages.json")["subgroups"]
    subgroup_names = {g["order"]: g["key"] for g in groups}
    subgroups = {t["emoji"].replace("\ufe0f", ""): subgroup_names.get(t.get("subgroup")) for t in tags}
    characters = [read_json(fetched(work, s) / "chars.json") for s in ("noto", "flat")]
    solid = {f.stem for f in (fetched(work, "3d") / "assets").glob("*.webp")}
    things: list[Thing] = []
    for character, entry in listed.items():
        name = entry["name"]
        codes = [f"{ord(c):x}" for c in character]
        full, bare = "-".join(codes), "-".join(c for c in codes if c != "fe0f")
        if not _wanted(name, entry["group"], subgroups.get(character.replace("\ufe0f", ""))):
            continue
        keys = [next((c[k] for k in (full, bare) if k in c), None) for c in characters]
        keys.append(next((k for k in (full, bare, full.zfill(4)) if k in solid), None))
        found = [key for key in keys if key]
        if len(found) == len(keys):
            things.append(Thing(character, name, entry["group"], (found[0], found[1], found[2])))
    return things


def _wanted(name: str, group: str, subgroup: str | None) -> bool:
    if name in _KEPT:
        return True
    if group == "Flags" or subgroup in _LEFT_OUT_SUBGROUPS:
        return False
    return not (name.startswith(_LEFT_OUT_STARTS) or any(p in name for p in _LEFT_OUT_PARTS))


def main() -> None:
    """Prints how many things there are, by group."""
    options = places.parser(__doc__).parse_args()
    things = all_things(options.work)
    for group in dict.fromkeys(t.group for t in things):
        names = [t.name for t in things if t.group == group]
        print(f"{group} ({len(names)}): {', '.join(names)}\n")
    print(len(things), "things")


if __name__ == "__main__":
    main()
