"""Prisma Migrate: a directory a migration, in the order of their names, with `migration.sql`.

Facts from prisma/prisma: packages/migrate/src/utils/listMigrations.ts; prisma/prisma-engines:
schema-engine/connectors/schema-connector/src/checksum.rs.
"""

import re
from pathlib import Path

from lib.importers.layout import (
    Layout,
    SourceFile,
    content_of,
    entries,
    layout,
    read_text,
    sha256_forms,
)

_FILE = "migration.sql"
_LOCK = "migration_lock.toml"


def recognises(directory: Path) -> bool:
    """Whether this is a Prisma project's `migrations`."""
    return (directory / _LOCK).is_file() or any(directory.glob(f"*/{_FILE}"))


def read(directory: Path) -> Layout:
    """Its migrations. Raises FilesError."""
    folders = [folder for folder in entries(directory) if (folder / _FILE).is_file()]
    return layout([folder / _FILE for folder in folders], _file, lambda path: path.parent.name)


def _file(path: Path) -> SourceFile:
    name = path.parent.name
    return SourceFile(
        f"{name}/{_FILE}",
        key=name,
        description=re.sub(r"^[0-9]+_?", "", name),
        sql=read_text(path),
        checksums=sha256_forms(content_of(path)),
    )
