"""Observes what each statement does: the locks of its own session, file nodes, scans and catalog.

After a statement only relations on which the transaction holds, or held, a lock can have changed:
only those are read again. ROLLBACK TO a savepoint releases locks, hence "or held".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lib.errors import Interrupted, OnwardError
from lib.history import TABLE
from lib.observation import (
    Catalog,
    Column,
    Constraint,
    FileObservation,
    Index,
    Mode,
    OwnedSequence,
    Parsed,
    Policy,
    Query,
    Relation,
    Step,
)
from lib.postgres.connection import A_TABLE, NO_TIMEOUT, Connection, Reply
from lib.postgres.leftovers import is_concurrent
from lib.postgres.objects import read_objects
from lib.postgres.queries import parse_all
from lib.source.lexer import Statement, split
from lib.source.migration import Migration

# On an empty table the planner reads all of it even to find one row by its index. Only around these
# statements: DDL validates foreign keys by queries that are planned, too.
_READS_ROWS = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "WITH"})
_WITHOUT_SEQSCAN = "SET LOCAL enable_seqscan = off"
_WITH_SEQSCAN = "SET LOCAL enable_seqscan TO DEFAULT"
# A transaction that has asked anything has a snapshot, and can set its isolation level no more.
_NEED_NO_SNAPSHOT = frozenset({"BEGIN", "START", "SET", "LOCK"})

_MODES = ", ".join(f"'{mode.name.title().replace('_', '')}Lock'" for mode in sorted(Mode))
# The sequence that a column owns. A limit that is its type's is none.
_SEQUENCE = """
    SELECT json_build_array(quote_ident(n.nspname), quote_ident(c.relname), concat_ws(' ',
        'START WITH ' || o.seqstart, 'INCREMENT BY ' || o.seqincrement, 'CACHE ' || o.seqcache,
        CASE WHEN o.seqmin NOT IN (1, -32768, -2147483648, -9223372036854775808)
            THEN 'MINVALUE ' || o.seqmin END,
        CASE WHEN o.seqmax NOT IN (-1, 32767, 2147483647, 9223372036854775807)
            THEN 'MAXVALUE ' || o.seqmax END,
        CASE WHEN o.seqcycle THEN 'CYCLE' END)) AS sequence
    FROM pg_depend p
    JOIN pg_sequence o ON o.seqrelid = p.objid
    JOIN pg_class c ON c.oid = o.seqrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE p.classid = 'pg_class'::regclass AND p.refclassid = 'pg_class'::regclass
        AND p.refobjid = a.attrelid AND p.refobjsubid = a.attnum AND p.deptype IN ('a', 'i')
    LIMIT 1
