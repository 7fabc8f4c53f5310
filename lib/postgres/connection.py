"""A connection: send SQL text, read the reply. With `connecting`, the only user of psycopg.

All SQL that runs is sent as literal text by the simple protocol. So a whole file travels as one
message, `%` and `$1` are sent verbatim, transaction poolers work, and an idle transaction keeps no
snapshot (a query with parameters would keep one, and CREATE INDEX CONCURRENTLY elsewhere would wait
for it). What is only parsed is sent by the extended protocol, which takes one statement.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from select import POLLIN, POLLOUT, poll
from types import FrameType
from typing import NamedTuple, Self

import psycopg
from psycopg import pq

from lib.errors import (
    DatabaseUnavailable,
    DatabaseUnsuitable,
    LockBusy,
    OnwardError,
    ServerError,
    TableBusy,
)
from lib.postgres.check import own_error
from lib.postgres.server_text import ServerText, codec
from lib.quoting import identifier
from lib.settings.database_url import DatabaseURL, redact

CANCEL_GRACE_SECONDS = 2.0  # for the server to end a statement that was cancelled at the deadline
CANCEL_REQUEST_SECONDS = 1.0
NOTICES_KEPT = 100
BUSY = ("55P03", "40P01")  # lock_timeout and NOWAIT; deadlock
# A pooler without a server, no connection left, a server that stops or starts.
_UNAVAILABLE_SQLSTATES = "08...|53300|57P0[123]"
CANCELLED = "57014"
_PERMISSION_DENIED, _UNSUPPORTED = "42501", "0A000"
_SYNCED = pq.ExecStatus.PIPELINE_SYNC
_SEVERITY, _MESSAGE = int(pq.DiagnosticField.SEVERITY), int(pq.DiagnosticField.MESSAGE_PRIMARY)

# Onward's own statements run between these two. On the role's search path, anyone who may create
# objects in one of its schemas could shadow a built-in function, operator or type, and Onward would
# call it with the role's privileges (CVE-2018-1058). With row_security off, hidden rows are an
# error instead of missing.
PIN_PATH = "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL row_security = off;"
# For what is read while a file runs: a limit that it sets is for its own statements.
NO_TIMEOUT = "SET LOCAL statement_timeout = 0;"
# What a statement of Onward's asks for.
THE_HISTORY, A_TABLE = "the history", "a table that is observed"
_IN_SAVEPOINT = (
    "SAVEPOINT onward_query",
    "ROLLBACK TO SAVEPOINT onward_query; RELEASE SAVEPOINT onward_query",
)
# One snapshot for everything that is read. Otherwise the first run of another process could show
# its tables without the rows that record them.
_IN_TRANSACTION = ("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY", "COMMIT")

Rows = list[tuple[str | None, ...]]


def search_path(tenant: str | None) -> str:
    """The search path of the files, as SQL: a tenant's schema and what all share, or the usual."""
    return f"{identifier(tenant)}, public" if tenant else "DEFAULT"


def usual_path(tenant: str | None) -> str:
    """The end of PIN_PATH: what follows is the team's own SQL, or runs code of theirs."""
    return f"SET LOCAL search_path TO {search_path(tenant)}; SET LOCAL row_security TO DEFAULT;"


USUAL_PATH = usual_path(None)


class Reply:
    """What the server returned for one message."""

    def __init__(self, *, lost: bool = False) -> None:
        self.rows: Rows = []
        self.tags: list[str] = []
        self.finished = 0
        """Number of statements that succeeded."""
        self.columns: tuple[tuple[str, int, int], ...] = ()
        """Of a statement that was parsed: name, type and type modifier of each of its columns."""
        self.error: ServerError | None = None
        self.lost = lost
        """The connection broke before the reply was complete."""

    @property
    def failed(self) -> bool:
        """Whether there is an error, or the end of the reply is missing."""
        return self.error is not None or self.lost

    @property
    def failure(self) -> ServerError:
        """The server's error, or one that says that the connection was lost."""
        return self.error or ServerError(None, "the connection to the server was lost")

    def completed(self, tag: str) -> bool:
        """Whether a statement with this command tag succeeded."""
        return tag in self.tags


class Step(NamedTuple):
    """A statement to send ahead, and whether its rows and tag are kept."""

    sql: str
    collect: bool


class IdleHook(NamedTuple):
    """What to call each time that the server has been silent for an interval, in seconds."""

    interval: float
    call: Callable[[], None]


