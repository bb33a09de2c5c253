"""JSON-RPC 2.0: each row of the page's table of fine points, through the fixtures, and what holds for every message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from locara_conformance.checks import check
from locara_conformance.groups.replay import replay
from locara_conformance.lab import drawing, expect
from locara_conformance.watch import answers

if TYPE_CHECKING:
    from locara_conformance.lab import Lab

ROWS: list[tuple[str, str, list[tuple[str, ...]]]] = [
    (
        "not-json",
        "RPC-1 ERR-3",
        [("parse-errors",), ("utf8", "", "back as it was|escaped backslash|beyond ASCII"), ("depth",)],
    ),
    ("too-long", "RPC-2", [("long-lines", "over|overlong")]),
    ("empty-batch", "RPC-3", [("batches", "^an empty array")]),
    ("invalid-entries", "RPC-4", [("batches", "^an array of|every invalid|a valid and an invalid")]),
    ("batch-of-notifications", "RPC-5", [("batches", "notifications")]),
    ("batch-too-long", "RPC-6", [("batches", "batch of (64|65|a million)")]),
    (
        "envelope",
        "RPC-7",
        [("envelope", "", "extra members|params: null|escaped|the last of")],
    ),
    (
        "bad-id",
        "RPC-8",
        [("ids",), ("utf8", "back as it was|escaped backslash|beyond ASCII")],
    ),
    ("id-in-flight", "RPC-9", [("lifecycle", "in flight")]),
    ("null-params", "RPC-10", [("envelope", "params: null")]),
    ("array-params", "RPC-11", [("params", "array params")]),
    (
        "unknown-method",
        "RPC-12 ERR-5",
        [("methods", "unknown .*method|unknown .* request|empty method|case-sensitive"), ("batches", "unknown method")],
    ),
    ("request-without-id", "RPC-13", [("methods", "without an id")]),
    (
        "notification-with-id",
        "RPC-14",
        [("methods", "with an id$|with an id is|notification.* with an id")],
    ),
    (
        "ignored-notification",
        "RPC-15",
        [("methods", "unknown notification|array params|wrong params|is not an error")],
    ),
    (
        "unknown-member",
        "RPC-16 REQ-2",
        [("params", "unknown member|misspelt|snake_case|no word|_meta|required member"), ("envelope", "escaped")],
    ),
    ("fraction", "RPC-17", [("params", "^4")]),
    ("stray-response", "RPC-18", [("methods", "stray"), ("batches", "stray")]),
    (
        "same-member-twice",
        "RPC-19",
        [("envelope", "the last of"), ("params", "the last of")],
    ),
    ("extra-members", "RPC-20", [("envelope", "extra members")]),
]
"""Each row of the table: the check's name, the row's clauses, the fixtures that test it."""

FURTHER: list[tuple[str, str, list[tuple[str, ...]]]] = [
    (
        "batches",
        "RPC-21 RPC-22",
        [("batches", "one request|come as one array|cannot stand")],
    ),
    (
        "types",
        "REQ-3 EDIT-6 EDIT-7 PICK-8",
        [
            (
                "params",
                "",
                "array params|unknown member|misspelt|snake_case|no word|_meta|required member|^4|the last of",
            ),
            ("edit",),
            ("picked-files",),
        ],
    ),
    ("jobs", "JOB-8", [("jobs",)]),
]
"""Clauses outside the table that fixtures test."""


def _row(name: str, clause: str, fixtures: list[tuple[str, ...]]) -> None:
    def run(lab: Lab) -> None:
        for chosen in fixtures:
            replay(lab, *chosen)

    check(f"jsonrpc.{name}", clause)(run)


for _one in [*ROWS, *FURTHER]:
    _row(*_one)


@check("jsonrpc.shape", "REQ-7", watched=True)
def _envelope(lab: Lab) -> None:
    peer = lab.shared()
    for method in ("ping", "system.info", "jobs.list", "models.list", "audit.capabilityLog", "rpc.discover"):
        peer.call(method)
    peer.refused("InvalidParams", "ping", {"loud": True})


@check("jsonrpc.id-echo", "REQ-5", watched=True)
def _id_echo(lab: Lab) -> None:
    peer = lab.shared()
    for id in (0, -1, 9007199254740991, -9007199254740991, "0", "1e3", "", "é" * 128, "a\nB"):
        peer.send({"jsonrpc": "2.0", "id": id, "method": "ping"})
        peer.wait(f"answer to the id {id!r}", lambda one, id=id: answers(one, id))


@check("jsonrpc.answered-once", "REQ-6", watched=True)
def _answered_once(lab: Lab) -> None:
    peer = lab.shared()
    call = peer.start("image.generate", drawing(), stream=True)
    call.result(30)
    for _ in range(2):
        start = len(peer.inbox)  # before it is sent: the answer may arrive at once
        peer.send({"jsonrpc": "2.0", "id": "again", "method": "ping"})
        peer.wait("answer to an id that is used again", lambda one: answers(one, "again"), start=start)
        peer.barrier()


@check("jsonrpc.concurrent", "WIRE-7")
def _concurrent(lab: Lab) -> None:
    peer = lab.shared()
    call = peer.start("image.generate", drawing("fake:slow=20000 a lake"), stream=True)
    call.until("denoising", timeout=20)
    for _ in range(20):
        peer.call("ping")
    expect(not call.answered(), "a job of 40 s was answered at once")
    call.cancel()
    call.error("RequestCancelled")
