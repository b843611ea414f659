"""Public DALL-E mini checkpoints, dalle-mini and dalle-mega, read into ``models/dalle_mini.py``.

    checkpoint = read(Path("dalle_bart_mini"))

A folder holds the weights as safetensors, in one of two layouts, and the words. min-dalle's is encoder.safetensors and
decoder.safetensors, with the tensors of its encoder.pt and decoder.pt; the original is flax_model.safetensors, with those of
flax_model.msgpack, and its config.json. The words are vocab.json and merges.txt, or the tokenizer.json that has both in it. What turns
its tokens into pictures is detoker.safetensors, with the tensors of min-dalle's detoker.pt, or a folder vqgan with a VQGAN of 16,384
codes, as ``hub/vqgan.py`` reads it. What of these this version cannot follow is an error that names the field or the tensor, or says how
to write the file that is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import models
from torch import Tensor

from kalpana.hub.public import hashed, misfit, read_object, read_tensors
from kalpana.models.dalle_mini import Config, DalleMini
from kalpana.types import KalpanaError, Tokens

ENCODER, DECODER, FLAX, CONFIG = (
    "encoder.safetensors",
    "decoder.safetensors",
    "flax_model.safetensors",
    "config.json",
)
PICKLES, MSGPACK = ("encoder.pt", "decoder.pt"), "flax_model.msgpack"
DETOKER, VQGAN = "detoker.safetensors", "vqgan"
VOCABULARY, MERGES, TEXTS = "vocab.json", "merges.txt", "tokenizer.json"

# To be put in ``python -c``. The first reads tensors and runs no pickled code.
UNPICKLE = (
    "import torch; from safetensors.torch import save_file; f = {!r}; "
    "[save_file({{k: v.contiguous() for k, v in torch.load(f'{{f}}/{{n}}.pt', 'cpu', weights_only=True).items()}}, "
    "f'{{f}}/{{n}}.safetensors') for n in {!r}]"
)
UNPACK = (
    "from flax import serialization, traverse_util; from safetensors.numpy import save_file; f = {!r}; "
    "p = serialization.msgpack_restore(open(f'{{f}}/flax_model.msgpack', 'rb').read()); "
    "save_file(traverse_util.flatten_dict(p, sep='/'), f'{{f}}/flax_model.safetensors')"
)

CODES = (
    2**14
)  # of the VQGAN that every public checkpoint draws with, and its start token; min-dalle 0.4 starts with the last code instead
HEAD = 64  # numbers in an attention head of every public checkpoint, which min-dalle's tensors do not tell
PAD = 1  # the token that fills short rows; no attention looks at it

FIELDS = {
    "encoder_vocab_size": "vocabulary",
    "max_text_length": "length",
    "d_model": "width",
    "encoder_attention_heads": "heads",
    "encoder_ffn_dim": "hidden",
    "encoder_layers": "text_depth",
    "decoder_layers": "depth",
    "decoder_start_token_id": "start",
    "image_vocab_size": "image_vocabulary",
    "image_length": "image_length",
}
SAME = ("attention_heads", "ffn_dim")  # of encoder and decoder
ONLY = {
    "model_type": "dallebart",
    "activation_function": "gelu",
    "ln_type": "layernorm",
    "ln_positions": "normformer",
    "use_bias": False,
    "use_glu": True,
    "head_scale": False,
    "use_head_scale": False,
    "use_cosine_attention": False,
    "use_deepnet_scaling": False,
    "use_absolute_position_embeddings": True,
    "use_swin_position_embeddings": False,
    "use_final_ln_encoder": True,
    "use_final_ln_decoder": True,
    "sinkhorn_iters": 1,
    "scale_embedding": False,
    "tie_word_embeddings": False,
}

# Our names and min-dalle's, outside the blocks and inside them; several of theirs are stacked in one of ours.
OUTER = {
    "words.weight": "embed_tokens.weight",
    "codes.weight": "embed_tokens.weight",
    "positions": "embed_positions.weight",
    "before.weight": "layernorm_embedding.weight",
    "before.bias": "layernorm_embedding.bias",
    "norm.weight": "final_ln.weight",
    "norm.bias": "final_ln.bias",
    "head.weight": "lm_head.weight",
}
INNER = {
    "norm_own": ("pre_self_attn_layer_norm",),
    "own.query": ("self_attn.q_proj",),
    "own.keys": ("self_attn.k_proj", "self_attn.v_proj"),
    "own.out": ("self_attn.out_proj",),
    "own.after": ("self_attn_layer_norm",),
    "norm_text": ("pre_encoder_attn_layer_norm",),
    "text.query": ("encoder_attn.q_proj",),
    "text.keys": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "text.out": ("encoder_attn.out_proj",),
    "text.after": ("encoder_attn_layer_norm",),
    "feed.norm": ("glu.ln0",),
    "feed.up": ("glu.fc0", "glu.fc1"),
    "feed.between": ("glu.ln1",),
    "feed.down": ("glu.fc2",),
}
GAINLESS = (
    "norm.weight",
    "norm_own.weight",
    "norm_text.weight",
    "between.weight",
)  # published without, which is to say 1

# What min-dalle calls what the original numbers, inside a block; and the last part of each name.
NUMBERED = {
    "FlaxBartAttention_0.": "self_attn.",
    "FlaxBartAttention_1.": "encoder_attn.",
    "GLU_0.LayerNorm_": "glu.ln",
    "GLU_0.Dense_": "glu.fc",
    "LayerNorm_0": "pre_self_attn_layer_norm",
    "LayerNorm_1": "self_attn_layer_norm",
    "LayerNorm_2": "pre_encoder_attn_layer_norm",
    "LayerNorm_3": "encoder_attn_layer_norm",
}
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


@dataclass(frozen=True)
class Words:
    """A checkpoint's own tokenizer, which reads as min-dalle's does: emoji by their names, lower case, and of what is then left only ASCII;
    words are parted by spaces and by nothing else."""

    bpe: tokenizers.Tokenizer
    length: int
    ends: tuple[int, int]  # the ids that begin and end a text

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Tokens (b, l) of the texts, cut so that the end token stays, and padded to the longest."""
        start, end = self.ends
        rows = [[start, *self._split(text).ids[: self.length - 2], end] for text in texts]
        width = max(map(len, rows), default=0)
        ids = torch.tensor(
            [row + [PAD] * (width - len(row)) for row in rows], dtype=torch.int64
        ).view(len(rows), width)
        return Tokens(
            ids, torch.arange(width) < torch.tensor([len(row) for row in rows]).view(-1, 1)
        )

    def cut(self, text: str) -> str:
        """What ``encode([text])`` leaves out at the end of the text, in the form it is read in; empty where it fits."""
        kept = sum(
            end - start for start, end in self._split(text).offsets[: self.length - 2]
        )  # letters
        return "".join(_words(text))[kept:].replace("Ġ", " ").strip()

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words of the text that hold letters the tokenizer leaves out or has no token for, each once."""
        unk = self.bpe.token_to_id("<unk>")
        return tuple(
            dict.fromkeys(
                word
                for word in text.split(" ")
                if not _named(word).isascii() or unk in self._split(word).ids
            )
        )

    def _split(self, text: str) -> tokenizers.Encoding:
        return self.bpe.encode(_words(text), is_pretokenized=True, add_special_tokens=False)


@dataclass(frozen=True)
class Checkpoint:
    """A folder, read: the ``model``, its tokenizer, and a hash of its weights."""

    model: DalleMini
    words: Words
    fingerprint: str


def read(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, in fp32 on the CPU. Raises KalpanaError where a file is missing or damaged, or asks for what is not
    to be had."""
    files = weights_of(folder)
    if files[0].name == FLAX:
        config = to_config(folder / CONFIG)
        given = unstack(read_tensors(files[0]))
    else:
        given = {
            f"{file.stem}.{name}": tensor
            for file in files
            for name, tensor in read_tensors(file).items()
        }
        config = measure(given, folder)
    words = to_words(folder, config)
    with torch.device("meta"):  # nothing is drawn at random only to be written over
        model = DalleMini(config)
    model.load_state_dict(translate(given, config, folder), assign=True)
    return Checkpoint(model.eval().requires_grad_(False), words, hashed(files))


