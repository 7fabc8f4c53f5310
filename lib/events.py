"""What a run tells while it goes on, and what it has done. Pure."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from lib.errors import MigrationResult, TableBusy
from lib.history import History, Takeover
from lib.plan import Plan
from lib.restore_point import RestorePoint, WayBack
from lib.source.migration import Migration


class Started(NamedTuple):
    """There is a plan: what is about to happen, and where."""

    history: History
    plan: Plan


class TakenOver(NamedTuple):
    """What another tool has applied is recorded."""

    takeover: Takeover


class Notice(NamedTuple):
    """A line worth showing: the server's, about a file; or Onward's own, without a file."""

    migration: Migration | None
    text: str


class Running(NamedTuple):
    """A file is about to run."""

    version: str


class SentAhead(NamedTuple):
    """Files are sent to the server together; each is told when it is applied."""

    versions: Sequence[str]


class Progress(NamedTuple):
    """A file still runs, after so many seconds; `details` say what it does or waits for."""

    version: str
    seconds: float
    details: tuple[str, ...]


class Retry(NamedTuple):
    """A table is busy. What was done is rolled back, and done again after a pause, in seconds."""

    error: TableBusy
    pause: float


Event = Started | TakenOver | Notice | Running | SentAhead | Progress | Retry | MigrationResult
Emit = Callable[[Event], None]


class RunResult(NamedTuple):
    """What a run did. `plan` is the one that it ended with."""

    environment: str
    database: str
    plan: Plan
    applied: tuple[MigrationResult, ...]
    remaining: tuple[str, ...]
    taken_over: tuple[str, ...] = ()
    """Versions that another tool had applied, and that this run has recorded."""
    way_back: WayBack | None = None
    """To the point before its first file; None if it has applied none."""
    drift_found: bool = False
    """Whether the schema was not as the migrations left it, before its first file."""


class RunLog:
    """What a run has done so far. The executor writes it; the runner and whoever prints read it."""

    def __init__(self, emit: Emit = lambda _: None) -> None:
        self._emit = emit
        self._applied: dict[str, MigrationResult] = {}
        self.taken_over: tuple[str, ...] = ()
        """The versions that this run has taken over from another tool."""
        self.restore_point: RestorePoint | None = None
        """What the database is restored to, to be as it was before this run's first file."""
        self.drift_found = False
        """Whether the schema was not as the migrations left it, before this run's first file."""
        self._running = "the history"  # its table may have to be made first
        self._next: dict[str, str] = {}
        self.sent: frozenset[str] = frozenset()
        """The versions that were sent ahead."""

    @property
    def applied(self) -> tuple[MigrationResult, ...]:
        """The migrations that this run has applied, in order."""
        return tuple(self._applied.values())

    def started(self, history: History, plan: Plan) -> None:
        """A plan was made."""
        if not self._applied:
            self.restore_point = history.read_at
        self._emit(Started(history, plan))

    def took_over(self, takeover: Takeover) -> None:
        """What another tool has applied is recorded."""
        self.taken_over += tuple(row.version for row in takeover.rows)
        self._emit(TakenOver(takeover))

    def tell(self, text: str) -> None:
        """Show a line of Onward's own."""
        self._emit(Notice(None, text))

    def notice(self, migration: Migration, text: str) -> None:
        """Show what the server says about a file."""
        self._emit(Notice(migration, text))

    def running(self, version: str) -> None:
        """A file is about to run. Told once, however often it is tried."""
        if version != self._running:
            self._running = version
            self._emit(Running(version))

    def sent_ahead(self, versions: Sequence[str]) -> None:
        """These files run now, one after the other."""
        self._running = versions[0]
        self._next = dict(pairwise(versions))
        self.sent |= {*versions}
        self._emit(SentAhead(versions))

    def still_running(self, seconds: float, details: tuple[str, ...]) -> None:
        """What was begun last, a file or the history, has been running for so many seconds."""
        self._emit(Progress(self._running, seconds, details))

    def retrying(self, error: TableBusy, pause: float) -> None:
        """A busy table is tried again after a pause, in seconds."""
        self._emit(Retry(error, pause))

    def committed(self, result: MigrationResult) -> None:
        """A migration is applied. May be told twice: by the reply, and after an interruption."""
        self._applied.setdefault(result.version, result)
        self._running = self._next.get(result.version, self._running)

    def announce(self, version: str) -> None:
        """Show that a migration is applied."""
        self._emit(self._applied[version])
