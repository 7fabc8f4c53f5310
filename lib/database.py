"""Every line of SQL that is ours: read the history, take the lock, apply one migration, record it.

A transaction of ours takes two round trips: the file travels alone, and what ends one transaction travels with what
opens the next. A file never shares a message with a COMMIT: the server parses a message whole, so a syntax error in
one part would undo the other.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from lib import VERSION
from lib.config import Config, Target, unpooled
from lib.errors import (
    DatabaseUnsuitable,
    Failure,
    FilesError,
    HistoryConflict,
    Interrupted,
    LockBusy,
    MigrationFailed,
    OnwardError,
    OutcomeUnknown,
    PartlyApplied,
    ServerError,
)
from lib.failure import locate
from lib.migration import Migration
from lib.plan import Applied
from lib.session import Answer, Session, connect, identifier, literal
from lib.sql import Statement, split

TABLE = "schema_migrations"
_LOCK_KEY = 0x6F6E77617264  # "onward": one run at a time in a database, whatever its schemas
_POLL = (0.05, 0.25)
_AUDIT_COLUMNS = ("environment", "identity", "git_commit", "applied_by")
_COLUMNS = """
    id SERIAL PRIMARY KEY,
    version VARCHAR(255) UNIQUE NOT NULL,
    name VARCHAR(255) NOT NULL,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    execution_time_ms INTEGER,
    checksum VARCHAR(64),
    environment TEXT,
    identity TEXT,
    git_commit TEXT,
    applied_by TEXT
"""

# One message, one round trip, whether the table exists or not and wherever it is: the block looks for it and opens a
# cursor on one JSON document. `applied_at` of an older runner is a time of day in the server's own zone.
_READ = """
BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ ONLY;
SET LOCAL search_path TO DEFAULT;
SET LOCAL TimeZone TO DEFAULT;
{limits}
DO $onward$
DECLARE
    wanted CONSTANT text := {schema};
    path CONSTANT name[] := current_schemas(false);
    home CONSTANT text := coalesce(wanted, path[1]::text);
    tables jsonb;
    ours jsonb;
    chosen text;
    history jsonb;
    system text;
    document refcursor := 'onward_document';
BEGIN
    SELECT jsonb_agg(to_jsonb(candidate) ORDER BY candidate.place NULLS LAST) INTO tables FROM (
        SELECT n.nspname AS schema, array_position(path, n.nspname) AS place, array_agg(a.attname) AS columns,
               c.relkind IN ('r', 'p') AND count(*) FILTER (WHERE (a.attname, t.typcategory) IN (
                   ('id', 'N'), ('version', 'S'), ('name', 'S'),
                   ('applied_at', 'D'), ('execution_time_ms', 'N'), ('checksum', 'S'))) = 6 AS ours,
               has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AS writable
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_type t ON t.oid = a.atttypid
        WHERE c.relname = '{table}' AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_'
        GROUP BY n.nspname, c.oid, c.relkind
    ) candidate WHERE wanted IS NULL OR candidate.schema = wanted;
    SELECT jsonb_agg(one) INTO ours FROM jsonb_array_elements(tables) one WHERE (one ->> 'ours')::boolean;
    IF jsonb_array_length(ours) = 1 OR ours -> 0 ->> 'place' IS NOT NULL THEN
        chosen := ours -> 0 ->> 'schema';
        EXECUTE format('SELECT jsonb_agg(to_jsonb(h) || jsonb_build_object(''applied_at'','
            ' extract(epoch FROM h.applied_at::timestamptz)) ORDER BY h.id) FROM %I.{table} h', chosen) INTO history;
    END IF;
    IF has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') THEN
        EXECUTE 'SELECT system_identifier FROM pg_catalog.pg_control_system()' INTO system;
    END IF;
    OPEN document FOR SELECT jsonb_build_object(
        'database', current_database(), 'version', current_setting('server_version'), 'role', current_user,
        'pid', pg_backend_pid(), 'system', system, 'standby', pg_is_in_recovery(),
        'read_only', current_setting('default_transaction_read_only')::boolean,
        'limits', (SELECT jsonb_agg(name) FROM pg_settings WHERE context = 'user' AND max_val <> '0' AND name IN (
            'client_connection_check_interval', 'idle_in_transaction_session_timeout', 'transaction_timeout')),
        'home', home, 'home_exists', to_regnamespace(quote_ident(home)) IS NOT NULL,
        'may_create', coalesce(has_schema_privilege(to_regnamespace(quote_ident(home)), 'CREATE'), false),
        'tables', coalesce(tables, '[]'), 'chosen', chosen, 'history', coalesce(history, '[]'));
