"""Broken model folders are refused by name, before anything is sampled."""

import json
import socket

import pytest

from locara_sidecar.ipc import frames, framing
from locara_sidecar.ipc.errors import EngineError, wrong_with

SHARD = "transformer/diffusion_pytorch_model-00002-of-00002.safetensors"
SHARD_INDEX = "transformer/diffusion_pytorch_model.safetensors.index.json"
VAE = "vae/diffusion_pytorch_model.safetensors"


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def drop_tensor(path):
    """Remove the first tensor by name from a safetensors file: header and bytes."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    begin, end = header.pop(min(name for name in header if name != "__metadata__"))["data_offsets"]
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]
    text = json.dumps(header).encode()
    body = data[start:]
    path.write_bytes(len(text).to_bytes(8, "little") + text + body[:begin] + body[end:])


def lie(change):
    """Return a damage: ``change(first, second)`` edits the header's entries of the first two tensors in the file."""

    def damage(path):
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        first, second = sorted(
            (entry for name, entry in header.items() if name != "__metadata__"), key=lambda entry: entry["data_offsets"]
        )[:2]
        change(first, second)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])

    return damage


BREAKAGES = {
    "no model_index.json": ("ModelIncomplete", "model_index.json", lambda path: path.unlink()),
    "model_index.json is no JSON": ("IntegrityError", "model_index.json", lambda path: path.write_text("{")),
    "model_index.json is a list": ("IntegrityError", "model_index.json", lambda path: path.write_text("[]")),
    "another pipeline": ("IntegrityError", "model_index.json", lambda p: edit_json(p, _class_name="FluxPipeline")),
    "an unknown class": (
        "IntegrityError",
        "model_index.json",
        lambda path: edit_json(path, vae=["diffusers", "AutoencoderDC"]),
    ),
    "a required part is null": ("IntegrityError", "model_index.json", lambda path: edit_json(path, vae=[None, None])),
    "a missing shard": ("ModelIncomplete", SHARD, lambda path: path.unlink()),
    "a cut shard": ("IntegrityError", SHARD, cut),
    "a shard of noise": ("IntegrityError", SHARD, lambda path: path.write_bytes(b"\xff" * 1000)),
    "an empty shard": ("IntegrityError", SHARD, lambda path: path.write_bytes(b"")),
    "a shard without a tensor of the index": ("IntegrityError", SHARD, drop_tensor),
    "an index without a map": ("IntegrityError", SHARD_INDEX, lambda path: path.write_text("{}")),
    "an index that leads elsewhere": (
        "IntegrityError",
        SHARD_INDEX,
        lambda path: edit_json(path, weight_map={"a": "../vae/diffusion_pytorch_model.safetensors"}),
    ),
    "no weights": ("ModelIncomplete", VAE, lambda path: path.unlink()),
    "a tensor is missing": ("IntegrityError", VAE, drop_tensor),
    "bytes that no tensor claims": ("IntegrityError", VAE, lambda path: path.write_bytes(path.read_bytes() + b"more")),
    "two tensors on the same bytes": (
        "IntegrityError",
        VAE,
        lie(lambda first, second: second.update(first)),
    ),
    "a shape that its bytes do not fill": (
        "IntegrityError",
        VAE,
        lie(lambda first, second: first.update(shape=[1, *first["shape"], 2])),
    ),
    "offsets that run backwards": (
        "IntegrityError",
        VAE,
        lie(lambda first, second: first.update(data_offsets=first["data_offsets"][::-1])),
    ),
    "an encoder's tensor is missing": ("IntegrityError", "text_encoder/model.safetensors", drop_tensor),
    "a configuration of another size": (
        "IntegrityError",
        "transformer/config.json",
        lambda path: edit_json(path, num_attention_heads=3),
    ),
    "an encoder's configuration of another size": (
        "IntegrityError",
        "text_encoder_3/config.json",
        lambda path: edit_json(path, d_model=32),
    ),
    "a configuration of nonsense": ("IntegrityError", "vae/config.json", lambda p: edit_json(p, latent_channels="x")),
    "no configuration": ("ModelIncomplete", "vae/config.json", lambda path: path.unlink()),
    "no tokenizer": ("ModelIncomplete", "tokenizer/tokenizer.json", lambda path: path.unlink()),
    "a tokenizer of nonsense": ("IntegrityError", "tokenizer/tokenizer.json", lambda path: path.write_text("{}")),
    "no scheduler": ("ModelIncomplete", "scheduler/scheduler_config.json", lambda path: path.unlink()),
}


