"""What both routes and Lambda's direct events do, and the one place where errors become answers and log lines.

Nobody outside learns what a server, a driver or an unknown exception said: it may hold a URL or a row. The log gets
the redacted words of our own errors and of unknown exceptions, and of a failed migration only where and which SQLSTATE.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, NamedTuple

from lib import report, runner
from lib.config import URL_VARIABLES, Config, named_targets, read_config, read_duration, redact
from lib.database import Database
from lib.errors import ConfigError, DatabaseUnavailable, LockBusy, MigrationFailed, OnwardError, PasswordRefused
from lib.history import History
from lib.migration import load, refuse
from lib.plan import Plan

ACTIONS = ("migrate", "status", "validate")
LONGEST_SECRET = 1024
_SHORTEST_SECRET = 32
_SECRETS = {"current": "MIGRATION_SECRET", "previous": "MIGRATION_SECRET_PREVIOUS"}
_SHARED_FOR = 2.0
# The public status: for connecting, for its one statement, and for both.
_CONNECT, _STATEMENT, _READ = 2.0, 1.5, 4.0
_SHORTEST_RUN = runner.MARGIN + 0.2  # less leaves no time to read what there is to do
_AGAIN = ("busy", "database_unavailable")
_MESSAGES = {
    "not_configured": "The server is not configured for this; its log says which variable.",
    "invalid_files": "The migration files of this deployment cannot be used; its log says why.",
    "history_conflict": "The files and the database's history disagree; nothing was run.",
    "not_empty": "This database has tables but no migration history; nothing was run.",
    "untrusted_history": "The migration history belongs to a role that is not trusted; nothing was run.",
    "wrong_environment": "This environment may not change this database; nothing was run.",
    "busy": "Another run, or another session's lock, is in the way; try again.",
    "database_unavailable": "The database cannot be used now.",
    "history_hidden": "Row security hides the migration history from this role.",
    "migration_failed": "A migration failed and was rolled back.",
    "partly_applied": "A migration failed, and part of what it did stays; look at the database before anything else.",
    "outcome_unknown": "A commit was not answered; look at the status before anything else.",
    "interrupted": "The run was interrupted; what was not committed is rolled back.",
    "internal": "Internal error.",
}

Resolve = Callable[[Mapping[str, str], Sequence[str]], Iterable[Mapping[str, str]]]
Entry = dict[str, Any]


class Answer(NamedTuple):
    """A status code and a document: what HTTP sends and a direct event returns."""

    status: int
    document: dict[str, Any]
    headers: Mapping[str, str] = MappingProxyType({})


class Refused(Exception):
    """A request that goes no further; the answer says why."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(code)
        document = {"success": False, "error": {"code": code, "message": message}}
        self.answer = Answer(status, document, dict(headers or {}))


def _as_it_is(environ: Mapping[str, str], _: Sequence[str]) -> Iterable[Mapping[str, str]]:
    return (environ,)


