"""Every member of every configuration with values that no model has: both engines give the same result, a named error
or a picture, and no network is built from a number before that is checked."""

import functools
import gc
import itertools
import json
import os
import shutil

import msgspec
import numpy as np
import pytest

from locara_sidecar.engine.folder import config_members, tensor_check
from locara_sidecar.engine.folder.config_members import CLASSES
from locara_sidecar.ipc.errors import EngineError
from support.config_values import ABSURD, ALLOWED, Mutation, fault_of, mutations, shape_of
from support.fixture_models import MODELS
from support.runtimes import Control, make_runtime
from support.shared_parts import sharing

pytestmark = pytest.mark.slow

FAMILIES = ("tiny-sd3", "tiny-flux", "tiny-sdxl")
ALIKE = {"bos_token", "eos_token", "pad_token", "unk_token", "tokenizer_class", "added_tokens_decoder"}
DRAWN = {"tiny-flux": {"transformer"}, "tiny-sdxl": {"unet", "scheduler"}}
"""The components to draw with: classes that an earlier family has are not repeated."""


@pytest.fixture(scope="module", autouse=True)
def _tensors_are_looked_at_once():
    kept, seen = tensor_check.check, {}

    def check(component, *, prepared=False):
        key = (*component.files, prepared)
        if key not in seen:
            seen[key] = kept(component, prepared=prepared)
        return seen[key]

    tensor_check.check = check
    yield
    tensor_check.check = kept


@functools.cache
def shape(model):
    return shape_of(model)


def is_read(model, mutation):
    part = mutation.file.split("/")[0]
    return part.startswith("tokenizer") or mutation.member in CLASSES[shape(model).found[part]].read


@functools.cache
def accepted(model):
    """Return the mutations that pass the shared check and that an engine reads."""
    return [
        one for one in mutations(shape(model)) if is_read(model, one) and fault_of(shape(model), one, "torch") is None
    ]


def changed(tmp_path, model, name, *changes):
    """Return a copy of the model (weights linked) with the changed members."""
    folder = shutil.copytree(MODELS / model, tmp_path / name, copy_function=os.link)
    for change in changes:
        file = folder / change.file
        config = json.loads(file.read_text()) | {change.member: change.changed}
        file.unlink()
        file.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_refused_is_refused_by_file_and_member_the_same_for_both_engines(family):
    refused = 0
    for one in mutations(shape(family)):
        faults = [fault_of(shape(family), one, engine) for engine in ("torch", "mlx")]
        if faults[0] is None:
            continue
        refused += 1
        assert {fault.kind for fault in faults} == {"IntegrityError"}
        assert faults[0].message == faults[1].message
        assert one.file.split("/")[0] in faults[0].message or "does not fit" in faults[0].message
        assert len(faults[0].message) < 400
    assert refused > 800


@pytest.mark.parametrize("family", FAMILIES)
def test_absurd_numbers_are_refused_for_every_number_that_is_read(family):
    for one in accepted(family):
        if not one.file.split("/")[0].startswith("tokenizer"):
            assert one.value not in ABSURD, one


@pytest.mark.quick_cases("tiny-flux", "transformer/config.json-num_layers")
@pytest.mark.parametrize(
    ("family", "file", "member"),
    [
        ("tiny-sd3", "transformer/config.json", "num_layers"),
        ("tiny-sd3", "text_encoder_3/config.json", "num_layers"),
        ("tiny-sd3", "text_encoder/config.json", "num_hidden_layers"),
        ("tiny-flux", "transformer/config.json", "num_single_layers"),
        ("tiny-sdxl", "unet/config.json", "transformer_layers_per_block"),
    ],
)
def test_more_layers_than_there_are_tensors_are_refused_before_one_is_built(
    runtimes, run, job_for, tmp_path, monkeypatch, family, file, member
):
    folder = shutil.copytree(MODELS / family, tmp_path / "model")
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | {member: 900}))
    runtime = runtimes(family)
    run(runtime, job_for(family, steps=1))
    backend = type(runtime.backend)
    monkeypatch.setattr(backend, "family_class", _without_building(backend.family_class))
    with pytest.raises(EngineError, match="more layers") as caught:
        run(runtime, job_for(family, path=str(folder), digest="layers", steps=1))
    assert caught.value.kind == "IntegrityError"
    assert file in caught.value.message


def test_a_shift_of_all_frequencies_there_are_is_refused():
    """The exponents are divided by half of addition_time_embed_dim minus the shift."""
    read, found = shape("tiny-sdxl"), {}
    for width in (2, 4):
        members = {"addition_time_embed_dim": width, "projection_class_embeddings_input_dim": 6 * width + 32}
        components = [
            msgspec.structs.replace(one, config=one.config | members) if one.name == "unet" else one
            for one in read.components
        ]
        found[width] = fault_of(
            read._replace(components=components), Mutation("unet/config.json", "freq_shift", "one"), "mlx"
        )
    assert "freq_shift" in found[2].message
    assert found[4] is None or "freq_shift" not in found[4].message


def _without_building(find):
    """Return the family's class with a constructor that fails: a folder must be refused before that."""

    def found(runtime, family):
        def refuse(*_):
            raise AssertionError("a network was built")

        return type("Checked", (find(runtime, family),), {"__init__": refuse})

    return found


