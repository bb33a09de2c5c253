"""Token ids against transformers' on the same files, in every form in which tokenizers are published."""

import json
import shutil

import hypothesis
import pytest
from hypothesis import strategies

from locara_sidecar.engine.mlx_engine.texts import text_tokens
from locara_sidecar.ipc.errors import EngineError
from locara_sidecar.machine import supported
from support import tokenizer_folders as forms
from support.prompts import AWKWARD
from support.tokenizer_folders import END, START, token, typed

CLIP, T5 = "CLIPTokenizer", "T5TokenizerFast"
SWITCHES = [
    {"normalized": True}, {"normalized": False}, {"normalized": False, "lstrip": True},
    {"normalized": True, "rstrip": True}, {"normalized": False, "lstrip": True, "rstrip": True},
    {"normalized": False, "single_word": True}, {"normalized": True, "single_word": True, "lstrip": True},
]  # fmt: skip


def _with_switches(folder):
    vocab = forms.clip_2024(folder)
    path = folder / "tokenizer_config.json"
    config, first = json.loads(path.read_text()), max(vocab.values()) + 1
    for i, (text, switches) in enumerate(zip(TEXTS, SWITCHES, strict=True)):
        config["added_tokens_decoder"][str(first + i)] = token(text, **switches, special=i % 2 == 0)
    forms.write(path, config)


def _by_file(folder, **described):
    """Return a folder as transformers 5 writes it, whose ``tokenizer.json`` has more in it."""
    shutil.copytree(forms.FIXTURE / "tokenizer", folder)
    path = folder / "tokenizer.json"
    forms.write(path, json.loads(path.read_text()) | described)


def _few_sentinels(folder):
    forms.t5_2024(folder, listed=False, additional_special_tokens=None, extra_ids=3)
    (folder / "special_tokens_map.json").unlink()


def _t5_of(**config):
    return lambda folder: forms.t5_2024(folder, **config)


TEXTS = ["<one>", "two toys", "<Three>", "four", "<five>", "six", "Seven"]
PADDING = {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
           "pad_type_id": 0, "pad_token": "!"}  # fmt: skip
TRUNCATION = {"direction": "Left", "max_length": 20, "strategy": "LongestFirst", "stride": 0}
EXTRA = ["<sks>", "<Blue-Style>", "red toy"]
FORMS = {
    "SDXL, tokenizer": (CLIP, forms.clip_2023),
    "SDXL, tokenizer_2": (CLIP, lambda folder: forms.clip_2023(folder, "!")),
    "SD 3.5, tokenizer": (CLIP, forms.clip_2024),
    "SD 3.5, tokenizer_2": (CLIP, lambda folder: forms.clip_2024(folder, "!")),
    "textual inversion": (CLIP, forms.with_inversions),
    "textual inversion, CLIP-G": (CLIP, lambda folder: forms.with_inversions(folder, "!")),
    "switches": (CLIP, _with_switches),
    "additional": (CLIP, lambda folder: forms.with_extras(
        folder, "tokenizer_config.json", "additional_special_tokens", EXTRA)),
    "extra": (CLIP, lambda folder: forms.with_extras(folder, "tokenizer_config.json", "extra_special_tokens", EXTRA)),
    "typed extra": (CLIP, lambda folder: forms.with_extras(
        folder, "tokenizer_config.json", "extra_special_tokens", [typed("<sks>", lstrip=True), typed("red toy")])),
    "named extra": (CLIP, lambda folder: forms.with_extras(
        folder, "tokenizer_config.json", "extra_special_tokens", {"style_token": "<Blue-Style>", "who": "<sks>"})),
    "additional in the map": (CLIP, lambda folder: forms.with_extras(
        folder, "special_tokens_map.json", "additional_special_tokens", EXTRA)),
    "extra in the map": (CLIP, lambda folder: forms.with_extras(
        folder, "special_tokens_map.json", "extra_special_tokens", [token("<sks>"), "red toy"])),
    "named extra in the map": (CLIP, lambda folder: forms.with_extras(
        folder, "special_tokens_map.json", "extra_special_tokens", {"who": "<sks>"})),
    "a token of the model's own": (CLIP, lambda folder: forms.clip_2023(
        folder, image_token="<image>", style_token=typed("<Blue-Style>"))),
    "another padding token": (CLIP, lambda folder: forms.clip_2024(folder, pad="<PAD>")),
    "padding in front": (CLIP, lambda folder: forms.clip_2023(folder, padding_side="left")),
    "cut in front": (CLIP, lambda folder: forms.clip_2023(folder, truncation_side="left", padding_side="left")),
    "sides in tokenizer.json": (CLIP, lambda folder: _by_file(folder, padding=PADDING, truncation=TRUNCATION)),
    "special tokens are text": (CLIP, lambda folder: forms.clip_2024(folder, split_special_tokens=True)),
    "FLUX, tokenizer_2": (T5, forms.t5_2024),
    "FLUX, not listed": (T5, _t5_of(listed=False)),
    "T5, other additional ones": (T5, _t5_of(additional_special_tokens=["<sks>"])),
    "T5, no additional ones": (T5, _t5_of(additional_special_tokens=[])),
    "T5, extra ones": (T5, _t5_of(extra_special_tokens=["<sks>", typed("<Blue-Style>")])),
    "T5, 3 sentinels": (T5, _few_sentinels),
    "T5, cut in front": (T5, _t5_of(truncation_side="left")),
}  # fmt: skip
MORE = [
    *("<sks>", "a <sks> cat", "<Blue-Style><sks>", "A <BLUE-STYLE> cat", "<blue-style>", "a red toy", "a Red\tTOY"),
    "redtoy red toys",
    *("<image>!", "<PAD> <pad>", "a<|EndOfText|>b", "<|STARTOFTEXT|>", "<|endoftext|><|endoftext|>"),
    *("  <one>  two toys<Three> four fourth <five>  six sixth Seven seventh  ", "Two  Toys <three>four", "<FIVE> SIX"),
    *("x <extra_id_0> y", "x<extra_id_99>  <extra_id_100> z", "<extra_id_3> </s> <extra_id_0><unk>", "<EXTRA_ID_1>"),
]  # fmt: skip


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The tokenizers of each form, transformers' and ours."""
    import transformers

    def get(form):
        if form not in made:
            kind, write = FORMS[form]
            folder = tmp_path_factory.mktemp("form")
            write(folder / "tokenizer")
            reference = getattr(transformers, kind).from_pretrained(str(folder / "tokenizer"), local_files_only=True)
            made[form] = reference, text_tokens.load(folder, "tokenizer")
        return made[form]

    made = {}
    return get


