"""Training of the tokenizer from the captions of the world: ``python -m kalpana.train.tokenizer``.

With ``--words-only --kind everything`` it keeps the tokens, so that existing weights remain valid,
and replaces the list of known words, for a model that is trained on other captions.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from kalpana.text.tokenizer import BPE, fertility, language, meet, train, words
from kalpana.world.grammar import FORMS, LANGUAGES
from kalpana.world.grammar_hi import casual, names
from kalpana.world.lexicon import lexicon
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the tokenizer on the world's captions.")
    parser.add_argument(
        "--out",
        type=Path,
        default=BPE,
        help="file for the merges; words.txt.gz is written beside it",
    )
    parser.add_argument("--captions", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", default="objects", help="kind of scenes to caption")
    parser.add_argument(
        "--words-only", action="store_true", help="keep the merges and replace the known words"
    )
    options = parser.parse_args()
    captions = corpus(options.captions, options.seed, options.kind)
    if options.words_only:
        tokenizer = meet((word for caption in captions for word in words(caption)), options.out)
    else:
        tokenizer = train(captions, options.out)
    held_out = list(corpus(4000, options.seed + 1, options.kind))[-4000:]
    for name in ("en", "hi"):
        texts = [text for text in held_out if language(text) == name]
        print(f"{name}: {fertility(tokenizer, texts):.2f} tokens a word")
    print(f"{len(tokenizer)} tokens, {len(tokenizer.known)} words: {options.out}")


if __name__ == "__main__":
    main()
