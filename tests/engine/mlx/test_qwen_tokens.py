"""Qwen's token ids against transformers'; each prompt is a user's message in a conversation."""

import json
import shutil

import pytest

from locara_sidecar.engine.drawing.prompts import conversation
from locara_sidecar.engine.drawing.prompts.truncation import Reader, lost_part
from locara_sidecar.engine.mlx_engine.texts import qwen_tokens
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine.supported import QWEN3, QWEN3_TERSE
from support.prompts import AWKWARD

KINDS = {"may think": QWEN3, "may not": QWEN3_TERSE}
MARKED = [
    "<|im_end|>\n<|im_start|>user\nagain",
    "<think>hm</think> a cat <|endoftext|>",
    "a red cat!\n\n  we'll SEE'LL   it's",
    "\n\nuser\n   assistant",
    "e\u0301 ﬁ ½ ①②③ Ⅷ \u1100\u1161\u11a8",
    "<tool_response>a</tool_response>",
    "{{ 7 * 7 }} {% for %} {# no #}",
    "'quoted' \"twice\" \\n back\\slash",
]


def theirs(folder):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)


def differing(folder, kind, lengths=(1, 5, 16, 64, 600)):
    """Return the prompts whose ids (at several lengths) or token positions differ from transformers'."""
    reference, ours = theirs(folder), qwen_tokens.load(folder, "tokenizer", kind)
    assert ours.longest == reference.model_max_length
    found = []
    for text in AWKWARD + MARKED:
        said = reference.apply_chat_template(
            [{"role": "user", "content": text}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=kind is QWEN3,
        )
        assert said == conversation.said(kind, text)
        whole = reference(said, return_offsets_mapping=True)
        same = ours.starts(text) == conversation.starts(kind, text, [start for start, _ in whole["offset_mapping"]])
        for length in lengths:
            encoded = reference(said, padding="max_length", max_length=length, truncation=True)
            same = same and ours.ids(text, length) == encoded["input_ids"]
            same = same and len(ours.words(text, length)) == sum(encoded["attention_mask"])
        if not same:
            found.append(text)
    return found


@pytest.fixture
def folder(tmp_path, tiny_sd3):
    shutil.copytree(tiny_sd3.parent / "tiny-z-image" / "tokenizer", tmp_path / "tokenizer")
    return tmp_path


def as_published(folder):
    """Return the form of 2025: pieces in separate files, added tokens by id, the template in the configuration."""
    path = folder / "tokenizer" / "tokenizer_config.json"
    described = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(described["model"]["vocab"]))
    merges = ["#version: 0.2", *(" ".join(pair) for pair in described["model"]["merges"])]
    (folder / "tokenizer" / "merges.txt").write_text("\n".join(merges) + "\n")
    template = folder / "tokenizer" / "chat_template.jinja"
    config = json.loads(path.read_text()) | {
        "added_tokens_decoder": {str(token.pop("id")): token for token in described["added_tokens"]},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "chat_template": template.read_text(),
        "bos_token": None,
        "unk_token": None,
        "add_bos_token": False,
        "add_prefix_space": False,
        "split_special_tokens": False,
    }
    template.unlink()
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_ids_are_those_of_transformers(folder, kind):
    assert differing(folder, kind) == []


def test_line_breaks_are_in_one_word_with_the_space_before_them(folder):
    """The published models have tokens for such words; the fixture's few merges do not show where words end."""
    path = folder / "tokenizer" / "tokenizer.json"
    described = json.loads(path.read_text())
    model = described["model"]
    joined = ("\u010a \u010a", "\u0120 \u010a\u010a")  # two line breaks, and a space before them, as letters for bytes
    taken = [*model["vocab"].values(), *(token["id"] for token in described["added_tokens"])]
    for number, pair in enumerate(joined, max(taken) + 1):
        model["vocab"][pair.replace(" ", "")] = number
        model["merges"].append(pair.split(" "))
    path.write_text(json.dumps(described))
    assert differing(folder, QWEN3) == []
    ours, text = qwen_tokens.load(folder, "tokenizer", QWEN3), "a red \n\ncat\n\nagain"
    assert set(ours.ids(text, 64)) >= {max(taken) + 1, max(taken) + 2}


@pytest.mark.parametrize("alone", [True, False])
def test_ids_are_those_of_transformers_for_folders_of_2025(folder, alone):
    as_published(folder)
    if alone:
        (folder / "tokenizer" / "tokenizer.json").unlink()
    assert differing(folder, QWEN3) == []


def test_words_are_lost_from_the_prompt_and_never_from_the_marks_around_it(folder):
    ours = qwen_tokens.load(folder, "tokenizer", QWEN3)
    text = "a red cat on the blue square"
    tokens = len(ours.starts(text))
    for limit, lost in ((tokens, ""), (tokens - 1, "square"), (tokens - 2, "blue square"), (tokens + 9, "")):
        assert lost_part(text, Reader("Qwen3", limit, ours.specials, ours.starts)) == lost
    assert ours.ids(text, tokens) == ours.words(text, 600)[:tokens]


def test_a_text_that_does_not_fit_may_lose_its_beginning(folder):
    path = folder / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation_side": "left"}))
    assert differing(folder, QWEN3) == []


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}'),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": 7, "merges": []}}'),
        ("tokenizer_config.json", '{"pad_token": 3}'),
    ],
)
def test_files_that_make_no_tokenizer_are_named(folder, file, content):
    (folder / "tokenizer" / file).write_text(content)
    with pytest.raises(EngineError) as caught:
        qwen_tokens.load(folder, "tokenizer", QWEN3)
    assert caught.value.kind == "IntegrityError"
