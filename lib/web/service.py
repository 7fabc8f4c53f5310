"""What both routes and the direct events on Lambda do: read the status, validate, migrate.

Nobody outside learns what a server, a driver or an unknown exception said, because that may hold a
URL or a row. The log gets the words of Onward's own errors and of unknown exceptions, without
secrets; of a failed migration it gets the place and the SQLSTATE only.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lib import runner
from lib.activity import Asked
from lib.errors import ConfigError, DatabaseUnavailable, LockBusy, OnwardError, PasswordRefused
from lib.history import History
from lib.plan import Plan
from lib.postgres.connecting import READ_BUDGET, Budget
from lib.postgres.executor import Executor
from lib.report.document import run_dict, status_dict, summary_dict, validation_dict
from lib.settings.config import Config, read_config, read_duration
from lib.settings.environ import URL_VARIABLES
from lib.settings.environment import read_environment
from lib.settings.redactor import Redactor
from lib.source.migration import Migration, load
from lib.validation import validate
from lib.web.auth import bearer_secret
from lib.web.request_log import LogEntry
from lib.web.result import ApiResult, error_result
from lib.web.threads import AllBusy, Shared, Workers
from lib.webhook import SECRET_VARIABLE, URL_VARIABLE, Webhook

T = TypeVar("T")

ACTIONS = ("migrate", "status", "validate")
MIN_RUN_SECONDS = runner.SHUTDOWN_MARGIN_SECONDS + 0.2  # less leaves no time to read the history
_SECRET_VARIABLES = {"current": "MIGRATION_SECRET", "previous": "MIGRATION_SECRET_PREVIOUS"}
_STATUS_DOCUMENTS = {"full": status_dict, "summary": summary_dict, "off": None}  # MIGRATION_STATUS

Resolve = Callable[[Mapping[str, str], Sequence[str]], Iterable[Mapping[str, str]]]
"""Completes variables of an environment, for instance from a store of secrets.

