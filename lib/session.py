"""One session with a server: connect, send text, read what comes back. The only module that meets psycopg.

Everything goes as literal text by the simple protocol. That is what lets a whole file travel as one message, sends
`%` and `$1` verbatim, works through a transaction pooler, and leaves no snapshot behind in an idle transaction (a
query with parameters would, and CREATE INDEX CONCURRENTLY in another session would wait for it for ever).
"""

from __future__ import annotations

import codecs
import ctypes
import math
import os
import random
import re
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from select import POLLIN, POLLOUT, poll
from types import FrameType, TracebackType
from typing import NamedTuple, Self

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_attempts, make_conninfo, timeout_from_conninfo

from lib.attempt import Attempt, Fate, advise, decide, read, unresolved
from lib.config import Target, redact
from lib.errors import (
    ConfigError,
    DatabaseUnavailable,
    DatabaseUnsuitable,
    LockBusy,
    OnwardError,
    PasswordRefused,
    ServerError,
    TableBusy,
)

_GRACE = 2.0  # for a server to end what was cancelled at the deadline
_NOTICES_KEPT = 100
_LONGEST_NOTICE, _LONGEST_TEXT = 2_000, 8_000  # characters: a row's value, or a statement, may have millions
_LONGEST_SECRET = 1_000  # what is cut is not cut inside of one
_NOTICE_READ = _LONGEST_NOTICE + _LONGEST_SECRET
_SILENTLY = 1.0  # seconds: a server that is back so soon is not worth a line
# Without them a vanished server keeps a client waiting for ever. A URL may say otherwise.
_DEFAULTS = {
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
# What libpq hands on from a person's environment as settings of the session: a file must mean the same for everybody.
_PERSONAL = ("PGDATESTYLE", "PGGEQO", "PGTZ")
_EVENTS: dict[int, int] = {pq.PollingStatus.READING: POLLIN, pq.PollingStatus.WRITING: POLLOUT}
_SPECIAL = re.compile(r"[^ -~]|['\\]")
_SEVERITY, _MESSAGE = int(pq.DiagnosticField.SEVERITY), int(pq.DiagnosticField.MESSAGE_PRIMARY)
# Not UTF8, and nothing that is an encoding of Python's alone.
_SETS_ENCODING = re.compile(
    rb"(?i)(?:client_encoding|\bset\s+names)\W+(?:to\W+)?"
    rb"((?:latin|iso.?8859|win|koi8|euc|s.?jis|shift|big5|gb|uhc|johab)[\w-]*)"
)
_AWAY = "08...|53300|57P0[123]"  # a pooler without a server, no connection left, a server that goes or comes

BUSY = ("55P03", "40P01")  # lock_timeout (and NOWAIT), deadlock

# Every statement of ours runs between these two. On a search path of the role's, whoever may create in one of its
# schemas could put a function, an operator or a type in front of a built-in one, and would be called as this role
# (CVE-2018-1058). Row security would hide rows without a word; off, the server raises an error instead.
PIN_PATH = "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL row_security = off;"
USUAL_PATH = "SET LOCAL search_path TO DEFAULT; SET LOCAL row_security TO DEFAULT;"
_SAVEPOINT = "SAVEPOINT onward_query", "ROLLBACK TO SAVEPOINT onward_query; RELEASE SAVEPOINT onward_query"
# One snapshot for all that is read: else another run's first tables could be seen without the rows that record them.
_TRANSACTION = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY", "COMMIT"


def _verbose(pgconn: pq.abc.PGconn) -> None:
    """Let libpq tell the SQLSTATE with a connection that fails: psycopg does not offer that.

    It is asked for in the library that psycopg has loaded, beneath its compiled module or held by the one in Python.
    Where it is not found there, failures are known by PostgreSQL's English.
    """
    module = sys.modules[pq.PGconn.__module__]
    with suppress(AttributeError, OSError, TypeError):
        library = module.impl.pq if hasattr(module, "impl") else ctypes.CDLL(module.__file__)
        library.PQsetErrorVerbosity(ctypes.c_void_p(pgconn.pgconn_ptr), 2)  # type: ignore[attr-defined]


class Budget(NamedTuple):
    """How many seconds a session is tried for, and whether also one on this machine where nobody listens."""

    seconds: float = 20.0
    absent: bool = True

    def within(self, seconds: float) -> Budget:
        """So many seconds at most."""
        return self._replace(seconds=max(0.0, min(self.seconds, seconds)))


CONNECT_BUDGET = Budget()
READ_BUDGET = Budget(absent=False)  # who only looks wants to know at once that the server on this machine is not up


def silent(_: str) -> None:
    """Say nothing."""


class Answer:
    """What came back for one message."""

    def __init__(self) -> None:
        self.rows: list[tuple[str | None, ...]] = []
        self.tags: list[str] = []
        self.finished = 0
        """How many statements ended well."""
        self.error: ServerError | None = None
        self.lost = False
        """The connection broke before the whole answer was here."""

    @property
    def failure(self) -> ServerError:
        """What went wrong, in the server's words or in ours."""
        return self.error or ServerError(None, "the connection to the server was lost")


class Watch(NamedTuple):
    """What to do each time that the server has been silent for an interval, in seconds."""

    interval: float
    look: Callable[[], None]


class Session:
    """A connection in autocommit. Not for two threads. Close it, or use it as a context manager."""

    def __init__(self, connection: psycopg.Connection, target: Target, deadline: float | None = None) -> None:
        self.target = target
        self.notices: deque[str] = deque(maxlen=_NOTICES_KEPT)
        self.notice_count = 0
        self.deadline = deadline
        """In monotonic seconds: what still runs then is cancelled."""
        self.watch: Watch | None = None
        self._connection = connection
        self._cancelled = False
        self._pgconn = connection.pgconn
        self._poll = poll()
        self._received: deque[tuple[bytes, bytes, int]] = deque(maxlen=_NOTICES_KEPT)
        self._postponed: Exception | None = None
        self._pgconn.notice_handler = self._receive
        self._sent = b""
        self._knows_bytes_only = self._parameter(b"server_encoding") == "SQL_ASCII"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session; an open transaction is rolled back by the server."""
        self._connection.close()

    @property
    def pid(self) -> int:
        """The server process as this end knows it; a pooler tells another number than the server does."""
        return self._pgconn.backend_pid

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, failed or not."""
        return self._pgconn.transaction_status != pq.TransactionStatus.IDLE

    def send(self, sql: bytes | str, *, keep: bool = True, into: Answer | None = None) -> Answer:
        """Send one message and read its whole answer. A server's error comes back in it, it is not raised.

        Without `keep`, rows and tags are dropped as they arrive. Interrupted (by any exception of a signal
        handler), it cancels on the server and closes the session; `into` has what had arrived by then.
        """
        answer = Answer() if into is None else into
        sent = self._sent = self._encoded(sql) if isinstance(sql, str) else sql
        try:
            self._pgconn.send_query(sent)
            self._pgconn.set_single_row_mode()
            self._flush()
            while (result := self._next_result()) is not None:
                self._take(result, answer, keep)
        except psycopg.Error:
            answer.lost = True
            self._connection.close()
        except BaseException:
            self._abandon()
            raise
        finally:
            self._take_notices()
            self._sent = b""
        answer.lost = answer.lost or self._pgconn.status == pq.ConnStatus.BAD
        if answer.error and answer.error.position and self._knows_bytes_only:
            characters = len(sent[: answer.error.position - 1].decode(errors="ignore"))
            answer.error = answer.error._replace(position=characters + 1)
        return answer

    def query(self, sql: str, *, usual: str = "") -> list[tuple[str | None, ...]]:
        """`read`, and return its rows. Raises what `complaint` makes of an error."""
        answer = self.read(sql, usual=usual)
        if answer.error or answer.lost:
            raise self.complaint(answer)
        return answer.rows

    def read(self, sql: str, *, usual: str = "") -> Answer:
        """Send a query of ours, which finds its names in pg_catalog alone; `usual` comes first, on the usual path.

        In a transaction, it leaves path and settings of that as they were.
        """
        nested = self.in_transaction
        before, after = _SAVEPOINT if nested else _TRANSACTION
        answer = self.send(f"{before}; {usual} {PIN_PATH} {sql}; {after}")
        if self.in_transaction and not nested:
            self.send("ROLLBACK")
        return answer

    def complaint(self, answer: Answer) -> OnwardError:
        """An error in a statement of ours, as the user's: busy, unsuitable or unreachable."""
        error = answer.error
        if error is None:
            return DatabaseUnavailable("the connection to the database was lost", next_step="Run again.")
        message = redact(f"{error.message} (SQLSTATE {error.sqlstate})", self.target)
        if error.sqlstate in BUSY:
            return TableBusy(f"the history is locked by another session: {message}", next_step="Run again later.")
        if error.sqlstate == "57014":
            return LockBusy(f"the history is locked by another session: {message}", next_step="Run again later.")
        if answer.lost or re.fullmatch(_AWAY, error.sqlstate or ""):
            return DatabaseUnavailable(f"the database is away: {message}", next_step="Run again.")
        if error.sqlstate == "42501":
            return DatabaseUnsuitable(message, next_step="Grant the role what it lacks, or use the owner's URL.")
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
        self._poll.register(self._pgconn.socket, events)
        while True:
            left = math.inf if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)
            interval = self.watch.interval if self.watch else math.inf
            longest = min(left, interval)
            ready = self._poll.poll(None if longest == math.inf else math.ceil(longest * 1000))
            if ready:
                return ready[0][1]
            if left <= interval:
                self._cancel_once()
            elif self.watch:
                self.watch.look()

    def _cancel_once(self) -> None:
        if self._cancelled:
            raise psycopg.OperationalError("the server did not answer the cancellation")
        self._cancelled, self.deadline = True, time.monotonic() + _GRACE
        self._connection.cancel_safe(timeout=1.0)

    def _take(self, result: pq.abc.PGresult, answer: Answer, keep: bool) -> None:
        match result.status:
            case pq.ExecStatus.SINGLE_TUPLE:
                if keep:
                    answer.rows.append(tuple(self._value(result, column) for column in range(result.nfields)))
            case pq.ExecStatus.COMMAND_OK | pq.ExecStatus.TUPLES_OK:
                answer.finished += 1
                if keep:
                    answer.tags.append((result.command_status or b"").decode())
            case pq.ExecStatus.FATAL_ERROR:
                answer.error = self._server_error(result)
            case pq.ExecStatus.EMPTY_QUERY:
                pass
            case _:  # COPY to or from the client: there is nobody to feed it, and no way out but to leave
                answer.error = ServerError("0A000", "COPY to or from the client cannot run in a migration")
                self._connection.close()
                raise psycopg.OperationalError

    def _receive(self, notice: pq.abc.PGresult) -> None:
        """Called by libpq, which would drop an exception: see `postponed`. So it calls nothing that is Python."""
        message = notice.error_field(_MESSAGE) or b""
        self._received.append((notice.error_field(_SEVERITY) or b"", message[:_NOTICE_READ], len(message)))
        self.notice_count += 1

    def _take_notices(self) -> None:
        for severity, message, size in self._received:
            text = self._shortened(message, size, _LONGEST_NOTICE)
            self.notices.append(f"{_decoded(severity, self._encodings())}: {text}")
        self._received.clear()

    def _server_error(self, result: pq.abc.PGresult) -> ServerError:
        position = self._said(result, pq.DiagnosticField.STATEMENT_POSITION)
        return ServerError(
            sqlstate=self._said(result, pq.DiagnosticField.SQLSTATE),
            message=self._said(result, pq.DiagnosticField.MESSAGE_PRIMARY) or self._text(result.error_message).strip(),
            detail=self._said(result, pq.DiagnosticField.MESSAGE_DETAIL),
            hint=self._said(result, pq.DiagnosticField.MESSAGE_HINT),
            context=self._said(result, pq.DiagnosticField.CONTEXT),
            constraint=self._said(result, pq.DiagnosticField.CONSTRAINT_NAME),
            position=int(position) if position else None,
        )

    def _value(self, result: pq.abc.PGresult, column: int) -> str | None:
        value = result.get_value(0, column)
        return None if value is None else _decoded(value, (self._parameter(b"client_encoding"), "UTF8"))

    def _said(self, result: pq.abc.PGresult, field: pq.DiagnosticField, longest: int = _LONGEST_TEXT) -> str | None:
        value = result.error_field(field)
        return None if value is None else self._text(value, longest)

    def _text(self, value: bytes, longest: int = _LONGEST_TEXT) -> str:
        return self._shortened(value[: longest + _LONGEST_SECRET], len(value), longest)

    def _shortened(self, begin: bytes, size: int, longest: int) -> str:
        """What the server says, as far as it is worth showing, and without secrets."""
        whole = len(begin) == size
        text = redact(_decoded(begin, self._encodings(), whole=whole), self.target)
        # Where they are not the whole, the last characters may be the beginning of a secret, which nothing recognizes.
        shown = longest if whole else min(longest, len(text) - _LONGEST_SECRET)
        return text if whole and len(text) <= longest else f"{text[:shown]}… ({size:,} bytes in all)"

    def _encodings(self) -> Iterator[str]:
        """What the server may have been speaking, the likeliest first.

        Where a file changes that, the server says so only behind its answer, and if the file fails, not at all.
        """
        yield "UTF8"  # what is not hardly ever looks like it
        yield self._parameter(b"client_encoding")
        yield from (found[1].decode() for found in _SETS_ENCODING.finditer(self._sent))

    def _encoded(self, sql: str) -> bytes:
        """A statement as the server will read it, should a file have changed that; else it would read other letters."""
        encoding = "UTF8" if self._knows_bytes_only else self._parameter(b"client_encoding")
        try:
            return sql.encode(_codec(encoding))
        except (LookupError, UnicodeEncodeError):
            return sql.encode()

    def _parameter(self, name: bytes) -> str:
        try:
            return (self._pgconn.parameter_status(name) or b"").decode()
        except psycopg.OperationalError:  # closed
            return ""

    def _abandon(self) -> None:
        try:
            self._connection.cancel_safe(timeout=1.0)
        except psycopg.Error:
            pass
        finally:
            self._connection.close()


