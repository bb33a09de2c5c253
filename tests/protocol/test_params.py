"""The second decoding phase: which member an error names, and what it says is allowed."""

import json
import tracemalloc
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locara_protocol import image_messages as images
from locara_protocol import messages as m
from locara_protocol.errors import RpcError
from locara_protocol.jsonrpc import channel_of, decode_params, parse_channel
from locara_protocol.methods import METHODS
from locara_protocol.params import MAX_FREE_FORM_BYTES, MAX_LIST_COMMAS


def refused(type_, raw) -> RpcError:
    with pytest.raises(RpcError) as caught:
        decode_params(type_, raw if isinstance(raw, bytes) else json.dumps(raw).encode())
    assert caught.value.kind == "InvalidParams"
    assert caught.value.data["path"].startswith("$")
    return caught.value


def generate(**options):
    return refused(images.GenerateParams, {"prompt": "a", "options": options})


def test_all_members_are_read_with_their_wire_names():
    params = decode_params(
        images.GenerateParams, b'{"prompt":"a","channel":"__CHANNEL__:7","options":{"negativePrompt":"b"}}'
    )
    assert params == images.GenerateParams(
        prompt="a", channel="__CHANNEL__:7", options=images.GenerateOptions(negative_prompt="b")
    )


def test_null_for_an_optional_member_is_the_same_as_absent():
    raw = b'{"prompt":"a","channel":null,"options":{"steps":null,"preview":null,"output":{"path":null}}}'
    expected = images.GenerateParams(prompt="a", options=images.GenerateOptions(output=images.OutputOptions()))
    assert decode_params(images.GenerateParams, raw) == expected


def test_meta_is_allowed_at_every_level_and_not_read():
    raw = b'{"_meta":{"a":[1e999]},"prompt":"a","options":{"_meta":7}}'
    assert decode_params(images.GenerateParams, raw) == images.GenerateParams(
        prompt="a", options=images.GenerateOptions()
    )


def test_the_last_duplicate_wins_even_when_the_first_is_invalid():
    raw = b'{"prompt":5,"prompt":"a","options":{"stepz":1},"options":{"steps":4.5,"steps":4}}'
    assert decode_params(images.GenerateParams, raw).options == images.GenerateOptions(steps=4)


def test_a_misspelt_member_is_named_and_the_nearest_name_suggested():
    error = generate(stepz=4)
    assert error.data["path"] == "$.options.stepz"
    assert "`steps`" in error.message


def test_a_snake_case_name_is_answered_with_the_wire_name():
    assert "`negativePrompt`" in generate(negative_prompt="x").message


def test_a_member_unlike_any_is_answered_with_those_known():
    assert "`maxSide`" in generate(preview={"zzz": 1}).message


def test_a_long_unknown_name_is_cut():
    error = refused(images.GenerateParams, {"x" * 100_000: 1})
    assert len(error.data["path"]) < 100
    assert len(error.message) < 300


def test_a_range_error_says_the_whole_range():
    error = generate(steps=201)
    assert error.data["path"] == "$.options.steps"
    assert "an integer from 1 to 200" in error.message


@pytest.mark.parametrize("text", ["4.0", "4e0", "1e2"])
def test_a_fraction_or_exponent_is_no_integer(text):
    raw = f'{{"prompt":"a","options":{{"steps":{text}}}}}'.encode()
    assert "fraction" in refused(images.GenerateParams, raw).message


def test_a_choice_error_lists_the_choices_and_suggests_the_nearest():
    error = generate(speed="balancd")
    assert error.data["path"] == "$.options.speed"
    assert '"exact"' in error.message
    assert 'did you mean "balanced"' in error.message


@pytest.mark.parametrize("beginning", ["data:image/png;base64,", "DATA:,", "data:"])
def test_a_data_url_is_told_from_plain_base64(beginning):
    image = {"data": f"{beginning}aGk=", "mimeType": "image/png"}
    error = refused(images.EditParams, {"prompt": "a", "image": image})
    assert error.data["path"] == "$.image.data"
    assert "data: URL" in error.message
    assert "comma" in error.message
    plain = refused(images.EditParams, {"prompt": "a", "image": {**image, "data": "aGk"}})
    assert "data: URL" not in plain.message
    assert generate(model=["data:x"]).data["path"] == "$.options.model"


def test_a_missing_member_is_named():
    assert refused(m.InitializeParams, {"protocolVersion": 1, "clientInfo": {"name": "a"}}).data["path"] == (
        "$.clientInfo.version"
    )


def test_a_wrong_value_within_a_map_is_pointed_at():
    params = {"protocolVersion": 1, "clientInfo": {"name": "a", "version": "1"}, "grants": {"a": 1}}
    assert refused(m.InitializeParams, params).data["path"].startswith("$.grants")


@pytest.mark.parametrize("raw", [b"[]", b"[1]", b"5", b'"x"', b"", b"{", b"\xff"])
def test_anything_but_an_object_is_refused_at_the_root(raw):
    assert refused(images.GenerateParams, raw).data["path"] == "$"


def test_parameters_by_position_are_told_to_come_by_name():
    assert "by name" in refused(images.GenerateParams, b'["a lake"]').message


def test_no_value_of_the_host_is_repeated_in_a_message():
    secret = "hunter2"
    for options in (
        {"steps": secret},
        {"speed": secret},
        {"preview": {"mode": secret}},
        {"output": {"quality": secret}},
    ):
        assert secret not in generate(**options).message


