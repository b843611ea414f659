"""Settings of an export: everything on which its bytes depend, checked before any work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kalpana.errors import KalpanaError
from kalpana.world.export.examples import VIDEO
from kalpana.world.splits import SPLITS
from kalpana.world.video import Videos
from kalpana.world.world import KINDS, LANGUAGES, VERSION, World

FORMATS = ("webdataset", "coco", "parquet")
SIZES = range(32, 1025, 8)  # sides in pixels


@dataclass(frozen=True)
class Settings:
    """What is exported, and how. Raises KalpanaError for a value that is not allowed.

    ``side`` 0: the world's own, 128 pixels, and 64 for videos. ``shard``: examples in one file.
    """

    format: str  # one of FORMATS
    kind: str  # a key of world.KINDS, or VIDEO
    n: int
    seed: int = 0
    split: str = "train"
    languages: tuple[str, ...] = LANGUAGES
    side: int = 0
    shard: int = 256
    world: str = VERSION

    def __post_init__(self) -> None:
        kinds = (*KINDS, VIDEO)
        for name, value, allowed in (
            ("format", self.format, FORMATS),
            ("kind", self.kind, kinds),
            ("split", self.split, SPLITS),
            *(("language", language, LANGUAGES) for language in self.languages),
        ):
            if value not in allowed:
                raise KalpanaError(f"{name} {value!r} is not one of {', '.join(allowed)}")
        if len(set(self.languages)) != len(self.languages) or not self.languages:
            raise KalpanaError(f"languages {','.join(self.languages)!r}: write en, hi or en,hi")
        for name, number in (("n", self.n), ("shard", self.shard)):
            if number < 1:
                raise KalpanaError(f"{name} {number}: write 1 or more")
        if not self.side:
            own = Videos.side if self.kind == VIDEO else World.side
            object.__setattr__(self, "side", own)
        if self.side not in SIZES:
            raise KalpanaError(
                f"side {self.side} is not a multiple of 8 from {SIZES[0]} to {SIZES[-1]}"
            )

    @property
    def shards(self) -> range:
        """The numbers of all shards."""
        return range(-(-self.n // self.shard))

    def indices(self, shard: int) -> range:
        """The indices of the examples of a shard."""
        return range(shard * self.shard, min((shard + 1) * self.shard, self.n))

    def source(self) -> World | Videos:
        """The world that is exported."""
        if self.kind == VIDEO:
            return Videos(self.seed, self.split, self.side)
        return World(self.seed, self.split, self.side, self.kind)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self) | {"languages": list(self.languages)}