END $onward$;
FETCH ALL FROM onward_document;
COMMIT
"""

_CREATE = """
CREATE TABLE IF NOT EXISTS {table} ({columns});
DO $onward$
DECLARE
    relation record;
    grantee text;
BEGIN
    -- Some hosts hand every new table to their public roles by default; such a role could delete the history.
    FOR relation IN SELECT oid, oid::regclass AS name, relkind, relowner, relacl FROM pg_class
        WHERE oid IN ({regclass}::regclass, pg_get_serial_sequence({regclass}, 'id')::regclass)
    LOOP
        FOR grantee IN SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END
            FROM aclexplode(relation.relacl) acl WHERE acl.grantee <> relation.relowner
        LOOP
            EXECUTE format('REVOKE ALL ON %s %s FROM %s',
                CASE relation.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, relation.name, grantee);
        END LOOP;
    END LOOP;
END $onward$
"""

_OPEN = """
BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED;
RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; DISCARD TEMP;
{limits}
SELECT CASE WHEN pg_try_advisory_xact_lock({key}) THEN {proof} END;
"""

# What a file may have left in the session. Only what was prepared by SQL is deallocated: a pooler keeps its other
# clients' prepared statements on the same connection.
_CLEAN = """
RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES;
DO $onward$
DECLARE
    prepared text;
BEGIN
    IF pg_current_xact_id_if_assigned()::text IS DISTINCT FROM {xid} THEN
        RAISE EXCEPTION USING ERRCODE = '2D000', MESSAGE = 'the file ended the transaction that it ran in';
    END IF;
    PERFORM pg_advisory_unlock_all();
    FOR prepared IN SELECT name FROM pg_prepared_statements WHERE from_sql LOOP
        EXECUTE format('DEALLOCATE %I', prepared);
    END LOOP;
END $onward$;
"""

_INSERT = """
INSERT INTO {table}
    (version, name, applied_at, execution_time_ms, checksum, environment, identity, git_commit, applied_by)
VALUES {values} RETURNING id;
"""

_INDEX = """
SELECT x.indisvalid, format('%I.%I', n.nspname, i.relname), EXISTS (
    SELECT FROM pg_stat_progress_create_index p
    -- Another role's row shows no index: it may be this one.
    WHERE p.index_relid = i.oid OR (p.datname = current_database() AND p.index_relid IS NULL))
