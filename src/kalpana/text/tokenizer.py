"""Prompts as tokens: one byte-level BPE for English and Hindi, and what of a prompt the model cannot know.

A word with all its vowel signs is one piece before merging (the usual ``\\p{L}+`` tears Hindi words apart at every matra),
digits never merge with each other, and quoted text is read a character at a time, since it is to be drawn rather than
understood. Outside quotes case does not matter. Sennrich et al. 2016 (BPE), Radford et al. 2019 (bytes).

``python -m kalpana.text.tokenizer`` trains it again from the captions of the world; with ``--words-only --kind everything`` the
tokens stay, so that weights stay good, and what counts as a known word is drawn up anew, for a model that has seen other pictures.
"""

from __future__ import annotations

import argparse
import gzip
import random
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from kalpana.media import write
from kalpana.types import KalpanaError, Tokens

PAD, BOS, EOS, NULL = range(4)
SPECIAL = ("<pad>", "<bos>", "<eos>", "<null>")
SIZE = 8192
BPE = Path(__file__).parent / "bpe.json"

QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|‘[^’\n]*’|(?<!\w)'[^'\n]*'(?!\w)")
# Words with their marks and joiners, single digits, runs of anything else; each takes the space before it.
PIECES = pre_tokenizers.Split(
    tokenizers.Regex(
        r" ?[\p{L}\p{M}\x{200C}\x{200D}]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}\x{200C}\x{200D}]+|\s+(?!\S)|\s+"
    ),
    "isolated",
)


@dataclass(frozen=True)
class Report:
    """What the user should be told of a prompt: the text beyond the window, words that no training caption contained
    (in the prompt's order, each once), and the language: "en", "hi" or "mixed"."""

    cut: str
    unknown: tuple[str, ...]
    language: str


def normalize(text: str) -> str:
    """The text as the tokenizer reads it: NFC, lower case outside quotes, lone surrogates replaced by U+FFFD."""
    text = unicodedata.normalize("NFC", re.sub("[\ud800-\udfff]", "\ufffd", text))
    return "".join(
        part if quoted else unicodedata.normalize("NFC", part.lower())
        for part, quoted in _parts(text)
    )


def words(text: str) -> list[str]:
    """The words and emoji of the normalised text outside quotes, in order."""
    pieces = (
        piece.strip()
        for part, quoted in _parts(normalize(text))
        if not quoted
        for piece, _ in PIECES.pre_tokenize_str(part)
    )
    return [
        piece
        for piece in pieces
        if any(unicodedata.category(c)[0] == "L" or unicodedata.category(c) == "So" for c in piece)
    ]


def language(text: str) -> str:
    """ "en", "hi" or "mixed", by the script of its words outside quotes: three in four decide; "mixed" also for other scripts."""
    said = [word for word in words(text) if word[0].isalpha()]
    hindi = sum("\u0900" <= word[0] <= "\u097f" for word in said)
    latin = sum(word[0] < "\u0250" for word in said)
    return "en" if latin >= 0.75 * len(said) else "hi" if hindi >= 0.75 * len(said) else "mixed"


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """The text in order as (part, whether it is quoted), without empty parts."""
    end = 0
    for match in QUOTED.finditer(text):
        if match.start() > end:
            yield text[end : match.start()], False
        yield match.group(), True
        end = match.end()
    if end < len(text):
        yield text[end:], False


def _split(text: str) -> list[str]:
    """The normalised text cut where no merge may cross: quoted text into characters, the rest is left to PIECES.
    A space goes before it, so that the first word is the same token as anywhere else."""
    return [
        piece
        for part, quoted in _parts(" " + normalize(text))
        for piece in (part if quoted else (part,))
    ]


