"""Malformed messages: each is a failure of the implementation, never an error in the harness."""

import ast
import copy
import json
import re
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from locara_conformance import cases, lab, peer, raster, runner, watch
from locara_conformance.checks import CHECKS, Check
from locara_conformance.groups import replay
from locara_conformance.outcomes import Failed, HarnessFault, Outcome
from locara_conformance.validator import Schemas
from support.host import command

GROUPS = Path(replay.__file__).parent
HONEST = [*command("--engine", "fake")]


@pytest.fixture
def used():
    made = runner.Lab(HONEST)
    yield made
    made.close()


def judged(used, run, level="MUST"):
    return runner._one(used, Check("test.one", ("WIRE-1",), level, run, False))


def raising(error):
    def run(_lab):
        raise error

    return run


@pytest.mark.parametrize(
    ("level", "outcome"), [("MUST", Outcome.FAILURE), ("SHOULD", Outcome.WARNING)], ids=["must", "should"]
)
@pytest.mark.parametrize("error", [KeyError("phase"), TypeError("no number"), HarnessFault("its own call")])
def test_what_a_check_cannot_go_on_with_is_no_fault_of_the_harness_if_it_broke_its_schema(used, error, level, outcome):
    def run(its_lab):
        its_lab.violations["schema.notifications"] = [("the member phase is missing", [])]
        raise error

    found = judged(used, run, level)
    assert found.outcome is outcome
    assert found.reason.startswith("the member phase is missing (this check cannot go on: ")


def test_a_message_that_broke_its_schema_before_is_not_what_a_check_stumbles_over(used):
    used.violations["schema.results"] = [("a result of another check", [])]
    assert judged(used, raising(KeyError("x"))).outcome is Outcome.ERROR


OWN = {"ENTRY", "MAGIC", "case", "entry", "masked", "params", "without_model"}
"""What the harness builds itself or reads from the fixtures."""


@pytest.mark.parametrize("path", sorted(GROUPS.glob("*.py")), ids=lambda path: path.stem)
def test_no_check_takes_a_member_of_a_message_for_granted(path):
    """Checks use :func:`locara_conformance.lab.at`, which fails if the member is missing."""
    taken = [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load)
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str)
        if _root(node) not in OWN
    ]
    assert not taken


def _root(node):
    while isinstance(node, ast.Subscript):
        node = node.value
    return getattr(node, "id", None)


@pytest.mark.parametrize(
    ("value", "path", "kind"),
    [
        ({}, "phase", None),
        ({"images": []}, "images.0", None),
        ({"images": 7}, "images.0", None),
        ([], "-1.progress", None),
        (None, "a", None),
        ({"path": 7}, "path", str),
        ({"width": True}, "width", int),
        ({"width": 1.5}, "width", int),
        ({"images": None}, "images", list),
        ({"images": [7]}, "images.0", dict),
    ],
)
def test_a_member_that_is_not_there_or_is_another_thing_is_a_failure(value, path, kind):
    with pytest.raises(Failed, match=re.escape(path)):
        lab.at(value, path, kind)


@pytest.mark.parametrize("data", [None, 7, "not base64!", "AAA"])
def test_what_is_no_base64_is_a_failure(data):
    with pytest.raises(Failed, match="data"):
        lab.decoded({"data": data}, "data")


@pytest.mark.parametrize("name", ["nothing.png", "a\0b", "."], ids=["nothing", "NUL", "folder"])
def test_a_file_that_cannot_be_read_is_a_failure(tmp_path, name):
    with pytest.raises(Failed, match="cannot be read"):
        lab.content(tmp_path / name)


@pytest.mark.parametrize("id", ["channels.small", "edit.strength", "generate.progress-end", "jobs.attach-ended"])
def test_a_channel_on_which_nothing_comes_is_a_failure(id):
    def call(*_arguments, **_more):
        return SimpleNamespace(
            result=lambda *_: {"jobId": "j", "state": "done", "images": [{"data": ""}]}, frames=list, messages=list
        )

    scripted = SimpleNamespace(start=call, call=lambda *more, **named: call().result(), events=[])
    with pytest.raises(Failed):
        CHECKS[id].run(SimpleNamespace(shared=lambda: scripted))


PNG = raster.png(3, 2)


def _packed(pixels):
    """Return the picture with different pixels."""
    data = zlib.compress(pixels)
    return PNG[:33] + struct.pack(">I", len(data)) + b"IDAT" + data + bytes(4)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        PNG[:20],
        PNG[:-3],
        PNG[:8] + PNG[33:],
        PNG.replace(b"IDAT", b"IDAt"),
        PNG.replace(struct.pack(">II", 3, 2), struct.pack(">II", 30, 2)),
        PNG.replace(b"\x08\x02", b"\x10\x02", 1),
        _packed(b"\x09" + b"red" * 3 + b"\0" + b"red" * 3),
        _packed(b"red"),
    ],
    ids=["nothing", "text", "in its head", "its end", "no head", "no pixels", "wider", "deeper", "filter", "fewer"],
)
def test_what_is_no_picture_is_a_failure(data):
    with pytest.raises(Failed, match="picture"):
        raster.rows(data)


def test_a_picture_is_read_as_it_was_written():
    assert (raster.size(PNG), raster.rows(PNG)) == ((3, 2), [b"\xc0\x20\x20" * 3] * 2)


