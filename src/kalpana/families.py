"""Registry of the model families: where each has its network, training task and pipeline, and what
its models can do. Adding a family adds one entry here and its own files.

Classes are named as "module:class" and imported when they are used, so that reading the registry
does not load torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from kalpana.capabilities import Capabilities, Defaults, Edits
from kalpana.world.classes import CLASSES


@dataclass(frozen=True)
class Family:
    """One family of models.

    - ``name``: in recipes, in the metadata of weight files, and in cards
    - ``network``: class of the network; its module also holds its dataclass ``Config``. None: the
      family has no weights of its own
    - ``file``: the weight file in a model's folder, empty without weights
    - ``task``: class of the training task, see ``train.task.Task``. None: not trained
    - ``recipe``: class of its recipes, see ``train.recipe.Recipe``. None: not trained
    - ``pipeline``: class that answers requests, with ``read(folder, card, device)``. None: it
      generates nothing from text
    - ``capabilities``: of its models, where their card states none
    - ``codec``: the family that turns its images into latents or tokens, and back
    - ``tasks``: what its models do, as their card lists it
    - ``extends``: the family whose network it widens: its weights can also be read as those of that
      family, without what it adds
    """

    name: str
    network: str | None = None
    file: str = ""
    task: str | None = None
    recipe: str | None = None
    pipeline: str | None = None
    capabilities: Capabilities | None = None
    codec: str | None = None
    tasks: tuple[str, ...] = ()
    extends: str | None = None

    def config_class(self) -> Any:
        """Class of the network's config."""
        assert self.network is not None
        return import_module(self.network.partition(":")[0]).Config

    def build(self, **config: Any) -> Any:
        """A network of the family with fresh weights; ``config`` holds fields of its Config."""
        assert self.network is not None
        network = find(self.network)
        return network(self.config_class()(**config)) if config else network()


