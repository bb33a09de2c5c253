"""Which engines are installed, and which one ``--engine auto`` means; found out without importing any of them."""

from __future__ import annotations

import importlib.util
import os
import sys

from locara_protocol.errors import RpcError
from locara_protocol.messages import EngineInfo
from locara_sidecar.machine import bundle
from locara_sidecar.machine.supported import ENGINES

_DRAWING = tuple(row for row in ENGINES.values() if row.draws_models)


def on_apple_silicon() -> bool:
    """Whether this is a Mac that supports MLX. An Intel interpreter, running translated, counts as Intel, because there
    is no MLX for it.
    """
    return sys.platform != "win32" and sys.platform == "darwin" and os.uname().machine == "arm64"


def choose_engine(asked: str) -> str:
    """Return the engine that ``--engine`` means on this machine; of several, one that is installed."""
    if asked != "auto":
        return asked
    return next(iter(installed()), preferred()[0])


def engines(active: str, device: str | None, note: str | None = None) -> list[EngineInfo]:
    """Return every engine of this version. ``device`` and ``note``: what the running engine ``active`` has
    reported, if any.
    """
    real = [_engine(row.name, *((device, note) if row.name == active else (None, None))) for row in _DRAWING]
    fake = EngineInfo(
        name="fake",
        available=True,
        reason="Draws test pictures without a model; chosen only by --engine fake.",
        device="cpu",
    )
    return [*real, fake]


def installed() -> list[str]:
    """Return the engines that draw with models and whose packages are installed; first the one that ``auto``
    selects.
    """
    return [name for name in preferred() if not missing(name)]


def asked_about_folders(name: str) -> list[str]:
    """Return the engines that must be able to open a model before it is installed: the active one; none if that is the
    fake one, which needs no model, or if its packages are missing.
    """
    return [name] if name in installed() else []


def require_preparing(name: str) -> None:
    """Check that an engine supports prepared models.

    :raises RpcError: EngineUnavailable if it does not.
    """
    row = ENGINES[name]
    if not row.keeps_prepared:
        able = " and ".join(each.name for each in _DRAWING if each.keeps_prepared)
        why = f": {row.unprepared}. Only {able} does." if row.unprepared else f"; only {able} does."
        raise RpcError("EngineUnavailable", f"The {name} engine does not support prepared models{why}", engine=name)


def missing(name: str) -> list[str]:
    """Return the packages that an engine needs but that are not installed."""
    return [module for module in ENGINES[name].packages if importlib.util.find_spec(module) is None]


def preferred() -> list[str]:
    """Return the engines that draw with models, installed or not; first the one made for this machine."""
    apple = on_apple_silicon()
    return [row.name for row in sorted(_DRAWING, key=lambda row: row.apple != apple)]


def _engine(name: str, device: str | None, note: str | None) -> EngineInfo:
    if absent := missing(name):
        how = bundle.how_to_have(name)
        reason = f"Not installed: {', '.join(absent)}. {how[0].upper()}{how[1:]}."
        return EngineInfo(name=name, available=False, reason=reason)
    words = (
        ["Installed.", *([note] if note else [])] if device else ["Installed; its device is known once it has started."]
    )
    if choose_engine("auto") != name:
        words.append("Chosen only by name.")
    elif preferred()[0] != name:
        words.append(f"Chosen by auto: {preferred()[0]} is not installed.")
    else:
        words.append(ENGINES[name].chosen)
    return EngineInfo(name=name, available=True, reason=" ".join(words), device=device)
