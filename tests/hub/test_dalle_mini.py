"""Loader of DALL-E mini checkpoints: equal to min-dalle's modules with the same random weights."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from torch import Tensor, nn

from kalpana.hub.dalle_mini import Words, read, to_config, to_words, translate, unstack
from kalpana.hub.public import hashed
from kalpana.models.dalle_mini import PRESETS, DalleMini
from kalpana.train.tokenizer import corpus
from kalpana.types import KalpanaError, Tokens

WIDTH, HIDDEN, LAYERS, CODES, PLACES = 128, 96, 2, 40, 256
SAID = (
    "a photo of a cat", "", "  A  Photo of two CATS!  ", "it's the dog's 12 bones; they'll do",
    "तीन लाल सेब मेज़ पर", "क़लम and ज़मीन", "🐱 cat 🍎🍎", "👍🏽 1️⃣ 🇮🇳❤️x", "naïve café ÅÅ ﬁ",
    "<s> </s> <unk> Ġ", "日本 a", "tab\there\nand\r\x00 \x7f", "\ud800a \udfff",
)  # fmt: skip
LONG = "a long sentence of three red apples and a cat on a chair, " * 6


@pytest.fixture(scope="session")
def theirs() -> ModuleType:
    """min-dalle as a module.

    Its import turns gradients off and takes all threads for the whole process; both are restored.
    """
    grad, threads = torch.is_grad_enabled(), torch.get_num_threads()
    module = importlib.import_module("min_dalle.min_dalle")
    torch.set_grad_enabled(grad)
    torch.set_num_threads(threads)
    return module


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small tokenizer in the checkpoint's format: vocab.json and merges.txt, and tokenizer.json."""
    folder = tmp_path_factory.mktemp("texts")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        show_progress=False,
        min_frequency=1,
        initial_alphabet=["Ġ", *map(chr, range(33, 127))],
    )
    bpe.train_from_iterator(
        (caption.lower() for caption in list(corpus(400))[::8] if caption.isascii()), trainer
    )
    bpe.model.save(str(folder))
    bpe.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def their_words(texts: Path, theirs: ModuleType) -> Any:
    """min-dalle's tokenizer, made from the files as its ``init_tokenizer`` does."""
    vocabulary = json.loads((texts / "vocab.json").read_text())
    return theirs.TextTokenizer(
        vocabulary, (texts / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    )


@torch.no_grad()
def stir(module: nn.Module) -> nn.Module:
    """Module with random weights under which every part has an effect."""
    for name, p in module.named_parameters():
        if p.ndim > 1:
            p.normal_(std=0.5 if "embed" in name else 1.5 * p.shape[1] ** -0.5)
        else:
            p.normal_(1.0 if name.endswith("weight") else 0.0, 0.1)
    return module.eval()


def reference(
    theirs: ModuleType,
    vocabulary: int,
    codes: int = CODES,
    width: int = WIDTH,
    layers: int = LAYERS,
) -> tuple[Any, Any]:
    """min-dalle's encoder and decoder with random weights."""
    torch.manual_seed(5)
    shared = {
        "embed_count": width,
        "attention_head_count": width // 64,
        "glu_embed_count": HIDDEN,
        "layer_count": layers,
        "device": "cpu",
    }
    encoder = theirs.DalleBartEncoder(text_vocab_count=vocabulary, text_token_count=64, **shared)
    return stir(encoder), stir(theirs.DalleBartDecoder(image_vocab_count=codes, **shared))


def keep_words(texts: Path, folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes((texts / name).read_bytes())


def write(folder: Path, encoder: nn.Module, decoder: nn.Module) -> None:
    """Write both as safetensors, with the keys of encoder.pt and decoder.pt."""
    for name, module in (("encoder", encoder), ("decoder", decoder)):
        save_file(module.state_dict(), folder / f"{name}.safetensors")


@pytest.fixture
def tiny(theirs: ModuleType, texts: Path, tmp_path: Path) -> tuple[Path, Any, Any]:
    """Folder in min-dalle's layout, and the modules that it holds."""
    encoder, decoder = reference(theirs, 720)
    write(tmp_path, encoder, decoder)
    keep_words(texts, tmp_path, "vocab.json", "merges.txt")
    return tmp_path, encoder, decoder


def padded(row: list[int]) -> Tensor:
    return torch.tensor(row + [1] * (64 - len(row)))


@torch.no_grad()
def their_state(encoder: Any, decoder: Any, ids: list[int], count: int) -> dict[str, Tensor]:
    """Input of min-dalle's decoder for ``count`` pictures of one text.

    The rows without text come first, then those with the text.
    """
    pair = torch.stack((padded([ids[0], ids[-1]]), padded(ids)))
    rows = [0] * count + [1] * count
    return {
        "attention_mask": pair[rows].not_equal(1)[:, None, None, :],
        "encoder_state": encoder(pair)[rows],
        "attention_state": torch.zeros(len(decoder.layers), 4 * count, PLACES, decoder.embed_count),
    }


@torch.no_grad()
def compare(model: DalleMini, tokens: Tokens, encoder: Any, decoder: Any) -> None:
    """Compare all logits of a picture's tokens, with the text and without.

    min-dalle reads each text by itself, our model all together.
    """
    start, rng = model.config.start, torch.Generator().manual_seed(6)
    image = torch.randint(0, model.config.codes, (len(tokens), PLACES), generator=rng)
    told, untold = (
        model(tokens, image),
        model(tokens, image, torch.ones(len(tokens), dtype=torch.bool)),
    )
    # Else there would be little to compare.
    assert (told - untold).abs().max() > 1 and (told[0] - told[1]).abs().max() > 1
    for i in range(len(tokens)):
        state = their_state(encoder, decoder, tokens.ids[i][tokens.mask[i]].tolist(), 1)
        before = torch.cat((torch.tensor([start]), image[i, :-1]))[None]
        wanted, _ = decoder(**state, prev_tokens=before, token_index=torch.arange(PLACES))
        assert torch.allclose(torch.stack((untold[i], told[i])), wanted, atol=1e-4)


def their_dice(temperature: float, top_k: int, rng: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Sampling as in min-dalle: from the k likeliest tokens, one generator for all rows."""

    def draw(logits: Tensor) -> Tensor:
        best = logits.sort(descending=True).values
        weights = ((logits - best[:, :1]) / temperature).exp() * (logits >= best[:, [top_k - 1]])
        return weights.multinomial(1, generator=rng)[:, 0]

    return draw


# min-dalle's layout.


def test_logits_are_those_of_min_dalle(tiny: tuple[Path, Any, Any]) -> None:
    folder, encoder, decoder = tiny
    checkpoint = read(folder)
    assert checkpoint.fingerprint == hashed(
        [folder / "encoder.safetensors", folder / "decoder.safetensors"]
    )
    assert not any(p.requires_grad for p in checkpoint.model.parameters())
    compare(
        checkpoint.model,
        checkpoint.words.encode(["a photo of a cat", "", "two red apples, " * 4]),
        encoder,
        decoder,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "temperature, top_k, factor", [(1.0, 40, 1.0), (1.0, 8, 16.0), (2.0, 20, 3.0)]
)
def test_tokens_are_those_of_min_dalle(
    temperature: float, top_k: int, factor: float, tiny: tuple[Path, Any, Any]
) -> None:
    folder, encoder, decoder = tiny
    checkpoint, count, seed = read(folder), 3, 7
    config = checkpoint.model.config
    # min-dalle also samples the start token if there are fewer codes than in public checkpoints.
    checkpoint.model.config = replace(config, codes=CODES + 1)
    state = their_state(
        encoder, decoder, checkpoint.words.encode(["a red cat"]).ids[0].tolist(), count
    )
    wanted = torch.full((count, PLACES + 1), config.start)
    torch.manual_seed(seed)
    with torch.no_grad():
        for i in range(PLACES):
            wanted[:, i + 1], state["attention_state"] = decoder.sample_tokens(
                settings=torch.tensor([temperature, top_k, factor]),
                **state,
                prev_tokens=wanted[:, [i]],
                token_index=torch.tensor([i]),
            )
    draw = their_dice(temperature, top_k, torch.Generator().manual_seed(seed))
    ours = torch.stack(
        list(
            checkpoint.model.generate(checkpoint.words.encode(["a red cat"] * count), draw, factor)
        ),
        1,
    )
    assert len(ours.unique()) > 10
    assert torch.equal(ours, wanted[:, 1:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.cuda.amp.autocast:FutureWarning")
@pytest.mark.filterwarnings("ignore:CUDA is not available or torch_xla is imported:UserWarning")
def test_from_text_to_tokens_it_is_the_whole_of_min_dalle(
    theirs: ModuleType, texts: Path, their_words: Any, tmp_path: Path
) -> None:
    """Tokens equal those that min-dalle's ``generate_raw_image_stream`` passes to its detokenizer.

    There are as many codes as in public, and the last of them is the start token, as in min-dalle
    0.4.
    """

    class Seen:
        def forward(self, is_seamless: bool, image_tokens: Tensor) -> Tensor:
            return image_tokens

    # Padded as in dalle-mega.
    encoder, decoder = reference(theirs, 720, codes=2**14 + 31, width=64, layers=1)
    whole = object.__new__(theirs.MinDalle)  # its constructor would download weights
    vars(whole).update(
        device="cpu",
        dtype=torch.float32,
        is_reusable=True,
        text_token_count=64,
        layer_count=1,
        embed_count=64,
        tokenizer=their_words,
        encoder=encoder,
        decoder=decoder,
        detokenizer=Seen(),
    )
    how = {"seed": 11, "grid_size": 2, "temperature": 1.2, "top_k": 64, "supercondition_factor": 4}
    with torch.no_grad():
        (wanted,) = whole.generate_raw_image_stream("A red 🐱 on a chair", **how)

    write(tmp_path, encoder, decoder)
    keep_words(texts, tmp_path, "tokenizer.json")
    checkpoint = read(tmp_path)
    model, tokens = checkpoint.model, checkpoint.words.encode(["A red 🐱 on a chair"] * 4)
    assert (model.config.codes, model.config.start, model.config.image_vocabulary) == (
        2**14,
        2**14,
        2**14 + 32,
    )
    model.config = replace(model.config, start=2**14 - 1)
    ours = torch.stack(
        list(model.generate(tokens, their_dice(1.2, 64, torch.Generator().manual_seed(11)), 4.0)), 1
    )
    assert len(ours.unique()) > 100
    assert torch.equal(ours, wanted)


def test_gains_that_were_not_published_are_one(tiny: tuple[Path, Any, Any]) -> None:
    folder, encoder, decoder = tiny
    lone = re.compile(r"(pre_\w+_layer_norm|ln0|ln1|final_ln)\.weight$")
    for name, module in (("encoder", encoder), ("decoder", decoder)):
        given = module.state_dict()
        for key in given:
            if lone.search(key):
                given[key].fill_(1)
        save_file(
            {key: value for key, value in given.items() if not lone.search(key)},
            folder / f"{name}.safetensors",
        )
    checkpoint = read(folder)
    compare(checkpoint.model, checkpoint.words.encode(["a cat", "a red chair"]), encoder, decoder)


# The original layout.


def flax(vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors of a small original."""
    for side, rows, places, norms, attentions in (
        ("encoder", vocabulary, 64, 2, 1),
        ("decoder", CODES + 1, PLACES, 4, 2),
    ):
        yield f"model/{side}/embed_tokens/embedding", (rows, WIDTH)
        yield f"model/{side}/embed_positions/embedding", (places, WIDTH)
        yield f"model/{side}/final_ln/bias", (WIDTH,)
        yield from (
            (f"model/{side}/layernorm_embedding/{leaf}", (WIDTH,)) for leaf in ("bias", "scale")
        )
        stack = f"model/{side}/layers/FlaxBart{side.title()}Layers"
        for i in range(norms):
            yield from (
                (f"{stack}/LayerNorm_{i}/{leaf}", (LAYERS, WIDTH))
                for leaf in ("bias", "scale")[: 1 + i % 2]
            )
        for i in range(attentions):
            yield from (
                (f"{stack}/FlaxBartAttention_{i}/{part}_proj/kernel", (LAYERS, WIDTH, WIDTH))
                for part in ("k", "out", "q", "v")
            )
        yield from (
            (f"{stack}/GLU_0/LayerNorm_{i}/bias", (LAYERS, width))
            for i, width in enumerate((WIDTH, HIDDEN))
        )
        for i, (rows, columns) in enumerate(((WIDTH, HIDDEN), (WIDTH, HIDDEN), (HIDDEN, WIDTH))):
            yield f"{stack}/GLU_0/Dense_{i}/kernel", (LAYERS, rows, columns)
    yield "lm_head/kernel", (WIDTH, CODES + 1)


def torched(given: dict[str, Tensor], side: str) -> dict[str, Tensor]:
    """Tensors of the original as min-dalle converted them for one of its modules.

    See its ``load_params`` before version 0.3.
    """
    ours = {
        name.removeprefix(f"model/{side}/"): value
        for name, value in given.items()
        if name.startswith(f"model/{side}/")
    }
    state = {
        f"embed_{kind}.weight": ours[f"embed_{kind}/embedding"] for kind in ("tokens", "positions")
    }
    state |= {
        "layernorm_embedding.weight": ours["layernorm_embedding/scale"],
        "layernorm_embedding.bias": ours["layernorm_embedding/bias"],
    }
    state["final_ln.bias"] = ours["final_ln/bias"]
    norms = [
        "pre_self_attn_layer_norm",
        "self_attn_layer_norm",
        "pre_encoder_attn_layer_norm",
        "encoder_attn_layer_norm",
    ]
    attentions = ["self_attn", "encoder_attn"]
    for i in range(LAYERS):
        layer = {
            name.split("/", 2)[2]: value[i]
            for name, value in ours.items()
            if name.startswith(f"layers/FlaxBart{side.title()}Layers/")
        }
        for k, attention in enumerate(attentions[: 1 if side == "encoder" else 2]):
            state |= {
                f"layers.{i}.{attention}.{p}_proj.weight": layer[
                    f"FlaxBartAttention_{k}/{p}_proj/kernel"
                ].T
                for p in ("q", "k", "v", "out")
            }
        for k, norm in enumerate(norms[: 2 if side == "encoder" else 4]):
            state[f"layers.{i}.{norm}.bias"] = layer[f"LayerNorm_{k}/bias"]
            if k % 2:
                state[f"layers.{i}.{norm}.weight"] = layer[f"LayerNorm_{k}/scale"]
        state |= {
            f"layers.{i}.glu.ln{k}.bias": layer[f"GLU_0/LayerNorm_{k}/bias"] for k in range(2)
        }
        state |= {
            f"layers.{i}.glu.fc{k}.weight": layer[f"GLU_0/Dense_{k}/kernel"].T for k in range(3)
        }
    if side == "decoder":
        state["lm_head.weight"] = given["lm_head/kernel"].T
    return state


CONFIG = {
    "model_type": "dallebart",
    "activation_function": "gelu",
    "d_model": WIDTH,
    "encoder_vocab_size": 720,
    "max_text_length": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": HIDDEN,
    "decoder_ffn_dim": HIDDEN,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "image_vocab_size": CODES,
    "image_length": PLACES,
    "decoder_start_token_id": CODES,
    "ln_positions": "normformer",
    "use_scan": True,
    "dropout": 0.0,
    "normalize_text": True,
    "bos_token_id": CODES,
}


@pytest.fixture
def original(texts: Path, tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """Folder in the original layout, with four heads of width 32, and its tensors."""
    rng = torch.Generator().manual_seed(8)
    given = {}
    for name, shape in flax(720):
        scale = (
            0.5 if "embed_" in name else 1.5 * shape[-2] ** -0.5 if name.endswith("kernel") else 0.1
        )
        given[name] = torch.randn(shape, generator=rng) * scale + name.endswith("scale")
    save_file(given, tmp_path / "flax_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    keep_words(texts, tmp_path, "vocab.json", "merges.txt")
    return tmp_path, given


@pytest.mark.parametrize("joint", ["/", "."])
def test_the_original_layout_is_read_as_min_dalle_read_it(
    joint: str, original: tuple[Path, dict[str, Tensor]], theirs: ModuleType
) -> None:
    folder, given = original
    save_file(
        {name.replace("/", joint): value for name, value in given.items()},
        folder / "flax_model.safetensors",
    )
    shared = {
        "embed_count": WIDTH,
        "attention_head_count": 4,
        "glu_embed_count": HIDDEN,
        "layer_count": LAYERS,
        "device": "cpu",
    }
    encoder = theirs.DalleBartEncoder(text_vocab_count=720, text_token_count=64, **shared).eval()
    decoder = theirs.DalleBartDecoder(image_vocab_count=CODES, **shared).eval()
    for side, module in (("encoder", encoder), ("decoder", decoder)):
        # As min-dalle loads them.
        missing, extra = module.load_state_dict(torched(given, side), strict=False)
        assert not extra and all(
            re.search(r"(pre_\w+_layer_norm|ln0|ln1|final_ln)\.weight$", name) for name in missing
        )
    checkpoint = read(folder)
    assert checkpoint.model.config.heads == 4
    compare(checkpoint.model, checkpoint.words.encode(["a cat", "a red chair"]), encoder, decoder)


@pytest.mark.slow
def test_the_published_tensors_are_those_of_the_presets() -> None:
    """0.4 and 2.6 billion numbers, under the names that the original training code prints."""
    for name in ("mini", "mega"):
        c = PRESETS[name]
        sizes = {720: c.vocabulary, WIDTH: c.width, HIDDEN: c.hidden, CODES + 1: c.image_vocabulary}

        def real(
            shape: tuple[int, ...], c: Any = c, sizes: dict[int, int] = sizes
        ) -> tuple[int, ...]:
            stacked = shape[0] == LAYERS
            return ((c.depth,) if stacked else ()) + tuple(sizes.get(n, n) for n in shape[stacked:])

        given = {theirs: torch.empty(real(shape), device="meta") for theirs, shape in flax(720)}
        assert (
            round(sum(value.numel() for value in given.values()) / 1e9, 1)
            == {"mini": 0.4, "mega": 2.6}[name]
        )
        state = translate({key: value for key, value in unstack(given).items()}, c, Path(name))
        with torch.device("meta"):
            DalleMini(c).load_state_dict(state, assign=True)


# Texts.


@pytest.fixture(scope="session")
def words(texts: Path) -> Words:
    return to_words(texts, replace(PRESETS["mini"], vocabulary=720))


@pytest.mark.parametrize("files", [("vocab.json", "merges.txt"), ("tokenizer.json",)])
def test_tokens_are_those_of_min_dalle_s_tokenizer(
    files: tuple[str, ...], texts: Path, their_words: Any, tmp_path: Path
) -> None:
    keep_words(texts, tmp_path, *files)
    tokens = to_words(tmp_path, replace(PRESETS["mini"], vocabulary=720)).encode(SAID)
    for text, ids, mask in zip(SAID, tokens.ids, tokens.mask, strict=True):
        assert ids[mask].tolist() == their_words.tokenize(text), text
    assert tokens.ids[~tokens.mask].unique().tolist() == [1]


@pytest.mark.slow
@given(
    text=st.text(
        st.characters(max_codepoint=0x7F) | st.sampled_from("abc red 🐱❤️क") | st.characters(),
        max_size=24,
    )
)
def test_so_are_those_of_any_text(text: str, words: Words, their_words: Any) -> None:
    wanted = their_words.tokenize(text)
    assert words.encode([text]).ids[0].tolist() == (
        wanted if len(wanted) <= 64 else [*wanted[:63], wanted[-1]]
    )


def test_what_is_cut_is_told_and_changes_nothing(words: Words, their_words: Any) -> None:
    assert words.cut("A photo of a cat") == "" and words.encode([]).ids.shape[0] == 0
    tokens, whole, cut = words.encode([LONG, "a cat"]), their_words.tokenize(LONG), words.cut(LONG)
    # min-dalle would cut off the end token, although the model was trained with it.
    assert tokens.ids[0].tolist() == [*whole[:63], whole[-1]]
    assert 0 < len(cut) < len(LONG) and LONG.strip().endswith(cut)
    kept = LONG.strip().removesuffix(cut)
    assert len(their_words.tokenize(kept)) <= 64 and torch.equal(
        words.encode([kept + cut[:1]]).ids[0, :60], tokens.ids[0, :60]
    )
    assert torch.equal(words.encode([LONG + " and more"]).ids[0], tokens.ids[0])


def test_words_it_cannot_read_are_told(words: Words) -> None:
    assert words.unknown("a red 🐱, two CATS!") == ()  # emoji have names
    assert words.unknown("a लाल café cat लाल and\na cat") == ("लाल", "café", "and\na")


def test_without_the_names_of_emoji_it_says_what_to_install(
    words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "emoji", None)
    assert len(words.encode(["a cat"])) == 1
    with pytest.raises(KalpanaError, match="pip install emoji"):
        words.encode(["a 🐱"])


def test_tokenizers_of_other_models_are_refused(texts: Path, tmp_path: Path) -> None:
    config = replace(PRESETS["mini"], vocabulary=100)
    with pytest.raises(
        KalpanaError,
        match=r"lacks its words: put vocab\.json and merges\.txt there, or tokenizer\.json",
    ):
        to_words(tmp_path, config)
    keep_words(texts, tmp_path, "vocab.json", "merges.txt")
    with pytest.raises(
        KalpanaError, match=r"vocab\.json has \d+ tokens, more than the 100 of the weights"
    ):
        to_words(tmp_path, config)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nno such pair\n")
    with pytest.raises(KalpanaError, match=r"vocab\.json is no tokenizer that merges pairs"):
        to_words(tmp_path, config)
    (tmp_path / "merges.txt").unlink()
    for other in (
        {},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]]}},
        {"model": {"vocab": {"a": 0}, "merges": []}},
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps(other))
        with pytest.raises(
            KalpanaError, match=r"tokenizer\.json (has no token <s>|is no tokenizer)"
        ):
            to_words(tmp_path, config)


# What cannot be read.


def test_pickles_are_refused_and_the_way_out_works(tiny: tuple[Path, Any, Any]) -> None:
    folder, encoder, decoder = tiny
    for name, module in (("encoder", encoder), ("decoder", decoder)):
        torch.save(module.state_dict(), folder / f"{name}.pt")
        (folder / f"{name}.safetensors").unlink()
    with pytest.raises(KalpanaError, match=r"encoder\.pt and decoder\.pt alone, pickles") as caught:
        read(folder)
    said = str(caught.value)
    assert "\n" not in said
    exec(said[said.index('python -c "') + 11 : said.rindex('"')], {})
    checkpoint = read(folder)
    compare(checkpoint.model, checkpoint.words.encode(["a cat", "a red chair"]), encoder, decoder)


def test_msgpack_is_refused_with_the_way_out(original: tuple[Path, dict[str, Tensor]]) -> None:
    folder, _ = original
    (folder / "flax_model.safetensors").rename(folder / "flax_model.msgpack")
    with pytest.raises(
        KalpanaError,
        match=r"flax_model\.msgpack alone: write flax_model\.safetensors with pip install flax",
    ) as caught:
        read(folder)
    said = str(caught.value)
    assert "\n" not in said
    compile(said[said.index('python -c "') + 11 : said.rindex('"')], "said", "exec")


def test_a_folder_without_weights_or_with_half_of_them(tiny: tuple[Path, Any, Any]) -> None:
    folder, _, _ = tiny
    (folder / "decoder.safetensors").unlink()
    with pytest.raises(KalpanaError, match="holds no whole weights of DALL-E mini"):
        read(folder)


def test_a_damaged_file(tiny: tuple[Path, Any, Any]) -> None:
    folder, _, _ = tiny
    whole = (folder / "decoder.safetensors").read_bytes()
    (folder / "decoder.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KalpanaError, match=r"decoder\.safetensors is damaged or cut short"):
        read(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, change, said",
    [
        ("layers.1.self_attn.v_proj.weight", None, "lack decoder.layers.1.self_attn.v_proj.weight"),
        ("lm_head.weight", None, "lack the matrix decoder.lm_head.weight"),
        (
            "layers.1.glu.fc1.weight",
            (HIDDEN - 1, WIDTH),
            "is (95, 128), where (96, 128) fits the others",
        ),
        ("embed_tokens.weight", (CODES, WIDTH), "is (40, 128), where (41, 128) fits the others"),
        ("head_scale", (2,), "hold decoder.head_scale, which DALL-E mini does not have"),
        ("layers.2.glu.fc1.weight", (HIDDEN, WIDTH), "lack decoder.layers.2."),
    ],
)
def test_tensors_too_few_too_many_or_of_another_shape(
    name: str, change: tuple[int, ...] | None, said: str, tiny: tuple[Path, Any, Any]
) -> None:
    folder, _, decoder = tiny
    tensors = decoder.state_dict()
    tensors.pop(name, None)
    save_file(
        tensors | ({name: torch.zeros(change)} if change else {}), folder / "decoder.safetensors"
    )
    with pytest.raises(KalpanaError, match=re.escape(said)) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_heads_that_cannot_be_told(theirs: ModuleType, texts: Path, tmp_path: Path) -> None:
    encoder, decoder = reference(theirs, 720)
    encoder.embed_tokens = nn.Embedding(720, 96)
    write(tmp_path, encoder, decoder)
    with pytest.raises(KalpanaError, match="are 96 wide, which is no multiple of 64"):
        read(tmp_path)


def test_sizes_in_a_config(tmp_path: Path) -> None:
    """The sizes are those of dalle-mega, as published."""
    mega = CONFIG | {
        "d_model": 2048,
        "encoder_vocab_size": 50272,
        "encoder_attention_heads": 32,
        "decoder_attention_heads": 32,
        "encoder_ffn_dim": 4096,
        "decoder_ffn_dim": 4096,
        "encoder_layers": 24,
        "decoder_layers": 24,
        "image_vocab_size": 16415,
        "decoder_start_token_id": 16384,
    }
    (tmp_path / "config.json").write_text(json.dumps(mega))
    assert to_config(tmp_path / "config.json") == PRESETS["mega"]


@pytest.mark.parametrize(
    "field, value",
    [
        ("model_type", "bart"),
        ("model_type", None),
        ("activation_function", "swish"),
        ("ln_positions", "swinv2"),
        ("use_cosine_attention", True),
        ("use_glu", False),
        ("tie_word_embeddings", True),
        ("d_model", None),
        ("d_model", "1024"),
        ("encoder_layers", 0),
        ("encoder_attention_heads", 5),
        ("decoder_ffn_dim", HIDDEN + 1),
        ("decoder_start_token_id", CODES + 1),
    ],
)
def test_fields_of_a_config_that_cannot_be_followed_are_named(
    field: str, value: Any, original: tuple[Path, dict[str, Tensor]]
) -> None:
    folder, _ = original
    heads = {"decoder_attention_heads": value} if field == "encoder_attention_heads" else {}
    (folder / "config.json").write_text(json.dumps(CONFIG | {field: value} | heads))
    with pytest.raises(KalpanaError, match=rf"config\.json: field {field} is ") as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_the_original_needs_its_config(original: tuple[Path, dict[str, Tensor]]) -> None:
    folder, _ = original
    (folder / "config.json").unlink()
    with pytest.raises(KalpanaError, match=r"config\.json cannot be read: No such file"):
        read(folder)
