"""Both engines read a tokenizer from the same files."""

import base64
import json
import shutil
import struct

import pytest

from locara_sidecar.ipc.errors import EngineError
from support import tokenizer_folders as forms
from support.fixture_models import MODELS


def _as_spiece(folder):
    (folder / "tokenizer_3/tokenizer.json").rename(folder / "tokenizer_3/spiece.model")


def _pairs_for_t5(folder):
    (folder / "tokenizer_3/tokenizer.json").unlink()
    forms.pairs_of(folder / "pairs")
    for name in ("vocab.json", "merges.txt"):
        (folder / "pairs" / name).rename(folder / "tokenizer_3" / name)


def _older(folder):
    shutil.rmtree(folder / "tokenizer")
    forms.clip_2023(folder / "tokenizer")


def _without_merges(folder):
    _older(folder)
    (folder / "tokenizer/merges.txt").unlink()


def _without_vocabulary(folder):
    _older(folder)
    (folder / "tokenizer/vocab.json").unlink()


def _swapped(folder, name, other):
    shutil.copy(MODELS / "tiny-sd3" / other / "tokenizer.json", folder / name / "tokenizer.json")


def _map(longest, *, leaf=0, cut=0):
    """Return a character map in SentencePiece's format, in which "a" becomes ``longest`` bytes: a tree in an array (its
    length, then its nodes), then the replacements."""
    nodes = [0] * 512
    nodes[0] = 0x100 << 10  # the root; its child for "a" is at 0x100 ^ ord("a")
    child = 0x100 ^ ord("a")
    nodes[child] = ((child ^ 0x180) << 10) | (1 << 8) | ord("a")
    nodes[0x180] = (1 << 31) | leaf
    data = struct.pack(f"<{1 + len(nodes)}I", 4 * len(nodes), *nodes) + b"b" * longest + b"\0"
    return base64.b64encode(data[: len(data) - cut]).decode()


def _with_map(packed):
    def damage(folder):
        _edit(folder / "tokenizer_3/tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": packed})

    return damage


def _edit(file, **members):
    file.write_text(json.dumps((json.loads(file.read_text()) if file.is_file() else {}) | members))


def _one_long_token(folder):
    file = folder / "tokenizer/tokenizer.json"
    added = json.loads(file.read_text())["added_tokens"]
    _edit(file, added_tokens=[*added, added[0] | {"id": 5, "content": "ab" * 700_000}])


def _many_tokens(folder):
    _edit(folder / "tokenizer_3/added_tokens.json", **{f"<{number:0200}>": number for number in range(10_000)})


def _panicking(folder):
    """A tree whose root points past the end of its array, where the library would read."""
    nodes = struct.pack("<512I", *[0xFFFFFFFF] * 512)
    packed = base64.b64encode(struct.pack("<I", len(nodes)) + nodes + b"b\0").decode()
    _with_map(packed)(folder)


