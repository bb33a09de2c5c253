"""``locara-sidecar demo``: draws one picture with the embedded model, through the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from locara_sidecar.cli.commands import drawing
from locara_sidecar.cli.output.console import Console
from locara_sidecar.cli.output.guard import say

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Draw ``options.prompt``; return 0 if a picture was saved, 1 if not, 2 for an impossible ``--out``, 130 if
    cancelled."""
    try:
        folder, output = drawing.place(options.out)
    except ValueError as error:
        say(Console(), str(error))
        return 2
    asked: dict[str, Any] = {
        "model": options.model,
        "seed": options.seed,
        "steps": options.steps,
        "negativePrompt": options.negative,
        "output": output,
    }
    request = drawing.Request(
        prompt=options.prompt,
        models=[options.model],
        folder=folder,
        options={name: value for name, value in asked.items() if value not in (None, "")},
        serve=drawing.command(options),
        transcript=options.transcript,
        preview=options.preview,
    )
    return drawing.run(request)
