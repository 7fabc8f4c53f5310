"""What an import has found, as text and as a JSON document. Pure."""

from typing import Any

from lib.imported import FILE_NAME
from lib.importers.importing import Import
from lib.source.migration import NO_TRANSACTION
from lib.tool_tables import TABLES


def import_text(found: Import, *, written: bool) -> str:
    """What was written, or would be."""
    lines = [f"✅ {_headline(found, written=written)} of {TABLES[found.imported.tool].title}"]
    lines += [f"   {line}" for line in _changes(found)]
    if not written:
        return "\n".join([*lines, "Nothing was written (--dry-run)"])
    return "\n".join([*lines, _next_step(found)])


def import_dict(found: Import, *, written: bool) -> dict[str, Any]:
    """The same as a document."""
    new = {one.version for one in found.new}
    return {
        "success": True,
        "tool": found.imported.tool,
        "table": found.imported.table,
        "schema": found.imported.schema,
        "written": written,
        "files": [
            {
                "path": source.path,
                "version": migration.version,
                "new": migration.version in new,
                "transactional": migration.transactional,
            }
            for source, migration in found.files
        ],
        "skipped": sorted(found.imported.skipped),
    }


def _headline(found: Import, *, written: bool) -> str:
    count, new = len(found.files), len(found.new)
    files = "1 file" if count == 1 else f"{count} files"
    if not new:
        return (
            f"Nothing new to import: all {files}" if count > 1 else "Nothing new to import: 1 file"
        )
    verb = "Imported" if written else "To import"
    return f"{verb}: {files}" if new == count else f"{verb}: {new} new of {files}"


def _changes(found: Import) -> list[str]:
    lines = []
    for source, migration in found.files:
        mode = "" if migration.transactional else f" ({NO_TRANSACTION})"
        lines.append(f"{source.path} -> {migration.path.name}{mode}")
    return lines + [f"{path}: left out" for path in sorted(found.imported.skipped)]


def _next_step(found: Import) -> str:
    schema = found.imported.schema
    beside = f"; Onward's own history goes to the schema {schema}" if schema else ""
    return (
        f"Commit them with {FILE_NAME}. The next run records what the table {found.imported.table} "
        f"says is applied{beside}.\nTo see that first:\n  scripts/migrate.py status"
    )
