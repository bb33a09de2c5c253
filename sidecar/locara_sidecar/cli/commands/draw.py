"""``locara-sidecar draw`` and ``edit``: a picture from the command line, with any installed model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from locara_protocol.image_messages import MAX_REFERENCES
from locara_sidecar.cli.commands import drawing
from locara_sidecar.cli.output.console import Console
from locara_sidecar.cli.output.guard import say
from locara_sidecar.models import catalogue

if TYPE_CHECKING:
    import argparse

_USAGE = 2


def run(options: argparse.Namespace) -> int:
    """Draw, or edit a picture if one is given; return the exit status."""
    console = Console()
    try:
        request = request_of(options, [options.model] if options.model else _models(options))
    except (ValueError, catalogue.CatalogueError) as error:
        say(console, str(error))
        return _USAGE
    return drawing.run(request, show=options.open)


def request_of(options: argparse.Namespace, models: list[str]) -> drawing.Request:
    """Build the request from the command line.

    :raises ValueError: with a sentence for the user, if no valid call can be made.
    """
    pictures = [path.absolute() for path in (options.file, *options.image) if path is not None]
    mask = None if options.mask is None else options.mask.absolute()
    if mask is not None and not pictures:
        raise ValueError("--mask says where a picture may change: name the picture with --image.")
    if options.strength is not None and not pictures:
        raise ValueError("--strength says how much of a picture changes: name the picture with --image.")
    if len(pictures) > MAX_REFERENCES:
        raise ValueError(f"--image: no model takes more than {MAX_REFERENCES} pictures.")
    for flag, path in [*(("--image", path) for path in pictures), *([] if mask is None else [("--mask", mask)])]:
        if not path.is_file():
            raise ValueError(f"{flag}: there is no file {path}.")
    width, height = options.size or (None, None)
    asked: dict[str, Any] = {
        "model": options.model,
        "width": width,
        "height": height,
        "steps": options.steps,
        "guidance": options.guidance,
        "seed": options.seed,
        "count": options.count,
        "negativePrompt": options.negative,
        "quantization": options.quantization,
        "scheduler": options.scheduler,
        "strength": options.strength,
    }
    folder, output = drawing.place(options.out)
    if output is not None:
        asked["output"] = output
    return drawing.Request(
        prompt=options.prompt,
        models=models,
        folder=folder,
        options={name: value for name, value in asked.items() if value not in (None, "")},
        serve=drawing.command(options),
        pictures=pictures,
        mask=mask,
        preview=options.preview,
    )


def _models(options: argparse.Namespace) -> list[str]:
    """Return all models, in the catalogue's order: the daemon uses the first suitable one that is installed."""
    return [entry.id for entry in catalogue.load(options.catalogue)]
