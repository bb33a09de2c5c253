"""Token ids against transformers', on prompts that people really send and on strange ones."""

import base64
import json
import shutil
from pathlib import Path

import pytest
from tokenizers import normalizers

from locara_sidecar import models
from locara_sidecar.engine.mlx_engine.texts import text_tokens
from locara_sidecar.ipc.errors import EngineError
from support.prompts import AWKWARD

TOKENIZERS = {"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer", "tokenizer_3": "T5TokenizerFast"}


def theirs(folder, name):
    import transformers

    return getattr(transformers, TOKENIZERS[name]).from_pretrained(str(folder / name), local_files_only=True)


def differing(folder, name, lengths=(3, 16, 77, 256)):
    """Return the prompts whose ids (at several lengths) or token positions differ from transformers'."""
    reference, ours = theirs(folder, name), text_tokens.load(folder, name)
    assert ours.specials == reference.num_special_tokens_to_add()
    assert ours.longest == reference.model_max_length
    found = []
    for text in AWKWARD:
        whole = reference(text, add_special_tokens=False, return_offsets_mapping=True)
        same = ours.starts(text) == [start for start, _ in whole["offset_mapping"]]
        for length in lengths:
            encoded = reference(text, padding="max_length", max_length=length, truncation=True)
            same = same and ours.ids(text, length) == encoded["input_ids"]
        if not same:
            found.append(text)
    return found


def as_older_folders(folder, name, *, pad="!"):
    """Write the folder's tokenizer in the form of SDXL's: tokens with their flags, and a map of special tokens."""

    def described(text, **more):
        switches = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        return {"content": text, **switches, **more}

    start, end = "<|startoftext|>", "<|endoftext|>"
    path = folder / name / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"pad_token": pad}
    config |= {role: described(end, __type="AddedToken") for role in ("eos_token", "unk_token")}
    config["bos_token"] = described(start, __type="AddedToken")
    path.write_text(json.dumps(config))
    roles = {"bos_token": described(start), "eos_token": described(end), "unk_token": described(end), "pad_token": pad}
    (folder / name / "special_tokens_map.json").write_text(json.dumps(roles))


@pytest.fixture
def copy(tmp_path, tiny_sd3):
    for name in TOKENIZERS:
        shutil.copytree(tiny_sd3 / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_are_those_of_transformers(tiny_sd3, name):
    assert differing(tiny_sd3, name) == []


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
def test_ids_are_those_of_transformers_for_the_shipped_model(name):
    assert differing(Path(models.__file__).parent / "pocket", name) == []


def test_ids_are_those_of_transformers_for_folders_in_the_older_form(copy):
    as_older_folders(copy, "tokenizer_2")
    assert differing(copy, "tokenizer_2") == []


def test_ids_are_those_of_transformers_for_folders_that_list_added_tokens_by_id(copy):
    for name in TOKENIZERS:
        theirs(copy, name).save_pretrained(str(copy / name), legacy_format=False)
        path = copy / name / "tokenizer_config.json"
        added = json.loads((copy / name / "tokenizer.json").read_text())["added_tokens"]
        decoder = {str(token.pop("id")): token for token in added}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"added_tokens_decoder": decoder}))
        assert differing(copy, name) == []


def test_ids_are_those_of_transformers_for_older_folders_whose_roles_stand_in_a_file_of_their_own(copy):
    as_older_folders(copy, "tokenizer_2")
    folder = copy / "tokenizer_2"
    config = json.loads((folder / "tokenizer_config.json").read_text())
    roles = {role: config.pop(role) for role in ("bos_token", "eos_token", "unk_token", "pad_token") if role in config}
    assert roles
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(roles | {"pad_token": "!"}))
    assert differing(copy, "tokenizer_2") == []
    assert text_tokens.load(copy, "tokenizer_2").ids("", 5)[-1] == theirs(copy, "tokenizer_2").pad_token_id


def test_ids_are_those_of_transformers_for_added_tokens_that_the_vocabulary_lacks(copy):
    path = copy / "tokenizer" / "tokenizer_config.json"
    theirs(copy, "tokenizer").save_pretrained(str(copy / "tokenizer"), legacy_format=False)
    described = json.loads((copy / "tokenizer" / "tokenizer.json").read_text())
    first = max([*described["model"]["vocab"].values(), *(token["id"] for token in described["added_tokens"])]) + 1
    decoder = {str(token.pop("id")): token for token in described["added_tokens"]}
    plain = {"special": False, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    decoder |= {str(first + i): {"content": text, **plain} for i, text in enumerate(("<sks>", "<blue-style>"))}
    # a token that is searched for in the normalized text
    decoder[str(first + 2)] = {"content": "red toy", **plain, "normalized": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"added_tokens_decoder": decoder}))
    texts = ["a <sks> cat", "<blue-style><sks>", "a red toy", "a Red\t\u3000toy", "a red\u2028 TOY"]
    reference = theirs(copy, "tokenizer")
    ours = text_tokens.load(copy, "tokenizer")
    for text in texts:
        assert ours.ids(text, 20) == reference(text, padding="max_length", max_length=20, truncation=True).input_ids
    assert ours.ids(texts[1], 20)[1:3] == [first + 1, first]
    assert all(first + 2 in ours.ids(text, 20) for text in texts[2:])


