"""A simulated GPU: torch's fake tensors on it, and bitsandbytes' own Python code for it instead of the native library.

A fake tensor has a type, a shape and a device, but no contents. torch treats it as it does for a compiler: it derives
the same for the result, and refuses any mix of two devices or types. A build of torch without the device refuses
earlier in a few places; those checks are disabled here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Self
from unittest.mock import MagicMock

import bitsandbytes
import torch
from bitsandbytes import cextension
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from locara_sidecar.engine.torch_engine import environment

MODE = FakeTensorMode()
"""Pretended tensors are made and computed with inside of this; one for all, since the library keeps some of them."""


def on(device: str, tree: Any) -> Any:
    """Pretended tensors on ``device`` in the place of all tensors of a tree."""
    return tree_map_only(torch.Tensor, lambda tensor: MODE.from_tensor(tensor).to(device), tree)


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Played(TorchDispatchMode):
    """Within the block, the library's operations are those of ``device`` (cuda or mps), no native code runs, a kernel
    gets no address in other memory, and MPS, which has no float64, gets none. Torch's own checks are disabled.

    :param monkeypatch: for changes to the library, which last until the end of the test.
    """

    def __init__(self, device: str, monkeypatch: Any) -> None:
        super().__init__()
        self.used: set[str] = set()
        self._device = device
        self._doors = _Doors()
        self._found: dict[str, Any] = {}
        monkeypatch.setattr(bitsandbytes._ops, "register_kernel", self._collect)
        monkeypatch.setattr(cextension, "lib", MagicMock())
        monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 0, raising=False)
        monkeypatch.setattr(FakeTensor, "data_ptr", _address_on(device))
        for part in ("default", device):
            path = Path(bitsandbytes.__file__).parent / "backends" / part / "ops.py"
            spec = importlib.util.spec_from_file_location(f"bitsandbytes.backends.{part}.played", path)
            assert spec is not None
            assert spec.loader is not None
            module: Any = importlib.util.module_from_spec(spec)
            with environment.uncompiled():
                spec.loader.exec_module(module)
            if part == "cuda":
                module._gpu_dispatch_props = lambda index: (132, 9, 0)  # an H100's

    def __enter__(self) -> Self:
        self._doors.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._doors.__exit__(*error)

    def _collect(self, name: str, kind: str) -> Any:
        def keep(function: Any) -> Any:
            self._found[name.removeprefix("bitsandbytes::")] = function
            return function

        return keep

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = func.name().partition("::")
        if namespace == "bitsandbytes":
            self.used.add(name)
            with self:
                return self._found[name](*args, **kwargs or {})
        result = func(*args, **kwargs or {})
        if self._device == "mps":
            assert all(x.dtype != torch.float64 for x in tensors(result) if x.device.type != "cpu"), func
        return result


class _Doors(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        through: Any = _DOORS.get(func, func)
        return through(*args, **kwargs or {})


def _address_on(device: str) -> Any:
    def data_ptr(tensor: torch.Tensor) -> int:
        assert tensor.device.type == device, "a kernel gets an address in another memory"
        return 0

    return data_ptr


def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    wanted = {name: value for name, value in kwargs.items() if name != "copy"}
    device, dtype, *_ = torch._C._nn._parse_to(*args, **wanted)  # pyright: ignore[reportAttributeAccessIssue] -- no stub has it
    if not isinstance(tensor, FakeTensor) or device is None or device.type == tensor.device.type:
        return tensor.to(*args, **kwargs)
    return torch.ops.aten._to_copy(tensor, device=device, dtype=dtype or tensor.dtype)


def _contiguous(tensor: torch.Tensor, *, memory_format: Any = torch.contiguous_format) -> torch.Tensor:
    return torch.ops.aten.clone(tensor, memory_format=memory_format)


def _item(tensor: Any, index: Any) -> Any:
    if not isinstance(tensor, FakeTensor) or tensor.device.type == "cpu":
        return tensor[index]
    places = [x.device.type for x in tensors(index)]
    assert all(place == tensor.device.type for place in places), places
    with unset_fake_temporarily():
        bare = tree_map_only(torch.Tensor, _without_contents, (tensor, index))
        part = bare[0][bare[1]]
    return FakeTensor(tensor.fake_mode, part, tensor.device)


def _set_item(tensor: Any, index: Any, value: Any) -> None:
    if isinstance(tensor, FakeTensor):
        torch.ops.aten.copy_(_item(tensor, index), value)
    else:
        tensor[index] = value


def _without_contents(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _attention(query: Any, key: Any, value: Any, attn_mask: Any = None, **_: Any) -> Any:
    scores = query @ key.transpose(-2, -1)
    return (scores if attn_mask is None else scores + attn_mask).softmax(-1).to(value.dtype) @ value


_DOORS = {
    torch.Tensor.to: _to,
    torch.Tensor.contiguous: _contiguous,
    torch.Tensor.__getitem__: _item,
    torch.Tensor.__setitem__: _set_item,
    functional.scaled_dot_product_attention: _attention,
}
"""Where a build of torch without the device stops, and what leads on."""
