"""``locara-sidecar demo``: one picture with the embedded model, as a host would ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from locara_sidecar.cli.commands import drawing

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Draw ``options.prompt``; returns 0 when a picture was saved, 1 when not, 130 when cancelled."""
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