def test_ids_are_those_of_transformers_for_t5_with_sentinels(copy):
    path = copy / "tokenizer_3" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["extra_ids"]
    path.write_text(json.dumps(config))
    assert differing(copy, "tokenizer_3") == []
    assert text_tokens.load(copy, "tokenizer_3").starts("a <extra_id_7> b") == [0, 2, 15, 15]


def test_both_forms_of_the_files_give_the_same_ids(tiny_sd3, copy):
    described = json.loads((copy / "tokenizer" / "tokenizer.json").read_text())["model"]
    (copy / "tokenizer" / "tokenizer.json").unlink()
    (copy / "tokenizer" / "vocab.json").write_text(json.dumps(described["vocab"]))
    merges = ["#version: 0.2", *(" ".join(pair) for pair in described["merges"])]
    (copy / "tokenizer" / "merges.txt").write_text("\n".join(merges) + "\n")
    one, other = text_tokens.load(tiny_sd3, "tokenizer"), text_tokens.load(copy, "tokenizer")
    assert [one.ids(text, 77) for text in AWKWARD] == [other.ids(text, 77) for text in AWKWARD]


def test_ids_are_those_of_transformers_for_t5_with_pieces_over_words_and_of_bytes(copy):
    path = copy / "tokenizer_3" / "tokenizer.json"
    described = json.loads(path.read_text())
    described["model"]["vocab"] += [["▁cat▁dog", 0.0], *([f"<0x{byte:02X}>", 0.0] for byte in range(256))]
    path.write_text(json.dumps(described))
    assert differing(copy, "tokenizer_3") == []


def compiled_map(sign, text):
    """Return SentencePiece's map of one ASCII character to ``text``: size of a double-array trie, the trie, texts."""
    trie = [0] * 0x302
    trie[0] = 0x100 << 10  # the root's children begin here
    child = 0x100 ^ ord(sign)
    trie[child] = (child ^ 0x301) << 10 | 1 << 8 | ord(sign)  # a word ends here, its value is at 0x301
    trie[0x301] = 1 << 31  # the text's place, marked as a value
    units = b"".join(unit.to_bytes(4, "little") for unit in trie)
    return base64.b64encode(len(units).to_bytes(4, "little") + units + text.encode() + b"\0").decode()


def test_ids_are_those_of_transformers_for_t5_with_a_character_map(copy):
    path = copy / "tokenizer_3" / "tokenizer.json"
    described = json.loads(path.read_text())
    described["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": compiled_map("c", "sh")}
    path.write_text(json.dumps(described))
    assert differing(copy, "tokenizer_3") == []
    ours, plain = text_tokens.load(copy, "tokenizer_3"), theirs(copy, "tokenizer_3")
    assert ours.ids("cat", 9) == ours.ids("shat", 9) == plain("cat", padding="max_length", max_length=9)["input_ids"]


def test_where_a_character_map_stands_in_the_file_does_not_matter():
    found = text_tokens._character_map({"type": "Precompiled", "precompiled_charsmap": "AAEC"})
    assert found == bytes([0, 1, 2])
    parts = [{"type": "Strip"}, {"type": "Precompiled", "precompiled_charsmap": "AAEC"}]
    assert text_tokens._character_map({"type": "Sequence", "normalizers": parts}) == bytes([0, 1, 2])
    assert text_tokens._character_map(json.loads(normalizers.NFC().__getstate__())) is None


@pytest.mark.parametrize(
    ("name", "file", "content", "kind"),
    [
        ("tokenizer_2", "merges.txt", "one two three\n", "IntegrityError"),
        ("tokenizer_2", "vocab.json", "[]", "IntegrityError"),
        ("tokenizer_3", "tokenizer.json", '{"model": {"type": "Unigram", "vocab": []}}', "IntegrityError"),
        ("tokenizer_3", "tokenizer.json", '{"model": {"type": "Unigram", "vocab": 7}}', "IntegrityError"),
        (
            "tokenizer",
            "tokenizer.json",
            '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}',
            "IntegrityError",
        ),
        ("tokenizer", "tokenizer.json", '{"model": []}', "IntegrityError"),
        ("tokenizer", "tokenizer_config.json", "{}", "IntegrityError"),
        ("tokenizer", "tokenizer_config.json", None, "ModelIncomplete"),
    ],
)
def test_files_that_make_no_tokenizer_are_named(copy, name, file, content, kind):
    (copy / name / file).unlink() if content is None else (copy / name / file).write_text(content)
    with pytest.raises(EngineError) as caught:
        text_tokens.load(copy, name)
    assert caught.value.kind == kind
