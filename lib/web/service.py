"""What both routes and Lambda's direct events do, and the one place where errors become answers and
log lines.

Nobody outside learns what a server, a driver or an unknown exception said: it may hold a URL or a
row. The log gets the redacted words of our own errors and of unknown exceptions, and of a failed
migration only where and which SQLSTATE.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Self

from lib import runner
from lib.errors import (
    ConfigError,
    DatabaseUnavailable,
    LockBusy,
    MigrationFailed,
    OnwardError,
    PasswordRefused,
)
from lib.plan import History, Plan
from lib.postgres.connecting import READ_BUDGET, Budget
from lib.postgres.executor import Executor
from lib.report.document import done_dict, run_dict, status_dict, summary_dict, validation_dict
from lib.settings.config import Config, read_config, read_duration
from lib.settings.database_url import configured_urls, redact
from lib.settings.environ import URL_VARIABLES
from lib.source.migration import Migration, load, require_runnable
from lib.web.auth import bearer_secret
from lib.web.threads import AllBusy, Shared, Workers

ACTIONS = ("migrate", "status", "validate")
_SECRETS = {"current": "MIGRATION_SECRET", "previous": "MIGRATION_SECRET_PREVIOUS"}
_STATUSES = {"full": status_dict, "summary": summary_dict, "off": None}  # MIGRATION_STATUS
_SHARED_FOR = 2.0
# The public status: for connecting, for its one statement, and for both.
_CONNECT, _STATEMENT, _READ = 2.0, 1.5, 4.0
# And for an answer, whatever else does not answer: a store of secrets, a resolver of names, several
# hosts in a row.
STATUS_SECONDS = 4.5
# What the secret's owner may have done at a time, each on a connection of its own, and how long one
# more waits.
_AT_ONCE, QUEUE_SECONDS = 8, 2.0
_SHORTEST_RUN = (
    runner.SHUTDOWN_MARGIN_SECONDS + 0.2
)  # less leaves no time to read what there is to do
_AGAIN = ("busy", "database_unavailable")
_MESSAGES = {
    "not_configured": "The server is not configured for this; its log says which variable.",
    "invalid_files": "The migration files of this deployment cannot be used; its log says why.",
    "history_conflict": "The files and the database's history disagree; nothing was run.",
    "not_empty": "This database has tables but no migration history; nothing was run.",
    "untrusted_history": "The migration history belongs to a role that is not trusted; nothing was "
    "run.",
    "wrong_environment": "This environment may not change this database; nothing was run.",
    "busy": "Another run, or another session's lock, is in the way; try again.",
    "database_unavailable": "The database cannot be used now.",
    "history_hidden": "Row security hides the migration history from this role.",
    "migration_failed": "A migration failed and was rolled back.",
    "partly_applied": "A migration failed, and part of what it did stays; look at the database "
    "before anything else.",
    "outcome_unknown": "A commit was not answered; look at the status before anything else.",
    "interrupted": "The run was interrupted; what was not committed is rolled back.",
    "internal": "Internal error.",
}

Resolve = Callable[[Mapping[str, str], Sequence[str]], Iterable[Mapping[str, str]]]
LogEntry = dict[str, Any]


class ApiResult(NamedTuple):
    """A status code and a document: what HTTP sends and a direct event returns."""

    status: int
    document: dict[str, Any]
    headers: Mapping[str, str] = MappingProxyType({})


class Refused(Exception):
    """A request that goes no further; the answer says why."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code)
        document = {"success": False, "error": {"code": code, "message": message}}
        self.answer = ApiResult(status, document, dict(headers or {}))