FROM pg_index x
JOIN pg_class i ON i.oid = x.indexrelid
JOIN pg_namespace n ON n.oid = i.relnamespace
WHERE x.indrelid = to_regclass({table}) AND i.relname = (parse_ident({name}))[1]::name
"""


class HistoryChanged(Exception):
    """Under the lock the history is not what the plan was made from: plan again."""


@dataclass(frozen=True, slots=True)
class History:
    """What a database says of itself and of what was applied to it."""

    rows: tuple[Applied, ...]
    schema: str | None
    """Where the table is, or where it will be made; None where there is no place for it."""
    exists: bool
    missing_columns: tuple[str, ...]
    database: str
    version: str
    identity: str
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


class Database:
    """The database that a Config names, in one session. Use it as a context manager."""

    def __init__(self, config: Config, *, target: Target | None = None) -> None:
        self._config = config
        self._target = target or config.target
        self._session = self._connect()
        self._history: History | None = None
        self._fingerprint = (0, 0)
        self._opened: Answer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    def read(self) -> History:
        """The history and what goes with it, by one query. Reads only: creates nothing, locks nothing.

        Raises HistoryConflict for a table that is not ours, or several that are.
        """
        rows = self._session.query(
            _READ.format(table=TABLE, schema=literal(self._config.schema), limits=self._limits(optional=False))
        )
        facts = json.loads(rows[0][0] or "{}")
        _require_one_table(facts)
        self._history = _history(facts, self._target, self._session.pid)
        self._fingerprint = self._history.fingerprint
        return self._history

    def prepare(self) -> None:
        """Make what a run needs: the table, its audit columns. Raises DatabaseUnsuitable if this role cannot."""
        history = self._known()
        if history.obstacle:
            raise DatabaseUnsuitable(history.obstacle, next_step="Nothing was changed.")
        if not history.exists:
            self._change(
                _CREATE.format(table=self._table, columns=_COLUMNS, regclass=literal(self._table)), compare=False
            )
        elif history.missing_columns:
            added = ", ".join(f"ADD COLUMN IF NOT EXISTS {column} TEXT" for column in history.missing_columns)
            self._change(f"ALTER TABLE {self._table} {added}")

    def apply(self, migration: Migration, *, then_open: bool, notice: Callable[[str], None]) -> int:
        """Apply one file and record it; return its milliseconds once COMMIT has answered.

        `then_open` sends the next transaction's opening along. Raises HistoryChanged, LockBusy, MigrationFailed
        (rolled back), PartlyApplied (no-transaction), OutcomeUnknown.
        """
        if not migration.transactional:
            return self._apply_piecewise(migration, then_open, notice)
        proof = self._open()
        started = time.perf_counter()
        answer = self._session.send(migration.sql, keep=False)
        milliseconds = _since(started)
        _tell(self._session, notice)
        if answer.error or answer.lost:
            self._rollback()
            raise self._failed(migration, answer)
        self._record(migration, milliseconds, proof, then_open=then_open)
        return milliseconds

    def baseline(self, migrations: Sequence[Migration]) -> None:
        """Record files as applied without running them, in one transaction."""
        self._change(self._insert([self._row(migration, None) for migration in migrations]))

    def repair(self, row: Applied, migration: Migration) -> None:
        """Make a file's name and checksum those of its row."""
        self._change(
            f"UPDATE {self._table} SET version = {literal(migration.version)}, name = {literal(migration.name)}, "
            f"checksum = {literal(migration.checksum)} WHERE id = {row.id}"
        )

    # The transaction: every change of ours goes through _open.

    def _open(self, *, holding: bool = False, compare: bool = True) -> str:
        """Begin a transaction that holds the run's lock, and return the proof of it.

        The proof is the transaction's id, or for `holding`, a transaction that will stand idle, a mere word: one with
        an id would hold back vacuum. Raises LockBusy, or HistoryChanged with nothing left open.
        """
        opening = self._opening(holding=holding, compare=compare)
        answer = self._opened or self._session.send(opening)
        self._opened = None
        deadline = time.monotonic() + self._config.wait
        while not (proof := self._proof(answer)):
            if time.monotonic() > deadline:
                self._rollback()
                raise LockBusy(f"another run holds the lock on {self._target}", next_step="Run again when it is done.")
            time.sleep(random.uniform(*_POLL))  # noqa: S311 - jitter, not a secret
            answer = self._session.send("ROLLBACK;" + opening)
        if compare and tuple(map(int, answer.rows[1])) != self._fingerprint:  # type: ignore[arg-type]
            self._rollback()
            raise HistoryChanged
        return proof

    def _opening(self, *, holding: bool = False, compare: bool = True) -> str:
        proof = "'held'" if holding else "pg_current_xact_id()::text"
        opening = _OPEN.format(limits=self._limits(holding=holding), key=_LOCK_KEY, proof=proof)
        # In a statement of its own, so that its snapshot is younger than the lock.
        return opening + (f"SELECT count(*), coalesce(max(id), 0) FROM {self._table};" if compare else "")

    def _proof(self, answer: Answer) -> str | None:
        if answer.error or answer.lost:
            self._rollback()
            if answer.error and answer.error.sqlstate == "42P01":
                raise HistoryChanged
            raise self._session.complaint(answer)
        return answer.rows[0][0]

    def _change(self, sql: str, *, compare: bool = True) -> None:
        self._open(compare=compare)
        self._commit(f"{sql}; COMMIT", self._session.complaint)

    def _commit(self, sql: str, complaint: Callable[[Answer], OnwardError]) -> Answer:
        """Send text with a COMMIT in it. Raises OutcomeUnknown if the answer to that COMMIT is not to be had."""
        unknown = OutcomeUnknown(
            "the connection was lost while the transaction was being committed: it may or may not be applied",
            next_step="Look with `status`; if it is still pending, run again.",
        )
        try:
            answer = self._session.send(sql)
        except Interrupted:
            raise unknown from None
        if "COMMIT" in answer.tags:
            return answer
        if answer.lost:
            raise unknown
        self._rollback()
        raise complaint(answer)

    def _rollback(self) -> None:
        if self._session.in_transaction:
            self._session.send("ROLLBACK")

    # One migration.

    def _record(self, migration: Migration, milliseconds: int, proof: str | None, *, then_open: bool) -> None:
        """Clean the session, write the row, COMMIT; and open the next transaction in the same message."""
        clean = _CLEAN.format(xid=literal(proof))
        row = self._insert([self._row(migration, milliseconds)])
        following = self._opening() if then_open else ""
        answer = self._commit(
            f"{clean}{self._limits()}{row}COMMIT;{following}", lambda answer: self._not_recorded(migration, answer)
        )
        count, newest = self._fingerprint
        self._fingerprint = count + 1, max(newest, int(answer.rows[0][0] or 0))
        if then_open:
            self._opened = Answer(answer.rows[1:], error=answer.error, lost=answer.lost)

    def _apply_piecewise(self, migration: Migration, then_open: bool, notice: Callable[[str], None]) -> int:
        """A no-transaction file: its statements one at a time in another session, while this one holds the lock."""
        self._refuse_settings(migration)
        self._open(holding=True)
        started = time.perf_counter()
        with self._connect() as work:
            if self._known().direct:
                work.query(self._limits().replace("SET LOCAL", "SET"))
            pieces = Piecewise(migration, work, self._still_locked)
            try:
                pieces.run()
            finally:
                _tell(work, notice)
        milliseconds = _since(started)
        self._still_locked()
        self._record(migration, milliseconds, None, then_open=then_open)
        return milliseconds

    def _still_locked(self) -> bool:
        """Whether the transaction that holds the lock lives. Literal SQL: it must not keep a snapshot."""
        answer = self._session.send("SELECT 1")
        return not (answer.error or answer.lost)

    def _refuse_settings(self, migration: Migration) -> None:
        """Through a pooler, a SET outside a transaction would reach other clients."""
        if self._known().direct:
            return
        for statement in split(migration.text()):
            if statement.keywords[:1] == ("SET",):
                raise FilesError(
                    f"{migration.path}:{statement.line}: SET would reach other clients of the pooler",
                    next_step="Take it out, or set MIGRATION_DATABASE_URL to the direct URL. Nothing of this file ran.",
                )

    def _failed(self, migration: Migration, answer: Answer) -> OnwardError:
        error = _lost_or(answer)
        if error.sqlstate in ("55P03", "40P01"):
            return LockBusy(
                f"{migration.version}: {error.message} (SQLSTATE {error.sqlstate}); rolled back, nothing of it is kept",
                next_step="Run again when the tables that it changes are less busy, or raise MIGRATION_LOCK_TIMEOUT.",
            )
        failure = locate(migration, error, finished=answer.finished)
        return MigrationFailed(failure, state=_ROLLED_BACK, next_step=_next_step(error))

    def _not_recorded(self, migration: Migration, answer: Answer) -> OnwardError:
        """The file ran; what came after it failed: the end of its transaction, its row, or what COMMIT checks."""
        error = _lost_or(answer)
        if any(tag.startswith("INSERT") for tag in answer.tags):
            where, next_step = "at COMMIT, where deferred constraints are checked", _next_step(error)
        else:
            where = f"after the file, when its row was written to {TABLE}"
            next_step = f"A migration must leave {TABLE} and its own transaction alone: mend the file and run again."
        failure = Failure(migration.version, str(migration.path), error, statement=where)
        return MigrationFailed(failure, state=_ROLLED_BACK, next_step=next_step)

    def _insert(self, rows: Sequence[str]) -> str:
        return _INSERT.format(table=self._table, values=", ".join(rows))

    def _row(self, migration: Migration, milliseconds: int | None) -> str:
        config, identity = self._config, self._known().identity
        before = (literal(migration.version), literal(migration.name), "clock_timestamp()", literal(milliseconds))
        audit = (migration.checksum, config.environment, identity, config.git_commit, config.applied_by)
        return f"({', '.join((*before, *map(literal, audit)))})"

    def _limits(self, *, holding: bool = False, optional: bool = True) -> str:
        """Settings that die with the transaction: through a pooler, others would reach the next client."""
        config = self._config
        wanted = {
            "client_connection_check_interval": 2.0,
            "idle_in_transaction_session_timeout": 0 if holding else 60.0,
            **({"transaction_timeout": 0} if holding else {}),
        }
        known = self._known().limits if optional else frozenset()
        limits = {"lock_timeout": config.lock_timeout, "statement_timeout": config.statement_timeout}
        limits |= {name: seconds for name, seconds in wanted.items() if name in known}
        return " ".join(f"SET LOCAL {name} = '{round(seconds * 1000)}ms';" for name, seconds in limits.items())

    def _connect(self) -> Session:
        return connect(self._target, f"onward {VERSION} {self._config.environment}")

    def _known(self) -> History:
        return self._history or self.read()

    @property
    def _table(self) -> str:
        return f"{identifier(self._known().schema or '')}.{TABLE}"


