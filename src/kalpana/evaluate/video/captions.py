"""Caption accuracy on videos: parses captions by the inverse grammar, and checks fact by fact."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from kalpana.evaluate import caption_accuracy
from kalpana.world.grammar import LANGUAGES
from kalpana.world.render import render
from kalpana.world.video import Videos, VideoScene, caption
from kalpana.world.video.parse import ParsedVideoCaption, read

FACTS = ("things", "colours", "event", "direction", "camera")
BATCH = 16  # videos captioned together


def judge(video: VideoScene, text: str, language: str) -> dict[str, list[bool]]:
    """Whether each fact of a video is stated correctly in a caption, by kind of fact.

    Kinds: each object is named ("things") in its colour, if it has one ("colours"); the event, of
    which "hide" needs the right object behind the other; its direction, if it has one; and the
    motion of the camera, where that is the event. A caption that states two events is wrong.
    """
    parsed = read(text, language)
    things = caption_accuracy.judge_mentions(video.scene, parsed.mentions)
    facts = {"things": things["things"], "colours": things.get("colours", [])}
    if video.event == "camera":
        return facts | {
            "event": [bool(parsed.cameras) and not parsed.events],
            "camera": [parsed.cameras == (video.word,)],
        }
    event = _stated(video, parsed)
    facts["event"] = [event is not None]
    if video.word:
        facts["direction"] = [event == video.word]
    return facts


def _stated(video: VideoScene, parsed: ParsedVideoCaption) -> str | None:
    """The stated direction of the video's event, None if the event is not what is stated."""
    if parsed.cameras or len(parsed.events) != 1 or parsed.events[0].event != video.event:
        return None
    subject = parsed.mentions[parsed.events[0].subject]
    mover = video.scene.groups[0].concept
    if video.event == "hide" and mover not in {concept for concept, _ in subject.means}:
        return None
    return parsed.events[0].word


def scores(
    videos: Sequence[VideoScene], texts: Iterable[str], language: str
) -> dict[str, tuple[float, int]]:
    """The share of correct facts in [0, 1], and the number of facts, by kind."""
    every = defaultdict[str, list[bool]](list)
    for video, text in zip(videos, texts, strict=True):
        for kind, correct in judge(video, text, language).items():
            every[kind] += correct
    return {kind: (sum(every[kind]) / max(len(every[kind]), 1), len(every[kind])) for kind in FACTS}


def measure(
    tell: Callable[[Sequence[Tensor], Sequence[float], str], list[str]],
    count: int,
    world: Videos,
    frames: int,
    progress: Callable[[int, int], None],
) -> str:
    """A Markdown table of caption accuracy on the first ``count`` videos of a world, with floor and
    ceiling.

    ``tell(keyframes, seconds, language)`` returns one caption for each video; the keyframes are
    pixels (frames, 3, side, side) in [-1, 1].
    """
    videos = [world.video(i) for i in range(count)]
    texts: dict[str, list[str]] = {language: [] for language in LANGUAGES}
    for start in range(0, count, BATCH):
        part = videos[start : start + BATCH]
        keyframes = [
            render([video.at(k / (frames - 1)) for k in range(frames)], world.side).pixels
            for video in part
        ]
        for language, told in texts.items():
            told += tell(keyframes, [video.seconds for video in part], language)
        progress(min(start + BATCH, count), count)
    lines = [
        "| caption in | captions from | " + " | ".join(FACTS) + " |",
        "|---|---|" + "---:|" * len(FACTS),
    ]
    for language, told in texts.items():
        own = [
            caption(video, language, "natural", random.Random(f"told/{k}"))
            for k, video in enumerate(videos)
        ]
        others = random.Random("told").sample(own, len(own))
        for source, captions in (
            ("floor: captions of other videos", others),
            ("the model", told),
            ("ceiling: the world", own),
        ):
            cells = (
                f"{100 * share:.1f} % of {n}"
                for share, n in scores(videos, captions, language).values()
            )
            lines.append(f"| {language} | {source} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
