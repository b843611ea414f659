"""Generate the README's prompts with each text-to-image model, one row each.

Run ``python docs/families.py``. Every picture is the first one, seed 0: no picture is selected.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kalpana.hub.card import list_models
from kalpana.pipelines import last, load
from kalpana.types import KalpanaError
from kalpana.world.sheet import captioned

PROMPTS = (
    "three red apples to the left of a blue car",
    "नीली कार के बाईं ओर तीन लाल सेब",
    "a cat sitting on a sofa",
    "a purple balloon on a beach",
    "रात में एक पीला तारा",
    "two green birds above a house",
    "a painting of random flowers",
    "बेतरतीब फूलों की एक पेंटिंग",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models",
        nargs="*",
        help="names from `kalpana models`, or folders of weights (default: all text-to-image)",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("families.webp"))
    options = parser.parse_args()
    images, captions = [], []
    for name in options.models or [
        card.name for card in list_models() if "text-to-image" in card.tasks
    ]:
        model = load(name)
        for prompt in PROMPTS:
            images.append(last(model.generate(prompt, model=name, seed=0)).outputs[0].image)
            captions.append(f"{model.name}: {prompt}")
    captioned(images, captions, columns=len(PROMPTS)).save(options.out, quality=90)
    print(options.out)


if __name__ == "__main__":
    try:
        main()
    except KalpanaError as error:
        sys.exit(f"error: {error}")
