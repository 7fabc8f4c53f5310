"""`imported.json`: which file of another migration tool became which migration. Reads only.

`scripts/migrate.py import` writes it beside the migrations. A run reads it in a database where that
tool has a history and Onward has none.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lib.errors import FilesError
from lib.printed import OtherFormat, read_printed
from lib.tool_tables import TABLES

FILE_NAME = "imported.json"
FORMAT = 1
_VERSION = r"[0-9]{3,}(?:-[a-z0-9]+)+"  # a migration's file name, without its ending
_AGAIN = (
    "Restore it from version control. If it cannot be restored, delete it with the migrations that "
    "were imported, and import again:\n  scripts/migrate.py import TOOL DIRECTORY"
)


class ImportedFile(NamedTuple):
    """A file of the tool, and the migration that was made of it."""

    path: str
    """Below the tool's directory."""
    key: str
    """What the tool's history calls it."""
    version: str | None
    """None for a file that was skipped."""
    checksums: tuple[str, ...] = ()
    """Those that the tool's history may have of it; none if the tool keeps none."""


class Imported(NamedTuple):
    """What was imported from where."""

    tool: str
    table: str
    """The tool's history: a name on the search path, or with its schema, without quotes."""
    schema: str | None
    """The schema of Onward's own history, if the tool's table has its name."""
    files: tuple[ImportedFile, ...]

    @property
    def version_of(self) -> dict[str, str]:
        """The migration that each file became."""
        return {one.path: one.version for one in self.files if one.version}

    @property
    def skipped(self) -> frozenset[str]:
        """The paths of the files that were left out."""
        return frozenset(one.path for one in self.files if not one.version)


def read_imported(directory: Path) -> Imported | None:
    """What was imported into a directory of migrations. Raises FilesError."""
    path = directory / FILE_NAME
    if not os.path.lexists(path):  # a directory that cannot be read is reported by who lists it
        return None
    return read_printed(
        path,
        _imported,
        error=FilesError,
        otherwise="is not what `scripts/migrate.py import` writes",
        next_step=_AGAIN,
    )


def renamed(imported: Imported, old: str, new: str) -> Imported:
    """The same with another version of a migration."""
    files = (one._replace(version=new) if one.version == old else one for one in imported.files)
    return imported._replace(files=tuple(files))


def imported_text(imported: Imported) -> str:
    """The file's text."""
    document = {
        "format": FORMAT,
        "tool": imported.tool,
        "table": imported.table,
        "schema": imported.schema,
    }
    lines = ",\n    ".join(json.dumps(one) for one in map(_file_dict, imported.files))
    head = json.dumps(document, indent=2).removesuffix("\n}")
    return f'{head},\n  "files": [\n    {lines}\n  ]\n}}\n'


def _file_dict(one: ImportedFile) -> dict[str, Any]:
    document = {"version": one.version, "path": one.path, "key": one.key}
    return document | ({"checksums": one.checksums} if one.checksums else {})


def _imported(document: Mapping[str, Any]) -> Imported:
    if document["format"] != FORMAT:
        raise OtherFormat(f"has the format {document['format']}, and this version reads {FORMAT}")
    if document["tool"] not in TABLES:
        raise OtherFormat(f"names the tool {document['tool']!r}, which this version does not know")
    schema = document["schema"]
    return Imported(
        tool=_text(document["tool"]),
        table=_text(document["table"]),
        schema=None if schema is None else _text(schema),
        files=tuple(map(_file, document["files"])),
    )


def _file(document: Mapping[str, Any]) -> ImportedFile:
    version = document["version"]
    return ImportedFile(
        _text(document["path"]),
        _text(document["key"]),
        None if version is None else _version(version),
        tuple(map(_text, _list(document.get("checksums", [])))),
    )


def _version(value: object) -> str:
    if not re.fullmatch(_VERSION, _text(value)):
        raise ValueError
    return _text(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _list(value: object) -> Iterable[object]:
    if not isinstance(value, list):
        raise TypeError
    return value