It yields environments. Each next one is asked for when the database refuses the last one's
password.
"""


class Limits(NamedTuple):
    """How much one instance does at a time, and how long it takes for it at most."""

    status_connect_seconds: float = 2.0
    status_statement_seconds: float = 1.5
    status_read_seconds: float = 4.0
    """For connecting and for the one statement together."""
    status_seconds: float = 4.5
    """For an answer, whatever else takes long: a store of secrets, a name server, several hosts."""
    status_shared_seconds: float = 2.0
    """How long an answer is given to others after it was read."""
    workers: int = 8
    """How many requests with the secret are worked on, each with a connection of its own."""
    queue_seconds: float = 2.0
    """How long one more of them waits for a worker."""


DEFAULT_LIMITS = Limits()


def with_config(
    environments: Iterable[Mapping[str, str]], applied_by: str, work: Callable[[Config], T]
) -> T:
    """Do the work with the configuration, and if the password is refused with the next one.

    Not once a run has begun: then its error is RunFailed. Raises what the work raises.
    """
    failure: OnwardError = ConfigError("no environment was resolved")
    for environ in environments:
        try:
            return work(read_config(environ, applied_by=applied_by))
        except PasswordRefused as error:
            failure = error
    raise failure


def as_given(environ: Mapping[str, str], _: Sequence[str]) -> Iterable[Mapping[str, str]]:
    """Resolve nothing."""
    return (environ,)


class Service:
    """One instance: its environment, its limits, and the status that its requests share."""

    def __init__(
        self,
        environ: Mapping[str, str],
        resolve: Resolve = as_given,
        *,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.limits = limits
        self._environ = environ
        self._resolve = resolve
        self._resolved: dict[str, str] = {}
        self._files = _FileCache()
        self._status = Shared(self._read_status, seconds=limits.status_shared_seconds)
        self._secrets = Shared(self._read_secrets, seconds=0.0)
        self._workers = Workers(limits.workers, queue_seconds=limits.queue_seconds)

    @property
    def hides_status(self) -> bool:
        """Whether there is no public status."""
        return self._status_setting == "off"

    async def public_status(self) -> ApiResult:
        """The public status. One connection at a time reads it for all who ask. Never raises."""
        try:
            return await asyncio.wait_for(self._status.get(), self.limits.status_seconds)
        except TimeoutError:
            entry = LogEntry("public_status")
            late = DatabaseUnavailable(
                f"the status was not read within {self.limits.status_seconds:g} s"
            )
            return entry.write(self.error_result(late, entry))

    def forget_status(self) -> None:
        """Who asks for the public status from now on gets one that is read from now on."""
        self._status.forget()

    async def secrets(self) -> dict[str, bytes]:
        """The bearer secrets, as `current` and `previous`.

        Raises ConfigError, which names the variable, if one is missing or cannot be a secret.
        """
        return await self._secrets.get()

    async def perform(self, action: str, *, applied_by: str, deadline: float | None) -> ApiResult:
        """Do one of ACTIONS in a worker's thread. Raises OnwardError.

        A run ends before the deadline, in monotonic seconds; without one, within
        MIGRATION_HTTP_BUDGET. It goes on to its end if the caller is cancelled.
        """
        try:
            return await self._workers.run(partial(self._perform, action, applied_by, deadline))
        except AllBusy:
            raise LockBusy(
                f"{self.limits.workers} other requests with the secret are in progress"
            ) from None

    def call(self, action: str, *, applied_by: str, seconds: float | None = None) -> ApiResult:
        """Do one of ACTIONS in this thread and log it: a direct event needs no secret. Never
        raises.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        return self._logged(action, partial(self._perform, action, applied_by, deadline))

    def error_result(self, error: Exception, entry: LogEntry) -> ApiResult:
        """The public result of an error; its reason goes into the log, without secrets."""
        entry.explain(error, self._redactor)
        return error_result(error)

    def _logged(self, action: str, work: Callable[[], ApiResult]) -> ApiResult:
        """What the work returns, or the result of what it raises, with its line in the log."""
        entry = LogEntry(action)
        try:
            result = work()
        except Exception as error:
            result = self.error_result(error, entry)
        return entry.write(result)

    def _read_status(self) -> ApiResult:
        read = partial(self._with_config, "api", self._public_status)
        return self._logged("public_status", read)

    def _read_secrets(self) -> dict[str, bytes]:
        environ = next(iter(self._environments(tuple(_SECRET_VARIABLES.values()))))
        found = {}
        for name, variable in _SECRET_VARIABLES.items():
            text = environ.get(variable, "").strip()
            if text or name == "current":
                found[name] = bearer_secret(variable, text)
        return found

    def _perform(self, action: str, applied_by: str, deadline: float | None) -> ApiResult:
        if action == "migrate":
            return self._migrate(applied_by, deadline)
        read = {"status": self._full_status, "validate": self._validate}[action]
        return self._with_config(applied_by, read)

    def _migrate(self, applied_by: str, deadline: float | None) -> ApiResult:
        if deadline is None:
            budget = read_duration(self._environ, "MIGRATION_HTTP_BUDGET", "25s")
            deadline = time.monotonic() + budget
        seconds = deadline - time.monotonic()
        if seconds < MIN_RUN_SECONDS:
            raise ConfigError(
                f"{seconds:.1f} s are too short for a run: raise MIGRATION_HTTP_BUDGET or the "
                "function's timeout"
            )
        try:
            run = partial(self._run, deadline=deadline)
            return self._with_config(applied_by, run)
        except OnwardError as error:
            with suppress(ConfigError):  # without an environment, there is no run to tell of
                environment = read_environment(self._environ).name
                self._webhook.tell_error(error, environment, before=deadline)
            raise
        finally:
            self.forget_status()  # whatever the run has done, the status shall show it

    def _run(self, config: Config, deadline: float) -> ApiResult:
        # Who calls can call again, so the run does not wait for another one to finish.
        result = runner.run(config._replace(lock_wait=0.0), lambda _: None, deadline=deadline)
        document = run_dict(result)
        if warning := self._webhook.tell_result(result, before=deadline):
            document["warnings"] = [warning]
        return ApiResult(202 if result.remaining else 200, document)

    @property
    def _webhook(self) -> Webhook:
        variables = (URL_VARIABLE, SECRET_VARIABLE)
        return Webhook(self._environ, lambda: next(iter(self._environments(variables))))

    def _with_config(self, applied_by: str, work: Callable[[Config], ApiResult]) -> ApiResult:
        return with_config(self._environments(URL_VARIABLES), applied_by, work)

    def _environments(self, variables: Sequence[str]) -> Iterator[Mapping[str, str]]:
        """The environment with these variables resolved; the log must not show their values."""
        for environ in self._resolve(self._environ, variables):
            self._resolved |= {name: environ[name] for name in variables if name in environ}
            yield environ

    def _read_plan(
        self,
        config: Config,
        *,
        activity: Asked = Asked.NOTHING,
        budget: Budget = READ_BUDGET,
        **connecting: Any,
    ) -> tuple[History, Plan]:
        migrations = self._files.load(config.directory)
        with Executor(config, budget=budget, **connecting) as database:
            return runner.read_plan(config, database, migrations, activity=activity)

    @property
    def _status_setting(self) -> str:
        return self._environ.get("MIGRATION_STATUS", "").strip().lower() or "full"

    def _public_status(self, config: Config) -> ApiResult:
        make_document = _STATUS_DOCUMENTS.get(self._status_setting)
        if not make_document:
            raise ConfigError(
                f"MIGRATION_STATUS is {self._status_setting!r}; expected one of "
                f"{', '.join(_STATUS_DOCUMENTS)}"
            )
        try:
            history, plan = self._read_plan(
                config._replace(statement_timeout=self.limits.status_statement_seconds),
                activity=Asked.RUN,
                url=config.status_url,
                budget=READ_BUDGET.within(self.limits.status_connect_seconds),
                deadline=time.monotonic() + self.limits.status_read_seconds,
            )
        except LockBusy as error:
            # 409 tells who wants to change something to resolve a conflict; a reader has none.
            raise DatabaseUnavailable(error.message) from None
        return ApiResult(200, make_document(config, history, plan))

    def _full_status(self, config: Config) -> ApiResult:
        history, plan = self._read_plan(config, activity=Asked.ALL)
        return ApiResult(200, status_dict(config, history, plan, full=True))

    def _validate(self, config: Config) -> ApiResult:
        _, plan = self._read_plan(config)
        found = validate(plan)
        if found.errors and not plan.conflicts:
            raise found.errors[0]
        return ApiResult(409 if found.errors else 200, validation_dict(found))

    @property
    def _redactor(self) -> Redactor:
        return Redactor({**self._environ, **self._resolved})


class _FileCache:
    """The migration files, read again only when the directory changes, as a deployed one never
    does.
    """

    def __init__(self) -> None:
        # Threads share it, so fingerprint and files are assigned together.
        self._cached: tuple[object, tuple[Migration, ...]] = None, ()

    def load(self, directory: Path) -> tuple[Migration, ...]:
        """What `migration.load` returns and raises."""
        fingerprint = _fingerprint(directory)
        known, migrations = self._cached
        if fingerprint is None or fingerprint != known:
            migrations = load(directory)
            self._cached = fingerprint, migrations
        return migrations


def _fingerprint(directory: Path) -> object:
    """What changes when a file does; None if the directory cannot be read."""
    try:
        with os.scandir(directory) as entries:
            stats = {entry.name: entry.stat() for entry in entries}
    except OSError:
        return None
    return {
        name: (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        for name, stat in stats.items()
    }
