"""Sentence patterns of a language, chosen by the scene and the form of the caption."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kalpana.world.scene import Scene

PLAIN = 4  # number of patterns, from the first on, that are the form "short"


@dataclass(frozen=True)
class Patterns:
    """All sentence patterns of a language.

    ``paired``: of two groups, by their relation. ``named``: those of them that "dense" captions
    use. ``one``, ``many``: of one group, of one or several objects. ``exactly``: the patterns for
    several objects in "dense" captions. ``vague``: for three or more objects, not counted.
    ``painted``: for a group that has a colour.
    """

    paired: Mapping[str | None, tuple[str, ...]]
    named: Mapping[str | None, tuple[str, ...]]
    one: tuple[str, ...]
    many: tuple[str, ...]
    exactly: tuple[str, ...]
    vague: tuple[str, ...]
    painted: tuple[str, ...]

    def fitting(self, scene: Scene, form: str) -> tuple[str, ...]:
        """All patterns for the scene's groups in this form; a likelier one is there repeatedly."""
        if len(scene.groups) == 2:
            table = self.paired[scene.relation]
            if form == "dense":
                return self.named[scene.relation]
            return table[:PLAIN] if form == "short" else table
        group = scene.groups[0]
        table, full = (self.one, ("{a}",)) if group.count == 1 else (self.many, self.exactly)
        painted = self.painted if group.color else ()
        if form == "dense":
            return full + full + painted
        return table[:PLAIN] if form == "short" else table + self.vague_of(group.count) + painted

    def vague_of(self, count: int) -> tuple[str, ...]:
        """The patterns that do not count; none for fewer than three objects."""
        return self.vague if count > 2 else ()