"""
# Partitions' constraints and hidden ones of foreign keys follow those of their parents.
_QUERY = f"""
WITH mine AS (
    SELECT relation, json_agg(array_position(ARRAY[{_MODES}], mode)) AS modes
    FROM pg_locks
    WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    GROUP BY relation
), seen AS (
    SELECT c.*, n.nspname, i.inhparent
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN mine m ON m.relation = c.oid
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND c.relispartition
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        AND c.relkind IN ('r', 'p', 'm', 'v', 'f', 'i', 'I', 'S')
        AND c.relname NOT IN ('{TABLE}', '{TABLE}_id_seq', '{TABLE}_pkey', '{TABLE}_version_key')
        AND ({{everything}} OR m.relation IS NOT NULL OR c.oid IN ({{known}}))
)
SELECT json_build_object(
    'lock_timeout', (SELECT setting::int FROM pg_settings WHERE name = 'lock_timeout'),
    'locks', (SELECT json_agg(json_build_array(relation::bigint, modes)) FROM mine),
    'relations', (SELECT json_agg(json_build_array(
        s.oid::bigint, quote_ident(s.nspname), quote_ident(s.relname), s.relkind,
        s.relfilenode::bigint, s.inhparent::bigint, pg_get_expr(s.relpartbound, s.oid),
        CASE WHEN s.relispartition AND s.relkind IN ('r', 'p')
            THEN pg_get_partition_constraintdef(s.oid) END, s.relrowsecurity, s.relforcerowsecurity,
        CASE WHEN s.relkind IN ('r', 'm') THEN pg_stat_get_xact_numscans(s.oid) ELSE 0 END,
        CASE WHEN s.relkind IN ('r', 'm') THEN pg_stat_get_xact_tuples_inserted(s.oid)
            + pg_stat_get_xact_tuples_updated(s.oid)
            + pg_stat_get_xact_tuples_deleted(s.oid) ELSE 0 END)) FROM seen s),
    'columns', (SELECT json_agg(json_build_array(
        a.attrelid::bigint, a.attnum, quote_ident(a.attname),
        format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
        a.attidentity, a.attgenerated,
        CASE WHEN a.attcollation = t.typcollation THEN '' ELSE quote_ident(l.collname) END,
        q.sequence)
        ORDER BY a.attrelid, a.attnum)
        FROM seen s
        JOIN pg_attribute a ON a.attrelid = s.oid AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_collation l ON l.oid = a.attcollation
        LEFT JOIN pg_attrdef d ON d.adrelid = s.oid AND d.adnum = a.attnum
        LEFT JOIN LATERAL ({_SEQUENCE}) q ON a.attidentity <> '' OR d.oid IS NOT NULL
        WHERE s.relkind IN ('r', 'p', 'f', 'v', 'm')),
    'constraints', (SELECT json_agg(json_build_array(
        k.oid::bigint, k.conrelid::bigint, k.confrelid::bigint, quote_ident(k.conname), k.contype,
        k.convalidated, k.conindid::bigint, k.conkey, pg_get_constraintdef(k.oid)))
        FROM seen s JOIN pg_constraint k ON k.conrelid = s.oid
        WHERE k.contype IN ('c', 'f', 'p', 'u', 'x', 'n') AND k.conparentid = 0),
    'indexes', (SELECT json_agg(json_build_array(
        i.indexrelid::bigint, i.indrelid::bigint, quote_ident(c.relname), c.relfilenode::bigint,
        i.indisvalid, i.indisunique, i.indkey::int2[], pg_get_indexdef(i.indexrelid)))
        FROM seen s
        JOIN pg_index i ON i.indrelid = s.oid
        JOIN pg_class c ON c.oid = i.indexrelid),
    'policies', (SELECT json_agg(json_build_array(
        p.oid::bigint, p.polrelid::bigint, quote_ident(p.polname), concat_ws(' ', p.polcmd,
            p.polpermissive, p.polroles, pg_get_expr(p.polqual, p.polrelid),
            pg_get_expr(p.polwithcheck, p.polrelid))))
        FROM seen s JOIN pg_policy p ON p.polrelid = s.oid))
"""  # noqa: S608


class Observer:
    """Runs a file's statements one by one, and keeps what it sees of each file."""

    def __init__(self, queries: Sequence[Query] = (), *, required: bool = True) -> None:
        """The queries are parsed before the first file and after each one.

        Unless it is `required`, a file that cannot be observed runs on without.
        """
        self.failed: Callable[[Migration, OnwardError, bool], None]
        """Raises or tells why a file cannot be observed, and is told whether it is required."""
        self._files: dict[str, FileObservation] = {}
        self._queries = queries
        self._required = required

    @property
    def files(self) -> tuple[FileObservation, ...]:
        """What was seen, file by file; of a file that was tried twice, the last try."""
        return tuple(self._files.values())

    def begin(self, migration: Migration, connection: Connection) -> None:
        """A file is about to run: read everything."""
        with self._observing(migration):
            queries = self._parsed_before(migration, connection)
            objects = read_objects(connection)
            start = read_catalog(connection)
            self._files[migration.version] = FileObservation(
                migration.version, str(migration.path), migration.transactional, start, (), objects,
                objects, queries,
            )  # fmt: skip

    def send(self, migration: Migration, connection: Connection) -> Reply:
        """Send a file in its transaction, as `Connection.send` does, but by statements.

        The reply is the failing statement's, with the position in the file.
        """
        self.begin(migration, connection)
        reply = Reply()
        for statement in split(migration.text()):
            found = _send_alone(connection, statement)
            if found.failed:
                found.finished = reply.finished
                return found
            reply.finished += 1
            self.see(migration, connection, statement)
        self.end(migration, connection)
        return reply

    def see(self, migration: Migration, connection: Connection, statement: Statement) -> None:
        """A statement of the file has run."""
        file = self._files.get(migration.version)
        if not file:
            return
        with self._observing(migration):
            keywords, concurrent = statement.keywords, is_concurrent(statement)
            before, after = file.end, _read_after(connection, file.end, migration, keywords)
            step = Step(statement.line, statement.text, keywords, concurrent, before, after)
            self._files[migration.version] = file._replace(steps=(*file.steps, step))

    def end(self, migration: Migration, connection: Connection) -> None:
        """All statements of the file have run: read what is read only then."""
        file = self._files.get(migration.version)
        if not file:
            return
        with self._observing(migration):
            self._files[migration.version] = file._replace(
                objects_after=read_objects(connection), queries_after=self._parsed(connection)
            )

    @contextmanager
    def _observing(self, migration: Migration) -> Iterator[None]:
        """An error within the block ends the observing of the file, if it is not raised.

        A failed query is rolled back alone, so the file's transaction goes on.
        """
        try:
            yield
        except Interrupted:
            raise
        except OnwardError as error:
            self.failed(migration, error, self._required)
            self._files.pop(migration.version, None)

    def _parsed_before(
        self, migration: Migration, connection: Connection
    ) -> Mapping[Query, Parsed]:
        if tried := self._files.get(migration.version):
            return tried.queries_before
        return self.files[-1].queries_after if self.files else self._parsed(connection)

    def _parsed(self, connection: Connection) -> dict[Query, Parsed]:
        return parse_all(connection, self._queries) if self._queries else {}


