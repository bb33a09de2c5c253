"""Tries our own kernels on the device, and does without those that fail or compute wrong results.

**None of them was ever compiled by Metal or run on a GPU here.** The tests compile the same source as C++ and run it on
the processor (``tests/support/metal_source.py``). So each engine process tries a kernel on its device, against MLX's
own operations, before it uses it.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import mlx.core as mx

from locara_sidecar.engine.mlx_engine.device import settle

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    Use = TypeVar("Use", bound=Hashable)
else:
    Use = TypeVar("Use")

_logger = logging.getLogger(__name__)


class Trials(Generic[Use]):
    """The uses of a kernel that this process has tried: those that its device computes correctly, and the others.

    A use is whatever makes a difference to the kernel's code, such as the element type.

    :param what: what the kernels are for, for the log.
    :param difference: runs the kernels and MLX's own operations for a use, and returns the difference of their results.
    :param far: the difference from which on the kernels are not used.
    """

    def __init__(self, what: str, difference: Callable[[Use], float], far: float) -> None:
        self._what, self._difference, self._far = what, difference, far
        self._trusted: set[Use] = set()
        self._refused: set[Use] = set()

    def __contains__(self, use: Use) -> bool:
        """Whether the kernels are used in this way."""
        return use in self._trusted

    def trust(self, use: Use) -> None:
        """Use the kernels in this way from now on, untried."""
        self._trusted.add(use)
        self._refused.discard(use)

    def try_out(self, device: str, use: Use) -> bool:
        """Return whether the kernels are used in this way from now on; on Metal, try them first, once.

        If the device fails or its results differ, that is logged, and MLX's own operations are used for the rest of the
        process.
        """
        if device == "metal" and use not in self._trusted | self._refused:
            self._refused.add(use)  # until they pass
            try:
                apart = self._difference(use)
            except Exception as error:  # noqa: BLE001  (whatever it is, MLX's own operations remain)
                settle()
                said = str(error).strip().partition("\n")[0][:200]
                _logger.warning("the kernels for %s do not run on this device, MLX's do instead: %s", self._what, said)
                return False
            if not apart < self._far:  # NaN is not less either
                wrong = "the kernels for %s compute wrongly on this device (%g), MLX's run instead"
                _logger.warning(wrong, self._what, apart)
                return False
            self.trust(use)
        return use in self._trusted


def largest(differences: list[mx.array]) -> float:
    """Return the largest of all numbers; infinity if one is NaN."""
    far = mx.stack([values.max() for values in differences]).max()
    value: Any = far.item()
    return value if mx.isfinite(far).item() else float("inf")


@functools.cache
def metal_kernel(name: str, given: tuple[str, ...], made: tuple[str, ...], source: str) -> Any:
    """Return the function that runs a kernel; the same one for the same arguments."""
    return mx.fast.metal_kernel(f"locara_{name}", list(given), list(made), source)
