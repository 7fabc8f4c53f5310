"""node-pg-migrate: `NNN_name.sql` by number, with sections `-- Up Migration` and `-- Down
Migration`, or a file each way.

Facts from salsita/node-pg-migrate: src/sqlMigration.ts, src/migration.ts, src/migrationLoader.ts,
src/utils/comparators.ts, src/utils/fileNameUtils.ts.
"""

import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from lib.importers.layout import (
    Layout,
    NotConvertible,
    SourceFile,
    blank,
    entries,
    layout,
    leading_number,
    read_text,
    text_if_readable,
)
from lib.importers.node_order import Key, natural_key

_PROGRAMS = (".js", ".ts", ".cjs", ".mjs", ".cts", ".mts")
_UP, _DOWN = ".up.sql", ".down.sql"
_MARK = r"(?im)^\s*--[\s-]*{way}\s+migration[^\r\n]*"
_UP_MARK, _DOWN_MARK = (re.compile(_MARK.format(way=way)) for way in ("up", "down"))
_OF_PROGRAMS = re.compile(r"\bnode-pg-migrate\b|\bpgm\b")
_STAMP_DIGITS = 17


def recognises(directory: Path) -> bool:
    """Whether its files have the sections of node-pg-migrate, or are programs for it.

    Two files a migration are not enough: other tools have these, too.
    """
    paths = _paths(directory)
    if any(path.name.endswith((_UP, _DOWN)) for path in paths):
        return False
    return any(_is_of_this_tool(path) for path in paths)


def _is_of_this_tool(path: Path) -> bool:
    text = text_if_readable(path)
    if path.suffix in _PROGRAMS:
        return bool(_OF_PROGRAMS.search(text))
    return bool(_UP_MARK.search(text) or _DOWN_MARK.search(text))


def read(directory: Path) -> Layout:
    """Its migrations."""
    return layout(sorted(_paths(directory), key=_order), _file, _key)


def _paths(directory: Path) -> list[Path]:
    """The files that it runs; one that undoes another is no migration."""
    paths = [path for path in entries(directory) if path.suffix in (".sql", *_PROGRAMS)]
    names = {path.name for path in paths}
    return [
        path
        for path in paths
        if not (path.name.endswith(_DOWN) and path.name.removesuffix(_DOWN) + _UP in names)
    ]


def _key(path: Path) -> str:
    return path.name.removesuffix(_UP) if path.name.endswith(_UP) else path.stem


def _order(path: Path) -> tuple[float, Key]:
    return _time(path.name), natural_key(_key(path) + path.suffix)


def _time(name: str) -> float:
    """What it compares first: the number, in which 17 digits are a time of day, in milliseconds."""
    number = leading_number(name)
    digits = str(number)
    if len(digits) != _STAMP_DIGITS:
        return float("inf") if number is None else number
    with suppress(ValueError):  # no time of a day
        time = datetime.strptime(digits[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        return time.timestamp() * 1000 + int(digits[14:])
    return float("inf")


def _file(path: Path) -> SourceFile:
    _require_sql(path)
    text = read_text(path)
    return SourceFile(
        path.name,
        key=_key(path),
        description=re.sub(r"^[0-9]+[_-]?", "", _key(path)),
        sql=text if path.name.endswith(_UP) else _up_section(text),
        number=leading_number(path.name),
    )


def _require_sql(path: Path) -> None:
    if path.suffix in _PROGRAMS:
        raise NotConvertible(
            "it is a program; write the SQL that it runs into a file of the same name: "
            "`node-pg-migrate up --dry-run` prints it for a migration that is pending"
        )
    if path.name.endswith(_DOWN):
        raise NotConvertible(f"there is no {path.name.removesuffix(_DOWN)}{_UP} that it undoes")
    if path.name.endswith(_UP) and path.with_name(f"{_key(path)}.sql").exists():
        raise NotConvertible(f"{_key(path)}.sql is there, too, which node-pg-migrate refuses")
    if leading_number(path.name) is None:
        raise NotConvertible("its name has no number, which node-pg-migrate refuses")


def _up_section(text: str) -> str:
    """What is sent: all of a text without `-- Up Migration`, what undoes it included."""
    up, down = _UP_MARK.search(text), _DOWN_MARK.search(text)
    if not up:
        return text
    if down and down.start() > up.start():
        text = blank(text, down.start(), len(text))
    return blank(text, 0, up.end()).rstrip() + "\n"
