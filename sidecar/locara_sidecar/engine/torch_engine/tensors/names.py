"""Map the names of tensors in a file to a module, including names that older libraries wrote.

The rules are the same by which transformers 5 and diffusers 0.42 read such files:

- transformers 4 wrote every tensor of a bare CLIP encoder as ``text_model.…``. Any encoder may have been saved from a
  larger model, with its prefix (``clip.…``, ``transformer.…``), or from a smaller one, without.
- diffusers up to 0.16 named the layers of an autoencoder's attention ``query``, ``key``, ``value`` and ``proj_attn``.
- What a module does not save (such as CLIP's position ids, which files from transformers before 4.31 contain) is not
  read either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from transformers.modeling_utils import PreTrainedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_PREFIX = "text_model"


class TensorLocation(NamedTuple):
    """The module that owns a tensor, the module's path, and the tensor's name in it."""

    owner: nn.Module
    path: str
    name: str


class TensorLocations:
    """The locations of one module's tensors."""

    def __init__(self, module: nn.Module) -> None:
        self._owners: dict[str, nn.Module] = dict(cast("Any", module).named_modules())
        self._paths = {path: path for path in self._owners} | _old_attention(self._owners)
        own = str(module.base_model_prefix) if isinstance(module, PreTrainedModel) else ""
        self._larger = tuple(f"{prefix}." for prefix in dict.fromkeys((_OLD_PREFIX, own)) if own and prefix)
        self._smaller = f"{own}." if own else ""

    def find(self, key: str) -> TensorLocation | None:
        """Return where the file's tensor ``key`` belongs, or None if the module has no place for it."""
        path, _, name = key.rpartition(".")
        found = self._paths.get(path)
        while found is None and (prefix := next((each for each in self._larger if path.startswith(each)), None)):
            path = path.removeprefix(prefix)
            found = self._paths.get(path)
        if found is None:
            found = self._paths.get(self._smaller + path)
        if found is None:
            return None
        unsaved = cast("Any", self._owners[found])._non_persistent_buffers_set  # noqa: SLF001 -- torch exposes it nowhere else
        if name in unsaved:
            return None
        return TensorLocation(self._owners[found], found, name)


def _old_attention(owners: Mapping[str, nn.Module]) -> dict[str, str]:
    """Map old paths of attention layers to current ones; diffusers marks the blocks that were renamed."""
    marked = [path for path, owner in owners.items() if getattr(owner, "_from_deprecated_attn_block", False)]
    return {f"{path}.{old}": f"{path}.{new}" for path in marked for old, new in _OLD_ATTENTION.items()}
