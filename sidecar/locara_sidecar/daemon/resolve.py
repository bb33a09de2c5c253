"""From what a host sent to what will run: every option filled in, every rule checked. Pure.

Two steps, because the contract fixes the order of checks: :func:`check_request` needs no model,
:func:`resolve` runs once the gate has chosen one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import msgspec

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
from locara_sidecar.capability import names
from locara_sidecar.daemon.model_specs import model_spec
from locara_sidecar.daemon.sizes import size_of
from locara_sidecar.engine.frames import EditSpec, EncodeSpec, JobSpec, PreviewSpec

if TYPE_CHECKING:
    from locara_sidecar.daemon.source_images import EditFiles
    from locara_sidecar.models.catalogue import Entry

DEFAULT_STRENGTH = 0.6

DEFAULT_PREVIEW_BYTES = 5632
"""Keeps a whole DiffusionStep message under 8,192 bytes, so that Tauri delivers it on its direct path."""

EXTENSIONS: dict[str, tuple[str, ...]] = {
    "image/png": (".png",),
    "image/jpeg": (".jpg", ".jpeg"),
    "image/webp": (".webp",),
}


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """Where finished images go. ``path`` is what the host asked for, relative to the root, or None."""

    save: bool
    inline: bool
    root: str
    path: str | None
    on_conflict: Literal["rename", "error", "overwrite"]
    mime_type: ImageMime


def check_request(params: GenerateParams) -> Output:
    """Check what can be checked without a model.

    :raises RpcError: InvalidParams naming the member.
    """
    if not params.prompt.strip():
        raise invalid_params("$.prompt", "The prompt is empty; say what to draw.")
    _check_text("$.prompt", params.prompt)
    options = params.options or GenerateOptions()
    _check_text("$.options.negativePrompt", options.negative_prompt or "")
    if options.seed is not None and options.seed + (options.count or 1) - 1 > U32_MAX:
        raise invalid_params(
            "$.options.seed", f"The seeds of {options.count} images would pass {U32_MAX}; use a smaller seed."
        )
    out = options.output or OutputOptions()
    mime: ImageMime = out.mime_type or "image/png"
    if out.path is not None:
        names.split(out.path)  # refuses what could never be saved, before any work is done
        extension = os.path.splitext(out.path)[1].lower()
        if extension not in EXTENSIONS[mime]:
            expected = " or ".join(EXTENSIONS[mime])
            raise invalid_params("$.options.output.path", f"The extension must be {expected} for {mime}.")
    mode = out.mode or "save"
    return Output(
        save=mode in ("save", "both"),
        inline=mode in ("inline", "both"),
        root=out.root or "user-folder",
        path=out.path,
        on_conflict=out.on_conflict or "rename",
        mime_type=mime,
    )


def _check_text(path: str, text: str) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_PROMPT_BYTES:
        raise invalid_params(
            path, f"The text has {size} bytes; {MAX_PROMPT_BYTES} are allowed.", maxPromptBytes=MAX_PROMPT_BYTES
        )


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """A request with nothing left open. ``parameters`` has the request's own shape; it makes the same pixels again."""

    spec: JobSpec
    parameters: dict[str, Any]
    warnings: list[Warning]


def strength_of(params: GenerateParams, entry: Entry) -> float | None:
    """How much an edit changes, in (0, 1]; None for what has no strength.

    :raises RpcError: InvalidParams for a model that cannot edit, or that follows an instruction and was given a
        strength or a mask.
    """
    if not isinstance(params, EditParams):
        return None
    asked = params.options.strength if params.options else None
    if entry.edit_modality is None:
        raise invalid_params("$.options.model", f"{entry.id} makes images and does not edit any.", model=entry.id)
    if entry.edit_modality == "image-to-image":
        return DEFAULT_STRENGTH if asked is None else asked
    why = f"{entry.id} changes the whole picture as the prompt tells it to"
    if asked is not None:
        raise invalid_params("$.options.strength", f"{why}; it has no strength.")
    if params.mask is not None:
        raise invalid_params("$.mask", f"{why}; it takes no mask.")
    return None


