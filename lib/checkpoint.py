"""Writes a checkpoint: one file that makes what all files before it make, proved by trying it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

from lib.comparison import compare
from lib.drift import Schema
from lib.errors import MigrationFailed, NotProved
from lib.postgres.contents import Contents, read_contents, rows_in
from lib.postgres.executor import Executor
from lib.postgres.pg_dump import dump, find_pg_dump
from lib.postgres.scratch import scratch_database
from lib.scratch import apply, scratch_config
from lib.settings.database_url import DatabaseURL
from lib.source.checkpoint import Replaced, written
from lib.source.dump import as_migration, objects_of
from lib.source.migration import Migration, checksum_of, number_of, require_runnable
from lib.source.writing import place
from lib.validation import require_checkpoints_fit

_SHOWN = 20
_LONGEST_SHOWN = 100
# Owners differ between environments.
_STRICT = ("comment on", "privileges on")


class Task(NamedTuple):
    """What a checkpoint is to be, and where it is tried."""

    migrations: tuple[Migration, ...]
    path: Path
    server: DatabaseURL
    programs: Path | None
    """Where the server's own pg_dump may be."""
    schema: str | None
    """Of the history."""


class Written(NamedTuple):
    """A checkpoint that is written and proved."""

    path: Path
    stands_for: tuple[Replaced, ...]
    postgres: int
    """The major version of the server that it was tried on."""
    objects: int
    rows: int
    frozen: tuple[str, ...] | None
    """Columns whose values are others each time that the files run, and now are the same.

    None where that is not known: the files run only once on one server.
    """


class _Made(NamedTuple):
    """What a scratch database contains."""

    schema: Schema
    contents: Contents
    dump: str


def write_checkpoint(task: Task) -> Written:
    """Write a file that makes what all these files make.

    Raises NotProved, and then nothing is written; FilesError for files that could not run; and what
    ends a run of them on a scratch database.
    """
    require_runnable(task.migrations)
    require_checkpoints_fit(task.migrations)
    made = _made_by(task, task.migrations)
    checkpoint = _checkpoint(task, made.dump)
    objects = _prove(made, _made_by_checkpoint(task, checkpoint))
    frozen = _frozen(task, made.contents)
    place(task.path, checkpoint.content)
    rows, postgres = rows_in(made.contents), made.schema.postgres
    return Written(task.path, checkpoint.stands_for, postgres, objects, rows, frozen)


def _made_by(task: Task, migrations: Sequence[Migration]) -> _Made:
    """What files make of an empty database."""
    with scratch_database(task.server) as url:
        config = scratch_config(url, task.schema)
        apply(config, migrations)
        with Executor(config) as database:
            history = database.read()
            schema = database.schema.compare()[0]
            contents = read_contents(database.connection, history.schema or "")
        program = find_pg_dump(task.programs, schema.postgres)
        without = [history.table, f"{history.table}_id_seq"]
        return _Made(schema, contents, dump(url, program, without))


def _checkpoint(task: Task, dumped: str) -> Migration:
    """The file as it will be. Raises FilesError if no run would apply it."""
    replaced, number = _replaced(task.migrations), number_of(task.path.name) or 0
    role = task.server.parameters.get("user", "")
    first, last = replaced[0].number, replaced[-1].number
    text = (
        f"{written(replaced)}"
        f"-- Version: {number:03}\n"
        f"-- Date: {date.today().isoformat()}\n"
        f"-- Description: What {first:03} to {last:03} make, for databases that have none of them\n"
        f"\n{as_migration(dumped, role)}"
    )
    content = text.encode()
    checksum = checksum_of(content)
    checkpoint = Migration(
        number, task.path.stem, task.path, content, checksum, frozenset(), replaced
    )
    require_runnable([checkpoint])
    return checkpoint


def _replaced(migrations: Sequence[Migration]) -> tuple[Replaced, ...]:
    """The files, and those that a checkpoint among them stands for, gone or not."""
    found = {one.number: one for migration in migrations for one in migration.stands_for}
    found |= {one.number: Replaced(one.version, one.checksum) for one in migrations}
    return tuple(found[number] for number in sorted(found))


def _made_by_checkpoint(task: Task, checkpoint: Migration) -> _Made:
    try:
        return _made_by(task, [checkpoint])
    except MigrationFailed as failed:
        failure = failed.failure
        place_ = f"{failure.statement}: {failure.server.message}"
        raise _not_proved([place_, *failure.excerpt.split("\n")]) from failed


def _prove(made: _Made, again: _Made) -> int:
    """The number of objects. Raises NotProved unless both are the same."""
    compared = compare(made.schema, again.schema, strict=_STRICT)
    differing = [
        f"{one.name}: {_short(one.was)} became {_short(one.now)}" for one in compared.differences
    ]
    differing += _differing(made.contents, again.contents)
    before, after = objects_of(made.dump), objects_of(again.dump)
    differing += [f"missing: {one}" for one in before if one not in after]
    differing += [f"added: {one}" for one in after if one not in before]
    if differing:
        raise _not_proved(differing)
    return len(before)


def _not_proved(differing: Sequence[str]) -> NotProved:
    shown = "".join(f"\n  {line}" for line in differing[:_SHOWN] if line)
    more = f"\n  and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    return NotProved(
        f"a dump of what the files make does not make the same again:{shown}{more}",
        changed_nothing=True,
        next_step="A checkpoint cannot stand for these files. Keep them, or write a migration that "
        "makes the difference go away.",
    )


def _differing(one: Contents, other: Contents) -> Iterator[str]:
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            yield f"{name}: {one.get(name)} became {other.get(name)}"


def _frozen(task: Task, contents: Contents) -> tuple[str, ...] | None:
    """The columns that another run of the files fills with other values, such as now().

    None if they cannot run again on the server: it may have a role of theirs already.
    """
    if not rows_in(contents):
        return ()
    try:
        again = _made_by(task, task.migrations).contents
    except MigrationFailed:
        return None
    values = [name for name in contents if name.startswith("values of ")]
    changed = [name for name in values if again.get(name) != contents[name]]
    return tuple(name.removeprefix("values of ") for name in changed)


def _short(definition: str | None) -> str:
    if definition is None:
        return "nothing"
    line = " ".join(definition.split())
    return f"{line[:_LONGEST_SHOWN]}…" if len(line) > _LONGEST_SHOWN else line or "there"
