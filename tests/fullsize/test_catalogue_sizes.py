"""The catalogue's sizes, on which models.list bases its answers, are those of diffusers' and transformers' classes."""

import math
import re

import pytest

from locara_sidecar.machine import supported
from locara_sidecar.models import catalogue

pytestmark = pytest.mark.torch

KNOWN = catalogue.load()


def within(name, read):
    """Whether a tensor is outside the layers of a text encoder that are not read."""
    layer = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    return read is None or layer is None or int(layer[1]) < read


@pytest.mark.parametrize("model", ["flux.1-schnell", "sd3.5-medium", "sd3.5-large", "z-image-turbo", "flux.2-klein-4b"])
def test_components_have_the_published_number_of_parameters(model):
    import torch
    import transformers

    from locara_sidecar.engine.torch_engine.tensors import quantization
    from support import synthetic
    from support import synthetic_models as models

    family = supported.FAMILIES[KNOWN.get(model).family]
    for part in KNOWN.get(model).components:
        published = models.PARTS[model][part.name]
        read = (
            family.layers_read(published.config["num_hidden_layers"])
            if part.role == "encoder" and family.taps
            else None
        )
        expected = sum(math.prod(shape) for name, shape in synthetic.shapes(published).items() if within(name, read))
        assert part.parameters == pytest.approx(expected, rel=0.01), part.name
        if part.role == "decoder":
            continue
        with torch.device("meta"):
            if published.library == "diffusers":
                import diffusers

                module = getattr(diffusers, published.class_name).from_config(published.config)
                config = published.config
                width = config.get("dim") or config["num_attention_heads"] * config["attention_head_dim"]
                assert part.width == width
            else:
                cls = getattr(transformers, published.class_name)
                module = cls(cls.config_class.from_dict(published.config))
        layers = quantization.candidates(module).items()
        counted = sum(linear.weight.numel() for name, linear in layers if within(name, read))
        assert part.quantizable == counted, part.name