def test_a_member_of_open_size_is_bounded():
    big = {
        "protocolVersion": 1,
        "clientInfo": {"name": "a", "version": "1"},
        "manifest": {"a": "x" * MAX_FREE_FORM_BYTES},
    }
    assert refused(m.InitializeParams, big).data["path"] == "$.manifest"


@pytest.mark.parametrize("member", ["_meta", "manifest", "zzz", "prompt"])
def test_a_large_member_never_becomes_a_forest_of_objects(member):
    raw = f'{{"{member}":['.encode() + b"{}," * 1_000_000 + b"{}]}"
    tracemalloc.start()
    try:
        refused(m.InitializeParams, raw)
        refused(images.GenerateParams, raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


@given(st.sampled_from(list(METHODS)), st.binary(max_size=60) | st.sampled_from([b"{}", b'{"channel":{}}']))
def test_any_text_is_read_or_refused_with_a_path(name, raw):
    problem = None
    try:
        decode_params(METHODS[name].params, raw)
    except RpcError as error:
        problem = error
    assert problem is None or (problem.kind == "InvalidParams" and problem.data["path"].startswith("$"))


@pytest.mark.parametrize(
    ("value", "channel"),
    [
        (0, 0), (7, 7), (2**32 - 1, 2**32 - 1), ("__CHANNEL__:0", 0), ("__CHANNEL__:4294967295", 2**32 - 1),
        (2**32, None), (-1, None), (7.0, None), (True, None), (None, None), ("7", None),
        ("__CHANNEL__:4294967296", None),
        ("__CHANNEL__:007", None), ("__CHANNEL__:-1", None), ("__CHANNEL__:7\n", None), ("__CHANNEL__:٣", None),
        ([7], None),
    ],
)  # fmt: skip
def test_a_channel_is_a_u32_in_either_form(value, channel):
    assert parse_channel(value) == channel
    raw = json.dumps({"stepz": 1, "options": 5, "channel": value}).encode()
    assert channel_of(raw) == channel
    if channel is None and value is not None:
        assert refused(images.GenerateParams, {"prompt": "a", "channel": value}).data["path"] == "$.channel"
    else:
        raw = json.dumps({"prompt": "a", "channel": value}).encode()
        assert decode_params(images.GenerateParams, raw).channel == value


@pytest.mark.parametrize(
    "raw", [b"{}", b"[7]", b"7", b"", b"{", b'{"channel":1e1}', b'{"channel":"' + b"x" * 999 + b'"}']
)
def test_no_channel_is_read_where_none_is_named(raw):
    assert channel_of(raw) is None


# --- lists of objects -------------------------------------------------------------------------

FILE = {"root": "user-folder", "path": "a.png"}


def listed(images):
    return {"prompt": "a", "images": images}


def test_a_list_of_objects_is_read_entry_by_entry_however_long_one_is():
    data = "A" * (2 * MAX_FREE_FORM_BYTES)
    raw = json.dumps(listed([FILE, {"data": data, "mimeType": "image/png"}, {"handle": "x,[{\\"}])).encode()
    first, second, third = decode_params(images.EditParams, raw).images
    assert (first.root, first.path, len(second.data), third.handle) == (*FILE.values(), len(data) * 3 // 4, "x,[{\\")
    assert decode_params(images.EditParams, b'{"prompt":"a","images":null}').images is None


@pytest.mark.parametrize(
    ("given", "path", "words"),
    [
        ([], "$.images", "an array with 1 to 10 entries."),
        ([FILE] * 11, "$.images", "an array with 1 to 10 entries."),
        (FILE, "$.images", "an array with 1 to 10 entries, not an object."),
        ("a.png", "$.images", "not a string"),
        ([FILE, 7], "$.images[1]", "must be an object"),
        ([None], "$.images[0]", "must be an object"),
        ([FILE, [FILE]], "$.images[1]", "must be an object"),
        ([FILE, {"pth": "a"}], "$.images[1].pth", "did you mean `path`?"),
        ([FILE, {"path": ""}], "$.images[1].path", "from 1 to 4096 characters"),
        ([FILE, FILE, {"mimeType": "image/gif"}], "$.images[2].mimeType", "must be one of"),
        ([FILE, {"data": "data:image/png;base64,AAAA"}], "$.images[1].data", "not a data: URL"),
    ],
)
def test_what_is_wrong_in_a_list_is_named_by_its_place(given, path, words):
    error = refused(images.EditParams, listed(given))
    assert (error.data["path"], words in error.message) == (path, True), error.message


def test_a_list_of_objects_may_be_empty_unless_its_type_says_otherwise():
    class Files(m.Params, frozen=True):
        files: Annotated[list[images.ImageInput], msgspec.Meta(max_length=2)] | None = None

    assert decode_params(Files, b'{"files":[]}').files == []
    assert refused(Files, {"files": [FILE] * 3}).data["path"] == "$.files"


def test_a_list_of_very_many_entries_is_refused_without_reading_them():
    raw = b'{"prompt":"a","images":[' + b"{}," * (1 << 20) + b"{}]}"
    tracemalloc.start()
    try:
        error = refused(images.EditParams, raw)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(raw)
    finally:
        tracemalloc.stop()
    assert error.data["path"] == "$.images"
    many = [{"path": "," * 4096}] * 10
    assert json.dumps(many).count(",") < MAX_LIST_COMMAS
    assert len(decode_params(images.EditParams, json.dumps(listed(many)).encode()).images) == 10
