"""Parity of the MLX engine with diffusers and transformers: the tolerances, in one table, and what measures them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

TOLERANCES = {
    # one call in float32: the largest difference, as a part of the largest reference value
    "text encoder": 1e-4,
    "transformer": 1e-4,
    "vae encode": 1e-4,
    "vae decode": 1e-4,
    "sigmas": 1e-6,
    # a whole run in float32
    "final latent": 1e-3,
    # mean absolute difference of 8-bit pixels
    "final image": 0.5,
    "final image, pocket": 1.0,
}


def error(ours: Any, theirs: Any) -> float:
    """Return the largest difference of two arrays (MLX, torch or NumPy), as a fraction of the largest value of
    ``theirs``."""
    mine, reference = _floats(ours), _floats(theirs)
    assert mine.shape == reference.shape
    assert np.isfinite(reference).all()
    assert np.isfinite(mine).all()
    return float(np.abs(mine - reference).max() / np.abs(reference).max())


def pixel_difference(ours: Any, theirs: Any) -> float:
    """Return the mean absolute difference of two pictures of the same size, in 8-bit steps."""
    mine, reference = _floats(ours), _floats(theirs)
    assert mine.shape == reference.shape
    return float(np.abs(mine - reference).mean())


def randomise(model: Any, seed: int = 0) -> Any:
    """Give every parameter of a torch model a value that matters: norms and biases start as ones and zeros."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * noise + float(name.endswith("weight")))
    return model.eval()


def cast(model: Any, dtype: Any) -> Any:
    """Convert all parameters of an MLX model to ``dtype``; return the model."""
    from mlx.utils import tree_map

    model.update(tree_map(lambda value: value.astype(dtype), model.parameters()))
    return model


def save(model: Any, folder: Path, name: str, shard: str | int = "10GB") -> Any:
    """Write a torch model as the component ``name`` of ``folder``; return our reader's description of it."""
    from locara_sidecar.engine.folder import model_folder

    model.save_pretrained(folder / name, max_shard_size=shard)
    stem = "model" if (folder / name / "config.json").read_text().find("architectures") >= 0 else None
    config = json.loads((folder / name / "config.json").read_text())
    return model_folder.read_component(folder, name, config.get("_class_name", ""), stem or "diffusion_pytorch_model")


def build(model_type: Any, component: Any, **options: Any) -> Any:
    """Build an MLX model of a component, in float32."""
    import mlx.core as mx

    from locara_sidecar.engine.folder.model_folder import Progress
    from locara_sidecar.engine.mlx_engine.tensors import weights

    progress = Progress(component.size, lambda _: None, lambda: None)
    return weights.build(model_type, component, mx.float32, progress, **options)


def _floats(value: Any) -> Any:
    if hasattr(value, "detach"):
        value = value.detach().numpy()
    return np.asarray(value, dtype=np.float64)
