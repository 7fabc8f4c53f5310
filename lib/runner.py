"""The only run loop: files and history to a plan, and the plan's pending files to the database, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lib.config import Config
from lib.database import Database, History, HistoryChanged
from lib.errors import HistoryConflict, OnwardError
from lib.migration import Migration, load, refuse
from lib.plan import Plan, make_plan


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


@dataclass(frozen=True, slots=True)
class Done:
    """A migration is applied and recorded: COMMIT has answered."""

    version: str
    name: str
    milliseconds: int


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


def run(config: Config, emit: Emit) -> Run:
    """Apply all pending files, each once and in order.

    An OnwardError that ends it carries what was applied before and what was not. With nothing pending it writes
    nothing and takes no lock.
    """
    migrations = load(config.directory)
    applied: list[Done] = []
    with Database(config) as database:
        while True:
            history, plan = look(config, database, migrations)
            try:
                emit(Started(history, plan))
                _apply(database, plan, emit, applied)
            except HistoryChanged:
                continue
            except OnwardError as error:
                done = {one.version for one in applied}
                error.applied = [one.version for one in applied]
                error.remaining = [one.version for one in plan.pending if one.version not in done]
                raise
            return Run(config.environment, history.database, plan, tuple(applied), ())


def _apply(database: Database, plan: Plan, emit: Emit, applied: list[Done]) -> None:
    plan.require_no_conflict()
    refuse(plan.pending)
    if plan.pending:
        database.prepare()
    following = [*plan.pending[1:], None] if plan.pending else []
    for migration, successor in zip(plan.pending, following, strict=True):
        milliseconds = database.apply(
            migration,
            then_open=successor is not None and successor.transactional,
            notice=partial(_notice, emit, migration),
        )
        done = Done(migration.version, migration.name, milliseconds)
        applied.append(done)
        emit(done)


def _notice(emit: Emit, migration: Migration, text: str) -> None:
    emit(Notice(migration, text))


def baseline(config: Config, number: int) -> tuple[Migration, ...]:
    """Record the files up to `number` as applied without running them. Raises HistoryConflict on any history."""
    migrations = tuple(one for one in load(config.directory) if one.number <= number)
    if not any(one.number == number for one in migrations):
        raise HistoryConflict(f"there is no migration with number {number}", next_step="Nothing was changed.")
    with Database(config) as database:
        history = database.read()
        if history.rows:
            raise HistoryConflict(
                f"this database has a history already, up to {history.rows[-1].version}; a baseline is for one without",
                next_step="Nothing was changed. `status` shows the history.",
            )
        database.prepare()
        database.baseline(migrations)
    return migrations


def repair(config: Config, version: str) -> Migration:
    """Accept a changed or renamed file: its row takes the file's name and checksum. Runs no SQL of the file."""
    migrations = load(config.directory)
    with Database(config) as database:
        _, plan = look(config, database, migrations)
        for entry in plan.entries:
            if entry.migration and entry.applied and version in (entry.migration.version, entry.applied.version):
                database.prepare()
                database.repair(entry.applied, entry.migration)
                return entry.migration
    raise HistoryConflict(
        f"{version} is not both a file and applied, so there is nothing to repair",
        next_step="Nothing was changed. `status` shows the versions.",
    )
