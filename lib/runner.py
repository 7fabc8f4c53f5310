"""The only run loop: files and history to a plan, and the plan's pending files to the database, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

from lib.config import Config
from lib.database import Database, HistoryChanged
from lib.errors import Done, FilesError, HistoryConflict, OnwardError
from lib.history import History
from lib.migration import DRAFT, Migration, load, refuse
from lib.plan import Applied, Plan, make_plan

# Before a deadline: time to say what happened, and the least that is worth beginning a file with.
MARGIN, LEAST = 3.0, 1.0


@dataclass(frozen=True, slots=True)
class Started:
    """A plan stands: what is about to happen, and where."""

    history: History
    plan: Plan


@dataclass(frozen=True, slots=True)
class Notice:
    """The server said something while a file ran."""

    migration: Migration
    text: str


Event = Started | Notice | Done
Emit = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Run:
    """What a run did. `plan` is the one that it ended with."""

    environment: str
    database: str
    plan: Plan
    applied: tuple[Done, ...]
    remaining: tuple[str, ...]


def look(config: Config, database: Database, migrations: tuple[Migration, ...]) -> tuple[History, Plan]:
    """Read the history and compare. Reads only."""
    history = database.read()
    plan = make_plan(
        migrations, history.rows, allow_out_of_order=config.allow_out_of_order, production=config.production
    )
    return history, plan


def run(config: Config, emit: Emit, *, deadline: float | None = None) -> Run:
    """Apply all pending files, each once and in order; with a deadline (monotonic seconds), those that fit before it.

    An OnwardError that ends it carries what was applied before and what was not. With nothing pending it writes
    nothing and takes no lock.
    """
    migrations = load(config.directory)
    applied: list[Done] = []
    with Database(config, deadline=None if deadline is None else deadline - MARGIN) as database:
        while True:
            history, plan = look(config, database, migrations)
            try:
                emit(Started(history, plan))
                _apply(database, plan, emit, applied)
            except HistoryChanged:
                continue
            except OnwardError as error:
                error.applied, error.remaining = applied, list(_remaining(plan, applied))
                raise
            return Run(config.environment, history.database, plan, tuple(applied), _remaining(plan, applied))


def _apply(database: Database, plan: Plan, emit: Emit, applied: list[Done]) -> None:
    plan.require_no_conflict()
    refuse(plan.pending)
    if plan.pending and database.seconds_left > LEAST:
        database.prepare()
    for migration, successor in zip_longest(plan.pending, plan.pending[1:]):
        if database.seconds_left <= LEAST:
            return
        milliseconds = database.apply(
            migration,
            then_open=partial(_opens_next, database, successor),
            notice=partial(_notice, emit, migration),
        )
        done = Done(migration.version, migration.name, milliseconds)
        applied.append(done)
        emit(done)


def _opens_next(database: Database, successor: Migration | None) -> bool:
    return successor is not None and successor.transactional and database.seconds_left > LEAST


def _remaining(plan: Plan, applied: list[Done]) -> tuple[str, ...]:
    done = {one.version for one in applied}
    return tuple(one.version for one in plan.pending if one.version not in done)


def _notice(emit: Emit, migration: Migration, text: str) -> None:
    emit(Notice(migration, text))


def baseline(config: Config, number: int) -> tuple[Migration, ...]:
    """Record the files up to `number` as applied without running them. Raises HistoryConflict on any history."""
    migrations = tuple(one for one in load(config.directory) if one.number <= number)
    if not migrations or migrations[-1].number != number:
        raise FilesError(f"{config.directory}: no file has the number {number}", next_step="Nothing was changed.")
    if drafts := [str(one.path) for one in migrations if DRAFT in one.directives]:
        raise FilesError(f"still drafts: {', '.join(drafts)}", next_step="Nothing was changed. Finish or remove them.")
    with Database(config) as database:
        while True:
            history = database.read()
            if history.rows:
                raise HistoryConflict(
                    f"this database has a history already, up to {history.rows[-1].version}; "
                    "a baseline is for one without",
                    next_step="Nothing was changed. `status` shows the history.",
                )
            try:
                database.prepare()
                database.baseline(migrations)
            except HistoryChanged:
                continue
            return migrations


def repair(config: Config, version: str) -> tuple[Migration, bool]:
    """Accept a changed or renamed file: its row takes the file's name and checksum. Runs no SQL of the file.

    Returns the file, and whether there was anything to repair.
    """
    migrations = load(config.directory)
    with Database(config) as database:
        while True:
            file, row = _applied_file(look(config, database, migrations)[1], version)
            if (file.version, file.checksum) == (row.version, row.checksum):
                return file, False
            try:
                database.prepare()
                database.repair(row, file)
            except HistoryChanged:
                continue
            return file, True


def _applied_file(plan: Plan, version: str) -> tuple[Migration, Applied]:
    for entry in plan.entries:
        if entry.migration and entry.applied and version in (entry.migration.version, entry.applied.version):
            return entry.migration, entry.applied
    raise HistoryConflict(
        f"{version} is not both a file and applied, so there is nothing to repair",
        next_step="Nothing was changed. `status` shows the versions.",
    )
