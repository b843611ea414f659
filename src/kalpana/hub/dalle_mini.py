"""Loader of public DALL-E mini checkpoints (mini, mega) into ``models/dalle_mini.py``.

    checkpoint = read(Path("dalle_bart_mini"))

A folder holds weights as safetensors and a tokenizer. The weights are in one of two layouts.
min-dalle's is encoder.safetensors and decoder.safetensors, with the tensors of its encoder.pt and
decoder.pt; the original is flax_model.safetensors, with those of flax_model.msgpack, and its
config.json. The tokenizer is vocab.json and merges.txt, or the tokenizer.json that contains both.
The decoder of image tokens is detoker.safetensors, with the tensors of min-dalle's detoker.pt, or a
folder vqgan with a VQGAN of 16,384 codes, as ``hub/vqgan.py`` reads it. If something is missing or
not supported, the error names the field or the tensor, or says how to write the file.
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

# Converters for ``python -c``. The first reads tensors only and runs no pickled code.
UNPICKLE = (
    "import torch; from safetensors.torch import save_file; f = {!r}; "
    "[save_file({{k: v.contiguous() for k, v in "
    "torch.load(f'{{f}}/{{n}}.pt', 'cpu', weights_only=True).items()}}, "
    "f'{{f}}/{{n}}.safetensors') for n in {!r}]"
)
UNPACK = (
    "from flax import serialization, traverse_util; "
    "from safetensors.numpy import save_file; f = {!r}; "
    "p = serialization.msgpack_restore(open(f'{{f}}/flax_model.msgpack', 'rb').read()); "
    "save_file(traverse_util.flatten_dict(p, sep='/'), f'{{f}}/flax_model.safetensors')"
)

# Codebook size of the VQGAN of every public checkpoint, and id of the start token. min-dalle 0.4
# starts with the last code instead.
CODES = 2**14
HEAD = 64  # width of an attention head in every public checkpoint; not stated in min-dalle's files
PAD = 1  # padding token, masked in attention

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
SAME = ("attention_heads", "ffn_dim")  # have to be equal in encoder and decoder
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

# Our tensor names and min-dalle's, outside the blocks and inside them. Several of min-dalle's
# tensors are stacked in one of ours.
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
# Gains of layer norms that were published without any: they are 1.
GAINLESS = ("norm.weight", "norm_own.weight", "norm_text.weight", "between.weight")

# The original's numbered names inside a block, and min-dalle's; then the last part of each name.
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
    """Tokenizer of a checkpoint, which reads text as min-dalle's does.

    Emoji become their names, letters lower case, and all that is then not ASCII is left out. Only
    spaces separate words.
    """

    bpe: tokenizers.Tokenizer
    length: int
    ends: tuple[int, int]  # ids of the start and end tokens of a text

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Tokens (b, l) of the texts, cut before the end token and padded to the longest."""
        start, end = self.ends
        rows = [[start, *self._split(text).ids[: self.length - 2], end] for text in texts]
        width = max(map(len, rows), default=0)
        padded = [row + [PAD] * (width - len(row)) for row in rows]
        ids = torch.tensor(padded, dtype=torch.int64).view(len(rows), width)
        lengths = torch.tensor([len(row) for row in rows]).view(-1, 1)
        return Tokens(ids, torch.arange(width) < lengths)

    def cut(self, text: str) -> str:
        """Part of the text that ``encode([text])`` leaves out at the end; empty if the text fits.

        It is in the form in which the tokenizer reads it.
        """
        offsets = self._split(text).offsets[: self.length - 2]
        kept = sum(end - start for start, end in offsets)  # letters
        return "".join(_words(text))[kept:].replace("Ġ", " ").strip()

    def unknown(self, text: str) -> tuple[str, ...]:
        """Words of the text with letters that are left out or have no token, without repetition."""
        unk = self.bpe.token_to_id("<unk>")
        return tuple(
            dict.fromkeys(
                word
                for word in text.split(" ")
                if not _named(word).isascii() or unk in self._split(word).ids
            )
        )

    def _split(self, text: str) -> tokenizers.Encoding:
        """Encoding of the text without start and end tokens."""
        return self.bpe.encode(_words(text), is_pretokenized=True, add_special_tokens=False)


@dataclass(frozen=True)
class Checkpoint:
    """Loaded checkpoint: the ``model``, its tokenizer, and a hash of its weights."""

    model: DalleMini
    words: Words
    fingerprint: str


def read(folder: Path) -> Checkpoint:
    """Checkpoint in a folder, in fp32 on the CPU.

    Raises KalpanaError if a file is missing or damaged, or a setting is not supported.
    """
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
    with torch.device("meta"):  # no random weights, which would be overwritten
        model = DalleMini(config)
    model.load_state_dict(translate(given, config, folder), assign=True)
    return Checkpoint(model.eval().requires_grad_(False), words, hashed(files))


