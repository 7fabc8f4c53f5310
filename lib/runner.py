"""The only run loop: plan what is pending, apply it one file at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

from lib.activity import Asked
from lib.drift import Drift, require_no_drift, summary
from lib.errors import (
    DatabaseUnavailable,
    HistoryConflict,
    Interrupted,
    LockBusy,
    MigrationResult,
    OnwardError,
    OutcomeUnknown,
    PartlyApplied,
    RunFailed,
    TableBusy,
)
from lib.events import Emit, RunLog, RunResult
from lib.guard import require_permission
from lib.history import History, Takeover, off_path_warning
from lib.identity import last_migrated_as
from lib.plan import Plan, make_plan
from lib.postgres.executor import Executor
from lib.postgres.no_transaction import require_no_session_state
from lib.postgres.session import MIN_FILE_SECONDS
from lib.postgres.transaction import HistoryChanged
from lib.restore_point import WayBack
from lib.restoring import way_back
from lib.retry import Backoff
from lib.settings.config import Config
from lib.source import extensions
from lib.source.extensions import require_extensions
from lib.source.migration import Migration, load, require_runnable
from lib.takeover import may_be_behind

if TYPE_CHECKING:
    from lib.postgres.catalog import Observer

T = TypeVar("T")

SHUTDOWN_MARGIN_SECONDS = 3.0  # before a deadline: time to report what happened
# Readers waited behind the run's own wait for a lock: the pause lets them through.
PAUSE_IN_LOCK_TIMEOUTS = 3
PAUSE_GROWTH = 1.5


def read_plan(
    config: Config,
    executor: Executor,
    migrations: tuple[Migration, ...],
    *,
    activity: Asked = Asked.NOTHING,
) -> tuple[History, Plan]:
    """Read the history and compare the files with it. Reads only.

    What another tool has applied and nothing records yet counts as applied: a run takes it over.
    The history also says what is asked of what is going on in the database.
    """
    history = executor.read(activity=activity)
    if config.imported and may_be_behind(config.imported, history.rows, migrations):
        history = executor.takeover(config.imported, migrations)
    production = config.production or last_migrated_as(history) == "production"
    plan = make_plan(
        migrations,
        history.known,
        allow_out_of_order=config.allow_out_of_order,
        production=production,
    )
    return history, plan


def connect_and_read_plan(config: Config, **connecting: Any) -> tuple[History, Plan]:
    """`read_plan` on a connection of its own. Reads only."""
    migrations = load(config.directory)
    with Executor(config, **connecting) as executor:
        return read_plan(config, executor, migrations)


def require_run_allowed(config: Config, history: History, plan: Plan) -> str:
    """Raise what forbids a run of this plan here; return a warning, mostly empty."""
    warning = require_permission(config, history, pending=bool(plan.pending or history.takeover))
    plan.require_no_conflict()
    require_runnable(plan.pending)
    if not history.direct:
        require_no_session_state(plan.pending, tenant=config.tenant)
    return warning


def run(
    config: Config,
    emit: Emit,
    *,
    deadline: float | None = None,
    observer: Observer | None = None,
    migrations: tuple[Migration, ...] | None = None,
) -> RunResult:
    """Apply all pending files, each once and in order; with a deadline, those that fit before it.

    The deadline is in monotonic seconds. With nothing pending it writes nothing and takes no lock.
    An observer sees each statement. `migrations` are applied instead of the directory's.
    Raises RunFailed once there is a plan, and before that any OnwardError.
    """
    migrations = load(config.directory) if migrations is None else migrations
    last = None if deadline is None else deadline - SHUTDOWN_MARGIN_SECONDS
    log = RunLog(emit)
    with Executor(config, log, deadline=last) as executor:
        if observer:
            executor.observe(observer)
        return _Run(config, executor, migrations, log).run()


class _Run:
    """One run: plans again whenever the history has changed under it."""

    def __init__(
        self,
        config: Config,
        executor: Executor,
        migrations: tuple[Migration, ...],
        log: RunLog,
    ) -> None:
        self._config = config
        self._executor = executor
        self._migrations = migrations
        self._log = log

    def run(self) -> RunResult:
        plan: Plan | None = None
        while True:
            try:
                history, plan = self._read_plan()
                self._count_own_rows(history)
                self._log.started(history, plan)
                self._require_progress(plan)
                self._prepare(history, plan)
                self._apply(plan.pending)
                self._executor.schema.end_run()
            except HistoryChanged:
                continue
            except OnwardError as error:
                if plan is None:
                    raise
                self._end_failed(error)
                raise self._failed(error, history, plan) from error
            return RunResult(
                environment=self._config.environment,
                database=history.database,
                plan=plan,
                applied=self._log.applied,
                remaining=self._remaining(plan),
                taken_over=self._log.taken_over,
                way_back=self._way_back(history, ()),
                drift_found=self._log.drift_found,
            )

    def _read_plan(self) -> tuple[History, Plan]:
        return self._retry_while_busy(
            lambda: read_plan(self._config, self._executor, self._migrations), self._backoff()
        )

    def _count_own_rows(self, history: History) -> None:
        """Tell which files this run has applied on a connection that it lost after sending them.

        Their rows have its restore point.
        """
        untold = self._log.sent - {result.version for result in self._log.applied}
        for row in history.rows:
            if row.version in untold and row.restore_point == self._log.restore_point is not None:
                found = MigrationResult(row.version, row.name, row.execution_time_ms)
                self._log.committed(found)
                self._log.announce(row.version)

    def _require_progress(self, plan: Plan) -> None:
        """Raise HistoryConflict if a row of this run is gone: its file must not run again."""
        applied = {result.version for result in self._log.applied}
        gone = [one.version for one in plan.pending if one.version in applied]
        if gone:
            raise HistoryConflict(
                f"applied by this run, but missing from the history now: {', '.join(gone)}",
                next_step="Another session deletes rows of the history. Stop it and restore the "
                "rows, then run again.",
            )

    def _prepare(self, history: History, plan: Plan) -> None:
        warning = require_run_allowed(self._config, history, plan)
        for one in filter(None, (warning, off_path_warning(history))):
            self._log.tell(one)
        if history.takeover:
            self._take_over(history.takeover)
        if wanted := extensions.created(plan.pending):
            names = [extension.name for extension in wanted]
            require_extensions(wanted, self._executor.unavailable_extensions(names))
        if plan.pending and self._executor.has_time_for_a_file:
            self._look_for_drift()
            self._retry_while_busy(self._executor.changes.prepare, self._backoff())

    def _take_over(self, takeover: Takeover) -> None:
        """Record what another tool has applied. Raises HistoryChanged: now it is in the history."""
        self._retry_while_busy(lambda: self._executor.changes.take_over(takeover), self._backoff())
        self._log.took_over(takeover)
        raise HistoryChanged

    def _look_for_drift(self) -> None:
        """Tell what is not as the migrations left it. Raises SchemaDrift if it is to fail."""
        if self._config.drift == "off" or self._log.applied:
            return
        try:
            verdict = self._executor.schema.begin_run()
        except (LockBusy, DatabaseUnavailable) as error:
            self._log.tell(f"whether the schema has drifted was not checked: {error.message}")
            return
        self._log.drift_found = bool(verdict and verdict.drift is Drift.FOUND)
        if verdict and self._config.drift == "fail":
            require_no_drift(verdict)
        if verdict and verdict.drift is not Drift.NONE:
            self._log.tell(summary(verdict))

    def _end_failed(self, error: OnwardError) -> None:
        """Store what is expected, if the run leaves changes, and a connection to store it by."""
        if isinstance(error, Interrupted | OutcomeUnknown | DatabaseUnavailable):
            return
        if self._log.applied or isinstance(error, PartlyApplied):
            with suppress(Interrupted):  # the run fails anyway, and for another reason
                self._executor.schema.end_run()

    def _apply(self, pending: Sequence[Migration]) -> None:
        for files, ahead in self._executor.groups(pending):
            backoff = self._backoff()
            applied = self._apply_ahead(files, backoff) if ahead else 0
            self._apply_one_by_one(files[applied:], backoff)

    def _apply_ahead(self, files: Sequence[Migration], backoff: Backoff) -> int:
        """How many are applied so, before one that is not, or that has met a busy table."""
        before = len(self._log.applied)
        try:
            return self._executor.apply_ahead(files)
        except TableBusy as busy:
            self._pause(busy, backoff)
            return len(self._log.applied) - before

    def _apply_one_by_one(self, files: Sequence[Migration], backoff: Backoff) -> None:
        """`backoff` is that of the first file, which may have been tried before."""
        for migration, following in zip_longest(files, files[1:]):
            if not self._executor.has_time_for_a_file:
                return
            self._apply_one(migration, following, backoff)
            self._log.announce(migration.version)
            backoff = self._backoff()

    def _apply_one(
        self, migration: Migration, following: Migration | None, backoff: Backoff
    ) -> None:
        self._retry_while_busy(lambda: self._executor.apply(migration, following, backoff), backoff)

    def _backoff(self) -> Backoff:
        return Backoff(
            min(self._config.busy_retry, self._executor.seconds_left - MIN_FILE_SECONDS),
            first=PAUSE_IN_LOCK_TIMEOUTS * (self._config.lock_timeout or 1.0),
            factor=PAUSE_GROWTH,
        )

    def _retry_while_busy(self, attempt: Callable[[], T], backoff: Backoff) -> T:
        while True:
            try:
                return attempt()
            except TableBusy as busy:
                self._pause(busy, backoff)

    def _pause(self, busy: TableBusy, backoff: Backoff) -> None:
        """Wait before the next attempt. Raises the error if there is none."""
        pause = backoff.next_pause()
        if pause is None:
            raise busy.after(backoff.attempts) from None
        self._log.retrying(busy, pause)
        time.sleep(pause)

    def _failed(self, cause: OnwardError, history: History, plan: Plan) -> RunFailed:
        remaining = self._remaining(plan)
        return RunFailed(
            cause,
            applied=self._log.applied,
            remaining=remaining,
            taken_over=self._log.taken_over,
            way_back=self._way_back(history, self._in_doubt(cause, remaining)),
        )

    def _in_doubt(self, cause: OnwardError, remaining: tuple[str, ...]) -> tuple[str, ...]:
        """What was under way and may have left changes."""
        if not isinstance(cause, PartlyApplied | OutcomeUnknown):
            return ()
        sent = tuple(version for version in remaining if version in self._log.sent)
        return sent if sent and isinstance(cause, OutcomeUnknown) else remaining[:1]

    def _way_back(self, history: History, in_doubt: Sequence[str]) -> WayBack | None:
        """To the point before this run; None if it has changed nothing."""
        changed = (*(result.version for result in self._log.applied), *in_doubt)
        point = self._log.restore_point if changed else None
        return way_back(self._config, history, point, changed)

    def _remaining(self, plan: Plan) -> tuple[str, ...]:
        applied = {result.version for result in self._log.applied}
        return tuple(one.version for one in plan.pending if one.version not in applied)
