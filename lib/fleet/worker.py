"""Migrates the databases of some tenants, or looks at them, one after the other."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TextIO

from lib import runner
from lib.errors import (
    AccessRefused,
    HostUnreachable,
    MigrationFailed,
    OnwardError,
    RunFailed,
)
from lib.events import RunResult
from lib.fleet.inventory import Tenant
from lib.fleet.outcome import Outcome, not_reached
from lib.plan import Plan
from lib.postgres.connecting import READ_BUDGET
from lib.postgres.executor import Executor
from lib.report.document import run_dict
from lib.settings.config import Config, migrations_directory
from lib.settings.environ import URL_VARIABLES
from lib.settings.redactor import Redactor
from lib.source.migration import load
from lib.web.request_log import LogEntry
from lib.web.result import ApiResult, error_result
from lib.web.service import Resolve, with_config
from lib.webhook import SECRET_VARIABLE, URL_VARIABLE

ACTIONS = ("migrate", "status")
LEAST_SECONDS = 5.0
"""With less left, no other tenant is begun."""
CONNECT_SECONDS = 5.0
"""The engine tries again, so a tenant's server is not waited for as long as that of a deploy."""
_NOT_A_TENANTS = (*URL_VARIABLES, URL_VARIABLE, SECRET_VARIABLE)


class Worker:
    """What it does for a tenant is what a run and a status do, with one set of files.

    Raises FilesError for these. The webhook is not told: a fleet has a report.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        resolve: Resolve,
        *,
        applied_by: str,
        log: TextIO | None = None,
    ) -> None:
        """The log is written to stdout if no other place is given."""
        self._environ = {
            name: value for name, value in environ.items() if name not in _NOT_A_TENANTS
        }
        self._resolve = resolve
        self._applied_by, self._log = applied_by, log
        self._migrations = load(migrations_directory(environ))

    @property
    def head(self) -> str:
        """The version that the files end with."""
        return self._migrations[-1].version

    def outcomes(
        self, action: str, tenants: Sequence[Tenant], deadline: float | None = None
    ) -> Iterator[Outcome]:
        """Do one of ACTIONS for each tenant, before the deadline (monotonic seconds).

        A tenant that fails does not stop the next one, but a host that does not answer is asked
        once only. Each is done when it is asked for.
        """
        silent: set[str] = set()
        for tenant in tenants:
            if _is_late(deadline) or not silent.isdisjoint(tenant.servers):
                yield not_reached(tenant.name)
                continue
            found = self._outcome(action, tenant, deadline)
            if found.silent_host:
                silent |= {*tenant.servers}
            yield found

    def _outcome(self, action: str, tenant: Tenant, deadline: float | None) -> Outcome:
        began, entry = time.monotonic(), LogEntry(action, {"tenant": tenant.name}, log=self._log)
        resolved: dict[str, str] = {}
        try:
            found, result = self._act(action, tenant, deadline, resolved)
        except Exception as error:
            entry.explain(error, Redactor({**self._environ, **resolved}))
            found, result = _failed(tenant, error), error_result(error)
        entry.write(result)
        return found._replace(milliseconds=round((time.monotonic() - began) * 1000))

    def _act(
        self, action: str, tenant: Tenant, deadline: float | None, resolved: dict[str, str]
    ) -> tuple[Outcome, ApiResult]:
        """What became of the tenant, and how the log tells it. `resolved` gets the secrets."""
        work = partial(self._migrate, deadline=deadline) if action == "migrate" else self._look
        environments = self._environments(tenant, resolved)
        return with_config(
            environments,
            self._applied_by,
            lambda config: work(tenant, _for_tenant(config, tenant)),
        )

    def _environments(
        self, tenant: Tenant, resolved: dict[str, str]
    ) -> Iterator[Mapping[str, str]]:
        for environ in self._resolve(self._environ | _variables(tenant), URL_VARIABLES):
            resolved |= {name: environ[name] for name in URL_VARIABLES if name in environ}
            yield environ

    def _migrate(
        self, tenant: Tenant, config: Config, *, deadline: float | None
    ) -> tuple[Outcome, ApiResult]:
        # The engine tries again what is busy, so a run does not wait for another one to finish.
        config = config._replace(lock_wait=0.0)
        result = runner.run(config, lambda _: None, deadline=deadline, migrations=self._migrations)
        return _ran(tenant, result), ApiResult(200, run_dict(result))

    def _look(self, tenant: Tenant, config: Config) -> tuple[Outcome, ApiResult]:
        with Executor(config, budget=READ_BUDGET) as executor:
            _, plan = runner.read_plan(config, executor, self._migrations)
        found = Outcome(tenant.name, str(plan.state), _last_applied(plan))
        return found, ApiResult(200, {"state": found.outcome})


def _is_late(deadline: float | None) -> bool:
    return deadline is not None and deadline - time.monotonic() < LEAST_SECONDS


def _for_tenant(config: Config, tenant: Tenant) -> Config:
    config = config._replace(connect_wait=CONNECT_SECONDS, fleet=True)
    return config.for_tenant(tenant.schema) if tenant.schema else config


def _variables(tenant: Tenant) -> dict[str, str]:
    """The variables that name the tenant's database."""
    if tenant.secret:
        return {"MIGRATION_DATABASE_URL": tenant.secret, "DATABASE_URL": tenant.url}
    return {"MIGRATION_DATABASE_URL": tenant.url}


def _ran(tenant: Tenant, result: RunResult) -> Outcome:
    applied = len(result.applied)
    last = result.applied[-1].version if applied else _last_applied(result.plan)
    if result.remaining:
        return not_reached(tenant.name)._replace(version=last, applied=applied)
    changed = applied or result.taken_over
    outcome = "migrated" if changed else str(result.plan.state)
    return Outcome(tenant.name, outcome, last, applied)


def _last_applied(plan: Plan) -> str | None:
    return next((entry.version for entry in reversed(plan.entries) if entry.applied), None)


def _failed(tenant: Tenant, error: Exception) -> Outcome:
    """The outcome of an error: its public code, and of a failed migration where it failed."""
    if not isinstance(error, OnwardError):
        return Outcome(tenant.name, OnwardError.code)
    cause = error.cause
    found = Outcome(
        tenant.name,
        error.code,
        sqlstate=cause.sqlstate if isinstance(cause, AccessRefused) else None,
        retry=error.retry,
        silent_host=isinstance(cause, HostUnreachable),
    )
    if isinstance(error, RunFailed):
        found = found._replace(applied=len(error.applied))
    if isinstance(cause, MigrationFailed):
        at = cause.failure
        found = found._replace(version=at.version, sqlstate=at.server.sqlstate, line=at.line)
    return found