class Service:
    """What the routes do.

    `resolve` completes variables of the environment, for instance from a store of secrets. It yields environments: each
    next one is asked for when the database refuses the password of the last.
    """

    def __init__(self, environ: Mapping[str, str], resolve: Resolve = _as_it_is) -> None:
        self._environ = environ
        self._resolve = resolve
        self._resolved: dict[str, str] = {}
        self._reading = Lock()
        self._reads = 0
        self._shared = 0.0, Answer(503, {})

    def recent_status(self) -> Answer | None:
        """The public status, if there is one of the last two seconds."""
        began, answer = self._shared
        # The wall clock, since a frozen function's monotonic one may stand still; one that is set only costs a read.
        return answer if 0 <= time.time() - began <= _SHARED_FOR else None

    def public_status(self) -> Answer:
        """The public status: read by one connection at a time, and shared. Never raises."""
        begun_before = self._reads
        with self._reading:
            # A read that began after this request came is news to it, however long the read took.
            if self._reads == begun_before and not self.recent_status():
                self._reads, began = self._reads + 1, time.time()
                self._shared = began, self.answer(lambda _: self._connected("api", _public_status), "public_status")
            return self._shared[1]

    def act(self, action: str, *, applied_by: str, seconds: float | None = None) -> Answer:
        """`perform`, for those whom nobody needs to ask for a secret. Never raises."""
        return self.answer(lambda _: self.perform(action, applied_by=applied_by, seconds=seconds), action)

    def perform(self, action: str, *, applied_by: str, seconds: float | None) -> Answer:
        """Do one of ACTIONS; a run within `seconds`, else within MIGRATION_HTTP_BUDGET. Raises OnwardError."""
        if action != "migrate":
            return self._connected(applied_by, {"status": _full_status, "validate": _validate}[action])
        if seconds is None:
            seconds = read_duration(self._environ, "MIGRATION_HTTP_BUDGET", "25s")
        if seconds < _SHORTEST_RUN:
            raise ConfigError(f"{seconds:g} s are not enough: give MIGRATION_HTTP_BUDGET or the function more time")
        deadline = time.monotonic() + seconds
        return self._connected(applied_by, lambda config: _migrate(config, deadline))

    def secrets(self) -> dict[str, bytes]:
        """The secrets by slot. Raises ConfigError naming the variable of one that is missing, too short or too long."""
        environ = next(iter(self._environments(tuple(_SECRETS.values()))))
        found = {}
        for slot, variable in _SECRETS.items():
            secret = environ.get(variable, "").strip().encode(errors="surrogateescape")
            if (secret or slot == "current") and not _SHORTEST_SECRET <= len(secret) <= LONGEST_SECRET:
                raise ConfigError(f"{variable} must have {_SHORTEST_SECRET} to {LONGEST_SECRET} bytes")
            found[slot] = secret
        return {slot: secret for slot, secret in found.items() if secret}

    def answer(self, work: Callable[[Entry], Answer], action: str | None = None) -> Answer:
        """What comes of some work, which may add to the log's entry. Never raises."""
        entry: Entry = {"requestId": secrets.token_hex(16), "action": action}
        started = time.monotonic()
        try:
            answer = work(entry)
        except Refused as refused:
            answer = refused.answer
        except OnwardError as error:
            answer = _error_answer(error)
            entry["reason"] = self._redacted(error.message)
        except Exception as error:
            answer = Refused(500, "internal", _MESSAGES["internal"]).answer
            entry["reason"] = self._redacted(f"{type(error).__name__}: {error}")
            frames = traceback.extract_tb(error.__traceback__)
            entry["where"] = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
        entry["durationMs"] = round((time.monotonic() - started) * 1000)
        _log(entry | _outcome(answer))
        return answer._replace(headers={**answer.headers, "X-Request-Id": entry["requestId"]})

    def _connected(self, applied_by: str, work: Callable[[Config], Answer]) -> Answer:
        failure: OnwardError = ConfigError("no environment was resolved")
        for environ in self._environments(URL_VARIABLES):
            try:
                return work(read_config(environ, applied_by=applied_by))
            except PasswordRefused as error:
                if error.applied is not None:
                    raise
                failure = error
        raise failure

    def _environments(self, variables: Sequence[str]) -> Iterator[Mapping[str, str]]:
        for environ in self._resolve(self._environ, variables):
            self._resolved |= {name: environ[name] for name in variables if name in environ}
            yield environ

    def _redacted(self, text: str) -> str:
        for variable in _SECRETS.values():
            text = text.replace(self._resolved.get(variable, "").strip() or "\0", "***")
        return redact(text, *named_targets(self._resolved))


def _look(config: Config, **connecting: Any) -> tuple[History, Plan]:
    migrations = load(config.directory)
    with Database(config, **connecting) as database:
        return runner.look(config, database, migrations)


def _public_status(config: Config) -> Answer:
    config = config._replace(statement_timeout=_STATEMENT)
    deadline = time.monotonic() + _READ
    try:
        found = _look(config, target=config.status_target, budget=_CONNECT, deadline=deadline)
    except LockBusy as error:  # a conflict for who wants to change something; who only looks has nothing to resolve
        raise DatabaseUnavailable(error.message) from None
    return Answer(200, report.status_dict(config, *found))


def _full_status(config: Config) -> Answer:
    return Answer(200, report.status_dict(config, *_look(config), full=True))


def _validate(config: Config) -> Answer:
    _, plan = _look(config)
    refuse(plan.pending)
    document = report.validation_dict(plan)
    return Answer(200 if document["success"] else 409, document)


def _migrate(config: Config, deadline: float) -> Answer:
    run = runner.run(config._replace(wait=0.0), lambda _: None, deadline=deadline)
    return Answer(202 if run.remaining else 200, report.run_dict(run))


def _error_answer(error: OnwardError) -> Answer:
    headers = {"Retry-After": "5"} if error.code in _AGAIN else {}
    answer = Refused(error.http_status, error.code, _MESSAGES[error.code], headers).answer
    if isinstance(error, MigrationFailed):
        failure = error.failure
        answer.document["error"] |= {
            "version": failure.version,
            "sqlstate": failure.server.sqlstate,
            "constraint": failure.server.constraint,
            "line": failure.line,
        }
    if error.applied is not None:
        answer.document["applied"] = [report.done_dict(done) for done in error.applied]
        answer.document["remaining"] = list(error.remaining)
    return answer


def _outcome(answer: Answer) -> Entry:
    """What the log says of an answer."""
    error = dict(answer.document.get("error", {}))
    error.pop("message", None)
    outcome = error.pop("code", None) or answer.document.get("state", "ok")
    applied = [one["version"] for one in answer.document.get("applied", ())]
    return {"status": answer.status, "outcome": outcome, "applied": applied, **error}


def _log(entry: Entry) -> None:
    """One JSON object on one line of stdout, where every platform collects it."""
    sys.stdout.write(json.dumps(entry) + "\n")
    sys.stdout.flush()
