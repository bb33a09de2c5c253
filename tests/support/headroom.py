"""The MLX engine's transformers without what keeps float16 within its range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


def without_headroom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable it until the test ends: float16 is then used throughout."""
    from locara_sidecar.engine.mlx_engine.denoisers import headroom

    def restored(layer: Any, x: Any) -> Any:
        return layer(x)

    def undivided(product: Any, layer: Any) -> Any:
        return product + layer["bias"] if "bias" in layer else product

    for name in ("summed", "less"):
        monkeypatch.setattr(headroom, name, lambda x: x)
    monkeypatch.setattr(headroom, "restored", restored)
    monkeypatch.setattr(headroom, "undivided", undivided)
