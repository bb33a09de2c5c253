"""Stable Diffusion 3 and 3.5 over diffusers' own pipeline: its loop, its arithmetic, its configuration.

Our part is around it: loading from a folder piece by piece, encoding one text at a time so that it can be kept,
noise from our stream, decoding as a phase of its own. With equal noise the pixels are diffusers' to the bit.
The third encoder (T5) may be absent; the pipeline then gives zeros of ``max_sequence_length`` tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3 import pipeline_stable_diffusion_3 as pipeline_module
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from safetensors import SafetensorError
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection
from transformers.models.clip.tokenization_clip import CLIPTokenizer
from transformers.models.t5.modeling_t5 import T5EncoderModel
from transformers.models.t5.tokenization_t5 import T5Tokenizer

from locara_sidecar.engine import model_folder
from locara_sidecar.engine.torch_engine import weights
from locara_sidecar.engine.torch_engine.devices import memory_fault
from locara_sidecar.engine.torch_engine.family import Embedding
from locara_sidecar.engine.torch_engine.hooks import OnStep, drawing_from, observed_steps
from locara_sidecar.engine.torch_engine.previews import Previews, raw_latent
from locara_sidecar.engine.torch_engine.truncation import Reader

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from locara_sidecar.engine.frames import JobSpec
    from locara_sidecar.engine.noise import NoiseStream
    from locara_sidecar.engine.torch_engine.family import LoadContext

_PIPELINE = "StableDiffusion3Pipeline"
_CLIP_TOKENIZERS = frozenset({"CLIPTokenizer", "CLIPTokenizerFast"})
_CLASSES: model_folder.Classes = {
    "scheduler": frozenset({"FlowMatchEulerDiscreteScheduler"}),
    "tokenizer": _CLIP_TOKENIZERS,
    "tokenizer_2": _CLIP_TOKENIZERS,
    "tokenizer_3": frozenset({"T5Tokenizer", "T5TokenizerFast"}),
    "text_encoder": frozenset({"CLIPTextModelWithProjection"}),
    "text_encoder_2": frozenset({"CLIPTextModelWithProjection"}),
    "text_encoder_3": frozenset({"T5EncoderModel"}),
    "transformer": frozenset({"SD3Transformer2DModel"}),
    "vae": frozenset({"AutoencoderKL"}),
}
_OPTIONAL = frozenset({"tokenizer_3", "text_encoder_3"})
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
_MODELS: dict[str, tuple[Any, str]] = {
    "text_encoder": (CLIPTextModelWithProjection, "model"),
    "text_encoder_2": (CLIPTextModelWithProjection, "model"),
    "text_encoder_3": (T5EncoderModel, "model"),
    "transformer": (SD3Transformer2DModel, "diffusion_pytorch_model"),
    "vae": (AutoencoderKL, "diffusion_pytorch_model"),
}
_WRONG = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, SafetensorError)
"""What the libraries raise for a configuration or weights that make no sense."""


class Sd3:
    """A loaded SD3 model; :class:`~locara_sidecar.engine.torch_engine.family.Family` tells what each verb does."""

    schedulers = frozenset({"flow-match-euler"})

    def __init__(self, pipe: Any, folder: Path) -> None:
        self._pipe = pipe
        self.previews = Previews(folder, pipe.vae)

    @classmethod
    def load(cls, context: LoadContext) -> Sd3:
        """Check the whole folder, then load component by component.

        :raises EngineFault: ModelIncomplete or IntegrityError, naming the file.
        :raises JobCancelled: between two tensors.
        """
        folder = context.folder
        found = model_folder.read_index(folder, _PIPELINE, _CLASSES, _OPTIONAL)
        scheduler = model_folder.read_json(folder, "scheduler/scheduler_config.json")
        parts = [
            model_folder.read_component(folder, name, found[name], stem)
            for name, (_, stem) in _MODELS.items()
            if name in found
        ]
        tokenizers = {name: _load_tokenizer(folder, name) for name in found if name.startswith("tokenizer")}
        context.checkpoint()
        modules: dict[str, Any] = dict.fromkeys(_OPTIONAL) | tokenizers
        progress = model_folder.Progress(sum(part.size for part in parts), context.report, context.checkpoint)
        for part in parts:
            modules[part.name] = _load_module(part, context, progress)
        modules["scheduler"] = cast("Any", FlowMatchEulerDiscreteScheduler).from_config(scheduler)
        pipe: Any = pipeline_module.StableDiffusion3Pipeline(**modules)
        pipe.set_progress_bar_config(disable=True)
        return cls(pipe, folder)

    def readers(self, max_sequence_length: int) -> list[Reader]:
        pipe = self._pipe
        clip = pipe.tokenizer_max_length
        readers = [Reader("CLIP-L", pipe.tokenizer, clip), Reader("CLIP-G", pipe.tokenizer_2, clip)]
        return readers + ([Reader("T5", pipe.tokenizer_3, max_sequence_length)] if pipe.text_encoder_3 else [])

    def encode(self, text: str, max_sequence_length: int) -> Embedding:
        tokens, _, pooled, _ = self._pipe.encode_prompt(
            prompt=text,
            prompt_2=None,
            prompt_3=None,
            do_classifier_free_guidance=False,
            max_sequence_length=max_sequence_length,
        )
        return Embedding(tokens, pooled)

    def denoise(
        self, spec: JobSpec, prompt: Embedding, negative: Embedding | None, noise: NoiseStream, on_step: OnStep
    ) -> torch.Tensor:
        with drawing_from(noise, pipeline_module.__name__), observed_steps(self._pipe.scheduler, on_step):
            result = self._pipe(
                prompt_embeds=prompt.tokens,
                pooled_prompt_embeds=prompt.pooled,
                negative_prompt_embeds=None if negative is None else negative.tokens,
                negative_pooled_prompt_embeds=None if negative is None else negative.pooled,
                height=spec.height,
                width=spec.width,
                num_inference_steps=spec.steps,
                guidance_scale=spec.guidance if negative is not None else 1.0,
                max_sequence_length=spec.model.max_sequence_length,
                output_type="latent",
                return_dict=False,
            )
        return cast("torch.Tensor", result[0])

    def decode(self, latent: torch.Tensor, *, tiled: bool) -> torch.Tensor:
        vae = self._pipe.vae
        if tiled:
            vae.enable_tiling()
        else:
            vae.disable_tiling()
        return cast("torch.Tensor", vae.decode(raw_latent(vae, latent), return_dict=False)[0])

    def to_image(self, pixels: torch.Tensor) -> Any:
        return self._pipe.image_processor.postprocess(pixels, output_type="pil")[0]


def _load_module(part: model_folder.Component, context: LoadContext, progress: model_folder.Progress) -> Any:
    model_class, stem = _MODELS[part.name]
    build = weights.build_transformers if stem == "model" else weights.build_diffusers
    try:
        module = build(model_class, part, context.dtype, progress).to(context.device)
    except _WRONG as error:
        if fault := memory_fault(error, context.device):
            raise fault from error
        raise model_folder.broken(f"{part.name}/config.json", "it does not fit the weights beside it") from error
    context.checkpoints.install(module)
    return module


def _load_tokenizer(folder: Path, name: str) -> Any:
    """A tokenizer from ``tokenizer.json``, or from ``vocab.json`` and ``merges.txt`` as in older folders."""
    model_folder.read_json(folder, f"{name}/tokenizer_config.json")
    is_t5 = name == "tokenizer_3"
    present = [file for file in _TOKENIZER_FILES if (folder / name / file).is_file()]
    if not present or (is_t5 and present[0] != "tokenizer.json"):
        raise model_folder.incomplete(f"{name}/tokenizer.json")
    for file in present:
        model_folder.read_json(folder, f"{name}/{file}")
    tokenizer_class: Any = T5Tokenizer if is_t5 else CLIPTokenizer
    try:
        return tokenizer_class.from_pretrained(str(folder / name), local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception
        raise model_folder.broken(f"{name}/{present[0]}", "it is no tokenizer") from error
