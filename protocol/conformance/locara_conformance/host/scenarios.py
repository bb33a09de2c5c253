"""The scenarios, as data (see ``protocol/conformance/README.md`` for the format)."""

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

    :param id: ``file.name``; never reused for another one.
    :param clauses: ids of the clauses of the contract that it tests.
    :param steps: what the client is told to do, with what its caller must (``expect``) and should (``should``) see.
    :param sent: messages that the client must have sent, in that order; there may be others in between.
    """

    id: str
    description: str
    clauses: tuple[str, ...]
    steps: list[dict[str, Any]]
    plays: list[dict[str, Any]]
    ignores: tuple[str, ...]
    sent: list[Any]
    command: list[str] | None
    """Replaces the player, for what cannot be spawned."""

    def given(self) -> list[dict[str, Any]]:
        """Return the steps for the client: without the expectations, and with long texts expanded."""
        return [{name: written_out(step[name]) for name in step if name not in JUDGED} for step in self.steps]

    def played(self) -> dict[str, Any]:
        """Return the player's part."""
        return {"plays": self.plays, "ignores": list(self.ignores), "values": values()}


def written_out(value: Any) -> Any:
    """Expand ``{"$repeat": TEXT, "times": N}``."""
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
    """Return all scenarios by id, file by file.

    :raises HarnessFault: if the files are missing.
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
    """Return the standard answers: ``results`` by method, and the ``message`` of a frame."""
    return json.loads((folder("hosts") / "values.json").read_text("utf-8"))


def chosen(names: list[str]) -> list[Scenario]:
    """Return the scenarios whose id or file is named; all if no names are given.

    :raises KeyError: for a name that matches nothing.
    """
    every = load()
    for name in names:
        if name not in every and not any(id.startswith(f"{name}.") for id in every):
            raise KeyError(name)
    return [one for id, one in every.items() if not names or id in names or id.partition(".")[0] in names]
