"""Loader of CLIP and SigLIP checkpoints: equal to 🤗 transformers with the same random weights."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import sentencepiece
import tokenizers
import torch
from sentencepiece import sentencepiece_model_pb2 as pieces
from tokenizers import normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTokenizer,
)

from kalpana.hub.clip import FIELDS, MODELS, Framing, find, read, to_config, to_framing
from kalpana.hub.clip_tokenizer import canonical
from kalpana.hub.weights import fingerprint
from kalpana.media import to_images
from kalpana.models.clip import CLIP, PRESETS, unit
from kalpana.train.tokenizer import corpus
from kalpana.types import KalpanaError, Tokens
from kalpana.understand.encoder import load

VISION = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
SAID = (
    "a photo of a cat", "", "  A  Photo,\tof two CATS!  ", "it's the dog's 12 bones; they'll do",
    "तीन लाल सेब मेज़ पर", "क़लम और ज़मीन", "🐱 cat 🍎🍎", "naïve café ÅÅ ﬁ", "<html> & [x] _y_ {z}",
    "日本 a", "a long sentence of three red apples and a cat on a chair " * 4,
)  # fmt: skip
SIZES = [(50, 31), (32, 90), (17, 20), (36, 36)]


def settings(kind: str, vocabulary: int) -> Any:
    """Small config of this kind."""
    if kind == "siglip":
        text = {
            **TEXT,
            "vocab_size": vocabulary,
            "projection_size": 48,
            "bos_token_id": None,
            "eos_token_id": 1,
        }
        # 36 is not a multiple of 8, as 384 is not one of 14.
        return SiglipConfig(vision_config={**VISION, "image_size": 36}, text_config=text)
    text = {
        **TEXT,
        "vocab_size": vocabulary,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }
    text |= {"eos_token_id": 2} if kind == "clip-legacy" else {}
    act = {"hidden_act": "gelu"} if kind == "clip-gelu" else {}
    return CLIPConfig(
        vision_config={**VISION, **act}, text_config={**text, **act}, projection_dim=24
    )


@torch.no_grad()
def stir(model: nn.Module) -> nn.Module:
    """Model with random weights under which every part has an effect.

    As initialised, the biases are 0 and the scales are 1.
    """
    torch.manual_seed(3)
    for name, p in model.named_parameters():
        if p.ndim > 1:
            p.normal_(
                std=0.5 if "embedding.weight" in name and p.ndim == 2 else p[0].numel() ** -0.5
            )
        elif p.numel() > 1:
            p.normal_(1.0 if name.endswith("weight") else 0.0, 0.1)
    model.logit_scale.fill_(2.7)
    if hasattr(model, "logit_bias"):
        model.logit_bias.fill_(-9.5)
    return model.eval()


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Small tokenizers of transformers, of both kinds, trained here.

    The folder holds tokenizer.json for that of SigLIP.
    """
    folder = tmp_path_factory.mktemp("texts")
    captions = [*list(corpus(300))[::10], *SAID]
    merged = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    merged.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    merged.train_from_iterator(
        captions,
        tokenizers.trainers.BpeTrainer(
            vocab_size=900, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
        ),
    )
    found = json.loads(merged.to_str())["model"]
    symbols = sorted({*letters, *(letter + "</w>" for letter in letters)})
    merges = [(a, b) for a, b in found["merges"] if a in symbols or len(a) > 1]
    known = dict.fromkeys(
        [*symbols, *(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"]
    )
    clip = CLIPTokenizer(vocab={piece: i for i, piece in enumerate(known)}, merges=merges)

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions),
        model_writer=model,
        vocab_size=500,
        hard_vocab_limit=False,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    proto = pieces.ModelProto.FromString(model.getvalue())
    fast = tokenizers.Tokenizer(
        tokenizers.models.Unigram([(piece.piece, piece.score) for piece in proto.pieces], 2, False)
    )
    fast.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
            normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        ]
    )
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    fast.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    fast.save(str(folder / "tokenizer.json"))
    return {"clip": clip, "siglip": SiglipTokenizer(str(folder / "spiece.model")), "folder": folder}


@pytest.fixture(scope="session")
def make(
    texts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Any]]:
    """Function that makes a small checkpoint of a kind: its folder, and the reference model."""

    def make(kind: str, **how: Any) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp(kind)
        if kind == "siglip":
            shutil.copy(texts["folder"] / "tokenizer.json", folder)
            SiglipImageProcessorPil(size={"height": 36, "width": 36}).save_pretrained(folder)
            model: Any = SiglipModel(settings(kind, len(texts["siglip"])))
        else:
            texts["clip"].save_pretrained(folder)
            CLIPImageProcessorPil(
                size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
            ).save_pretrained(folder)
            model = CLIPModel(settings(kind, len(texts["clip"])))
        stir(model).save_pretrained(folder, **how)
        return folder, model

    return make


