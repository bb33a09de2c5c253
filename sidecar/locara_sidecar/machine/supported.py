"""The engines of this version and the model families that they support: one row each, with no heavy imports.

Daemon, engines, catalogue and memory plan read these rows. A new family is a row here, an adapter for each engine that
supports it, and the rules for its configuration in ``engine/folder``; a new engine is a row here and its own package.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import msgspec

from locara_sidecar.machine.plan import QUANTIZATIONS, Quantization

LEAST_STEPS = 12
"""The minimum for step caching: with fewer steps there is little to predict from, and little to gain."""

# --- engines -----------------------------------------------------------------------------------


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """One engine.

    :param runtime: ``module:name``, under ``locara_sidecar.engine``, of its factory, which takes a scratch folder and
        settings.
    :param packages: what must be installed, as by the extra ``locara-sidecar[name]``.
    :param draws_models: whether it needs a model at all.
    :param apple: preferred on Apple silicon if true, and everywhere else if not.
    :param chosen: what ``system.info`` says if ``auto`` selects it because it is preferred.
    :param nvidia: plans with the memory of an NVIDIA GPU, if there is one.
    :param compiles: can compile the models' blocks.
    :param prefers_float16: can take float16 for ``auto`` where a GPU has no bfloat16.
    :param quantizations: what it can load, best quality first.
    :param keeps_prepared: whether it keeps prepared models; ``unprepared``: why not, if there is more to say.
    """

    name: str
    runtime: str
    packages: tuple[str, ...] = ()
    draws_models: bool = True
    apple: bool = False
    chosen: str = ""
    nvidia: bool = False
    compiles: bool = False
    prefers_float16: bool = False
    quantizations: tuple[Quantization, ...] = QUANTIZATIONS
    keeps_prepared: bool = False
    unprepared: str = ""


ENGINES: Mapping[str, Engine] = MappingProxyType({
    row.name: row
    for row in (
        Engine(
            name="mlx",
            runtime="mlx_engine.starting:create",
            packages=("mlx", "tokenizers", "safetensors", "numpy"),
            apple=True,
            chosen="Chosen by auto, as on every Mac with Apple silicon.",
            prefers_float16=True,
            keeps_prepared=True,
        ),
        Engine(
            name="torch",
            runtime="torch_engine.runtime:create",
            packages=("torch", "diffusers", "transformers"),
            chosen="Chosen by auto; mlx is chosen on Apple silicon only.",
            nvidia=True,
            compiles=True,
            unprepared="it quantizes them while it loads them",
        ),
        Engine(name="fake", runtime="fake_engine.runtime:FakeRuntime", draws_models=False, quantizations=()),
    )
})  # fmt: skip

# --- families ----------------------------------------------------------------------------------


class Tokenizer(NamedTuple):
    """How to read a text encoder's tokenizer. ``title``: its display name; ``classes``: the class names that a folder
    may have for it. ``package``: transformers' package of the tokenizer and, unless ``encoder`` names another, of the
    encoder. ``own_limit``: the number of tokens is set by its configuration, not by the job. ``before`` and ``after``:
    the chat template around a prompt, for encoders that are chat models.
    """

    title: str
    classes: frozenset[str]
    package: str
    own_limit: bool
    encoder: str = ""
    before: str = ""
    after: str = ""

    @property
    def packages(self) -> tuple[str, str]:
        """transformers' packages of the tokenizer and the encoder."""
        return self.package, self.encoder or self.package

    @property
    def converses(self) -> bool:
        """Whether a prompt is wrapped in a chat template, as the message of a user."""
        return bool(self.before)


_CLIP_CLASSES = frozenset({"CLIPTokenizer", "CLIPTokenizerFast"})
CLIP_L = Tokenizer("CLIP-L", _CLIP_CLASSES, "clip", own_limit=True)
CLIP_G = Tokenizer("CLIP-G", _CLIP_CLASSES, "clip", own_limit=True)
T5 = Tokenizer("T5", frozenset({"T5Tokenizer", "T5TokenizerFast"}), "t5", own_limit=False)
QWEN3 = Tokenizer(
    "Qwen3",
    frozenset({"Qwen2Tokenizer", "Qwen2TokenizerFast"}),
    "qwen2",
    own_limit=False,
    encoder="qwen3",
    before="<|im_start|>user\n",
    after="<|im_end|>\n<|im_start|>assistant\n",
)
"""With the end of its own chat template for answers that may begin with thoughts; :data:`QWEN3_TERSE` for answers that
may not.
"""
QWEN3_TERSE = QWEN3._replace(after=f"{QWEN3.after}<think>\n\n</think>\n\n")


