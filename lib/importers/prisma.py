"""Prisma Migrate: a directory a migration, in the order of their names, with `migration.sql`.

Facts from prisma/prisma (7.x): packages/migrate/src/utils/listMigrations.ts; prisma/prisma-engines:
schema-engine/connectors/schema-connector/src/checksum.rs,
schema-engine/commands/src/commands/apply_migrations.rs.
"""

import re
from pathlib import Path

from lib.errors import FilesError
from lib.importers import drizzle
from lib.importers.layout import (
    Layout,
    NotConvertible,
    SourceFile,
    entries,
    layout,
    leading_number,
    read_text,
    sha256_forms,
    text_if_readable,
)
from lib.importers.node_order import locale_key

_FILE = "migration.sql"
_LOCK = "migration_lock.toml"
_PROVIDER = re.compile(r'(?m)^\s*provider\s*=\s*"(?P<name>[^"]*)"')


def recognises(directory: Path) -> bool:
    """Whether this is a Prisma project's `migrations`."""
    if (directory / _LOCK).is_file():
        return True
    return any(directory.glob(f"*/{_FILE}")) and not drizzle.recognises(directory)


def read(directory: Path) -> Layout:
    """Its migrations. Raises FilesError."""
    _require_postgres(directory / _LOCK)
    folders = [path for path in entries(directory) if path.is_dir()]
    return layout(
        [folder / _FILE for folder in sorted(folders, key=lambda path: locale_key(path.name))],
        _file,
        lambda path: path.parent.name,
        path_of=_path,
    )


def _require_postgres(lock: Path) -> None:
    provider = _PROVIDER.search(text_if_readable(lock)) if lock.is_file() else None
    if provider and provider["name"] not in ("postgresql", "postgres"):
        raise FilesError(
            f"{lock}: its migrations are for {provider['name']}, not PostgreSQL",
            changed_nothing=True,
        )


def _path(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _file(path: Path) -> SourceFile:
    if not path.is_file():
        raise NotConvertible("it is not there, which Prisma refuses, too (P3015)")
    name = path.parent.name
    return SourceFile(
        _path(path),
        key=name,
        description=re.sub(r"^[0-9]+_?|\.sql$", "", name),
        sql=read_text(path),
        number=leading_number(name),
        checksums=sha256_forms(path.read_bytes()),
    )
