"""CREATE INDEX CONCURRENTLY: an invalid index of its name from before, and a valid one after it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from lib.postgres.connection import Connection, Reply, Rows
from lib.quoting import literal
from lib.source.lexer import Statement

_NAME = r'(?:"(?:[^"]|"")*"|[^\s"().]+)'
_CREATE_INDEX = re.compile(
    rf"CREATE (?:UNIQUE )?INDEX CONCURRENTLY (?:IF NOT EXISTS )?(?!ON )(?P<name>{_NAME}) "
    rf"ON (?:ONLY )?(?P<table>{_NAME}(?: \. {_NAME})*)",
    re.IGNORECASE,
)
# The table's name is the file's, so it is looked up on the path that the file has set.
_TABLE = """
SELECT pg_catalog.set_config('onward.table', COALESCE(
    CAST(CAST(pg_catalog.to_regclass({table}) AS pg_catalog.oid) AS pg_catalog.text), '0'), true);
"""
_INDEXES = """
SELECT x.indisvalid, format('%I.%I', n.nspname, i.relname), EXISTS (
    SELECT FROM pg_stat_progress_create_index p
    -- Another role's row shows no index: it may be this one.
    WHERE p.index_relid = i.oid
        OR (p.datname = current_database() AND p.index_relid IS NULL)), i.oid
FROM pg_index x
JOIN pg_class i ON i.oid = x.indexrelid
JOIN pg_namespace n ON n.oid = i.relnamespace
WHERE i.relkind = 'i' AND x.indrelid = current_setting('onward.table')::oid
    AND i.relname = (parse_ident({name}))[1]::name
"""
# In one message, and this index only: if the run is cut off now, the next one may have built a
# valid index of that name before this statement arrives. DROP INDEX CONCURRENTLY could not be
# limited to an oid. It runs on the usual path, for an event trigger of the team's may fire.
_DROP = """
SET LOCAL lock_timeout = '{timeout_ms}ms';
DO $onward$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_index
               WHERE indexrelid OPERATOR(pg_catalog.=) {oid} AND NOT indisvalid) THEN
        DROP INDEX {qualified};
        IF EXISTS (SELECT FROM pg_catalog.pg_index
                   WHERE indexrelid OPERATOR(pg_catalog.=) {oid}) THEN
            RAISE EXCEPTION 'index % has changed since it was looked up', {name};
        END IF;
    END IF;
END $onward$
"""


class IndexName(NamedTuple):
    """The table and name of an index, as a file writes them."""

    table: str
    name: str


class FoundIndex(NamedTuple):
    """An index of that name, as the catalog has it."""

    is_valid: bool
    qualified: str
    is_being_built: bool
    oid: str


def concurrent_index(statement: Statement) -> IndexName | None:
    """The index of a CREATE INDEX CONCURRENTLY that names it."""
    found = _CREATE_INDEX.match(" ".join(statement.first_tokens))
    if found is None:
        return None
    return IndexName(".".join(re.findall(_NAME, found["table"])), found["name"])


def find_indexes(connection: Connection, index: IndexName) -> Reply:
    """Look up the indexes of that name on that table, for `read_indexes`."""
    return connection.read(
        _INDEXES.format(name=literal(index.name)),
        usual=_TABLE.format(table=literal(index.table)),
    )


def read_indexes(rows: Rows) -> list[FoundIndex]:
    """What `find_indexes` has found. Its first row is that of the table's look-up."""
    return [
        FoundIndex(is_valid == "t", str(qualified), is_being_built == "t", str(oid))
        for is_valid, qualified, is_being_built, oid in rows[1:]
    ]


def drop_invalid(connection: Connection, found: FoundIndex, *, lock_timeout: float) -> Reply:
    """Drop an index unless it has become valid; wait for its lock for so many seconds at most."""
    return connection.send(
        _DROP.format(
            timeout_ms=round(lock_timeout * 1000),
            oid=found.oid,
            qualified=found.qualified,
            name=literal(found.qualified),
        )
    )


def validity_problem(index: IndexName, indexes: Sequence[FoundIndex]) -> str:
    """Why the index cannot be used, empty if it can: IF NOT EXISTS accepts anything of its name."""
    if any(found.is_valid for found in indexes):
        return ""
    if not indexes:
        return f"there is no index {index.name} on {index.table}: another object has that name"
    building = indexes[0].is_being_built
    reason = "another session is building it" if building else "its build was interrupted"
    return f"index {index.name} exists, but it is not valid: {reason}"