class Piecewise:
    """The statements of a no-transaction file, run one at a time; knows which are done."""

    def __init__(self, migration: Migration, work: Session, still_locked: Callable[[], bool]) -> None:
        self._migration = migration
        self._work = work
        self._still_locked = still_locked
        self._done = 0

    def run(self) -> None:
        """Run them all. Raises PartlyApplied at the first that fails; the statements before it stay done."""
        for statement in split(self._migration.text()):
            if not self._still_locked():
                raise self._stopped(ServerError(None, "the session that holds the run's lock is gone"), statement)
            index = _concurrent_index(statement)
            if index:
                self._drop_invalid(*index)
            answer = self._work.send(statement.text, keep=False)
            if answer.error or answer.lost:
                raise self._stopped(_lost_or(answer), statement)
            if index and not self._index_is_valid(*index):
                raise self._stopped(ServerError(None, f"index {index[1]} is there, but it is not valid"), statement)
            self._done += 1
        if self._work.in_transaction:
            self._work.send("ROLLBACK")
            raise self._stopped(ServerError("25001", "the file leaves a transaction open; it was rolled back"), None)

    def _drop_invalid(self, table: str, name: str) -> None:
        """An index that a broken build left behind is in the way, and IF NOT EXISTS would pass it off as built."""
        for valid, qualified, building in self._work.query(_INDEX.format(table=literal(table), name=literal(name))):
            if valid == "f" and building == "f":
                self._work.query(f"DROP INDEX CONCURRENTLY {qualified}")
                self._work.notices.append(f"dropped the invalid index {qualified}, which is built again")

    def _index_is_valid(self, table: str, name: str) -> bool:
        rows = self._work.query(_INDEX.format(table=literal(table), name=literal(name)))
        return any(valid == "t" for valid, _, _ in rows)

    def _stopped(self, error: ServerError, statement: Statement | None) -> PartlyApplied:
        done = f"statements 1 to {self._done} are done and stay" if self._done else "no statement is done"
        base = statement.offset if statement else 0
        failure = locate(self._migration, error, finished=self._done, base=base)
        return PartlyApplied(
            failure,
            state=f"{done}; the file is not recorded",
            next_step="Mend the file and run again. It starts at its first statement: all of them must be repeatable.",
        )


