"""Weights and configurations with false descriptions of themselves are refused by name."""

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locara_sidecar.models.checks import check
from locara_sidecar.weights.safetensors_header import MalformedHeaderError, check_header, check_text
from support.model_store import error_of, safetensors

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
B = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}


def text(**tensors):
    return json.dumps(tensors).encode()


@pytest.mark.parametrize(
    "header",
    [
        text(a=A, b={**B, "data_offsets": [4, 12]}),
        text(a=A, b={**B, "data_offsets": [0, 8]}),
        text(a=A, b={**B, "data_offsets": [4, 16], "shape": [3]}),
        text(a=A, b=B, c={**A, "data_offsets": [4, 12]}),
        text(
            a={**A, "data_offsets": [0, 16], "shape": [4]},
            b={**A, "data_offsets": [16, 16], "shape": [2**62, 2**62, 0]},
        ),
        b'{"a": %b, "a": %b}' % (text(**A), text(dtype="F32", shape=[4], data_offsets=[0, 16])),
        text(a=A, b={**B, "data_offsets": [12, 20]}),
        text(a=A, b={**B, "data_offsets": [12, 16], "shape": [1]}),
        text(a=A),
        text(a=A, b={**B, "data_offsets": [8, 24], "shape": [4]}),
        text(a=A, b={**B, "data_offsets": [16, 8]}),
        text(a=A, b={**B, "data_offsets": [8, -8]}),
        text(a=A, b={**B, "shape": [3]}),
        text(a=A, b={**B, "shape": [2**62, 2**62]}),
        text(a=A, b={**B, "shape": [2.0]}),
        text(a=A, b={**B, "shape": [True, 2]}),
        text(a=A, b={**B, "dtype": "F33"}),
        text(a=A, b={**B, "more": 1}),
        text(a=A, b=B, __metadata__={"x": 1}),
        text(a=A, b=B, __metadata__=[]),
        b'{"a": %b, "a": %b}' % (json.dumps(A).encode(), json.dumps(B).encode()),
        b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 16]}}',
        b"[1]",
        b"\xff{}",
        b"{" * 2000,
        b" " + text(a=A, b=B),
    ],
)
def test_a_header_that_does_not_describe_each_byte_once_is_refused(header):
    with pytest.raises(MalformedHeaderError):
        check_text(header, 16)


def test_an_honest_header_is_accepted():
    assert check_text(text(a=A, b=B, __metadata__={"format": "pt"}) + b"   ", 16) == 2
    assert check_text(text(empty={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}), 0) == 1


@pytest.mark.parametrize(
    "data", [b"", b"\x01", struct.pack("<Q", 2**63), struct.pack("<Q", 200) + b"{}", b"\x80\x04x" * 9]
)
def test_a_length_beyond_the_file_or_the_limit_is_refused(data, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(MalformedHeaderError):
        check_header(tmp_path / "a.safetensors")
    error = error_of(check.check_file, tmp_path, "a.safetensors")
    assert (error.kind, error.data["file"]) == ("IntegrityError", "a.safetensors")


def test_a_file_that_ends_within_its_header_is_told_as_that(tmp_path):
    header = text(a=A, b=B)
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header[:20])
    with pytest.raises(MalformedHeaderError, match="past the end"):
        check_header(tmp_path / "a.safetensors")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_is_accepted_after_a_mutation_the_reference_reader_accepts_too(data):
    deserialize = pytest.importorskip("safetensors").deserialize
    good = bytearray(safetensors(32))
    place = data.draw(st.integers(0, len(good) - 33))
    good[place] = data.draw(st.integers(0, 255))
    (length,) = struct.unpack("<Q", good[:8])
    try:
        if length > len(good) - 8:
            raise MalformedHeaderError("too long")
        check_text(bytes(good[8 : 8 + length]), len(good) - 8 - length)
    except MalformedHeaderError:
        return
    deserialize(bytes(good))


