"""The clauses of the contract: what ``protocol/README.md`` promises, sentence by sentence, each with a stable id.

In the page a clause ends with its id in brackets, ``[CHAN-3]``, or ``[CHAN-3 SHOULD]``; without a level it is a MUST.
``requirements.json`` lists them for a version of the contract; ``python -m locara_conformance.clauses`` generates it
from the page, ``--check`` says whether it is up to date.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = Path(__file__).with_name("requirements.json")
PAGE = Path(__file__).resolve().parents[2] / "README.md"
INFORMATIVE = {"A real exchange", "From Python", "Conformance", "Changing the contract", "Models of your own"} | {
    "`--json`",
    "Pictures in the terminal",
}
"""Sections that show and explain but promise nothing, and those about this program's commands instead of the wire."""

ID = re.compile(r" ?\[([A-Z]+-[0-9]+)(?: (SHOULD))?\]")
NORMATIVE = re.compile(
    r"\b(must|never|always|cannot|may not|refused|ignored|dropped|answered|answers|at most|at least|exactly|nothing|"
    r"no other|without holes|is an error|not an error|no error|within [0-9.]+ seconds?|under [0-9]+ [KM]iB)\b"
    r"|-32[0-9]{3}"
)
"""A sentence with one of these words promises something."""
_END = re.compile(r"[.!?][)\"*]*(?: \[[A-Z]+-[0-9]+(?: SHOULD)?\])*\s+(?=[^a-z\s])(?!\[[A-Z]+-[0-9])")


@dataclass(frozen=True)
class Sentence:
    """One sentence of the page, or one row of a table.

    :param section: its heading; :param text: without ids; :param ids: with their levels.
    """

    section: str
    text: str
    ids: tuple[tuple[str, str], ...]

    @property
    def normative(self) -> bool:
        """Whether it is worded as a promise."""
        return NORMATIVE.search(self.text) is not None


def sentences(page: str) -> Iterator[Sentence]:
    """Yield all sentences of the sections that promise something."""
    section = ""
    for block in _blocks(page):
        if heading := re.fullmatch(r"#+ (.*)", block):
            section = heading[1]
        elif section and section not in INFORMATIVE:
            for text in [block] if block.startswith("|") else _split(block):
                ids = tuple((found[1], found[2] or "MUST") for found in ID.finditer(text))
                yield Sentence(section, " ".join(ID.sub("", text).split()).removeprefix("- ").strip("| "), ids)


def requirements(page: str) -> dict[str, Any]:
    """Return what goes into the file: ``version`` and, by id, ``level``, ``section`` and ``text``.

    :raises ValueError: for a duplicate id.
    """
    found: dict[str, Any] = {}
    for one in sentences(page):
        for id, level in one.ids:
            if id in found:
                raise ValueError(f"the id {id} appears twice in the page")
            found[id] = {"level": level, "section": one.section, "text": one.text}
    return {"version": VERSION, "requirements": found}


VERSION = "1.4"
"""The list's version: a change of its ids or levels needs a new one. The first number is the protocol's version."""


@functools.cache
def load() -> dict[str, dict[str, str]]:
    """Return the clauses by id, as in the file."""
    return json.loads(FILE.read_text("utf-8"))["requirements"]


def _blocks(page: str) -> Iterator[str]:
    """Yield headings, paragraphs, list items and table rows, each on one line, without code and comments."""
    page = re.sub(r"^```.*?^```$|<!--.*?-->", "", page, flags=re.DOTALL | re.MULTILINE)
    block: list[str] = []
    for line in [*page.splitlines(), ""]:
        if line.startswith("    ") or not line.strip():
            begins, line = True, ""
        else:
            begins = line.startswith(("#", "|", "- "))
        if begins and block:
            yield " ".join(block)
            block = []
        if line:
            block.append(line.strip())
            if line.startswith(("#", "|")):
                yield " ".join(block)
                block = []


def _split(block: str) -> list[str]:
    """Split a block into sentences. Text in backquotes counts as one word."""
    masked = re.sub(r"`[^`]*`", lambda code: "_" * len(code[0]), block)
    cuts = [0, *(match.end() for match in _END.finditer(masked)), len(block)]
    return [block[begin:end] for begin, end in itertools.pairwise(cuts) if block[begin:end].strip()]


def main(arguments: list[str]) -> int:
    """Write the file, or say whether it is up to date."""
    made = json.dumps(requirements(PAGE.read_text("utf-8")), indent=1, ensure_ascii=False) + "\n"
    if arguments != ["--check"]:
        FILE.write_text(made, encoding="utf-8")
    elif not FILE.exists() or FILE.read_text("utf-8") != made:
        sys.stderr.write(f"{FILE.name} is stale: python -m locara_conformance.clauses\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
