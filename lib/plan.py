"""Files and history compared: what is applied, what is pending, what contradicts. Pure.

Sets are compared, never a high-water mark: a file that was merged late is seen, whatever its number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from lib.errors import HistoryConflict
from lib.migration import Migration, number_of


class State(StrEnum):
    """What one migration is, and, by the last four, what the whole plan is."""

    APPLIED = "applied"
    MODIFIED = "modified"
    MISSING = "missing"
    OUT_OF_ORDER = "out_of_order"
    PENDING = "pending"
    AHEAD = "ahead"
    CURRENT = "current"
    CONFLICT = "conflict"


CONFLICTS = frozenset({State.MODIFIED, State.MISSING, State.OUT_OF_ORDER})


@dataclass(frozen=True, slots=True)
class Applied:
    """A row of the history. Audit columns are None where an older runner wrote the row; times are UTC."""

    id: int
    version: str
    name: str
    applied_at: datetime | None = None
    execution_time_ms: int | None = None
    checksum: str | None = None
    environment: str | None = None
    identity: str | None = None
    git_commit: str | None = None
    applied_by: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One number: its file, its row, or both, and what that makes it. `problem` is a sentence with its remedy."""

    state: State
    migration: Migration | None
    applied: Applied | None
    problem: str = ""

    @property
    def version(self) -> str:
        """The row's version where there is a row, else the file's."""
        return self.applied.version if self.applied else self._file.version

    @property
    def name(self) -> str:
        """The description for people."""
        return self.applied.name if self.applied else self._file.name

    @property
    def unverified(self) -> bool:
        """Applied by a runner that stored no checksum: nobody can say whether the file has changed."""
        return self.state is State.APPLIED and self.applied is not None and self.applied.checksum is None

    @property
    def _file(self) -> Migration:
        assert self.migration is not None  # noqa: S101 - an entry has a file or a row
        return self.migration


@dataclass(frozen=True, slots=True)
class Plan:
    """Every number known to files or history, in order."""

    entries: tuple[Entry, ...]

    def of(self, *states: State) -> tuple[Entry, ...]:
        """The entries in any of these states."""
        return tuple(entry for entry in self.entries if entry.state in states)

    @property
    def pending(self) -> tuple[Migration, ...]:
        """The files to apply, in order."""
        return tuple(entry.migration for entry in self.of(State.PENDING) if entry.migration)

    @property
    def conflicts(self) -> tuple[Entry, ...]:
        """The entries that forbid a run."""
        return self.of(*CONFLICTS)

    @property
    def state(self) -> State:
        """The plan's own state: conflict, pending, ahead or current."""
        if self.conflicts:
            return State.CONFLICT
        return next((state for state in (State.PENDING, State.AHEAD) if self.of(state)), State.CURRENT)

    def require_no_conflict(self) -> None:
        """Raise HistoryConflict that names every contradiction with its remedy."""
        if self.conflicts:
            problems = "\n".join(f"  {entry.state}: {entry.problem}" for entry in self.conflicts)
            raise HistoryConflict(
                f"the files and this database's history disagree:\n{problems}",
                next_step="Nothing was changed. Resolve each of these and run again.",
            )


def make_plan(
    migrations: Sequence[Migration],
    history: Iterable[Applied],
    *,
    allow_out_of_order: bool = False,
    production: bool = False,
) -> Plan:
    """Compare files with history. `production` leaves resetting the database out of the remedies."""
    files = {migration.number: migration for migration in migrations}
    rows: dict[int, list[Applied]] = defaultdict(list)
    for row in history:
        number = number_of(row.version)
        rows[_NO_NUMBER if number is None else number].append(row)
    compare = _Comparison(
        newest_file=max(files, default=_NO_NUMBER),
        newest_row=max(rows, default=_NO_NUMBER),
        allow_out_of_order=allow_out_of_order,
        way_out="" if production else ", or reset this database or take a fresh branch of it",
    )
    entries: list[Entry] = []
    for number in sorted(files.keys() | rows.keys()):
        entries += compare.entries(number, files.get(number), rows.get(number, []))
    return Plan(tuple(entries))


_NO_NUMBER = -1


@dataclass(frozen=True, slots=True)
class _Comparison:
    newest_file: int
    newest_row: int
    allow_out_of_order: bool
    way_out: str

    def entries(self, number: int, file: Migration | None, rows: list[Applied]) -> Iterator[Entry]:
        # Two rows of one number come from a runner that allowed it: the file belongs to the row of its own name.
        ordered = sorted(rows, key=lambda row: file is None or row.version != file.version)
        if file:
            yield self._of_file(file, ordered[0] if ordered else None)
            ordered = ordered[1:]
        for row in ordered:
            yield self._of_row(number, row)

    def _of_file(self, file: Migration, row: Applied | None) -> Entry:
        if row is None:
            return self._unapplied(file)
        if row.version != file.version:
            problem = (
                f"{file.path}: number {file.number} is applied here as {row.version}; {self._renumber()}{self.way_out}"
            )
            return Entry(State.MODIFIED, file, row, problem)
        if row.checksum is not None and not file.matches(row.checksum):
            return Entry(State.MODIFIED, file, row, self._changed(file, row.checksum))
        return Entry(State.APPLIED, file, row)

    def _unapplied(self, file: Migration) -> Entry:
        if file.number > self.newest_row or self.allow_out_of_order:
            return Entry(State.PENDING, file, None)
        problem = (
            f"{file.path}: not applied, but number {self.newest_row} already is; {self._renumber()}, "
            f"or allow it once with --allow-out-of-order{self.way_out}"
        )
        return Entry(State.OUT_OF_ORDER, file, None, problem)

    def _of_row(self, number: int, row: Applied) -> Entry:
        if number > self.newest_file:
            return Entry(State.AHEAD, None, row)
        problem = f"{row.version}: applied, but its file is gone; restore the file from version control{self.way_out}"
        return Entry(State.MISSING, None, row, problem)

    def _renamed(self, file: Migration, row: Applied) -> str:
        accept = ""
        if row.checksum is not None and file.matches(row.checksum):
            accept = f", or, since it is the same SQL, accept the new name with `repair {file.version}`"
        return (
            f"{file.path}: number {file.number} is applied as {row.version}; {self._renumber()}{accept}{self.way_out}"
        )

    def _changed(self, file: Migration, stored: str) -> str:
        return (
            f"{file.path}: changed after it was applied (checksum {stored[:12]}, now {file.checksum[:12]}); "
            f"restore the file from version control and put the change into a new one, "
            f"or accept it as it is with `repair {file.version}`{self.way_out}"
        )

    def _renumber(self) -> str:
        return f"rename the file to a number above {max(self.newest_file, self.newest_row)}"