def connect(
    target: Target,
    application_name: str,
    *,
    budget: Budget = CONNECT_BUDGET,
    deadline: float | None = None,
    say: Callable[[str], None] = silent,
) -> Session:
    """Open a session; tries again within the budget where that may help, and says so once, after one second.

    A statement that still runs at `deadline` (monotonic seconds) is cancelled. Raises DatabaseUnavailable, and
    ConfigError for what libpq refuses.
    """
    wait, pause = _Wait(target, time.monotonic() + budget.seconds, say), 0.1
    while True:
        outcome = _dial(target, application_name, wait)
        if isinstance(outcome, psycopg.Connection):
            return Session(outcome, target, deadline)
        failure, fate = _connect_failure(target, outcome), decide(outcome).fate
        absent = target.local and all(attempt.finds_nobody for attempt in outcome)
        if fate in (Fate.SETTING, Fate.FINAL) or (absent and not budget.absent) or wait.left < pause:
            raise failure
        wait.pause(pause * random.uniform(0.5, 1.0), failure.message)  # noqa: S311 - jitter, not a secret
        pause = min(pause * 2, 3.0)


def postponed(frame: FrameType | None, error: Exception) -> bool:
    """Whether an exception of a signal handler is not to be raised now, since libpq would drop it.

    It is raised by the session as soon as libpq returns.
    """
    if frame is None or frame.f_code is not Session._receive.__code__:
        return False
    frame.f_locals["self"]._postponed = error
    return True


