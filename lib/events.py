"""What a run tells while it goes on. Pure."""

from collections.abc import Callable
from typing import NamedTuple

from lib.errors import MigrationResult, TableBusy
from lib.plan import History, Plan
from lib.source.migration import Migration


class Started(NamedTuple):
    """A plan stands: what is about to happen, and where."""

    history: History
    plan: Plan


class Notice(NamedTuple):
    """Something worth a line: what the server said while a file ran, or without a file, what takes
    long.
    """

    migration: Migration | None
    text: str


class Retry(NamedTuple):
    """A table is busy; what was done is rolled back, and is done again after a pause, in seconds."""

    error: TableBusy
    pause: float


Event = Started | Notice | Retry | MigrationResult
Emit = Callable[[Event], None]


class RunResult(NamedTuple):
    """What a run did. `plan` is the one that it ended with."""

    environment: str
    database: str
    plan: Plan
    applied: tuple[MigrationResult, ...]
    remaining: tuple[str, ...]
