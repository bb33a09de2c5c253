"""The scenarios, as data (their form is in ``protocol/conformance/README.md``)."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any, cast

from locara_conformance.cases import folder

JUDGED = ("expect", "should")


@dataclass(frozen=True)
class Scenario:
    """One scenario.

    :param id: ``file.name``; never given to another one later.
    :param clauses: ids of the clauses of the contract that it tries.
    :param steps: what the client is told to do, with what its caller must (``expect``) and should (``should``) see.
    :param sent: messages that the client must have sent, in that order; others may stand between.
    """

    id: str
    description: str
    clauses: tuple[str, ...]
    steps: list[dict[str, Any]]
    plays: list[dict[str, Any]]
    ignores: tuple[str, ...]
    sent: list[Any]
    command: list[str] | None
    """In place of the player, for what cannot be spawned."""

    def given(self) -> list[dict[str, Any]]:
        """The steps as the client gets them: without what is expected, and with long texts written out."""
        return [{name: written_out(step[name]) for name in step if name not in JUDGED} for step in self.steps]

    def played(self) -> dict[str, Any]:
        """What the player gets."""
        return {"plays": self.plays, "ignores": list(self.ignores), "values": values()}


def written_out(value: Any) -> Any:
    """With ``{"$repeat": TEXT, "times": N}`` replaced by the text that it stands for."""
    if isinstance(value, list):
        return [written_out(one) for one in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    members = cast("dict[str, Any]", value)
    if "$repeat" in members:
        return members["$repeat"] * members["times"]
    return {name: written_out(one) for name, one in members.items()}


@functools.cache
def load() -> dict[str, Scenario]:
    """All scenarios by id, file by file.

    :raises HarnessFault: if the files are not where they should be.
    """
    found = [
        Scenario(
            id=f"{path.stem}.{one['name']}",
            description=one["description"],
            clauses=tuple(one.get("clauses", [])),
            steps=one["steps"],
            plays=one.get("plays", []),
            ignores=tuple(one.get("ignores", [])),
            sent=one.get("sent", []),
            command=one.get("command"),
        )
        for path in sorted(folder("hosts").glob("*.json"))
        if path.stem != "values"
        for one in json.loads(path.read_text("utf-8"))
    ]
    return {one.id: one for one in found}


@functools.cache
def values() -> dict[str, Any]:
    """The standard answers: ``results`` by method, and the ``message`` of a frame."""
    return json.loads((folder("hosts") / "values.json").read_text("utf-8"))


def chosen(names: list[str]) -> list[Scenario]:
    """The scenarios whose id or file is named; all for no name.

    :raises KeyError: for a name that chooses nothing.
    """
    every = load()
    for name in names:
        if name not in every and not any(id.startswith(f"{name}.") for id in every):
            raise KeyError(name)
    return [one for id, one in every.items() if not names or id in names or id.partition(".")[0] in names]