class Tokenizer:
    """Text to token ids and back; ``decode(encode([text])) == normalize(text)`` for any text that fits."""

    def __init__(self, bpe: tokenizers.Tokenizer, known: frozenset[str]) -> None:
        self.bpe, self.known = bpe, known
        self.bpe.encode_special_tokens = (
            True  # "<eos>" typed in a prompt is five characters, not the end
        )

    @classmethod
    def load(cls, path: Path = BPE) -> Tokenizer:
        """The tokenizer saved by ``train``; raises KalpanaError where a file is missing or is not one."""
        try:
            known = gzip.decompress(_words_file(path).read_bytes()).decode("utf-8").split("\n")
            return cls(tokenizers.Tokenizer.from_file(str(path)), frozenset(known))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise KalpanaError(
                f"no tokenizer at {path} ({error}): train one with python -m kalpana.text.tokenizer --out {path}"
            ) from error

    def __len__(self) -> int:
        return self.bpe.get_vocab_size()

    def encode(self, prompts: Sequence[str], length: int = 64) -> Tokens:
        """Tokens (b, l) of the prompts, each between BOS and EOS, cut so that EOS stays, and padded on the right to the
        longest, rounded up to a multiple of 8; l is at most ``length``."""
        rows = [[BOS, *ids[: length - 2], EOS] for ids in self._ids(prompts, length)]
        longest = max(map(len, rows), default=2)
        width = min(length, -(-longest // 8) * 8)
        ids = torch.tensor(
            [row + [PAD] * (width - len(row)) for row in rows], dtype=torch.int64
        ).view(len(rows), width)
        return Tokens(
            ids, torch.arange(width) < torch.tensor([len(row) for row in rows]).view(-1, 1)
        )

    def decode(self, ids: Iterable[int]) -> str:
        """The text of one row of ids; special tokens are left out."""
        return self.bpe.decode([int(i) for i in ids], skip_special_tokens=True).removeprefix(
            " "
        )  # the one of _split

    def report(self, prompt: str, length: int = 64) -> Report:
        """What ``encode([prompt], length)`` loses or has never met."""
        (ids,) = self._ids([prompt], length)
        kept = self.decode(ids[: length - 2]).rstrip(
            "\ufffd"
        )  # a character cut in the middle of its bytes is cut
        cut = normalize(prompt)[len(kept) :] if len(ids) > length - 2 else ""
        return Report(
            cut,
            tuple(dict.fromkeys(word for word in words(prompt) if word not in self.known)),
            language(prompt),
        )

    def _ids(self, prompts: Sequence[str], length: int) -> list[list[int]]:
        if length < 3:
            raise KalpanaError(f"a token window of {length} holds no text: write 3 or more")
        return [
            encoding.ids
            for encoding in self.bpe.encode_batch(
                [_split(prompt) for prompt in prompts], is_pretokenized=True
            )
        ]


@dataclass(frozen=True)
class Window:
    """A tokenizer at the length that a model reads: tokens of texts, what of a text is left out, and words in it that were never met."""

    tokenizer: Tokenizer
    length: int

    def encode(self, texts: Sequence[str]) -> Tokens:
        return self.tokenizer.encode(texts, self.length)

    def cut(self, text: str) -> str:
        return self.tokenizer.report(text, self.length).cut

    def unknown(self, text: str) -> tuple[str, ...]:
        return self.tokenizer.report(text, self.length).unknown


def train(captions: Iterable[str], path: Path = BPE, size: int = SIZE) -> Tokenizer:
    """Train on the captions and save: the merges at ``path``, the words met beside it. The same captions give the same files."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [PIECES, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    known: set[str] = set()

    def read() -> Iterator[str]:
        # Every Devanagari character, quotation mark and digit is one token, so that quoted Hindi is read a letter at a time.
        characters = [
            *map(chr, range(0x0900, 0x0980)),
            *"“”‘’«»",
            *(f" {digit}" for digit in "0123456789०१२३४५६७८९"),
        ]
        yield from characters * 100
        for caption in captions:
            known.update(words(caption))
            yield from _split(caption)

    bpe.train_from_iterator(read(), trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    bpe.save(str(path), pretty=False)
    return meet(known, path)


def meet(known: Iterable[str], path: Path = BPE) -> Tokenizer:
    """Save these as the words that training captions held, beside the merges at ``path``, which stay as they are."""
    write(_words_file(path), gzip.compress("\n".join(sorted(set(known))).encode("utf-8"), mtime=0))
    return Tokenizer.load(path)


def _words_file(path: Path) -> Path:
    return path.with_name("words.txt.gz")


def corpus(count: int, seed: int = 0, kind: str = "objects") -> Iterator[str]:
    """Every name in the lexicon, then ``count`` captions of random training scenes of this kind, in both languages and all forms."""
    from kalpana.world.grammar import (
        FORMS,
        LANGUAGES,
    )  # the world is needed to train, not to read a prompt
    from kalpana.world.grammar_hi import casual, names
    from kalpana.world.lexicon import lexicon
    from kalpana.world.world import KINDS

    for concept in lexicon().values():
        yield from (concept.en, concept.en_plural, *concept.synonyms_en)
        yield from (spelling for name in names(concept) for spelling in (name, casual(name)))
    rng = random.Random(seed)
    for _ in range(count):
        yield KINDS[kind].caption(
            KINDS[kind].sample(rng, "train"), rng.choice(list(LANGUAGES)), rng.choice(FORMS), rng
        )


def fertility(tokenizer: Tokenizer, captions: Iterable[str]) -> float:
    """Tokens per word (parted by spaces) on the captions."""
    texts = list(captions)
    return sum(map(len, tokenizer._ids(texts, 64))) / sum(len(text.split()) for text in texts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the tokenizer on the world's captions.")
    parser.add_argument(
        "--out",
        type=Path,
        default=BPE,
        help="where the merges go; words.txt.gz is written beside it",
    )
    parser.add_argument("--captions", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kind", default="objects", help="the kind of the world's pictures whose captions are read"
    )
    parser.add_argument(
        "--words-only", action="store_true", help="keep the merges, and list the known words anew"
    )
    options = parser.parse_args()
    captions = corpus(options.captions, options.seed, options.kind)
    if options.words_only:
        tokenizer = meet((word for caption in captions for word in words(caption)), options.out)
    else:
        tokenizer = train(captions, options.out)
    fresh = list(corpus(4000, options.seed + 1, options.kind))[-4000:]
    for name in ("en", "hi"):
        print(
            f"{name}: {fertility(tokenizer, (text for text in fresh if language(text) == name)):.2f} tokens a word"
        )
    print(f"{len(tokenizer)} tokens, {len(tokenizer.known)} words: {options.out}")


if __name__ == "__main__":
    main()
