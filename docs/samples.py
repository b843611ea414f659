"""Generate the sample sheets of the README and the model card: ``python docs/samples.py``.

Uses the shipped weights. The prompts were fixed before any picture was seen, and every picture is
the first one, seed 0: no picture is selected.
"""

from __future__ import annotations

from pathlib import Path

from kalpana import load
from kalpana.world.sheet import captioned
from kalpana.world.world import World

README = (
    "three red apples to the left of a blue car",
    "नीली कार के बाईं ओर तीन लाल सेब",
    "a cat sitting on a sofa",
    "एक बिल्ली सोफे पर बैठी हुई",
    "a purple balloon on a beach",
    "रात में एक पीला तारा",
    "two green birds above a house",
    "एक घर के ऊपर दो हरे पक्षी",
)
EVERYDAY = (
    "sunset over mountains",
    "a cat sitting on a sofa",
    "एक बिल्ली सोफे पर बैठी हुई",
    "a painting of random flowers",
    "बेतरतीब फूलों की एक पेंटिंग",
    "exactly five apples",
    "a teacher with a book",
    "an open hand",
)


def dev_prompts(languages: tuple[str, ...], kind: str = "objects", n: int = 32) -> list[str]:
    """The first n captions in these languages from the dev split of world 0 of a kind."""
    world, found, i = World(seed=0, split="dev", kind=kind), [], 0
    while len(found) < n:
        caption, language, _ = world.describe(i)
        found += [caption] if language in languages else []
        i += 1
    return found


def main() -> None:
    model, here = load("default"), Path(__file__).parent
    sheets = {
        "samples": README,
        "everyday": EVERYDAY,
        "dev-en": dev_prompts(("en",)),
        "dev-hi": dev_prompts(("hi",)),
    }
    sheets["dev-kinds"] = dev_prompts(("en", "hi"), "everything")
    for name, prompts in sheets.items():
        images = []
        for prompt in prompts:
            *_, last = model.generate(prompt, seed=0)
            images.append(last.result.outputs[0].image)
        sheet = captioned(images, prompts, columns=8 if len(prompts) > 8 else 4)
        sheet.save(here / f"{name}.webp", quality=90)
        print(here / f"{name}.webp")


if __name__ == "__main__":
    main()
