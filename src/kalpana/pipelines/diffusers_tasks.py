"""Tasks of a pipeline of the diffusers library: the inputs that it takes, and what of a request it
can use, found from its class, the signature of its call and the configs of its parts.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

from kalpana.capabilities import Capabilities, Defaults
from kalpana.types import KalpanaError

REQUIRED = inspect.Parameter.empty
# Arguments that a request gives; a pipeline that needs others is refused.
GIVEN = ("prompt", "image", "mask_image", "control_image", "kwargs")
# Frame rates that models were trained for, where no argument of the call states it.
FPS = {"Wan": 16, "Mochi": 30, "HunyuanVideo": 15, "Allegro": 15, "SkyReels": 24, "Kandinsky5": 24}
FPS_OTHER = 8
FRAME_RATES = ("frame_rate", "target_fps", "fps")  # arguments of a call
SIDE = 512  # pixels of a picture, for a pipeline that does not state its size
BINS = (16, 32, 64, 128, 256)  # sides of latents for which a pipeline knows its usual sizes


class Task(NamedTuple):
    """Inputs of a pipeline besides the prompt."""

    image: bool = False
    mask: bool = False
    control: bool = False

    def __str__(self) -> str:
        names = [name for name, given in zip(self._fields, self, strict=True) if given]
        return " and ".join(names) or "a prompt alone"


def parameters(pipe: Any) -> dict[str, Any]:
    """Arguments of the call of a pipeline with their defaults, REQUIRED for those without one."""
    found = list(inspect.signature(type(pipe).__call__).parameters.values())[1:]
    return {each.name: each.default for each in found}


def tasks(pipe: Any) -> dict[Task, Any]:
    """Pipelines by task, all with the parts of ``pipe``: itself, and those of sibling classes.

    Raises KalpanaError if its class generates nothing from a prompt or a picture.
    """
    found = dict[Task, Any]()
    for each in _relatives(pipe):
        for task in _own_tasks(each):
            found.setdefault(task, each)
    name, call = type(pipe).__name__, parameters(pipe)
    if lacking := [arg for arg, value in call.items() if value is REQUIRED and arg not in GIVEN]:
        raise KalpanaError(
            f"a {name} needs {', '.join(lacking)}, which no request has: "
            "take a pipeline that needs a prompt or a picture only"
        )
    if not {"prompt", "image"} & call.keys():
        raise KalpanaError(f"a {name} reads no prompt: take one that generates from text")
    return found


def _own_tasks(pipe: Any) -> list[Task]:
    """Tasks of one pipeline."""
    from diffusers.pipelines import auto_pipeline as auto

    call, control = parameters(pipe), has_control(pipe)
    if "mask_image" in call:
        return [Task(True, True, control)]
    if "image" not in call or control_argument(pipe) == "image":
        return [Task(control=control)]
    texts = (auto.AUTO_TEXT2IMAGE_PIPELINES_MAPPING, auto.AUTO_TEXT2VIDEO_PIPELINES_MAPPING)
    optional = call["image"] is not REQUIRED and any(type(pipe) in m.values() for m in texts)
    return [Task(True, False, control), *([Task(control=control)] if optional else [])]


def has_control(pipe: Any) -> bool:
    """Whether a pipeline reads a control map."""
    return pipe.components.get("controlnet") is not None


def control_argument(pipe: Any) -> str | None:
    """Argument of the call that takes the control map; None for a pipeline without control."""
    if not has_control(pipe):
        return None
    return "control_image" if "control_image" in parameters(pipe) else "image"


def _relatives(pipe: Any) -> Iterator[Any]:
    """The pipeline, and those of other classes for the same kind of model, on the same parts."""
    import diffusers
    from diffusers.pipelines import auto_pipeline as auto

    yield pipe
    network = pipe.components.get("unet") or pipe.components.get("transformer")
    channels: list[Any] = [
        getattr(network.config, f"{end}_channels", None) for end in ("in", "out")
    ]
    if None not in channels and channels[0] > channels[1]:
        return  # a network that reads a picture beside the latents does nothing else
    classes = list[Any]()
    for name in ("TEXT2IMAGE", "IMAGE2IMAGE", "INPAINT", "TEXT2VIDEO", "IMAGE2VIDEO"):
        mapping = getattr(auto, f"AUTO_{name}_PIPELINES_MAPPING")
        classes.append(auto._get_task_class(mapping, type(pipe).__name__, False))
    if has_control(pipe):  # the same without control
        names = [kind.__name__.replace("ControlNet", "") for kind in classes if kind]
        classes += [getattr(diffusers, name, None) for name in names]
    for kind in dict.fromkeys(classes):
        if kind is not None and kind is not type(pipe) and (other := _sibling(pipe, kind)):
            yield other


def _sibling(pipe: Any, kind: Any) -> Any:
    """A pipeline of another class on the same parts, with a scheduler of its own; None if it needs
    others."""
    parts, options = kind._get_signature_keys(kind)
    given = {name: part for name, part in pipe.components.items() if name in parts}
    if set(parts) - given.keys() - set(kind._optional_components):
        return None
    if "scheduler" in given:  # some classes change the settings of theirs
        given["scheduler"] = deepcopy(given["scheduler"])
    given |= dict.fromkeys(set(parts) - given.keys())
    return kind(**given, **{name: pipe.config[name] for name in options if name in pipe.config})


def capabilities(pipes: Mapping[Task, Any]) -> Capabilities:
    """Capabilities of a model with these pipelines."""
    first = next(iter(pipes.values()))
    call = parameters(first)
    all_of = {name: value for pipe in pipes.values() for name, value in parameters(pipe).items()}
    guided, video = guidance_argument(first), "num_frames" in call
    uses = {
        "prompt": "prompt" in call,
        "negative_prompt": guided is not None and reads_negative(first),
        "steps": "num_inference_steps" in call,
        "guidance": guided is not None,
        "size": {"height", "width"} <= all_of.keys(),
        "image": any(task.image for task in pipes),
        "mask": any(task.mask for task in pipes),
        "strength": "strength" in all_of,
        "last_image": reads_last(first),
        "control": any(task.control for task in pipes),
        "seconds": video,
        "fps": video,
    }
    width, height = default_size(first)
    size = f"{width}x{height}"
    fps = frame_rate(first)
    frames = (call.get("num_frames") or first.unet.config.num_frames) if video else 1
    strengths = [s for t, p in pipes.items() if not t.mask and (s := parameters(p).get("strength"))]
    return Capabilities(
        uses=tuple(name for name, used in uses.items() if used),
        sizes=(size,),
        multiple=multiple(first),
        samplers=(),
        languages=("en",),
        controls=control_kinds(first),
        defaults=Defaults(
            steps=call.get("num_inference_steps"),
            guidance=1.0 if guided is None else float(call[guided]),
            sampler=None,
            size=size,
            strength=min(max(strengths, default=1.0), 1.0) if "strength" in all_of else None,
            seconds=frames / fps if video else None,
            fps=fps if video else None,
        ),
    )


def guidance_argument(pipe: Any) -> str | None:
    """Argument of the call for the guidance, None if it has no effect."""
    call = parameters(pipe)
    if isinstance(true := call.get("true_cfg_scale"), int | float) and true > 1:
        return "true_cfg_scale"
    if not isinstance(call.get("guidance_scale"), int | float):
        return None
    transformer = pipe.components.get("transformer")
    if "true_cfg_scale" in call and not getattr(transformer.config, "guidance_embeds", True):
        return None  # distilled without guidance
    return "guidance_scale"


def reads_negative(pipe: Any) -> bool:
    """Whether the guidance moves away from a negative prompt: not where it is an input of a
    distilled network."""
    call, unet = parameters(pipe), pipe.components.get("unet")
    distilled = "true_cfg_scale" in call and guidance_argument(pipe) == "guidance_scale"
    embedded = unet is not None and getattr(unet.config, "time_cond_proj_dim", None) is not None
    return "negative_prompt" in call and not distilled and not embedded


def reads_last(pipe: Any) -> bool:
    """Whether a video pipeline can be given the last picture."""
    if "last_image" not in parameters(pipe):
        return False
    config = pipe.transformer.config
    return config.get("image_dim") is None or config.get("pos_embed_seq_len") is not None


def control_kinds(pipe: Any) -> tuple[str, ...]:
    """Kinds of control maps of a pipeline, one for each ControlNet: ``map``, since no config states
    what a ControlNet was trained on."""
    if not has_control(pipe):
        return ()
    nets = getattr(pipe.controlnet, "nets", None)
    return ("map",) if nets is None else tuple(f"map{k}" for k in range(1, len(nets) + 1))


def default_size(pipe: Any) -> tuple[int, int]:
    """Width and height that a pipeline generates by default, in pixels."""
    call = parameters(pipe)
    sides = call.get("width"), call.get("height")
    if all(isinstance(side, int) for side in sides):
        return sides  # type: ignore[return-value]
    sides = getattr(pipe, "default_width", None), getattr(pipe, "default_height", None)
    if all(isinstance(side, int) for side in sides):
        return sides  # type: ignore[return-value]
    network = pipe.components.get("unet") or pipe.components.get("transformer")
    config, factor = network.config, scale(pipe)
    sides = config.get("sample_width"), config.get("sample_height")
    if all(isinstance(side, int) for side in sides):
        return sides[0] * factor, sides[1] * factor
    side = getattr(pipe, "default_sample_size", None) or config.get("sample_size")
    if isinstance(side, list | tuple) and len(side) == 2:
        return side[1] * factor, side[0] * factor
    return (side * factor, side * factor) if isinstance(side, int) else (SIDE, SIDE)


def scale(pipe: Any) -> int:
    """Pixels along the side of one latent."""
    for name in ("vae_scale_factor", "vae_scale_factor_spatial", "vae_spatial_compression_ratio"):
        if isinstance(found := getattr(pipe, name, None), int):
            return found
    return 8


def multiple(pipe: Any) -> int:
    """Number of pixels of which both sides of a picture are multiples."""
    if "movq" in pipe.components:
        return 64
    transformer = pipe.components.get("transformer")
    patch = transformer.config.get("patch_size", 1) if transformer is not None else 1
    if isinstance(patch, list | tuple):
        patch = max(patch[-2:])
    return math.lcm(16, scale(pipe) * (patch or 1))


def frame_rate(pipe: Any) -> int:
    """Frames a second of the videos of a pipeline by default."""
    call, name = parameters(pipe), type(pipe).__name__
    for argument in FRAME_RATES:
        if isinstance(call.get(argument), int | float):
            return round(call[argument])
    return next((fps for start, fps in FPS.items() if name.startswith(start)), FPS_OTHER)


def whole_frames(pipe: Any, count: int) -> int:
    """The least number of frames from ``count`` on that a pipeline can generate."""
    names = (
        *("vae_scale_factor_temporal", "vae_temporal_compression_ratio"),
        *("vae_temporal_scale_factor", "temporal_compression_ratio"),
    )
    factors = (getattr(pipe, name, None) for name in names)
    factor = next((each for each in factors if isinstance(each, int)), 1)
    return 1 + -(-(count - 1) // factor) * factor