@pytest.fixture
def clip(make: Callable[[str], tuple[Path, Any]]) -> Path:
    return make("clip")[0]


def batch(config: Any, length: int, rows: int = 4) -> tuple[Tensor, Tensor]:
    """Random ids (rows, length) and pixels in [-1, 1].

    The end token has a different place in each row.
    """
    rng = torch.Generator().manual_seed(4)
    top = config.text_config.vocab_size
    ids = torch.randint(3, top - 2, (rows, length), generator=rng)
    for i in range(rows):
        ids[i, -1 - i] = top - 1
    side = config.vision_config.image_size
    noise, tint = (
        torch.rand(rows, 3, side, side, generator=rng),
        torch.rand(rows, 3, 1, 1, generator=rng),
    )
    return ids, noise + tint - 1


@torch.no_grad()
def compare(model: Any, ours: CLIP, ids: Tensor, pixels: Tensor) -> None:
    mean, deviation = (
        torch.tensor(levels)[:, None, None] for levels in (ours.config.mean, ours.config.deviation)
    )
    theirs = model(input_ids=ids, pixel_values=((pixels + 1) / 2 - mean) / deviation)
    image, text = ours.image(pixels), ours.text(Tokens(ids, torch.ones_like(ids, dtype=torch.bool)))
    for features in (theirs.image_embeds, theirs.text_embeds):
        assert (features[0] - features[1]).norm() > 0.05  # else there would be little to compare
    assert torch.allclose(unit(image), theirs.image_embeds, atol=1e-5)
    assert torch.allclose(unit(text), theirs.text_embeds, atol=1e-5)
    assert torch.allclose(ours.logits(image, text), theirs.logits_per_image, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "clip-legacy", "clip-gelu", "siglip"])
def test_features_and_logits_are_those_of_transformers(
    kind: str, make: Callable[[str], tuple[Path, Any]]
) -> None:
    folder, model = make(kind)
    checkpoint = read(folder)
    assert checkpoint.fingerprint == fingerprint(folder / "model.safetensors")
    for length in (16, 9):
        compare(model, checkpoint.model, *batch(model.config, length))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_features_and_logits_at_full_size(kind: str, texts: dict[str, Any], tmp_path: Path) -> None:
    """ViT-B/32 and SigLIP-B/16-224, stored as 16-bit floats, as many checkpoints are."""
    config = (
        CLIPConfig(text_config={}, vision_config={})
        if kind == "clip"
        else SiglipConfig(text_config={}, vision_config={})
    )
    with torch.device("meta"):
        model: Any = (CLIPModel if kind == "clip" else SiglipModel)(config)
    model = model.to_empty(device="cpu")
    for places in (model.text_model.embeddings, model.vision_model.embeddings):
        places.position_ids = torch.arange(places.position_embedding.num_embeddings)[None]
    stir(model).half().save_pretrained(tmp_path)
    model.float()
    (CLIPImageProcessorPil if kind == "clip" else SiglipImageProcessorPil)().save_pretrained(
        tmp_path
    )
    words = PRESETS["vit-b/32"] if kind == "clip" else PRESETS["siglip-b/16-224"]
    tokenizer(tmp_path / "tokenizer.json", words.vocabulary, words.end if kind == "clip" else 1)
    checkpoint = read(tmp_path)
    (tmp_path / "model.safetensors").unlink()  # 300 MB that pytest would keep
    assert checkpoint.model.config == words
    compare(model, checkpoint.model, *batch(model.config, words.length, rows=2))


def tokenizer(path: Path, size: int, end: int | None) -> None:
    """Tokenizer with ``size`` entries that knows no word and ends a text with the end token."""
    bare = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(
            {"</s>" if i == end else f"[{i}]": i for i in range(size)}, "[0]"
        )
    )
    bare.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", end)]
    )
    bare.save(str(path))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_weights_in_shards(kind: str, make: Callable[[str], tuple[Path, Any]]) -> None:
    folder, model = make(kind, max_shard_size="60KB")
    checkpoint = read(folder)
    compare(model, checkpoint.model, *batch(model.config, 16))
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2 and checkpoint.fingerprint == read(folder).fingerprint
    shards[1].unlink()
    with pytest.raises(
        KalpanaError, match=f"lacks {shards[1].name}, which model.safetensors.index.json names"
    ):
        read(folder)


