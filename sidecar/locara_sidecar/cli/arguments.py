"""What may stand on the command line, and which command it runs.

Imports argparse and nothing of the daemon: a command loads its own code, so that ``serve`` starts fast.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from locara_sidecar import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = ("serve", "demo", "doctor", "models")
_MODEL_VERBS = {
    "list": "every model: installed or not, and whether it fits",
    "get": "one model",
    "download": "download into the shared cache, from where the last try stopped",
    "import": "take a model from a folder or a Hugging Face cache",
    "prepare": "keep a model as the engine has quantized it, so that it loads sooner",
    "verify": "hash an installed model again",
    "remove": "remove from the shared cache",
    "usage": "how much room the models take",
    "gc": "collect what no model needs",
}


def run(argv: Sequence[str]) -> int:
    """Parse and run; returns the exit status (2 for a usage error, with a sentence on stderr)."""
    args = list(argv)
    if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help", "--version")):
        args.insert(0, "serve")
    options = _parser().parse_args(args)
    if options.command == "serve":
        from locara_sidecar.cli.serve import run as serve

        return serve(options)
    if options.command == "demo":
        from locara_sidecar.cli.demo import run as demo

        return demo(options)
    if options.command == "models":
        from locara_sidecar.cli.models import run as models

        return models(options)
    from locara_sidecar.cli.doctor import run as doctor

    return doctor(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="locara-sidecar", description="Local image generation for desktop apps: JSON-RPC 2.0 on stdin and stdout."
    )
    parser.add_argument("--version", action="version", version=f"locara-sidecar {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{" + ",".join(COMMANDS) + "}")

    serve = commands.add_parser(
        "serve", help="speak the protocol on stdin and stdout (the default)", allow_abbrev=False
    )
    _engine(serve)
    serve.add_argument("--manifest", metavar="FILE", type=Path, help="the app's locara.json; fixes what the app may do")
    serve.add_argument(
        "--grant",
        metavar="NAME=DIR",
        action="append",
        type=_grant,
        default=[],
        help="a folder for a root of the manifest, such as user-folder=/home/a/Pictures/App",
    )
    serve.add_argument(
        "--cache-dir", metavar="DIR", help="Locara's shared cache (else LOCARA_CACHE_DIR, else the platform's)"
    )
    serve.add_argument("--catalogue", metavar="DIR", type=Path, help="a folder of further model entries")
    serve.add_argument(
        "--allow-downloads", action="store_true", help="let the app download (and prepare) models that it declares"
    )
    serve.add_argument(
        "--allow-model-management", action="store_true", help="let the app import, remove and collect models"
    )
    serve.add_argument(
        "--idle-unload",
        metavar="SECONDS",
        type=_seconds,
        default=300.0,
        help="end the engine after so long without a job (300)",
    )
    serve.add_argument(
        "--stall-timeout",
        metavar="SECONDS",
        type=_positive,
        default=120.0,
        help="kill an engine that shows no progress for so long (120)",
    )
    serve.add_argument(
        "--compile",
        action="store_true",
        help="torch: compile the models' blocks; steps get faster, the first picture of a size much later",
    )
    serve.add_argument("--queue", metavar="N", type=_count, default=16, help="jobs that may wait (16)")
    serve.add_argument(
        "--max-line-bytes",
        metavar="N",
        type=_line_bytes,
        default=16 * 1024 * 1024,
        help="the longest line that is read (16777216)",
    )
    serve.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="stderr's detail (info)"
    )

    demo = commands.add_parser(
        "demo", help="draw a prompt as a host would, with a live preview in the terminal", allow_abbrev=False
    )
    demo.add_argument("prompt", nargs="?", default="a large yellow star in the center of a blue background")
    _engine(demo)
    demo.add_argument("--out", metavar="DIR", type=Path, default=Path("out"), help="folder for the picture (out)")
    demo.add_argument("--model", default="pocket", help="model id (pocket)")
    demo.add_argument("--seed", type=int, help="the same seed draws the same picture")
    demo.add_argument("--steps", type=int, help="denoising steps")
    demo.add_argument("--negative", default="", metavar="TEXT", help="what the picture should not show")
    demo.add_argument("--catalogue", metavar="DIR", type=Path, help="a folder of further model entries")
    demo.add_argument("--transcript", metavar="FILE", type=Path, help="write every line sent and received")

    doctor = commands.add_parser(
        "doctor", help="what this machine offers: engines, memory, sandbox, folders", allow_abbrev=False
    )
    _engine(doctor)
    doctor.add_argument("--cache-dir", metavar="DIR")
    doctor.add_argument("--json", action="store_true", help="print JSON")

    models = commands.add_parser(
        "models", help="list, download, import, prepare, verify, remove, collect", allow_abbrev=False
    )
    verbs = models.add_subparsers(dest="verb", required=True, metavar="{" + ",".join(_MODEL_VERBS) + "}")
    for verb, words in _MODEL_VERBS.items():
        _model_verb(verbs.add_parser(verb, help=words, allow_abbrev=False), verb)
    return parser


def _model_verb(parser: argparse.ArgumentParser, verb: str) -> None:
    if verb not in ("list", "usage", "gc"):
        parser.add_argument("model", help="model id")
    if verb == "import":
        parser.add_argument("folder", type=Path, help="diffusers' layout, or a Hugging Face cache")
    if verb == "prepare":
        parser.add_argument("--quantization", choices=("8bit", "4bit"), required=True, help="bits of a weight")
        parser.add_argument(
            "--precision",
            choices=("auto", "float32", "bfloat16", "float16"),
            default="auto",
            help="computing type (auto)",
        )
        parser.add_argument("--engine", choices=("auto", "torch", "mlx"), default="auto", help="which engine (auto)")
    if verb == "remove":
        parser.add_argument("--prepared", action="store_true", help="only what was prepared of it")
    if verb == "gc":
        parser.add_argument("--max-bytes", metavar="N", type=_count, help="remove the least used models down to this")
    if verb in ("remove", "gc"):
        parser.add_argument("--dry-run", action="store_true", help="only show what would go")
    parser.add_argument("--cache-dir", metavar="DIR", help="Locara's shared cache")
    parser.add_argument("--catalogue", metavar="DIR", type=Path, help="a folder of further model entries")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine", choices=("auto", "torch", "mlx", "fake"), default="auto", help="which engine draws (auto)"
    )


def _grant(text: str) -> tuple[str, str]:
    name, separator, folder = text.partition("=")
    if not (separator and name and folder):
        raise argparse.ArgumentTypeError("expected NAME=DIR, as in user-folder=/home/a/Pictures/App")
    return name, folder


def _seconds(text: str) -> float:
    value = _number(text)
    if value < 0 or math.isnan(value):
        raise argparse.ArgumentTypeError("expected seconds, 0 or more")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("expected seconds, more than 0")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("expected a whole number, 0 or more")
    return int(text)


def _line_bytes(text: str) -> int:
    value = _count(text)
    if value < 1024:
        raise argparse.ArgumentTypeError("expected at least 1024")
    return value
