"""A no-transaction file: its statements one at a time in autocommit, and the concurrent index
builds among them.

Nothing can roll such a file back, so what is said of it when it fails must be exact.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from lib.diagnosis import diagnose
from lib.errors import FilesError, PartlyApplied, ServerError, TableBusy
from lib.postgres.connection import BUSY, Connection, Reply
from lib.postgres.leftovers import (
    Leftovers,
    finishing,
    in_words,
    is_concurrent,
    leftovers,
    runs_in_several_transactions,
)
from lib.quoting import literal
from lib.source.lexer import Statement, split
from lib.source.migration import Migration

# The name is the file's, so it is looked up on the path that the file has set.
_TABLE = """
SELECT pg_catalog.set_config('onward.table', COALESCE(
    CAST(CAST(pg_catalog.to_regclass({table}) AS pg_catalog.oid) AS pg_catalog.text), '0'), true);
"""
_INDEX = """
SELECT x.indisvalid, format('%I.%I', n.nspname, i.relname), EXISTS (
    SELECT FROM pg_stat_progress_create_index p
    -- Another role's row shows no index: it may be this one.
    WHERE p.index_relid = i.oid OR (p.datname = current_database() AND p.index_relid IS NULL)), i.oid
FROM pg_index x
JOIN pg_class i ON i.oid = x.indexrelid
JOIN pg_namespace n ON n.oid = i.relnamespace
WHERE i.relkind = 'i' AND x.indrelid = current_setting('onward.table')::oid
    AND i.relname = (parse_ident({name}))[1]::name
"""

# In one message, and of this very index: were this run cut off while it is on its way, the next one
# may have built a valid index of that name before it arrives. DROP INDEX CONCURRENTLY could not be
# held to that. The usual path, since a team's own event trigger may see the index go.
_DROP = """
SET LOCAL lock_timeout = '{timeout}ms';
DO $onward$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_index WHERE indexrelid OPERATOR(pg_catalog.=) {oid} AND NOT indisvalid) THEN
        DROP INDEX {qualified};
        IF EXISTS (SELECT FROM pg_catalog.pg_index WHERE indexrelid OPERATOR(pg_catalog.=) {oid}) THEN
            RAISE EXCEPTION 'index % is not what it was a moment ago', {name};
        END IF;
    END IF;