def literal(value: str | int | None) -> str:
    """A value as SQL text: ASCII only and read alike whatever a file has set (encodings, string syntax)."""
    if value is None or isinstance(value, int):
        return "NULL" if value is None else str(value)
    return f"E'{_SPECIAL.sub(_escape, value)}'"


def identifier(name: str) -> str:
    """A name as SQL text, ASCII only like `literal`."""
    quoted = '"' + name.replace('"', '""') + '"'
    if name.isascii():
        return quoted
    return "U&" + "".join(char if " " <= char <= "~" and char != "\\" else f"\\+{ord(char):06X}" for char in quoted)


class _Wait:
    """How long a session is tried for, and what is said of it meanwhile."""

    def __init__(self, target: Target, last: float, say: Callable[[str], None]) -> None:
        self._last, self._say = last, say
        self._quiet_until = time.monotonic() + _SILENTLY
        self._unanswered = f"no answer yet from {target}"

    @property
    def left(self) -> float:
        """Seconds in which a session may still be had."""
        return self._last - time.monotonic()

    def pause(self, seconds: float, why: str) -> None:
        """Let some time pass, and say why if that makes it long."""
        quiet = min(seconds, max(0.0, self._quiet_until - time.monotonic()))
        time.sleep(quiet)
        self._tell(why)
        time.sleep(seconds - quiet)

    def ready(self, pgconn: pq.abc.PGconn, events: int, until: float) -> bool:
        """Wait until the socket is ready; not longer than `until` (monotonic seconds)."""
        waiting = poll()
        waiting.register(pgconn.socket, events)
        while (now := time.monotonic()) < until:
            longest = min(until, self._quiet_until if self._quiet_until > now else until) - now
            if waiting.poll(math.ceil(longest * 1000)):
                return True
            self._tell(self._unanswered)
        return False

    def _tell(self, why: str) -> None:
        """Say once why it takes so long, if it does."""
        if time.monotonic() >= self._quiet_until:
            self._say(f"{why}; trying again for {max(0, round(self.left))} s at most")
            self._say = silent


