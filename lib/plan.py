"""Compares files with history: what is applied, what is pending, what conflicts. Pure.

It compares sets, never a high-water mark, so a file that was merged late is found, whatever its
number.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from lib.errors import HistoryConflict
from lib.history import AppliedMigration
from lib.remarks import AHEAD, Remark, Remarks, unverified
from lib.source.migration import Migration, number_of
from lib.source.numbering import same_migration
from lib.source.replacements import Replacements

_NO_NUMBER = -1


class State(StrEnum):
    """The state of one migration; the last four are also states of a whole plan."""

    APPLIED = "applied"
    MODIFIED = "modified"
    MISSING = "missing"
    OUT_OF_ORDER = "out_of_order"
    PENDING = "pending"
    AHEAD = "ahead"
    CURRENT = "current"
    CONFLICT = "conflict"


class MigrationStatus(NamedTuple):
    """A file, a row, or both of one number, and their state."""

    state: State
    migration: Migration | None
    applied: AppliedMigration | None
    remark: Remark = Remark()
    """What is wrong, for a conflict; or what is unusual."""

    @property
    def version(self) -> str:
        """The row's version if there is a row, else the file's."""
        return self._row_or_file.version

    @property
    def name(self) -> str:
        """The row's name if there is a row, else the file's."""
        return self._row_or_file.name

    @property
    def is_conflict(self) -> bool:
        """Whether it forbids a run."""
        return self.state in (State.MODIFIED, State.MISSING, State.OUT_OF_ORDER)

    @property
    def is_unusual(self) -> bool:
        """Whether there is something to say of it, though it forbids nothing."""
        return bool(self.remark.message) and not self.is_conflict

    @property
    def text(self) -> str:
        """The state and the remark, a line for each remedy."""
        return "\n    - ".join((f"{self.state}: {self.remark.message}", *self.remark.remedies))

    @property
    def _row_or_file(self) -> AppliedMigration | Migration:
        one = self.applied or self.migration
        assert one  # noqa: S101 - there is always a file or a row
        return one


class Plan(NamedTuple):
    """Every file and every row, in the order of their numbers.

    A checkpoint follows what it stands for, whatever its number. In a plan for a database without
    history, it is the first, and the files that it stands for are not in the plan.
    """

    entries: tuple[MigrationStatus, ...]

    def in_state(self, *states: State) -> tuple[MigrationStatus, ...]:
        """The entries in any of these states."""
        return tuple(entry for entry in self.entries if entry.state in states)

    @property
    def pending(self) -> tuple[Migration, ...]:
        """The files to apply, in order."""
        return tuple(entry.migration for entry in self.in_state(State.PENDING) if entry.migration)

    @property
    def conflicts(self) -> tuple[MigrationStatus, ...]:
        """The entries that forbid a run, in order."""
        return tuple(entry for entry in self.entries if entry.is_conflict)

    @property
    def warnings(self) -> tuple[MigrationStatus, ...]:
        """The entries that are unusual, but forbid nothing, in order."""
        return tuple(entry for entry in self.entries if entry.is_unusual)

    @property
    def state(self) -> State:
        """The plan's own state: conflict, pending, ahead or current."""
        if self.conflicts:
            return State.CONFLICT
        for state in (State.PENDING, State.AHEAD):
            if self.in_state(state):
                return state
        return State.CURRENT

    def require_no_conflict(self) -> None:
        """Raise HistoryConflict that names every conflict with its remedies."""
        if self.conflicts:
            raise HistoryConflict(
                f"the migration files do not match the database's history:{self.conflicts_text}",
                changed_nothing=True,
                next_step="Resolve each conflict, then run again.",
            )

    @property
    def conflicts_text(self) -> str:
        """All conflicts with their remedies, indented, each on a line of its own."""
        return "".join(f"\n  {entry.text}" for entry in self.conflicts)


def make_plan(
    migrations: Sequence[Migration],
    history: Iterable[AppliedMigration],
    *,
    allow_out_of_order: bool = False,
    production: bool = False,
) -> Plan:
    """Compare files with history. For `production`, no remedy is to reset the database, and a
    command that changes it has the option that it needs there.
    """
    comparison = _Comparison(
        migrations, history, allow_out_of_order=allow_out_of_order, production=production
    )
    return Plan(tuple(comparison.entries()))