END $onward$
"""

_PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
# What SET changes to the end of its transaction only, with SESSION or without.
_OF_THE_TRANSACTION = frozenset(
    ("TRANSACTION", "TRANSACTION_ISOLATION", "TRANSACTION_READ_ONLY", "TRANSACTION_DEFERRABLE")
)
_NAME = r'(?:"(?:[^"]|"")*"|[^\s"().]+)'
_CREATE_INDEX = (
    rf"(?i)CREATE (?:UNIQUE )?INDEX CONCURRENTLY (?:IF NOT EXISTS )?(?!ON )(?P<name>{_NAME}) "
    rf"ON (?:ONLY )?(?P<table>{_NAME}(?: \. {_NAME})*)"
)

TWO_CONNECTIONS = (
    "A no-transaction file needs two connections at once: allow the role or the pooler one more, "
    "or, if a pooler is "
    "between, set MIGRATION_DATABASE_URL to the direct URL."
)
_MENDS = {
    "08P01": f"{TWO_CONNECTIONS} Do that",
    "57014": "The statement was cancelled, or took longer than statement_timeout allows: see to "
    "that",
}
_NOT_IN_THAT_STATE = "55000"
_FROM_THE_START = "It starts at its first statement: all of them must be repeatable."


class StatementRunner:
    """The statements of a no-transaction file, run one at a time; knows which are done."""

    def __init__(
        self,
        migration: Migration,
        work: Connection,
        still_locked: Callable[[], bool],
        again: Callable[[TableBusy], bool],
    ) -> None:
        """`again` says whether to try a statement again that met a busy table, and waits before it
        says so.
        """
        self.lock_timeout = 0.0
        """The longest wait, in seconds, for the lock that dropping an invalid index takes."""
        self.patience: float | None = None
        """The lock timeout, in seconds, of what runs CONCURRENTLY; None leaves the session's own.
        """
        self._migration = migration
        self._work = work
        self._still_locked = still_locked
        self._again = again
        self._done = 0
        self._kept = 0
        """Without those of a transaction of the file's own that is still open."""
        self._partly = False
        """Whether the statement that is running may have kept a part of its work."""

    @property
    def state(self) -> str:
        """What there is of the file when it ends before its end."""
        some = (
            "statement 1 is done and stays"
            if self._kept == 1
            else f"statements 1 to {self._kept} are done and stay"
        )
        kept = some if self._kept else "no statement is done"
        undone = (
            ", the transaction that it began after that is rolled back"
            if self._done > self._kept
            else ""
        )
        part = f"statement {self._done + 1} runs in several transactions, so a part of its work may stay"
        told = [f"{kept}{undone}"] if self._kept or not self._partly else []
        return "; ".join([*told, *([part] if self._partly else []), "the file is not recorded"])

    def run(self) -> None:
        """Run them all. Raises PartlyApplied at the first that fails; the statements before it stay
        done.
        """
        text = self._migration.text()
        prepared = self._prepared(text)
        for statement in split(text):
            if (
                self.patience is not None
                and "lock_timeout" not in text.lower()
                and is_concurrent(statement)
            ):
                self._patiently(statement, self.patience)
            else:
                self._run(statement)
            self._done += 1
            if not self._work.in_transaction:
                self._kept = self._done
        if self._work.in_transaction:
            self._work.send("ROLLBACK")
            raise self._stopped(
                ServerError("25001", "the file leaves a transaction open; it was rolled back"), None
            )
        if left := self._prepared(text) - prepared:
            raise self._stopped(
                ServerError(None, f"the file leaves {_prepared_in_words(left)}"), None
            )
        self._require_lock(None)

    def _prepared(self, text: str) -> set[str]:
        """The prepared transactions that a file may have made: what they did is neither there nor
        gone.
        """
        rows = self._work.read(_PREPARED).rows if "prepare" in text.lower() else []
        return {gid for (gid,) in rows if gid and gid in text}

    def _patiently(self, statement: Statement, patience: float) -> None:
        """What runs CONCURRENTLY keeps nobody waiting while it waits, and would have to begin anew."""
        usual = self._rows(self._work.send("SHOW lock_timeout"), statement)[0][0]
        self._rows(self._work.send(f"SET lock_timeout = '{round(patience * 1000)}ms'"), statement)
        self._run(statement)
        self._rows(self._work.send(f"SET lock_timeout = {literal(usual)}"), statement)

    def _run(self, statement: Statement) -> None:
        # In a transaction of the file's own the server refuses what runs in several.
        alone = not self._work.in_transaction
        index = _concurrent_index(statement) if alone else None
        before = leftovers(self._work) if alone and is_concurrent(statement) else None
        while True:
            self._require_lock(statement)
            undropped = self._drop_invalid(*index, statement) if index else None
            answer = undropped or self._send(statement)
            if not (answer.error or answer.lost):
                break
            if not self._may_try_again(answer.failure, statement):
                # Of a text of ours, a position would be one in the file.
                failure = answer.failure._replace(position=None) if undropped else answer.failure
                raise self._stopped(
                    failure, statement, self._left(before, statement, rebuilt=index is not None)
                )
        self._partly = False
        if index:
            self._require_valid(*index, statement)

    def _send(self, statement: Statement) -> Reply:
        self._partly = runs_in_several_transactions(statement) and not self._work.in_transaction
        answer = self._work.send(statement.text, keep=False)
        if answer.failure.sqlstate == _NOT_IN_THAT_STATE and (rest := finishing(statement)):
            finished = self._work.send(rest, keep=False)
            if not (finished.error or finished.lost):
                self._work.notices.append(
                    f"finished the detaching that had been broken off: {rest}"
                )
            if finished.lost or not finished.error or finished.error.sqlstate in BUSY:
                answer = finished
        # What has a position was refused before it ran.
        self._partly = self._partly and not (answer.error and answer.error.position)
        return answer

    def _left(self, before: Leftovers | None, statement: Statement, *, rebuilt: bool) -> str:
        """What the statement has left behind; where the catalog can tell, no other part of its work
        stays.
        """
        if before is None or (after := leftovers(self._work)) is None:
            return ""
        self._partly = statement.keywords[0] == "REINDEX"
        return in_words(after - before, statement, rebuilt=rebuilt)

    def _may_try_again(self, error: ServerError, statement: Statement) -> bool:
        """Only this statement, and only outside a transaction of the file's own, of which it would
        be a part.

        A block or a procedure that may have committed a part of its work is the file's to make
        repeatable, not ours.
        """
        program = self._partly and statement.keywords[0] in ("CALL", "DO")
        if error.sqlstate not in BUSY or self._work.in_transaction or program:
            return False
        number = self._done + 1
        return self._again(
            TableBusy(f"{self._migration.version}, statement {number}: {error.message}")
        )

    def _require_lock(self, statement: Statement | None) -> None:
        if not self._still_locked():
            raise self._stopped(
                ServerError(None, "the session that holds the run's lock is gone"), statement
            )

    def _drop_invalid(self, table: str, name: str, statement: Statement) -> Reply | None:
        """An index that a broken build left behind is in the way, and IF NOT EXISTS would pass it
        off as built.

        The server's answer where it cannot be dropped.
        """
        for valid, qualified, building, oid in self._indexes(table, name, statement):
            if valid == "f" and building == "f":
                timeout, shown = round(self.lock_timeout * 1000), literal(qualified)
                answer = self._work.send(
                    _DROP.format(timeout=timeout, oid=oid, qualified=qualified, name=shown)
                )
                if answer.error or answer.lost:
                    return answer
                self._work.notices.append(
                    f"dropped the invalid index {qualified}, which is built again"
                )
        return None

    def _require_valid(self, table: str, name: str, statement: Statement) -> None:
        """IF NOT EXISTS is content with anything of that name."""
        indexes = self._indexes(table, name, statement)
        if any(valid == "t" for valid, *_ in indexes):
            return
        message = f"there is no index {name} on {table}: something else has that name"
        if indexes:
            building = indexes[0][2] == "t"
            why = "another session is building it" if building else "its build was broken off"
            message = f"index {name} is there, but it is not valid: {why}"
        raise self._stopped(ServerError(None, message), statement)

    def _indexes(self, table: str, name: str, statement: Statement) -> list[tuple[str | None, ...]]:
        return self._rows(self._look(table, name), statement)[1:]

    def _look(self, table: str, name: str) -> Reply:
        return self._work.read(
            _INDEX.format(name=literal(name)), usual=_TABLE.format(table=literal(table))
        )

    def _rows(self, answer: Reply, statement: Statement) -> list[tuple[str | None, ...]]:
        if answer.error or answer.lost:
            raise self._stopped(
                answer.failure._replace(position=None), statement
            )  # a position in text of ours
        return answer.rows

    def _stopped(
        self, error: ServerError, statement: Statement | None, left: str = ""
    ) -> PartlyApplied:
        base = statement.offset if statement else 0
        failure = diagnose(self._migration, error, finished=self._done, base=base)
        mend = _MENDS.get(error.sqlstate or "", "Mend the file")
        return PartlyApplied(
            failure, state=self.state + left, next_step=f"{mend} and run again. {_FROM_THE_START}"
        )


