"""The command line's arguments, and which command they run.

Imports argparse but nothing of the daemon: each command loads its own code, so that ``serve`` starts fast.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locara_sidecar import __version__
from locara_sidecar.cli import values
from locara_sidecar.machine.supported import ENGINES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_DRAWING = ("auto", *(row.name for row in ENGINES.values() if row.draws_models))
_MODEL_VERBS = {
    "list": "every model: installed or not, and whether it fits",
    "get": "one model",
    "download": "download into the shared cache; resumes an interrupted download",
    "import": "import a model from a folder or a Hugging Face cache",
    "prepare": "save a model in quantized form, so that it loads faster",
    "verify": "check an installed model's files against their digests",
    "remove": "remove from the shared cache",
    "usage": "how much disk space the models use",
    "gc": "delete files that no model needs",
}


_COMPLETION = """\
Print a script that completes commands, flags, models and paths in a shell. To install it
(create the folder first if it does not exist):

  bash   locara-sidecar completion bash > ~/.local/share/bash-completion/completions/locara-sidecar
  zsh    locara-sidecar completion zsh > ~/.zfunc/_locara-sidecar
         (with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc)
  fish   locara-sidecar completion fish > ~/.config/fish/completions/locara-sidecar.fish"""


def run(argv: Sequence[str], parent: int | None = None) -> int:
    """Parse and run; return the exit status (2 for a usage error, with a sentence on stderr).

    :param parent: the process that spawned this one, as it was at the very start.
    """
    args = list(argv)
    if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help", "--version")):
        args.insert(0, "serve")
    options = parser(args[0]).parse_args(args)
    if options.command == "serve":
        from locara_sidecar.cli.commands.serve import run as serve

        return serve(options, parent)
    from locara_sidecar.cli.output import guard

    return guard.run(_command, options)


def _command(options: argparse.Namespace) -> int:
    if options.command == "demo":
        from locara_sidecar.cli.commands.demo import run as demo

        return demo(options)
    if options.command in ("draw", "edit"):
        from locara_sidecar.cli.commands.draw import run as draw

        return draw(options)
    if options.command == "models":
        from locara_sidecar.cli.commands.models import run as models

        return models(options)
    if options.command == "completion":
        from locara_sidecar.cli.commands.completion import run as completion

        return completion(options, parser())
    from locara_sidecar.cli.commands.doctor import run as doctor

    return doctor(options)


class _Formatter(argparse.HelpFormatter):
    """argparse's formatter with a fixed width; otherwise it asks shutil for each argument, which imports all
    compressors.
    """

    def __init__(self, prog: str) -> None:
        try:
            columns = int(os.environ.get("COLUMNS") or os.get_terminal_size(1).columns)
        except (ValueError, OSError):
            columns = 80
        super().__init__(prog, width=max(columns, 20) - 2)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Formatter, allow_abbrev=False, **options)


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """Build the command line's parser.

    :param command: the only command that it has to know; building all of them takes longer than parsing.
    """
    whole = _Parser(
        prog="locara-sidecar", description="Local image generation for desktop apps: JSON-RPC 2.0 on stdin and stdout."
    )
    whole.add_argument("--version", action="version", version=f"locara-sidecar {__version__}")
    # with an explicit prog, or argparse formats its usage to get one
    commands = whole.add_subparsers(dest="command", required=True, metavar=_one_of(COMMANDS), prog=whole.prog)
    for name in (command,) if command in COMMANDS else COMMANDS:
        words, build = COMMANDS[name]
        build(commands.add_parser(name, help=words, description=words[0].upper() + words[1:] + "."))
    return whole


def _one_of(names: Iterable[str]) -> str:
    return "{" + ",".join(names) + "}"


def _serve(parser: argparse.ArgumentParser) -> None:
    _engine(parser)
    parser.add_argument(
        "--manifest", metavar="FILE", type=Path, help="the app's locara.json, which fixes what the app may do"
    )
    parser.add_argument(
        "--grant",
        metavar="NAME=DIR",
        action="append",
        type=values.grant,
        default=[],
        help="the folder for one of the manifest's roots, such as user-folder=/home/a/Pictures/App",
    )
    parser.add_argument(
        "--cache-dir", metavar="DIR", help="Locara's shared cache (default: LOCARA_CACHE_DIR or the platform's)"
    )
    parser.add_argument("--catalogue", metavar="DIR", type=Path, help="a folder of additional model entries")
    parser.add_argument(
        "--allow-downloads", action="store_true", help="let the app download (and prepare) models that it declares"
    )
    parser.add_argument(
        "--allow-model-management", action="store_true", help="let the app import, remove and collect models"
    )
    parser.add_argument(
        "--descriptors",
        metavar="FD",
        type=values.descriptor,
        help="an inherited Unix datagram socket, on which the host sends open files to host.pickFile",
    )
    parser.add_argument(
        "--idle-unload",
        metavar="SECONDS",
        type=values.seconds,
        default=300.0,
        help="end the engine after this long without a job (300)",
    )
    parser.add_argument(
        "--stall-timeout",
        metavar="SECONDS",
        type=values.positive,
        default=120.0,
        help="kill an engine that makes no progress for this long (120)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch: compile the models' blocks; faster steps, but the first picture of each size takes much longer",
    )
    parser.add_argument(
        "--prefer-float16",
        action="store_true",
        help="mlx: on an M1 or M2, whose GPU has no bfloat16, precision auto means float16; elsewhere no effect",
    )
    parser.add_argument("--queue", metavar="N", type=values.count, default=16, help="how many jobs may wait (16)")
    parser.add_argument(
        "--max-line-bytes",
        metavar="N",
        type=values.line_bytes,
        default=16 * 1024 * 1024,
        help="the longest line accepted, in bytes (16777216)",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="detail of the log on stderr (info)",
    )


def _draw(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="what to draw")
    _drawing(parser)
    parser.set_defaults(file=None)
    _pictures(parser, "a picture to edit; several, with a model that takes references, one flag each")


def _edit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="IMAGE", type=Path, help="the picture to edit; the file itself is not changed")
    parser.add_argument("prompt", help="what the picture should show; for FLUX.1 Kontext, what to change")
    _drawing(parser)
    _pictures(parser, "another picture, for a model that takes several references; one flag each")


def _pictures(parser: argparse.ArgumentParser, words: str) -> None:
    parser.add_argument("--image", metavar="FILE", type=Path, action="append", default=[], help=words)


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", default="a smiling sun on a purple background")
    _engine(parser)
    parser.add_argument(
        "--out", metavar="PATH", type=Path, default=Path("out"), help="a folder, or a file (.png, .jpg, .webp) (out)"
    )
    parser.add_argument("--model", metavar="ID", default="pocket", help="model id (pocket)")
    parser.add_argument("--seed", metavar="N", type=int, help="the same seed draws the same picture")
    parser.add_argument("--steps", metavar="N", type=int, help="denoising steps")
    parser.add_argument("--negative", default="", metavar="TEXT", help="what the picture should not show")
    parser.add_argument("--catalogue", metavar="DIR", type=Path, help="a folder of additional model entries")
    parser.add_argument("--transcript", metavar="FILE", type=Path, help="write every line sent and received")
    _preview(parser)


def _doctor(parser: argparse.ArgumentParser) -> None:
    _engine(parser)
    parser.add_argument("--cache-dir", metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--verify", action="store_true", help="only hash the files of the folder that an app ships, against its list"
    )


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = _COMPLETION
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.add_argument("--catalogue", metavar="DIR", type=Path, help="a folder of additional model entries")


def _models(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar=_one_of(_MODEL_VERBS), prog=parser.prog)
    for verb, words in _MODEL_VERBS.items():
        _model_verb(verbs.add_parser(verb, help=words), verb)


def _model_verb(parser: argparse.ArgumentParser, verb: str) -> None:
    if verb not in ("list", "usage", "gc"):
        parser.add_argument("model", help="model id")
    if verb == "import":
        parser.add_argument("folder", type=Path, help="a model in diffusers' layout, or a Hugging Face cache")
        parser.add_argument("--replace", action="store_true", help="replace a different one that is installed")
    if verb in ("download", "import"):
        parser.add_argument(
            "--engine",
            choices=("auto", *ENGINES),
            default="auto",
            help="the engine that must be able to open the model; fake: no check (auto)",
        )
    if verb == "prepare":
        parser.add_argument("--quantization", choices=("8bit", "4bit"), required=True, help="bits per weight")
        parser.add_argument(
            "--precision",
            choices=("auto", "float32", "bfloat16", "float16"),
            default="auto",
            help="floating-point type to compute in (auto)",
        )
        parser.add_argument("--engine", choices=_DRAWING, default="auto", help="which engine (auto)")
    if verb == "remove":
        parser.add_argument("--prepared", action="store_true", help="only its prepared forms")
    if verb == "gc":
        parser.add_argument(
            "--max-bytes",
            metavar="SIZE",
            type=values.size,
            help="remove the least recently used models until the cache is this small: 500M, 20G, 20GiB",
        )
    if verb in ("remove", "gc"):
        parser.add_argument("--dry-run", action="store_true", help="only show what would be removed")
    parser.add_argument("--cache-dir", metavar="DIR", help="Locara's shared cache")
    parser.add_argument("--catalogue", metavar="DIR", type=Path, help="a folder of additional model entries")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _drawing(parser: argparse.ArgumentParser) -> None:
    _engine(parser)
    parser.add_argument("--model", metavar="ID", help="the first installed one of `locara-sidecar models list`")
    parser.add_argument(
        "--size", metavar="WxH", type=values.pixels, help="width and height in pixels, such as 1024x768"
    )
    parser.add_argument("--steps", metavar="N", type=int, help="denoising steps")
    parser.add_argument("--guidance", metavar="G", type=values.number, help="how closely to follow the prompt")
    parser.add_argument("--seed", metavar="N", type=int, help="the same seed draws the same picture")
    parser.add_argument("--count", metavar="N", type=int, help="how many pictures, with consecutive seeds (1)")
    parser.add_argument("--negative", metavar="TEXT", default="", help="what the picture should not show")
    parser.add_argument("--scheduler", metavar="NAME", help="one of the model's schedulers")
    parser.add_argument("--quantization", choices=("auto", "none", "8bit", "4bit"), help="bits per weight (auto)")
    parser.add_argument("--mask", metavar="FILE", type=Path, help="white where the picture may change")
    parser.add_argument(
        "--strength", metavar="S", type=values.number, help="how much of the picture changes, 0 to 1 (0.6)"
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        type=Path,
        default=Path(),
        help="a folder, or a file (.png, .jpg, .webp); default: the current folder",
    )
    parser.add_argument("--open", action="store_true", help="open the picture when it is done")
    _preview(parser)
    parser.add_argument("--cache-dir", metavar="DIR", help="Locara's shared cache")
    parser.add_argument("--catalogue", metavar="DIR", type=Path, help="a folder of additional model entries")


def _preview(parser: argparse.ArgumentParser) -> None:
    from locara_sidecar.cli.output.terminal import PICTURES

    words = "how the terminal shows the picture; auto asks the terminal (auto)"
    parser.add_argument("--preview", choices=("auto", *PICTURES), default="auto", help=words)


def _engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=("auto", *ENGINES), default="auto", help="which engine draws (auto)")


COMMANDS = {
    "serve": ("speak the protocol on stdin and stdout (the default)", _serve),
    "draw": ("draw a picture from a prompt, with a live preview in the terminal", _draw),
    "edit": ("edit a picture according to a prompt", _edit),
    "demo": ("draw a picture as a host would, with a live preview in the terminal", _demo),
    "doctor": ("what this machine offers: engines, memory, sandbox, folders", _doctor),
    "models": ("list, download, import, prepare, verify, remove, collect", _models),
    "completion": ("print a script that completes commands, flags, models and paths in a shell", _completion),
}
