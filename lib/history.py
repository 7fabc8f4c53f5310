"""What a history is: the table, its rows, and what is known of the database with it. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from lib.activity import Activity
from lib.errors import UntrustedHistory
from lib.quoting import identifier

TABLE = "schema_migrations"
AUDIT_COLUMNS = ("environment", "identity", "git_commit", "applied_by")
SCHEMA_COLUMNS = ("schema_state", "drift")
TENANT_MARK = "Onward: the history of this schema alone"
"""The comment on a tenant's table. No run counts it for the rest of the database."""


class AppliedMigration(NamedTuple):
    """A row of the history. Times are UTC; an older runner left the audit columns empty (None)."""

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
    drift: str | None = None
    """In the row with the document of the expected schema: what is known of drift."""


class ToolRow(NamedTuple):
    """A row of another migration tool's history."""

    key: str
    state: str
    at: datetime | None
    milliseconds: int | None
    checksum: str | None


class FoundTable(NamedTuple):
    """Another tool's history as it was read."""

    schema: str
    name: str
    table_id: tuple[int, int]
    """The oids of the table and of its owner."""
    rows: tuple[ToolRow, ...] = ()

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        """Its name, qualified and quoted."""
        return f"{identifier(self.schema)}.{identifier(self.name)}"


class Takeover(NamedTuple):
    """What another tool has applied, and the next run is to record."""

    tool: str
    """As in TABLES of lib/tool_tables.py."""
    title: str
    found: FoundTable
    rows: tuple[AppliedMigration, ...]
    """The rows to record, in the order of the files."""
    edited: tuple[str, ...]
    """Versions whose files are not what the tool has recorded."""
    skipped: tuple[str, ...]
    """Files that the tool has applied, and that were not imported."""


class History(NamedTuple):
    """The recorded migrations of a database, and facts about the database and this role."""

    rows: tuple[AppliedMigration, ...]
    schema: str | None
    """Where the table is, or where it will be created; None if it cannot be created anywhere."""
    table_id: tuple[int, int] | None
    """The oids of the table and of its owner; None without a table.

    Another table of the same name is another history.
    """
    owner: str | None
    trusted: bool
    """Whether the table's owner may decide what this role runs.

    False only for a role that could not add to the table.
    """
    occupants: tuple[str, ...]
    """Existing tables of a database without history, those of other migration tools first."""
    missing_columns: tuple[str, ...]
    database: str
    version: str
    identity: str
    role: str
    obstacle: str
    """Why this role cannot migrate this database; empty if it can."""
    direct: bool
    """Whether the connection is to the server itself, and not to a pooler."""
    limits: frozenset[str]
    """The optional settings that this server lets a session change."""
    creates_schema: bool = False
    """Whether the schema is to be created with the table: MIGRATION_SCHEMA names it."""
    keeps_schema: bool = True
    """Whether the table has SCHEMA_COLUMNS, which no run adds before its files."""
    activity: Activity | None = None
    """What is going on in the database; None if that was not asked for."""
    takeover: Takeover | None = None
    """What another tool has applied, and is not recorded yet."""
    tenant: str | None = None
    """The schema that it is of alone: another's runs may be under way beside this one's."""
    off_path: str = ""
    """The search path, if the table was found in none of its schemas, of which the first exists."""

    @property
    def known(self) -> tuple[AppliedMigration, ...]:
        """What is applied: the recorded migrations, and those that are to be taken over."""
        return (*self.rows, *(self.takeover.rows if self.takeover else ()))

    def with_takeover(self, takeover: Takeover | None, found: FoundTable) -> History:
        """The same, with what is to be taken over from another tool's table.

        The table of a tool that has applied nothing says nothing of the database.
        """
        theirs = str(found)
        others = tuple(one for one in self.occupants if takeover or one.replace('"', "") != theirs)
        return self._replace(takeover=takeover, occupants=others)

    @property
    def fingerprint(self) -> tuple[int, int]:
        """Number of rows and newest id: another fingerprint means that rows were added."""
        return len(self.rows), max((row.id for row in self.rows), default=0)

    @property
    def table(self) -> str:
        """The table's name, qualified and quoted."""
        return qualified(self.schema or "")


def qualified(schema: str) -> str:
    """The name of the history's table in a schema, as SQL text."""
    return f"{identifier(schema)}.{TABLE}"


def off_path_warning(history: History) -> str:
    """What to say of a history that is not where the files run; mostly empty."""
    if not history.off_path:
        return ""
    return (
        f"this history is {history.table}, which is not on the search path ({history.off_path}): "
        "if it is not of this schema, set MIGRATION_SCHEMA"
    )


def untrusted(table: str, owner: str, role: str) -> UntrustedHistory:
    """The error for a history whose owner must not decide what this role runs; `table` is its
    qualified name.
    """
    return UntrustedHistory(
        f"{table} belongs to the role {owner}, which the role {role} does not trust\n"
        "  Its rows and its code do not decide what runs here.",
        changed_nothing=True,
        next_step="If it is this database's history, ask its owner or a "
        "superuser to run one of:\n"
        f"  ALTER TABLE {table} OWNER TO {identifier(role)};\n"
        f"  GRANT {identifier(owner)} TO {identifier(role)};\n"
        "If it is not, drop or rename the table.",
    )
