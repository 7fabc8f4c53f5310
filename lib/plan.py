"""Compares files with history: what is applied, what is pending, what conflicts. Pure.

It compares sets, never a high-water mark, so a file that was merged late is found, whatever its
number.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from lib.errors import FilesError, HistoryConflict
from lib.history import AppliedMigration
from lib.source.migration import Migration, number_of
from lib.source.numbering import same_migration
from lib.source.replacements import Replacements

_NO_NUMBER = -1
_UNVERIFIED = "applied without a checksum, so not verified"
_AHEAD = "applied, but newer than every file here (an older build, after a rollback?)"
_RESET = "reset this database, or take a fresh branch of it"


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


class Finding(NamedTuple):
    """Something to report about one migration: `message` is what, `remedies` are the options."""

    version: str
    state: State
    message: str
    remedies: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n  - ".join((f"{self.version}: {self.message}", *self.remedies))


class Findings(NamedTuple):
    """What is wrong with a plan, and forbids a run, and what is merely unusual about it."""

    problems: tuple[Finding, ...]
    warnings: tuple[Finding, ...]


class MigrationStatus(NamedTuple):
    """A file, a row, or both of one number, and their state.

    `problem` and `remedies` are of a conflict; without one they are empty.
    """

    state: State
    migration: Migration | None
    applied: AppliedMigration | None
    problem: str = ""
    remedies: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """The row's version if there is a row, else the file's."""
        return self._row_or_file.version

    @property
    def name(self) -> str:
        """The row's name if there is a row, else the file's."""
        return self._row_or_file.name

    @property
    def unverified(self) -> bool:
        """Whether it is applied without a checksum, so that a change of the file would not show."""
        return (
            self.state is State.APPLIED
            and self.migration is not None
            and self.applied is not None
            and self.applied.checksum is None
        )

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
        """The entries that forbid a run."""
        return self.in_state(State.MODIFIED, State.MISSING, State.OUT_OF_ORDER)

    @property
    def state(self) -> State:
        """The plan's own state: conflict, pending, ahead or current."""
        if self.conflicts:
            return State.CONFLICT
        for state in (State.PENDING, State.AHEAD):
            if self.in_state(state):
                return state
        return State.CURRENT

    def findings(self) -> Findings:
        """The conflicts with their remedies, and warnings, both in the order of the plan."""
        problems = [
            Finding(entry.version, entry.state, entry.problem, entry.remedies)
            for entry in self.conflicts
        ]
        warnings = [warning for entry in self.entries for warning in _warnings(entry)]
        return Findings(tuple(problems), tuple(warnings))

    def require_no_conflict(self) -> None:
        """Raise HistoryConflict that names every conflict with its remedies."""
        if self.conflicts:
            raise HistoryConflict(
                f"{_CONFLICT}:{''.join(map(_listed, self.findings().problems))}",
                changed_nothing=True,
                next_step="Resolve each conflict, then run again.",
            )


_CONFLICT = "the migration files do not match the database's history"


def _listed(problem: Finding) -> str:
    lines = [f"\n  {problem.state}: {problem.message}"]
    lines += [f"\n    - {remedy}" for remedy in problem.remedies]
    return "".join(lines)


def _warnings(entry: MigrationStatus) -> Iterator[Finding]:
    if entry.unverified:
        remedy = f"to record the checksum of the file: {_repair(entry.version)}"
        yield Finding(entry.version, entry.state, _UNVERIFIED, (remedy,))
    if entry.state is State.AHEAD:
        yield Finding(entry.version, entry.state, _AHEAD)


def _repair(version: str, *, production: bool = False) -> str:
    return f"scripts/migrate.py repair {version}{' --production' if production else ''}"


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
    files = {migration.number: migration for migration in migrations}
    checkpoints = [migration for migration in migrations if migration.stands_for]
    rows: dict[int, list[AppliedMigration]] = defaultdict(list)
    for row in history:
        rows[_number(row.version)].append(row)
    replaced = Replacements.of(checkpoints, none_applied=not rows)
    compare = _Comparison(
        newest_file=max(files, default=_NO_NUMBER),
        newest_row=max((replaced.place(number)[0] for number in rows), default=_NO_NUMBER),
        allow_out_of_order=allow_out_of_order,
        production=production,
        replaced=replaced,
        known=frozenset(files.keys() | rows.keys()),
    )
    entries: list[MigrationStatus] = []
    for number in sorted(files.keys() | rows.keys(), key=replaced.place):
        entries += compare.entries(files.get(number), rows[number])
    return Plan(tuple(entries))


def require_checkpoints_fit(migrations: Sequence[Migration]) -> None:
    """Raise FilesError if a file is not the one that a checkpoint stands for. Asks no database."""
    problems = make_plan(migrations, ()).findings().problems
    if problems:
        raise FilesError(
            f"the migration files contradict each other:{''.join(map(_listed, problems))}",
            changed_nothing=True,
        )


