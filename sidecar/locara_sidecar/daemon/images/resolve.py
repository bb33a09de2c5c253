"""Resolves a request: fills in every option and checks every rule. Pure.

There are two steps, because the contract fixes the order of checks: :func:`check_request` needs no model,
:func:`resolve` runs once the gate has chosen one. Each runs once per call, when the call arrives.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET

from locara_protocol.errors import invalid_params
from locara_protocol.image_messages import (
    MAX_PROMPT_BYTES,
    EditParams,
    GenerateOptions,
    GenerateParams,
    ImageMime,
    OutputOptions,
    PreviewOptions,
    Warning,
)
from locara_protocol.messages import U32_MAX
from locara_protocol.records import Record
from locara_sidecar.capability.files import names
from locara_sidecar.daemon.access.sizes import size_of
from locara_sidecar.ipc.frames import EncodeSpec, PreviewSpec, ResolvedOptions

if TYPE_CHECKING:
    from locara_sidecar.ipc.frames import ModelSpec, Sides
    from locara_sidecar.models.catalogue import Entry

DEFAULT_STRENGTH = 0.6

DEFAULT_PREVIEW_BYTES = 5632
"""Keeps a whole DiffusionStep message under 8,192 bytes, so that Tauri delivers it on its direct path."""

EXTENSIONS: dict[str, tuple[str, ...]] = {
    "image/png": (".png",),
    "image/jpeg": (".jpg", ".jpeg"),
    "image/webp": (".webp",),
}


class Output(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where finished images go, and how they are encoded, with all defaults filled in. ``path`` is the host's, relative
    to the root, or None. With ``handle`` it is a picked file, and neither root nor path has a meaning.
    """

    mode: Literal["save", "inline", "both"]
    root: str
    on_conflict: Literal["rename", "error", "overwrite"]
    handle: str | None
    mime_type: ImageMime
    quality: int
    metadata: Literal["full", "none"]
    path: str | None

    @property
    def save(self) -> bool:
        """Whether a file is written."""
        return self.mode != "inline"

    @property
    def inline(self) -> bool:
        """Whether the answer contains the picture."""
        return self.mode != "save"

    def shown(self) -> dict[str, Any]:
        """Return it as shown in the answer's ``parameters``, without members that have no value or no meaning."""
        silent = () if self.handle is None else ("root", "onConflict")
        told: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in told.items() if value is not None and name not in silent}


def check_request(params: GenerateParams) -> Output:
    """Check everything that can be checked without a model.

    :raises RpcError: InvalidParams naming the member.
    """
    if not params.prompt.strip():
        raise invalid_params("$.prompt", "The prompt is empty; say what to draw.")
    _check_text("$.prompt", params.prompt)
    options = params.options or GenerateOptions()
    _check_text("$.options.negativePrompt", options.negative_prompt or "")
    if options.seed is not None and options.seed + (options.count or 1) - 1 > U32_MAX:
        raise invalid_params(
            "$.options.seed", f"The seeds of {options.count} images would exceed {U32_MAX}; use a smaller seed."
        )
    out = options.output or OutputOptions()
    mime: ImageMime = out.mime_type or "image/png"
    if out.path is not None:
        names.split(out.path)  # refuses what could never be saved, before any work is done
        extension = os.path.splitext(out.path)[1].lower()
        if extension not in EXTENSIONS[mime]:
            expected = " or ".join(EXTENSIONS[mime])
            raise invalid_params("$.options.output.path", f"The extension must be {expected} for {mime}.")
    if out.handle is not None:
        _check_handle(out, options.count or 1)
    return Output(
        mode=out.mode or "save",
        root=out.root or "user-folder",
        on_conflict=out.on_conflict or "rename",
        handle=out.handle,
        mime_type=mime,
        quality=out.quality or 90,
        metadata=out.metadata or "full",
        path=out.path,
    )


def _check_handle(out: OutputOptions, count: int) -> None:
    """Check an output with a handle: it is one file that the user confirmed, so nothing else may say where it goes."""
    others = {"root": out.root, "path": out.path, "onConflict": out.on_conflict}
    for name in (name for name, value in others.items() if value is not None):
        at = f"$.options.output.{name}"
        raise invalid_params(at, f"`{at}` cannot be combined with handle, which names one file that the user picked.")
    if out.mode == "inline":
        message = "In mode inline nothing is saved; omit handle, or use mode save or both."
        raise invalid_params("$.options.output.mode", message)
    if count > 1:
        raise invalid_params("$.options.count", f"A picked file holds one image, not {count}.")


def _check_text(path: str, text: str) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_PROMPT_BYTES:
        raise invalid_params(
            path,
            f"The text is {size} bytes long; at most {MAX_PROMPT_BYTES} are allowed.",
            maxPromptBytes=MAX_PROMPT_BYTES,
        )


class Resolved(Record, frozen=True):
    """A call's options, fully resolved.

    :param sides: what the engine may allow if it determines the size itself.
    """

    options: ResolvedOptions
    preview: PreviewSpec
    output: Output
    sides: Sides
    warnings: list[Warning]

    def drawing(self, model: str) -> dict[str, Any]:
        """Return what determines the images, for ``parameters`` and a file's metadata."""
        return {"model": model, **msgspec.to_builtins(self.options)}

    def shown(self, model: str) -> dict[str, Any]:
        """Return the options as shown in ``parameters``; they reproduce the same pixels."""
        return {**self.drawing(model), "preview": msgspec.to_builtins(self.preview), "output": self.output.shown()}

    def encoding(self, prompt: str, model: ModelSpec, hashes: dict[str, Any]) -> EncodeSpec:
        """Build the engine's encoding options.

        :param hashes: of what an edit started from.
        """
        told = None
        if self.output.metadata == "full":
            used = {"id": model.id, "version": model.version, "digest": model.digest}
            told = {"prompt": prompt, "options": self.drawing(model.id), "model": used, **hashes}
        return EncodeSpec(mime_type=self.output.mime_type, quality=self.output.quality, metadata=told)


