"""Training of the tokenizer from the captions of the world: ``kalpana tokenizer train``.

With ``--words-only --kind everything`` it keeps the tokens, so that existing weights remain valid,
and replaces the list of known words, those of pictures and videos, for models that are trained on
other captions.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from kalpana.world.grammar import FORMS, LANGUAGES
from kalpana.world.grammar_hi import casual, names
from kalpana.world.lexicon import lexicon
from kalpana.world.video import Videos
from kalpana.world.world import KINDS


def corpus(count: int, seed: int = 0, kind: str = "objects") -> Iterator[str]:
    """Training texts: every name in the lexicon, then ``count`` captions of random training scenes.

    The scenes are of one ``kind``; the captions have both languages and all forms.
    """
    for concept in lexicon().values():
        yield from (concept.en, concept.en_plural, *concept.synonyms_en)
        yield from (spelling for name in names(concept) for spelling in (name, casual(name)))
    rng = random.Random(seed)
    for _ in range(count):
        scene = KINDS[kind].sample(rng, "train")
        yield KINDS[kind].caption(scene, rng.choice(list(LANGUAGES)), rng.choice(FORMS), rng)


def video_corpus(count: int, seed: int = 0) -> Iterator[str]:
    """Captions of the first ``count`` training videos of a world, in all forms."""
    world = Videos(seed)
    return (world.describe(k)[0] for k in range(count))