def read_catalog(connection: Connection) -> Catalog:
    """All relations of the user's schemas. Reads only."""
    return _read(connection, everything=True, known=())[0]


def read_changed(connection: Connection, before: Catalog) -> Catalog:
    """The catalog before a statement brought up to date after it. Reads only."""
    part, scope = _read(connection, everything=False, known=before.locks)
    return before.with_part(part, scope)


def _read_after(
    connection: Connection, before: Catalog, migration: Migration, keywords: Sequence[str]
) -> Catalog:
    """The catalog after a statement. Outside a transaction, no lock tells what has changed."""
    if not connection.in_transaction:
        return read_catalog(connection)
    if not migration.transactional and _NEED_NO_SNAPSHOT & {*keywords[:1]}:
        return before  # what it locks is seen after the next statement
    return read_changed(connection, before)


def _read(
    connection: Connection, *, everything: bool, known: Iterable[int]
) -> tuple[Catalog, set[int]]:
    """The catalog, and the relations that were asked about; those that are not in it are gone."""
    query = _QUERY.format(
        everything=str(everything).lower(), known=", ".join(map(str, known)) or "0"
    )
    found = json.loads(str(connection.query(query, usual=NO_TIMEOUT, of=A_TABLE)[-1][0]))
    catalog = _catalog(found)
    return catalog, {*known, *catalog.locks}


def _catalog(found: dict[str, Any]) -> Catalog:
    relations = [Relation(*fields) for fields in found["relations"] or ()]
    columns = [_column(fields) for fields in found["columns"] or ()]
    return Catalog(
        {one.oid: one for one in relations},
        {(one.relation, one.number): one for one in columns},
        {one.oid: one for one in map(_constraint, found["constraints"] or ())},
        {one.oid: one for one in map(_index, found["indexes"] or ())},
        {one.oid: one for one in (Policy(*fields) for fields in found["policies"] or ())},
        {oid: frozenset(map(Mode, modes)) for oid, modes in found["locks"] or ()},
        found["lock_timeout"],
    )


def _column(fields: list[Any]) -> Column:
    one = Column(*fields)
    return one._replace(sequence=OwnedSequence(*one.sequence) if one.sequence else None)


def _constraint(fields: list[Any]) -> Constraint:
    one = Constraint(*fields)
    definition = one.definition.removesuffix(" NOT VALID")
    return one._replace(columns=tuple(one.columns or ()), definition=definition)


def _index(fields: list[Any]) -> Index:
    return Index(*fields)._replace(columns=tuple(fields[-2]))


def _send_alone(connection: Connection, statement: Statement) -> Reply:
    """Send one statement; the position of its error is one in the file."""
    reads_rows = statement.keywords[:1] and statement.keywords[0] in _READS_ROWS
    if reads_rows:
        connection.send(_WITHOUT_SEQSCAN)
    reply = connection.send(statement.text, collect=False)
    if reads_rows and not reply.failed:
        connection.send(_WITH_SEQSCAN)
    if reply.error and reply.error.position:
        position = reply.error.position + statement.offset
        reply.error = reply.error._replace(position=position)
    return reply
