"""Imports a tool's directory: finds the tool, converts its files, writes them."""

import importlib
from collections.abc import Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from lib.errors import FilesError
from lib.imported import FILE_NAME, Imported, imported_text, read_imported
from lib.importers.conversion import Options, convert
from lib.importers.layout import Layout, Obstacle, SourceFile
from lib.source.migration import Migration, names_in, reason_of
from lib.source.writing import place, replace
from lib.tool_tables import TABLES

AUTO = "auto"
# A tool whose table has the name of Onward's: Onward's own goes to this schema.
_SCHEMA_BESIDE = "onward"


class Import(NamedTuple):
    """What an import does."""

    files: tuple[tuple[SourceFile, Migration], ...]
    new: tuple[Migration, ...]
    """The migrations to write; the others are there, and are the same."""
    imported: Imported


def plan_import(tool: str, source: Path, options: Options) -> Import:
    """What to write into the directory of migrations. Reads only.

    Raises FilesError for what cannot be converted, naming all of it.
    """
    tool, found = _read(tool, source)
    directory = options.directory
    earlier = read_imported(directory) or _nothing_yet(tool)
    _require_same_tool(earlier, tool, directory)
    _require_files(found, tool, source)
    _require_known(options.skip, found)
    options = options._replace(skip={*options.skip, *earlier.skipped})
    if options.keep_numbers:
        _require_own_numbers(options.kept(found))
    earlier = earlier._replace(table=options.table or found.table or earlier.table)
    converted = convert(found, earlier, names_in(directory), options)
    _require_none(converted.obstacles, source)
    new = tuple(one for _, one in converted.files if _is_new(one))
    return Import(converted.files, new, converted.imported)


def _read(tool: str, source: Path) -> tuple[str, Layout]:
    try:
        if not source.is_dir():
            raise FilesError(f"{source} is no directory", changed_nothing=True)
        tool = recognised(source) if tool == AUTO else tool
        return tool, _importer(tool).read(source)
    except OSError as error:
        raise FilesError(
            f"{error.filename}: cannot be read: {reason_of(error)}", changed_nothing=True
        ) from None


def write_import(found: Import, directory: Path) -> None:
    """Write imported.json and the migrations; never over another file. Raises FilesError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FilesError(f"{directory}: cannot be created: {reason_of(error)}") from None
    # First: after an interruption, the same command finds the same versions in it.
    replace(directory / FILE_NAME, imported_text(found.imported).encode())
    for one in found.new:
        place(one.path, one.content)


def recognised(source: Path) -> str:
    """The tool that a directory is of. Raises FilesError if there is none, or several."""
    tools = [tool for tool in TABLES if _importer(tool).recognises(source)]
    if len(tools) == 1:
        return tools[0]
    problem = f"may be of {' or '.join(tools)}" if tools else "has the layout of no tool known here"
    raise FilesError(
        f"{source} {problem}",
        changed_nothing=True,
        next_step="Name the tool:"
        + "".join(f"\n  scripts/migrate.py import {tool} {source}" for tool in tools or TABLES),
    )


def _importer(tool: str) -> ModuleType:
    return importlib.import_module(f"lib.importers.{tool.replace('-', '_')}")


def _nothing_yet(tool: str) -> Imported:
    table = TABLES[tool].name
    return Imported(tool, table, _SCHEMA_BESIDE if table == "schema_migrations" else None, ())


def _require_same_tool(earlier: Imported, tool: str, directory: Path) -> None:
    if earlier.tool != tool:
        raise FilesError(
            f"{directory / FILE_NAME} has an import from {earlier.tool}, and this is {tool}",
            changed_nothing=True,
            next_step="One directory takes one tool's files. Set MIGRATION_DIR to another.",
        )


def _require_files(found: Layout, tool: str, source: Path) -> None:
    if not found.files:
        raise FilesError(f"{source} has no migration of {tool}", changed_nothing=True)


def _require_known(skip: Collection[str], found: Layout) -> None:
    unknown = sorted(set(skip) - {one.path for one in found.files})
    if unknown:
        raise FilesError(
            f"--skip names no file of the directory: {', '.join(unknown)}", changed_nothing=True
        )


def _require_own_numbers(files: Sequence[SourceFile]) -> None:
    numbers = [one.number for one in files]
    usable = None not in numbers and 0 not in numbers and len(set(numbers)) == len(numbers)
    if not usable or numbers != sorted(numbers, key=lambda number: number or 0):
        raise FilesError(
            "--keep-numbers needs numbers above 0, each once, in the order in which the tool runs "
            "the files",
            changed_nothing=True,
            next_step="Leave it out: the files get the numbers 001, 002, ...",
        )


def _require_none(obstacles: Collection[Obstacle], source: Path) -> None:
    if obstacles:
        lines = "".join(f"\n  {source / one.path}: {one.reason}" for one in obstacles)
        paths = dict.fromkeys(one.path for one in obstacles)
        raise FilesError(
            f"these files cannot be converted:{lines}",
            changed_nothing=True,
            next_step="Change them, or leave them out with"
            + "".join(f" --skip {path}" for path in paths),
        )


def _is_new(migration: Migration) -> bool:
    """Whether its file is not there yet. Raises FilesError if another one is."""
    try:
        there = migration.path.read_bytes()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise FilesError(
            f"{migration.path}: cannot be read: {reason_of(error)}", changed_nothing=True
        ) from None
    if there != migration.content:
        raise FilesError(
            f"{migration.path} is there with another text, so it is not imported again",
            changed_nothing=True,
            next_step="If the file's source was changed on purpose, delete it first.",
        )
    return False
