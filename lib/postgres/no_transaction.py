"""A no-transaction file: its statements one at a time, in autocommit, on a connection of its own.

Nothing can roll such a file back, so its errors say exactly which statements were applied.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lib.diagnosis import diagnose
from lib.errors import FilesError, LockBusy, PartlyApplied, ServerError, TableBusy
from lib.events import RunLog
from lib.postgres.connection import BUSY, Connection, Reply, Rows
from lib.postgres.invalid_index import (
    FoundIndex,
    IndexName,
    concurrent_index,
    drop_invalid,
    find_indexes,
    read_indexes,
    validity_problem,
)
from lib.postgres.leftovers import (
    Leftovers,
    describe,
    find_leftovers,
    finishing_statement,
    is_concurrent,
    runs_in_several_transactions,
)
from lib.postgres.session import RunSession
from lib.quoting import literal
from lib.retry import Backoff
from lib.source.lexer import Statement, split
from lib.source.migration import Migration

if TYPE_CHECKING:
    from lib.postgres.catalog import Observer

TWO_CONNECTIONS = (
    "A no-transaction file needs two connections at a time: allow the role or the pooler one more. "
    "Behind a pooler, set MIGRATION_DATABASE_URL to the direct URL instead."
)
_STARTS_OVER = "It starts over at its first statement: all of them must be idempotent."
_REMEDIES = {
    "08P01": TWO_CONNECTIONS,
    "57014": "The statement was cancelled, or exceeded the statement_timeout: find out which.",
}
_OBJECT_NOT_IN_PREREQUISITE_STATE = "55000"
_PREPARED_TRANSACTIONS = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
# What SET changes only until the end of the transaction, with SESSION or without.
_TRANSACTION_SETTINGS = frozenset(
    ("TRANSACTION", "TRANSACTION_ISOLATION", "TRANSACTION_READ_ONLY", "TRANSACTION_DEFERRABLE")
)


class StatementRunner:
    """Runs the statements of a file one at a time, and knows which were applied."""

    def __init__(
        self,
        migration: Migration,
        work: Connection,
        session: RunSession,
        log: RunLog,
        backoff: Backoff,
    ) -> None:
        """`work` runs the statements, while the session's own connection holds the run lock."""
        self.concurrent_lock_timeout: float | None = None
        """In seconds, for statements that run CONCURRENTLY; None leaves the session's own."""
        self.observer: Observer | None = None
        self._migration = migration
        self._work = work
        self._session = session
        self._log = log
        self._backoff = backoff
        self._executed = 0
        self._committed = 0
        """Fewer than executed while a transaction of the file's own is open."""
        self._may_be_partly_applied = False
        """Whether the statement that is running may have committed a part of its work."""

    @property
    def state(self) -> str:
        """What was applied of a file that did not reach its end."""
        parts = []
        if self._committed or not self._may_be_partly_applied:
            parts.append(self._applied_in_words())
        if self._may_be_partly_applied:
            parts.append(
                f"statement {self._executed + 1} runs in several transactions, so a part of its "
                "work may remain"
            )
        return "; ".join([*parts, "the file is not recorded"])

    def run(self) -> None:
        """Run all statements. Raises PartlyApplied at the first that fails."""
        text = self._migration.text()
        prepared_before = self._prepared_transactions(text)
        if self.observer:
            self.observer.begin(self._migration, self._work)
        for statement in split(text):
            self._run_with_its_lock_timeout(statement, text)
            self._executed += 1
            if self.observer:
                with self._tried_once():
                    self.observer.see(self._migration, self._work, statement)
            if not self._work.in_transaction:
                self._committed = self._executed
        self._require_no_open_transaction()
        if self.observer:
            with self._tried_once():
                self.observer.end(self._migration, self._work)
        if left := self._prepared_transactions(text) - prepared_before:
            raise self._failed(ServerError(None, _left_prepared(left)))
        self._require_lock()

    @contextmanager
    def _tried_once(self) -> Iterator[None]:
        """A lock that is busy within the block does not make statements run again."""
        try:
            yield
        except LockBusy as busy:
            raise self._failed(ServerError(None, busy.message)) from None

    def _applied_in_words(self) -> str:
        if not self._committed:
            applied = "no statement was applied in this run"
        elif self._committed == 1:
            applied = "statement 1 was applied and remains"
        else:
            applied = f"statements 1 to {self._committed} were applied and remain"
        if self._executed > self._committed:
            applied += ", the transaction that the file began after that was rolled back"
        return applied

    def _prepared_transactions(self, text: str) -> set[str]:
        """The prepared transactions that are named in the file."""
        if "prepare" not in text.lower():
            return set()
        rows = self._work.read(_PREPARED_TRANSACTIONS).rows
        return {gid for (gid,) in rows if gid and gid in text}

    def _require_no_open_transaction(self) -> None:
        if self._work.in_transaction:
            self._work.send("ROLLBACK")
            message = "the file leaves a transaction open; it was rolled back"
            raise self._failed(ServerError("25001", message))

    def _require_lock(self, statement: Statement | None = None) -> None:
        # Literal SQL, for the transaction that holds the lock must not keep a snapshot.
        if self._session.connection.send("SELECT 1").failed:
            message = "the session that holds the run lock is gone"
            raise self._failed(ServerError(None, message), statement)

    def _run_with_its_lock_timeout(self, statement: Statement, text: str) -> None:
        """What runs CONCURRENTLY blocks nobody while it waits, and starts over if it is cancelled.

        So it may wait longer, unless the file sets the timeout itself.
        """
        seconds = self.concurrent_lock_timeout
        if seconds is None or "lock_timeout" in text.lower() or not is_concurrent(statement):
            self._run(statement)
            return
        usual = self._rows(self._work.send("SHOW lock_timeout"), statement)[0][0]
        longer = f"SET lock_timeout = '{round(seconds * 1000)}ms'"
        self._rows(self._work.send(longer), statement)
        self._run(statement)
        self._rows(self._work.send(f"SET lock_timeout = {literal(usual)}"), statement)

    def _run(self, statement: Statement) -> None:
        # In a transaction of the file's own the server refuses what runs in several transactions.
        alone = not self._work.in_transaction
        index = concurrent_index(statement) if alone else None
        before = find_leftovers(self._work) if alone and is_concurrent(statement) else None
        while True:
            self._require_lock(statement)
            not_dropped = self._drop_invalid_index(index, statement) if index else None
            reply = not_dropped or self._send(statement)
            if not reply.failed:
                break
            if self._retries(reply.failure, statement):
                continue
            failure = reply.failure
            if not_dropped:
                failure = failure._replace(position=None)  # it is one in Onward's SQL
            left = self._leftovers(before, statement, has_name=index is not None)
            raise self._failed(failure, statement, left)
        self._may_be_partly_applied = False
        if index and (problem := validity_problem(index, self._indexes(index, statement))):
            raise self._failed(ServerError(None, problem), statement)

    def _send(self, statement: Statement) -> Reply:
        in_several = runs_in_several_transactions(statement) and not self._work.in_transaction
        self._may_be_partly_applied = in_several
        reply = self._work.send(statement.text, collect=False)
        if reply.error and reply.error.sqlstate == _OBJECT_NOT_IN_PREREQUISITE_STATE:
            reply = self._finish(statement) or reply
        if reply.error and reply.error.position:
            self._may_be_partly_applied = False  # it was refused before it ran
        return reply

    def _finish(self, statement: Statement) -> Reply | None:
        """Finish a DETACH PARTITION CONCURRENTLY that an earlier run was interrupted in.

        None if there is nothing to finish: then the statement's own error counts.
        """
        finishing = finishing_statement(statement)
        if finishing is None:
            return None
        reply = self._work.send(finishing, collect=False)
        if not reply.failed:
            self._work.notices.append(f"finished the interrupted detaching: {finishing}")
            return reply
        return reply if reply.lost or reply.failure.sqlstate in BUSY else None

    def _drop_invalid_index(self, index: IndexName, statement: Statement) -> Reply | None:
        """Drop an invalid index of that name, for IF NOT EXISTS would accept it.

        None if there is none any more, else the server's error.
        """
        timeout = self._session.config.lock_timeout
        for found in self._indexes(index, statement):
            if found.is_valid or found.is_being_built:
                continue
            reply = drop_invalid(self._work, found, lock_timeout=timeout)
            if reply.failed:
                return reply
            # Another session may have made it valid before the drop, which then leaves it alone.
            if found.oid not in {left.oid for left in self._indexes(index, statement)}:
                self._work.notices.append(
                    f"dropped the invalid index {found.qualified} to build it again"
                )
        return None

    def _indexes(self, index: IndexName, statement: Statement) -> list[FoundIndex]:
        return read_indexes(self._rows(find_indexes(self._work, index), statement))

    def _leftovers(self, before: Leftovers | None, statement: Statement, *, has_name: bool) -> str:
        """What the failed statement left, and what removes it; empty if that cannot be read."""
        after = None if before is None else find_leftovers(self._work)
        if before is None or after is None:
            return ""
        # The catalog tells what is left of any other statement.
        self._may_be_partly_applied = statement.keywords[0] == "REINDEX"
        return describe(after - before, statement, rebuilt=has_name)

    def _retries(self, error: ServerError, statement: Statement) -> bool:
        """Wait, if the statement is to be tried again.

        Not in a transaction of the file's own, which would have to begin again; and not if a block
        or procedure may have committed a part of its work: only the file can make that repeatable.
        """
        is_program = self._may_be_partly_applied and statement.keywords[0] in ("CALL", "DO")
        if error.sqlstate not in BUSY or self._work.in_transaction or is_program:
            return False
        pause = self._backoff.next_pause()
        if pause is None:
            return False
        number = self._executed + 1
        busy = TableBusy(f"{self._migration.version}, statement {number}: {error.message}")
        busy.blockers = self._session.blockers
        self._log.retrying(busy, pause)
        time.sleep(pause)
        return True

    def _rows(self, reply: Reply, statement: Statement) -> Rows:
        if reply.failed:
            # A position is one in Onward's SQL.
            raise self._failed(reply.failure._replace(position=None), statement)
        return reply.rows

    def _failed(
        self, error: ServerError, statement: Statement | None = None, left: str = ""
    ) -> PartlyApplied:
        base = statement.offset if statement else 0
        diagnostic = diagnose(self._migration, error, finished=self._executed, base=base)
        remedy = _REMEDIES.get(error.sqlstate or "", "Fix the file.")
        return PartlyApplied(
            diagnostic, state=self.state + left, next_step=f"{remedy} Run again. {_STARTS_OVER}"
        )