def require_no_session_state(migrations: Iterable[Migration]) -> None:
    """Raise FilesError for what a session keeps outside a transaction: through a pooler, others
    would get it.
    """
    found = [
        f"{one.path}:{statement.line}: {statement.keywords[0]} would reach other clients of the "
        "pooler"
        for one in migrations
        if not one.transactional
        for statement in split(one.text())
        if _stays_in_session(statement)
    ]
    if found:
        raise FilesError(
            "\n  ".join(["these files need a direct connection:", *found]),
            next_step="Nothing was changed. Take it out, or set MIGRATION_DATABASE_URL to the "
            "direct URL.",
        )


def _stays_in_session(statement: Statement) -> bool:
    match statement.keywords:
        case ("SET", "LOCAL" | "CONSTRAINTS", *_) | ("PREPARE", "TRANSACTION", *_):
            return False
        case ("SET", "SESSION", word, *_) | ("SET", word, *_) if word in _OF_THE_TRANSACTION:
            return False
        case ("SET" | "PREPARE" | "LISTEN" | "LOAD", *_):
            return True
        case ("CREATE", *rest):
            return not {"TEMP", "TEMPORARY"}.isdisjoint(rest[:3])
        case ("DECLARE", *_):
            return "HOLD" in map(str.upper, statement.first_tokens)
    return False


def _prepared_in_words(names: set[str]) -> str:
    ends = "; ".join(f"COMMIT PREPARED {literal(name)}" for name in sorted(names))
    return f"prepared transactions that are neither committed nor rolled back: end them ({ends}, or ROLLBACK PREPARED)"


def _concurrent_index(statement: Statement) -> tuple[str, str] | None:
    """The table and name of a CREATE INDEX CONCURRENTLY that names its index, as written."""
    head = " ".join(statement.first_tokens)
    found = re.match(_CREATE_INDEX, head)
    return (".".join(re.findall(_NAME, found["table"])), found["name"]) if found else None