def _dial(target: Target, application_name: str, wait: _Wait) -> psycopg.Connection | list[Attempt]:
    """Try each address of each server once; what came of them if none lets us in."""
    patience = str(min(10, max(2, int(wait.left))))
    parameters = {**_DEFAULTS, "connect_timeout": patience, **target.parameters}
    parameters |= {"client_encoding": "utf8", "application_name": application_name}
    attempts: list[Attempt] = []
    for name in _PERSONAL:
        os.environ.pop(name, None)
    try:
        for address in conninfo_attempts(parameters):
            pgconn = pq.PGconn.connect_start(make_conninfo("", **address).encode())
            if (complaint := _shake_hands(pgconn, timeout_from_conninfo(address), wait)) is None:
                return psycopg.Connection(pgconn)
            attempts += read(complaint)
            pgconn.finish()
    except psycopg.Error as error:  # before anything was sent: the name of a host, or two lists of unlike length
        return [_not_dialled(str(error))]
    return attempts


def _shake_hands(pgconn: pq.abc.PGconn, seconds: float, wait: _Wait) -> str | None:
    """Bring a connection about; what libpq says if it fails."""
    until = time.monotonic() + seconds
    _verbose(pgconn)
    if pgconn.status == pq.ConnStatus.BAD:
        return pgconn.get_error_message("utf-8")
    while (status := pgconn.connect_poll()) in _EVENTS:
        if not wait.ready(pgconn, _EVENTS[status], until):
            host, port = pgconn.host.decode(), pgconn.port.decode()
            return f'connection to server at "{host}", port {port} failed: timeout expired'
    if status != pq.PollingStatus.OK:
        return pgconn.get_error_message("utf-8")
    pgconn.nonblocking = 1
    return None


