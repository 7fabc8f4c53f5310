"""Files and history compared: what is applied, what is pending, what contradicts. Pure.

Sets are compared, never a high-water mark: a file that was merged late is seen, whatever its
number.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from lib.errors import HistoryConflict, UntrustedHistory
from lib.quoting import identifier
from lib.source.migration import Migration, description_of, number_of

TABLE = "schema_migrations"
AUDIT_COLUMNS = ("environment", "identity", "git_commit", "applied_by")


class State(StrEnum):
    """What one migration is; the last four also say what the whole plan is."""

    APPLIED = "applied"
    MODIFIED = "modified"
    MISSING = "missing"
    OUT_OF_ORDER = "out_of_order"
    PENDING = "pending"
    AHEAD = "ahead"
    CURRENT = "current"
    CONFLICT = "conflict"


class AppliedMigration(NamedTuple):
    """A row of the history. Audit columns are None where an older runner wrote the row; times are
    UTC.
    """

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


class MigrationStatus(NamedTuple):
    """A file, a row, or both of one number, and what that makes it. `problem` is a sentence with
    its remedy.
    """

    state: State
    migration: Migration | None
    applied: AppliedMigration | None
    problem: str = ""

    @property
    def version(self) -> str:
        """The row's version where there is a row, else the file's."""
        return self._one.version

    @property
    def name(self) -> str:
        """The row's name where there is a row, else the file's."""
        return self._one.name

    @property
    def unverified(self) -> bool:
        """Applied by a runner that stored no checksum: nobody can say whether the file has changed."""
        return (
            self.state is State.APPLIED
            and self.applied is not None
            and self.applied.checksum is None
        )

    @property
    def _one(self) -> AppliedMigration | Migration:
        one = self.applied or self.migration
        assert one  # noqa: S101 - an entry has a file or a row
        return one


class History(NamedTuple):
    """What a database says of itself and of what was applied to it."""

    rows: tuple[AppliedMigration, ...]
    schema: str | None
    """Where the table is, or where it will be made; None where there is no place for it."""
    table_id: tuple[int, int] | None
    """The table's oid and that of its owner: another table of its name is another history. None
    without a table.
    """
    owner: str | None
    trusted: bool
    """Whether the table's owner may decide what this role runs. False only for a role that could
    not add to it.
    """
    occupants: tuple[str, ...]
    """Where nothing is recorded: tables that are there all the same, those of other migration tools
    first.
    """
    missing_columns: tuple[str, ...]
    database: str
    version: str
    identity: str
    role: str
    obstacle: str
    """Why this role cannot migrate this database; empty if it can."""
    direct: bool
    """Whether the session is with the server itself, and not with a pooler in front of it."""
    limits: frozenset[str]
    """The optional settings that this server lets a session change."""

    @property
    def fingerprint(self) -> tuple[int, int]:
        """Number of rows and newest id: whether anything was recorded since."""
        return len(self.rows), max((row.id for row in self.rows), default=0)

    @property
    def table(self) -> str:
        """The table's name, qualified and quoted."""
        return qualified(self.schema or "")

    def require_trust(self) -> None:
        """Raise UntrustedHistory if the table's owner must not decide what this role runs."""
        if not self.trusted:
            raise untrusted(self.schema or "", self.owner or "", self.role)


class Plan(NamedTuple):
    """Every file and every row, by number."""

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
        return next(
            (state for state in (State.PENDING, State.AHEAD) if self.in_state(state)), State.CURRENT
        )

    def require_no_conflict(self) -> None:
        """Raise HistoryConflict that names every contradiction with its remedy."""
        if self.conflicts:
            problems = "".join(f"\n  {entry.state}: {entry.problem}" for entry in self.conflicts)
            raise HistoryConflict(
                f"the files and this database's history disagree:{problems}",
                next_step="Nothing was changed. Resolve each of these and run again.",
            )


