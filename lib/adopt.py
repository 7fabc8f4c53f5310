"""Bring the history in line with a database that is there: baseline and repair. Neither runs SQL of a file."""

from __future__ import annotations

from lib.errors import FilesError, HistoryConflict
from lib.guard import require_environment
from lib.plan import Applied, Plan
from lib.postgres.executor import Database
from lib.postgres.transaction import HistoryChanged
from lib.runner import look
from lib.settings.config import Config
from lib.source.migration import Migration, load, refuse, require_finished


def baseline(config: Config, number: int) -> tuple[Migration, ...]:
    """Record the files up to `number` that are not recorded, without running them, and return these.

    Raises FilesError for files that could not run, and HistoryConflict where files and history disagree.
    """
    migrations = load(config.directory)
    if number not in (one.number for one in migrations):
        raise FilesError(f"{config.directory}: no file has the number {number}", next_step="Nothing was changed.")
    with Database(config) as database:
        while True:
            history, plan = look(config._replace(allow_out_of_order=True), database, migrations)
            history.require_trust()
            plan.require_no_conflict()
            recorded = tuple(one for one in plan.pending if one.number <= number)
            refuse(recorded)
            if not recorded:
                return ()
            require_environment(config, history)
            try:
                database.prepare()
                database.baseline(recorded)
            except HistoryChanged:
                continue
            return recorded


def repair(config: Config, version: str) -> tuple[Migration, bool]:
    """Accept a changed or renamed file: its row takes the file's name and checksum. Runs no SQL of the file.

    Returns the file, and whether there was anything to repair.
    """
    migrations = load(config.directory)
    with Database(config) as database:
        while True:
            history, plan = look(config, database, migrations)
            file, row = _applied_file(plan, version)
            history.require_trust()
            if (file.version, file.checksum) == (row.version, row.checksum):
                return file, False
            require_finished([file])
            require_environment(config, history)
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
