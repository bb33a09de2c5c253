"""Models that differ in one part share the others, which are loaded once: only the differing part matters to a test."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from locara_sidecar.engine.folder.model_folder import Component


def _same(family: Any, component: Component) -> tuple[Any, ...]:
    """Return what a loaded component depends on; the autoencoder affects what MLX keeps of a table."""
    files = [(file.stat().st_dev, file.stat().st_ino) for file in component.files]
    configs = [json.dumps(one.config, sort_keys=True) for one in (component, family._components["vae"])]
    return type(family).__name__, component.name, *configs, *files


@contextlib.contextmanager
def sharing(*families: Any) -> Generator[Callable[[], None]]:
    """Share components between models of these base classes within the block, if files, configuration, type and device
    are the same. Yield a function that stops keeping further components.
    """
    kept: dict[tuple[Any, ...], Any] = {}
    shells: dict[tuple[Any, ...], Any] = {}
    keeping = True

    def build_of(base: Any) -> Any:
        original = base._build

        def build(self: Any, name: str, progress: Any) -> Any:
            key = base, self._context.dtype, *_same(self, self._components[name])
            if key in kept:
                return kept[key]
            made = original(self, name, progress)
            if keeping:
                kept[key] = made
            return made

        return build

    def shell_of(base: Any) -> Any:
        original = base._shell

        def shell(self: Any, name: str) -> Any:
            if hasattr(self, "_shells"):  # this one is for filling
                return original(self, name)
            key = base, self._context.dtype, *_same(self, self._components[name])
            if key in shells:
                return shells[key]
            made = original(self, name)
            if keeping:
                shells[key] = made
            return made

        return shell

    def stop() -> None:
        nonlocal keeping
        keeping = False

    before = [
        (base, name, vars(base)[name]) for base in families for name in ("_build", "_shell") if name in vars(base)
    ]
    for base, name, _ in before:
        setattr(base, name, build_of(base) if name == "_build" else shell_of(base))
    try:
        yield stop
    finally:
        for base, name, original in before:
            setattr(base, name, original)
