"""sqlx: `NNN_name.sql`, or `.up.sql` and what undoes it `.down.sql`, in the order of the numbers.

Facts from launchbadge/sqlx: sqlx-core/src/migrate/source.rs, migration_type.rs, migration.rs there;
sqlx-core/src/config/migrate.rs; sqlx-postgres/src/migrate.rs.
"""

import re
import tomllib
from functools import partial
from hashlib import sha384
from pathlib import Path
from typing import NamedTuple

from lib.errors import FilesError
from lib.importers.layout import (
    Layout,
    NotConvertible,
    SourceFile,
    blank,
    entries,
    layout,
    line_end_forms,
    read_text,
    text_if_readable,
    with_one_file_a_key,
)

_NAME = re.compile(r"(?P<number>[^_]*)_(?P<rest>.*?)(?:\.up)?\.sql")
_UNDO = ".down.sql"
_NUMBER = re.compile(r"[0-9]+")
_NO_TRANSACTION = re.compile(r"-- no-transaction[^\r\n]*")
_PROJECT, _SETTINGS = "Cargo.toml", "sqlx.toml"
# A project may keep its migrations in a directory of a member of a workspace.
_DIRECTORIES_ABOVE = 3


class _Settings(NamedTuple):
    table: str | None
    ignored: str
    """Characters that no checksum counts."""


def recognises(directory: Path) -> bool:
    """Whether its files have sqlx's names, and a Rust project around them names sqlx.

    The names alone are those of other tools, too.
    """
    above = directory.resolve().parents[:_DIRECTORIES_ABOVE]
    projects = [one / _PROJECT for one in above if (one / _PROJECT).is_file()]
    return bool(_paths(directory)) and any("sqlx" in text_if_readable(one) for one in projects)


def read(directory: Path) -> Layout:
    """Its migrations. Raises FilesError."""
    settings = _settings(directory.resolve().parent / _SETTINGS)
    paths = sorted(_paths(directory), key=lambda path: (_number(path) or 0, path.name))
    found = layout(paths, partial(_file, ignored=settings.ignored), _key)
    return Layout(with_one_file_a_key(found.files), settings.table)


def _settings(path: Path) -> _Settings:
    """What `sqlx.toml` says of migrations. Raises FilesError."""
    try:
        document = tomllib.loads(text_if_readable(path) if path.exists() else "")
        migrate = document.get("migrate", {})
        return _Settings(migrate.get("table-name"), "".join(migrate.get("ignored-chars", ())))
    except (tomllib.TOMLDecodeError, AttributeError, TypeError) as error:
        raise FilesError(f"{path}: cannot be read: {error}", changed_nothing=True) from None


def _paths(directory: Path) -> list[Path]:
    return [
        path
        for path in entries(directory)
        if path.is_file() and _NAME.fullmatch(path.name) and not path.name.endswith(_UNDO)
    ]


def _number(path: Path) -> int | None:
    number = path.name.partition("_")[0]
    return int(number) if _NUMBER.fullmatch(number) else None


def _key(path: Path) -> str:
    number = _number(path)
    return path.name if number is None else str(number)


def _file(path: Path, ignored: str) -> SourceFile:
    if _number(path) is None:
        raise NotConvertible("its name does not begin with a number")
    text, name = read_text(path), _NAME.fullmatch(path.name)
    mark = _NO_TRANSACTION.match(text)
    return SourceFile(
        path.name,
        key=_key(path),
        description=name["rest"] if name else "",
        sql=blank(text, 0, mark.end()) if mark else text,
        number=_number(path),
        no_transaction=bool(mark),
        checksums=_checksums(path.read_bytes(), ignored),
    )


def _checksums(content: bytes, ignored: str) -> tuple[str, ...]:
    """Those of the text as it is and with either line end, without what sqlx is told to ignore."""
    forms = (form.decode(errors="replace") for form in line_end_forms(content))
    without = str.maketrans("", "", ignored)
    kept = (form.translate(without).encode() for form in forms)
    return tuple(dict.fromkeys(sha384(form).hexdigest() for form in kept))