def resolve(
    params: GenerateParams,
    entry: Entry,
    *,
    job: str,
    folder: str,
    digest: str,
    engine: str,
    seed: int,
    output: Output,
    files: EditFiles | None = None,
) -> Resolved:
    """Fill in the model's defaults and check its own limits.

    :param engine: the engine of this daemon, by name; seed: what is used where the host gave none.
    :param files: what an edit starts from; without it an edit is only checked.
    :raises RpcError: InvalidParams naming the member and the model.
    """
    options = params.options or GenerateOptions()
    defaults = entry.defaults
    strength = strength_of(params, entry)
    width, height, sides = size_of(options, entry, inline=output.inline, edit=isinstance(params, EditParams))
    negative = options.negative_prompt or ""
    if negative and not entry.classifier_free_guidance:
        raise invalid_params(
            "$.options.negativePrompt",
            f"{entry.id} runs without classifier-free guidance and takes no negative prompt.",
        )
    scheduler = options.scheduler or defaults.scheduler
    if scheduler not in entry.schedulers:
        raise invalid_params(
            "$.options.scheduler", f"{entry.id} has {', '.join(entry.schedulers)}.", allowed=entry.schedulers
        )
    speed = options.speed if options.speed in entry.speeds else "exact"
    count = options.count or 1
    preview = _preview(options.preview or PreviewOptions())
    out = options.output or OutputOptions()
    drawing: dict[str, Any] = {
        "model": entry.id,
        "negativePrompt": negative,
        "width": width,
        "height": height,
        "steps": options.steps or defaults.steps,
        "guidance": defaults.guidance if options.guidance is None else options.guidance,
        "seed": seed if options.seed is None else options.seed,
        "count": count,
        "scheduler": scheduler,
        "speed": speed,
        "quantization": options.quantization or "auto",
        "precision": options.precision or "auto",
        "tiling": "on" if options.tiling == "on" else "off",
        "engine": engine,
    } | ({} if strength is None else {"strength": strength})
    quality = out.quality or 90
    metadata = None
    if (out.metadata or "full") == "full":
        metadata = {
            "prompt": params.prompt,
            "options": drawing,
            "model": {"id": entry.id, "version": entry.version, "digest": digest},
        } | (files.hashes if files else {})
    spec = JobSpec(
        job=job,
        model=model_spec(
            entry,
            folder=folder,
            digest=digest,
            quantization=options.quantization,
            precision=options.precision,
            sides=sides,
        ),
        prompt=params.prompt,
        negative_prompt=negative,
        width=width,
        height=height,
        steps=drawing["steps"],
        guidance=drawing["guidance"],
        seed=drawing["seed"],
        count=count,
        scheduler=scheduler,
        speed=drawing["speed"],
        tiling=drawing["tiling"],
        preview=preview,
        output=EncodeSpec(mime_type=output.mime_type, quality=quality, metadata=metadata),
        edit=None if files is None else EditSpec(image=files.image, mask=files.mask, strength=strength),
    )
    output_options: dict[str, Any] = {
        "mode": out.mode or "save",
        "root": output.root,
        "onConflict": output.on_conflict,
        "mimeType": output.mime_type,
        "quality": quality,
        "metadata": out.metadata or "full",
    }
    if output.path is not None:
        output_options["path"] = output.path
    previews: dict[str, Any] = {
        "mode": preview.mode,
        "everySteps": preview.every_steps,
        "maxSide": preview.max_side,
        "maxBytes": preview.max_bytes,
        "mimeType": preview.mime_type,
    }
    return Resolved(
        spec=spec,
        parameters={
            "prompt": params.prompt,
            **(files.shown if files else {}),
            "options": {**drawing, "preview": previews, "output": output_options},
        },
        warnings=_warnings(options, entry, speed),
    )


def _warnings(options: GenerateOptions, entry: Entry, speed: str) -> list[Warning]:
    """What was asked for and the model cannot give, where the picture can be made all the same. (The engine adds what
    it cannot give.)"""
    if options.speed in (None, speed):
        return []
    return [Warning(kind="SpeedUnavailable", message=f"{entry.id} has no step caching; it ran at speed {speed}.")]


def _preview(options: PreviewOptions) -> PreviewSpec:
    return PreviewSpec(
        mode=options.mode or "auto",
        every_steps=options.every_steps or 1,
        max_side=options.max_side or 256,
        max_bytes=options.max_bytes or DEFAULT_PREVIEW_BYTES,
        mime_type=options.mime_type or "image/webp",
    )


def file_name(output: Output, *, stamp: str, seed: int, image: int, count: int) -> str:
    """The relative path of image ``image`` (1-based) of ``count``: the host's, numbered, or one of our own.

    :param stamp: the time for a name of our own, as ``20261123-014455``. A prompt is never part of a name.
    """
    path = output.path or f"image-{stamp}-{seed}{EXTENSIONS[output.mime_type][0]}"
    if count == 1 or output.path is None:
        return path
    base, extension = os.path.splitext(path)
    return f"{base}-{image}{extension}"