@pytest.mark.parametrize(("kind", "name", "damage"), BREAKAGES.values(), ids=BREAKAGES)
def test_a_broken_folder_is_refused_by_the_files_name(cold, tmp_path, copy, run, spec, kind, name, damage):
    damage(copy / name)
    events = []
    with pytest.raises(EngineError) as caught:
        run(cold, spec(path=str(copy)), on_event=events.append)
    assert caught.value.kind == kind
    assert name in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert {event.phase for event in events} == {"loading"}


def rename_tensor(path, name):
    """Give the first tensor of a safetensors file another name, and an unsupported type."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    first = header.pop(min(name for name in header if name != "__metadata__"))
    begin, end = first["data_offsets"]
    text = json.dumps(header | {name: first | {"dtype": "U8", "shape": [end - begin]}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])


LONG, ODD = "k" * 3_000_000, "\ud800\u202e"
SAYINGS = {
    "a class": ("model_index.json", lambda path, word: edit_json(path, _class_name=[word] * 2)),
    "a part's class": ("model_index.json", lambda path, word: edit_json(path, vae=["diffusers", word])),
    "a shard": (SHARD_INDEX, lambda path, word: edit_json(path, weight_map={"a": f"{word}.safetensors"})),
    "a tensor of an index": (
        SHARD_INDEX, lambda path, word: edit_json(path, weight_map={word: SHARD.rpartition("/")[2]}),
    ),
    "a member": ("vae/config.json", lambda path, word: edit_json(path, **{word: 1})),
    "a value": ("vae/config.json", lambda path, word: edit_json(path, act_fn=word)),
    "a tokenizer's kind": (
        "tokenizer/tokenizer.json", lambda path, word: edit_json(path, model={"type": word, "vocab": {}, "merges": []}),
    ),
    "a scheduler's word": (
        "scheduler/scheduler_config.json", lambda path, word: edit_json(path, time_shift_type=word),
    ),
}  # fmt: skip


@pytest.mark.parametrize("word", [LONG, ODD], ids=["long", "no text"])
@pytest.mark.parametrize(("name", "damage"), SAYINGS.values(), ids=SAYINGS)
def test_what_a_file_says_is_said_so_that_it_can_be_sent(cold, copy, run, spec, name, damage, word):
    """A longer message, or one that is not UTF-8, would have been the engine's fault, not the file's."""
    damage(copy / name, word)
    with pytest.raises(EngineError) as caught:
        run(cold, spec(path=str(copy)))
    fault = caught.value
    assert fault.kind in ("IntegrityError", "ModelIncomplete")
    assert wrong_with(fault.kind, fault.message, fault.data) is None
    frame = framing.encode(frames.Failed(job="j", kind=fault.kind, message=fault.message, data=fault.data))
    assert len(frame) < framing.MAX_PLAIN_BYTES // 2
    assert name.partition("/")[0] in fault.message


def test_the_name_of_a_tensor_is_said_so_that_it_can_be_sent(cold, copy, run, spec):
    rename_tensor(copy / VAE, "n" * 3_000_000)
    with pytest.raises(EngineError, match="is U8") as caught:
        run(cold, spec(path=str(copy)))
    assert wrong_with(caught.value.kind, caught.value.message, caught.value.data) is None


def test_a_good_folder_loads_after_a_broken_one(cold, copy, run, spec, runtime):
    cut(copy / SHARD)
    with pytest.raises(EngineError):
        run(cold, spec(path=str(copy)))
    assert run(cold, spec()).images[0].tobytes() == run(runtime, spec()).images[0].tobytes()


def test_loading_and_sampling_open_no_connection(cold, run, spec, monkeypatch):
    def refuse(*args):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert run(cold, spec()).images


@pytest.mark.slow
def test_another_digest_loads_again_and_the_same_one_does_not(cold, run, spec):
    assert ("loading", 1) in run(cold, spec()).phases
    assert ("loading", 1) not in run(cold, spec(prompt="a cat")).phases
    assert ("loading", 1) in run(cold, spec(digest="sha256:1")).phases
