"""Tokenizer of prompts: one byte-level BPE for English and Hindi, with a list of known words.

Pre-tokenization keeps a word with all its vowel signs in one piece (the usual ``\\p{L}+`` splits
Hindi words at every matra), never merges digits, and splits quoted text into characters, because a
model has to draw it. Text outside quotes is lower-cased. Sources: Sennrich et al. 2016 (BPE),
Radford et al. 2019 (byte-level BPE).

``kalpana tokenizer train`` trains it from the captions of the world.
"""

from __future__ import annotations

import gzip
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
# Words with their marks and joiners, single digits, runs of other characters; each with the space
# before it.
PIECES = pre_tokenizers.Split(
    tokenizers.Regex(
        r" ?[\p{L}\p{M}\x{200C}\x{200D}]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}\x{200C}\x{200D}]+"
        r"|\s+(?!\S)|\s+"
    ),
    "isolated",
)


@dataclass(frozen=True)
class Report:
    """Warnings about a prompt: the truncated text, the unknown words and the language.

    ``unknown`` words occur in no training caption; each is listed once, in the prompt's order.
    ``language`` is "en", "hi" or "mixed".
    """

    cut: str
    unknown: tuple[str, ...]
    language: str


def normalize(text: str) -> str:
    """The normalised text: NFC, lower case outside quotes, lone surrogates replaced by U+FFFD."""
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
    """The language of a text, "en", "hi" or "mixed", by the script of its words outside quotes.

    At least three quarters of the words must have the same script; other scripts are "mixed".
    """
    alphabetic = [word for word in words(text) if word[0].isalpha()]
    hindi = sum("\u0900" <= word[0] <= "\u097f" for word in alphabetic)
    latin = sum(word[0] < "\u0250" for word in alphabetic)
    most = 0.75 * len(alphabetic)
    return "en" if latin >= most else "hi" if hindi >= most else "mixed"


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Parts of the text in order, as (part, whether it is quoted), without empty parts."""
    end = 0
    for match in QUOTED.finditer(text):
        if match.start() > end:
            yield text[end : match.start()], False
        yield match.group(), True
        end = match.end()
    if end < len(text):
        yield text[end:], False


def _split(text: str) -> list[str]:
    """The normalised text split at quotes, with quoted text split into characters.

    PIECES splits the rest. A space is prepended, so that the first word has the same token as
    elsewhere.
    """
    return [
        piece
        for part, quoted in _parts(" " + normalize(text))
        for piece in (part if quoted else (part,))
    ]


class Tokenizer:
    """Byte-level BPE tokenizer; ``decode(encode([text])) == normalize(text)`` if the text fits."""

    def __init__(self, bpe: tokenizers.Tokenizer, known: frozenset[str]) -> None:
        self.bpe, self.known = bpe, known
        # "<eos>" in a prompt is text, not the special token.
        self.bpe.encode_special_tokens = True

    @classmethod
    def load(cls, path: Path = BPE) -> Tokenizer:
        """The tokenizer saved by ``train``.

        Raises: KalpanaError where a file is missing or invalid.
        """
        try:
            known = gzip.decompress(_words_file(path).read_bytes()).decode("utf-8").split("\n")
            return cls(tokenizers.Tokenizer.from_file(str(path)), frozenset(known))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise KalpanaError(
                f"no tokenizer at {path} ({error}): train one with "
                f"kalpana tokenizer train --out {path}"
            ) from error

    def __len__(self) -> int:
        """Size of the vocabulary, special tokens included."""
        return self.bpe.get_vocab_size()

    def encode(self, prompts: Sequence[str], length: int = 64) -> Tokens:
        """Tokens (b, l) of the prompts, each between BOS and EOS.

        Long prompts are truncated before EOS. Rows are padded on the right to the longest one,
        rounded up to a multiple of 8; l is at most ``length``.
        """
        rows = [[BOS, *ids[: length - 2], EOS] for ids in self._ids(prompts, length)]
        lengths = [len(row) for row in rows]
        width = min(length, -(-max(lengths, default=2) // 8) * 8)
        padded = [row + [PAD] * (width - len(row)) for row in rows]
        ids = torch.tensor(padded, dtype=torch.int64).view(len(rows), width)
        return Tokens(ids, torch.arange(width) < torch.tensor(lengths).view(-1, 1))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of one row of ids, without special tokens."""
        text = self.bpe.decode([int(i) for i in ids], skip_special_tokens=True)
        return text.removeprefix(" ")  # the space that _split prepends

    def report(self, prompt: str, length: int = 64) -> Report:
        """The text that ``encode([prompt], length)`` truncates, the unknown words, the language."""
        (ids,) = self._ids([prompt], length)
        # Without a character whose bytes are only partly in the window.
        kept = self.decode(ids[: length - 2]).rstrip("\ufffd")
        cut = normalize(prompt)[len(kept) :] if len(ids) > length - 2 else ""
        unknown = dict.fromkeys(word for word in words(prompt) if word not in self.known)
        return Report(cut, tuple(unknown), language(prompt))

    def _ids(self, prompts: Sequence[str], length: int) -> list[list[int]]:
        """Token ids of each prompt, complete and without special tokens.

        Raises: KalpanaError where ``length`` is less than 3.
        """
        if length < 3:
            raise KalpanaError(f"a token window of {length} holds no text: write 3 or more")
        pieces = [_split(prompt) for prompt in prompts]
        return [encoding.ids for encoding in self.bpe.encode_batch(pieces, is_pretokenized=True)]


@dataclass(frozen=True)
class Window:
    """A tokenizer with a model's context length."""

    tokenizer: Tokenizer
    length: int

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Tokens (b, l) of the texts, truncated to ``length``."""
        return self.tokenizer.encode(texts, self.length)

    def cut(self, text: str) -> str:
        """The part of a text that is truncated."""
        return self.tokenizer.report(text, self.length).cut

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words of a text that occur in no training caption."""
        return self.tokenizer.report(text, self.length).unknown


def train(captions: Iterable[str], path: Path = BPE, size: int = SIZE) -> Tokenizer:
    """Trains a tokenizer on captions and saves it.

    The merges are saved at ``path`` and the known words beside it. Equal captions give equal files.
    """
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
        # Frequent enough that every Devanagari character, quotation mark and digit becomes a single
        # token: quoted Hindi then has one token a character.
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
    """Saves the list of known words beside the merges at ``path``, which remain unchanged."""
    write(_words_file(path), gzip.compress("\n".join(sorted(set(known))).encode("utf-8"), mtime=0))
    return Tokenizer.load(path)


def _words_file(path: Path) -> Path:
    return path.with_name("words.txt.gz")


def fertility(tokenizer: Tokenizer, captions: Iterable[str]) -> float:
    """Mean number of tokens per space-separated word of the captions."""
    texts = list(captions)
    return sum(map(len, tokenizer._ids(texts, 64))) / sum(len(text.split()) for text in texts)
