"""The catalogue's sizes, on which models.list bases its answers, are those of diffusers' and transformers' classes."""

import pytest

from locara_sidecar.models import catalogue

pytestmark = pytest.mark.torch

KNOWN = catalogue.load()


@pytest.mark.parametrize("model", ["flux.1-schnell", "sd3.5-medium", "sd3.5-large", "z-image-turbo"])
def test_components_have_the_published_number_of_parameters(model):
    import torch
    import transformers

    from locara_sidecar.engine.torch_engine.tensors import quantization
    from support import synthetic
    from support import synthetic_models as models

    for part in KNOWN.get(model).components:
        published = models.PARTS[model][part.name]
        assert part.parameters == pytest.approx(synthetic.count(published), rel=0.01), part.name
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
        counted = sum(linear.weight.numel() for linear in quantization.candidates(module).values())
        assert part.quantizable == counted, part.name
