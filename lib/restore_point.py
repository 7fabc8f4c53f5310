"""What a database is restored to, to be as it was before a run. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple


class RestorePoint(NamedTuple):
    """When a run read the history, and where the write-ahead log was."""

    time: datetime
    """By the server's clock, in UTC."""
    lsn: str | None
    """None where the server does not say."""


class WayBack(NamedTuple):
    """How to restore a database to the point before a run."""

    point: RestorePoint
    before: Sequence[str] = ()
    """The versions that the run has applied."""
    commands: Sequence[str] = ()
    """For the host's command line, each of one line; empty for a host that is not known."""