BREAKAGES = {
    "a map that makes much of a character": (
        _with_map(_map(300_000)), "IntegrityError", "tokenizer_3/tokenizer.json", "more than 256 bytes",
    ),
    "a map that is cut off": (_with_map(_map(0, cut=9)), "IntegrityError", "tokenizer_3/tokenizer.json", "cut off"),
    "a map in no base64": (_with_map("%"), "IntegrityError", "tokenizer_3/tokenizer.json", "cut off"),
    "a map that is none": (_with_map(7), "IntegrityError", "tokenizer_3/tokenizer.json", "base64"),
    "a map within a sequence": (
        lambda folder: _edit(
            folder / "tokenizer_3/tokenizer.json",
            normalizer={
                "type": "Sequence",
                "normalizers": [{"type": "Precompiled", "precompiled_charsmap": _map(257)}],
            },
        ), "IntegrityError", "tokenizer_3/tokenizer.json", "more than 256 bytes",
    ),
    "a tree that makes the library panic": (
        _panicking, "IntegrityError", "tokenizer_3/tokenizer.json", "it reads no text",
    ),
    "an added token that is long": (_one_long_token, "IntegrityError", "tokenizer/tokenizer.json", "more than 1 MiB"),
    "many added tokens": (_many_tokens, "IntegrityError", "tokenizer_3/added_tokens.json", "more than 1 MiB"),
    "T5's spiece.model alone": (_as_spiece, "ModelIncomplete", "tokenizer_3/tokenizer.json", "spiece.model"),
    "byte pairs for T5": (_pairs_for_t5, "ModelIncomplete", "tokenizer_3/tokenizer.json", ""),
    "CLIP's pieces without merges": (_without_merges, "ModelIncomplete", "tokenizer/merges.txt", ""),
    "CLIP's merges without pieces": (_without_vocabulary, "ModelIncomplete", "tokenizer/tokenizer.json", ""),
    "CLIP's tokenizer for T5": (
        lambda folder: _swapped(folder, "tokenizer_3", "tokenizer"), "IntegrityError", "tokenizer_3/tokenizer.json",
        "Unigram",
    ),
    "T5's tokenizer for CLIP": (
        lambda folder: _swapped(folder, "tokenizer_2", "tokenizer_3"), "IntegrityError", "tokenizer_2/tokenizer.json",
        "BPE",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "kind", "file", "words"), BREAKAGES.values(), ids=BREAKAGES)
def test_what_makes_no_tokenizer_of_its_kind_is_refused_by_the_files_name(
    cold, copy, run, spec, control, damage, kind, file, words
):
    damage(copy)
    for ask in (
        lambda: run(cold, spec(path=str(copy))),
        lambda: cold.warm.check(spec(path=str(copy)).model, "flow-match-euler", control()),  # the import's check
    ):
        with pytest.raises(EngineError) as caught:
            ask()
        assert caught.value.kind == kind
        assert file in caught.value.message
        assert words in caught.value.message


def test_a_map_of_characters_within_the_bounds_is_applied(cold, copy, run, spec, runtime):
    _with_map(_map(3))(copy)
    drawn = run(cold, spec(path=str(copy), prompt="a cat")).images[0]
    assert drawn.tobytes() != run(runtime, spec(prompt="a cat")).images[0].tobytes()


@pytest.mark.slow
def test_a_spiece_model_beside_the_other_form_changes_nothing(cold, runtime, copy, run, spec):
    (copy / "tokenizer_3/spiece.model").write_bytes(b"no tokenizer at all")
    drawn = run(cold, spec(path=str(copy))).images[0]
    assert drawn.tobytes() == run(runtime, spec()).images[0].tobytes()


@pytest.mark.slow
def test_older_files_without_the_kinds_name_are_read(cold, runtime, copy, run, spec):
    for name in ("tokenizer", "tokenizer_3"):
        file = copy / name / "tokenizer.json"
        described = json.loads(file.read_text())
        del described["model"]["type"]
        file.write_text(json.dumps(described))
    drawn = run(cold, spec(path=str(copy))).images[0]
    assert drawn.tobytes() == run(runtime, spec()).images[0].tobytes()


ENCODINGS = {"a byte order mark": "utf-8-sig", "UTF-16": "utf-16", "UTF-16 without a mark": "utf-16-le"}


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize(
    "name",
    ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"],
)
def test_a_file_that_no_library_decodes_is_refused_by_its_name(cold, copy, run, spec, encoding, name):
    _older(copy)
    file = copy / "tokenizer" / name
    file.write_bytes((file.read_text() if file.is_file() else "{}").encode(encoding))
    with pytest.raises(EngineError) as caught:
        run(cold, spec(path=str(copy)))
    assert caught.value.kind == "IntegrityError"
    assert f"tokenizer/{name}" in caught.value.message
    assert "UTF-8" in caught.value.message


def test_the_single_file_of_a_tokenizer_is_in_utf_8_too(cold, copy, run, spec):
    file = copy / "tokenizer_3/tokenizer.json"
    file.write_bytes(file.read_text().encode("utf-8-sig"))
    with pytest.raises(EngineError, match=r"tokenizer_3/tokenizer\.json cannot be used: it must be in UTF-8"):
        run(cold, spec(path=str(copy)))
