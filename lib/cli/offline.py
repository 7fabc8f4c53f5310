"""The commands on files alone: they need no database, and import no driver."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from lib.cli.output import Command, Terminal, files_passed
from lib.errors import BaseConflict, FilesError, HistoryConflict, RepositoryError
from lib.imported import FILE_NAME, imported_text, read_imported, renamed
from lib.report.document import check_dict, error_dict, number_dict
from lib.report.text import base_check_text, base_conflict, number_lines
from lib.settings.config import migrations_directory
from lib.settings.environ import value_of
from lib.source import writing
from lib.source.git import Repository, find_repository, short_name
from lib.source.migration import contents_in, load, names_in, number_of, require_runnable
from lib.source.numbering import (
    BranchFile,
    NextNumber,
    next_number,
    renumbered,
    same_migration,
    shares_number,
)
from lib.source.pull_request import Base, new_files, problems
from lib.validation import require_checkpoints_fit

if TYPE_CHECKING:
    from lib.importers.importing import Import

_NOT_ASKED = "No database URL is set, so no database was asked whether the file is applied"


def _validate(_: SimpleNamespace, terminal: Terminal) -> int:
    migrations = load(migrations_directory(terminal.environ))
    require_runnable(migrations)
    require_checkpoints_fit(migrations)
    unchecked = "SQL syntax is checked when they run, checksums if a database URL is set"
    terminal.info(f"{files_passed(migrations)} ({unchecked})")
    terminal.json({"success": True, "state": None, "problems": [], "warnings": []})
    return 0


def _create(options: SimpleNamespace, terminal: Terminal) -> int:
    directory = migrations_directory(terminal.environ)
    found = free_number(directory, terminal)
    today = date.today().isoformat()
    path = writing.create(directory, " ".join(options.description), today, found.number)
    terminal.info(f"✅ Created {path}: write its SQL, then remove the line `-- migrate: draft`")
    tell_number(found, terminal)
    terminal.json({"success": True, "version": path.stem, "file": str(path), **number_dict(found)})
    return 0


def free_number(directory: Path, terminal: Terminal) -> NextNumber:
    """The number of a new file: above the files here, and those of other branches."""
    return next_number(names_in(directory), _unmerged(directory, terminal))


def _check(options: SimpleNamespace, terminal: Terminal) -> int:
    directory = migrations_directory(terminal.environ)
    base = find_base(directory, options.base, terminal.environ)
    here = contents_in(directory)
    found = problems(base, here, directory)
    document = check_dict(base, new_files(base, here), found)
    if found:
        errors = [base_conflict(problem) for problem in found]
        return terminal.fail(*errors, document=document | error_dict(errors[0]))
    terminal.info(base_check_text(base, new_files(base, here)))
    terminal.json(document)
    return 0


def find_base(directory: Path, given: str | None, environ: Mapping[str, str]) -> Base:
    """The branch to compare with. Raises RepositoryError that says how to get it."""
    repository = find_repository(directory)
    if not repository:
        raise RepositoryError(f"{directory} is in no Git repository, or in one without a commit")
    target = value_of(environ, "GITHUB_BASE_REF")  # of a pull request on GitHub
    ref = given or (f"origin/{target}" if target else repository.base_branch())
    if not ref:
        raise RepositoryError(
            "there is no branch to compare with: no origin/HEAD, main or master",
            next_step="Name it:\n  scripts/migrate.py check --base REF",
        )
    tip = repository.commit_of(ref)
    shared = tip and repository.merge_base(tip)
    if not (tip and shared):
        raise _not_here(repository, short_name(ref), is_known=bool(tip))
    name, contents = short_name(ref), repository.contents(shared)
    return Base(name, shared, contents, newest=repository.files(tip))


def _not_here(repository: Repository, name: str, *, is_known: bool) -> RepositoryError:
    problem = "shares no commit with HEAD here" if is_known else "is no branch or commit here"
    fetch = repository.fetch_command(name)
    return RepositoryError(
        f"{name} {problem}",
        next_step=f"Fetch it, with its history:\n  {fetch}"
        if fetch
        else "To list the branches that are here:\n  git branch --all",
    )


def renumber(
    options: SimpleNamespace, terminal: Terminal, applied: Sequence[str] | None = None
) -> int:
    """Give a file the next free number. `applied` are the database's versions, if it was asked."""
    directory = migrations_directory(terminal.environ)
    path = directory / _existing(directory, options.version)
    _require_not_applied(path, applied or ())
    found = _number_without(path, applied or (), terminal)
    repository = find_repository(directory)
    if repository:
        _require_not_on_base(path, found, repository, asked=applied is not None)
    is_tracked = repository is not None and repository.tracks(path)
    move = repository.move if repository and is_tracked else Path.rename
    imported = read_imported(directory)
    new = writing.renumber(path, found.number, move)
    if imported and path.stem in imported.version_of.values():
        text = imported_text(renamed(imported, path.stem, new.stem))
        writing.replace(directory / FILE_NAME, text.encode())
    _tell_renumbered(path, new, found, terminal, asked=applied is not None)
    return 0


