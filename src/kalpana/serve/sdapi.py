"""The API of Stable Diffusion web interfaces, as far as their clients need it: txt2img, img2img,
options, progress, samplers and models.

A field whose value asks for something that is not here is an error that names it.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.requests import Request as HttpRequest

from kalpana.diffusion.samplers import SAMPLERS
from kalpana.request import SEED_LIMIT
from kalpana.serve.accept import accept, done, read_output
from kalpana.serve.fields import Fields, Strict, invalid, only, picture, read_fields
from kalpana.serve.models import kinds_of
from kalpana.serve.page import body_of
from kalpana.serve.settings import Server, client_of, server_of
from kalpana.serve.store import OPEN

router = APIRouter(prefix="/sdapi/v1", tags=["sdapi"])

# Names of samplers in other programs.
SAMPLER_NAMES = {"euler": "euler", "heun": "heun", "dpm++ 2m": "dpmpp-2m", "dpmpp_2m": "dpmpp-2m"}
# Fields that clients always send, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "styles": ([],),
    "subseed": (-1,),
    "subseed_strength": (0,),
    "seed_resize_from_h": (-1, 0),
    "seed_resize_from_w": (-1, 0),
    "scheduler": ("Automatic", "automatic", ""),
    "restore_faces": (False,),
    "tiling": (False,),
    "enable_hr": (False,),
    "do_not_save_samples": (False, True),
    "do_not_save_grid": (False, True),
    "save_images": (False,),
    "send_images": (True,),
    "alwayson_scripts": ({},),
    "script_name": ("",),
    "script_args": ([],),
    "override_settings_restore_afterwards": (True,),
    "eta": (0,),
    "s_churn": (0,),
    "s_tmin": (0,),
    "s_noise": (1,),
    "s_min_uncond": (0,),
    "resize_mode": (0, 1),
    "mask_blur": (0, 4),
    "inpainting_fill": (0, 1),
    "inpaint_full_res": (False, True),
    "inpaint_full_res_padding": (0, 32),
    "initial_noise_multiplier": (1,),
    "include_init_images": (False,),
}


class TextFields(Strict):
    """The fields of txt2img."""

    prompt: str = Field("", description="what the picture shows")
    negative_prompt: str = Field("", description="what it should not show")
    seed: int = Field(-1, ge=-1, lt=SEED_LIMIT, description="-1: random")
    steps: int | None = Field(None, description="denoising steps")
    cfg_scale: float | None = Field(None, description="guidance")
    width: int | None = Field(None, description="pixels")
    height: int | None = Field(None, description="pixels")
    batch_size: int = Field(1, ge=1, le=64, description="pictures")
    n_iter: int = Field(1, ge=1, le=64, description="times that many pictures")
    sampler_name: str | None = Field(None, description="see /sdapi/v1/samplers")
    sampler_index: str | None = Field(None, description="the same as sampler_name")
    override_settings: dict[str, Any] = Field({}, description="sd_model_checkpoint only")


class ImageFields(TextFields):
    """The fields of img2img."""

    init_images: list[str] = Field([], description="one picture in base64")
    mask: str | None = Field(None, description="in base64; white is generated anew")
    inpainting_mask_invert: int = Field(0, ge=0, le=1, description="1: black is generated anew")
    denoising_strength: float | None = Field(None, description="strength, 0 to 1")


class OptionFields(Strict):
    """The options that can be set."""

    sd_model_checkpoint: str | None = Field(None, description="the model of these endpoints")


@router.post(
    "/txt2img",
    summary="Pictures from a prompt",
    openapi_extra=body_of(TextFields, request=False),
)
async def txt2img(http: HttpRequest) -> Response:
    fields = await read_fields(http, server_of(http).settings)
    sent = dict(fields)
    wire = only(_needed(fields), TextFields)
    return await _pictures(http, _request_fields(wire, server_of(http)), sent)


@router.post(
    "/img2img",
    summary="Pictures from a picture",
    openapi_extra=body_of(ImageFields, request=False),
)
async def img2img(http: HttpRequest) -> Response:
    server = server_of(http)
    fields = await read_fields(http, server.settings)
    sent = dict(fields)
    wire = only(_needed(fields), ImageFields)
    if len(wire.init_images) != 1:
        raise invalid("init_images", f"are {len(wire.init_images)} pictures: send one")
    asked = _request_fields(wire, server)
    asked["image"] = picture(wire.init_images[0], "init_images", server.settings, raw=True)
    if wire.mask is not None:
        asked["mask"] = picture(wire.mask, "mask", server.settings, raw=True)
        asked["mask_mode"] = "black" if wire.inpainting_mask_invert else "white"
    if wire.denoising_strength is not None:
        asked["strength"] = wire.denoising_strength
    hidden = {name: value for name, value in sent.items() if name not in ("init_images", "mask")}
    return await _pictures(http, asked, hidden)


def _needed(fields: Fields) -> Fields:
    """The fields without those that ask for nothing. Raises ApiError for one that asks for
    something that is not here."""
    for name, values in NEUTRAL.items():
        if name in fields and fields[name] not in values:
            raise invalid(name, "is not supported here: leave it out", "unsupported_field")
    return {name: value for name, value in fields.items() if name not in NEUTRAL}


def _request_fields(wire: TextFields, server: Server) -> Fields:
    """The fields of a Request."""
    override = only(dict(wire.override_settings), OptionFields)
    count = wire.batch_size * wire.n_iter
    fields: Fields = {
        "model": override.sd_model_checkpoint or server.sd_model,
        "prompt": wire.prompt,
        "negative_prompt": wire.negative_prompt or None,
        "n": count,
        "seed": None if wire.seed == -1 else wire.seed,
        "steps": wire.steps,
        "guidance": wire.cfg_scale,
        "width": wire.width,
        "height": wire.height,
    }
    sampler = wire.sampler_name or wire.sampler_index
    if sampler:
        known = SAMPLER_NAMES | {name: name for name in SAMPLERS}
        if sampler.lower() not in known:
            raise invalid("sampler_name", f"it is none of {', '.join(SAMPLERS)}")
        fields["sampler"] = known[sampler.lower()]
    return {name: value for name, value in fields.items() if value is not None}


async def _pictures(http: HttpRequest, fields: Fields, sent: Fields) -> Response:
    server = server_of(http)
    job = await done(server, await accept(http, fields, previews=4))
    files = [read_output(server, output) for output in job.outputs]
    info = {
        "prompt": job.request.get("prompt", ""),
        "seed": job.seeds[0],
        "all_seeds": [output.seed for output in job.outputs],
        "sd_model_name": job.request["model"],
        "size": job.size,
        "warnings": list(job.warnings),
        "job": job.id,
    }
    images = [base64.b64encode(data).decode() for data in files]
    return JSONResponse({"images": images, "parameters": sent, "info": json.dumps(info)})


@router.get("/options", summary="The model of these endpoints")
async def options(http: HttpRequest) -> Response:
    server = server_of(http)
    return JSONResponse({"sd_model_checkpoint": server.models.named(server.sd_model, "image")})


@router.post(
    "/options",
    summary="Choose the model of these endpoints",
    openapi_extra=body_of(OptionFields, request=False),
)
async def set_options(http: HttpRequest) -> Response:
    server = server_of(http)
    wire = only(await read_fields(http, server.settings), OptionFields)
    if wire.sd_model_checkpoint is not None:
        server.sd_model = server.models.named(wire.sd_model_checkpoint, "image")
    return JSONResponse({})


@router.get("/progress", summary="How the running job of this client stands")
async def progress(http: HttpRequest) -> Response:
    jobs = server_of(http).jobs
    mine = [job for job in jobs.store.waiting() if job.client == client_of(http)]
    running = [job for job in mine if job.state == "running"] or mine
    body: dict[str, Any] = {
        "progress": 0.0,
        "eta_relative": 0.0,
        "state": {"job": "", "job_count": len(mine), "sampling_step": 0, "sampling_steps": 0},
        "current_image": None,
        "textinfo": None,
    }
    if running:
        status = jobs.status(running[0])
        body["progress"], body["eta_relative"] = status.progress, status.eta or 0.0
        body["state"]["job"] = running[0].id
        if status.previews:
            body["current_image"] = base64.b64encode(status.previews[-1]).decode()
    return JSONResponse(body)


@router.post("/interrupt", summary="Cancel the running job of this client")
async def interrupt(http: HttpRequest) -> Response:
    jobs = server_of(http).jobs
    mine = [job for job in jobs.store.waiting() if job.client == client_of(http)]
    for job in [job for job in mine if job.state == OPEN[1]][:1]:
        jobs.cancel(job)
    return JSONResponse({})


@router.get("/samplers", summary="The samplers")
async def samplers() -> Response:
    return JSONResponse([{"name": name, "aliases": [name], "options": {}} for name in SAMPLERS])


@router.get("/sd-models", summary="The models that generate pictures")
async def sd_models(http: HttpRequest) -> Response:
    cards = server_of(http).models.cards
    found = []
    for name, card in cards.items():
        if "image" in kinds_of(card):
            sha256 = next(iter(card.files.values()), None)
            short = sha256[:10] if sha256 else None
            about = {"title": name, "model_name": name, "filename": name, "config": None}
            found.append(about | {"hash": short, "sha256": sha256})
    return JSONResponse(found)
