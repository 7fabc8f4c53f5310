"""What became of a fleet: sums, and what failed by its reason. Pure.

The verdict on a tenant is the last look at its database, by a connection of its own. A run that has
found nothing to apply is a look.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lib.fleet.order import Order
from lib.fleet.outcome import LOOKED, NOT_REACHED, Outcome, exit_codes

_WORST_FIRST = (7, 6, 70, 1, 2, 3, 5, 4, 8)
"""Exit codes: the first of these that a tenant has is the fleet's."""
_TENANTS_LISTED = 20
_FAILED = ("migration_failed", "partly_applied")
_SHOW = "scripts/migrate.py with that tenant's URL shows the reason"
_AGAIN = "the same command again goes on where this one ended"
NEXT_STEPS = {
    "migration_failed": "correct the file, or the tenant's data; scripts/migrate.py with that "
    "tenant's URL shows the statement and what the server says",
    "partly_applied": "a file without a transaction failed midway: look at that database first "
    "(docs/no-transaction.md)",
    "outcome_unknown": f"whether a COMMIT arrived is not known: {_AGAIN}, and finds out",
    "history_conflict": "files and history disagree: scripts/migrate.py validate with that "
    "tenant's URL says why",
    "conflict": "files and history disagree: scripts/migrate.py validate with that tenant's URL "
    "says why",
    "wrong_environment": "this database belongs to another environment; if it does not, "
    "scripts/migrate.py with that tenant's URL prints the line that assigns it",
    "another_bundle": "the function has other files than this checkout: deploy it first",
    "not_empty": "the database has tables and no history: docs/existing-database.md",
    "busy": f"another run or another session holds a lock; {_AGAIN}",
    "database_unavailable": f"check that the database is there and lets this role in; {_AGAIN}",
    "pending": f"not migrated yet; {_AGAIN}",
    "not_configured": "its URL or its secret cannot be used; the log names the reason",
}


class Record(NamedTuple):
    """One line of a run's journal: an outcome, where and when."""

    outcome: Outcome
    wave: int
    cluster: str
    action: str
    at: float
    """Seconds since the run began."""


class Header(NamedTuple):
    """The first line of a run's journal."""

    run: str
    action: str
    environment: str
    head: str
    began: str
    """UTC, in ISO's format."""
    sizes: Mapping[int, Mapping[str, int]]
    """How many databases there are, by wave and cluster."""

    @classmethod
    def of(cls, order: Order, began: str) -> "Header":
        """The header of an order's journal."""
        sizes = {
            wave.number: {name: len(tenants) for name, tenants in wave.clusters.items()}
            for wave in order.waves
        }
        return cls(order.run, order.action, order.environment, order.head, began, sizes)


class Ending(NamedTuple):
    """The last line of a run's journal."""

    seconds: float
    stopped_after: int | None = None
    """The wave that had to be current, and was not."""
    interrupted: bool = False


class Entries(NamedTuple):
    """All that a run's journal says."""

    header: Header
    records: Sequence[Record]
    ending: Ending | None = None
    """None for a run that was killed, or still goes on."""
    running: bool = False


class ErrorGroup(NamedTuple):
    """Tenants that are not fine for one reason."""

    code: str
    version: str | None
    sqlstate: str | None
    tenants: tuple[str, ...]

    @property
    def next_step(self) -> str:
        """What to do about it."""
        return NEXT_STEPS.get(self.code, _SHOW)


class Tally(NamedTuple):
    """How many databases are what. The parts always are the whole."""

    databases: int
    current: int
    ahead: int
    behind: int
    migrated: int
    """How many of them this run has changed."""
    seconds: float = 0.0
    """From the first to the last of them."""

    @property
    def not_reached(self) -> int:
        """How many were not begun, or not looked at since."""
        return self.databases - self.current - self.ahead - self.behind

    @property
    def all_fine(self) -> bool:
        """Whether all databases were seen to be current, or ahead."""
        return self.current + self.ahead == self.databases

    @property
    def rate(self) -> float:
        """Databases a second."""
        done = self.databases - self.not_reached
        return done / self.seconds if self.seconds else 0.0


class Report(NamedTuple):
    """What became of a fleet."""

    header: Header
    total: Tally
    clusters: Mapping[int, Mapping[str, Tally]]
    """By wave and cluster."""
    errors: tuple[ErrorGroup, ...]
    """The most frequent one first."""
    ending: Ending | None
    running: bool

    @property
    def success(self) -> bool:
        """Whether it is over, and all databases were seen to be current, or ahead."""
        return self.total.all_fine and self.ending is not None

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        if self.success:
            return 0
        known = exit_codes()
        found = {known.get(group.code, 70) for group in self.errors} | {8}
        return next(code for code in _WORST_FIRST if code in found)