_ROLLED_BACK = "rolled back: nothing of this file is kept or recorded"


def _history(facts: dict[str, Any], target: Target, pid: int) -> History:
    chosen = next((table for table in facts["tables"] if table["schema"] == facts["chosen"]), None)
    columns = chosen["columns"] if chosen else _AUDIT_COLUMNS
    return History(
        rows=tuple(_applied(row) for row in facts["history"]),
        schema=facts["chosen"] or facts["home"],
        exists=chosen is not None,
        missing_columns=tuple(column for column in _AUDIT_COLUMNS if column not in columns),
        database=facts["database"],
        version=facts["version"],
        identity=_identity(facts, target),
        obstacle=_obstacle(facts, chosen),
        direct=facts["pid"] == pid,
        limits=frozenset(facts["limits"] or ()),
    )


def _applied(row: dict[str, Any]) -> Applied:
    values: dict[str, Any] = {name: row.get(name) for name in Applied.__dataclass_fields__}
    if row["applied_at"] is not None:
        values["applied_at"] = datetime.fromtimestamp(row["applied_at"], UTC)
    return Applied(**values)


def _identity(facts: dict[str, Any], target: Target) -> str:
    """What tells this database from a copy of it: the cluster, its name, and on Neon the branch's endpoint."""
    host = unpooled(target.host)
    parts = [facts["system"] or host, facts["database"]]
    if host.startswith("ep-"):
        parts.append(host.partition(".")[0])
    return "/".join(parts)