class Exchange:
    """A request under way: whatever is raised within becomes its answer, and its end is a line in
    the log.
    """

    def __init__(self, action: str | None, redacted: Callable[[str], str]) -> None:
        self.answer = ApiResult(500, {})
        self.entry: LogEntry = {"requestId": secrets.token_hex(16), "action": action}
        self._redacted = redacted
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, Exception):
            self.answer = self._answer_to(error)
        elif error is not None:
            return False
        self.entry["durationMs"] = round((time.monotonic() - self._started) * 1000)
        _log(self.entry | _outcome(self.answer))
        headers = {**self.answer.headers, "X-Request-Id": self.entry["requestId"]}
        self.answer = self.answer._replace(headers=headers)
        return True

    def _answer_to(self, error: Exception) -> ApiResult:
        match error:
            case Refused():
                return error.answer
            case OnwardError():
                self.entry["reason"] = self._redacted(error.message)
                return _error_answer(error)
        self.entry["reason"] = self._redacted(f"{type(error).__name__}: {error}")
        frames = traceback.extract_tb(error.__traceback__)
        self.entry["where"] = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
        return Refused(500, "internal", _MESSAGES["internal"]).answer


class _Files:
    """The migration files: read once, and again when the directory looks otherwise, as a deployed
    one never does.
    """

    def __init__(self) -> None:
        self._read: tuple[object, tuple[Migration, ...]] = None, ()

    def load(self, directory: Path) -> tuple[Migration, ...]:
        """What `migration.load` returns and raises."""
        looks = _looks(directory)
        if looks is None or looks != self._read[0]:
            self._read = looks, load(directory)
        return self._read[1]