Noise = Literal["flow-match", "scaled"]


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """What models of one family consist of, and what they can do.

    :param name: the catalogue's ``family``.
    :param pipeline: ``_class_name`` in ``model_index.json``, and ``edit_pipelines``: others of diffusers' classes with
        the same parts, under which a folder may have been saved.
    :param encoders: the text encoder components and their classes, in the order of loading.
    :param denoiser: the component that the sampling loop calls, and ``network``, its class; ``decoder`` and
        ``autoencoder``: the component between latents and pixels, and its class.
    :param taps: which states between the layers of its text encoder are read: 0 is the word table, k the output of
        layer k, negative ones count from the end. Layers above the highest of them are not loaded.
    :param tokenizers: in the order in which truncated words are reported.
    :param optional: components that a folder may lack.
    :param noise: how noise is added, which decides the schedulers (``engine/folder/schedulers.py``).
    :param negative_prompt: whether guidance over 1 contrasts the prompt with a negative one, which may be empty.
    :param embeds_guidance: some of its models were trained with guidance as an input, others without.
    :param guided_by_default: whether an entry without a negative prompt is guided if its default guidance is over 0.
    :param modalities: what a catalogue entry may list; another one is left out.
    :param references: how many pictures an edit may have. If more than one, each keeps its own size
        (``engine/drawing/source.py``); otherwise the picture has the job's.
    :param no_mask: why an edit takes no mask; empty if inpainting is supported.
    :param rounds_down: diffusers' pipelines round the steps of an edit down, not up.
    :param cached_by: the engines whose step caching supports its denoiser.
    :param adapters: by engine, ``module:Class`` under ``locara_sidecar.engine``.
    """

    name: str
    pipeline: str
    encoders: Mapping[str, str]
    network: str
    tokenizers: Mapping[str, Tokenizer]
    adapters: Mapping[str, str]
    edit_pipelines: frozenset[str] = frozenset()
    denoiser: str = "transformer"
    decoder: str = "vae"
    autoencoder: str = "AutoencoderKL"
    taps: tuple[int, ...] = ()
    optional: frozenset[str] = frozenset()
    noise: Noise = "flow-match"
    negative_prompt: bool = False
    embeds_guidance: bool = False
    guided_by_default: bool = True
    modalities: frozenset[str] = frozenset({"text-to-image", "image-to-image"})
    references: int = 1
    no_mask: str = ""
    rounds_down: bool = False
    cached_by: frozenset[str] = frozenset()

    @property
    def saved_as(self) -> tuple[str, ...]:
        """Return what ``_class_name`` may be, the usual one first."""
        return self.pipeline, *sorted(self.edit_pipelines)

    @property
    def components(self) -> dict[str, str]:
        """Return the components with weights and their classes, in the order of loading."""
        return {**self.encoders, self.denoiser: self.network, self.decoder: self.autoencoder}

    def layers_read(self, layers: int) -> int:
        """Return how many of a text encoder's ``layers`` are loaded."""
        return max((tap if tap >= 0 else layers + 1 + tap for tap in self.taps), default=layers)

    def stem(self, component: str) -> str:
        """Return the base name of a component's weight files: text encoders were saved by another library."""
        return "model" if component in self.encoders else "diffusion_pytorch_model"


_FLUX = Family(
    name="flux",
    pipeline="FluxPipeline",
    edit_pipelines=frozenset({"FluxImg2ImgPipeline", "FluxInpaintPipeline"}),
    encoders={"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel"},
    network="FluxTransformer2DModel",
    tokenizers={"tokenizer": CLIP_L, "tokenizer_2": T5},
    embeds_guidance=True,
    cached_by=frozenset({"mlx", "torch"}),
    adapters={"torch": "torch_engine.families.flux:Flux", "mlx": "mlx_engine.families.flux1:Flux1"},
)

