"""Which files of a component are its weights, in the libraries' own order of preference."""

import pytest

from locara_sidecar.weights import weight_files

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HALF, HALF_INDEX = "model.fp16.safetensors", "model.safetensors.index.fp16.json"


def of_diffusers(name):
    return name.replace("model", "diffusion_pytorch_model")


@pytest.mark.parametrize(
    ("names", "transformers", "diffusers"),
    [
        ([SINGLE], SINGLE, SINGLE),
        ([INDEX], INDEX, INDEX),
        ([INDEX, SINGLE], SINGLE, INDEX),
        ([HALF, SINGLE], SINGLE, SINGLE),
        ([HALF, INDEX], INDEX, INDEX),
        ([HALF], HALF, HALF),
        ([HALF_INDEX, HALF], HALF, HALF_INDEX),
        (
            ["model.safetensors.fp16.index.json"],
            "model.safetensors.fp16.index.json",
            "model.safetensors.fp16.index.json",
        ),
        (["model.bf16.safetensors", HALF], HALF, HALF),
        (["model.bf16.safetensors"], "model.bf16.safetensors", "model.bf16.safetensors"),
        (["model.non_ema.safetensors", "model.bin", "config.json"], None, None),
    ],
)
def test_the_weights_are_those_that_the_library_itself_takes(names, transformers, diffusers):
    assert weight_files.choose("model", names) == transformers
    expected = diffusers and of_diffusers(diffusers)
    assert weight_files.choose("diffusion_pytorch_model", [of_diffusers(name) for name in names]) == expected


def test_a_variants_files_are_its_shards_and_its_index_and_no_others():
    sharded = [f"model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    older = [f"model-0000{i}-of-00002.fp16.safetensors" for i in (1, 2)]
    others = [SINGLE, INDEX, "model-00001-of-00002.safetensors", "model.bf16.safetensors", "config.json"]
    assert weight_files.variant_files("model", [*sharded, HALF_INDEX, *others]) == sorted([*sharded, HALF_INDEX])
    assert weight_files.variant_files("model", [*older, *others]) == older
    assert weight_files.variant_files("model", others) == ["model.bf16.safetensors"]
    assert weight_files.variant_files("model", [HALF_INDEX, SINGLE]) == []


@pytest.mark.parametrize("name", [INDEX, HALF_INDEX, "model.safetensors.fp16.index.json"])
def test_an_index_is_known_by_its_name(name):
    assert weight_files.is_index(name)
    assert not weight_files.is_index(name.replace(".index", "_index"))
