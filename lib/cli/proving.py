"""`import --prove`: whether what is applied has made the schema that is there."""

from __future__ import annotations

from types import SimpleNamespace

from lib.cli.offline import do_import
from lib.cli.output import Terminal
from lib.cli.scratch import scratch_server
from lib.importers.importing import Import
from lib.proof import Proof, prove, read_live
from lib.report.drift import drift_exit_text
from lib.report.importing import import_dict
from lib.report.proof import proof_dict, proof_text
from lib.settings.config import Config, read_config
from lib.source.migration import Migration, load, names_in


def import_and_prove(options: SimpleNamespace, terminal: Terminal) -> int:
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
