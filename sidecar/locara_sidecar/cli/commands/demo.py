"""``locara-sidecar demo``: draws one picture with the embedded model, through the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from locara_sidecar.cli.commands import drawing

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Draw ``options.prompt``; return 0 if a picture was saved, 1 if not, 130 if cancelled."""
    asked: dict[str, Any] = {
        "model": options.model,
        "seed": options.seed,
        "steps": options.steps,
        "negativePrompt": options.negative,
    }
    request = drawing.Request(
        prompt=options.prompt,
        models=[options.model],
        folder=options.out.absolute(),
        options={name: value for name, value in asked.items() if value not in (None, "")},
        serve=drawing.command(options),
        transcript=options.transcript,
        preview=options.preview,
    )
    return drawing.run(request)