def make_report(entries: Entries) -> Report:
    """The report of a run."""
    tenants: dict[str, _Tenant] = {}
    for record in entries.records:
        tenants.setdefault(record.outcome.tenant, _Tenant(record)).see(record)
    places: dict[tuple[int, str], list[_Tenant]] = {}
    for tenant in tenants.values():
        places.setdefault(tenant.place, []).append(tenant)
    clusters = {
        wave: {name: _tally(size, places.get((wave, name), ())) for name, size in sizes.items()}
        for wave, sizes in entries.header.sizes.items()
    }
    total = add([one for found in clusters.values() for one in found.values()])
    errors = _errors(tenants.values())
    return Report(entries.header, total, clusters, errors, entries.ending, entries.running)


class _Tenant:
    """What the journal says of one tenant."""

    def __init__(self, first: Record) -> None:
        self.place = first.wave, first.cluster
        self.first_at = first.at - first.outcome.milliseconds / 1000
        self.migrated = False
        self._ran: Outcome | None = None
        self._looked: Outcome | None = None

    def see(self, record: Record) -> None:
        """Take in a later record."""
        outcome, self.last_at = record.outcome, record.at
        self.migrated |= outcome.outcome == "migrated"
        if record.action == "migrate":
            self._ran = outcome
        if record.action == "status" or outcome.outcome in LOOKED:
            self._looked = outcome

    @property
    def verdict(self) -> str:
        """`current`, `ahead`, `behind` or NOT_REACHED."""
        if self._looked and self._looked.outcome in LOOKED:
            return self._looked.outcome
        return "behind" if self.failure else NOT_REACHED

    @property
    def failure(self) -> Outcome | None:
        """Why it is behind: what the run met, else what the look has found."""
        seen = (one for one in (self._ran, self._looked) if one and not one.fine)
        return next((one for one in seen if one.outcome != NOT_REACHED), None)


def _tally(databases: int, tenants: Sequence[_Tenant]) -> Tally:
    found = Counter(tenant.verdict for tenant in tenants)
    first = min((tenant.first_at for tenant in tenants), default=0.0)
    last = max((tenant.last_at for tenant in tenants), default=0.0)
    return Tally(
        databases,
        found["current"],
        found["ahead"],
        found["behind"],
        sum(tenant.migrated for tenant in tenants),
        last - first,
    )


def add(tallies: Sequence[Tally]) -> Tally:
    """The sums; the longest duration."""
    return Tally(
        databases=sum(one.databases for one in tallies),
        current=sum(one.current for one in tallies),
        ahead=sum(one.ahead for one in tallies),
        behind=sum(one.behind for one in tallies),
        migrated=sum(one.migrated for one in tallies),
        seconds=max(one.seconds for one in tallies),
    )


def _errors(tenants: Iterable[_Tenant]) -> tuple[ErrorGroup, ...]:
    found: dict[tuple[str, str | None, str | None], list[str]] = {}
    for tenant in tenants:
        if tenant.verdict == "behind" and (failure := tenant.failure):
            # Only of a failed migration the version is where it failed.
            version = failure.version if failure.outcome in _FAILED else None
            key = failure.outcome, version, failure.sqlstate
            found.setdefault(key, []).append(failure.tenant)
    groups = [ErrorGroup(*key, tenants=tuple(names)) for key, names in found.items()]
    return tuple(sorted(groups, key=lambda group: -len(group.tenants)))


def report_dict(report: Report) -> dict[str, Any]:
    """The report as a JSON document."""
    header, ending = report.header, report.ending
    return {
        "success": report.success,
        "run": header.run,
        "state": _state(report),
        "environment": header.environment,
        "head": header.head,
        "began": header.began,
        **_tally_dict(report.total),
        "stoppedAfterWave": ending and ending.stopped_after,
        "seconds": round(ending.seconds if ending else report.total.seconds, 1),
        "waves": [
            {
                "wave": wave,
                **_tally_dict(add(list(clusters.values()))),
                "clusters": [
                    {"cluster": name, **_tally_dict(tally), "rate": round(tally.rate, 1)}
                    for name, tally in clusters.items()
                ],
            }
            for wave, clusters in report.clusters.items()
        ],
        "errors": [_error_dict(group) for group in report.errors],
    }


def _state(report: Report) -> str:
    if report.running:
        return "running"
    if not report.ending:
        return "killed"
    return "interrupted" if report.ending.interrupted else "ended"


def _tally_dict(tally: Tally) -> dict[str, int]:
    return {
        "databases": tally.databases,
        "current": tally.current,
        "ahead": tally.ahead,
        "behind": tally.behind,
        "notReached": tally.not_reached,
        "migrated": tally.migrated,
    }


def _error_dict(group: ErrorGroup) -> dict[str, Any]:
    return {
        "code": group.code,
        "version": group.version,
        "sqlstate": group.sqlstate,
        "databases": len(group.tenants),
        "tenants": list(group.tenants[:_TENANTS_LISTED]),
        "nextStep": group.next_step,
    }