def weights_of(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint. Raises KalpanaError where some are missing, or are there in another format alone, and then
    says how to write them."""
    for names in ((ENCODER, DECODER), (FLAX,)):
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in names]
    if any((folder / name).is_file() for name in PICKLES):
        raise KalpanaError(
            f"{folder} has its weights as {' and '.join(PICKLES)} alone, pickles, which can run code when they are read: "
            f'write {ENCODER} and {DECODER} with python -c "{UNPICKLE.format(str(folder), ("encoder", "decoder"))}"'
        )
    if (folder / MSGPACK).is_file():
        raise KalpanaError(
            f'{folder} has its weights as {MSGPACK} alone: write {FLAX} with pip install flax and python -c "{UNPACK.format(str(folder))}"'
        )
    raise KalpanaError(
        f"{folder} holds no whole weights of DALL-E mini: put {ENCODER} and {DECODER} there, or {FLAX} and {CONFIG}"
    )


def detokenizer_of(folder: Path) -> Path:
    """What ``hub.vqgan.read`` is to read for a checkpoint. Raises KalpanaError where it is missing, or there as a pickle alone, and then
    says how to write it."""
    for path in (folder / VQGAN, folder / DETOKER):
        if path.exists():
            return path
    if (folder / DETOKER).with_suffix(".pt").is_file():
        raise KalpanaError(
            f"{folder} has what turns its tokens into pictures as a pickle alone, detoker.pt, which can run code when it is read: "
            f'write {DETOKER} with python -c "{UNPICKLE.format(str(folder), ("detoker",))}"'
        )
    raise KalpanaError(
        f"{folder} lacks what turns its tokens into pictures: put {DETOKER} there, which is min-dalle's detoker.pt as safetensors, "
        f"or a folder {VQGAN} with the weights of vqgan_imagenet_f16_16384 and their config"
    )


def holds(folder: Path) -> bool:
    """Whether a folder looks like such a checkpoint, whole or not, in this format or another."""
    return any((folder / name).is_file() for name in (ENCODER, DECODER, FLAX, *PICKLES, MSGPACK))


def to_config(path: Path) -> Config:
    """Our config of a config.json of model_type dallebart. Raises KalpanaError, which names the field, where there is none."""
    given = read_object(path)
    for name, only in ONLY.items():
        if given.get(name, None if name == "model_type" else only) != only:
            raise misfit(path, name, given.get(name), f"only {json.dumps(only)} can be read")
    for name in FIELDS:
        if type(given.get(name)) is not int or given[name] < 1:
            raise misfit(
                path, name, given.get(name), "only a whole number of 1 or more can be read"
            )
    for name in SAME:
        ours, theirs = given[f"encoder_{name}"], given.get(f"decoder_{name}")
        if theirs != ours:
            raise misfit(
                path, f"decoder_{name}", theirs, f"only that of the encoder can be read, {ours}"
            )
    config = Config(
        **{ours: given[theirs] for theirs, ours in FIELDS.items()},
        codes=given["decoder_start_token_id"],
    )
    if config.width % config.heads:
        raise misfit(
            path,
            "encoder_attention_heads",
            config.heads,
            f"it should divide d_model, {config.width}",
        )
    if config.start > config.image_vocabulary:
        raise misfit(
            path,
            "decoder_start_token_id",
            config.start,
            f"it should be at most image_vocab_size, {config.image_vocabulary}",
        )
    return replace(
        config, image_vocabulary=config.image_vocabulary + 1
    )  # they do not count the start token


def measure(given: Mapping[str, Tensor], folder: Path) -> Config:
    """Our config of tensors in min-dalle's names. Raises KalpanaError where one that is measured is missing."""

    def shape(name: str) -> tuple[int, int]:
        if name not in given or given[name].ndim != 2:
            raise KalpanaError(
                f"the weights in {folder} lack the matrix {name}: they are not those of DALL-E mini"
            )
        return given[name].shape[0], given[name].shape[1]

    def depth(side: str) -> int:
        return len({name.split(".")[2] for name in given if name.startswith(f"{side}.layers.")})

    vocabulary, width = shape("encoder.embed_tokens.weight")
    image_vocabulary, _ = shape("decoder.lm_head.weight")
    if width % HEAD:
        raise KalpanaError(
            f"the weights in {folder} are {width} wide, which is no multiple of {HEAD}: they are not those of DALL-E mini"
        )
    codes = min(CODES, image_vocabulary - 1)
    return Config(
        vocabulary=vocabulary,
        length=shape("encoder.embed_positions.weight")[0],
        width=width,
        heads=width // HEAD,
        hidden=shape("encoder.layers.0.glu.fc0.weight")[0],
        text_depth=depth("encoder"),
        depth=depth("decoder"),
        codes=codes,
        start=codes,
        image_vocabulary=image_vocabulary,
        image_length=shape("decoder.embed_positions.weight")[0],
    )


def unstack(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's tensors, whose names are joined by / or by dots, in min-dalle's names and form: the layers, which were in one tensor,
    each by itself, and matrices turned, as torch has the outputs first."""
    state: dict[str, Tensor] = {}
    for name, tensor in given.items():
        outer, _, leaf = name.replace("/", ".").removeprefix("model.").rpartition(".")
        tensor = tensor.transpose(-1, -2) if leaf == "kernel" and tensor.ndim > 1 else tensor
        leaf = LEAVES.get(leaf, leaf)
        side, *stack = outer.split(".", 3)
        if stack[:2] != ["layers", f"FlaxBart{side.title()}Layers"] or len(stack) < 3:
            state[f"decoder.{outer}.{leaf}" if outer == "lm_head" else f"{outer}.{leaf}"] = tensor
            continue
        inner = stack[2]
        for theirs, other in NUMBERED.items():
            if inner.startswith(theirs):
                inner = other + inner.removeprefix(theirs)
                break
        state |= {f"{side}.layers.{i}.{inner}.{leaf}": layer for i, layer in enumerate(tensor)}
    return state


def translate(given: Mapping[str, Tensor], config: Config, folder: Path) -> dict[str, Tensor]:
    """The state dict of our model from min-dalle's tensors, each behind the name of its file. Raises KalpanaError where one is missing,
    left over or of another shape."""
    left = dict(given)
    with torch.device("meta"):
        wanted = DalleMini(config).state_dict()
    state = {}
    for name, like in wanted.items():
        names, parts = _theirs(name), []
        size = (like.shape[0] // len(names), *like.shape[1:])
        for theirs in names:
            part = left.pop(theirs, torch.ones(size) if name.endswith(GAINLESS) else None)
            if part is None:
                raise KalpanaError(
                    f"the weights in {folder} lack {theirs}: they are not those of DALL-E mini, or not all of them"
                )
            if part.shape != size:
                raise KalpanaError(
                    f"{theirs} in {folder} is {tuple(part.shape)}, where {size} fits the others: take all from one model"
                )
            parts.append(part.float())
        state[name] = torch.cat(parts).contiguous()
    if left:
        raise KalpanaError(
            f"the weights in {folder} hold {', '.join(sorted(left)[:3])}, which DALL-E mini does not have"
        )
    return state


def to_words(folder: Path, config: Config) -> Words:
    """The tokenizer in a checkpoint's folder. Raises KalpanaError where it is none, or another model's."""
    vocabulary: Any
    if (folder / VOCABULARY).is_file() and (folder / MERGES).is_file():
        path, vocabulary, merges = (
            folder / VOCABULARY,
            read_object(folder / VOCABULARY),
            _lines(folder / MERGES),
        )
    elif (folder / TEXTS).is_file():
        path, model = folder / TEXTS, read_object(folder / TEXTS).get("model") or {}
        vocabulary, merges = model.get("vocab") or {}, model.get("merges") or []
    else:
        raise KalpanaError(
            f"{folder} lacks its words: put {VOCABULARY} and {MERGES} there, or {TEXTS}"
        )
    try:
        pairs = [
            (a, b) for a, b in (pair.split() if isinstance(pair, str) else pair for pair in merges)
        ]
        bpe = tokenizers.Tokenizer(models.BPE(vocabulary, pairs, unk_token="<unk>"))
    except Exception as error:  # the library raises bare Exception
        raise KalpanaError(f"{path} is no tokenizer that merges pairs: {error}") from None
    lacks = [token for token in ("<s>", "</s>", "<unk>") if token not in vocabulary]
    if lacks:
        raise KalpanaError(
            f"{path} has no token {', '.join(lacks)}: take it from the model's own folder"
        )
    size = 1 + max(vocabulary.values())
    if size > config.vocabulary:
        raise KalpanaError(
            f"{path} has {size} tokens, more than the {config.vocabulary} of the weights: take both from one model"
        )
    return Words(bpe, config.length, (vocabulary["<s>"], vocabulary["</s>"]))


def _named(text: str) -> str:
    """The text with the names of emoji in their places, in lower case."""
    if not text.isascii():
        try:
            from emoji import demojize
        except ImportError:
            raise KalpanaError(
                "to read letters beyond ASCII this model needs the names of emoji: pip install emoji"
            ) from None
        text = demojize(text, delimiters=("", ""))
    return text.lower()


def _words(text: str) -> list[str]:
    """The words of the text as the merges know them: each begins with the sign for a space."""
    return [
        f"Ġ{word}" for word in _named(text).encode("ascii", "ignore").decode().split(" ") if word
    ]


def _theirs(name: str) -> list[str]:
    """What the tensors are called there that make up ours."""
    side, rest = name.split(".", 1)
    if rest in OUTER:
        return [f"{side}.{OUTER[rest]}"]
    _, number, inner = rest.split(".", 2)
    inner, leaf = inner.rsplit(".", 1)
    return [f"{side}.layers.{number}.{part}.{leaf}" for part in INNER[inner]]


def _lines(path: Path) -> list[str]:
    """The pairs of a merges.txt, whose first line is a title."""
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n")[1:] if line]
    except (OSError, UnicodeDecodeError) as error:
        raise KalpanaError(f"{path} cannot be read: {error}") from None
