"""The commands on files alone: they need no database, and import no driver."""

from datetime import date
from types import SimpleNamespace

from lib.cli.output import Command, Terminal, files_are
from lib.settings.config import migrations_directory
from lib.source import migration
from lib.source.migration import load, require_runnable


def _validate(_: SimpleNamespace, terminal: Terminal) -> int:
    migrations = load(migrations_directory(terminal.environ))
    require_runnable(migrations)
    unknown = "no database URL is set, so checksums were not compared"
    terminal.info(f"✅ {files_are(migrations)} valid ({unknown})")
    terminal.json({"success": True, "state": None, "problems": [], "warnings": []})
    return 0


def _create(options: SimpleNamespace, terminal: Terminal) -> int:
    directory = migrations_directory(terminal.environ)
    path = migration.create(directory, " ".join(options.description), date.today().isoformat())
    terminal.info(f"✅ Created {path}: write its SQL, then remove the line `-- migrate: draft`")
    terminal.json({"success": True, "version": path.stem, "file": str(path)})
    return 0


COMMANDS: dict[str, Command] = {
    "validate": _validate,
    "create": _create,
}