def _require_one_table(facts: dict[str, Any]) -> None:
    if facts["chosen"]:
        return
    ours = [table["schema"] for table in facts["tables"] if table["ours"]]
    if ours:
        raise HistoryConflict(
            f"there are several histories: {TABLE} in the schemas {', '.join(sorted(ours))}, none on the search path",
            next_step="Set MIGRATION_SCHEMA to the one that counts.",
        )
    foreign = [t["schema"] for t in facts["tables"] if t["place"] is not None or t["schema"] == facts["home"]]
    if foreign:
        raise HistoryConflict(
            f"{foreign[0]}.{TABLE} is not a history of ours: its columns are others. It was not touched",
            next_step="Set MIGRATION_SCHEMA to a schema where the history may be kept, or rename that table.",
        )


def _obstacle(facts: dict[str, Any], chosen: dict[str, Any] | None) -> str:
    if facts["standby"]:
        return "this server is a standby: it can only be read"
    if facts["read_only"]:
        return "sessions of this role are read-only (default_transaction_read_only is on)"
    if chosen:
        return "" if chosen["writable"] else f"the role {facts['role']} may not insert into {chosen['schema']}.{TABLE}"
    if not facts["home_exists"]:
        where = (
            f"there is no schema {facts['home']}" if facts["home"] else "the search path names no schema that exists"
        )
        return f"{where}: {TABLE} has no place to be created in"
    if not facts["may_create"]:
        role, home = facts["role"], facts["home"]
        grant = f"GRANT USAGE, CREATE ON SCHEMA {identifier(home)} TO {identifier(role)}"
        return f"the role {role} may not create tables in the schema {home}; its owner can say: {grant}"
    return ""


def _concurrent_index(statement: Statement) -> tuple[str, str] | None:
    """The table and name of a CREATE INDEX CONCURRENTLY that names its index, as written."""
    head = " ".join(statement.head)
    found = _CREATE_INDEX.match(head)
    return (found["table"].replace(" ", ""), found["name"]) if found else None


_NAME = r'(?:"(?:[^"]|"")*"|[^\s"().]+)'
_CREATE_INDEX = re.compile(
    rf"CREATE (?:UNIQUE )?INDEX CONCURRENTLY (?:IF NOT EXISTS )?(?!ON )(?P<name>{_NAME}) "
    rf"ON (?:ONLY )?(?P<table>{_NAME}(?: \. {_NAME})*)",
    re.IGNORECASE,
)


def _lost_or(answer: Answer) -> ServerError:
    return answer.error or ServerError(None, "the connection to the server was lost")


def _next_step(error: ServerError) -> str:
    match error.sqlstate:
        case "25001":
            return "Put `-- migrate: no-transaction` in the comment that opens the file, and run again."
        case "57014":
            return "The statement was cancelled, or took longer than MIGRATION_STATEMENT_TIMEOUT. Run again."
        case None | "57P01" | "57P02" | "57P03":
            return "It is safe to run again."
    return "Mend the file and run again (or deploy again). Nothing needs repair."


def _tell(session: Session, notice: Callable[[str], None]) -> None:
    """Pass on the last notices of a session, and forget them."""
    dropped = session.notice_count - len(session.notices)
    if dropped > 0:
        notice(f"({dropped} earlier notices not shown)")
    for text in session.notices:
        notice(text)
    session.notices.clear()
    session.notice_count = 0


def _since(started: float) -> int:
    return round((time.perf_counter() - started) * 1000)