def strength_of(params: GenerateParams, entry: Entry) -> float | None:
    """Return how much an edit changes, in (0, 1]; None for a job without a strength.

    :raises RpcError: InvalidParams for a model that cannot edit, or not that many pictures, or that follows an
        instruction but was given a strength or a mask.
    """
    if not isinstance(params, EditParams):
        return None
    asked = params.options.strength if params.options else None
    if entry.edit_modality is None:
        raise invalid_params("$.options.model", f"{entry.id} generates images but cannot edit them.", model=entry.id)
    given, most = len(params.images or ()), entry.references
    if given > most:
        takes = "one picture" if most == 1 else f"at most {most} pictures"
        message = f"{entry.id} edits {takes} in a call; {given} were given."
        raise invalid_params("$.images", message, model=entry.id, maxReferences=most)
    if entry.edit_modality == "image-to-image":
        return DEFAULT_STRENGTH if asked is None else asked
    why = f"{entry.id} changes the whole picture as the prompt tells it to"
    if asked is not None:
        raise invalid_params("$.options.strength", f"{why}; strength does not apply.")
    if params.mask is not None:
        raise invalid_params("$.mask", f"{why}; it takes no mask.")
    return None


def resolve(params: GenerateParams, entry: Entry, *, engine: str, seed: int, output: Output) -> Resolved:
    """Fill in the model's defaults and check its own limits. An option that needs neither is taken as sent,
    or has the default of :class:`ResolvedOptions`.

    :param engine: the name of this daemon's engine; seed: used if the host gave none.
    :raises RpcError: InvalidParams naming the member and the model.
    """
    options = params.options or GenerateOptions()
    usual = entry.defaults
    strength = strength_of(params, entry)
    width, height, sides = size_of(options, entry, inline=output.inline, edit=isinstance(params, EditParams))
    if options.negative_prompt and not entry.classifier_free_guidance:
        raise invalid_params(
            "$.options.negativePrompt",
            f"{entry.id} runs without classifier-free guidance and takes no negative prompt.",
        )
    scheduler = options.scheduler or usual.scheduler
    if scheduler not in entry.schedulers:
        raise invalid_params(
            "$.options.scheduler",
            f"The schedulers of {entry.id} are {', '.join(entry.schedulers)}.",
            allowed=entry.schedulers,
        )
    guidance = usual.guidance if options.guidance is None else options.guidance
    speed = options.speed if options.speed in entry.speeds else "exact"
    settled: dict[str, Any] = {
        "width": width,
        "height": height,
        "steps": options.steps or usual.steps,
        "guidance": guidance if entry.guidable else 0.0,
        "seed": seed if options.seed is None else options.seed,
        "scheduler": scheduler,
        "speed": speed,
        "tiling": "on" if options.tiling == "on" else "off",
        "engine": engine,
        "strength": UNSET if strength is None else strength,
    }
    return Resolved(
        options=ResolvedOptions(**(_sent(options) | settled)),
        preview=_preview(options.preview or PreviewOptions()),
        output=output,
        sides=sides,
        warnings=_warnings(options, entry, speed),
    )


def _sent(options: GenerateOptions) -> dict[str, Any]:
    """Return the options that the host gave."""
    names = ResolvedOptions.__struct_fields__
    return {name: value for name in names if (value := getattr(options, name, None)) is not None}


def _warnings(options: GenerateOptions, entry: Entry, speed: str) -> list[Warning]:
    """Return warnings about requested options that the model does not support but can draw without. (The engine adds
    its own.)
    """
    found: list[Warning] = []
    if not entry.guidable and options.guidance not in (None, 0, entry.defaults.guidance):
        what = f"{entry.id} was made to run without guidance; {options.guidance:g} had no effect"
        found.append(Warning(kind="GuidanceIgnored", message=f"{what}, and 0 does the same."))
    if options.speed not in (None, speed):
        what = f"{entry.id} has no step caching; it ran at speed {speed}."
        found.append(Warning(kind="SpeedUnavailable", message=what))
    return found


def _preview(options: PreviewOptions) -> PreviewSpec:
    return PreviewSpec(
        mode=options.mode or "auto",
        every_steps=options.every_steps or 1,
        max_side=options.max_side or 256,
        max_bytes=options.max_bytes or DEFAULT_PREVIEW_BYTES,
        mime_type=options.mime_type or "image/webp",
    )


def file_name(output: Output, *, stamp: str, seed: int, image: int, count: int) -> str:
    """Return the relative path of image ``image`` (1-based) of ``count``: the host's, numbered, or a generated one.

    :param stamp: the time for a generated name, as ``20261123-014455``. A prompt is never part of a name.
    """
    path = output.path or f"image-{stamp}-{seed}{EXTENSIONS[output.mime_type][0]}"
    if count == 1 or output.path is None:
        return path
    base, extension = os.path.splitext(path)
    return f"{base}-{image}{extension}"
