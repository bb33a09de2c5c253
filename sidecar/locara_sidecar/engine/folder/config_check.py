"""Check one configuration of a model member by member, and reduce it to what is read; see ``config_members.py``.

Both engines get their configurations from here, so that both reject the same values and interpret all others alike, and
no unchecked value reaches a library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from locara_sidecar.engine.folder.config_members import CLASSES
from locara_sidecar.engine.folder.model_folder import broken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from locara_sidecar.engine.folder.config_members import Members

QUANTIZED = ("quantization_config", "compression_config")
"""Members that show that a library quantized the weights in its own format."""
PREPARED = "quantization"
"""Marks a component that was prepared for MLX."""
_WRITTEN_OUT = "_use_default_values"
"""Lists members that were left at the class's defaults when the file was written, and that contain those defaults.

diffusers ignores their values, so that a class with other defaults uses its own.
"""


def reduced(file: str, class_name: str, config: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """Return the members of ``config`` that are read, in their plainest form; all members if the class is not known.

    :param file: its name in the model's folder, for messages.
    :raises EngineError: IntegrityError naming file and member.
    """
    _refuse_quantized(file, config)
    kept = _prepared(file, config, engine)
    known = CLASSES.get(class_name)
    if known is None:
        return dict(config)
    written_out = _written_out(file, config) if _WRITTEN_OUT in known.harmless else []
    for name, value in config.items():
        if name in written_out:
            continue
        if name in known.read:
            kept[name] = _read(file, known, name, value)
        elif name not in known.harmless and name not in (PREPARED, *QUANTIZED) and value is not None:
            raise broken(file, f"its member {name[:64]!r} is not known for {class_name} and may change pictures")
    for name, repeated in known.repeated(kept).items():
        if config.get(name) not in (None, repeated):
            raise broken(file, f"its {name} is {_shown(config[name])}, but its other members say {_shown(repeated)}")
    _require_runs(file, known, engine, kept)
    return kept


def _refuse_quantized(file: str, config: Mapping[str, Any]) -> None:
    for name in QUANTIZED:
        if config.get(name) is not None:
            raise broken(
                file,
                f"its {name} says that the weights are quantized in an unsupported form; use an unquantized copy of"
                " the model",
            )


def _require_runs(file: str, known: Members, engine: str, kept: Mapping[str, Any]) -> None:
    for name, runs in known.runs.get(engine, {}).items():
        if name in kept and not runs(kept[name]):
            what = f"the {engine} engine cannot run its {name} of {_shown(kept[name])}; the torch engine can"
            raise broken(file, what)


def _read(file: str, known: Members, name: str, value: Any) -> Any:
    try:
        return known.read[name](value)
    except ValueError as error:
        raise broken(file, f"its {name} is {_shown(value)} but must be {error}") from error


def _written_out(file: str, config: Mapping[str, Any]) -> list[str]:
    names = config.get(_WRITTEN_OUT)
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in cast("list[Any]", names)):
        raise broken(file, f"its {_WRITTEN_OUT} is {_shown(names)} but must be names of members")
    return cast("list[str]", names)


def _prepared(file: str, config: Mapping[str, Any], engine: str) -> dict[str, Any]:
    prepared = config.get(PREPARED)
    if prepared is None:
        return {}
    if engine != "mlx":
        raise broken(file, "its weights were quantized for the mlx engine; other engines cannot read them")
    match prepared:
        case {"bits": int(), "group_size": int()}:
            return {PREPARED: prepared}
        case _:
            raise broken(file, f"its {PREPARED} is {_shown(prepared)} and must have bits and group_size")


def _shown(value: Any) -> str:
    words = "null" if value is None else repr(value)
    return words if len(words) <= 80 else f"{words[:77]}..."
