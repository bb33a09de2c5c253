"""Read a checked model folder (``engine/folder/model_folder.py``) into MLX modules, tensor by tensor.

``mx.load`` accepts inconsistent headers, so it only gets files that safetensors' own reader has accepted. It returns
lazy arrays: a tensor's bytes are read when it is evaluated, into fresh memory. (MLX 0.32 maps no files, and takes no
foreign memory without a copy: ``mx.from_dlpack(…, copy=False)`` rejects main memory. So a prepared form is not mapped
either, but read straight into its final arrays, with nothing converted or quantized.) Each tensor is renamed,
converted, quantized if requested, and evaluated before the next one is read, so that peak memory is the result plus one
tensor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast

import mlx.core as mx
import msgspec
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from locara_sidecar.engine.folder import tensor_check
from locara_sidecar.engine.folder.model_folder import broken, tensors_missing
from locara_sidecar.engine.mlx_engine.device import fault as named_fault
from locara_sidecar.engine.mlx_engine.tensors import tensor_files

if TYPE_CHECKING:
    from pathlib import Path

    from locara_sidecar.engine.folder.model_folder import Component, Progress

Named = Iterable[tuple[str, mx.array]]
_WRONG = (ValueError, TypeError, IndexError, KeyError, ArithmeticError, RuntimeError)
"""What building a module raises for an invalid configuration."""


class Model(Protocol):
    """A module that can be built here: ``config_type`` is a dataclass, read from ``config.json``.

    ``sanitize(key, value)`` converts one tensor of the file to the module's own name and layout; names that the module
    does not have are ignored.
    """

    config_type: ClassVar[Any]
    sanitize: ClassVar[Callable[[str, mx.array], tuple[str, mx.array]]]


class Quantizer(Protocol):
    """How linear layers are quantized while they are read."""

    def prepare(self, module: nn.Module) -> None:
        """Replace layers of a module without weights by quantized ones."""
        ...

    def store(self, name: str, value: mx.array) -> Named:
        """Convert one parameter, under its original name in the module, to the parameters that replace it."""
        ...


M = TypeVar("M", bound=nn.Module)
C = TypeVar("C")


def read_config(config_type: type[C], component: Component) -> C:
    """Read the component's ``config.json`` as ``config_type``, ignoring members that it does not have.

    :raises EngineError: IntegrityError for a member of the wrong type or an option that is not supported.
    """
    try:
        return msgspec.convert(component.config, config_type)
    except msgspec.ValidationError as error:
        raise broken(f"{component.name}/config.json", f"this engine cannot run it ({error})") from error


def build(
    model_type: type[M], component: Component, dtype: mx.Dtype, progress: Progress, quantizer: Quantizer | None = None
) -> M:
    """Build a model from its configuration and tensors, floating-point ones as ``dtype``.

    :raises EngineError: IntegrityError if configuration and tensors do not match; InsufficientMemory.
    :raises JobCancelled: between two tensors.
    """
    made = cast("Any", model_type)
    config = read_config(made.config_type, component)
    try:
        with making_modules():
            model: M = made(config)
            if quantizer is not None:
                quantizer.prepare(model)
        wanted = {name: tuple(value.shape) for name, value in _parameters(model)}
    except _WRONG as error:
        raise broken(f"{component.name}/config.json", "it is not a valid configuration") from error
    store = _as_it_is if quantizer is None else quantizer.store
    found: dict[str, mx.array] = {}
    for path in component.files:
        try:
            for key, value in _tensors(path, progress):
                name, laid_out = made.sanitize(key, value)
                typed = laid_out.astype(dtype) if mx.issubdtype(laid_out.dtype, mx.floating) else laid_out
                found |= {part: _evaluated(stored) for part, stored in store(name, typed) if part in wanted}
        except (RuntimeError, OSError, MemoryError) as error:
            if fault := named_fault(error):
                raise fault from error
            raise broken(f"{component.name}/{path.name}", "a tensor cannot be read") from error
    _require_all(component, wanted, {name: tuple(value.shape) for name, value in found.items()})
    model.update(tree_unflatten(list(found.items())))
    return model


def require_fit(model_type: type[nn.Module], component: Component) -> None:
    """Require that the files have the tensors and shapes that a model of that configuration needs. Reads only headers.

    :raises EngineError: IntegrityError, as :func:`build` would.
    """
    made = cast("Any", model_type)
    config = read_config(made.config_type, component)
    try:
        with making_modules():
            model: nn.Module = made(config)
        wanted = {name: tuple(value.shape) for name, value in _parameters(model)}
    except _WRONG as error:
        raise broken(f"{component.name}/config.json", "it is not a valid configuration") from error
    found: dict[str, tuple[int, ...]] = {}
    for path in component.files:
        for key, tensor in tensor_check.headers(path)[0].items():
            name, laid_out = made.sanitize(key, mx.zeros(tensor.shape))  # lazy: nothing is allocated
            if name in wanted:
                found[name] = tuple(laid_out.shape)
    _require_all(component, wanted, found)


def _require_all(component: Component, wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    if any(wanted[name] != shape for name, shape in found.items()):
        raise broken(f"{component.name}/config.json", "it does not match the weights beside it")
    if missing := sorted(wanted.keys() - found.keys()):
        raise tensors_missing(component, missing)


@contextlib.contextmanager
def making_modules() -> Generator[None]:
    """Create modules that get their weights later.

    They start with random weights, which are lazy and cost nothing. But each one advances MLX's global random key,
    which would then depend on every module ever created: a chain that grows with each loading and that MLX walks
    recursively. So the key is reset afterwards; the engine draws nothing from it.
    """
    try:
        yield
    finally:
        mx.random.seed(0)


def channels_last(value: mx.array) -> mx.array:
    """Convert convolution weights from (out, in, height, width) to (out, height, width, in); others are unchanged."""
    return mx.contiguous(value.transpose(0, 2, 3, 1)) if value.ndim == 4 else value


def _as_it_is(name: str, value: mx.array) -> Named:
    return [(name, value)]


def _evaluated(value: mx.array) -> mx.array:
    mx.eval(value)
    return value


def _parameters(model: nn.Module) -> list[tuple[str, mx.array]]:
    return cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters()))


def _tensors(path: Path, progress: Progress) -> Iterator[tuple[str, mx.array]]:
    """Yield all tensors of a file, lazy and one at a time. Progress counts a tensor when the next one is requested."""
    for key, value, size in tensor_files.tensors(path):
        yield key, value
        del value
        progress.advance(size)
