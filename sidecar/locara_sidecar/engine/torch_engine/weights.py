"""Tensors of a checked model folder (``engine/model_folder.py``) as torch modules, tensor by tensor.

Tensors are copied into fresh memory: a mapped file would tie results to its alignment and the process to the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors import safe_open as _safe_open

from locara_sidecar.engine import model_folder

if TYPE_CHECKING:
    from torch import nn

safe_open: Any = _safe_open


def read_tensors(
    component: model_folder.Component, dtype: torch.dtype | None, progress: model_folder.Progress
) -> dict[str, torch.Tensor]:
    """All tensors of a component in fresh memory; floating ones as ``dtype`` unless it is None.

    :raises EngineFault: IntegrityError for a tensor that cannot be read.
    :raises JobCancelled: between two tensors.
    """
    state: dict[str, torch.Tensor] = {}
    for path in component.files:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    tensor: torch.Tensor = file.get_tensor(key)
                    target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
                    state[key] = tensor.to(target, copy=True)
                    progress.advance(tensor.nbytes)
        except (SafetensorError, OSError) as error:
            raise model_folder.broken(f"{component.name}/{path.name}", "a tensor cannot be read") from error
    return state


def build_diffusers(
    cls: Any, component: model_folder.Component, dtype: torch.dtype, progress: model_folder.Progress
) -> nn.Module:
    """A diffusers model from its configuration and tensors, without initialising weights that are replaced anyway.

    :raises EngineFault: IntegrityError when configuration and tensors do not fit together.
    """
    with torch.device("meta"):
        model = cls.from_config(component.config)
    state = read_tensors(component, dtype, progress)
    missing, _ = model.load_state_dict(state, strict=False, assign=True)
    if missing:
        raise model_folder.broken(
            f"{component.name}/{component.files[0].name}", f"{len(missing)} tensors are missing, as {missing[0]}"
        )
    return model.eval().requires_grad_(False)


def build_transformers(
    cls: Any, component: model_folder.Component, dtype: torch.dtype, progress: model_folder.Progress
) -> nn.Module:
    """A transformers model the same way, through ``from_pretrained`` for its tied and renamed weights.

    In float16 the file's own type is handed over: T5 keeps some layers in float32 there.

    :raises EngineFault: IntegrityError when configuration and tensors do not fit together.
    """
    state = read_tensors(component, None if dtype == torch.float16 else dtype, progress)
    config = cls.config_class.from_dict(component.config)
    model, info = cls.from_pretrained(None, config=config, state_dict=state, dtype=dtype, output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise model_folder.broken(
            f"{component.name}/{component.files[0].name}", f"{len(missing)} tensors are missing, as {missing[0]}"
        )
    return model.eval().requires_grad_(False)
