"""Which of the files in a component's folder are its weights: one file, or the shards that an index names.

People have folders with several: float32 and float16 side by side, one file beside shards. The order is that of the
library that saved the component. transformers (``model``) takes one file before shards, diffusers
(``diffusion_pytorch_model``) shards before one file. A *variant* is taken where nothing without one is there, as from
a repository that was downloaded with ``variant="fp16"`` only.
"""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

STEMS = ("model", "diffusion_pytorch_model")
VARIANTS = ("fp16", "bf16")
"""In the order in which they are taken; people's own marks, such as ``non_ema``, say nothing about a precision."""


def choose(stem: str, names: Collection[str]) -> str | None:
    """The file by which the weights are found, the only one or the index of the shards; None where there is none.

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
    """The files of the first variant that is there, its shards and index included."""
    for mark in VARIANTS:
        patterns = [f"{stem}.{mark}.safetensors", f"{stem}.{mark}-*.safetensors", f"{stem}-*.{mark}.safetensors"]
        patterns += [f"{stem}.safetensors.index.{mark}.json", f"{stem}.safetensors.{mark}.index.json"]
        found = [name for name in sorted(names) if any(fnmatch.fnmatchcase(name, each) for each in patterns)]
        if any(name.endswith(".safetensors") for name in found):
            return found
    return []


def is_index(name: str) -> bool:
    """Whether a file's name is that of an index of shards, of any variant."""
    return name.endswith(".json") and "index" in name.split(".")[-3:]