def test_how_far_a_small_picture_is_from_a_large_one():
    striped = raster.png(4, 4, lambda row: (b"\x10\x20\x30", b"\x30\x40\x50")[row % 2])
    assert raster.apart(striped, raster.png(2, 2, lambda _: b"\x20\x30\x40")) == 0
    assert raster.apart(striped, raster.png(2, 2, lambda _: b"\x26\x30\x3d")) == 3


@pytest.mark.parametrize(("picture", "small"), [((2, 2), (4, 4)), ((4, 4), (0, 2)), ((4, 4), (2, 0)), ((0, 0), (0, 0))])
def test_pictures_without_pixels_and_larger_previews_are_a_failure(picture, small):
    with pytest.raises(Failed, match=r"picture|preview"):
        raster.apart(raster.png(*picture), raster.png(*small))


@pytest.mark.parametrize("told", [None, "2", [2], {}])
@pytest.mark.parametrize("member", ["step", "image"])
def test_a_step_that_is_no_number_is_not_the_one_that_is_waited_for(told, member):
    message = {"phase": "denoising", "step": 3, "image": 1}
    frames = [{"method": "x", "params": {"channel": 1, "message": one}} for one in (message | {member: told}, message)]

    class Scripted:
        inbox = frames

        def wait(self, _what, found, **_more):
            return next(one for one in self.inbox if found(one))

    assert peer.Call(Scripted(), 1, "image.generate", 1, 0).until("denoising", step=2) is message


@pytest.mark.parametrize(("method", "count"), [("image.generate", 1), ("jobs.attach", 2)])
def test_what_comes_behind_the_answer_is_not_the_calls_but_for_an_attach(method, count):
    frames = [{"method": "x", "params": {"channel": 1, "index": index, "message": {}}} for index in range(2)]

    class Scripted:
        def __init__(self):
            self.inbox = [frames[0], {"id": 1, "result": {}}, frames[1]]

    assert len(peer.Call(Scripted(), 1, method, 1, 0).messages()) == count
    job = peer.Call(Scripted(), 1, "image.generate", 1, 0)
    assert len(peer.Call(Scripted(), 2, "jobs.attach", 1, 0).frames(job)) == 1


@pytest.mark.parametrize("entries", [[1, 2], [{"seq": 1}, {}], [{"seq": "1"}, {"seq": "2"}], []])
def test_entries_without_numbers_do_not_increase(entries):
    assert not cases.fits({"$increasing": "seq"}, entries)
    assert cases.fits({"$increasing": "seq"}, [{"seq": 1}, {"seq": 2}])


def test_a_watch_that_stumbles_is_a_fault_of_the_harness(monkeypatch, used):
    monkeypatch.setattr(watch.Watch, "received", lambda _self, line: {}[line])
    found = judged(used, lambda its_lab: its_lab.spawn().barrier())
    assert found.outcome is Outcome.ERROR
    assert "could not be checked: KeyError" in found.reason


SENT = [
    {"id": 1, "method": "image.generate", "params": {"prompt": "a", "channel": 1}},
    {"id": "a", "method": "jobs.attach", "params": {"jobId": "j", "channel": 2}},
    {"id": 2, "method": "ping"},
    {"id": 2, "method": "ping"},
    [{"id": 4, "method": "models.list"}],
]
CAME = [
    {"method": "DiffusionStep", "params": {"channel": 1, "index": 0, "message": {"jobId": "j", "phase": "saving"}}},
    {"method": "DiffusionStep", "params": {"channel": 2, "index": 0, "end": True}},
    {"method": "DiffusionStep", "params": {"channel": 1, "index": 1, "end": True}},
    {"id": 1, "result": {"jobId": "j", "images": [{"width": 64}]}},
    {"id": "a", "result": {"state": "done"}},
    {"id": 2, "error": {"code": -32600, "message": "x", "data": {"kind": "InvalidRequest", "retryable": False}}},
    [{"id": 4, "result": {"models": [{"id": "pocket"}]}}],
]
ODD = [None, True, -1, 1.5, 10**30, "", "x", [], [1], [{}], {}, {"a": 1}, "__CHANNEL__:1", "InvalidParams", -32602]


def _places(value, path=()):
    """Return the paths of all members and array entries."""
    named = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, member in named:
        yield (*path, step)
        yield from _places(member, (*path, step))


def _malformed(message):
    """Return the message without each of its members, and with each member replaced by every other JSON type."""
    for path in _places(message):
        for odd in (..., *ODD):
            changed = copy.deepcopy(message)
            place = changed
            for step in path[:-1]:
                place = place[step]
            if odd is ...:
                del place[path[-1]]
            else:
                place[path[-1]] = odd
            yield changed


@pytest.mark.parametrize("message", CAME, ids=lambda one: json.dumps(one)[:40])
def test_the_watch_judges_any_malformed_message(message):
    schemas_, found = Schemas(), []
    for malformed in _malformed(message):
        judge = watch.Watch(schemas_, lambda id, sentence: found.append((id, sentence)))
        for one in SENT:
            judge.sent(json.dumps(one).encode())
        for one in (malformed, *CAME):
            judge.received(json.dumps(one).encode())
    assert found