@pytest.mark.parametrize(
    "name",
    [
        "../a.json",
        "/a.json",
        "a/../b.json",
        ".hidden.json",
        "a/.git/b.json",
        "a\\b.json",
        "c:a.json",
        "meta.json",
        "a//b.json",
    ],
)
def test_a_name_that_leaves_the_models_folder_or_hides_is_refused(name):
    assert error_of(check.check_names, [name]).kind == "IntegrityError"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((f"unet/model{end}", "a pickle") for end in (".bin", ".pt", ".pth", ".ckpt", ".pkl")),
        *((f"model{end}", "GGUF") for end in (".gguf", ".ggml", ".GGUF")),
        *((f"unet/code{end}", "code") for end in (".py", ".pyc", ".so", ".dll")),
        *((f"weights{end}", "an archive") for end in (".zip", ".tar", ".tar.gz", ".7z", ".npz")),
        *((f"model{end}", "not allowed") for end in (".onnx", ".msgpack", ".h5", ".safetensors.exe", "")),
    ],
)
def test_what_is_no_safetensors_json_or_text_is_refused_by_its_name_and_kind(name, kind):
    error = error_of(check.check_names, ["model_index.json", name])
    assert (error.kind, error.data["file"], error.data["files"]) == ("IntegrityError", name, [name])
    assert kind in error.message


def test_the_names_of_all_files_are_bounded_together():
    """The store's ``meta.json`` and an error, which list them, are bounded, too."""
    check.check_names(f"{number:04}{'x' * 244}.json" for number in range(check.MAX_FILES))
    long = [f"{number:04}/" + "/".join(["\u4e00" * 80] * 6) + ".json" for number in range(check.MAX_FILES)]
    assert all(len(name) <= check._MAX_PATH for name in long)
    error = error_of(check.check_names, long)
    assert (error.kind, error.data["file"] in long) == ("IntegrityError", True)
    assert "longer than 1 MiB" in error.message


def test_two_names_that_some_file_systems_take_for_one_are_refused():
    for first, second in (("A.json", "a.json"), ("a.json", "A.json")):
        assert error_of(check.check_names, [first, second]).data["file"] == second


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_index.json", {"_class_name": ["attack", "Pipeline"]}),
        ("model_index.json", {"_class_name": ["diffusers", "Pipeline"]}),
        ("model_index.json", {}),
        ("model_index.json", {"_class_name": "X", "vae": ["attack", "Model"]}),
        ("config.json", {"deep": [{"auto_map": {"AutoModel": "a.B"}}]}),
        ("config.json", {"custom_pipeline": "a"}),
        ("config.json", {"trust_remote_code": True}),
        ("x.index.json", {"weight_map": {"a": "/etc/x.safetensors"}}),
        ("x.index.json", {"weight_map": {"a": "pytorch_model.bin"}}),
        ("x.index.json", {"weight_map": {"a": 1}}),
        ("x.index.json", []),
    ],
)
def test_a_configuration_that_asks_for_code_or_other_files_is_refused(name, value, tmp_path):
    (tmp_path / name).write_text(json.dumps(value))
    assert error_of(check.check_file, tmp_path, name).data["file"] == name


def test_a_vocabulary_may_hold_any_word(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"auto_map": 7, "custom_pipeline": 8}))
    check.check_file(tmp_path, "vocab.json")


INDEX = {"_class_name": "X", "unet": ["diffusers", "UNet"], "scheduler": ["diffusers", "Euler"]}
COMPLETE = (
    *("model_index.json", "unet/config.json", "unet/x.safetensors.index.json", "unet/1.safetensors"),
    *("unet/2.safetensors", "scheduler/scheduler_config.json"),
)


@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        ((), None),
        (("model_index.json",), "model_index.json"),
        (("scheduler/scheduler_config.json",), "scheduler/"),
        (("unet/2.safetensors",), "unet/2.safetensors"),
        (("unet/x.safetensors.index.json", "unet/1.safetensors", "unet/2.safetensors"), "unet/*.safetensors"),
    ],
)
def test_every_part_its_weights_and_every_shard_must_be_there(lacking, named, tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX))
    shards = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / "unet" / "x.safetensors.index.json").write_text(json.dumps(shards))
    paths = [path for path in COMPLETE if path not in lacking]
    if named is None:
        check.check_complete(tmp_path, paths)
    else:
        error = error_of(check.check_complete, tmp_path, paths)
        assert (error.kind, error.data["file"]) == ("ModelIncomplete", named)


def test_a_part_that_an_entry_of_another_family_does_not_take_is_told_with_the_pipeline_that_it_is_of(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps(INDEX))
    message = error_of(check.check_complete, tmp_path, ["model_index.json"]).message
    assert message == "The model has no unet/, a part of its 'X', among the files that its catalogue entry lists."


@pytest.mark.parametrize("data", [b"\x80\x04", b"[" * 100_000, b"not json"])
def test_what_is_not_json_is_refused(data, tmp_path):
    (tmp_path / "config.json").write_bytes(data)
    assert error_of(check.check_file, tmp_path, "config.json").kind == "IntegrityError"
