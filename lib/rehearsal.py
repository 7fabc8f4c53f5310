"""The pending files observed: by the run loop, or in one transaction that is rolled back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from lib import runner
from lib.activity import Asked
from lib.consent import Change, require_consent
from lib.errors import ConfigError, WrongEnvironment
from lib.events import Emit, RunLog, RunResult
from lib.guard import require_trust
from lib.hazards import recipes
from lib.hazards.findings import Circumstances, FileReport, Rehearsal
from lib.hazards.judging import blocked, find, require_known, with_acceptances
from lib.history import History
from lib.identity import is_copied, last_migrated_as
from lib.observation import FileObservation, Query
from lib.plan import Plan
from lib.postgres.catalog import Observer, read_catalog
from lib.postgres.executor import Executor
from lib.postgres.queries import parse_all
from lib.queries import Queries, read_queries
from lib.refusals import where, whose
from lib.settings.config import Config
from lib.sizes import Size, Sizes, read_sizes
from lib.source.migration import Migration, load

_THIS_DATABASE = "this database"


class Prepared(NamedTuple):
    """What is known before the files run."""

    history: History
    plan: Plan
    given: Circumstances
    sizes_from: str
    queries: Queries = Queries()
    sizes_as_of: datetime | None = None


class Documents(NamedTuple):
    """The files that another database has written."""

    sizes: Path | None = None
    queries: Path | None = None


NO_DOCUMENTS = Documents()


def prepare(config: Config, change: Change, documents: Documents = NO_DOCUMENTS) -> Prepared:
    """Read what a rehearsal needs. Reads only.

    Raises WrongEnvironment where none is allowed; FilesError, ConfigError for what a file accepts
    and for documents that are not this database's.
    """
    with Executor(config) as executor:
        return _prepare(config, executor, change, documents)


def rehearse(
    config: Config, emit: Emit, prepared: Prepared, *, required: bool = True
) -> tuple[RunResult, Rehearsal]:
    """Apply the pending files by the run loop, observed. Raises as a run does.

    Unless it is `required`, a file that cannot be observed is applied all the same.
    """
    observer = Observer(prepared.queries.parsed, required=required)
    result = runner.run(config, emit, observer=observer)
    return result, _rehearsal(prepared, observer, is_plan=False)


def plan(config: Config, emit: Emit, documents: Documents = NO_DOCUMENTS) -> Rehearsal:
    """Run the pending files in one transaction, observed, and roll it back. Raises as a run does.

    Files without a transaction are left out.
    """
    log = RunLog(emit)
    with Executor(config, log) as executor:
        prepared = _prepare(config, executor, Change.plan(), documents)
        observer = Observer(prepared.queries.parsed)
        log.started(prepared.history, prepared.plan)
        runner.require_run_allowed(config, prepared.history, prepared.plan)
        executor.observe(observer)
        if prepared.plan.pending:
            executor.plan(prepared.plan.pending)
    return _rehearsal(prepared, observer, is_plan=True)


def _prepare(config: Config, executor: Executor, change: Change, documents: Documents) -> Prepared:
    saved = read_sizes(documents.sizes) if documents.sizes else Sizes()
    queries, made = read_queries(documents.queries) if documents.queries else ((), None)
    history, plan = runner.read_plan(config, executor, load(config.directory), activity=Asked.ALL)
    _require_permission(config, history, change)
    require_known(plan.pending)
    if saved.tables:
        _require_same_tables(saved, executor, str(documents.sizes))
    own = _own_sizes(history)
    sources = {_THIS_DATABASE: own, str(documents.sizes): saved}
    sizes_from = ", else ".join(name for name, one in sources.items() if one.tables)
    given = _circumstances(config, history, own.else_of(saved))
    parsed = _parsed(queries, executor, str(documents.queries or ""))._replace(as_of=made)
    return Prepared(history, plan, given, sizes_from, parsed, saved.as_of)


def _require_permission(config: Config, history: History, change: Change) -> None:
    """Return if the pending files may be rehearsed or planned here.

    Never in production, nor in a database that production or another environment migrated last, nor
    in one whose history says nothing. Raises UntrustedHistory or WrongEnvironment.
    """
    require_trust(history)
    last, here = last_migrated_as(history), config.environment
    if config.production or last == "production":
        raise WrongEnvironment(
            f"this is production, where nothing is rehearsed or planned{where(config)}",
            changed_nothing=True,
            next_step="Use a database that is thrown away, or a branch of production's.",
        )
    claimed = config.claim == f"{here}@{history.identity}"
    if not (last == here or claimed or (last is None and _is_new_or_copied(history))):
        raise WrongEnvironment(
            f"this database {whose(history, last)}, so it may be in use{where(config)}",
            changed_nothing=True,
            next_step="Use a database that is thrown away. If this one belongs to "
            f"{here}:\n    MIGRATION_CLAIM={here}@{history.identity} {change.command}",
        )
    require_consent(config, change, history)


def _is_new_or_copied(history: History) -> bool:
    return not history.known or is_copied(history)


def _circumstances(config: Config, history: History, sizes: Sizes) -> Circumstances:
    major, _, minor = history.version.split()[0].partition(".")
    return Circumstances(
        int(major), sizes, config.large, minor=int(minor) if minor.isdecimal() else None
    )


def _parsed(queries: Sequence[Query], executor: Executor, source: str) -> Queries:
    """What is known of the statements.

    Raises ConfigError if this database has tables, and can parse none of them.
    """
    said = parse_all(executor.connection, queries, executor.limits) if queries else {}
    fine = tuple(query for query in queries if not said[query].error)
    if queries and not fine and read_catalog(executor.connection).relations:
        raise ConfigError(
            f"{source} has the statements of another database: it lists {len(queries)}, and none "
            f"of them can be parsed here. The first: {said[queries[0]].error}",
            changed_nothing=True,
            next_step="Use a document of a database that has the same migrations.",
        )
    return Queries(source, len(queries), fine)


def _own_sizes(history: History) -> Sizes:
    listed = history.activity.sizes if history.activity else {}
    return Sizes({name: Size(*size) for name, size in listed.items()})


def _require_same_tables(sizes: Sizes, executor: Executor, source: str) -> None:
    """Raise ConfigError if none of the tables that a file lists is here."""
    here = {recipes.qualified(one) for one in read_catalog(executor.connection).relations.values()}
    if here and here.isdisjoint(sizes.tables):
        raise ConfigError(
            f"{source} has the sizes of another database: it lists {len(sizes.tables)} tables, and "
            "none of them is here",
            next_step="Use a document of a database that has the same migrations.",
        )


def _rehearsal(prepared: Prepared, observer: Observer, *, is_plan: bool) -> Rehearsal:
    given = prepared.given
    if observer.files:  # nobody uses yet what the same run creates
        first = observer.files[0]
        given = given._replace(known=first.start, known_objects=first.objects_before)
    seen = {one.version: one for one in observer.files}
    files = [_report(one, seen.get(one.version), given, is_plan) for one in prepared.plan.pending]
    if is_plan:
        files[1:] = [one._replace(at_most=bool(one.blocked)) for one in files[1:]]
    return Rehearsal(
        tuple(files), prepared.history.version, prepared.sizes_from, is_plan, prepared.queries,
        prepared.sizes_as_of, datetime.now(UTC),
    )  # fmt: skip


def _report(
    migration: Migration, seen: FileObservation | None, given: Circumstances, is_plan: bool
) -> FileReport:
    version, transactional = migration.version, migration.transactional
    if not seen:
        ran = not (is_plan or migration.stands_for)  # a checkpoint may only be recorded
        return FileReport(version, transactional, ran=ran, observed=False)
    findings = with_acceptances(
        find(seen, given), migration.accepted(), version, str(migration.path)
    )
    return FileReport(
        version, transactional, ran=True, findings=findings, blocked=tuple(blocked(seen, given))
    )
