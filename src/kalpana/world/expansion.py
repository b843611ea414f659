"""Prompt expansion: states what a prompt leaves open, as the training captions would.

A model draws an unstated property as its default or at random. ``expand`` parses the prompt by the
inverse grammar (``world/parse.py``) and adds, in the words of the grammar, a random value of each
property that the prompt does not state, with the shares of the training scenes
(``world/sample.py``, ``world/defaults.py``, ``world/video.py``): background, style, size and
facing; for videos the camera and the speed. It adds no object and changes no fact: each addition
after which the prompt would be parsed otherwise is worded otherwise or left out. Places whose
words name objects, such as "mountains at sunset", are therefore not added.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial

from kalpana.text.normalize import clean
from kalpana.types import KalpanaError
from kalpana.world import grammar_en, grammar_hi, parse
from kalpana.world.defaults import background_for, choose_facing, choose_style
from kalpana.world.grammar import LANGUAGES
from kalpana.world.grammar_en import patterns as patterns_en
from kalpana.world.grammar_hi import patterns as patterns_hi
from kalpana.world.grammar_hi import phrases as phrases_hi
from kalpana.world.lexicon import decline, lexicon
from kalpana.world.parse import LanguageRules, Mention, language_rules, words_of
from kalpana.world.scene import Background, Group
from kalpana.world.video import CAMERAS
from kalpana.world.video import captions as video

KINDS = ("picture", "video")
LONGEST = 1000  # characters; longer prompts are no captions
SIZED = 0.25  # share of single objects with a stated size (sample_scene)
SIZED_PAIR = 0.35  # share of pairs of which one is small and one large (sample_scene)
TRIES = 12  # random phrasings of a background before it is left out
TOKEN = re.compile(r"[,.:;!?।&\"()]|[^\s,.:;!?।&\"()]+")
# Words that state a medium or a style, besides those of the grammar.
MEDIA = {
    "en": "style photo photograph photorealistic realistic painting painted drawing drawn sketch "
    "illustration render rendered cartoon watercolour watercolor oil pixel anime art engraving "
    "mosaic neon ink crayon pencil charcoal vector 3d icon",
    "hi": "शैली फोटो पेंटिंग कार्टून रेखाचित्र तैलचित्र जलरंग स्केच इमोजी आइकन डिजाइन रेंडर",
}
GROUND = {"en": "background gradient", "hi": "पृष्ठभूमि बैकग्राउंड ग्रेडिएंट"}
POSTPOSITIONS = frozenset(("के", "की", "का", "पर", "में", "से", "को"))
SENTENCE_ENDS = (".", "।", "!", "?")


def expand(prompt: str, seed: int, language: str, kind: str = "picture") -> str:
    """The prompt with its open properties stated; equal arguments give equal text.

    ``language`` is "en" or "hi", ``kind`` "picture" or "video". A prompt outside of the grammar
    gets a style at most, or is returned as it is. Raises KalpanaError for another language or kind.
    """
    if language not in LANGUAGES:
        raise KalpanaError(f"no prompts are expanded in {language!r}: write en or hi")
    if kind not in KINDS:
        raise KalpanaError(f"kind {kind!r} is unknown: write {' or '.join(KINDS)}")
    text = clean(prompt)
    if not text or len(text) > LONGEST:
        return prompt
    rng = random.Random(f"{seed}/{language}/{kind}/{text}")
    read = reading(text, language)
    if not in_grammar(read, kind):
        return _styled(text, language, rng) or prompt
    for addition in _additions(read, kind, rng):
        for _ in range(TRIES):
            longer = addition(text)
            if longer is None or _facts(longer, language) == _facts(text, language):
                text = longer or text
                break
    return text


# ----------------------------------------------------------------------------------- what is stated


@dataclass(frozen=True)
class Reading:
    """A prompt by tokens: ``spans`` in the text; ``mentions`` of objects, with their tokens, those
    in descriptions of places left out; ``left``: the tokens outside of all mentions."""

    text: str
    language: str
    rules: LanguageRules
    tokens: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    mentions: tuple[tuple[int, int, Mention], ...]
    left: tuple[str, ...]
    aside: bool  # whether a place is described by an object
    camera: bool  # whether a motion of the camera is stated

    def groups(self) -> tuple[Group, ...]:
        """The groups of the mentions; of several meanings the first that states a colour."""
        found = []
        for *_, mention in self.mentions:
            concept, color = min(mention.means, key=lambda each: (each[1] is None, each))
            found.append(Group(concept, mention.count or 2, color))
        return tuple(found)

    def states(self, words: Iterable[str]) -> bool:
        """Whether one of the words stands outside of the mentions."""
        return not set(words).isdisjoint(self.left)


def reading(text: str, language: str) -> Reading:
    """A prompt in a language ("en" or "hi"), read by the inverse grammar."""
    rules = language_rules(language)
    spans = tuple(found.span() for found in TOKEN.finditer(text))
    tokens = tuple(rules.clean(text[start:end]) for start, end in spans)
    views = [*_views(language).finditer(text)]
    viewed = {
        k
        for k, (at, _) in enumerate(spans)
        if any(found.start() <= at < found.end() for found in views)
    }
    found = tuple(each for each in parse.mentions(tokens, rules) if each[0] not in viewed)
    inside = viewed | {k for start, end, _ in found for k in range(start, end)}
    left = tuple(token for k, token in enumerate(tokens) if k not in inside)
    own = tuple(each for each in found if not each[2].aside)
    aside, camera = len(own) < len(found), bool(views)
    return Reading(text, language, rules, tokens, spans, own, left, aside, camera)


@cache
def _views(language: str) -> re.Pattern[str]:
    """Matches a motion of the camera in a caption; it does not name a camera as an object."""
    texts = _all(video.VIEWS if language == "en" else video.HINDI_VIEWS)
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))), re.IGNORECASE)


def in_grammar(read: Reading, kind: str = "picture") -> bool:
    """Whether a prompt names one or two groups, in words of the grammar alone."""
    if not 1 <= len(read.mentions) <= 2:
        return False
    vocabulary = _vocabulary(read.language)
    known = vocabulary.all | (vocabulary.motion if kind == "video" else set())
    return all(token in known for token in read.left)


def _facts(text: str, language: str) -> tuple[Counter[object], frozenset[object]]:
    """The facts of a text: its mentions, and its relations between them."""
    parsed = parse.read(_views(language).sub("", text), language)
    every = parsed.mentions
    return Counter(every), frozenset((name, every[a], every[b]) for name, a, b in parsed.relations)


@dataclass(frozen=True)
class _Vocabulary:
    """Words of a language's grammar: ``all`` of captions of images; those that only describe a
    ``background``, a ``style`` or a ``facing``; those of ``motion`` in captions of videos."""

    all: frozenset[str]
    background: frozenset[str]
    style: frozenset[str]
    facing: frozenset[str]
    motion: frozenset[str]


@cache
def _vocabulary(language: str) -> _Vocabulary:
    rules = language_rules(language)

    def words(texts: Iterable[str]) -> frozenset[str]:
        blank = (re.sub(r"\{[^}]*\}", " ", text) for text in texts)
        return frozenset(word for text in blank for word in words_of(rules.clean(text)))

    grammar = grammar_en if language == "en" else grammar_hi
    core = (
        words(_core(language)) | frozenset(rules.counts) | rules.articles | frozenset(rules.sizes)
    )
    core |= {word for pattern in rules.patterns for word in pattern}
    places = [text for both in grammar.PLACES.values() for texts in both for text in texts]
    tints = [text for texts in grammar.TINTS.values() for text in texts]
    background = words((*places, *grammar.FLAT, *grammar.GRADIENT))
    if language == "hi":
        tints = [
            " ".join(grammar_hi.inflect(word, gender, False, oblique) for word in text.split())
            for text in tints
            for gender in "mf"
            for oblique in (False, True)
        ]
    tinted = words(tints) | frozenset(rules.colors)
    if language == "en":
        styles = [text for both in grammar_en.STYLES.values() for texts in both for text in texts]
        facing = words(
            text for both in grammar_en.FACING.values() for texts in both for text in texts
        )
        moving = [*_all(video.ENGLISH), *_all(video.THERE), *_all(video.SPEEDS), *_all(video.VIEWS)]
        moving += video.EXITS.values()
    else:
        styles = _all(grammar_hi.STYLES)
        facing = words((*phrases_hi.FACING, *phrases_hi.HEADING, "मुँह रुख़"))
        moving = [*_all(video.HINDI), *_all(video.HINDI_THERE), *_all(video.HINDI_SPEEDS)]
        moving += [
            *_all(video.HINDI_VIEWS),
            *video.HINDI_EXITS.values(),
            "रहा रहे रही जाता जाती जाते",
        ]
        moving += ["आता आती आते बड़ा बड़ी बड़े छोटा छोटी छोटे बदल"]
    every = core | background | tinted | words(styles) | facing
    return _Vocabulary(
        every,
        (background - core - tinted) | words([GROUND[language]]),
        (words(styles) - core - background - tinted) | words([MEDIA[language]]),
        facing - core - frozenset(("left", "right", "to", "ओर", "तरफ")),
        words(moving) - core - frozenset(POSTPOSITIONS),
    )


def _all(tables: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [text for texts in tables.values() for text in texts]


def _core(language: str) -> Iterator[str]:
    """Texts of the grammar around objects, in all forms of agreement."""
    if language == "en":
        singles = [*patterns_en.ONE, *patterns_en.MANY, *patterns_en.VAGUE, *patterns_en.PAINTED]
        phrases = parse.english_phrases
        yield from (*grammar_en.PICTURES, *grammar_en.REGIONS.values())
        yield "The background is. It is. a picture of and"
    else:
        singles = [*patterns_hi.ONE, *patterns_hi.MANY, *patterns_hi.VAGUE, *patterns_hi.PAINTED]
        phrases = parse.hindi_phrases
        yield from (*grammar_hi.PICTURES, *grammar_hi.REGIONS.values())
        yield "पृष्ठभूमि: में है। शैली: और"
    pairs = (grammar_en if language == "en" else grammar_hi).PAIRED[None]
    for one in phrases(" "):
        for pattern in (*singles, *pairs):
            yield pattern.format(a=one, b=one, picture="")


# ---------------------------------------------------------------------------------------- additions

Addition = Callable[[str], str | None]  # a longer text; None where there is nothing to add


def _additions(read: Reading, kind: str, rng: random.Random) -> Iterator[Addition]:
    """The additions to a prompt, in order. Each reads the text that the ones before left."""
    language, groups = read.language, read.groups()
    known = _vocabulary(language)
    stated = style_of(read)
    style = stated or choose_style(rng, groups)
    still = not read.states(known.motion)
    if kind == "picture":
        sizes = _sizes(read, groups, rng)
        for k in reversed(range(len(sizes))):  # from the end, so that earlier tokens stay
            if sizes[k]:
                yield partial(_with_size, k=k, size=sizes[k], language=language, rng=rng)
        if len(groups) == 1 and style and not read.states(known.facing):
            side = choose_facing(rng, groups[0], style).facing
            if side:
                yield lambda text: _with_facing(reading(text, language), side, rng)
    elif still and not read.camera:
        view = rng.choice(CAMERAS)
        yield lambda text: _with_camera(text, language, view, rng)
    elif len(groups) == 1 and _moves(read) and not read.states(_speeds(language)):
        pace = rng.choice(("slow", "fast"))
        yield lambda text: _with_speed(reading(text, language), pace, rng)
    if not (read.aside or read.states(known.background)):
        colors = {group.color for group in groups}
        drawn = background_for(rng, colors).kind
        # The camera's motion would be invisible on a plain background.
        ground = "place" if kind == "video" and still else drawn
        yield lambda text: _with_background(text, language, _ground(ground, colors, rng), rng)
    if style and not stated and not read.states(known.style):
        yield lambda text: _with_style(text, language, style, rng)


def style_of(read: Reading) -> str | None:
    """The style of the world that a prompt names, None if it names none of these."""
    rules = read.rules
    for style in grammar_en.STYLES:
        texts = (
            (text for texts in grammar_en.STYLES[style] for text in texts)
            if read.language == "en"
            else grammar_hi.STYLES[style]
        )
        for words in (words_of(rules.clean(text)) for text in texts):
            if any(read.tokens[k : k + len(words)] == words for k in range(len(read.tokens))):
                return style
    return None


@cache
def _speeds(language: str) -> frozenset[str]:
    """The words of a language for speeds of motion."""
    texts = _all(video.SPEEDS if language == "en" else video.HINDI_SPEEDS)
    return frozenset(words_of(language_rules(language).clean(" ".join(texts))))


def _moves(read: Reading) -> bool:
    """Whether a prompt states a motion along a path: other motions have no word for their speed."""
    events = video.ENGLISH if read.language == "en" else video.HINDI
    texts = (re.sub(r"\{[^}]*\}", " ", text) for kind in ("move", "arc") for text in events[kind])
    verbs = {*words_of(read.rules.clean(" ".join(texts)))}
    return read.states(verbs & _vocabulary(read.language).motion)


def _sizes(read: Reading, groups: tuple[Group, ...], rng: random.Random) -> list[str]:
    """A size for each group, "" where none is to be stated."""
    none = [""] * len(groups)
    if any(group.count > 1 for group in groups) or read.rules.sizes.keys() & read.tokens:
        return none
    if len(groups) == 1:
        return [rng.choice(("small", "large"))] if rng.random() < SIZED else none
    related = bool(parse.read(read.text, read.language).relations)
    return rng.sample(("small", "large"), 2) if not related and rng.random() < SIZED_PAIR else none


def _with_size(text: str, k: int, size: str, language: str, rng: random.Random) -> str | None:
    """The text with a size before the noun phrase ``k``, after its article or number."""
    read = reading(text, language)
    start, end, _ = read.mentions[k]
    first = read.tokens[start]
    has_number = first in read.rules.counts or first in read.rules.articles
    place = start + has_number
    place += next((len(w) for w in read.rules.pairs if read.tokens[place : place + len(w)] == w), 0)
    if read.language == "en":
        word = rng.choice(grammar_en.SIZES[size])
    else:
        agreement = _agreement(read, start, end)
        if agreement is None:
            return None
        word = grammar_hi.inflect(rng.choice(grammar_hi.SIZES[size]), *agreement)
    text = _inserted(read, place, word)
    if first in ("a", "an") and place == start + 1:
        begin, stop = read.spans[start]
        article = grammar_en.article(word)
        article = grammar_en.capital(article) if text[begin].isupper() else article
        text = text[:begin] + article + text[stop:]
    return text


def _agreement(read: Reading, start: int, end: int) -> tuple[str, bool, bool] | None:
    """The gender of a Hindi noun phrase, whether it is plural and whether it is oblique; None if
    its noun is not at its end."""
    named = _noun(read, start, end)
    if named is None:
        return None
    words, concepts = named
    followed = end < len(read.tokens) and read.tokens[end] in POSTPOSITIONS
    concept = lexicon()[min(concepts)]
    for noun in (concept.hi, *(decline(name, concept.hi.gender) for name in concept.synonyms_hi)):
        for many, oblique in ((False, followed), (False, not followed), (True, followed)):
            form = phrases_hi.form(noun, many, oblique)
            if words_of(read.rules.clean(form)) == words:
                return noun.gender, many, oblique
    return None


def _noun(read: Reading, start: int, end: int) -> tuple[tuple[str, ...], frozenset[str]] | None:
    """The noun at the end of a phrase and its concepts; None if something follows the noun."""
    for k in range(start, end):
        named = parse.name_at(read.tokens, k, read.rules)
        if named and k + len(named[0]) == end:
            return named[0], named[1]
    return None


def _with_facing(read: Reading, side: str, rng: random.Random) -> str | None:
    """The text with a facing of its only group: after the noun in English, before it in Hindi."""
    start, end, _ = read.mentions[0]
    if read.language == "hi":
        alive = grammar_en.living(lexicon()[read.groups()[0].concept])
        return _inserted(read, start, grammar_hi.facing(side, alive, rng))
    if _noun(read, start, end) is None:
        return None
    stop = read.spans[end - 1][1]
    return f"{read.text[:stop]} {rng.choice(grammar_en.FACING[side][0])}{read.text[stop:]}"


def _with_camera(text: str, language: str, view: str, rng: random.Random) -> str:
    views = rng.choice((video.VIEWS if language == "en" else video.HINDI_VIEWS)[view])
    if not text.endswith(SENTENCE_ENDS):
        return f"{text}, {views}"
    return f"{text} {grammar_en.capital(views)}." if language == "en" else f"{text} {views}।"


def _with_speed(read: Reading, pace: str, rng: random.Random) -> str | None:
    """The text with a speed at its direction of motion; None if it has no such direction."""
    tables = video.THERE if read.language == "en" else video.HINDI_THERE
    spoken = [words_of(read.rules.clean(text)) for text in _all(tables)]
    for words in sorted(spoken, key=len, reverse=True):
        for k in range(len(read.tokens)):
            if read.tokens[k : k + len(words)] == words:
                if read.language == "hi":
                    return _inserted(read, k, rng.choice(video.HINDI_SPEEDS[pace]).strip())
                stop = read.spans[k + len(words) - 1][1]
                adverb = rng.choice(video.SPEEDS[pace])
                return f"{read.text[:stop]} {adverb}{read.text[stop:]}"
    return None


def _ground(kind: str, colors: set[str | None], rng: random.Random) -> Background:
    """A random background of a kind, see ``background_for``."""
    while (background := background_for(rng, colors)).kind != kind:
        pass
    return background


def _with_background(text: str, language: str, background: Background, rng: random.Random) -> str:
    """The text with a background, as a phrase or, after a sentence, as another sentence."""
    sentence = text.endswith(SENTENCE_ENDS)
    if language == "hi":
        where, name = grammar_hi.surroundings(background, rng)
        return f"{text} पृष्ठभूमि: {name}।" if sentence else f"{text}, {where}"
    where, name = grammar_en.surroundings(background, rng, text)
    if sentence:
        return f"{text} The background is {name}."
    return text + (where if where.startswith(",") else f", {where}")


def _with_style(text: str, language: str, style: str, rng: random.Random) -> str:
    """The text with a style, as a phrase or, after a sentence, as another sentence."""
    sentence = text.endswith(SENTENCE_ENDS)
    if language == "hi":
        name = rng.choice(grammar_hi.STYLES[style])
        return f"{text} शैली: {name}।" if sentence else f"{text}, {name} में"
    medium, manner = (rng.choice(words) for words in grammar_en.STYLES[style])
    return f"{text} It is {medium}." if sentence else f"{text}, {manner}"


def _styled(text: str, language: str, rng: random.Random) -> str | None:
    """A prompt outside of the grammar with a style; None if it states one, ends a sentence or has
    letters of another script."""
    tokens = {token.lower() for token in TOKEN.findall(text)}
    vocabulary = _vocabulary(language)
    letters = [letter for letter in text if letter.isalpha()]
    first, last = ("A", "\u024f") if language == "en" else ("\u0900", "\u097f")
    own = [letter for letter in letters if first <= letter <= last]
    cleaned = {language_rules(language).clean(token) for token in tokens}
    if not letters or len(own) < len(letters) or not text[-1].isalnum():
        return None
    if cleaned & (vocabulary.style | set(MEDIA[language].split())):
        return None
    style = choose_style(rng, ())
    return _with_style(text, language, style, rng) if style else None


def _inserted(read: Reading, place: int, words: str) -> str:
    """The text with words before token ``place``; a capital at its beginning stays there."""
    begin = read.spans[place][0]
    before, after = read.text[:begin], read.text[begin:]
    if not before and after[:1].isupper() and read.language == "en":
        words, after = grammar_en.capital(words), after[:1].lower() + after[1:]
    return f"{before}{words} {after}"
