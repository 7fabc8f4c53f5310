"""Drizzle: files in the order of `meta/_journal.json`, or since 1.0 a directory a migration.

Facts from drizzle-team/drizzle-orm: drizzle-orm/src/migrator.ts, pg-core/dialect.ts; branch beta
(1.0): drizzle-orm/src/migrator.ts, pg-core/async/session.ts, up-migrations/pg.ts.

A `--> statement-breakpoint` is a comment here, and stays.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.errors import FilesError
from lib.importers.layout import (
    Layout,
    NotConvertible,
    SourceFile,
    layout,
    leading_number,
    read_text,
    sha256_forms,
)
from lib.importers.node_order import locale_key
from lib.printed import read_printed

_JOURNAL = Path("meta", "_journal.json")
_FILE, _SNAPSHOT = "migration.sql", "snapshot.json"


def recognises(directory: Path) -> bool:
    """Whether drizzle-kit has made these files."""
    if (directory / _JOURNAL).is_file():
        return True
    return any((path.parent / _FILE).is_file() for path in directory.glob(f"*/{_SNAPSHOT}"))


def read(directory: Path) -> Layout:
    """Its migrations. Raises FilesError."""
    journal = directory / _JOURNAL
    return _of_journal(directory, journal) if journal.is_file() else _of_directories(directory)


def _of_journal(directory: Path, journal: Path) -> Layout:
    """The files that the journal names, each by the time that it gives it; others never run."""
    dialect, times = read_printed(
        journal,
        _dialect_and_times,
        error=FilesError,
        otherwise="is not what drizzle-kit writes",
        next_step="Restore it from version control.",
    )
    if dialect not in ("pg", "postgresql"):
        raise FilesError(
            f"{journal}: its migrations are for {dialect}, not PostgreSQL", changed_nothing=True
        )
    return layout(
        [directory / f"{tag}.sql" for tag in times],
        lambda path: _file_of_journal(path, times),
        lambda path: times[path.stem],
    )


def _dialect_and_times(journal: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    times = {entry["tag"]: str(int(entry["when"])) for entry in journal["entries"]}
    return journal.get("dialect", "pg"), times


def _file_of_journal(path: Path, times: Mapping[str, str]) -> SourceFile:
    time = times[path.stem]
    if list(times.values()).count(time) > 1:
        raise NotConvertible(f"the journal gives the time {time} to another file, too")
    if not path.is_file():
        raise NotConvertible("the journal names it, and it is not there")
    return _file(path, path.name, path.stem, time)


def _of_directories(directory: Path) -> Layout:
    folders = [path.parent for path in directory.glob(f"*/{_FILE}")]
    return layout(
        [folder / _FILE for folder in sorted(folders, key=lambda path: locale_key(path.name))],
        lambda path: _file(path, _path(path), path.parent.name, path.parent.name),
        lambda path: path.parent.name,
        path_of=_path,
    )


def _path(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _file(path: Path, place: str, name: str, key: str) -> SourceFile:
    return SourceFile(
        place,
        key=key,
        description=re.sub(r"^[0-9]+_?", "", name),
        sql=read_text(path),
        number=leading_number(name),
        checksums=sha256_forms(path.read_bytes()),
    )
