"""Both engines read a tokenizer from the same files."""

import json
import shutil

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


BREAKAGES = {
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
