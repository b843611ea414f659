"""Random scenes in a medium that can show every colour their captions may name."""

from __future__ import annotations

import random
import re
from dataclasses import replace

from kalpana.world import grammar_hi
from kalpana.world.kinds.paintings.media import PAINTINGS
from kalpana.world.lexicon import lexicon
from kalpana.world.sample import sample_scene
from kalpana.world.scene import COLORS, Group, Scene

# Media without background colours: the ground is always paper, or black.
TINTLESS = {"pencil", "ink", "neon"}
# Colours of objects that a medium cannot show.
LOST = {"pencil": COLORS, "ink": COLORS, "neon": ("black", "white", "brown")}
TINT = re.compile(
    r"\b(?:red|orange|yellow|green|blue|purple|violet|lavender|pink|brown|beige|cream|black"
    r"|white|gr[ae]y|gold|golden|silver)\b"
    r"|(?:^|\s)(?:लाल|नारंगी|संतर[ाेी]|पील[ाेी]|हर[ाेी]|नील[ाेी]|बैंगनी|जामुनी|लैवेंडर|गुलाबी|भूर[ाेी]|काल[ाेी]|सफ़?ेद|स्लेटी|धूसर|बेज|सुनहर[ाेी]|सुनहली)(?=[\s,।]|$)",
    re.IGNORECASE,
)


def sample(rng: random.Random, split: str = "train") -> Scene:
    """Random scene of objects in a medium that can show every colour its captions may name.

    A scene without objects never has a tintless medium: a place alone has too few outlines.
    """
    medium = rng.choice(PAINTINGS)
    while True:
        scene = sample_scene(rng, split, other_style=0.0)
        if (scene.groups or medium not in TINTLESS) and all(
            _shows(medium, group) for group in scene.groups
        ):
            return replace(scene, painting=medium)


def _shows(medium: str, group: Group) -> bool:
    """Whether a medium can show the group's colour and any colour in its names."""
    concept = lexicon()[group.concept]
    names = (concept.en, *concept.synonyms_en, *grammar_hi.names(concept))
    return medium not in LOST or (
        group.color not in LOST[medium] and not any(TINT.search(name) for name in names)
    )
