"""Tokenizers of public CLIP and SigLIP checkpoints, from tokenizer.json, and of Stable Diffusion,
from vocab.json and merges.txt."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors

from kalpana.hub.public import misfit, read_object
from kalpana.models.clip import Config
from kalpana.types import KalpanaError, Tokens

TEXTS, TEXTS_TOO = "tokenizer.json", "tokenizer_config.json"
VOCABULARY, MERGES, SPECIAL = "vocab.json", "merges.txt", "special_tokens_map.json"
EDGES = (("bos", "start"), ("eos", "end"))
# Pieces of a text that are tokenized by themselves (Radford et al. 2021, code).
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
TOKENIZERS = {
    "clip": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "siglip": ("SiglipTokenizer", "SiglipTokenizerFast"),
}


@dataclass(frozen=True)
class Words:
    """Tokenizer of a checkpoint.

    SigLIP's texts are canonical, without capitals and punctuation. These and all ``padded`` ones
    have ``length`` tokens.
    """

    bpe: tokenizers.Tokenizer
    length: int
    pad: int
    siglip: bool
    padded: bool = False

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Tokens (b, l) of the texts, cut before the end token and padded.

        The padded length is that of the longest text, or ``length``.
        """
        rows = [self.bpe.encode(self._read(text)).ids for text in texts]
        rows = [
            row if len(row) <= self.length else [*row[: self.length - 1], row[-1]] for row in rows
        ]
        whole = self.siglip or self.padded
        width = self.length if whole else max(map(len, rows), default=0)
        padded = [row + [self.pad] * (width - len(row)) for row in rows]
        ids = torch.tensor(padded, dtype=torch.int64).view(len(rows), width)
        lengths = torch.tensor([len(row) for row in rows]).view(-1, 1)
        return Tokens(ids, torch.arange(width) < lengths)

    def cut(self, text: str) -> str:
        """Part of the text that ``encode([text])`` leaves out; empty if the text fits.

        SigLIP: in canonical form.
        """
        read = self._read(text)
        whole = self.bpe.encode(read)
        if len(whole.ids) <= self.length:
            return ""
        return read[whole.offsets[self.length - 2][1] :].strip()

    def unknown(self, text: str) -> tuple[str, ...]:
        """Words of the text with letters that have no token, without repetition."""
        unk = self.bpe.token_to_id("<unk>")  # only SigLIP has it: CLIP has a token for every byte
        words = [] if unk is None else self._read(text).split()
        return tuple(dict.fromkeys(word for word in words if unk in self.bpe.encode(word).ids))

    def _read(self, text: str) -> str:
        """Text as the tokenizer reads it."""
        text = re.sub("[\ud800-\udfff]", "\ufffd", text)  # tokenizers reject lone surrogates
        return canonical(text) if self.siglip else text


def canonical(text: str) -> str:
    """Text as in SigLIP's training: lower case, no ASCII punctuation, single spaces."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


def to_words(folder: Path, config: Config) -> Words:
    """Tokenizer in a checkpoint's folder.

    Raises KalpanaError if there is none or it is another model's.
    """
    kind, path = ("siglip" if config.text_pool == "last" else "clip"), folder / TEXTS
    about = read_object(folder / TEXTS_TOO) if (folder / TEXTS_TOO).is_file() else {}
    if (name := about.get("tokenizer_class", TOKENIZERS[kind][0])) not in TOKENIZERS[kind]:
        raise misfit(
            folder / TEXTS_TOO, "tokenizer_class", name, f"only {TOKENIZERS[kind][0]} can be read"
        )
    if about.get("do_lower_case", True) is not True:
        raise misfit(
            folder / TEXTS_TOO, "do_lower_case", about["do_lower_case"], "only true can be read"
        )
    try:
        bpe = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise KalpanaError(f"{path} is no tokenizer: {error}") from None
    bpe.no_truncation()
    bpe.no_padding()
    if bpe.get_vocab_size() > config.vocabulary:
        raise KalpanaError(
            f"{path} has {bpe.get_vocab_size()} tokens, more than the {config.vocabulary} of "
            f"config.json: take both from one model"
        )
    empty = bpe.encode("").ids
    end = bpe.token_to_id(_token(about, "eos_token", "</s>")) if kind == "siglip" else config.end
    if not empty or (end is not None and empty[-1] != end):
        raise KalpanaError(
            f"{path} does not end a text with token {end}, the end token: "
            "take it from the model's own folder"
        )
    # CLIP's text features do not depend on padding.
    pad = bpe.token_to_id(_token(about, "pad_token", "</s>")) if kind == "siglip" else 0
    if pad is None:
        raise misfit(
            folder / TEXTS_TOO, "pad_token", about.get("pad_token"), f"{TEXTS} has no such token"
        )
    return Words(bpe, config.length, pad, kind == "siglip")


def read_bpe(folder: Path, config: Config) -> Words:
    """Tokenizer of a Stable Diffusion in a folder with vocab.json and merges.txt.

    All its texts have ``config.length`` tokens. Raises KalpanaError if it is damaged, or another
    model's.
    """
    paths = folder / VOCABULARY, folder / MERGES
    about = dict[str, Any]()
    for path in (folder / TEXTS_TOO, folder / SPECIAL):  # the second counts, as in transformers
        about |= read_object(path) if path.is_file() else {}
    start, end = (_token(about, f"{k}_token", f"<|{n}oftext|>") for k, n in EDGES)
    try:
        bpe = tokenizers.Tokenizer(
            models.BPE.from_file(
                *map(str, paths), unk_token=end, continuing_subword_prefix="",
                end_of_word_suffix="</w>",
            )
        )  # fmt: skip
    except Exception as error:  # the library raises bare Exception
        raise KalpanaError(f"{paths[0]} and {MERGES} are no tokenizer: {error}") from None
    pad = _token(about, "pad_token", end)
    ids = dict[str, int]()
    for token in (start, end, pad):
        if (number := bpe.token_to_id(token)) is None:
            raise KalpanaError(
                f"{paths[0]} has no token {token!r}, which {TEXTS_TOO} or {SPECIAL} names"
            )
        ids[token] = number
    if bpe.get_vocab_size() > config.vocabulary:
        raise KalpanaError(
            f"{paths[0]} has {bpe.get_vocab_size()} tokens, more than the {config.vocabulary} of "
            "the text encoder: take both from one model"
        )
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.post_processor = processors.RobertaProcessing(
        (end, ids[end]), (start, ids[start]), trim_offsets=False, add_prefix_space=False
    )
    return Words(bpe, config.length, ids[pad], siglip=False, padded=True)


def _token(about: dict[str, Any], name: str, default: str) -> str:
    """Special token of a tokenizer_config.json, where it is a text or an object."""
    given = about.get(name, default)
    return str(given["content"] if isinstance(given, dict) else given)
