"""Check the tensors of a component from its files' headers alone: no tensor is read, nothing heavy is imported.

Weights are floating-point numbers. Each width that safetensors supports is used as it is, widened by the engines, or
rejected by name. Anything else (integers, scales next to narrow types, parts of an adapter) was quantized or packed in
a library's own format, and would give noise if used directly.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from locara_sidecar.engine.folder.model_folder import broken

if TYPE_CHECKING:
    from pathlib import Path

    from locara_sidecar.engine.folder.model_folder import Component
    from locara_sidecar.ipc.errors import EngineError

TAKEN = frozenset({"F32", "F16", "BF16"})
WIDENED = frozenset({"F64", "F8_E4M3", "F8_E5M2"})
"""Widths that are converted: float64 to float32, and 8 bits to a type that represents all their values."""
REFUSED = {
    "F4": "4-bit floating point, which needs scales",
    "F6_E2M3": "6-bit floating point, which needs scales",
    "F6_E3M2": "6-bit floating point, which needs scales",
    "F8_E8M0": "powers of two, which scale other numbers",
    "F8_E4M3FNUZ": "an 8-bit format that only some accelerators have",
    "F8_E5M2FNUZ": "an 8-bit format that only some accelerators have",
    "C64": "complex numbers",
    **dict.fromkeys(("BOOL", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"), "not floating-point numbers"),
}
_POSITIONS = "position_ids"
"""Position ids in older files of text encoders; every reader computes its own."""
COUNTED = "num_batches_tracked"
"""How often an autoencoder's statistics were updated in training; no picture depends on it, and it may be absent."""
_PACKED = ".weight"
_WORDS = "U32"
"""MLX packs quantized weights as 32-bit words next to floating-point ``.scales`` and ``.biases``."""
_REMEDY = "; use an unquantized copy of the model, in float16, bfloat16 or float32"
_MARKS = [
    (re.compile(pattern), what)
    for pattern, what in {
        r"(^|[._])scaled_fp8$": "fp8 numbers with scales",
        r"[._](weight|input|output)_scale(_inv|_2)?$": "numbers with scales",
        r"[._]scale_(weight|input)$": "fp8 numbers with scales",
        r"\.comfy_quant$": "quantized layers",
        r"\.(SCB|weight_format)$": "8-bit bitsandbytes weights",
        r"\.(absmax|quant_map|nested_absmax|nested_quant_map)$|\.quant_state\.": "4-bit bitsandbytes weights",
        r"\.(qweight|qzeros|g_idx)$": "GPTQ or AWQ layers",
        r"\.(wscales|wzeros|smooth_factor(_orig)?|smooth|lora_up|lora_down|proj_up|proj_down|svd_up|svd_down)$": (
            "quantized layers with a separate correction"
        ),
        r"(^|[._])lora_(A|B|magnitude_vector|embedding_A|embedding_B)([._]|$)|\.base_layer\.": (
            "layers with a LoRA that has not been merged"
        ),
        r"\.(hada|lokr)_w[12]|\.dora_scale$": "layers of a LoRA",
        r"\.(weight_g|weight_v)$|\.parametrizations\.": "weights split into two parts",
    }.items()
]
"""Names of tensors that show that another library has quantized the weights or added an adapter."""
_SCALED = frozenset({"scale", "scales", "zero_point", "zeros"})
_METADATA = frozenset({"_quantization_metadata", "quantization_config", "quantization", "scaled_fp8"})


class Tensor(NamedTuple):
    """A tensor as described in the header of its file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """The offset of its first byte in the file."""
    size: int
    """In bytes."""


def headers(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a file's tensors by name, and its metadata. safetensors' own reader must accept the file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        read: dict[str, Any] = json.loads(file.read(length))
    metadata = cast("dict[str, str]", read.pop("__metadata__", None) or {})
    found: dict[str, Tensor] = {}
    for name, entry in read.items():
        begin, end = entry["data_offsets"]
        found[name] = Tensor(entry["dtype"], tuple(entry["shape"]), 8 + length + begin, end - begin)
    return found, metadata


def check(component: Component, *, prepared: bool = False) -> dict[str, Tensor]:
    """Return the component's tensors after checking that the engines can compute with them.

    :param prepared: whether its linear layers are packed as by MLX.
    :raises EngineError: IntegrityError naming file and tensor.
    """
    found: dict[str, Tensor] = {}
    for path in component.files:
        tensors, metadata = headers(path)
        file = f"{component.name}/{path.name}"
        if (marks := _METADATA & metadata.keys()) and not prepared:
            raise broken(file, f"its metadata has {min(marks)}: it is quantized in an unsupported form{_REMEDY}")
        for name, tensor in tensors.items():
            if fault := _fault(file, name, tensor, prepared=prepared):
                raise fault
        found |= tensors
    return found


def _fault(file: str, name: str, tensor: Tensor, *, prepared: bool) -> EngineError | None:
    if prepared and ((tensor.dtype == _WORDS and name.endswith(_PACKED)) or name.endswith((".scales", ".biases"))):
        return None
    if (what := next((what for mark, what in _MARKS if mark.search(name)), None)) is not None:
        return broken(file, f"its tensor {name} belongs to {what}, which are not supported{_REMEDY}")
    if name.rpartition(".")[2] in _SCALED:
        return broken(file, f"its tensor {name} is a scale of quantized numbers, which are not supported{_REMEDY}")
    if tensor.dtype in TAKEN or tensor.dtype in WIDENED or name.rpartition(".")[2] in (_POSITIONS, COUNTED):
        return None
    reason = REFUSED.get(tensor.dtype, "of an unknown type")
    return broken(file, f"its tensor {name} is {tensor.dtype}: {reason}{_REMEDY}")