def _nulls(family):
    """Return all nulls that pass, except those that have their own meaning."""
    own = {"qk_norm", "mid_block_type", "norm_num_groups"}
    own |= {"mid_block_add_attention", "flip_sin_to_cos", "use_linear_projection"}  # true if they are absent
    return [
        one for one in accepted(family) if one.value == "null" and one.member not in own and not _was_set(family, one)
    ]


def _was_set(family, one):
    """Return whether null removes something: a member that the model has and that is not false."""
    return bool(json.loads((MODELS / family / one.file).read_text()).get(one.member))


@pytest.mark.quick_cases("tiny-flux")
@pytest.mark.parametrize("family", FAMILIES)
def test_null_for_a_switch_is_false_and_for_the_rest_what_it_is_without(runtimes, run, job_for, tmp_path, family):
    folder = changed(tmp_path, family, "nulls", *_nulls(family))
    runtime = runtimes(family)
    drawn = run(runtime, job_for(family, path=str(folder), digest="nulls", steps=1)).images[0]
    assert drawn.tobytes() == run(runtime, job_for(family, steps=1)).images[0].tobytes()


@pytest.mark.quick_cases("a word")
@pytest.mark.parametrize("value", ["a word", "an object", "past every number", "not a number"])
def test_members_that_change_nothing_may_be_anything(runtimes, run, job_for, tmp_path, value):
    family = "tiny-sdxl"
    harmless = [
        one
        for one in mutations(shape(family))
        if one.value == value and not is_read(family, one) and fault_of(shape(family), one, "torch") is None
    ]
    assert len(harmless) > 10
    folder = changed(tmp_path, family, "harmless", *harmless)
    runtime = runtimes(family)
    drawn = run(runtime, job_for(family, path=str(folder), digest=value, steps=1)).images[0]
    assert drawn.tobytes() == run(runtime, job_for(family, steps=1)).images[0].tobytes()


def outcome(runtime, run, spec):
    """Return ``drawn`` with the pixels, or the error's name; any other exception fails the test."""
    try:
        return "drawn", np.array(run(runtime, spec).images[0]).astype(int)
    except EngineError as fault:
        return fault.kind, fault.message


def is_accepted(runtime, spec):
    """Return whether an import would accept the folder."""
    try:
        runtime.warm.check(spec.model, spec.scheduler, Control(), (spec.width, spec.height))
    except EngineError:
        return False
    return True


def _drawn_with(family):
    """Return, for each member that the folder's own classes read, the last value that passes: drawing is slow."""
    parts = DRAWN.get(family)
    carried_along = config_members._DPM.keys() - config_members._EULER.keys()
    found = {}
    for one in accepted(family):
        part = one.file.split("/")[0]
        repeated = part in ("text_encoder_2", "tokenizer_2") or (part == "tokenizer_3" and one.member in ALIKE)
        carried = part == "scheduler" and one.member in carried_along
        if one.value != "null" and not repeated and not carried and (parts is None or part in parts):
            found[one.file, one.member] = one
    return list(found.values())


@pytest.mark.quick_cases("tiny-flux")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_passes_the_check_is_drawn_alike_or_has_a_name_in_both_engines(family, engines, run, job_for, tmp_path):
    told = []
    for number, one in enumerate(_drawn_with(family)):
        folder = changed(tmp_path, family, f"model-{number}", one)
        spec = job_for(family, path=str(folder), digest=str(number), steps=1, precision="float32")
        outcomes = {name: outcome(runtime, run, spec) for name, runtime in engines.items()}
        for name, (kind, _) in outcomes.items():
            if kind not in ALLOWED | {"drawn"}:
                told.append((one, name, kind))
            drawn = kind in ("drawn", "InvalidOutput")
            # the import's check: it must not accept what drawing refuses, nor refuse what draws (torch is slower)
            if (name == "mlx" or not drawn) and is_accepted(engines[name], spec) != drawn:
                told.append((one, name, kind, "but an import thinks otherwise"))
        kinds = {kind for kind, _ in outcomes.values()}
        if len(kinds) > 1 and "engine cannot run" not in str(outcomes["mlx"][1]):  # torch runs more; MLX says so
            told.append((one, *outcomes.values()))
        if kinds == {"drawn"} and np.abs(np.subtract(*(pixels for _, pixels in outcomes.values()))).max() > 2:
            told.append((one, "other pictures"))
        shutil.rmtree(folder)
    assert not told, "\n".join(map(str, told))


@pytest.fixture(scope="module")
def engines(tmp_path_factory, job_for, run):
    """Both engines at once, to compare what they do with a folder.

    Each opens a hundred models that differ in one file, and each time searches all objects for remains of the previous
    model. Parts that do not differ are loaded once, and objects that exist by now are left out of the search.
    """
    pytest.importorskip("torch")
    pytest.importorskip("mlx")
    from locara_sidecar.engine.mlx_engine.families.family import MlxFamily
    from locara_sidecar.engine.torch_engine.families.diffusers_family import DiffusersFamily

    made = {name: make_runtime(name, tmp_path_factory.mktemp(name)) for name in ("torch", "mlx")}
    with sharing(DiffusersFamily, MlxFamily) as stop:
        for runtime, family in itertools.product(made.values(), FAMILIES):
            run(runtime, job_for(family, steps=1, precision="float32"))
        stop()
        gc.collect()
        gc.freeze()
        yield made
        gc.unfreeze()