class _Comparison(NamedTuple):
    newest_file: int
    newest_row: int
    allow_out_of_order: bool
    production: bool
    replaced: Replacements
    known: frozenset[int]
    """The numbers of all files and rows."""

    def entries(
        self, file: Migration | None, rows: list[AppliedMigration]
    ) -> Iterator[MigrationStatus]:
        """The entries of one number."""
        # A runner that allowed it may have left two rows of one number: the file belongs to the
        # row of its own name.
        rows = sorted(rows, key=lambda row: file is None or not _same_name(file, row))
        if file and not (self.replaced.leaves_out(file) and self._is_sound(file)):
            yield self._of_both(file, rows[0]) if rows else self._of_file(file)
            rows = rows[1:]
        for row in rows:
            yield self._of_row(row, file)

    def _is_sound(self, file: Migration) -> bool:
        return not self.replaced.contradiction(file)

    def _of_file(self, file: Migration) -> MigrationStatus:
        if file.stands_for:
            return self._of_checkpoint(file)
        if not self._is_sound(file):
            return self._not_as_replaced(file, None)
        if file.number > self.newest_row or self.allow_out_of_order:
            return MigrationStatus(State.PENDING, file, None)
        return self._conflict(
            State.OUT_OF_ORDER,
            file,
            None,
            f"{file.path}: not applied, but number {self.newest_row} already is",
            self._renumber(file),
            "apply it anyway: scripts/migrate.py --allow-out-of-order "
            "(or set MIGRATION_ALLOW_OUT_OF_ORDER=1)",
        )

    def _of_both(self, file: Migration, row: AppliedMigration) -> MigrationStatus:
        same_sql = row.checksum is not None and file.matches(row.checksum)
        if not _same_name(file, row):
            return self._of_another_name(file, row, same_sql=same_sql)
        if same_sql or row.checksum is None:
            if not self._is_sound(file):
                return self._not_as_replaced(file, row)
            return MigrationStatus(State.APPLIED, file, row)
        return self._conflict(
            State.MODIFIED,
            file,
            row,
            f"{file.path}: changed after it was applied "
            f"(checksum {row.checksum:.12}, now {file.checksum:.12})",
            "restore the file from version control, and put the change into a new migration",
            f"accept the file as it is: {_repair(file.version, production=self.production)}",
        )

    def _of_another_name(
        self, file: Migration, row: AppliedMigration, *, same_sql: bool
    ) -> MigrationStatus:
        problem = f"{file.path}: number {file.number} is applied as {row.version}"
        if same_sql:
            remedies = [
                f"rename the file back to {row.version}.sql",
                f"accept the new name: {_repair(file.version, production=self.production)}",
            ]
        else:
            remedies = [f"restore {row.version} from version control, and {self._renumber(file)}"]
        return self._conflict(State.MODIFIED, file, row, problem, *remedies)

    def _of_checkpoint(self, file: Migration) -> MigrationStatus:
        """The entry of a checkpoint that is not applied: it waits for no number."""
        gone = [one.version for one in file.stands_for if one.number not in self._there]
        if not gone:
            return MigrationStatus(State.PENDING, file, None)
        return self._conflict(
            State.OUT_OF_ORDER,
            file,
            None,
            f"{file.path}: stands for migrations that are not applied here, and whose files are "
            f"gone: {', '.join(gone)}",
            f"restore their files, run again, and delete them again:{_restoring(file, gone)}",
        )

    @property
    def _there(self) -> frozenset[int]:
        """The numbers that are applied, or will be."""
        first = self.replaced.first
        return self.known.union(one.number for one in (first.stands_for if first else ()))

    def _not_as_replaced(self, file: Migration, row: AppliedMigration | None) -> MigrationStatus:
        return self._conflict(
            State.MODIFIED,
            file,
            row,
            f"{file.path}: {self.replaced.contradiction(file)}",
            "restore the file from version control, or delete the checkpoint and write it again",
        )

    def _of_row(self, row: AppliedMigration, twin: Migration | None) -> MigrationStatus:
        """The entry of a row without a file; `twin` is the file of another row of its number."""
        number = number_of(row.version)
        if number is not None and number > self.newest_file:
            return MigrationStatus(State.AHEAD, None, row)
        if not twin and self.replaced.covers(row.version):
            return MigrationStatus(State.APPLIED, None, row)
        if twin:
            problem = f"as {twin.version} is, and two files cannot share a number"
            remedy = "renumber both its file and its row"
        elif number is None:
            problem = "but no file can have this name"
            remedy = "rename both its file and its row, so that they begin with a number"
        else:
            problem = "but its file is gone"
            remedy = "restore the file from version control"
        return self._conflict(
            State.MISSING, None, row, f"{row.version}: applied, {problem}", remedy
        )

    def _conflict(
        self,
        state: State,
        file: Migration | None,
        row: AppliedMigration | None,
        problem: str,
        *remedies: str,
    ) -> MigrationStatus:
        last_resort = () if self.production else (_RESET,)
        return MigrationStatus(state, file, row, problem, (*remedies, *last_resort))

    def _renumber(self, file: Migration) -> str:
        newest = max(self.newest_file, self.newest_row)
        return (
            f"rename the file to a number above {newest}, such as {newest + 1:03}:"
            f" scripts/migrate.py renumber {file.version}"
        )


def _number(version: str) -> int:
    number = number_of(version)
    return _NO_NUMBER if number is None else number


def _restoring(checkpoint: Migration, versions: Iterable[str]) -> str:
    """The commands that bring deleted files back, a line each."""
    import shlex  # noqa: PLC0415 - a run without such a conflict does not need it

    paths = (shlex.quote(str(checkpoint.path.with_name(f"{one}.sql"))) for one in versions)
    return "".join(
        f'\n      git restore --source="$(git rev-list -1 HEAD -- {path})^" -- {path}'
        for path in paths
    )


def _same_name(file: Migration, row: AppliedMigration) -> bool:
    """Whether a row of the file's number also has its description."""
    return same_migration(file.version, row.version)
