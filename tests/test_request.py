"""The request schema: bounds, one-line errors, seeds, and resolution by a model's capabilities."""

from __future__ import annotations

import inspect
import re
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalpana import capabilities
from kalpana.capabilities import Capabilities, Defaults
from kalpana.diffusion.samplers import SAMPLERS
from kalpana.diffusion.schedule import SPACINGS
from kalpana.families import FAMILIES
from kalpana.request import SEED_LIMIT, Request, RequestFields, ask, clean
from kalpana.request_values import ALIASES
from kalpana.types import KalpanaError

PNG = b"the bytes of a picture"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \n\t\x00 "}, "prompt"),
        ({"prompt": 7}, "prompt 7: should be text"),
        ({"prompt": "bytes that were no UTF-8: \udcff"}, "prompt"),
        ({"prompt": "x" * 1_000_001}, "should have at most 1000000 characters"),
        ({}, "there is no prompt"),
        ({"prompt": "", "seed": 1}, "there is no prompt"),
        ({"negative_prompt": " "}, "negative_prompt"),
        ({"model": ""}, "model"),
        ({"n": 0}, "n 0"),
        ({"n": 257}, "n 257"),
        ({"best_of": 0}, "best_of 0: should be at least 1"),
        ({"best_of": 65}, "best_of 65: should be at most 64"),
        ({"best_of": "all"}, "best_of 'all'"),
        ({"steps": 0}, "steps 0: should be at least 1"),
        ({"steps": -1}, "steps -1"),
        ({"steps": 10_000}, "at most 1000"),
        ({"steps": 2.5}, "steps 2.5: should be a whole number"),
        ({"steps": "many"}, "steps 'many': should be a whole number"),
        ({"guidance": float("nan")}, "guidance nan: should be a finite number"),
        ({"guidance": "much"}, "guidance 'much': should be a number"),
        ({"guidance": -1}, "guidance -1"),
        ({"guidance": 31}, "guidance 31"),
        ({"temperature": -0.1}, "temperature -0.1: should be at least 0"),
        ({"temperature": float("nan")}, "temperature nan: should be a finite number"),
        ({"temperature": 101}, "temperature 101"),
        ({"top_k": 0}, "top_k 0: should be at least 1"),
        ({"top_k": 2.5}, "top_k 2.5"),
        ({"top_p": 0}, "top_p 0: should be more than 0"),
        ({"top_p": 1.01}, "top_p 1.01: should be at most 1"),
        ({"size": "4096x8"}, "sides should be from 8 to 2048 pixels"),
        ({"size": "0x128"}, "sides should be from 8 to 2048 pixels"),
        ({"size": "99999999x8"}, "from 8 to 2048"),
        ({"size": "-8x8"}, "from 8 to 2048"),
        ({"size": "huge"}, "such as 128x128"),
        ({"size": "1x2x3"}, "such as 128x128"),
        ({"size": 128}, "such as 128x128"),
        ({"seed": -1}, "seed -1"),
        ({"seed": SEED_LIMIT}, f"seed {SEED_LIMIT}"),
        ({"seed": SEED_LIMIT - 1, "n": 2}, f"at most {SEED_LIMIT - 2}"),
        ({"seeds": []}, "seeds []: should have at least 1 value"),
        ({"seeds": [1, -1]}, "seeds.1 -1"),
        ({"seeds": "1,two"}, "seeds.1 'two'"),
        ({"seeds": [1, 2], "n": 3}, "leave n out"),
        ({"seeds": [1], "seed": 1}, "leave one out"),
        ({"mask": PNG}, "mask needs an image"),
        ({"strength": 0.5}, "strength needs an image"),
        ({"image": PNG, "strength": 1.5}, "strength 1.5"),
        ({"image": PNG, "mask_mode": "white"}, "mask_mode needs a mask"),
        ({"outpaint": "left=64"}, "outpaint needs an image"),
        ({"image": PNG, "outpaint": ""}, "such as left=64,right=64"),
        ({"image": PNG, "outpaint": "64"}, "such as left=64,right=64"),
        ({"image": PNG, "outpaint": "left=64,left=8"}, "each side once"),
        ({"image": PNG, "outpaint": "left=0"}, "adds no pixel"),
        ({"image": PNG, "outpaint": {}}, "adds no pixel"),
        ({"image": PNG, "outpaint": "left=-8"}, "outpaint.left '-8': should be at least 0"),
        ({"image": PNG, "outpaint": "left=9999"}, "outpaint.left '9999': should be at most 2048"),
        ({"image": PNG, "outpaint": "left=1.5"}, "should be a whole number"),
        ({"image": PNG, "outpaint": "up=8"}, "outpaint.up"),
        ({"image": PNG, "outpaint": [8, 8]}, "outpaint"),
        ({"image": PNG, "mask": PNG, "outpaint": "left=8"}, "outpaint and mask are both given"),
        (
            {"image": PNG, "source_prompt": "a", "outpaint": "left=8"},
            "outpaint and source_prompt are both given",
        ),
        ({"source_prompt": "a"}, "source_prompt needs an image"),
        ({"prompt": "", "image": PNG, "source_prompt": "a"}, "source_prompt needs a prompt"),
        ({"image": PNG, "source_prompt": ""}, "source_prompt '': has no words"),
        ({"style_strength": 0.5}, "style_strength needs a style_image"),
        ({"style_image": PNG, "style_strength": 1.5}, "should be at most 1"),
        ({"style_image": "nowhere.png"}, "style_image 'nowhere.png': cannot be read"),
        ({"image": "nowhere.png"}, "image 'nowhere.png': cannot be read: No such file"),
        ({"image": 7}, "image 7: should be a path, bytes, a data URL or a PIL image"),
        ({"image": "data:image/png;base64,!!"}, "is no base64"),
        ({"control": "map.png"}, "should be KIND=FILE"),
        ({"control": [{"kind": "edges", "image": PNG}] * 2}, "two control maps of kind edges"),
        ({"seconds": 0}, "seconds 0: should be more than 0"),
        ({"fps": 0}, "fps 0"),
        ({"steps": 1, "num_inference_steps": 2}, "are the same field"),
        ({"width": 128}, "width and height go together"),
        ({"width": 128, "height": 128, "size": "128x128"}, "width and height go together"),
        ({"language": "fr"}, "should be 'auto', 'en' or 'hi'"),
        ({"format": "bmp"}, "should be 'png', 'webp', 'jpeg', 'mp4' or 'gif'"),
        ({"upscale": 3}, "should be 1, 2 or 4"),
        ({"stepz": 20}, "did you mean 'steps'?"),
        ({"qqq": 1}, "the fields are prompt, "),
        ({"steps": 0, "n": 0}, "; "),
    ],
)
def test_bad_input_is_one_line_that_names_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(KalpanaError, match=re.escape(message)) as caught:
        Request(**({"prompt": "an apple"} | fields if fields else {}))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("name", Request.model_fields)