class Connection:
    """A connection in autocommit, for one thread. Close it, or use it as a context manager."""

    def __init__(
        self, connection: psycopg.Connection, url: DatabaseURL, deadline: float | None = None
    ) -> None:
        self.url = url
        self.notices: deque[str] = deque(maxlen=NOTICES_KEPT)
        self.notice_count = 0
        self.deadline = deadline
        """In monotonic seconds: a statement that still runs then is cancelled."""
        self.idle_hook: IdleHook | None = None
        self._connection = connection
        self._cancelled = False
        self._pgconn = connection.pgconn
        self._poll = poll()
        self._received: deque[tuple[bytes, bytes, int]] = deque(maxlen=NOTICES_KEPT)
        self._postponed: Exception | None = None
        self._pgconn.notice_handler = self._receive_notice
        self._text = ServerText(self._parameter, url)
        self._is_sql_ascii = self._parameter("server_encoding") == "SQL_ASCII"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the server rolls back an open transaction."""
        self._connection.close()

    @property
    def pid(self) -> int:
        """The backend's pid as sent at login; a pooler sends another number than the server."""
        return self._pgconn.backend_pid

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, failed or not."""
        return self._pgconn.transaction_status != pq.TransactionStatus.IDLE

    @property
    def has_standard_strings(self) -> bool:
        """Whether a backslash in a string is an ordinary character, as the SQL standard has it."""
        return self._parameter("standard_conforming_strings") == "on"

    def send(self, sql: bytes | str, *, collect: bool = True, reply: Reply | None = None) -> Reply:
        """Send one message and read the whole reply. The server's error is in it, not raised.

        Without `collect` it is a file's SQL: rows and tags are dropped as they arrive. An exception
        of a signal handler cancels the statement and closes the connection; `reply` holds what had
        arrived.
        """
        reply = Reply() if reply is None else reply
        message = self._encoded(sql) if isinstance(sql, str) else sql

        def start() -> None:
            self._pgconn.send_query(message)
            self._pgconn.set_single_row_mode()

        return self._exchange(start, message, reply, collect)

    def send_ahead(self, batches: Iterable[Sequence[Step]]) -> Generator[Reply, None, None]:
        """Send all batches without waiting for a reply, then yield the reply to each.

        They are one pipeline: the server begins with the first while the others are made, answers
        after each, and skips what follows an error, so that the reply that failed is the last.
        Close what is returned: if it is not at its end, the statement that runs is cancelled and
        the connection closed.
        """
        try:
            self._pgconn.enter_pipeline_mode()
            sent = [self._send_batch(batch) for batch in batches]
            self._pgconn.pipeline_sync()
            self._flush()
            for batch in sent:
                reply = self._batch_reply(batch)
                if reply.failed or batch is sent[-1]:
                    self._end_pipeline()
                yield reply
                if reply.failed:
                    return
        except psycopg.Error:
            self._connection.close()
            yield Reply(lost=True)
        except BaseException:
            self._cancel_and_close()
            raise

    def _send_batch(self, batch: Sequence[Step]) -> Sequence[Step]:
        for step in batch:
            self._pgconn.send_query_params(self._encoded(step.sql), None)
        self._pgconn.send_flush_request()
        self._flush()
        return batch

    def _batch_reply(self, batch: Sequence[Step]) -> Reply:
        reply = Reply()
        for step in batch:
            if not reply.failed:  # what is skipped has no mode
                self._pgconn.set_single_row_mode()
            while (result := self._next_result()) is not None:
                self._consume(result, reply, step.collect)
        self._take_notices()
        return reply

    def _end_pipeline(self) -> None:
        while (result := self._next_result()) is None or result.status != _SYNCED:
            if self._pgconn.status == pq.ConnStatus.BAD:
                raise psycopg.OperationalError
        self._pgconn.exit_pipeline_mode()

    def parse(self, text: str) -> Reply:
        """Have the server parse one statement, which is not run, and describe its result.

        Of several statements, or one that it cannot parse, the reply has the server's error.
        """
        message = self._encoded(text)
        reply = self._exchange(
            lambda: self._pgconn.send_prepare(b"", message), message, Reply(), collect=True
        )
        if not reply.failed:
            self._exchange(
                lambda: self._pgconn.send_describe_prepared(b""), message, reply, collect=True
            )
        return reply

    def _exchange(
        self, start: Callable[[], None], message: bytes, reply: Reply, collect: bool
    ) -> Reply:
        self._text.sent = message
        try:
            start()
            self._flush()
            while (result := self._next_result()) is not None:
                self._consume(result, reply, collect)
        except psycopg.Error:
            reply.lost = True
            self._connection.close()
        except BaseException:
            reply.lost = True
            self._cancel_and_close()
            raise
        finally:
            self._take_notices()
            self._text.sent = b""
        reply.lost = reply.lost or self._pgconn.status == pq.ConnStatus.BAD
        if self._is_sql_ascii and reply.error:
            reply.error = _with_position_in_characters(reply.error, message)
        return reply

    def read(self, sql: str, *, usual: str = "") -> Reply:
        """Send a query of Onward's, with every name looked up in pg_catalog only.

        `usual` is sent before it, on the usual path. An open transaction goes on afterwards, with
        its path and settings, also if the query fails.
        """
        nested = self.in_transaction
        before, after = _IN_SAVEPOINT if nested else _IN_TRANSACTION
        reply = self.send(f"{before}; {usual} {PIN_PATH} {sql}; {after}")
        if reply.failed and self.in_transaction:
            self.send(after if nested else "ROLLBACK")
        return reply

    def query(self, sql: str, *, usual: str = "", of: str = THE_HISTORY) -> Rows:
        """`read`, and return the rows. Raises `error_for` of a reply that failed."""
        reply = self.read(sql, usual=usual)
        if reply.failed:
            raise self.error_for(reply, of)
        return reply.rows

    def error_for(self, reply: Reply, of: str = THE_HISTORY) -> OnwardError:
        """The user's error for a statement of Onward's that failed; `of` is what it asked for."""
        error = reply.error
        if error is None:
            message = "the connection to the database was lost"
            return DatabaseUnavailable(message, next_step="Run again.")
        message = redact(f"{error.message} (SQLSTATE {error.sqlstate})", self.url)
        busy = f"{of} is locked by another session: {message}"
        if error.sqlstate in BUSY:
            return TableBusy(busy, next_step="Run again later.")
        if error.sqlstate == CANCELLED:
            return LockBusy(busy, next_step="Run again later.")
        if reply.lost or re.fullmatch(_UNAVAILABLE_SQLSTATES, error.sqlstate or ""):
            unavailable = f"the database is unavailable: {message}"
            return DatabaseUnavailable(unavailable, next_step="Run again.")
        if error.sqlstate == _PERMISSION_DENIED:
            grant = "Grant the role the missing privileges, or use the owner's URL."
            return DatabaseUnsuitable(message, next_step=grant)
        return DatabaseUnsuitable(message, next_step=error.hint or "")

    def _flush(self) -> None:
        while self._pgconn.flush():
            if self._wait(POLLIN | POLLOUT) & ~POLLOUT:
                self._pgconn.consume_input()

    def _next_result(self) -> pq.abc.PGresult | None:
        while self._pgconn.is_busy():
            self._raise_postponed()
            self._wait(POLLIN)
            self._pgconn.consume_input()
        result = self._pgconn.get_result()
        self._raise_postponed()
        return result

    def _raise_postponed(self) -> None:
        if self._postponed:
            raise self._postponed

    def _wait(self, events: int) -> int:
        """Wait for the socket; call the idle hook meanwhile, and cancel at the deadline."""
        self._poll.register(self._pgconn.socket, events)
        while True:
            until_deadline = self._seconds_to_deadline()
            until_hook = self.idle_hook.interval if self.idle_hook else math.inf
            seconds = min(until_deadline, until_hook)
            ready = self._poll.poll(None if seconds == math.inf else math.ceil(seconds * 1000))
            if ready:
                return ready[0][1]
            if until_deadline <= until_hook:
                self._cancel_once()
            elif self.idle_hook:
                self.idle_hook.call()

    def _seconds_to_deadline(self) -> float:
        return math.inf if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

    def _cancel_once(self) -> None:
        if self._cancelled:
            raise psycopg.OperationalError("the server did not answer the cancellation")
        self._cancelled = True
        self.deadline = time.monotonic() + CANCEL_GRACE_SECONDS
        self._connection.cancel_safe(timeout=CANCEL_REQUEST_SECONDS)

    def _cancel_and_close(self) -> None:
        try:
            self._connection.cancel_safe(timeout=CANCEL_REQUEST_SECONDS)
        except psycopg.Error:
            pass
        finally:
            self._connection.close()

    def _consume(self, result: pq.abc.PGresult, reply: Reply, collect: bool) -> None:
        match result.status:
            case pq.ExecStatus.SINGLE_TUPLE:
                if collect:
                    reply.rows.append(self._row(result))
            case pq.ExecStatus.COMMAND_OK | pq.ExecStatus.TUPLES_OK:
                reply.finished += 1
                if collect:
                    reply.tags.append((result.command_status or b"").decode())
                if result.status == pq.ExecStatus.COMMAND_OK:  # it has columns if it is described
                    reply.columns = tuple(self._columns(result))
            case pq.ExecStatus.FATAL_ERROR:
                error = self._server_error(result)
                reply.error = own_error(error) if collect else error
            case pq.ExecStatus.EMPTY_QUERY | pq.ExecStatus.PIPELINE_ABORTED:
                pass
            case _:
                # COPY to or from the client: there is no data to send, and only closing ends it.
                message = "COPY to or from the client cannot run in a migration"
                reply.error = ServerError(_UNSUPPORTED, message)
                self._connection.close()
                raise psycopg.OperationalError

    def _row(self, result: pq.abc.PGresult) -> tuple[str | None, ...]:
        values = (result.get_value(0, column) for column in range(result.nfields))
        return tuple(None if value is None else self._text.value(value) for value in values)

    def _columns(self, result: pq.abc.PGresult) -> Iterator[tuple[str, int, int]]:
        for number in range(result.nfields):
            name = self._text.value(result.fname(number) or b"")
            yield name, result.ftype(number), result.fmod(number)

    def _server_error(self, result: pq.abc.PGresult) -> ServerError:
        position = self._field(result, pq.DiagnosticField.STATEMENT_POSITION)
        message = self._field(result, pq.DiagnosticField.MESSAGE_PRIMARY)
        return ServerError(
            sqlstate=self._field(result, pq.DiagnosticField.SQLSTATE),
            message=message or self._text.message(result.error_message).strip(),
            detail=self._field(result, pq.DiagnosticField.MESSAGE_DETAIL),
            hint=self._field(result, pq.DiagnosticField.MESSAGE_HINT),
            context=self._field(result, pq.DiagnosticField.CONTEXT),
            constraint=self._field(result, pq.DiagnosticField.CONSTRAINT_NAME),
            position=int(position) if position else None,
        )

    def _field(self, result: pq.abc.PGresult, field: pq.DiagnosticField) -> str | None:
        value = result.error_field(field)
        return None if value is None else self._text.message(value)

    def _receive_notice(self, notice: pq.abc.PGresult) -> None:
        """Keep a notice. libpq calls this and drops what it raises, so it calls no Python code:
        see `postpone`.
        """
        message = notice.error_field(_MESSAGE) or b""
        read = message[: ServerText.NOTICE_BYTES_READ]
        self._received.append((notice.error_field(_SEVERITY) or b"", read, len(message)))
        self.notice_count += 1

    def forget_notices(self) -> None:
        """Forget all notices so far."""
        self.notices.clear()
        self.notice_count = 0

    def _take_notices(self) -> None:
        for severity, message, size in self._received:
            self.notices.append(self._text.notice(severity, message, size))
        self._received.clear()

    def _encoded(self, sql: str) -> bytes:
        """The SQL in the client_encoding of the session, which a file may have changed."""
        encoding = "UTF8" if self._is_sql_ascii else self._parameter("client_encoding")
        try:
            return sql.encode(codec(encoding))
        except (LookupError, UnicodeEncodeError):
            return sql.encode()

    def _parameter(self, name: str) -> str:
        try:
            return (self._pgconn.parameter_status(name.encode()) or b"").decode()
        except psycopg.OperationalError:  # the connection is closed
            return ""


def postpone(frame: FrameType | None, error: Exception) -> bool:
    """Whether an exception of a signal handler is raised later, because libpq would drop it now.

    If so, the connection raises it as soon as libpq returns.
    """
    if frame is None or frame.f_code is not Connection._receive_notice.__code__:
        return False
    frame.f_locals["self"]._postponed = error
    return True


def _with_position_in_characters(error: ServerError, message: bytes) -> ServerError:
    """A server with SQL_ASCII counts bytes."""
    if not error.position:
        return error
    before = message[: error.position - 1].decode(errors="ignore")
    return error._replace(position=len(before) + 1)
