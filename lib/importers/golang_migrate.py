"""golang-migrate: `NNN_name.up.sql` in the order of the numbers; `.down.sql` undoes it.

Facts from golang-migrate/migrate: source/parse.go, source/migration.go,
database/postgres/postgres.go.
"""

import re
from pathlib import Path

from lib.importers import sqlx
from lib.importers.layout import (
    Layout,
    NotConvertible,
    SourceFile,
    entries,
    layout,
    read_text,
    with_one_file_a_key,
)

_NAME = re.compile(r"(?P<number>[0-9]+)_(?P<rest>.*)\.(?P<way>down|up)\.(?P<kind>.*)")


def recognises(directory: Path) -> bool:
    """Whether its files have golang-migrate's names, and no project with sqlx is around them."""
    named = any(_part(path, "way") == "up" for path in _paths(directory))
    return named and not sqlx.recognises(directory)


def read(directory: Path) -> Layout:
    """Its migrations."""
    paths = sorted(_paths(directory), key=_number)
    ups = {_number(path) for path in paths if _way(path) == "up"}
    paths = [path for path in paths if _way(path) == "up" or _number(path) not in ups]
    found = layout(paths, _file, lambda path: str(_number(path)))
    return Layout(with_one_file_a_key(found.files))


def _paths(directory: Path) -> list[Path]:
    return [path for path in entries(directory) if _NAME.fullmatch(path.name)]


def _file(path: Path) -> SourceFile:
    if _way(path) == "down":
        raise NotConvertible("nothing but what undoes it is there, and golang-migrate counts it")
    if _part(path, "kind") != "sql":
        raise NotConvertible("it is not SQL")
    return SourceFile(
        path.name,
        key=str(_number(path)),
        description=_part(path, "rest"),
        sql=read_text(path),
        number=_number(path),
    )


def _number(path: Path) -> int:
    return int(_part(path, "number"))


def _way(path: Path) -> str:
    return _part(path, "way")


def _part(path: Path, part: str) -> str:
    found = _NAME.fullmatch(path.name)
    return found[part] if found else ""