def _not_dialled(message: str) -> Attempt:
    number = re.search(r"failed to resolve host .*\[Errno (-?\d+)\]", message)
    return unresolved(message, passes=int(number[1]) == socket.EAI_AGAIN) if number else read(message)[0]


def _connect_failure(target: Target, attempts: list[Attempt]) -> ConfigError | DatabaseUnavailable:
    deciding = decide(attempts)
    reasons = redact("; ".join(dict.fromkeys(attempt.text for attempt in attempts)), target)
    kind = PasswordRefused if any(attempt.refuses_credentials for attempt in attempts) else DatabaseUnavailable
    if deciding.fate is Fate.SETTING:
        return ConfigError(f"libpq refuses {target}: {reasons}", next_step=advise(deciding))
    return kind(f"no session with {target}: {reasons}", next_step=advise(deciding))


def _decoded(value: bytes, encodings: Iterable[str], *, whole: bool = True) -> str:
    for encoding in encodings:
        try:
            # Incremental: where they are not the whole, the last bytes may be the beginning of a character.
            return codecs.getincrementaldecoder(_codec(encoding))().decode(value, final=whole)
        except (LookupError, UnicodeDecodeError):
            continue
    return value.decode("ascii", "backslashreplace")


def _codec(encoding: str) -> str:
    """Python's name for an encoding of Postgres'."""
    return re.sub(r"(?i)^win(?=\d)", "cp", encoding).replace("KOI8", "KOI8_")


def _escape(special: re.Match[str]) -> str:
    code = ord(special[0])
    return f"\\U{code:08X}" if code > 127 else f"\\x{code:02X}"