def test_an_index_names_files_beside_it_and_no_others(clip: Path) -> None:
    (clip / "model.safetensors").unlink()
    (clip / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "../secret.safetensors"}}'
    )
    with pytest.raises(KalpanaError, match="field weight_map"):
        read(clip)


def test_old_files_hold_counters_which_are_passed_over(clip: Path) -> None:
    before = read(clip).model.state_dict()
    change_weights(
        clip,
        lambda tensors: tensors | {"text_model.embeddings.position_ids": torch.arange(16)[None]},
    )
    after = read(clip).model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "model.safetensors"
    safetensors.torch.save_file(change(safetensors.torch.load_file(path)), path)


@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda t: {k: v for k, v in t.items() if k != "visual_projection.weight"},
            r"lack visual_projection\.weight",
        ),
        (
            lambda t: {k: v for k, v in t.items() if "layers.1.self_attn.k_proj.bias" not in k},
            r"lack vision_model.*q_proj\.bias, .*k_proj",
        ),
        (
            lambda t: t | {"vision_model.extra.weight": torch.ones(1)},
            r"hold vision_model\.extra\.weight, which",
        ),
        (
            lambda t: t | {"text_projection.weight": torch.ones(24, 30)},
            r"text_projection\.weight .* is \(24, 30\), .* asks for \(24, 32\)",
        ),
        (
            lambda t: t | {"text_model.embeddings.position_embedding.weight": torch.ones(8, 32)},
            r"is \(8, 32\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: Any, said: str, clip: Path) -> None:
    change_weights(clip, change)
    with pytest.raises(KalpanaError, match=said) as caught:
        read(clip)
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_or_damaged(clip: Path) -> None:
    weights = clip / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:5000])
    with pytest.raises(KalpanaError, match=r"model\.safetensors is damaged or cut short"):
        read(clip)
    weights.unlink()
    with pytest.raises(KalpanaError, match=r"holds no weights: put its model\.safetensors there"):
        read(clip)
    torch.save({"a": torch.ones(1)}, clip / "pytorch_model.bin")
    with pytest.raises(
        KalpanaError, match=r"as pytorch_model\.bin alone, a pickle.*save_pretrained"
    ):
        read(clip)
    weights.write_bytes(whole)
    read(clip)
    (clip / "tokenizer.json").unlink()
    (clip / "preprocessor_config.json").unlink()
    with pytest.raises(
        KalpanaError,
        match=r"lacks preprocessor_config\.json, tokenizer\.json: put there all of config\.json, ",
    ):
        read(clip)


# What config.json and preprocessor_config.json say.


@pytest.mark.parametrize("kind, config", [("clip", CLIPConfig), ("siglip", SiglipConfig)])
def test_what_a_config_leaves_out_is_as_transformers_has_it(
    kind: str, config: Any, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "text_config": {}}))
    assert to_config(tmp_path / "config.json") == MODELS[kind]
    usual = config(text_config={}, vision_config={})
    for theirs, ours in FIELDS.items():
        part, name = theirs.split(".")
        assert getattr(getattr(usual, part), name) == getattr(MODELS[kind], ours), theirs