def make_plan(
    migrations: Sequence[Migration],
    history: Iterable[AppliedMigration],
    *,
    allow_out_of_order: bool = False,
    production: bool = False,
) -> Plan:
    """Compare files with history. `production` leaves resetting the database out of the remedies."""
    files = {migration.number: migration for migration in migrations}
    rows: dict[int, list[AppliedMigration]] = defaultdict(list)
    for row in history:
        number = number_of(row.version)
        rows[_NO_NUMBER if number is None else number].append(row)
    compare = _Comparison(
        newest_file=max(files, default=_NO_NUMBER),
        newest_row=max(rows, default=_NO_NUMBER),
        allow_out_of_order=allow_out_of_order,
        way_out="" if production else "; or reset this database, or take a fresh branch of it",
    )
    numbers = sorted(files.keys() | rows.keys())
    return Plan(
        tuple(
            entry
            for number in numbers
            for entry in compare.entries(files.get(number), rows[number])
        )
    )


_NO_NUMBER = -1


class _Comparison(NamedTuple):
    newest_file: int
    newest_row: int
    allow_out_of_order: bool
    way_out: str

    def entries(
        self, file: Migration | None, rows: list[AppliedMigration]
    ) -> Iterator[MigrationStatus]:
        # Two rows of one number come from a runner that allowed it: the file belongs to the row of
        # its own name.
        rows = sorted(rows, key=lambda row: file is None or not _same_name(file, row))
        if file:
            yield self._of_both(file, rows[0]) if rows else self._of_file(file)
            rows = rows[1:]
        for row in rows:
            yield self._of_row(row, file)

    def _of_file(self, file: Migration) -> MigrationStatus:
        if file.number > self.newest_row or self.allow_out_of_order:
            return MigrationStatus(State.PENDING, file, None)
        problem = (
            f"{file.path}: not applied, but number {self.newest_row} already is; {self._renumber}, "
            "or apply it "
            "all the same with --allow-out-of-order (MIGRATION_ALLOW_OUT_OF_ORDER=1)"
        )
        return MigrationStatus(State.OUT_OF_ORDER, file, None, problem + self.way_out)

    def _of_both(self, file: Migration, row: AppliedMigration) -> MigrationStatus:
        same_sql = row.checksum is not None and file.matches(row.checksum)
        if not _same_name(file, row):
            problem = f"{file.path}: number {file.number} is applied as {row.version}; " + (
                "give the same SQL its name again, or accept the new one with `repair "
                f"{file.version}`"
                if same_sql
                else f"{self._renumber}, and restore {row.version} from version control"
            )
        elif row.checksum is not None and not same_sql:
            problem = (
                f"{file.path}: changed after it was applied (checksum {row.checksum:.12}, now "
                f"{file.checksum:.12}); "
                "restore the file from version control and put the change into a new one, "
                f"or accept it as it is with `repair {file.version}`"
            )
        else:
            return MigrationStatus(State.APPLIED, file, row)
        return MigrationStatus(State.MODIFIED, file, row, problem + self.way_out)

    def _of_row(self, row: AppliedMigration, twin: Migration | None) -> MigrationStatus:
        number = number_of(row.version)
        if number is not None and number > self.newest_file:
            return MigrationStatus(State.AHEAD, None, row)
        if twin:
            problem = f"as {twin.version} is, and files cannot share a number; give its file and its row one of its own"
        elif number is None:
            problem = "but no file can have this name; give its file and its row one that begins with a number"
        else:
            problem = "but its file is gone; restore the file from version control"
        return MigrationStatus(
            State.MISSING, None, row, f"{row.version}: applied, {problem}{self.way_out}"
        )

    @property
    def _renumber(self) -> str:
        return f"rename the file to a number above {max(self.newest_file, self.newest_row)}"


def _same_name(file: Migration, row: AppliedMigration) -> bool:
    """Whether a row of the file's number has its description too: 0007 is 7, as numbers go."""
    return description_of(row.version) == description_of(file.version)


def qualified(schema: str) -> str:
    """The name of the history's table in a schema, as SQL text."""
    return f"{identifier(schema)}.{TABLE}"


def untrusted(schema: str, owner: str, role: str) -> UntrustedHistory:
    """The error for a history whose owner must not decide what this role runs."""
    table = qualified(schema)
    return UntrustedHistory(
        f"{table} belongs to the role {owner}, which the role {role} does not trust: its rows and "
        "its code do not "
        "decide what runs here",
        next_step="Nothing was changed. If it is the history of this database, let its owner or a "
        "superuser run one "
        f"of these; otherwise drop or rename the table:\n  ALTER TABLE {table} OWNER TO "
        f"{identifier(role)};\n"
        f"  GRANT {identifier(owner)} TO {identifier(role)};",
    )
