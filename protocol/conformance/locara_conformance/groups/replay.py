"""Plays fixture cases to the implementation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from locara_conformance.cases import Case, load
from locara_conformance.outcomes import Failed, HarnessFault
from locara_conformance.watch import answers

if TYPE_CHECKING:
    from locara_conformance.lab import Lab
    from locara_conformance.peer import Peer


def select(file: str, pattern: str = "", without: str = "$^") -> list[Case]:
    """Return the cases of a file whose description matches ``pattern`` and not ``without``.

    :raises HarnessFault: if there are none.
    """
    found = [
        case
        for case in load()
        if case.file == file and re.search(pattern, case.description) and not re.search(without, case.description)
    ]
    if not found:
        raise HarnessFault(f"no fixture of {file} is like {pattern}")
    return found


def replay(lab: Lab, file: str, pattern: str = "", without: str = "$^") -> None:
    """Play the cases that :func:`select` returns.

    :raises Failed: naming each case that was not answered as the contract says.
    """
    wrong = [
        f"{case.description}: {sentence}" for case in select(file, pattern, without) if (sentence := _play(lab, case))
    ]
    if wrong:
        raise Failed("; ".join(wrong))


def _play(lab: Lab, case: Case) -> str | None:
    peer = _peer(lab, case)
    peer.note(f"fixture {case.file}: {case.description}")
    start = len(peer.inbox)
    try:
        for line, ending in case.lines():
            peer.send_line(line, ending)
        answers = _answers(peer, case, start)
    except Failed as failed:
        peer.end()
        return str(failed)
    if case.last:
        peer.end()
    return case.problem(answers)


def _peer(lab: Lab, case: Case) -> Peer:
    """Return a process in the state that the case needs; ``initialized`` means without manifest and grants."""
    key = "with a bare session" if case.initialized else "without a session"
    if not case.last and (peer := lab.kept(key)) is not None:
        return peer
    peer = lab.session(opening={"manifest": None, "grants": None}) if case.initialized else lab.spawn()
    if not case.last:
        lab.keep(key, peer)
    return peer


def _answers(peer: Peer, case: Case, start: int) -> list[Any]:
    """Return the answers to a case: as many as are due, and any that arrive before the answer to a later ping."""
    seen = 0

    def enough(message: Any) -> bool:
        nonlocal seen
        seen += is_answer(message)
        return seen >= len(case.expect)

    if case.expect:
        try:
            peer.wait("answer", enough, start=start, timeout=peer.timeout * (3 if case.file == "long-lines" else 1))
        except Failed:
            if not seen:
                raise
    if case.last:
        return [message for message in peer.inbox[start:] if is_answer(message)]
    ping = peer.barrier()
    peer.settled()
    end = next(at for at, message in enumerate(peer.inbox) if answers(message, ping.id))
    return [message for message in peer.inbox[start:end] if is_answer(message)]


def is_answer(message: Any) -> bool:
    """Whether it is a response or a batch's answers, not a notification."""
    return isinstance(message, list) or "method" not in message