def test_what_old_configs_say_twice_counts_as_in_transformers(tmp_path: Path) -> None:
    given = {
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": {"hidden_size": 512, "eos_token_id": 2},
        "text_config_dict": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "projection_dim": 768,
        },
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
        "vision_config_dict": None,
    }
    (tmp_path / "config.json").write_text(json.dumps(given))
    theirs, ours = CLIPConfig.from_dict(given), to_config(tmp_path / "config.json")
    assert ours == PRESETS["vit-l/14"]
    assert (theirs.text_config.hidden_size, theirs.text_config.eos_token_id) == (
        ours.text_width,
        ours.end,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, field, value",
    [
        ("clip", "model_type", "blip"),
        ("clip", "quantization_config", {"bits": 4}),
        ("clip", "projection_dim", None),
        ("clip", "vision_config.num_channels", 4),
        ("clip", "vision_config.image_size", [224, 224]),
        ("clip", "vision_config.hidden_size", "48"),
        ("clip", "vision_config.hidden_act", "relu"),
        ("clip", "vision_config.num_attention_heads", 5),
        ("clip", "text_config.layer_norm_eps", 1e-6),
        ("clip", "text_config.hidden_act", "gelu"),
        ("clip", "text_config.eos_token_id", [1, 2]),
        ("clip", "text_config.vocab_size", 0),
        ("siglip", "vision_config.vision_use_head", False),
        ("siglip", "text_config.projection_size", 32),
    ],
)
def test_fields_of_a_config_that_cannot_be_followed_are_named(
    kind: str, field: str, value: Any, make: Callable[[str], tuple[Path, Any]]
) -> None:
    folder, _ = make(kind)
    given = json.loads((folder / "config.json").read_text())
    *outer, name = field.split(".")
    (given[outer[0]] if outer else given)[name] = value
    if field == "vision_config.hidden_act":
        given["text_config"][name] = value
    (folder / "config.json").write_text(json.dumps(given))
    with pytest.raises(KalpanaError, match=rf"config\.json: field {field} is ") as caught:
        read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind, given, wanted",
    [
        ("clip", {}, Framing(224, (224, 224), 3)),
        (
            "clip",
            {"size": 224, "crop_size": 224, "do_center_crop": True, "resample": 3},
            Framing(224, (224, 224)),
        ),  # the form of old files
        (
            "clip",
            {"size": {"height": 224, "width": 224}, "do_center_crop": False},
            Framing((224, 224), None),
        ),
        ("clip", {"do_resize": False, "resample": 2}, Framing(None, (224, 224), 2)),
        ("siglip", {}, Framing((224, 224), None)),
        (
            "siglip",
            {"size": {"height": 224, "width": 224}, "do_center_crop": None, "resample": 1},
            Framing((224, 224), None, 1),
        ),
    ],
)
def test_framings(kind: str, given: dict[str, Any], wanted: Framing, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    assert to_framing(tmp_path / "preprocessor_config.json", MODELS[kind]) == (wanted, MODELS[kind])


def test_pictures_that_are_not_normalised_are_from_0_to_1(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    _, config = to_framing(tmp_path / "preprocessor_config.json", MODELS["clip"])
    assert (config.mean, config.deviation) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    "field, value",
    [
        ("size", {"longest_edge": 224}),
        ("size", {"shortest_edge": 224, "longest_edge": 448}),
        ("size", "large"),
        ("crop_size", {"height": 200, "width": 224}),
        ("do_rescale", False),
        ("rescale_factor", 1 / 127.5),
        ("do_pad", True),
        ("resample", 9),
        ("image_mean", [0.5, 0.5]),
        ("image_mean", 0.5),
        ("image_std", [0.5, 0.5, 0]),
    ],
)
def test_fields_of_a_preprocessor_that_cannot_be_followed_are_named(
    field: str, value: Any, tmp_path: Path
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({field: value}))
    with pytest.raises(KalpanaError, match=rf"preprocessor_config\.json: field {field} is "):
        to_framing(tmp_path / "preprocessor_config.json", MODELS["clip"])


# Texts.


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_tokens_are_those_of_transformers(
    kind: str, make: Callable[[str], tuple[Path, Any]], texts: dict[str, Any]
) -> None:
    words = read(make(kind)[0]).words
    ours = words.encode(SAID)
    how = {
        "padding": "max_length" if kind == "siglip" else True,
        "max_length": 16,
        "truncation": True,
    }
    theirs = texts[kind](list(SAID), return_tensors="pt", **how)
    assert torch.equal(ours.mask, theirs.attention_mask.bool())
    assert torch.equal(ours.ids[ours.mask], theirs.input_ids[ours.mask])
    if kind == "siglip":  # SigLIP reads its padding too
        assert torch.equal(ours.ids, theirs.input_ids)


@pytest.mark.parametrize(
    "text", [*SAID, "ONE_two,  three?", "\n\t .", "a\u00a0b\u2003c", "İstanbul"]
)
def test_canonical_texts_are_those_of_transformers(text: str, texts: dict[str, Any]) -> None:
    assert canonical(text) == texts["siglip"].canonicalize_text(text)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_what_is_cut_is_told_and_changes_nothing(
    kind: str, make: Callable[[str], tuple[Path, Any]]
) -> None:
    words = read(make(kind)[0]).words
    assert words.cut("a cat") == ""
    for text in ("Three red apples and a cat on a chair, " * 4, "तीन लाल सेब " * 12):
        cut = words.cut(text)
        assert 0 < len(cut) < len(text) and (
            canonical(text) if kind == "siglip" else text
        ).rstrip().endswith(cut)
        assert torch.equal(words.encode([text]).ids, words.encode([text + " and more"]).ids)
    assert words.encode([]).ids.shape[0] == 0


@pytest.mark.parametrize(
    "kind, change, said",
    [
        ("clip", {"tokenizer_class": "BertTokenizer"}, "field tokenizer_class"),
        (
            "siglip",
            {"tokenizer_class": "GemmaTokenizer"},
            "field tokenizer_class",
        ),  # that of SigLIP 2
        ("siglip", {"do_lower_case": False}, "field do_lower_case"),
        ("siglip", {"pad_token": "[NONE]"}, "field pad_token"),
        ("siglip", {"eos_token": {"content": "▁a"}}, "does not end a text with"),
    ],
)
def test_tokenizers_of_other_models_are_refused(
    kind: str, change: dict[str, Any], said: str, make: Callable[[str], tuple[Path, Any]]
) -> None:
    folder, _ = make(kind)
    path = folder / "tokenizer_config.json"
    given = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(given | change))
    with pytest.raises(KalpanaError, match=said):
        read(folder)