class _Comparison:
    def __init__(
        self,
        migrations: Sequence[Migration],
        history: Iterable[AppliedMigration],
        *,
        allow_out_of_order: bool,
        production: bool,
    ) -> None:
        self._files = {migration.number: migration for migration in migrations}
        self._rows: dict[int, list[AppliedMigration]] = defaultdict(list)
        for row in history:
            self._rows[_number(row.version)].append(row)
        self._numbers = self._files.keys() | self._rows.keys()
        self._replaced = Replacements.of(migrations, none_applied=not self._rows)
        places = [self._replaced.place(number)[0] for number in self._rows]
        self._newest_row = max(places, default=_NO_NUMBER)
        self._newest_file = max(self._files, default=_NO_NUMBER)
        self._remarks = Remarks(max(self._newest_file, self._newest_row), production)
        self._allow_out_of_order = allow_out_of_order

    def entries(self) -> Iterator[MigrationStatus]:
        """The entries of all numbers, in order."""
        for number in sorted(self._numbers, key=self._replaced.place):
            yield from self._entries(self._files.get(number), self._rows.get(number, ()))

    def _entries(
        self, file: Migration | None, rows: Sequence[AppliedMigration]
    ) -> Iterator[MigrationStatus]:
        """The entries of one number."""
        # A runner that allowed it may have left two rows of one number: the file belongs to the
        # row of its own name.
        rows = sorted(rows, key=lambda row: file is None or not _same_name(file, row))
        if file and not self._replaced.leaves_out(file):
            yield self._of_both(file, rows[0]) if rows else self._of_file(file)
            rows = rows[1:]
        for row in rows:
            yield self._of_row(row, file)

    def _of_file(self, file: Migration) -> MigrationStatus:
        if file.stands_for:
            return self._of_checkpoint(file)
        if contradiction := self._replaced.contradiction(file):
            remark = self._remarks.not_as_replaced(file, contradiction)
            return MigrationStatus(State.MODIFIED, file, None, remark)
        if file.number > self._newest_row or self._allow_out_of_order:
            return MigrationStatus(State.PENDING, file, None)
        remark = self._remarks.late(file, self._newest_row)
        return MigrationStatus(State.OUT_OF_ORDER, file, None, remark)

    def _of_checkpoint(self, file: Migration) -> MigrationStatus:
        """The entry of a checkpoint that is not applied: it waits for no number."""
        gone = self._replaced.gone(file, self._numbers)
        if not gone:
            return MigrationStatus(State.PENDING, file, None)
        remark = self._remarks.without_parts(file, gone)
        return MigrationStatus(State.OUT_OF_ORDER, file, None, remark)

    def _of_both(self, file: Migration, row: AppliedMigration) -> MigrationStatus:
        if not _same_name(file, row):
            remark = self._remarks.of_another_name(file, row)
        elif row.checksum is not None and not file.matches(row.checksum):
            remark = self._remarks.changed(file, row.checksum)
        elif contradiction := self._replaced.contradiction(file):
            remark = self._remarks.not_as_replaced(file, contradiction)
        else:
            verified = Remark() if row.checksum is not None else unverified(row)
            return MigrationStatus(State.APPLIED, file, row, verified)
        return MigrationStatus(State.MODIFIED, file, row, remark)

    def _of_row(self, row: AppliedMigration, twin: Migration | None) -> MigrationStatus:
        """The entry of a row without a file; `twin` is the file of another row of its number."""
        if _number(row.version) > self._newest_file:
            return MigrationStatus(State.AHEAD, None, row, AHEAD)
        if not twin and self._replaced.covers(row.version):
            return MigrationStatus(State.APPLIED, None, row)
        return MigrationStatus(State.MISSING, None, row, self._remarks.without_file(row, twin))


def _number(version: str) -> int:
    number = number_of(version)
    return _NO_NUMBER if number is None else number


def _same_name(file: Migration, row: AppliedMigration) -> bool:
    """Whether a row of the file's number also has its description."""
    return same_migration(file.version, row.version)
