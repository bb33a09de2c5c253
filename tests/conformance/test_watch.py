"""The watch over all messages: which call a frame belongs to where a channel is used again at once."""

import json

import pytest

from locara_conformance import watch
from locara_conformance.validator import Schemas

FIRST, SECOND = ({"id": id, "method": "image.generate", "params": {"prompt": "a", "channel": 0}} for id in (1, 2))
ANSWER = {"id": 1, "result": {"jobId": "j"}}


def _message(index, job):
    return {"method": "DiffusionStep", "params": {"channel": 0, "index": index, "message": {"jobId": job}}}


def _end(index):
    return {"method": "DiffusionStep", "params": {"channel": 0, "index": index, "end": True}}


@pytest.mark.parametrize(
    ("first", "late", "second", "broken"),
    [
        ([_message(0, "j"), _end(1)], [], [_message(0, "k"), _end(1)], set()),
        ([_message(0, "j"), _end(1)], [_message(0, "j")], [_message(0, "k"), _end(1)], {"channels.silent"}),
        ([_message(0, "j")], [_end(1)], [_message(0, "k"), _end(1)], {"channels.end-first", "channels.silent"}),
        ([_message(0, "j"), _end(1)], [], [_message(1, "k"), _end(2)], {"channels.gapless"}),
        ([_message(0, "j"), _end(1)], [], [_message(0, "k"), _end(2)], {"channels.end-counts"}),
        ([_message(0, "j"), _end(1)], [], [_message(0, "k"), _end(1), _end(1)], {"channels.end-once"}),
    ],
    ids=["as it must be", "a message", "the end", "not from 0", "another count", "two ends"],
)
@pytest.mark.parametrize("sent_early", [False, True])
def test_what_comes_behind_an_answer_is_not_the_next_calls_however_early_that_was_sent(
    sent_early, first, late, second, broken
):
    found = []
    judge = watch.Watch(Schemas(), lambda id, sentence: found.append(id))
    judge.sent(json.dumps(FIRST).encode())
    for one in (*first, ANSWER):
        judge.received(json.dumps(one).encode())
    if sent_early:
        judge.sent(json.dumps(SECOND).encode())
    for one in late:
        judge.received(json.dumps(one).encode())
    if not sent_early:
        judge.sent(json.dumps(SECOND).encode())
    for one in (*second, {"id": 2, "result": {"jobId": "k"}}):
        judge.received(json.dumps(one).encode())
    assert {id for id in found if id.startswith("channels.")} == broken
