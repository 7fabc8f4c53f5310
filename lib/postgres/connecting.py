"""Open a connection: each address of each server in turn, again where another try may succeed."""

from __future__ import annotations

import ctypes
import math
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from select import POLLIN, POLLOUT, poll
from typing import Any, NamedTuple

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_attempts, make_conninfo, timeout_from_conninfo

from lib.errors import (
    AccessRefused,
    ConfigError,
    DatabaseUnavailable,
    HostUnknown,
    HostUnreachable,
    PasswordRefused,
)
from lib.postgres.connect_failure import Attempt, Fate, advise, decide, read, unresolved
from lib.postgres.connection import Connection
from lib.retry import Backoff
from lib.settings.database_url import DatabaseURL, redact

QUIET_RETRY_SECONDS = 1.0  # a server that is back so soon is not worth a line
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 3.0
# Without these settings a server that vanished keeps its client waiting for ever. A URL may set
# others.
_KEEPALIVES = {
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
# libpq makes session settings of these. A file must mean the same whoever runs it.
_PERSONAL_VARIABLES = ("PGDATESTYLE", "PGGEQO", "PGTZ")
_POLL_EVENTS: dict[int, int] = {
    pq.PollingStatus.READING: POLLIN,
    pq.PollingStatus.WRITING: POLLOUT,
}
_SHOW_SQLSTATE = 2  # PQERRORS_VERBOSE


class Budget(NamedTuple):
    """How long to try to connect, in seconds, and whether to wait for a local server to start."""

    seconds: float = 20.0
    waits_for_local_server: bool = True

    def within(self, seconds: float) -> Budget:
        """This budget, but at most so many seconds."""
        return self._replace(seconds=max(0.0, min(self.seconds, seconds)))


CONNECT_BUDGET = Budget()
# A command that only reads reports at once that the server on this machine is not running.
READ_BUDGET = Budget(waits_for_local_server=False)


def ignore(_: str) -> None:
    """Drop a message."""


def connect(
    url: DatabaseURL,
    application_name: str,
    *,
    budget: Budget = CONNECT_BUDGET,
    deadline: float | None = None,
    tell: Callable[[str], None] = ignore,
) -> Connection:
    """Open a connection; retry within the budget where that may help, and tell so once.

    A statement that still runs at `deadline` (monotonic seconds) is cancelled. Raises
    DatabaseUnavailable, mostly one of its subclasses, and ConfigError for a setting that libpq
    refuses.
    """
    backoff = Backoff(
        budget.seconds, first=FIRST_PAUSE_SECONDS, factor=2.0, longest=LONGEST_PAUSE_SECONDS
    )
    backoff.start()
    progress = _Progress(url, backoff, tell)
    while True:
        outcome = _connect_once(url, application_name, progress)
        if isinstance(outcome, psycopg.Connection):
            return Connection(outcome, url, deadline)
        failure = _failure(url, outcome)
        pause = backoff.next_pause() if _is_worth_a_retry(url, outcome, budget) else None
        if pause is None:
            raise failure
        progress.sleep(pause, failure.message)


def _is_worth_a_retry(url: DatabaseURL, attempts: list[Attempt], budget: Budget) -> bool:
    if decide(attempts).fate in (Fate.SETTING, Fate.FINAL):
        return False
    not_running_here = url.local and all(attempt.finds_nobody for attempt in attempts)
    return budget.waits_for_local_server or not not_running_here


class _Progress:
    """Waits on behalf of `connect`, and tells once, after a second, what it waits for."""

    def __init__(self, url: DatabaseURL, backoff: Backoff, tell: Callable[[str], None]) -> None:
        self._backoff = backoff
        self._tell = tell
        self._quiet_until = time.monotonic() + QUIET_RETRY_SECONDS
        self._unanswered = f"no answer yet from {url}"

    @property
    def seconds_left(self) -> float:
        """Until the budget ends."""
        return self._backoff.seconds_left

    def sleep(self, seconds: float, reason: str) -> None:
        """Sleep, and tell the reason once the wait is worth a line."""
        quiet = min(seconds, max(0.0, self._quiet_until - time.monotonic()))
        time.sleep(quiet)
        self._tell_once(reason)
        time.sleep(seconds - quiet)

    def wait_for_socket(self, pgconn: pq.abc.PGconn, events: int, until: float) -> bool:
        """Whether the socket is ready before `until` (monotonic seconds)."""
        socket_poll = poll()
        socket_poll.register(pgconn.socket, events)
        while (now := time.monotonic()) < until:
            wake_at = min(until, self._quiet_until) if self._quiet_until > now else until
            if socket_poll.poll(math.ceil((wake_at - now) * 1000)):
                return True
            self._tell_once(self._unanswered)
        return False

    def _tell_once(self, reason: str) -> None:
        if time.monotonic() >= self._quiet_until:
            self._tell(f"{reason}; retrying for up to {max(0, round(self.seconds_left))} s")
            self._tell = ignore


def _connect_once(
    url: DatabaseURL, application_name: str, progress: _Progress
) -> psycopg.Connection | list[Attempt]:
    """Try each address of each server once. Return a connection, or why each attempt failed."""
    timeout = min(10, max(2, int(progress.seconds_left)))
    parameters = {**_KEEPALIVES, "connect_timeout": str(timeout), **url.parameters}
    parameters |= {"client_encoding": "utf8", "application_name": application_name}
    for name in _PERSONAL_VARIABLES:
        os.environ.pop(name, None)
    attempts: list[Attempt] = []
    try:
        for address in conninfo_attempts(parameters):
            pgconn = pq.PGconn.connect_start(make_conninfo("", **address).encode())
            error = _handshake(pgconn, timeout_from_conninfo(address), progress)
            if error is None:
                return psycopg.Connection(pgconn)
            attempts += read(error)
            pgconn.finish()
    except psycopg.Error as error:
        # Raised before anything was sent: a host name, or lists of hosts and ports that differ in
        # length.
        return [_not_started(str(error))]
    return attempts


def _handshake(pgconn: pq.abc.PGconn, seconds: float, progress: _Progress) -> str | None:
    """Finish a connection that has been started. Return libpq's message if that fails."""
    until = time.monotonic() + seconds
    _show_sqlstate(pgconn)
    if pgconn.status == pq.ConnStatus.BAD:
        return pgconn.get_error_message("utf-8")
    while (status := pgconn.connect_poll()) in _POLL_EVENTS:
        if not progress.wait_for_socket(pgconn, _POLL_EVENTS[status], until):
            host, port = pgconn.host.decode(), pgconn.port.decode()
            return f'connection to server at "{host}", port {port} failed: timeout expired'
    if status != pq.PollingStatus.OK:
        return pgconn.get_error_message("utf-8")
    pgconn.nonblocking = 1
    return None


def _show_sqlstate(pgconn: pq.abc.PGconn) -> None:
    """Make libpq report the SQLSTATE of a failed connection, for which psycopg has no method.

    The function is taken from the libpq that psycopg has loaded: beneath its compiled module, or
    held by its Python module. Where it is not found, failures are recognised by PostgreSQL's
    English texts.
    """
    with suppress(AttributeError, OSError, TypeError):
        pointer = ctypes.c_void_p(pgconn.pgconn_ptr)  # type: ignore[attr-defined]
        _libpq().PQsetErrorVerbosity(pointer, _SHOW_SQLSTATE)


@cache
def _libpq() -> Any:
    module = sys.modules[pq.PGconn.__module__]
    return module.impl.pq if hasattr(module, "impl") else ctypes.CDLL(module.__file__)


def _not_started(message: str) -> Attempt:
    number = re.search(r"failed to resolve host .*\[Errno (-?\d+)\]", message)
    if number is None:
        return read(message)[0]
    return unresolved(message, passes=int(number[1]) == socket.EAI_AGAIN)


def _failure(url: DatabaseURL, attempts: list[Attempt]) -> ConfigError | DatabaseUnavailable:
    deciding = decide(attempts)
    reasons = redact("; ".join(dict.fromkeys(attempt.text for attempt in attempts)), url)
    if deciding.fate is Fate.SETTING:
        return ConfigError(f"libpq refuses {url}: {reasons}", next_step=advise(deciding))
    message, advice = f"cannot connect to {url}: {reasons}", advise(deciding)
    if kind := _refusal(attempts):
        return kind(message, next_step=advice, sqlstate=deciding.sqlstate or None)
    return _unavailable(attempts)(message, next_step=advice)


def _refusal(attempts: list[Attempt]) -> type[AccessRefused] | None:
    if any(attempt.refuses_credentials for attempt in attempts):
        return PasswordRefused
    deciding = decide(attempts)
    is_answer = deciding.fate is Fate.FINAL and not deciding.reaches_nobody
    return AccessRefused if is_answer else None


def _unavailable(attempts: list[Attempt]) -> type[DatabaseUnavailable]:
    if not all(attempt.reaches_nobody for attempt in attempts):
        return DatabaseUnavailable
    return HostUnknown if decide(attempts).fate is Fate.FINAL else HostUnreachable
