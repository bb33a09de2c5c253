"""A text encoder that is a chat model: its chat template is recognized by its parts and never executed."""

import json
import shutil
from pathlib import Path

import pytest

from locara_sidecar.engine.drawing.prompts import conversation
from locara_sidecar.engine.folder import tokenizer_check
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine.supported import QWEN3, QWEN3_TERSE, T5

FIXTURE = Path(__file__).parents[2] / "fixtures" / "models" / "tiny-z-image" / "tokenizer"
FOUND = {"tokenizer": "Qwen2Tokenizer"}
TEMPLATE = (FIXTURE / "chat_template.jinja").read_text()


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(FIXTURE, tmp_path / "tokenizer")
    return tmp_path


def with_members(folder, **members):
    path = folder / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | members))


def refused(folder):
    with pytest.raises(EngineError) as caught:
        tokenizer_check.check(folder, FOUND, {})
    assert caught.value.kind == "IntegrityError"
    return caught.value.message


AROUND = {
    "nothing": (None, False),
    "offsets of bytes": ({"type": "ByteLevel", "trim_offsets": False}, False),
    "the text alone": ({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}]}, False),
    "both": ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, None]}, False),
    "a token": (
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        },
        True,
    ),
    "the text twice": ({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2}, True),
    "a token in a sequence": ({"type": "Sequence", "processors": [{"type": "RobertaProcessing"}]}, True),
    "a sequence in a sequence": ({"type": "Sequence", "processors": [{"type": "Sequence", "processors": []}]}, True),
    "no object": (["ByteLevel"], True),
}


@pytest.mark.parametrize(("described", "adds"), AROUND.values(), ids=AROUND)
def test_nothing_is_put_around_a_conversation_by_the_tokenizer(folder, described, adds):
    """transformers runs whatever the file describes, at any length; MLX does not."""
    path = folder / "tokenizer" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": described}))
    if adds:
        assert "tokenizer/tokenizer.json" in refused(folder)
    else:
        tokenizer_check.check(folder, FOUND, {})


def test_a_template_may_stand_in_a_file_of_its_own_or_in_the_configuration(folder):
    tokenizer_check.check(folder, FOUND, {})
    (folder / "tokenizer" / "chat_template.jinja").unlink()
    assert "has no chat_template" in refused(folder)
    with_members(folder, chat_template=TEMPLATE)
    tokenizer_check.check(folder, FOUND, {})


@pytest.mark.parametrize("missing", ["<|im_start|>", "<|im_end|>", "enable_thinking", "</think>"])
def test_another_models_template_is_refused(folder, missing):
    (folder / "tokenizer" / "chat_template.jinja").write_text(TEMPLATE.replace(missing, "other"))
    assert f"has no {missing}" in refused(folder)
    with_members(folder, chat_template=TEMPLATE)  # if both exist, the file counts
    assert "chat_template.jinja" in refused(folder)


ROLES = "'<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n'"
OWN_WORDS = {
    "a system prompt": "{{- '<|im_start|>system\\nYou are a painter.<|im_end|>\\n' }}",
    "an example": "{{ '<|im_start|>user\\nA cat<|im_end|>\\n' }}",
    "plain text": "<|im_start|>system\nBe brief.<|im_end|>\n",
}
NO_WORDS = {
    "a message of the system": "{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}",
    "tools": "{{- '<|im_start|>system\\n' }}{{- \"# Tools\\n\" }}",
    "any role": "{{- " + ROLES + " }}",
    "plain text": "<|im_start|>user\n{{ content }}<|im_end|>\n",
    "closed thoughts": "{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}",
}


@pytest.mark.parametrize("words", OWN_WORDS.values(), ids=OWN_WORDS)
def test_a_template_with_words_of_its_own_is_refused(folder, words):
    (folder / "tokenizer" / "chat_template.jinja").write_text(words + TEMPLATE)
    assert "words of its own" in refused(folder)


@pytest.mark.parametrize("marks", NO_WORDS.values(), ids=NO_WORDS)
def test_a_template_that_only_says_where_messages_go_is_taken(folder, marks):
    (folder / "tokenizer" / "chat_template.jinja").write_text(marks + TEMPLATE)
    tokenizer_check.check(folder, FOUND, {})


@pytest.mark.parametrize("member", [{"padding_side": "left"}, {"add_bos_token": True}, {"chat_template": [TEMPLATE]}])
def test_what_would_give_other_ids_is_refused(folder, member):
    with_members(folder, **member)
    assert next(iter(member)) in refused(folder)


def test_pieces_of_another_kind_are_refused(folder):
    path = folder / "tokenizer" / "tokenizer.json"
    path.write_text(json.dumps({"model": {"type": "Unigram", "vocab": []}}))
    assert "BPE" in refused(folder)


def test_our_own_template_says_what_is_read():
    jinja2 = pytest.importorskip("jinja2")
    for kind in (QWEN3, QWEN3_TERSE):
        for text in ("a cat", "{{ 7 * 7 }} {% raw %}", 'it\'s "quoted" \\n é 🙂\n'):
            made = jinja2.Template(conversation.template(kind)).render(messages=[{"role": "user", "content": text}])
            assert made == conversation.said(kind, text)


def test_encoders_of_plain_texts_are_given_nothing_around_them():
    assert conversation.said(T5, "a cat") == "a cat"
    assert conversation.starts(T5, "a cat", [0, 1, 2]) == [0, 1, 2]
