"""Waiting for changes of jobs: of one, or of any."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Watchers:
    """Events of event loops, set from any thread when a job has changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By the id of a job; None: of all.
        self._events = dict[str | None, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]]()

    @contextmanager
    def watching(self, id: str | None = None) -> Iterator[asyncio.Event]:
        """Context with an event that is set at each change of a job; None: of any job."""
        watcher = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._events.setdefault(id, set()).add(watcher)
        try:
            yield watcher[1]
        finally:
            with self._lock:
                self._events[id].discard(watcher)
                if not self._events[id]:
                    del self._events[id]

    def tell(self, *ids: str) -> None:
        """Set the events of some jobs, and of those that watch all; without ids, all events."""
        with self._lock:
            names = (None, *ids) if ids else tuple(self._events)
            for name in names:
                for loop, event in self._events.get(name, ()):
                    if not loop.is_closed():
                        loop.call_soon_threadsafe(event.set)
