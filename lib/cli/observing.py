"""The commands that show what files do to a busy database: `rehearse`, `plan`, `queries`."""

from __future__ import annotations

from types import SimpleNamespace

from lib import rehearsal, runner
from lib.activity import Asked
from lib.cli.configured import config_of, emit_to, with_consent
from lib.cli.output import Command, Terminal
from lib.cli.signals import ignore_further_signals
from lib.consent import Change
from lib.errors import DatabaseUnsuitable, FilesError, LockBusy, WrongEnvironment
from lib.events import RunResult
from lib.hazards.findings import Rehearsal
from lib.postgres.connecting import READ_BUDGET
from lib.postgres.executor import Executor
from lib.postgres.queries import running_queries
from lib.report.queries import queries_dict, queries_text
from lib.report.rehearsal import (
    finding_annotations,
    rehearsal_dict,
    rehearsal_markdown,
    rehearsal_text,
)
from lib.settings.config import Config

_PLAN_LEAVES = (
    "A plan is rolled back, but sequences that the files use move on, and rows that they change "
    "leave dead rows"
)
_FRESH_BRANCH = (
    "These files are applied here now: to change one, use a new branch of the database, or a new "
    "database"
)


def run_observed(config: Config, terminal: Terminal) -> RunResult:
    """A run that shows its files' hazards, and does not fail for them. Raises as a run does."""
    emit = emit_to(terminal, config)
    try:
        prepared = rehearsal.prepare(config, Change.run())
    except (WrongEnvironment, FilesError, LockBusy, DatabaseUnsuitable) as refused:
        terminal.info(f"⚠️  MIGRATION_REHEARSE: not observed: {refused.message}")
        return runner.run(config, emit)
    result, found = rehearsal.rehearse(config, emit, prepared, required=False)
    if found.files:
        terminal.info(rehearsal_text(found, fails=False))
        terminal.annotate(finding_annotations(found, terminal.path_in_workspace))
    if found.matters:
        terminal.info(_FRESH_BRANCH)
    return result


def _rehearse(options: SimpleNamespace, terminal: Terminal) -> int:
    config = with_consent(config_of(options, terminal), options, terminal, Change.rehearse())
    documents = rehearsal.Documents(options.sizes_from, options.queries)
    prepared = rehearsal.prepare(config, Change.rehearse(), documents)
    _, found = rehearsal.rehearse(config, emit_to(terminal, config), prepared)
    return _tell_rehearsal(config, found, terminal)


def _plan(options: SimpleNamespace, terminal: Terminal) -> int:
    config = with_consent(config_of(options, terminal), options, terminal, Change.plan())
    terminal.info(_PLAN_LEAVES)
    documents = rehearsal.Documents(options.sizes_from, options.queries)
    found = rehearsal.plan(config, emit_to(terminal, config), documents)
    return _tell_rehearsal(config, found, terminal)


def _tell_rehearsal(config: Config, found: Rehearsal, terminal: Terminal) -> int:
    ignore_further_signals()
    fails = found.fails(config.fail_on)
    terminal.info(rehearsal_text(found, fails=fails))
    terminal.annotate(finding_annotations(found, terminal.path_in_workspace))
    terminal.json(rehearsal_dict(found, fails=fails))
    if terminal.as_markdown:
        terminal.document(rehearsal_markdown(found, fails=fails))
    return 9 if fails else 0


def _queries(options: SimpleNamespace, terminal: Terminal) -> int:
    terminal.as_json = True  # the document is all that it is asked for
    config = config_of(options, terminal)
    with Executor(config, budget=READ_BUDGET) as database:
        history = database.read(activity=Asked.RUN)
        found = running_queries(database.connection, history.role)
    terminal.info(queries_text(found))
    terminal.json(queries_dict(config, history, found))
    return 0


COMMANDS: dict[str, Command] = {"rehearse": _rehearse, "plan": _plan, "queries": _queries}
