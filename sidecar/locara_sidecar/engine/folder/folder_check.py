"""What both engines check when they open a folder, beyond what ``model_folder.py`` reads.

That is the types of its tensors, every member of its configurations, and that its components fit together, as far as
configurations and headers show. Nothing is computed, and no value is used to build anything before it was checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from locara_sidecar.engine.folder import config_check, part_sizes, tensor_check, tokenizer_check
from locara_sidecar.engine.folder.model_folder import broken, read_json
from locara_sidecar.machine.supported import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from locara_sidecar.engine.folder.model_folder import Component

INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
_OPTIONS = frozenset({"force_zeros_for_empty_prompt"})
_OPTIONS_WITHOUT_EFFECT = frozenset(
    {"add_watermarker", "requires_safety_checker", "is_distilled", "requires_aesthetics_score"}
)
_WITH_SHIFT = frozenset(
    row.pipeline for row in FAMILIES.values() if row.noise != "scaled" and row.autoencoder == "AutoencoderKL"
)


def checked(
    folder: Path, pipeline: str, found: Mapping[str, str], components: Sequence[Component], engine: str
) -> tuple[list[Component], dict[str, Any]]:
    """Return the components and the scheduler's configuration, with only the members that are read.

    :param pipeline: the family's own class of pipelines; the index may name another one with the same parts.
    :param found: the components that it names, and their classes.
    :param engine: the engine that opens the folder.
    :raises EngineError: ModelIncomplete or IntegrityError naming the file, and the tensor or member.
    """
    _require_index(read_json(folder, INDEX))
    scheduler = config_check.reduced(SCHEDULER, found["scheduler"], read_json(folder, SCHEDULER), engine)
    kept = [_component(component, engine) for component in components]
    configs = {component.name: component.config for component in kept}
    part_sizes.require_fit(pipeline, configs)
    if pipeline in _WITH_SHIFT:  # pipelines that compute with it even if it is absent
        configs["vae"]["shift_factor"] = configs["vae"].get("shift_factor") or 0.0
    tokenizer_check.check(folder, found, configs)
    return kept, _spaced(scheduler)


def _require_index(index: Mapping[str, Any]) -> None:
    """Reject unknown members: whatever is not a component is an option of the pipeline, and there are few of these.

    :raises EngineError: IntegrityError.
    """
    if index.get("is_distilled") is False:  # a FLUX.2 [klein] that was made to run with guidance
        raise broken(INDEX, "its is_distilled is false, and models that need guidance are not run in this family")
    if index.get("requires_aesthetics_score"):  # SDXL's refiner
        raise broken(INDEX, "its model takes a score of how beautiful the picture is to be, which is not run")
    for name, value in index.items():
        if isinstance(value, list) or value is None or name.startswith("_") or name in _OPTIONS_WITHOUT_EFFECT:
            continue
        if name not in _OPTIONS or not isinstance(value, bool):
            raise broken(INDEX, f"its member {name[:64]!r} is not known and may change pictures")


def _component(component: Component, engine: str) -> Component:
    file = f"{component.name}/config.json"
    config = config_check.reduced(file, component.class_name, component.config, engine)
    tensors = tensor_check.check(component, prepared=config_check.PREPARED in config)
    if part_sizes.layers(component.class_name, config) > len(tensors):
        raise broken(file, "it does not match the weights beside it: it has more layers than they have tensors")
    return msgspec.structs.replace(component, config=config)


def _spaced(scheduler: dict[str, Any]) -> dict[str, Any]:
    """Check the scheduler's spacing.

    :raises EngineError: IntegrityError for members that contradict each other.
    """
    ways = [name for name in ("use_karras_sigmas", "use_exponential_sigmas") if scheduler.get(name)]
    if len(ways) > 1:
        raise broken(SCHEDULER, f"it has both {ways[0]} and {ways[1]}")
    if scheduler.get("use_dynamic_shifting"):
        short, long = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
        if short == long:
            raise broken(SCHEDULER, "its base_image_seq_len and max_image_seq_len must differ")
    low, high = scheduler.get("sigma_min"), scheduler.get("sigma_max")
    if low is not None and high is not None and low >= high:
        raise broken(SCHEDULER, "its sigma_min must be less than its sigma_max")
    return scheduler
