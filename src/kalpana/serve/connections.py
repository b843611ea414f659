"""Limits on connections: how many may be open, and how long one may be idle."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle


class Connection(H11Protocol):
    """A connection that is closed when no request head has arrived for ``timeout_head`` seconds,
    whether its client sends nothing or one byte at a time."""

    timeout_head = 20.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look_again(None)

    def _look_again(self, before: RequestResponseCycle | None) -> None:
        self.loop.call_later(self.timeout_head, self._look, before)

    def _look(self, before: RequestResponseCycle | None) -> None:
        """Close the connection if no request has begun since ``before``."""
        if self.transport.is_closing():
            return
        if self.cycle is before and (before is None or before.response_complete):
            self.transport.close()
        else:
            self._look_again(self.cycle)


def allow_many_files() -> None:
    """Raise the limit of open files, and so of connections, to the one that the system allows."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
