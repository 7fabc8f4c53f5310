"""The only run loop: files and history to a plan, and the plan's pending files to the database, one
at a time.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, TypeVar

from lib.errors import HistoryConflict, MigrationResult, OnwardError, TableBusy
from lib.events import Emit, Notice, Retry, RunResult, Started
from lib.guard import last_migrated_as, require_permission
from lib.plan import History, Plan, make_plan
from lib.postgres.executor import Executor, Job
from lib.postgres.no_transaction import require_no_session_state
from lib.postgres.transaction import HistoryChanged
from lib.settings.config import Config
from lib.source.migration import Migration, load, require_runnable

T = TypeVar("T")

# Before a deadline: time to say what happened, and the least that is worth beginning a file with.
SHUTDOWN_MARGIN_SECONDS, MIN_FILE_SECONDS = 3.0, 1.0


def read_plan(
    config: Config, database: Executor, migrations: tuple[Migration, ...]
) -> tuple[History, Plan]:
    """Read the history and compare. Reads only."""
    history = database.read()
    production = config.production or last_migrated_as(history) == "production"
    plan = make_plan(
        migrations,
        history.rows,
        allow_out_of_order=config.allow_out_of_order,
        production=production,
    )
    return history, plan


def connect_and_read_plan(config: Config, **connecting: Any) -> tuple[History, Plan]:
    """`look`, by a connection of its own. Reads only."""
    migrations = load(config.directory)
    with Executor(config, **connecting) as database:
        return read_plan(config, database, migrations)


def require_run_allowed(config: Config, history: History, plan: Plan) -> str:
    """Raise what forbids a run of this plan here; return a warning, mostly empty."""
    warning = require_permission(config, history, pending=bool(plan.pending))
    plan.require_no_conflict()
    require_runnable(plan.pending)
    if not history.direct:
        require_no_session_state(plan.pending)
    return warning


def run(config: Config, emit: Emit, *, deadline: float | None = None) -> RunResult:
    """Apply all pending files, each once and in order; with a deadline (monotonic seconds), those
    that fit before it.

    An OnwardError that ends it carries what was applied before and what was not. With nothing
    pending it writes nothing and takes no lock.
    """
    migrations = load(config.directory)
    within = None if deadline is None else deadline - SHUTDOWN_MARGIN_SECONDS
    with Executor(config, deadline=within, say=lambda text: emit(Notice(None, text))) as database:
        return _Runner(config, database, migrations, emit).run()


class _Runner:
    """One run, and what it has applied so far."""

    def __init__(
        self, config: Config, database: Executor, migrations: tuple[Migration, ...], emit: Emit
    ) -> None:
        self._config = config
        self._database = database
        self._migrations = migrations
        self._emit = emit
        self._applied: list[MigrationResult] = []

    def run(self) -> RunResult:
        plan: Plan | None = None
        while True:
            try:
                history, plan = self._persistently(
                    lambda _: read_plan(self._config, self._database, self._migrations)
                )
                self._emit(Started(history, plan))
                self._prepare(history, plan)
                self._apply(plan.pending)
            except HistoryChanged:
                continue
            except OnwardError as error:
                if plan:
                    error.applied, error.remaining = self._applied, list(self._remaining(plan))
                if self._applied:  # the plan was made again, and is another one
                    error.next_step = error.next_step.replace(
                        "Nothing was changed", "Nothing more was changed"
                    )
                raise
            return RunResult(
                self._config.environment,
                history.database,
                plan,
                tuple(self._applied),
                self._remaining(plan),
            )

    def _prepare(self, history: History, plan: Plan) -> None:
        self._require_progress(plan)
        if warning := require_run_allowed(self._config, history, plan):
            self._emit(Notice(None, warning))
        if plan.pending and self._database.seconds_left > MIN_FILE_SECONDS:
            self._persistently(lambda _: self._database.prepare())

    def _require_progress(self, plan: Plan) -> None:
        """Raise HistoryConflict if a row that this run has written is gone: its file must not run
        again.
        """
        applied = {done.version for done in self._applied}
        if gone := [one.version for one in plan.pending if one.version in applied]:
            raise HistoryConflict(
                f"applied by this run, but not in the history any more: {', '.join(gone)}",
                next_step="Another session deletes rows of the history. Stop it and write them "
                "back, then run again.",
            )

    def _apply(self, pending: Sequence[Migration]) -> None:
        for migration, successor in zip_longest(pending, pending[1:]):
            if self._database.seconds_left <= MIN_FILE_SECONDS:
                return
            self._apply_one(migration, successor)
            self._emit(self._applied[-1])

    def _apply_one(self, migration: Migration, successor: Migration | None) -> None:
        job = partial(
            Job,
            migration,
            partial(self._opens_next, successor),
            partial(self._notice, migration),
            self._note,
        )
        self._persistently(lambda again: self._database.apply(job(again)))

    def _persistently(self, attempt: Callable[[Patience], T]) -> T:
        """Try again while tables are busy."""
        patience = Patience(
            self._config, self._emit, self._database.seconds_left - MIN_FILE_SECONDS
        )
        while True:
            try:
                return attempt(patience)
            except TableBusy as busy:
                if not patience(busy):
                    raise

    def _opens_next(self, successor: Migration | None) -> bool:
        return (
            successor is not None
            and successor.transactional
            and self._database.seconds_left > MIN_FILE_SECONDS
        )

    def _notice(self, migration: Migration, text: str) -> None:
        self._emit(Notice(migration, text))

    def _note(self, done: MigrationResult) -> None:
        if self._applied[-1:] != [done]:
            self._applied.append(done)

    def _remaining(self, plan: Plan) -> tuple[str, ...]:
        applied = {done.version for done in self._applied}
        return tuple(one.version for one in plan.pending if one.version not in applied)


class Patience:
    """How long one thing is tried again while tables are busy: MIGRATION_RETRY from the first time
    on.

    A pause is at least three times the lock timeout, so that those get through whom our wait in the
    queue kept waiting, and grows.
    """

    def __init__(self, config: Config, emit: Emit, longest: float) -> None:
        self._emit = emit
        self._budget = min(config.busy_retry, longest)
        self._pause = 3 * (config.lock_timeout or 1.0)
        self._until = math.inf
        self._tries = 0

    def __call__(self, busy: TableBusy) -> bool:
        """Wait, and return True; or return False, since there is no time for that."""
        now, pause = time.monotonic(), self._pause * random.uniform(1.0, 1.25)  # noqa: S311 - jitter, not a secret
        self._until = min(self._until, now + self._budget)
        self._tries += 1
        if now + pause > self._until:
            busy.message += f"; tried {self._tries} times" if self._tries > 1 else ""
            return False
        self._emit(Retry(busy, pause))
        time.sleep(pause)
        self._pause *= 1.5
        return True
