"""The commands that prove what they say in scratch databases: `checkpoint`, `import --prove`."""

from __future__ import annotations

from types import SimpleNamespace

from lib.checkpoint import Task, write_checkpoint
from lib.cli.offline import do_import, free_number, tell_number
from lib.cli.output import Command, Terminal
from lib.cli.scratch import scratch_server
from lib.imported import read_imported
from lib.importers.importing import Import
from lib.proof import Proof, prove, read_live
from lib.report.checkpoint import checkpoint_dict, checkpoint_text
from lib.report.document import number_dict
from lib.report.drift import drift_exit_text
from lib.report.importing import import_dict
from lib.report.proof import proof_dict, proof_text
from lib.settings.config import Config, history_schema, migrations_directory, read_config
from lib.source.migration import Migration, load, names_in
from lib.source.writing import path_of


def _checkpoint(options: SimpleNamespace, terminal: Terminal) -> int:
    directory = migrations_directory(terminal.environ)
    migrations, number = load(directory), free_number(directory, terminal)
    words = " ".join(options.description) or "checkpoint"
    path = path_of(directory, words, number.number)
    schema = history_schema(terminal.environ, read_imported(directory))
    terminal.info(f"Applying {len(migrations)} files to scratch databases")
    with scratch_server(options.scratch, terminal.environ) as server:
        written = write_checkpoint(Task(migrations, path, server.url, server.programs, schema))
    terminal.info(checkpoint_text(written))
    tell_number(number, terminal)
    terminal.json(checkpoint_dict(written) | number_dict(number))
    return 0


def _import_and_prove(options: SimpleNamespace, terminal: Terminal) -> int:
    """Import, then compare what the applied files make with the schema. Exit code 3 if it differs.

    The database is only read.
    """
    config = read_config(terminal.environ)
    found = do_import(options, terminal)
    proof = _proof(config, found, options, terminal)
    terminal.info(proof_text(proof))
    exit_code = 3 if proof.comparison.differences else 0
    if exit_code:
        terminal.explain_exit(drift_exit_text())
    document = import_dict(found, written=not options.dry_run)
    terminal.json({**document, "success": not exit_code, "proof": proof_dict(proof)})
    return exit_code


def _proof(config: Config, found: Import, options: SimpleNamespace, terminal: Terminal) -> Proof:
    schema = config.schema or found.imported.schema
    config = config._replace(imported=found.imported, schema=schema)
    live = read_live(config, _migrations(config, found))
    count = len(live.applied)
    files = "1 applied file" if count == 1 else f"{count} applied files"
    terminal.info(f"Running {files} in a scratch database, to compare its schema with this one ...")
    with scratch_server(options.scratch, terminal.environ) as server:
        return prove(live, server.url, throwaway=not options.scratch)


def _migrations(config: Config, found: Import) -> tuple[Migration, ...]:
    """Those that are there, and with --dry-run those that are not written."""
    there = load(config.directory) if names_in(config.directory) else ()
    every = {one.version: one for one in (*there, *found.new)}
    return tuple(sorted(every.values(), key=lambda one: one.number))


COMMANDS: dict[str, Command] = {"checkpoint": _checkpoint, "import": _import_and_prove}