def test_a_tokenizer_larger_than_its_model_and_a_file_that_is_none(clip: Path) -> None:
    tokenizer(clip / "tokenizer.json", 5000, 1)
    with pytest.raises(KalpanaError, match=r"has 5000 tokens, more than the \d+ of config\.json"):
        read(clip)
    (clip / "tokenizer.json").write_text("{}")
    with pytest.raises(KalpanaError, match=r"tokenizer\.json is no tokenizer"):
        read(clip)


# All together.


@pytest.mark.parametrize("kind", ["clip", "clip-legacy", "siglip"])
def test_an_encoder_gives_what_transformers_gives_from_pictures_and_texts_to_logits(
    kind: str, make: Callable[[str], tuple[Path, Any]], texts: dict[str, Any]
) -> None:
    folder, model = make(kind)
    encoder = load(str(folder), "cpu")
    assert encoder.name == folder.name and encoder.size == (48 if kind == "siglip" else 24)
    images = [
        image.resize(size)
        for image, size in zip(to_images(batch(model.config, 16)[1]), SIZES, strict=True)
    ]
    process = SiglipImageProcessorPil if kind == "siglip" else CLIPImageProcessorPil
    pixels = process.from_pretrained(folder)(images, return_tensors="pt").pixel_values
    how = {
        "padding": "max_length" if kind == "siglip" else True,
        "max_length": 16,
        "truncation": True,
    }
    ids = texts["siglip" if kind == "siglip" else "clip"](
        list(SAID), return_tensors="pt", **how
    ).input_ids
    with torch.no_grad():
        theirs = model(input_ids=ids, pixel_values=pixels)
    image, text = encoder.images(images), encoder.texts(SAID)
    assert torch.allclose(image, theirs.image_embeds, atol=1e-5) and torch.allclose(
        text, theirs.text_embeds, atol=1e-5
    )
    logits = theirs.logits_per_image
    wanted = logits.sigmoid() if kind == "siglip" else logits.softmax(1)
    assert torch.allclose(encoder.probabilities(image, text), wanted, atol=1e-5)
    # CLIP's tokenizer has a token for every byte.
    assert encoder.unknown("a 한국 cat, 한국") == (("한국",) if kind == "siglip" else ())


# Finding checkpoints. No test uses the network.


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty Hugging Face cache, with the library offline as by HF_HUB_OFFLINE=1 at its import."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.mark.parametrize("how", [{}, {"max_shard_size": "60KB"}])
def test_a_name_is_found_in_the_cache(
    how: dict[str, Any], cache: Path, make: Callable[..., tuple[Path, Any]]
) -> None:
    home, commit = cache / "models--someone--tiny-clip", "0123456789abcdef0123456789abcdef01234567"
    folder, model = make("clip", **how)
    shutil.copytree(folder, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs/main").write_text(commit)
    found = find("someone/tiny-clip")
    assert found == home / "snapshots" / commit
    compare(model, read(found).model, *batch(model.config, 16))
    (found / "tokenizer.json").unlink()
    with pytest.raises(KalpanaError, match="someone/tiny-clip is not in the Hugging Face cache"):
        find("someone/tiny-clip")


def test_without_a_network_it_is_said_what_to_put_where(cache: Path) -> None:
    with pytest.raises(KalpanaError) as caught:
        find("openai/clip-vit-base-patch32")
    assert "\n" not in str(caught.value)
    assert (
        "download config.json, model.safetensors (pytorch_model.bin where it has none), "
        "preprocessor_config.json, tokenizer.json and tokenizer_config.json of "
        "https://huggingface.co/openai/clip-vit-base-patch32 into a folder, "
        "such as clip-vit-base-patch32, and name the folder"
    ) in str(caught.value)


def test_a_folder_is_itself_and_other_words_are_no_name(clip: Path) -> None:
    assert find(str(clip)) == clip
    for name in (
        "clip",
        "",
        "a/b/c",
        "../x y",
        "https://huggingface.co/openai/clip-vit-base-patch32",
    ):
        with pytest.raises(KalpanaError, match="there is no checkpoint"):
            find(name)