@pytest.mark.parametrize("value", ["?", "", -1.5, 10**30, [[]], {"a": 1}, b"\xff", object(), True])
def test_no_error_has_the_wording_of_pydantic(name: str, value: Any) -> None:
    try:
        Request(**({"prompt": "a"} | {name: value}))
    except KalpanaError as error:
        text = str(error)
        assert not re.search(r"\bInput\b|\bvalid\b|pars|instance|validation", text), text


@pytest.mark.parametrize(
    "prompt", ["x" * 100_000, "🍎👩‍🚀", "a लाल 苹果 тест", "تفاحة حمراء", "a\x07b", "‮apple"]
)
def test_odd_prompts_are_accepted_as_they_are(prompt: str) -> None:
    assert Request(prompt=prompt).prompt == prompt


@given(st.text())
def test_clean_text_has_no_controls_and_stays_clean(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", cleaned)


def test_clean_keeps_what_scripts_are_made_of() -> None:
    for text in ("क्‍ष", "क्‌ष", "👩‍🚀"):  # joiner, non-joiner, joined emoji
        assert clean(text) == text


def test_words_from_a_command_line_mean_what_numbers_mean() -> None:
    typed = Request(
        prompt="a", n="3", seed="5", steps="20", guidance="2.5", upscale="4", size="128X64"
    )  # type: ignore[arg-type]
    assert typed == Request(
        prompt="a", n=3, seed=5, steps=20, guidance=2.5, upscale=4, size=(128, 64)
    )  # type: ignore[arg-type]
    assert (typed.width, typed.height) == (128, 64)
    drawn = Request(prompt="a", temperature="0", top_k="7", top_p="0.9")  # type: ignore[arg-type]
    assert (drawn.temperature, drawn.top_k, drawn.top_p) == (0, 7, 0.9)
    assert Request(prompt="a", seeds="4,2").seeds == (4, 2)  # type: ignore[arg-type]


def test_a_request_survives_its_receipt() -> None:
    request = Request(prompt="तीन लाल सेब", seeds=(0, SEED_LIMIT - 1), guidance=1, format="webp")
    assert Request(**request.to_json()) == request
    assert set(request.to_json()) == {"prompt", "seeds", "guidance", "format"}


def test_seeds_count_up_and_zero_is_a_seed() -> None:
    assert Request(prompt="a", seed=0, n=3).seeded().each_seed() == (0, 1, 2)
    assert Request(prompt="a", seeds=(9, 0)).seeded().each_seed() == (9, 0)
    drawn = Request(prompt="a", n=2).seeded()
    assert drawn.seed is not None and drawn.seeded() == drawn
    assert drawn.each_seed() == (drawn.seed, drawn.seed + 1)


@given(st.integers(1, 40), st.integers(1, 9), st.booleans(), st.integers(1, 12))
def test_parts_are_the_same_pictures_in_order(
    n: int, most: int, listed: bool, best_of: int
) -> None:
    seeds: dict[str, Any] = {"seeds": tuple(range(n, 0, -1))} if listed else {"seed": 7}
    request = Request(prompt="a", n=n, best_of=best_of, **seeds)
    parts = list(request.parts(most))
    assert sum((part.each_seed() for part in parts), ()) == request.each_seed()
    assert all(
        len(part.each_seed()) == max(most // best_of, 1) and part.best_of == best_of
        for part in parts[:-1]
    )


@given(st.integers(0, SEED_LIMIT - 1))
def test_the_candidates_of_a_picture_are_its_seed_and_others_that_more_only_add_to(
    seed: int,
) -> None:
    few, many = (Request(prompt="a", best_of=count).candidates(seed) for count in (7, 64))
    assert (
        few == many[:7]
        and few[0] == seed
        and len(many) == 64
        and all(0 <= each < 2**32 for each in many[1:])
    )
    assert few[3] == zlib.crc32(b"%d/3" % seed)


def test_a_model_fills_in_what_was_not_said() -> None:
    settled, ignored = Capabilities().resolve(Request(prompt="a", guidance=2))
    assert (settled.steps, settled.guidance, settled.sampler, settled.size) == (
        20,
        2,
        "dpmpp-2m",
        "128x128",
    )
    assert (
        settled.seed is not None
        and not ignored
        and settled.temperature is settled.top_k is settled.top_p is None
    )
    for family, steps in (("dalle", None), ("dalle-mini", None), ("maskgit", 10)):
        usual = FAMILIES[family].capabilities
        assert usual is not None
        settled, ignored = usual.resolve(Request(prompt="a", top_k=5))
        assert (
            settled.steps,
            settled.sampler,
            settled.temperature,
            settled.top_k,
            settled.top_p,
        ) == (steps, None, 1, 5, 1) and not ignored


def test_a_request_is_asked_anew_with_other_fields() -> None:
    request = Request(prompt="a", seed=1)
    assert (
        ask(request, steps=3) == ask("a", seed=1, steps=3) == Request(prompt="a", seed=1, steps=3)
        and ask(request) == request
    )
    with pytest.raises(KalpanaError, match="no field 'step'"):
        ask(request, step=3)


@pytest.mark.parametrize(
    ("fields", "capabilities"),
    [
        ({"size": "256x256"}, {}),
        ({"sampler": "eular"}, {}),
        ({"sampler": "heun"}, {"samplers": ["euler"]}),
        ({"eta": 0.5}, {}),
        ({"eta": 0.5, "sampler": "euler"}, {}),
        ({"eta": 0.5}, {"uses": ["prompt"]}),
        ({"spacing": "caras"}, {}),
        ({"spacing": "karras"}, {"uses": ["prompt"]}),
        ({"guidance_rescale": 0.5}, {"uses": ["prompt", "guidance"]}),
        ({"guidance_rescale": 0.5, "guidance": 1}, {}),
        ({"negative_prompt": "blur", "guidance": 1}, {}),
        ({"negative_prompt": "blur"}, {"uses": ["prompt", "steps"]}),
        ({"steps": 4}, {"uses": ["prompt"]}),
        ({"temperature": 0.5}, {}),
        ({"top_k": 5}, {}),
        ({"top_p": 0.5}, {}),
        ({"top_k": 21}, {"uses": ["prompt", "top_k"], "tokens": 20}),
        ({"language": "hi"}, {"languages": ["en"]}),
        ({"seconds": 1}, {}),
        ({"format": "mp4"}, {}),
        ({"outpaint": "left=8", "image": PNG}, {"uses": ["prompt", "image"]}),
        ({"source_prompt": "a dog", "image": PNG}, {"uses": ["prompt", "image"]}),
        ({"format": "jpeg"}, {"uses": ["prompt", "seconds"]}),
        ({"source_prompt": "a dog", "image": PNG}, {"uses": ["prompt", "image"]}),
        ({"label": "cat"}, {}),
        ({"label": "cat"}, {"uses": ["prompt", "label"], "labels": ["dog"]}),
        ({"size": "136x136"}, {"uses": ["prompt", "size"], "tiles": 16}),
        ({"size": "64x64"}, {"uses": ["prompt", "size"], "tiles": 16}),
    ],
)
def test_what_a_model_cannot_use_is_refused_or_listed(
    fields: dict[str, Any], capabilities: dict[str, Any]
) -> None:
    model, (name, value) = Capabilities(**capabilities), next(iter(fields.items()))
    with pytest.raises(KalpanaError, match=f"{name} .*{value}.* cannot be used"):
        model.resolve(Request(prompt="a", **fields))
    settled, ignored = model.resolve(Request(prompt="a", strict=False, **fields))
    assert set(ignored) == {name} and getattr(settled, name) != value
    again, still_ignored = model.resolve(settled.updated(strict=True))
    assert (
        again == settled.updated(strict=True) and not still_ignored
    )  # so a lenient receipt replays


def test_help_and_capabilities_name_the_samplers_and_spacings_there_are() -> None:
    assert Capabilities().samplers == tuple(SAMPLERS)
    assert tuple(SPACINGS) == capabilities.SPACINGS
    for field, names in (("sampler", SAMPLERS), ("spacing", SPACINGS)):
        description = Request.model_fields[field].description
        assert description is not None and re.findall(
            r"[\w-]+", description.partition(":")[2].replace(" or ", " ")
        ) == list(names)


def test_the_default_eta_is_that_of_the_step_function() -> None:
    parameters = {name: inspect.signature(step).parameters for name, step in SAMPLERS.items()}
    assert {
        name: each["eta"].default for name, each in parameters.items() if "eta" in each
    } == capabilities.ETA
    for sampler in SAMPLERS:
        settled, _ = Capabilities().resolve(Request(prompt="a", sampler=sampler))
        assert settled.eta == capabilities.ETA.get(sampler)


def test_an_eta_goes_with_the_sampler_that_is_used() -> None:
    """A lenient request for an unknown sampler gets the default one, and what that one has."""
    model = Capabilities(samplers=("euler", "dpmpp-2m"))
    settled, ignored = model.resolve(Request(prompt="a", sampler="euler-a", eta=0.5, strict=False))
    assert (settled.sampler, settled.eta) == ("dpmpp-2m", None) and set(ignored) == {
        "sampler",
        "eta",
    }
    own = Capabilities(samplers=("ddim",), defaults=Defaults(sampler="ddim"))
    settled, ignored = own.resolve(Request(prompt="a", sampler="euler", eta=0.5, strict=False))
    assert (settled.sampler, settled.eta) == ("ddim", 0.5) and set(ignored) == {"sampler"}


@pytest.mark.parametrize(
    ("typed", "name"),
    [("DPM++ 2M SDE", "dpmpp-2m-sde"), ("dpmpp_2m", "dpmpp-2m"), ("Euler a", "euler-a")],
)
def test_samplers_are_known_by_the_names_of_other_programs(typed: str, name: str) -> None:
    assert Request(prompt="a", sampler=typed).sampler == name
    assert Request(prompt="a", spacing="sgm_uniform") == Request(prompt="a", spacing="Trailing")
    assert Request(prompt="a", spacing="trailing").spacing == "uniform"


def test_every_field_has_a_help_text() -> None:
    assert [name for name, field in Request.model_fields.items() if not field.description] == []


def test_typed_keyword_arguments_are_the_fields_of_a_request() -> None:
    """Names and order as in Request, which has the prompt besides."""
    typed = list(RequestFields.__annotations__)
    extra = ["num_inference_steps", "guidance_scale", "width", "height"]
    assert ["prompt", *typed] == [*Request.model_fields, *extra]


def test_names_of_other_libraries_are_read() -> None:
    """Each alias has the effect of its field."""
    aliases: dict[str, tuple[str, Any]] = {
        "num_inference_steps": ("steps", 3),
        "guidance_scale": ("guidance", 2),
        "cfg_scale": ("guidance", 3),
        "num_images_per_prompt": ("n", 2),
        "mask_image": ("mask", PNG),
        "output_format": ("format", "webp"),
    }
    assert aliases.keys() == ALIASES.keys()
    for alias, (name, value) in aliases.items():
        fields: dict[str, Any] = {"prompt": "a", "image": PNG}
        assert Request(**fields, **{alias: value}) == Request(**fields, **{name: value})
    assert Request(prompt="a", width=64, height=32).size == "64x32"
    assert Request(prompt="a", format="jpg").format == "jpeg"
    assert Request(prompt="a", steps=2).updated(num_inference_steps=5).steps == 5


def test_sizes_between_the_windows_are_refused_with_one_that_works() -> None:
    model = Capabilities(tiles=16)
    for size, nearest in (("136x128", "try 144x128|try 128x128"), ("64x256", "try 128x256")):
        with pytest.raises(KalpanaError, match=nearest):
            model.resolve(Request(prompt="a", size=size))
    assert model.resolve(Request(prompt="a", size="256x144"))[0].size == "256x144"


def test_strength_depends_on_the_mask() -> None:
    usual = FAMILIES["flow"].capabilities
    assert usual is not None

    def resolve(**fields: Any) -> float | None:
        return usual.resolve(Request(prompt="a", **fields))[0].strength

    assert resolve() is None
    assert resolve(image=PNG) == usual.defaults.strength == 0.6
    assert resolve(image=PNG, mask=PNG) == 1.0
    assert resolve(image=PNG, mask=PNG, strength=0.5) == 0.5


def test_bounds_and_defaults_are_those_that_the_documentation_states() -> None:
    share = {"minimum": 0, "maximum": 1}
    seconds = {"exclusiveMinimum": 0, "maximum": 60}
    bounds: dict[str, dict[str, float]] = {
        "prompt": {"maxLength": 1_000_000},
        "negative_prompt": {"maxLength": 1_000_000},
        "source_prompt": {"maxLength": 1_000_000},
        "model": {"minLength": 1},
        "guide_model": {"minLength": 1},
        "n": {"minimum": 1, "maximum": 256},
        "seed": {"minimum": 0, "exclusiveMaximum": 9_223_372_036_854_775_808},
        "seeds": {"minLength": 1, "maxLength": 256},
        "best_of": {"minimum": 1, "maximum": 64},
        "steps": {"minimum": 1, "maximum": 1000},
        "guidance": {"minimum": 0, "maximum": 30},
        "guidance_rescale": share,
        "eta": share,
        "temperature": {"minimum": 0, "maximum": 100},
        "top_k": {"minimum": 1},
        "top_p": {"exclusiveMinimum": 0, "maximum": 1},
        "style_strength": share,
        "strength": share,
        "extend": seconds,
        "control": {"minLength": 1, "maxLength": 8},
        "adapter": {"minLength": 1, "maxLength": 8},
        "seconds": seconds,
        "fps": {"minimum": 1, "maximum": 60},
    }
    names = {name for limits in bounds.values() for name in limits}
    for name, field in Request.model_json_schema()["properties"].items():
        found = {key: value for part in (field, *field.get("anyOf", ())) for key, value in
                 part.items() if key in names}  # fmt: skip
        assert found == bounds.get(name, {}), name
    usual = {"prompt": "", "model": "default", "n": 1, "best_of": 1, "mask_mode": "auto",
             "plan": "words", "expand": False, "language": "auto", "strict": True,
             "upscale": 1}  # fmt: skip
    defaults = {name: field.default for name, field in Request.model_fields.items()}
    assert defaults == dict.fromkeys(Request.model_fields) | usual


@pytest.mark.parametrize(
    ("given", "plan"),
    [
        (True, "words"),
        (False, "none"),
        ("true", "words"),
        ("OFF", "none"),
        ("Layout", "layout"),
        ("all", "all"),
        ("none", "none"),
    ],
)
def test_plan_was_once_a_switch(given: Any, plan: str) -> None:
    assert Request(prompt="a", plan=given).plan == plan
    assert Request(prompt="a", plan=given).to_json()["plan"] == plan


@pytest.mark.parametrize("given", ["boxes", 2, None, ["words"]])
def test_plan_has_four_values(given: Any) -> None:
    with pytest.raises(KalpanaError, match="plan"):
        Request(prompt="a", plan=given)


def test_all_files_of_a_request_are_listed() -> None:
    maps = {"edges": PNG, "depth": PNG}
    request = Request(prompt="a", image=PNG, style_image=PNG, control=maps)
    assert len(request.media()) == 4 and Request(prompt="a").media() == []
