"""What another migration tool has applied, matched with the files that were imported from it. Pure.

Each file by its own row, never up to a newest one: what the tool has skipped stays pending. Only a
tool that keeps nothing but its newest version is taken at its word.

As long as both run, the tool may have applied what a run finds pending: that is taken over, too.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from lib.errors import HistoryConflict
from lib.history import AppliedMigration, FoundTable, Takeover, ToolRow
from lib.imported import Imported, ImportedFile
from lib.source.migration import Migration
from lib.tool_tables import APPLIED, BASELINE, FAILED, TABLES, UP_TO, ToolTable

# It makes Onward's own table, which is there when the rows are written to it.
_OWN_TABLE = "000-create-migration-table"
_NAMES_SHOWN = 5
_MAX_MILLISECONDS = 2**31 - 1


class _Applied(NamedTuple):
    file: ImportedFile
    row: ToolRow


def may_be_behind(
    imported: Imported, recorded: Sequence[AppliedMigration], migrations: Sequence[Migration]
) -> bool:
    """Whether the tool may have applied what is not recorded: only then is its table read."""
    pending = {one.version for one in migrations} - {row.version for row in recorded}
    return not recorded or any(one.version in pending for one in imported.files)


def take_over(
    imported: Imported,
    found: FoundTable,
    migrations: Sequence[Migration],
    recorded: Sequence[AppliedMigration] = (),
) -> Takeover | None:
    """What the next run is to record; None if the tool has applied nothing that is not `recorded`.

    Raises HistoryConflict for rows that failed, and for rows of files that were not imported.
    """
    tool = TABLES[imported.tool]
    last = _last_rows(imported.files, found.rows)
    _require_none_failed(tool, found)
    _require_known(imported, tool, found, last)
    versions = {row.version for row in recorded}
    applied = list(_applied(imported.files, last, versions))
    kept = [one for one in applied if one.file.version and one.file.version not in versions]
    if not kept:
        return None
    files = {one.version: one for one in migrations}
    own = [_own_row(files[_OWN_TABLE])] if _OWN_TABLE in files and not recorded else []
    rows = [*own, *(_row(one, files.get(one.file.version or "")) for one in kept)]
    first = max((row.id for row in recorded), default=0) + 1
    return Takeover(
        tool=imported.tool,
        title=tool.title,
        found=found,
        rows=tuple(row._replace(id=number) for number, row in enumerate(rows, first)),
        edited=tuple(one.file.version or "" for one in kept if _is_edited(one)),
        skipped=tuple(one.file.path for one in applied if not one.file.version),
    )


def takeover_lines(takeover: Takeover) -> Iterator[str]:
    """What a takeover records, and what it does not, in words."""
    taken = [row for row in takeover.rows if row.version != _OWN_TABLE]
    noun = "migration" if len(taken) == 1 else "migrations"
    yield f"{len(taken)} {noun} that {takeover.title} has applied ({takeover.found})"
    if any(row.state == UP_TO for row in takeover.found.rows):
        yield "it keeps its newest version only, so all before that are taken for applied"
    if takeover.edited:
        yield (
            f"edited after {takeover.title} had applied it: {_named(takeover.edited)}; recorded as "
            "the file is now"
        )
    if takeover.skipped:
        yield f"not recorded, since not imported: {_named(takeover.skipped)}"


def _last_rows(files: Sequence[ImportedFile], rows: Sequence[ToolRow]) -> dict[str, ToolRow]:
    """The row that counts of each key; in place of a baseline, UP_TO for the last file under it."""
    last = {row.key: row for row in rows}
    baseline = next((row for row in reversed(rows) if row.state == BASELINE), None)
    if not baseline:
        return last
    end = _place(baseline.key)
    under = [one.key for one in files if () < _place(one.key) <= end]
    newer = {key: row for key, row in last.items() if not () < _place(key) <= end}
    return newer | {key: baseline._replace(key=key, state=UP_TO) for key in under[-1:]}


def _place(key: str) -> tuple[int, ...]:
    """What orders a key with others; nothing for one that is not numbers with dots."""
    parts = key.split(".")
    return tuple(map(int, parts)) if all(map(str.isdecimal, parts)) else ()


def _require_none_failed(tool: ToolTable, found: FoundTable) -> None:
    failed = [row.key for row in found.rows if row.state == FAILED]
    if failed:
        raise HistoryConflict(
            f"{tool.title} has not finished {_named(failed)} ({found}), so what of it is "
            "applied is unknown",
            changed_nothing=True,
            next_step=f"With {tool.title}, {tool.failed}".replace("NAME", failed[0]),
        )


def _require_known(
    imported: Imported, tool: ToolTable, found: FoundTable, rows: dict[str, ToolRow]
) -> None:
    keys = {one.key for one in imported.files}
    unknown = [row.key for row in rows.values() if row.state in (APPLIED, UP_TO)]
    unknown = [key for key in unknown if key not in keys]
    if unknown:
        raise HistoryConflict(
            f"{tool.title} has applied {_named(unknown)} ({found}), and no imported file is "
            "that migration",
            changed_nothing=True,
            next_step="Get the files that this database was migrated with, and import again:\n"
            f"  scripts/migrate.py import {imported.tool} DIRECTORY",
        )


def _applied(
    files: Sequence[ImportedFile], rows: dict[str, ToolRow], recorded: Collection[str]
) -> Iterator[_Applied]:
    """The files that the tool has applied, in their order, each with what the tool says of it."""
    newest = next((row for row in rows.values() if row.state == UP_TO), None)
    if newest:
        yield from (_Applied(one, newest) for one in _up_to(newest.key, files, recorded))
    for one in files:
        if (row := rows.get(one.key)) and row.state == APPLIED:
            yield _Applied(one, row)


def _up_to(
    key: str, files: Sequence[ImportedFile], recorded: Collection[str]
) -> Sequence[ImportedFile]:
    """The files up to this one, behind the last of them that is recorded.

    One before that was merged since, and the tool has passed it over.
    """
    end = max(index for index, one in enumerate(files, 1) if one.key == key)
    numbered = enumerate(files[:end], 1)
    start = max((index for index, one in numbered if one.version in recorded), default=0)
    return files[start:end]


def _row(applied: _Applied, file: Migration | None) -> AppliedMigration:
    row, milliseconds = applied.row, applied.row.milliseconds
    return AppliedMigration(
        0,
        applied.file.version or "",
        file.name if file else "",
        row.at,
        None if milliseconds is None else min(max(milliseconds, 0), _MAX_MILLISECONDS),
        file.checksum if file else None,
        applied_by="import",
    )


def _own_row(file: Migration) -> AppliedMigration:
    return AppliedMigration(0, file.version, file.name, checksum=file.checksum, applied_by="import")


def _is_edited(applied: _Applied) -> bool:
    """Whether the tool has recorded another text than that which was imported."""
    known, recorded = applied.file.checksums, applied.row.checksum
    return bool(known and recorded) and recorded not in known


def _named(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _NAMES_SHOWN} more" if len(keys) > _NAMES_SHOWN else ""
    return f"{', '.join(keys[:_NAMES_SHOWN])}{more}"
