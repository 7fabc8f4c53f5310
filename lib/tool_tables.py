"""How other migration tools keep their histories: which table, and what its rows mean. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

APPLIED, FAILED, UNDONE, UP_TO, BASELINE = "applied", "failed", "undone", "up to", "baseline"


class ToolTable(NamedTuple):
    """The history of one tool."""

    title: str
    name: str
    """By default: on the search path, or with its schema."""
    columns: tuple[str, ...]
    """Those that its table must have to be this tool's."""
    rows: str
    """The select list of a row: its key, its state (one of the above), when it was applied (seconds
    since 1970), how long that took (milliseconds), its checksum.

    The table is `t`. Every name is looked up in pg_catalog. UP_TO stands for all files up to the
    key's, and so does BASELINE, which need not have a file; the keys are numbers, or numbers with
    dots. Of several rows with one key, the last one counts.
    """
    order: str
    failed: str
    """What to do about a row of the state FAILED, in the tool."""


_UNKNOWN = "CAST(NULL AS float8)"

TABLES = {
    "prisma": ToolTable(
        "Prisma Migrate",
        "_prisma_migrations",
        ("migration_name", "checksum", "finished_at", "rolled_back_at", "started_at"),
        # Old versions wrote checksums without leading zeros. A name may have several rows: of a try
        # that failed and was rolled back, and of the one that was then applied.
        """t.migration_name, CASE WHEN t.rolled_back_at IS NOT NULL THEN 'undone'
            WHEN t.finished_at IS NULL THEN 'failed' ELSE 'applied' END,
        extract(epoch FROM t.finished_at),
        extract(epoch FROM t.finished_at - t.started_at) * 1000, lpad(t.checksum, 64, '0')""",
        "t.rolled_back_at NULLS LAST, t.started_at, t.finished_at",
        "finish or undo it by hand, then tell Prisma:\n"
        "  npx prisma migrate resolve --applied NAME\n"
        "  npx prisma migrate resolve --rolled-back NAME",
    ),
    "drizzle": ToolTable(
        "Drizzle",
        "drizzle.__drizzle_migrations",
        ("hash", "created_at"),
        # Since 1.0 it has names. Before, `created_at` is the journal's time, at which the file was
        # generated; when it was applied is unknown.
        f"""coalesce(to_jsonb(t) ->> 'name', CAST(t.created_at AS text)), 'applied',
        extract(epoch FROM CAST(to_jsonb(t) ->> 'applied_at' AS timestamptz)), {_UNKNOWN},
        t.hash""",
        "t.id",
        "",
    ),
    "node-pg-migrate": ToolTable(
        "node-pg-migrate",
        "pgmigrations",
        ("name", "run_on"),
        f"t.name, 'applied', extract(epoch FROM CAST(t.run_on AS timestamptz)), {_UNKNOWN}, NULL",
        "t.run_on, t.id",
        "",
    ),
    "dbmate": ToolTable(
        "dbmate",
        "schema_migrations",
        ("version",),
        f"t.version, 'applied', {_UNKNOWN}, {_UNKNOWN}, NULL",
        "t.version",
        "",
    ),
    "goose": ToolTable(
        "goose",
        "goose_db_version",
        ("id", "version_id", "is_applied", "tstamp"),
        # The row 0 is no file's: goose writes it when it creates the table. What runs without a
        # transaction leaves no row either when it fails.
        f"""t.version_id, CASE WHEN t.is_applied AND t.version_id > 0 THEN 'applied'
            ELSE 'undone' END,
        extract(epoch FROM CAST(t.tstamp AS timestamptz)), {_UNKNOWN}, NULL""",
        "t.id",
        "",
    ),
    "golang-migrate": ToolTable(
        "golang-migrate",
        "schema_migrations",
        ("version", "dirty"),
        f"""t.version, CASE WHEN t.dirty THEN 'failed' ELSE 'up to' END,
        {_UNKNOWN}, {_UNKNOWN}, NULL""",
        "t.version",
        "finish or undo it by hand, then say which version the database has now: NAME if it is\n"
        "finished, else the one before it:\n"
        "  migrate -database URL -path DIRECTORY force NAME",
    ),
    "sqlx": ToolTable(
        "sqlx",
        "_sqlx_migrations",
        ("version", "installed_on", "success", "checksum", "execution_time"),
        # Nanoseconds; -1 until a migration's end is recorded.
        """t.version, CASE WHEN t.success THEN 'applied' ELSE 'failed' END,
        extract(epoch FROM t.installed_on), nullif(t.execution_time, -1) / 1e6,
        encode(t.checksum, 'hex')""",
        "t.version",
        "finish or undo it by hand, then correct its row:\n"
        "  UPDATE _sqlx_migrations SET success = true WHERE version = NAME;  -- if finished\n"
        "  DELETE FROM _sqlx_migrations WHERE version = NAME;  -- if undone",
    ),
    "flyway": ToolTable(
        "Flyway",
        "flyway_schema_history",
        (
            "installed_rank",
            "version",
            "description",
            "type",
            "checksum",
            "installed_on",
            "execution_time",
            "success",
        ),
        # Version 1.0 is version 1, and 01 is, too.
        """coalesce(regexp_replace(regexp_replace(t.version, '(?<![0-9])0+(?=[0-9])', '', 'g'),
            '([.]0+)+$', ''), 'R__' || replace(t.description, ' ', '_')),
        CASE WHEN NOT t.success THEN 'failed' WHEN t.type LIKE '%BASELINE%' THEN 'baseline'
            WHEN t.type IN ('SCHEMA', 'DELETE') OR t.type LIKE 'UNDO%' THEN 'undone'
            ELSE 'applied' END,
        extract(epoch FROM CAST(t.installed_on AS timestamptz)), CAST(t.execution_time AS float8),
        CAST(t.checksum AS text)""",
        "t.installed_rank",
        "undo by hand what it has done, then take its row out:\n  flyway repair",
    ),
    "supabase": ToolTable(
        "the Supabase CLI",
        "supabase_migrations.schema_migrations",
        ("version",),
        f"t.version, 'applied', {_UNKNOWN}, {_UNKNOWN}, NULL",
        "t.version",
        "",
    ),
}


def _names() -> Iterator[tuple[str, str]]:
    for tool, table in TABLES.items():
        name = table.name.rpartition(".")[2]
        if name != "schema_migrations":
            yield name, tool
        elif name != table.name:
            yield table.name, tool


HISTORY_TABLES = dict(_names())
"""The tables that show which tool has a history in a database, wherever they are.

A bare `schema_migrations` may be any tool's.
"""
