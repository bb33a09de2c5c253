"""Prompts: what the encoders cut off is reported, and what was encoded once is kept."""

import json
import shutil

import pytest

from locara_sidecar.daemon.engine_host.output import screen
from locara_sidecar.engine import job
from locara_sidecar.ipc import frames, framing
from locara_sidecar.ipc.errors import EngineError
from support.fixture_models import MODELS
from support.runtimes import Control

SHORT = "a red circle"
LONG = "a red circle and " * 24 + "the yellow dog"


class Going(Control):
    cancelled = False


def warnings_of(result):
    return dict(result.summary.warnings)


def test_a_prompt_that_fits_gives_no_warning(runtime, run, spec):
    assert run(runtime, spec(prompt=SHORT)).summary.warnings == []


def test_a_truncated_prompt_names_the_encoders_and_the_words(runtime, run, spec):
    (kind, message), *others = run(runtime, spec(prompt=LONG)).summary.warnings
    assert (kind, others) == ("PromptTruncated", [])
    assert "CLIP-L and CLIP-G" in message
    assert "T5 reads only 32" in message
    assert message.count("the yellow dog'") == 2


@pytest.mark.parametrize("word", ["lighthouse ", "x", "\x7f ", "\U000e0001a "], ids=["words", "one", "escaped", "long"])
def test_of_a_prompt_of_the_greatest_length_no_more_is_told_than_can_be_sent(runtime, run, spec, word):
    """The daemon used to end an engine with such a long message: each such job was EngineCrashed."""
    text = ("The beginning " + word * (16_000 // len(word.encode())) + " the end")[:16_384]
    sent = []
    done = job.run_job(runtime, spec(prompt=text, steps=1), Going(), sent.append, lambda *_: None)
    assert isinstance(done, frames.Done)
    (message,) = [text for kind, text in done.warnings if kind == "PromptTruncated"]
    assert len(message) <= screen._TEXT
    assert message.count("the end'") >= 1
    assert len(framing.encode(done)) < framing.MAX_PLAIN_BYTES


def test_where_t5_sees_everything_only_the_clip_encoders_are_named_as_losing(runtime, run, spec):
    message = warnings_of(run(runtime, spec(prompt=LONG, max_sequence_length=256)))["PromptTruncated"]
    lost, seen = message.split(": ", 1)
    assert "T5" not in lost
    assert seen.endswith("T5 sees all of it.")


def test_only_whole_words_are_told_as_lost(runtime, run, spec):
    # room for 75 tokens: 74 times "a", then a word of several tokens that is cut in the middle
    message = warnings_of(run(runtime, spec(prompt="a " * 74 + "xyzzy plugh", max_sequence_length=256)))[
        "PromptTruncated"
    ]
    assert "'xyzzy plugh'" in message


@pytest.mark.slow
def test_a_model_that_cuts_in_front_is_told_to_have_lost_the_beginning(cold, run, spec, copy):
    for name in ("tokenizer", "tokenizer_2"):
        path = copy / name / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation_side": "left"}))
    text = "plugh xyzzy " + "a " * 74
    message = warnings_of(run(cold, spec(path=str(copy), prompt=text, max_sequence_length=256)))["PromptTruncated"]
    assert "CLIP-L and CLIP-G read only 77 tokens of the prompt and did not see: 'plugh xyzzy'" in message


def test_a_token_without_an_embedding_is_no_noise(cold, run, spec, copy):
    described = json.loads((copy / "tokenizer" / "tokenizer.json").read_text())
    (copy / "tokenizer" / "vocab.json").write_text(json.dumps(described["model"]["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in described["model"]["merges"]]
    (copy / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (copy / "tokenizer" / "tokenizer.json").unlink()
    named = {added["content"]: added["id"] for added in described["added_tokens"]}
    (copy / "tokenizer" / "added_tokens.json").write_text(json.dumps(named | {"<sks>": max(named.values()) + 1}))
    with pytest.raises(EngineError) as caught:
        run(cold, spec(path=str(copy), prompt="a <sks> cat", steps=1))
    assert (caught.value.kind, caught.value.data["files"]) == ("IntegrityError", ["tokenizer/tokenizer_config.json"])


def test_a_truncated_negative_prompt_is_told_only_if_it_is_used(runtime, run, spec):
    used = run(runtime, spec(negative_prompt=LONG)).summary.warnings
    assert [kind for kind, _ in used] == ["PromptTruncated"]
    assert "negative prompt" in used[0][1]
    assert run(runtime, spec(negative_prompt=LONG, guidance=1.0)).summary.warnings == []


def test_a_repeated_prompt_encodes_nothing(runtime, run, spec, monkeypatch):
    encoded = []
    run(runtime, spec())
    family = runtime.opened.family
    encode = family.encode
    monkeypatch.setattr(family, "encode", lambda text, length: encoded.append(text) or encode(text, length))
    first = run(runtime, spec(prompt="a white cat by a red tree", negative_prompt="small"))
    second = run(runtime, spec(prompt="a white cat by a red tree", negative_prompt="small"))
    assert ("encoding", 1) not in second.phases
    run(runtime, spec(prompt="a white dog by a red tree", negative_prompt="small"))
    assert encoded == ["a white cat by a red tree", "small", "a white dog by a red tree"]
    assert first.images[0].tobytes() == second.images[0].tobytes()


@pytest.mark.slow
def test_the_oldest_embedding_makes_room(runtime, run, spec):
    for number in range(20):
        run(runtime, spec(prompt=f"a cat {number}", steps=1, guidance=1.0))
    kept = [key.text for key in runtime._embeddings._kept]
    assert len(kept) == 16
    assert "a cat 0" not in kept
    assert kept[-1] == "a cat 19"


def test_a_prompt_that_is_the_next_to_be_forgotten_is_there_for_its_own_job(runtime, run, spec):
    """Its job also needs a new negative prompt, which pushes the prompt out of the cache."""
    for number in range(16):
        run(runtime, spec(prompt=f"a dog {number}", steps=1, guidance=1.0))
    assert next(iter(runtime._embeddings._kept)).text == "a dog 0"
    assert run(runtime, spec(prompt="a dog 0", negative_prompt="a cat that nobody has seen", steps=1)).images


@pytest.fixture
def picky(copy):
    """A model whose word list has two words."""
    value = {"format": "locara-word-list/1", "words": ["cat", "blue"], "examples": ["a blue cat"]}
    (copy / "word_list.json").write_text(json.dumps(value))
    return {"path": str(copy), "digest": "sha256:picky"}


def test_a_prompt_of_words_that_the_model_does_not_know_is_told_with_near_ones(cold, run, spec, picky):
    (kind, message), *others = run(cold, spec(prompt="a caat", **picky)).summary.warnings
    assert (kind, others) == ("PromptNotUnderstood", [])
    assert "'caat'" in message
    assert "it knows: cat." in message
    assert run(cold, spec(prompt="cats", **picky)).summary.warnings == []


def test_a_model_without_a_list_of_words_gives_no_such_warning(runtime, run, spec):
    assert run(runtime, spec(prompt="xyzzy plugh")).summary.warnings == []


@pytest.mark.parametrize("model", ["tiny-z-image", "tiny-flux2"])
def test_a_model_of_conversations_tells_the_words_that_it_lost_and_none_of_the_marks_around_them(
    runtimes, run, job_for, model
):
    runtime = runtimes(model)
    assert run(runtime, job_for(model, prompt=SHORT, steps=1)).summary.warnings == []
    message = warnings_of(run(runtime, job_for(model, prompt=LONG, steps=1)))["PromptTruncated"]
    assert message.startswith("Qwen3 reads only 64 tokens of the prompt")
    assert message.count("the yellow dog'") == 1
    assert "im_end" not in message


def test_a_models_chat_template_is_known_by_its_marks_and_never_run(runtimes, cold, run, job_for, tmp_path):
    """A template is a program, and a stranger wrote it."""
    expected = run(runtimes("tiny-z-image"), job_for("tiny-z-image")).images[0]
    folder = shutil.copytree(MODELS / "tiny-z-image", tmp_path / "model")
    path = folder / "tokenizer" / "chat_template.jinja"
    path.write_text(path.read_text() + "{{ 1 / 0 }}")
    made = run(cold, job_for("tiny-z-image", path=str(folder))).images[0]
    assert made.tobytes() == expected.tobytes()
