"""Which engines are installed, and which one ``--engine auto`` means. Imports none of them to find out."""

from __future__ import annotations

import importlib.util
import os
import sys

from locara_protocol.errors import RpcError
from locara_protocol.messages import EngineInfo

_NEEDS = {
    "mlx": ("mlx", "tokenizers", "safetensors", "numpy"),
    "torch": ("torch", "diffusers", "transformers"),
}


def on_apple_silicon() -> bool:
    """Whether this is a Mac that MLX is made for. An interpreter for Intel, translated, counts as one for Intel: there
    is no MLX for it."""
    return sys.platform == "darwin" and os.uname().machine == "arm64"


def choose_engine(asked: str) -> str:
    """The engine that ``--engine`` means on this machine; of two, one that is installed."""
    if asked != "auto":
        return asked
    first, second = _preferred()
    return second if missing(first) and not missing(second) else first


def engines(active: str, device: str | None, note: str | None = None) -> list[EngineInfo]:
    """Every engine of this version. ``device`` and ``note``: what the running engine ``active`` has told, if it has."""
    real = [_engine(name, device, note) if name == active else _engine(name, None, None) for name in _NEEDS]
    fake = EngineInfo(
        name="fake",
        available=True,
        reason="Draws test pictures without a model; chosen only by --engine fake.",
        device="cpu",
    )
    return [*real, fake]


def installed() -> list[str]:
    """The engines that draw with models and whose packages are there."""
    return [name for name in _NEEDS if not missing(name)]


def require_preparing(name: str) -> None:
    """:raises RpcError: EngineUnavailable for an engine that keeps no prepared models."""
    if name != "mlx":
        message = f"The {name} engine keeps no prepared models; only mlx does."
        if name == "torch":
            message = "The torch engine keeps no prepared models: it quantizes them while it loads them. Only mlx does."
        raise RpcError("EngineUnavailable", message, engine=name)


def missing(name: str) -> list[str]:
    """The packages that an engine needs and that are not there."""
    return [module for module in _NEEDS[name] if importlib.util.find_spec(module) is None]


def _preferred() -> tuple[str, str]:
    return ("mlx", "torch") if on_apple_silicon() else ("torch", "mlx")


def _engine(name: str, device: str | None, note: str | None) -> EngineInfo:
    if absent := missing(name):
        reason = f"Not installed: {', '.join(absent)}. Install locara-sidecar[{name}]."
        return EngineInfo(name=name, available=False, reason=reason)
    words = (
        ["Installed.", *([note] if note else [])] if device else ["Installed; its device is known once it has started."]
    )
    if choose_engine("auto") != name:
        words.append("Chosen only by name.")
    elif _preferred()[0] != name:
        words.append(f"Chosen by auto: {_preferred()[0]} is not installed.")
    elif name == "mlx":
        words.append("Chosen by auto, as on every Mac with Apple silicon.")
    else:
        words.append("Chosen by auto; mlx is chosen on Apple silicon only.")
    return EngineInfo(name=name, available=True, reason=" ".join(words), device=device)
