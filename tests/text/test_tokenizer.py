"""The tokenizer: exact round trips of any Unicode text, whole Hindi words, and complete reports."""

from __future__ import annotations

import random
import re
import shutil
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from kalpana.cli.main import app
from kalpana.text.tokenizer import (
    BOS,
    BPE,
    EOS,
    NULL,
    PAD,
    Tokenizer,
    fertility,
    language,
    meet,
    normalize,
    train,
    words,
)
from kalpana.train.tokenizer import corpus
from kalpana.types import KalpanaError
from kalpana.world.grammar import FORMS, caption
from kalpana.world.lexicon import lexicon
from kalpana.world.scene import BACKDROPS, COLORS, RELATIONS, STYLES, Background, Group, Scene
from kalpana.world.video import Videos

LONG = 1 << 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load()


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text of each token without BOS and EOS; the first without the space that encode adds."""
    ids = tokenizer.encode([text], LONG).ids[0].tolist()
    return [tokenizer.decode([i]) for i in ids[1 : ids.index(EOS)]]


# -------------------------------------------------------------------------------------- round trip


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    st.text()
    | st.text(
        st.characters(min_codepoint=0x900, max_codepoint=0x97F)
        | st.sampled_from("\"'“”«» aA1\u200d")
    )
)
def test_round_trip_of_any_unicode(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode([text], LONG).ids[0]) == normalize(text)


@given(st.text())
def test_normalize_settles_at_once(text: str) -> None:
    assert normalize(normalize(text)) == normalize(text)
    assert unicodedata.is_normalized("NFC", normalize(text))


@pytest.mark.parametrize(
    "text",
    [
        "<eos><pad>",
        "\ud800 broken",
        "  two  spaces ",
        "\n\t",
        "",
        "🍎👩‍🏫",
        "सेब\u200cहै",
        "x" * 5000,
        'a "',
    ],
)
def test_round_trip_of_awkward_texts(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode([text], LONG).ids[0]) == normalize(text)


def test_case_matters_in_quotes_alone() -> None:
    assert normalize('A RED Sign that says "STOP Now"') == 'a red sign that says "STOP Now"'
    assert normalize("THE CAT'S toy and Dog's bone") == "the cat's toy and dog's bone"
    assert normalize("Ünï ‘Ünï’ «Ünï»") == "ünï ‘Ünï’ «Ünï»"
    assert normalize("फ़") == normalize("फ\u093c")  # one normal form of the nukta


# ------------------------------------------------------------------------------------------ pieces


def test_hindi_words_are_whole(tokenizer: Tokenizer) -> None:
    text = "तीन लाल सेब नीली कार के बाईं ओर"
    assert pieces(tokenizer, text) == text.split()
    assert words("मेज़ पर रखी, पाँच टोपियाँ।") == ["मेज़", "पर", "रखी", "पाँच", "टोपियाँ"]


def test_the_first_word_is_the_same_token_as_a_later_one(tokenizer: Tokenizer) -> None:
    one, two = tokenizer.encode(["apple", "red apple"]).ids
    assert one[1] == two[2]


def test_digits_never_merge(tokenizer: Tokenizer) -> None:
    assert [piece.strip() for piece in pieces(tokenizer, "2024 apples १२")] == [
        "2",
        "0",
        "2",
        "4",
        "apples",
        "१",
        "२",
    ]


def test_quoted_text_is_read_by_character(tokenizer: Tokenizer) -> None:
    for quoted in ('"apple"', "“apple”", "'apple'", "«apple»"):
        assert pieces(tokenizer, f"sign {quoted}")[-7:] == list(quoted)
    assert pieces(tokenizer, '"सेब"') == ["", *'"सेब"']
    assert "apple" in pieces(tokenizer, "the dog's apple isn't")[2:]


def test_typed_special_tokens_are_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(["<eos> <null> <pad> <bos>"]).ids[0].tolist()
    assert ids.count(EOS) == ids.count(BOS) == 1
    assert NULL not in ids


def test_vocabulary(tokenizer: Tokenizer) -> None:
    assert len(tokenizer) == 8192
    assert (
        [tokenizer.bpe.token_to_id(name) for name in ("<pad>", "<bos>", "<eos>", "<null>")]
        == [PAD, BOS, EOS, NULL]
        == [0, 1, 2, 3]
    )


@pytest.mark.slow
def test_fertility(tokenizer: Tokenizer) -> None:
    """At most 2.2 tokens a word on new captions in which all concepts are equally frequent."""
    rng, concepts = random.Random(11), lexicon()
    texts: dict[str, list[str]] = {"en": [], "hi": []}
    for _ in range(1500):
        groups = tuple(
            Group(name, rng.randint(1, 8), rng.choice((None, *COLORS)))
            for name in rng.sample(list(concepts), 2)
        )
        scene = Scene(
            (),
            groups,
            Background("flat", rng.choice(BACKDROPS)),
            rng.choice((None, *RELATIONS)),
            rng.choice(STYLES),
        )
        for name, captions in texts.items():
            captions.append(caption(scene, name, rng.choice(FORMS), rng))
    assert fertility(tokenizer, texts["en"]) <= 2.2
    assert fertility(tokenizer, texts["hi"]) <= 2.2


# ----------------------------------------------------------------------------------------- tensors


def test_padding(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(["a cat", "three red apples to the left of a blue car"])
    assert tokens.ids.shape == tokens.mask.shape == (2, 16)
    assert tokens.ids.dtype == torch.int64 and tokens.mask.dtype == torch.bool
    assert torch.equal(tokens.mask, tokens.ids != PAD)
    for row, mask in zip(tokens.ids, tokens.mask, strict=True):
        assert row[0] == BOS and row[mask][-1] == EOS
    assert tokenizer.encode(["a cat"]).ids.shape == (1, 8)
    assert tokenizer.encode([]).ids.shape == (0, 8)


def test_a_prompt_has_the_same_tokens_in_any_batch(tokenizer: Tokenizer) -> None:
    prompts = ["a cat", "दो लाल सेब मेज़ पर", 'a sign that says "नमस्ते"', ""]
    batch = tokenizer.encode(prompts)
    for i, prompt in enumerate(prompts):
        alone = tokenizer.encode([prompt])
        assert torch.equal(batch.ids[i][batch.mask[i]], alone.ids[0][alone.mask[0]])


@pytest.mark.parametrize("length", [3, 10, 13, 64])
def test_a_cut_prompt_keeps_its_end_token(tokenizer: Tokenizer, length: int) -> None:
    tokens = tokenizer.encode(["apple " * 100, "cat"], length)
    assert tokens.ids.shape == (2, length)
    assert tokens.ids[0, -1] == EOS and tokens.mask[0].all()


def test_a_window_without_room_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(KalpanaError, match="3 or more"):
        tokenizer.encode(["a cat"], 2)


# ----------------------------------------------------------------------------------------- reports


def test_unknown_words_are_reported_once_in_order(tokenizer: Tokenizer) -> None:
    prompt = "a Zorblax and a red apple beside a qwyzzt, zorblax, लाल सेब और झकझक"
    assert tokenizer.report(prompt).unknown == ("zorblax", "qwyzzt", "झकझक")
    # Quoted text, digits and punctuation are never unknown words.
    assert tokenizer.report('a sign "zorblax" 99 !?').unknown[1:] == ()
    assert tokenizer.report("three red apples to the left of a blue car").unknown == ()
    assert tokenizer.report("एक बिल्ली सोफे पर बैठी हुई").unknown == ()
    assert tokenizer.report("an apple 🍎").unknown == ("🍎",)


@pytest.mark.slow
def test_what_was_cut_is_reported(tokenizer: Tokenizer) -> None:
    prompt = "three red apples to the left of a blue car"
    assert tokenizer.report(prompt).cut == ""
    assert tokenizer.report(prompt, 12).cut == ""
    assert tokenizer.report(prompt, 11).cut == " car"
    assert tokenizer.report("तीन लाल सेब नीली कार के बाईं ओर", 8).cut == " बाईं ओर"
    long = "A very LONG prompt. " * 5000
    assert len(long) == 100_000
    assert (
        normalize(long).endswith(tokenizer.report(long).cut)
        and len(tokenizer.report(long).cut) > 99_000
    )


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(3, 20))
def test_kept_and_cut_make_the_whole(tokenizer: Tokenizer, text: str, length: int) -> None:
    """The decoded tokens and the reported cut make up the prompt.

    The decoded tokens may end with a partial character, which belongs to the cut.
    """
    kept = tokenizer.decode(tokenizer.encode([text], length).ids[0])
    cut = tokenizer.report(text, length).cut
    assert normalize(text) == (kept.rstrip("\ufffd") + cut if cut else kept)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("three red apples", "en"),
        ("तीन लाल सेब", "hi"),
        ("तीन लाल सेब, 3D रेंडर", "hi"),
        ("तीन red apples", "mixed"),
        ('a sign that says "नमस्ते"', "en"),
        ("3 🍎", "en"),
        ("", "en"),
        ("три яблока", "mixed"),
    ],
)
def test_language(tokenizer: Tokenizer, prompt: str, expected: str) -> None:
    assert language(prompt) == expected == tokenizer.report(prompt).language


# ---------------------------------------------------------------------------------------- training


def test_training_is_repeatable(tmp_path: Path) -> None:
    captions = ["a red apple", "एक लाल सेब", 'a sign that says "Hi"'] * 20
    files = [tmp_path / name / "bpe.json" for name in ("one", "two")]
    for file in files:
        trained = train(iter(captions), file, size=700)
        assert trained.known == {"a", "red", "apple", "एक", "लाल", "सेब", "sign", "that", "says"}
        assert trained.decode(trained.encode([captions[2]]).ids[0]) == captions[2]
    for name in ("bpe.json", "words.txt.gz"):
        assert files[0].with_name(name).read_bytes() == files[1].with_name(name).read_bytes()


def test_words_can_be_met_without_new_tokens(tmp_path: Path) -> None:
    file = tmp_path / "bpe.json"
    train(iter(["a red apple"] * 20), file, size=700)
    merges = file.read_bytes()
    again = meet(["violet", "violet", "a"], file)
    assert again.known == Tokenizer.load(file).known == {"violet", "a"}
    assert file.read_bytes() == merges


def test_captions_are_of_the_kind_that_is_asked_for() -> None:
    names = sum(1 for _ in corpus(0))
    hands = [text for text in list(corpus(80, kind="hands"))[names:] if language(text) == "en"]
    assert len(hands) > 20 and all(
        re.search("hand|finger|fist|palm|sign|thumb|pinky|high five", text) for text in hands
    )


def test_a_missing_or_broken_file_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(KalpanaError, match="no tokenizer at"):
        Tokenizer.load(tmp_path / "bpe.json")
    (tmp_path / "bpe.json").write_text("{}")
    (tmp_path / "words.txt.gz").write_bytes(b"not gzip")
    with pytest.raises(KalpanaError, match="no tokenizer at"):
        Tokenizer.load(tmp_path / "bpe.json")


def test_the_words_of_videos_are_known_to_the_shipped_list() -> None:
    known, world = Tokenizer.load(), Videos(3, "train")
    told = {word for i in range(150) for word in known.report(world.describe(i)[0]).unknown}
    assert told == set()
    for prompt in (
        "a red car moving to the right",
        "a house on a beach, the camera pans left",
        "a cat hopping, leaving the picture and coming back, spinning anticlockwise",
        "लाल कार दाईं ओर जा रही है, कैमरा ज़ूम इन करता है",
    ):
        assert known.report(prompt).unknown == (), prompt


@pytest.mark.slow
def test_words_of_videos_are_met_with_those_of_everything(tmp_path: Path) -> None:
    shutil.copy(BPE, tmp_path / "bpe.json")
    asked = ["tokenizer", "train", "--words-only", "--captions", "1", "--videos", "200", "--out"]
    words = []
    for kind in ("everything", "objects"):
        done = CliRunner().invoke(app, [*asked, str(tmp_path / "bpe.json"), "--kind", kind])
        assert done.exit_code == 0, done.stderr
        words.append(Tokenizer.load(tmp_path / "bpe.json").known)
    assert {"moving", "zooms"} <= words[0] - words[1]
    assert (tmp_path / "bpe.json").read_bytes() == BPE.read_bytes()
