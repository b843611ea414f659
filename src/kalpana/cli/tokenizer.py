"""The commands ``tokens`` (of a prompt), ``tokenizer train`` and ``tokenizer hindi``."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from kalpana.cli.console import print_json
from kalpana.cli.options import Json
from kalpana.types import KalpanaError

tokenizer = typer.Typer(help="The tokenizer of prompts.")


def tokens(prompt: str, as_json: Json = False) -> None:
    """Show the tokens of a prompt, and its words that occur in no training caption."""
    from kalpana.request import clean
    from kalpana.text.tokenizer import Tokenizer

    bpe, text = Tokenizer.load(), clean(prompt)
    encoded, report = bpe.encode([text]), bpe.report(text)
    pieces = [bpe.decode([int(token)]) for token in encoded.ids[0][encoded.mask[0]]]
    if as_json:
        print_json(
            {
                "tokens": pieces,
                "language": report.language,
                "cut": report.cut,
                "unknown": list(report.unknown),
            }
        )
    else:
        print(f"{len(pieces)} tokens, {report.language}: {' | '.join(pieces)}")
        unknown = ", ".join(report.unknown) or "none"
        print(f"cut: {report.cut or 'nothing'}; unknown words: {unknown}")


@tokenizer.command("train")
def tokenizer_train(
    out: Annotated[
        Path | None,
        typer.Option(
            help="file for the merges, the package's by default; words.txt.gz is written beside it"
        ),
    ] = None,
    captions: Annotated[int, typer.Option(min=1, help="captions of the world")] = 40_000,
    seed: Annotated[int, typer.Option(min=0, help="seed of the captions")] = 0,
    kind: Annotated[str, typer.Option(help="kind of scenes to caption")] = "objects",
    words_only: Annotated[
        bool, typer.Option("--words-only", help="keep the merges and replace the known words")
    ] = False,
    videos: Annotated[
        int, typer.Option(min=0, help="captions of videos, with --words-only --kind everything")
    ] = 4_000,
) -> None:
    """Train the tokenizer on the captions of the world."""
    from kalpana.text import tokenizer as bpe
    from kalpana.train.tokenizer import corpus, video_corpus
    from kalpana.world.world import KINDS

    if kind not in KINDS:
        raise KalpanaError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    path, texts = out or bpe.BPE, corpus(captions, seed, kind)
    if words_only:
        if kind == "everything":
            texts = chain(texts, video_corpus(videos, seed))
        trained = bpe.meet((word for text in texts for word in bpe.words(text)), path)
    else:
        trained = bpe.train(texts, path)
    held_out = list(corpus(4000, seed + 1, kind))[-4000:]
    for name in ("en", "hi"):
        mine = [text for text in held_out if bpe.language(text) == name]
        print(f"{name}: {bpe.fertility(trained, mine):.2f} tokens a word")
    print(f"{len(trained)} tokens, {len(trained.known)} words: {path}")


@tokenizer.command("hindi")
def tokenizer_hindi(
    out: Annotated[Path | None, typer.Option(help="file, the package's by default")] = None,
    captions: Annotated[int, typer.Option(min=1, help="captions of the world")] = 40_000,
    videos: Annotated[int, typer.Option(min=1, help="captions of videos of the world")] = 4_000,
    seed: Annotated[int, typer.Option(min=0, help="seed of the captions")] = 0,
) -> None:
    """Write the vocabulary by which Hindi in Latin letters is read."""
    from kalpana.text.transliterate import VOCABULARY
    from kalpana.train.transliteration import save_vocabulary

    path = out or VOCABULARY
    print(f"{save_vocabulary(path, captions, videos, seed)} words: {path}")