def weights_of(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint.

    Raises KalpanaError if some are missing; if they are there in another format, the error says how
    to convert them.
    """
    for names in ((ENCODER, DECODER), (FLAX,)):
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in names]
    if any((folder / name).is_file() for name in PICKLES):
        code = UNPICKLE.format(str(folder), ("encoder", "decoder"))
        raise KalpanaError(
            f"{folder} has its weights as {' and '.join(PICKLES)} alone, pickles, which can run "
            f'code when they are read: write {ENCODER} and {DECODER} with python -c "{code}"'
        )
    if (folder / MSGPACK).is_file():
        code = UNPACK.format(str(folder))
        raise KalpanaError(
            f"{folder} has its weights as {MSGPACK} alone: "
            f'write {FLAX} with pip install flax and python -c "{code}"'
        )
    raise KalpanaError(
        f"{folder} holds no whole weights of DALL-E mini: "
        f"put {ENCODER} and {DECODER} there, or {FLAX} and {CONFIG}"
    )


def detokenizer_of(folder: Path) -> Path:
    """Path, for ``hub.vqgan.read``, of the decoder of a checkpoint's image tokens.

    Raises KalpanaError if it is missing; if it is there as a pickle, the error says how to convert
    it.
    """
    for path in (folder / VQGAN, folder / DETOKER):
        if path.exists():
            return path
    if (folder / DETOKER).with_suffix(".pt").is_file():
        code = UNPICKLE.format(str(folder), ("detoker",))
        raise KalpanaError(
            f"{folder} has what turns its tokens into pictures as a pickle alone, detoker.pt, "
            f'which can run code when it is read: write {DETOKER} with python -c "{code}"'
        )
    raise KalpanaError(
        f"{folder} lacks what turns its tokens into pictures: put {DETOKER} there, "
        "which is min-dalle's detoker.pt as safetensors, "
        f"or a folder {VQGAN} with the weights of vqgan_imagenet_f16_16384 and their config"
    )


def holds(folder: Path) -> bool:
    """Whether a folder looks like such a checkpoint, complete or not, in any format."""
    return any((folder / name).is_file() for name in (ENCODER, DECODER, FLAX, *PICKLES, MSGPACK))


def to_config(path: Path) -> Config:
    """Config of a config.json of model_type dallebart.

    Raises KalpanaError, which names the field, if a setting is not supported.
    """
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
    fields = {ours: given[theirs] for theirs, ours in FIELDS.items()}
    config = Config(**fields, codes=given["decoder_start_token_id"])
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
    # image_vocab_size does not count the start token.
    return replace(config, image_vocabulary=config.image_vocabulary + 1)


def measure(given: Mapping[str, Tensor], folder: Path) -> Config:
    """Config that fits tensors in min-dalle's names.

    Raises KalpanaError if a tensor that is measured is missing.
    """

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
            f"the weights in {folder} are {width} wide, which is no multiple of {HEAD}: "
            "they are not those of DALL-E mini"
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
    """Tensors of the original in min-dalle's names and form.

    Names of the original are joined by / or by dots. Its layers are stacked in one tensor, here
    each is by itself. Its matrices are transposed, since torch has the outputs first.
    """
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
    """State dict of our model from min-dalle's tensors, each name prefixed by that of its file.

    Raises KalpanaError if a tensor is missing, left over or of another shape.
    """
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
                    f"the weights in {folder} lack {theirs}: "
                    "they are not those of DALL-E mini, or not all of them"
                )
            if part.shape != size:
                raise KalpanaError(
                    f"{theirs} in {folder} is {tuple(part.shape)}, where {size} fits the others: "
                    "take all from one model"
                )
            parts.append(part.float())
        state[name] = torch.cat(parts).contiguous()
    if left:
        raise KalpanaError(
            f"the weights in {folder} hold {', '.join(sorted(left)[:3])}, "
            "which DALL-E mini does not have"
        )
    return state


def to_words(folder: Path, config: Config) -> Words:
    """Tokenizer in a checkpoint's folder.

    Raises KalpanaError if there is none or it is another model's.
    """
    vocabulary: Any
    if (folder / VOCABULARY).is_file() and (folder / MERGES).is_file():
        path = folder / VOCABULARY
        vocabulary, merges = read_object(path), _lines(folder / MERGES)
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
            f"{path} has {size} tokens, more than the {config.vocabulary} of the weights: "
            "take both from one model"
        )
    return Words(bpe, config.length, (vocabulary["<s>"], vocabulary["</s>"]))


def _named(text: str) -> str:
    """Text in lower case, with emoji replaced by their names."""
    if not text.isascii():
        try:
            from emoji import demojize
        except ImportError:
            raise KalpanaError(
                "to read letters beyond ASCII this model needs the names of emoji: "
                "pip install emoji"
            ) from None
        text = demojize(text, delimiters=("", ""))
    return text.lower()


def _words(text: str) -> list[str]:
    """Words of the text in the form of the merges: each begins with the sign for a space."""
    return [
        f"Ġ{word}" for word in _named(text).encode("ascii", "ignore").decode().split(" ") if word
    ]


def _theirs(name: str) -> list[str]:
    """The checkpoint's names of the tensors that make up our tensor of this name."""
    side, rest = name.split(".", 1)
    if rest in OUTER:
        return [f"{side}.{OUTER[rest]}"]
    _, number, inner = rest.split(".", 2)
    inner, leaf = inner.rsplit(".", 1)
    return [f"{side}.layers.{number}.{part}.{leaf}" for part in INNER[inner]]


def _lines(path: Path) -> list[str]:
    """Pairs in a merges.txt, whose first line is a title."""
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n")[1:] if line]
    except (OSError, UnicodeDecodeError) as error:
        raise KalpanaError(f"{path} cannot be read: {error}") from None
