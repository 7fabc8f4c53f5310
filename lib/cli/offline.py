"""The commands on files alone: they need no database, and import no driver."""

from datetime import date
from pathlib import Path
from types import SimpleNamespace

from lib.cli.output import Command, Terminal, files_are
from lib.errors import RepositoryError
from lib.report.document import number_dict
from lib.report.text import number_lines
from lib.settings.config import migrations_directory
from lib.source import migration
from lib.source.git import find_repository
from lib.source.migration import load, names_in, require_runnable
from lib.source.numbering import BranchFile, NextNumber, next_number


def _validate(_: SimpleNamespace, terminal: Terminal) -> int:
    migrations = load(migrations_directory(terminal.environ))
    require_runnable(migrations)
    unknown = "no database URL is set, so checksums were not compared"
    terminal.info(f"✅ {files_are(migrations)} valid ({unknown})")
    terminal.json({"success": True, "state": None, "problems": [], "warnings": []})
    return 0


def _create(options: SimpleNamespace, terminal: Terminal) -> int:
    directory = migrations_directory(terminal.environ)
    found = next_number(names_in(directory), _unmerged(directory, terminal))
    today = date.today().isoformat()
    path = migration.create(directory, " ".join(options.description), today, found.number)
    terminal.info(f"✅ Created {path}: write its SQL, then remove the line `-- migrate: draft`")
    _tell(found, terminal)
    terminal.json({"success": True, "version": path.stem, "file": str(path), **number_dict(found)})
    return 0


def _tell(found: NextNumber, terminal: Terminal) -> None:
    for line in number_lines(found):
        terminal.info(line)


def _unmerged(directory: Path, terminal: Terminal) -> list[BranchFile]:
    """The files of other branches; without an answer of git, the files here must do."""
    try:
        repository = find_repository(directory)
        return repository.unmerged() if repository else []
    except RepositoryError as error:
        terminal.info(f"⚠️  The number counts no other branch: {error.message}")
        return []


COMMANDS: dict[str, Command] = {
    "validate": _validate,
    "create": _create,
}
