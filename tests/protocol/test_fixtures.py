"""The language-neutral cases, answered by the protocol package alone."""

import json

import pytest

from locara_conformance.cases import folder, load
from locara_protocol.errors import RpcError
from locara_protocol.framing import DEFAULT_MAX_LINE_BYTES, LineSplitter, LineTooLong
from locara_protocol.jsonrpc import (
    Batch,
    Invalid,
    Notification,
    Request,
    decode_line,
    decode_params,
    encode_batch,
    encode_error,
    encode_result,
    line_too_long,
)
from locara_protocol.methods import METHODS

CASES = load()
MEMBERS = {"description", "send", "expect", "initialized", "anyOrder", "needs", "last"}


def test_there_are_cases_for_every_row():
    assert len(CASES) >= 60
    assert all(case.needs in ("protocol", "sidecar") for case in CASES)


def test_the_files_have_the_documented_members():
    for path in folder("jsonrpc").glob("*.json"):
        for case in json.loads(path.read_text("utf-8")):
            assert case.keys() <= MEMBERS, case["description"]


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.needs == "protocol"], ids=lambda case: f"{case.file}-{case.number:02}"
)
def test_case_is_answered_as_expected(case):
    assert case.problem(answer_in_process(case)) is None, case.description


def answer_in_process(case):
    """Return the answers of the protocol package by itself; a valid request gets the result ``{}``."""
    splitter = LineSplitter(DEFAULT_MAX_LINE_BYTES)
    answers = []
    sent = b"".join(line + ending for line, ending in case.lines())
    for line in [*splitter.feed(sent), *splitter.finish()]:
        decoded = line_too_long(line.max_line_bytes) if isinstance(line, LineTooLong) else decode_line(line)
        if isinstance(decoded, Batch):
            some = [answer for entry in decoded.entries if (answer := _answer(entry, case, in_batch=True))]
            answers += [encode_batch(some)] if some else []
        elif answer := _answer(decoded, case, in_batch=False):
            answers.append(answer)
    assert all(b"\n" not in answer and b"\r" not in answer for answer in answers)
    return [json.loads(answer) for answer in answers]


def _answer(entry, case, *, in_batch):
    if isinstance(entry, Invalid):
        return encode_error(entry.id, entry.error)
    if in_batch and isinstance(entry, Notification) and entry.method == "exit":
        return encode_error(None, RpcError("InvalidRequest", "Not in a batch."))
    if not isinstance(entry, Request):
        return None
    try:
        method = METHODS.get(entry.method)
        if in_batch and method is not None and not method.in_batch:
            raise RpcError("InvalidRequest", "Not in a batch.")
        if not case.initialized and not (method is not None and method.before_initialize):
            raise RpcError("NotInitialized", "Not initialized.")
        if method is None:
            raise RpcError("MethodNotFound", "Unknown method.")
        decode_params(method.params, entry.params)
    except RpcError as error:
        return encode_error(entry.id, error)
    return encode_result(entry.id, {})
