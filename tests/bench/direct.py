"""The other side of a comparison: diffusers' own pipeline in one process, as a script of a few lines would use it.

The process (``python -m bench.direct MODEL FOLDER STEPS``) reads one prompt per line, draws it, and prints how
many seconds that took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from support.measuring import ROOT

if TYPE_CHECKING:
    from types import TracebackType


class Direct:
    """Draws with plain diffusers in float32, in a child process that keeps the model loaded.

    :param model: the model's catalogue entry, whose defaults are used.
    :param folder: the model, in diffusers' layout.
    """

    def __init__(self, model: dict[str, Any], folder: Path, steps: int) -> None:
        command = [sys.executable, "-m", "bench.direct", json.dumps(model), str(folder), str(steps)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()
        self._child.__exit__(kind, error, trace)

    def draw(self, prompt: str) -> float:
        """Return the seconds from the prompt to the saved picture; the first call includes loading."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(prompt + "\n")
        self._child.stdin.flush()
        return float(self._child.stdout.readline())


def _main(model: dict[str, Any], folder: str, steps: int) -> None:
    import torch
    from diffusers import StableDiffusion3Pipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    absent = {} if (Path(folder) / "text_encoder_3").exists() else {"text_encoder_3": None, "tokenizer_3": None}
    pipeline: Any = StableDiffusion3Pipeline.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True, **absent
    )
    pipeline.set_progress_bar_config(disable=True)
    defaults = model["defaults"]
    for prompt in sys.stdin:
        began = time.perf_counter()
        pipeline(
            prompt.strip(),
            width=defaults["width"],
            height=defaults["height"],
            num_inference_steps=steps,
            guidance_scale=defaults["guidance"],
            max_sequence_length=defaults["maxSequenceLength"],
            generator=torch.Generator().manual_seed(1),
        ).images[0].save(os.devnull, "png")
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