FAMILIES: Mapping[str, Family] = MappingProxyType({
    row.name: row
    for row in (
        Family(
            name="sd3",
            pipeline="StableDiffusion3Pipeline",
            edit_pipelines=frozenset({"StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"}),
            encoders={
                "text_encoder": "CLIPTextModelWithProjection",
                "text_encoder_2": "CLIPTextModelWithProjection",
                "text_encoder_3": "T5EncoderModel",
            },
            network="SD3Transformer2DModel",
            tokenizers={"tokenizer": CLIP_L, "tokenizer_2": CLIP_G, "tokenizer_3": T5},
            optional=frozenset({"tokenizer_3", "text_encoder_3"}),
            negative_prompt=True,
            cached_by=frozenset({"mlx", "torch"}),
            adapters={"torch": "torch_engine.families.sd3:Sd3", "mlx": "mlx_engine.families.sd3:Sd3"},
        ),
        _FLUX,
        msgspec.structs.replace(
            _FLUX,
            name="flux-kontext",
            pipeline="FluxKontextPipeline",
            edit_pipelines=frozenset({"FluxKontextInpaintPipeline"}),
            modalities=frozenset({"text-to-image", "image-text-to-image"}),
            no_mask="Kontext follows the instruction alone and takes no mask.",
            adapters={
                "torch": "torch_engine.families.flux_kontext:FluxKontext",
                "mlx": "mlx_engine.families.flux1:Flux1Kontext",
            },
        ),
        Family(
            name="sdxl",
            pipeline="StableDiffusionXLPipeline",
            edit_pipelines=frozenset({"StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"}),
            encoders={"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"},
            denoiser="unet",
            network="UNet2DConditionModel",
            tokenizers={"tokenizer": CLIP_L, "tokenizer_2": CLIP_G},
            noise="scaled",
            negative_prompt=True,
            guided_by_default=False,
            rounds_down=True,
            adapters={"torch": "torch_engine.families.sdxl:Sdxl", "mlx": "mlx_engine.families.sdxl:Sdxl"},
        ),
        Family(
            name="z-image",
            pipeline="ZImagePipeline",
            edit_pipelines=frozenset({"ZImageImg2ImgPipeline", "ZImageInpaintPipeline"}),
            encoders={"text_encoder": "Qwen3Model"},
            network="ZImageTransformer2DModel",
            tokenizers={"tokenizer": QWEN3},
            taps=(-2,),
            guided_by_default=False,
            adapters={"torch": "torch_engine.families.z_image:ZImage", "mlx": "mlx_engine.families.z_image:ZImage"},
        ),
        Family(
            name="flux2",
            pipeline="Flux2KleinPipeline",
            edit_pipelines=frozenset({"Flux2KleinInpaintPipeline"}),
            encoders={"text_encoder": "Qwen3ForCausalLM"},
            network="Flux2Transformer2DModel",
            autoencoder="AutoencoderKLFlux2",
            tokenizers={"tokenizer": QWEN3_TERSE},
            taps=(9, 18, 27),
            guided_by_default=False,  # it was distilled to run at 1, that is, without guidance
            modalities=frozenset({"text-to-image", "image-text-to-image"}),
            references=10,
            no_mask="FLUX.2 [klein] follows the instruction alone and takes no mask.",
            adapters={"torch": "torch_engine.families.flux2:Flux2", "mlx": "mlx_engine.families.flux2:Flux2"},
        ),
    )
})  # fmt: skip
"""The families that the engines of this version support."""


def least_steps(engine: str, family: str, speed: str) -> int | None:
    """Return the minimum number of steps, of those that actually run, with which ``engine`` can run at ``speed`` (a
    name of the contract); None if it never can. ``exact`` always works, and an engine without models supports any
    speed.
    """
    if speed == "exact" or not ENGINES[engine].draws_models:
        return 1
    row = FAMILIES.get(family)
    return LEAST_STEPS if row is not None and engine in row.cached_by else None


def steps_at(family: str, strength: float, steps: int) -> int:
    """Return how many of ``steps`` an edit of ``strength`` in (0, 1] runs: the last ones, at least one.

    Counted as in diffusers: its pipelines round up, those of SDXL down.
    """
    row = FAMILIES.get(family)
    down = row is not None and row.rounds_down
    return max(1, int(steps * strength) if down else steps - int(steps - steps * strength))