def _existing(directory: Path, version: str) -> str:
    """The name of the file with this version or path. Raises FilesError."""
    wanted, names = Path(version).name, names_in(directory)
    for name in names:
        if wanted in (name, Path(name).stem):
            return name
    alike = [name for name in names if number_of(name) == number_of(wanted)]
    commands = [
        f"\n  scripts/migrate.py renumber {Path(name).stem}"
        for name in alike or get_close_matches(wanted, names)
    ]
    raise FilesError(
        f"{directory / wanted}: there is no such file",
        changed_nothing=True,
        next_step=f"Did you mean:{''.join(commands)}" if commands else "",
    )


def _require_not_applied(path: Path, applied: Iterable[str]) -> None:
    if any(same_migration(path.stem, version) for version in applied):
        raise HistoryConflict(
            f"{path} is applied in this database, so it keeps its number",
            changed_nothing=True,
            next_step="To see which files are not applied:\n  scripts/migrate.py status",
        )


def _number_without(path: Path, applied: Iterable[str], terminal: Terminal) -> NextNumber:
    """The number for a file that gives up its own."""
    here = [name for name in names_in(path.parent) if name != path.name]
    elsewhere = [one for one in _unmerged(path.parent, terminal) if one.name != path.name]
    return next_number([*here, *applied], elsewhere)


def _require_not_on_base(
    path: Path, found: NextNumber, repository: Repository, *, asked: bool
) -> None:
    base = repository.base_branch()
    files = repository.files(base) if base else {}
    if path.name not in files:
        return
    # No run begins while two files share a number: a database knows which of them it had before.
    if asked and shares_number(path.name, files):
        return
    new = renumbered(path.name, found.number)
    raise BaseConflict(
        str(path),
        f"{short_name(base or '')} has it, so databases may have applied it under this number",
        next_step="Nothing was changed. Keep the number; only if no database has applied it:\n"
        f"  {shlex.join(['git', 'mv', str(path), str(path.with_name(new))])}",
    )


def _tell_renumbered(
    path: Path, new: Path, found: NextNumber, terminal: Terminal, *, asked: bool
) -> None:
    if path == new:
        terminal.info(f"✅ Nothing to renumber: {path} has the next free number")
    else:
        terminal.info(f"✅ Renumbered: {path} is now {new}")
    tell_number(found, terminal)
    if not asked:
        terminal.info(f"   {_NOT_ASKED}")
    terminal.json(
        {
            "success": True,
            "previousVersion": path.stem,
            "version": new.stem,
            "file": str(new),
            "changed": path != new,
            "databaseAsked": asked,
            **number_dict(found),
        }
    )


def tell_number(found: NextNumber, terminal: Terminal) -> None:
    """Tell what other branches have to do with a number."""
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


def _import(options: SimpleNamespace, terminal: Terminal) -> int:
    from lib.report.importing import import_dict  # noqa: PLC0415 - few need it

    found = do_import(options, terminal)
    terminal.json(import_dict(found, written=not options.dry_run))
    return 0


def do_import(options: SimpleNamespace, terminal: Terminal) -> Import:
    """Write what an import makes, but for --dry-run, and say so. Raises FilesError."""
    from lib.importers.conversion import Options  # noqa: PLC0415 - few need it
    from lib.importers.importing import plan_import, write_import  # noqa: PLC0415 - as above
    from lib.report.importing import import_text  # noqa: PLC0415 - as above

    directory = migrations_directory(terminal.environ)
    asked = Options(directory, options.table, options.keep_numbers, frozenset(options.skip))
    found = plan_import(options.tool, options.source, asked)
    if not options.dry_run:
        write_import(found, directory)
    terminal.info(import_text(found, written=not options.dry_run))
    return found


COMMANDS: dict[str, Command] = {
    "check": _check,
    "renumber": renumber,
    "validate": _validate,
    "create": _create,
    "import": _import,
}
