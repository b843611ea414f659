"""The error that users see."""

from __future__ import annotations


class KalpanaError(Exception):
    """An error that the user can correct; its message is one line that states the problem, where
    it is, and what to write instead."""