def differs(reference, ours, text):
    """Return whether a text's ids (at several lengths) or the positions of its tokens differ."""
    whole = reference(text, add_special_tokens=False, return_offsets_mapping=True)
    if ours.starts(text) != [start for start, _ in whole["offset_mapping"]]:
        return True
    return any(
        ours.ids(text, length) != reference(text, padding="max_length", max_length=length, truncation=True)["input_ids"]
        for length in (3, 9, 77)
    )


@pytest.mark.parametrize("form", FORMS)
def test_ids_are_those_of_transformers_in_every_published_form(opened, form):
    reference, ours = opened(form)
    assert ours.specials == reference.num_special_tokens_to_add()
    assert ours.keeps_end == (reference.truncation_side == "left")
    assert [text for text in (*AWKWARD, *MORE) if differs(reference, ours, text)] == []


PIECES = [
    *(START, END, "<|EndOfText|>", "!", "<sks>", "<Blue-Style>", "<blue-style>", "red toy", "Red  Toy", "<image>"),
    *("<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_12>", "<EXTRA_ID_0>", "▁", "</w>", *TEXTS),
    *(" ", "  ", "\t", "\u3000", "\n", "a", "the cat", "É", "猫", "🙂", "'s", "12", "\x00", ".,"),
]


@pytest.mark.parametrize("form", FORMS)
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    parts=strategies.lists(strategies.sampled_from(PIECES) | strategies.text(max_size=4), max_size=10),
)
def test_ids_are_those_of_transformers_where_special_tokens_stand_among_words(opened, form, parts):
    reference, ours = opened(form)
    assert not differs(reference, ours, "".join(parts).encode("utf-8", "ignore").decode())


def test_the_forms_differ_from_each_other_where_they_must(opened):
    """The tests above would pass even if the corpus contained none of the tokens."""

    def ids(form, text, length=6):
        return opened(form)[1].ids(text, length)

    inverted = ids("textual inversion", "<sks> <blue-style> RED toy")
    assert inverted[2:4] == [inverted[1] + 1, inverted[1] + 2]
    assert inverted[4:] == [ids("textual inversion", "")[1]] * 2
    assert ids("SDXL, tokenizer_2", "<|EndOfText|>", 3) == ids("SDXL, tokenizer_2", END, 3)  # in upper and lower case
    assert ids("SDXL, tokenizer", "<|EndOfText|>") != ids("SDXL, tokenizer", END)
    assert ids("special tokens are text", END) != ids("SD 3.5, tokenizer", END)
    assert ids("padding in front", "a")[3:] == ids("SDXL, tokenizer", "a")[:3]
    text = "the red cat " * 40 + "blue"
    assert ids("cut in front", text)[4] == ids("SDXL, tokenizer", "blue")[1]
    assert ids("FLUX, tokenizer_2", "<extra_id_0>")[0] == ids("FLUX, tokenizer_2", "<extra_id_9>")[0] + 9


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer_config.json", {"padding_side": "both"}),
        ("tokenizer_config.json", {"truncation_side": None}),
        ("special_tokens_map.json", {"pad_token": None}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"0": "<sks>"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"a": token("<sks>")}}),
        ("tokenizer_config.json", {"extra_special_tokens": 7}),
        ("special_tokens_map.json", {"additional_special_tokens": [token("<sks>")]}),
        ("special_tokens_map.json", {"eos_token": 7}),
        ("added_tokens.json", {"<sks>": "first", "<two>": 2}),
    ],
)
def test_tokens_that_make_no_sense_are_refused_by_both(tmp_path, file, change):
    from locara_sidecar.engine.torch_engine import readers

    folder = tmp_path / "tokenizer"
    forms.clip_2023(folder)
    path = folder / file
    forms.write(path, (json.loads(path.read_text()) if path.is_file() else {}) | change)
    with pytest.raises(EngineError) as caught:
        text_tokens.load(tmp_path, "tokenizer")
    assert caught.value.kind == "IntegrityError"
    if change != {"pad_token": None}:  # transformers notices it only at the first text
        with pytest.raises(EngineError) as caught:
            readers.open_tokenizer(tmp_path, "tokenizer", supported.CLIP_L)
        assert caught.value.kind == "IntegrityError"