def require_no_session_state(migrations: Iterable[Migration], *, tenant: str | None = None) -> None:
    """Raise FilesError for what changes the session, which a pooler would pass on.

    For a tenant that is every file here: the search path would be set for the session.
    """
    found = _without_transaction(migrations) if tenant else _changing_session(migrations)
    if found:
        raise FilesError(
            "\n  ".join(["these files need a direct connection:", *found]),
            changed_nothing=True,
            next_step="Remove these statements, or set MIGRATION_DATABASE_URL to the direct URL.",
        )


def _without_transaction(migrations: Iterable[Migration]) -> list[str]:
    return [
        f"{one.path}: without a transaction, a tenant's search path would reach other clients of "
        "the pooler"
        for one in migrations
        if not one.transactional
    ]


def _changing_session(migrations: Iterable[Migration]) -> list[str]:
    return [
        f"{one.path}:{statement.line}: {statement.keywords[0]} would reach other clients of the "
        "pooler"
        for one in migrations
        if not one.transactional
        for statement in split(one.text())
        if _changes_session(statement)
    ]


def _changes_session(statement: Statement) -> bool:
    match statement.keywords:
        case ("SET", "LOCAL" | "CONSTRAINTS", *_) | ("PREPARE", "TRANSACTION", *_):
            return False
        case ("SET", "SESSION", word, *_) | ("SET", word, *_) if word in _TRANSACTION_SETTINGS:
            return False
        case ("SET" | "PREPARE" | "LISTEN" | "LOAD", *_):
            return True
        case ("CREATE", *rest):
            return not {"TEMP", "TEMPORARY"}.isdisjoint(rest[:3])
        case ("DECLARE", *_):
            return "HOLD" in map(str.upper, statement.first_tokens)
    return False


def _left_prepared(names: set[str]) -> str:
    commands = "; ".join(f"COMMIT PREPARED {literal(name)}" for name in sorted(names))
    return (
        "the file leaves prepared transactions that are neither committed nor rolled back: "
        f"end them ({commands}, or ROLLBACK PREPARED)"
    )
