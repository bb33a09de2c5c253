"""Which of the files in a component's folder are its weights: a single file, or the shards listed in an index.

A folder may have several: float32 next to float16, a single file next to shards. The order of preference is that of the
library that saved the component: transformers (``model``) prefers a single file to shards, diffusers
(``diffusion_pytorch_model``) shards to a single file. A *variant* is used only if nothing else is there, as after a
download with ``variant="fp16"``.
"""

from __future__ import annotations

import fnmatch
import os
from typing import TYPE_CHECKING

from locara_sidecar.machine.processes.trees import files_below

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

STEMS = ("model", "diffusion_pytorch_model")
VARIANTS = ("fp16", "bf16")
"""In order of preference. Other marks, such as ``non_ema``, say nothing about the precision."""


def choose(stem: str, names: Collection[str]) -> str | None:
    """Return the file that leads to the weights: the single file or the index of the shards; None if there is neither.

    :param stem: one of :data:`STEMS`.
    :param names: the files in the component's folder.
    """
    for variant in ("", *VARIANTS):
        mark = f".{variant}" if variant else ""
        # diffusers up to 0.30 put the mark before the word "index"
        indexes = [f"{stem}.safetensors.index{mark}.json", f"{stem}.safetensors{mark}.index.json"]
        single = [f"{stem}{mark}.safetensors"]
        for name in single + indexes if stem == STEMS[0] else indexes + single:
            if name in names:
                return name
    return None


def variant_files(stem: str, names: Collection[str]) -> list[str]:
    """Return the files of the first variant that is present, with its shards and index."""
    for mark in VARIANTS:
        patterns = [f"{stem}.{mark}.safetensors", f"{stem}.{mark}-*.safetensors", f"{stem}-*.{mark}.safetensors"]
        patterns += [f"{stem}.safetensors.index.{mark}.json", f"{stem}.safetensors.{mark}.index.json"]
        found = [name for name in sorted(names) if any(fnmatch.fnmatchcase(name, each) for each in patterns)]
        if any(name.endswith(".safetensors") for name in found):
            return found
    return []


def is_index(name: str) -> bool:
    """Whether a file name is that of an index of shards, of any variant."""
    return name.endswith(".json") and "index" in name.split(".")[-3:]


def stored_bytes(folder: Path) -> int:
    """Return the size of a model's weights on disk; 0 if unknown."""
    try:
        return sum(os.stat(path).st_size for path in files_below(folder) if path.endswith(".safetensors"))
    except OSError:
        return 0