def find(reference: str) -> Any:
    """The object that "module:name" refers to."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


_DIFFUSION = Capabilities(
    uses=(
        "prompt",
        "negative_prompt",
        "steps",
        "guidance",
        "guide_model",
        "sampler",
        "size",
        "image",
        "mask",
        "outpaint",
        "source_prompt",
        "strength",
        "adapter",
    ),
    edits=Edits(),
    tiles=16,
    defaults=Defaults(strength=0.6),
)
_TRANSFORMER = _DIFFUSION.model_copy(
    update={"uses": (*_DIFFUSION.uses, "style_image")}  # by shared attention
)
_VIDEO = Capabilities(
    uses=(
        "prompt",
        "negative_prompt",
        "steps",
        "guidance",
        "sampler",
        "size",
        "image",
        "last_image",
        "video",
        "strength",
        "extend",
        "camera",
        "seconds",
        "fps",
    ),
    sizes=("64x64", "96x64", "64x96", "128x128"),
    cameras=(
        "still",
        *(f"pan {side}" for side in ("left", "right", "up", "down")),
        "zoom in",
        "zoom out",
        "clockwise",
        "counter-clockwise",
    ),
    defaults=Defaults(
        steps=30,
        guidance=4.5,
        size="64x64",
        seconds=2,
        fps=8,
        strength=0.6,
        shift=2,
        interval=(0.2, 0.9),
    ),
)
_UNCLIP = Capabilities(
    uses=(
        "prompt",
        "steps",
        "guidance",
        "sampler",
        "size",
        "image",
        "last_image",
        "source_prompt",
        "strength",
    ),
    defaults=Defaults(strength=0.1),
)
_TOKENS = Capabilities(
    uses=("prompt", "guidance", "temperature", "top_k", "top_p", "size", "image", "mask"),
    samplers=(),
    defaults=Defaults(steps=None, sampler=None, temperature=1.0, top_p=1.0),
)
_TEXT_TO_IMAGE = ("text-to-image",)

_ALL = (
    Family(
        "vae",
        "kalpana.models.vae:VAE",
        "vae.safetensors",
        "kalpana.train.autoencoder:AutoencoderTask",
        "kalpana.train.autoencoder:AutoencoderRecipe",
    ),
    Family(
        "video-vae",
        "kalpana.models.video_vae:VideoVAE",
        "video_vae.safetensors",
        "kalpana.train.video_autoencoder:VideoAutoencoderTask",
        "kalpana.train.video_autoencoder:VideoAutoencoderRecipe",
    ),
    Family(
        "vqgan",
        "kalpana.models.vqgan:VQGAN",
        "vqgan.safetensors",
        "kalpana.train.vqgan:VQGANTask",
        "kalpana.train.vqgan:VQGANRecipe",
    ),
    Family(
        "flow",
        "kalpana.models.dit:DiT",
        "dit.safetensors",
        "kalpana.train.flow:FlowTask",
        "kalpana.train.flow:FlowRecipe",
        "kalpana.pipelines.diffusion:DiffusionPipeline",
        _TRANSFORMER,
        codec="vae",
        tasks=_TEXT_TO_IMAGE,
    ),
    Family(
        "unet",
        "kalpana.models.text_unet:TextUNet",
        "unet.safetensors",
        "kalpana.train.flow:UNetTask",
        "kalpana.train.flow:UNetRecipe",
        "kalpana.pipelines.diffusion:DiffusionPipeline",
        _DIFFUSION,
        codec="vae",
        tasks=_TEXT_TO_IMAGE,
    ),
    Family("pixels", "kalpana.models.pixels:Pixels"),
    Family(
        "pixel-unet",
        "kalpana.models.unet:UNet",
        "pixel_unet.safetensors",
        "kalpana.train.pixels:PixelTask",
        "kalpana.train.pixels:PixelRecipe",
        "kalpana.pipelines.diffusion:DiffusionPipeline",
        Capabilities(
            uses=(
                *("label", "steps", "guidance", "guide_model", "sampler", "size"),
                *("image", "mask", "strength"),
            ),
            sizes=("32x32",),
            labels=CLASSES,
            defaults=Defaults(steps=50, guidance=2.0, sampler="ddim", size="32x32", strength=0.6),
        ),
        codec="pixels",
        tasks=("class-to-image",),
    ),
    Family(
        "dalle",
        "kalpana.models.dalle:DALLE",
        "dalle.safetensors",
        "kalpana.train.token_tasks:DalleTask",
        "kalpana.train.token_tasks:DalleRecipe",
        "kalpana.pipelines.text_to_tokens:TextToTokens",
        _TOKENS,
        codec="vqgan",
        tasks=(*_TEXT_TO_IMAGE, "caption"),
    ),
    Family(
        "maskgit",
        "kalpana.models.dalle:MaskGIT",
        "maskgit.safetensors",
        "kalpana.train.token_tasks:MaskGITTask",
        "kalpana.train.token_tasks:MaskGITRecipe",
        "kalpana.pipelines.text_to_tokens:TextToTokens",
        _TOKENS.model_copy(
            update={
                "uses": ("steps", *_TOKENS.uses),
                "defaults": _TOKENS.defaults.model_copy(update={"steps": 10}),
            }
        ),
        codec="vqgan",
        tasks=_TEXT_TO_IMAGE,
    ),
    Family(
        "dalle-mini",
        "kalpana.models.dalle_mini:DalleMini",
        "dalle_mini.safetensors",
        "kalpana.train.token_tasks:DalleMiniTask",
        "kalpana.train.token_tasks:DalleMiniRecipe",
        "kalpana.pipelines.text_to_tokens:TextToTokens",
        _TOKENS,
        codec="vqgan",
        tasks=_TEXT_TO_IMAGE,
    ),
    Family(
        "vqgan-clip",
        pipeline="kalpana.pipelines.clip_guided:TextByClip",
        capabilities=Capabilities(
            uses=("prompt", "negative_prompt", "steps", "size", "image"),
            sizes=("128x128", "192x128", "128x192", "256x256"),
            samplers=(),
            defaults=Defaults(steps=100, guidance=1.0, sampler=None),
        ),
        codec="vqgan",
        tasks=_TEXT_TO_IMAGE,
    ),
    Family(
        "video",
        "kalpana.models.video_dit:VideoDiT",
        "video_dit.safetensors",
        "kalpana.train.video_flow:VideoFlowTask",
        "kalpana.train.video_flow:VideoFlowRecipe",
        "kalpana.pipelines.diffusion:DiffusionPipeline",
        _VIDEO,
        codec="video-vae",
        tasks=("text-to-video",),
    ),
    Family(
        "video-captioner",
        "kalpana.models.video_captioner:VideoCaptioner",
        "video_captioner.safetensors",
        "kalpana.train.video_captioner:VideoCaptionerTask",
        "kalpana.train.video_captioner:VideoCaptionerRecipe",
        codec="vqgan",
        tasks=("caption",),
    ),
    Family(
        "control",
        "kalpana.models.control_dit:ControlDiT",
        "control_dit.safetensors",
        "kalpana.train.control:ControlTask",
        "kalpana.train.control:ControlRecipe",
        "kalpana.pipelines.diffusion:DiffusionPipeline",
        _TRANSFORMER.model_copy(
            update={
                "uses": (*_TRANSFORMER.uses, "control"),
                "controls": ("edges", "outlines", "depth", "boxes", "pose", "glyphs"),
            }
        ),
        codec="vae",
        tasks=_TEXT_TO_IMAGE,
        extends="flow",
    ),
    Family(
        "turbo",
        "kalpana.models.turbo_dit:TurboDiT",
        "turbo_dit.safetensors",
        "kalpana.train.turbo:TurboTask",
        "kalpana.train.turbo:TurboRecipe",
        "kalpana.pipelines.diffusion:DiffusionPipeline",
        Capabilities(
            uses=("prompt", "steps", "guidance", "size", "image", "mask", "strength"),
            tiles=16,
            samplers=("euler",),
            guidances=(1.0, 8.0),
            defaults=Defaults(steps=4, guidance=4.5, sampler="euler", strength=0.6),
        ),
        codec="vae",
        tasks=_TEXT_TO_IMAGE,
    ),
    Family(  # of models in the layout of the diffusers library, which have no card
        "diffusers",
        pipeline="kalpana.pipelines.diffusers_pipeline:DiffusersPipeline",
        capabilities=Capabilities(samplers=(), languages=("en",)),
        tasks=_TEXT_TO_IMAGE,
    ),
    Family(
        "lora",
        "kalpana.models.lora:LoRA",
        "lora.safetensors",
        "kalpana.train.lora:LoRATask",
        "kalpana.train.lora:LoRARecipe",
    ),
    Family(
        "unclip",
        "kalpana.models.unclip:Unclip",
        "unclip.safetensors",
        "kalpana.train.unclip:UnclipTask",
        "kalpana.train.unclip:UnclipRecipe",
        "kalpana.pipelines.unclip:UnclipPipeline",
        _UNCLIP,
        codec="vae",
        tasks=(*_TEXT_TO_IMAGE, "variations"),
    ),
    Family(
        "unclip-prior",
        "kalpana.models.prior:Prior",
        "unclip_prior.safetensors",
        "kalpana.train.unclip:PriorTask",
        "kalpana.train.unclip:PriorRecipe",
    ),
    Family(
        "clip",
        "kalpana.models.clip:CLIP",
        "clip.safetensors",
        "kalpana.train.clip:CLIPTask",
        "kalpana.train.clip:CLIPRecipe",
    ),
    Family(
        "detector",
        "kalpana.models.detector:Detector",
        "detector.safetensors",
        "kalpana.train.detector:DetectorTask",
        "kalpana.train.detector:DetectorRecipe",
    ),
    Family(
        "reader",
        "kalpana.models.reader:Reader",
        "reader.safetensors",
        "kalpana.train.reader:ReaderTask",
        "kalpana.train.reader:ReaderRecipe",
    ),
    Family(
        "maps",
        "kalpana.models.map_estimator:MapEstimator",
        "map_estimator.safetensors",
        "kalpana.train.map_estimator:MapTask",
        "kalpana.train.map_estimator:MapRecipe",
    ),
    Family("lite0", "kalpana.models.lite0:Lite0", "lite0.safetensors"),
    Family("upscale", "kalpana.models.upscale:Upscaler", "upscale.safetensors"),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