def _looks(directory: Path) -> object:
    """What changes when a file does; None if that cannot be told."""
    try:
        with os.scandir(directory) as entries:
            stats = {entry.name: entry.stat() for entry in entries}
    except OSError:
        return None
    return {
        name: (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        for name, stat in stats.items()
    }


def _as_it_is(environ: Mapping[str, str], _: Sequence[str]) -> Iterable[Mapping[str, str]]:
    return (environ,)


class Service:
    """What the routes do.

    `resolve` completes variables of the environment, for instance from a store of secrets. It
    yields environments: each next one is asked for when the database refuses the password of the
    last.
    """

    def __init__(self, environ: Mapping[str, str], resolve: Resolve = _as_it_is) -> None:
        self._environ = environ
        self._resolve = resolve
        self._resolved: dict[str, str] = {}
        self._files = _Files()
        self._status = Shared(self._read_status, seconds=_SHARED_FOR)
        self._secrets = Shared(self._read_secrets, seconds=0.0)
        self._workers = Workers(_AT_ONCE, patience=QUEUE_SECONDS)

    @property
    def hides_status(self) -> bool:
        """Whether there is to be no public status."""
        return self._shown == "off"

    async def public_status(self) -> ApiResult:
        """The public status: read by one connection at a time, shared, and never waited for longer.
        Never raises.
        """
        try:
            return await asyncio.wait_for(self._status.get(), STATUS_SECONDS)
        except TimeoutError:
            with self.exchange("public_status") as exchange:
                raise DatabaseUnavailable(
                    f"the status was not read within {STATUS_SECONDS:g} s"
                ) from None
            return exchange.answer

    async def secrets(self) -> dict[str, bytes]:
        """The secrets by slot. Raises ConfigError naming the variable of one that is missing or
        cannot be one.
        """
        return await self._secrets.get()

    def act(self, action: str, *, applied_by: str, seconds: float | None = None) -> ApiResult:
        """`perform` in this thread, for those whom nobody needs to ask for a secret. Never raises."""
        deadline = None if seconds is None else time.monotonic() + seconds
        with self.exchange(action) as exchange:
            exchange.answer = self._perform(action, applied_by, deadline)
        return exchange.answer

    async def perform(self, action: str, *, applied_by: str, deadline: float | None) -> ApiResult:
        """Do one of ACTIONS; a run before a deadline in monotonic seconds, else within
        MIGRATION_HTTP_BUDGET.

        Raises OnwardError. Who leaves does not end it.
        """
        try:
            return await self._workers.run(partial(self._perform, action, applied_by, deadline))
        except AllBusy:
            raise LockBusy(
                f"{_AT_ONCE} other requests with the secret are being worked on"
            ) from None

    def exchange(self, action: str | None = None) -> Exchange:
        """A request, to be used as a context manager, which raises nothing."""
        return Exchange(action, self._redacted)

    def _read_status(self) -> ApiResult:
        with self.exchange("public_status") as exchange:
            exchange.answer = self._connected("api", self._public_status)
        return exchange.answer

    def _read_secrets(self) -> dict[str, bytes]:
        environ = next(iter(self._environments(tuple(_SECRETS.values()))))
        found = {}
        for slot, variable in _SECRETS.items():
            text = environ.get(variable, "").strip()
            if text or slot == "current":
                found[slot] = bearer_secret(variable, text)
        return found

    def _perform(self, action: str, applied_by: str, deadline: float | None) -> ApiResult:
        if action != "migrate":
            return self._connected(
                applied_by, {"status": self._full_status, "validate": self._validate}[action]
            )
        if deadline is None:
            deadline = time.monotonic() + read_duration(
                self._environ, "MIGRATION_HTTP_BUDGET", "25s"
            )
        if (seconds := deadline - time.monotonic()) < _SHORTEST_RUN:
            raise ConfigError(
                f"{seconds:.1f} s are not enough: give MIGRATION_HTTP_BUDGET or the function more "
                "time"
            )
        try:
            return self._connected(applied_by, partial(_migrate, deadline=deadline))
        finally:
            self._status.forget()  # whatever the run has done, it is news

    def _connected(self, applied_by: str, work: Callable[[Config], ApiResult]) -> ApiResult:
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

    def _look(
        self, config: Config, *, budget: Budget = READ_BUDGET, **connecting: Any
    ) -> tuple[History, Plan]:
        migrations = self._files.load(config.directory)
        with Executor(config, budget=budget, **connecting) as database:
            return runner.read_plan(config, database, migrations)

    @property
    def _shown(self) -> str:
        return self._environ.get("MIGRATION_STATUS", "").strip().lower() or "full"

    def _public_status(self, config: Config) -> ApiResult:
        shown = _STATUSES.get(self._shown)
        if not shown:
            raise ConfigError(
                f"MIGRATION_STATUS is {self._shown!r}; it can be {', '.join(_STATUSES)}"
            )
        config = config._replace(statement_timeout=_STATEMENT)
        deadline = time.monotonic() + _READ
        try:
            found = self._look(
                config,
                url=config.status_url,
                budget=READ_BUDGET.within(_CONNECT),
                deadline=deadline,
            )
        except LockBusy as error:  # a conflict for who wants to change something; who only looks has nothing to resolve
            raise DatabaseUnavailable(error.message) from None
        return ApiResult(200, shown(config, *found))

    def _full_status(self, config: Config) -> ApiResult:
        return ApiResult(200, status_dict(config, *self._look(config), full=True))

    def _validate(self, config: Config) -> ApiResult:
        _, plan = self._look(config)
        require_runnable(plan.pending)
        document = validation_dict(plan)
        return ApiResult(200 if document["success"] else 409, document)

    def _redacted(self, text: str) -> str:
        for variable in _SECRETS.values():
            text = text.replace(self._resolved.get(variable, "").strip() or "\0", "***")
        return redact(text, *configured_urls(self._resolved))


def _migrate(config: Config, deadline: float) -> ApiResult:
    run = runner.run(config._replace(lock_wait=0.0), lambda _: None, deadline=deadline)
    return ApiResult(202 if run.remaining else 200, run_dict(run))


def _error_answer(error: OnwardError) -> ApiResult:
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
        answer.document["applied"] = [done_dict(done) for done in error.applied]
        answer.document["remaining"] = list(error.remaining)
    return answer


def _outcome(answer: ApiResult) -> LogEntry:
    """What the log says of an answer."""
    error = dict(answer.document.get("error", {}))
    error.pop("message", None)
    outcome = error.pop("code", None) or answer.document.get("state", "ok")
    applied = [one["version"] for one in answer.document.get("applied", ())]
    return {"status": answer.status, "outcome": outcome, "applied": applied, **error}


def _log(entry: LogEntry) -> None:
    """One JSON object on one line of stdout, where every platform collects it."""
    sys.stdout.write(json.dumps(entry) + "\n")
    sys.stdout.flush()
