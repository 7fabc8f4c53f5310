"""Bring the history in line with a database that is there: baseline, repair, and what is expected
of its schema. None runs SQL of a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lib.consent import Change, require_consent
from lib.drift import Verdict, require_acceptable, require_refreshable
from lib.errors import FilesError, HistoryConflict
from lib.guard import require_environment, require_trust
from lib.history import AppliedMigration, History
from lib.plan import Plan
from lib.postgres.executor import Executor
from lib.postgres.transaction import HistoryChanged
from lib.runner import read_plan
from lib.settings.config import Config
from lib.source.checkpoint import Replaced
from lib.source.migration import Migration, load, require_finished, require_runnable


def baseline(config: Config, number: int) -> tuple[Migration | Replaced, ...]:
    """Record the files up to `number` that are not recorded, without running them, and return
    these, and what a checkpoint among them stands for.

    Raises FilesError for files that could not run, and HistoryConflict where files and history
    disagree.
    """
    migrations = load(config.directory)
    if number not in (one.number for one in migrations):
        raise FilesError(
            f"{config.directory}: no file has the number {number}", changed_nothing=True
        )
    # A checkpoint above the number stands for files that are not to be recorded.
    migrations = tuple(one for one in migrations if not one.stands_for or one.number <= number)
    with Executor(config) as database:
        while True:
            history, plan = read_plan(
                config._replace(allow_out_of_order=True), database, migrations
            )
            require_trust(history)
            _require_taken_over(history)
            plan.require_no_conflict()
            recorded = tuple(one for one in plan.pending if one.number <= number)
            require_runnable(recorded)
            if not recorded:
                return ()
            require_environment(config, history)
            require_consent(config, Change.baseline(number), history)
            try:
                database.changes.prepare()
                database.changes.baseline(recorded)
            except HistoryChanged:
                continue
            return recorded if history.rows else (*_replaced_by(recorded), *recorded)


def _replaced_by(migrations: Iterable[Migration]) -> Iterator[Replaced]:
    for migration in migrations:
        yield from migration.stands_for


def repair(config: Config, version: str) -> tuple[Migration, bool]:
    """Accept a changed or renamed file: its row takes the file's name and checksum. Runs no SQL of
    the file.

    Returns the file, and whether there was anything to repair.
    """
    migrations = load(config.directory)
    with Executor(config) as database:
        while True:
            history, plan = read_plan(config, database, migrations)
            file, row = _applied_file(plan, version)
            require_trust(history)
            _require_taken_over(history)
            if (file.version, file.checksum) == (row.version, row.checksum):
                return file, False
            require_finished([file])
            require_environment(config, history)
            require_consent(config, Change.repair(version), history)
            try:
                database.changes.prepare()
                database.changes.repair(row, file)
            except HistoryChanged:
                continue
            return file, True


def expect_schema(config: Config, *, refresh: bool) -> Verdict:
    """Expect the schema to be as it is from now on. Returns how it differed, strictly.

    Raises SchemaDrift if there are differences to `refresh`, or none is known to accept;
    HistoryConflict without any recorded migration.
    """
    change = Change.expect_schema(refresh=refresh)
    with Executor(config) as database:
        while True:
            history = database.read()
            require_trust(history)
            _require_rows(history)
            require_environment(config, history)
            require_consent(config, change, history)
            verdict = database.schema.compare(strict=True)[1]
            (require_refreshable if refresh else require_acceptable)(verdict)
            try:
                database.changes.prepare()
                database.schema.accept()
            except HistoryChanged:
                continue
            return verdict


def _require_taken_over(history: History) -> None:
    """Raise HistoryConflict while another tool's history is the only one."""
    if history.takeover and not history.rows:
        raise HistoryConflict(
            f"what {history.takeover.title} has applied is not taken over yet",
            changed_nothing=True,
            next_step="A run does it:\n  scripts/migrate.py",
        )


def _require_rows(history: History) -> None:
    if not history.rows:
        raise HistoryConflict(
            "no migration is recorded, so nothing is expected of the schema",
            changed_nothing=True,
            next_step="The first run stores what it leaves:\n  scripts/migrate.py",
        )


def _applied_file(plan: Plan, version: str) -> tuple[Migration, AppliedMigration]:
    for entry in plan.entries:
        if (
            entry.migration
            and entry.applied
            and version in (entry.migration.version, entry.applied.version)
        ):
            return entry.migration, entry.applied
    raise HistoryConflict(
        f"{version} is not both a file and applied, so there is nothing to repair",
        changed_nothing=True,
        next_step="`status` shows the versions.",
    )
