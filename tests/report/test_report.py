import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from typing import Any

import pytest

from lib.activity import Activity, PendingDetach, RunningRun
from lib.errors import (
    ConfigError,
    Diagnostic,
    HistoryConflict,
    MigrationFailed,
    MigrationResult,
    OnwardError,
    PartlyApplied,
    RunFailed,
    ServerError,
    TableBusy,
)
from lib.events import Notice, Progress, Retry, Running, RunResult, Started
from lib.history import AppliedMigration, History
from lib.plan import MigrationStatus, Plan, make_plan
from lib.report import document, github
from lib.report import text as report_text
from lib.report.text import StatusView
from lib.settings.config import Config, read_config
from lib.source.migration import DRAFT
from lib.validation import validate
from tests.conftest import ROOT
from tests.documents import anchor, prose_of
from tests.kit import HISTORY, file, kinds

CONFIG = read_config({"DATABASE_URL": "postgresql://kanarie7:kanarie7@h.example/neondb"})
VERSIONS = ("000-create-migration-table", "001-create-users-table", "002-add-reset-token-fields")
TIMES = (
    "2025-10-25T14:00:17.455999+00:00",
    "2025-10-25T14:01:28+00:00",
    "2025-10-25T14:01:28.9+00:00",
)


def row(
    version: str, at: str | None = None, milliseconds: int | None = None, **more: Any
) -> AppliedMigration:
    moment = datetime.fromisoformat(at) if at else None
    values: dict[str, Any] = {
        "id": int(version[:3]) + 1,
        "checksum": sha256(b"SELECT 1;").hexdigest(),
    }
    values |= {"applied_at": moment, "execution_time_ms": milliseconds} | more
    return AppliedMigration(version=version, name=version.title(), **values)


ROWS = tuple(map(row, VERSIONS, TIMES, (25, 46, 27)))


def history(*rows: AppliedMigration, version: str = "16.4 (Debian 16.4-1.pgdg120+1)") -> History:
    return HISTORY._replace(rows=rows, database="neondb", version=version, identity="712/neondb")


def plan(files: tuple[str, ...] = VERSIONS, rows: tuple[AppliedMigration, ...] = ROWS) -> Plan:
    return make_plan([file(version) for version in files], rows)


def sentence(entry: MigrationStatus) -> str:
    return f"{entry.remark.message}; {'; or '.join(entry.remark.remedies)}"


NOW = datetime(2025, 10, 25, 16, 30, tzinfo=UTC)
VIEW = StatusView(NOW)
NOTHING = Activity()


def status(
    found: Plan,
    config: Config = CONFIG,
    activity: Activity = NOTHING,
    **view: Any,
) -> str:
    seen = history()._replace(activity=activity)
    return report_text.status_text(config, seen, found, StatusView(NOW, **view))


# The status


def test_the_status_looks_like_the_contracts() -> None:
    assert status(plan()) == (
        "📊 Migration Status\n"
        "\n"
        "Database: neondb\n"
        "Environment: development\n"
        "\n"
        "Applied Migrations (3):\n"
        "✅ 000-create-migration-table          (2025-10-25 14:00:17 UTC) - 25ms, 2 h ago\n"
        "✅ 001-create-users-table              (2025-10-25 14:01:28 UTC) - 46ms, 2 h ago\n"
        "✅ 002-add-reset-token-fields          (2025-10-25 14:01:28 UTC) - 27ms, 2 h ago\n"
        "\n"
        "Pending Migrations: None"
    )


def test_the_status_of_a_fresh_database_lists_what_is_pending() -> None:
    assert status(plan(rows=())).split("\n\n")[2:] == [
        "Applied Migrations: None",
        f"Pending Migrations (3):\n⏳ {VERSIONS[0]}\n⏳ {VERSIONS[1]}\n⏳ {VERSIONS[2]}",
    ]


def test_the_status_shows_every_state_with_its_remedy() -> None:
    rows = (
        row("001-a", TIMES[0], 1, checksum=None),
        row("002-b", TIMES[0]),
        row("003-c", checksum="0" * 64),
        row("005-e", TIMES[0], 0),
    )
    found = plan(("001-a", "003-c", "004-d"), rows)
    applied, ahead, pending, conflicts, warnings = status(found).split("\n\n")[2:]
    assert applied == (
        "Applied Migrations (3):\n"
        "✅ 001-a                               (2025-10-25 14:00:17 UTC) - 1ms, 2 h ago\n"
        "❌ 002-b                               (2025-10-25 14:00:17 UTC), 2 h ago  missing\n"
        "❌ 003-c                               (time unknown)  modified"
    )
    assert ahead == (
        "Ahead of these files (1):\n⏩ 005-e                               (2025-10-25 14:00:17 "
        "UTC) - 0ms, 2 h ago  ahead"
    )
    assert pending == "Pending Migrations (1):\n❌ 004-d  out_of_order"
    assert conflicts.split("\n") == [
        "Conflicts:",
        *(
            line
            for one in found.conflicts
            for line in (
                f"{one.state}: {one.remark.message}",
                *(f"    - {remedy}" for remedy in one.remark.remedies),
            )
        ),
    ]
    assert warnings == (
        "⚠️  Applied without a checksum, so not verified: 001-a\n"
        "⚠️  Applied, but newer than every file here (an older build, after a rollback?): 005-e"
    )


def test_long_versions_keep_the_columns() -> None:
    long = "003-" + "x" * 40
    lines = status(plan((*VERSIONS, long), (*ROWS, row(long, TIMES[0], 5)))).splitlines()[6:10]
    assert {line.index(" (") for line in lines} == {2 + len(long)}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "just now"),
        (0, "just now"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3_599, "59 min ago"),
        (7_200, "2 h ago"),
        (86_400 * 400, "400 d ago"),
    ],
)
def test_the_status_says_how_long_ago_a_file_was_applied(seconds: int, words: str) -> None:
    found = plan(("001-a",), (row("001-a", (NOW - timedelta(seconds=seconds)).isoformat(), 1),))
    assert status(found).splitlines()[6].endswith(f"UTC) - 1ms, {words}")


MANY = tuple(f"{number:03}-step" for number in range(1, 26))
MANY_APPLIED = tuple(row(version, TIMES[0], 1) for version in MANY[:22])


def test_a_long_status_shows_what_is_pending_first_and_the_newest_rows() -> None:
    totals, pending, applied = status(plan(MANY, MANY_APPLIED), last=20).split("\n\n")[2:]
    assert totals == "Total: 22 applied, 3 pending"
    assert pending == f"Pending Migrations (3):\n⏳ {MANY[22]}\n⏳ {MANY[23]}\n⏳ {MANY[24]}"
    title, *lines = applied.splitlines()
    assert title == "Applied Migrations (22, the last 20):"
    assert [line.split()[1] for line in lines] == list(MANY[2:22])


def test_a_status_of_all_rows_keeps_its_form() -> None:
    applied, _pending = status(plan(MANY, MANY_APPLIED), last=None).split("\n\n")[2:]
    assert len(applied.splitlines()) == 23
    assert (
        status(plan(MANY[:20], MANY_APPLIED[:20]), last=20)
        .split("\n\n")[2]
        .startswith("Applied Migrations (20):")
    )


def test_a_status_of_what_is_pending_leaves_the_rest_out() -> None:
    found = status(plan(MANY, MANY_APPLIED), pending_only=True).split("\n\n")[2:]
    assert found == [f"Pending Migrations (3):\n⏳ {MANY[22]}\n⏳ {MANY[23]}\n⏳ {MANY[24]}"]


def test_the_status_names_the_file_that_is_running() -> None:
    running = RunningRun(4711, "002-add-reset", NOW - timedelta(seconds=40))
    lines = status(plan(), activity=Activity(running)).splitlines()
    assert lines[4] == (
        "Running now: 002-add-reset-token-fields since 2025-10-25 16:29:20 UTC, 40 s ago (pid 4711)"
    )
    lines = status(plan(), activity=Activity(RunningRun(4711, None, None))).splitlines()
    assert lines[4] == "Running now: a run (pid 4711)"


def test_the_status_names_what_interrupted_statements_left() -> None:
    left = Activity(None, ("public.a_idx",), (PendingDetach("public.p", "public.p1"),))
    assert status(plan(), activity=left).split("\n\n")[-1] == (
        "⚠️  Invalid index, left by an interrupted or failed build: public.a_idx\n"
        "  A pending file that builds it does so again. To drop it:\n"
        "  DROP INDEX CONCURRENTLY public.a_idx;\n"
        "⚠️  Partition whose detaching was interrupted: public.p1. To finish it:\n"
        "  ALTER TABLE public.p DETACH PARTITION public.p1 FINALIZE;"
    )


def test_the_status_for_machines_is_the_public_document() -> None:
    found = document.status_dict(CONFIG, history(), plan((*VERSIONS, "003-add-orders")))
    assert found == {
        "success": True,
        "environment": "development",
        "database": "neondb",
        "pgVersion": "PostgreSQL 16.4",
        "state": "pending",
        "appliedMigrations": 3,
        "pendingMigrations": 1,
        "lastMigration": {
            "version": "002-add-reset-token-fields",
            "name": "002-Add-Reset-Token-Fields",
            "appliedAt": "2025-10-25T14:01:28.900Z",
        },
        "drift": "unknown",
        "driftAsOf": None,
        "running": None,
        "migrations": [
            *(
                {
                    "version": one.version,
                    "name": one.name,
                    "state": "applied",
                    "appliedAt": at,
                    "executionTimeMs": ms,
                }
                for one, at, ms in zip(
                    ROWS,
                    (
                        "2025-10-25T14:00:17.455Z",
                        "2025-10-25T14:01:28.000Z",
                        "2025-10-25T14:01:28.900Z",
                    ),
                    (25, 46, 27),
                    strict=True,
                )
            ),
            {
                "version": "003-add-orders",
                "name": "Add Orders",
                "state": "pending",
                "appliedAt": None,
                "executionTimeMs": None,
            },
        ],
    }
    assert list(found)[:2] == ["success", "environment"]
    assert json.loads(json.dumps(found)) == found


def test_the_last_migration_is_the_newest_row_whatever_its_number() -> None:
    rows = (row("001-a", id=2), row("002-b", id=1))
    found = document.status_dict(CONFIG, history(), plan(("001-a", "002-b"), rows))
    assert found["lastMigration"] == {"version": "001-a", "name": "001-A", "appliedAt": None}
    assert document.status_dict(CONFIG, history(), plan((), ()))["lastMigration"] is None


def test_what_is_late_is_counted_as_pending_too() -> None:
    found = document.status_dict(
        CONFIG, history(), plan(("001-a", "002-b", "003-c"), (row("002-b"),))
    )
    assert (found["state"], found["appliedMigrations"], found["pendingMigrations"]) == (
        "conflict",
        1,
        2,
    )


def test_the_full_status_adds_checksums_audit_columns_and_problems() -> None:
    audit: dict[str, Any] = {
        "environment": "production",
        "identity": "712/neondb",
        "git_commit": "abc",
        "applied_by": "build",
    }
    found = plan(("001-a", "003-c"), (row("001-a", **audit), row("002-b", checksum=None)))
    public = document.status_dict(CONFIG, history(), found)["migrations"]
    full = document.status_dict(CONFIG, history(), found, full=True)["migrations"]
    assert [one["state"] for one in full] == ["applied", "missing", "pending"]
    assert [{**one, **more} == more for one, more in zip(public, full, strict=True)] == [True] * 3
    added = [{name: one[name] for name in one if name not in public[0]} for one in full]
    nothing = dict.fromkeys(("environment", "identity", "gitCommit", "appliedBy"))
    assert added == [
        {
            "checksum": file("001-a").checksum,
            "environment": "production",
            "identity": "712/neondb",
            "gitCommit": "abc",
            "appliedBy": "build",
        },
        {"checksum": None, **nothing, "problem": sentence(found.conflicts[0])},
        {"checksum": file("003-c").checksum, **nothing},
    ]


def test_a_validation_names_each_problem() -> None:
    found = plan(("001-a", "002-b"), (row("002-b", checksum="0"),))
    assert document.validation_dict(validate(found)) == {
        "success": False,
        "state": "conflict",
        "problems": [
            {"version": "001-a", "state": "out_of_order", "message": sentence(found.conflicts[0])},
            {"version": "002-b", "state": "modified", "message": sentence(found.conflicts[1])},
        ],
    }
    assert document.validation_dict(validate(plan())) == {
        "success": True,
        "state": "current",
        "problems": [],
    }


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2025, 10, 25, 19, 5, 12, 455999, UTC), "2025-10-25T19:05:12.455Z"),
        (
            datetime(2025, 10, 25, 21, 5, 12, tzinfo=timezone(timedelta(hours=2))),
            "2025-10-25T19:05:12.000Z",
        ),
        (None, None),
    ],
)
def test_a_moment_is_written_as_javascript_writes_it(
    moment: datetime | None, text: str | None
) -> None:
    assert document.iso(moment) == text


# A run


def test_a_run_says_where_it_works_and_what_it_will_do() -> None:
    content = {"003-empty": "-- nothing", "004-orders": "SELECT 1;"}
    files = [*map(file, VERSIONS), *(file(version, text) for version, text in content.items())]
    found = make_plan(files, (row(VERSIONS[0], checksum=None), *ROWS[1:]))
    assert report_text.event_text(CONFIG, Started(history(), found)) == (
        "Database: neondb on h.example (from DATABASE_URL)\n"
        "Environment: development (from default)\n"
        "Pending: 2 of 5, PostgreSQL 16.4\n"
        "⚠️  Applied without a checksum, so not verified: 000-create-migration-table\n"
        "⚠️  003-empty contains no SQL: it will only be recorded"
    )
    assert "Pending: none of 3, PostgreSQL 18.1" in report_text.event_text(
        CONFIG, Started(history(version="18.1"), plan())
    )


def test_a_draft_is_not_said_to_be_recorded() -> None:
    draft = replace(file("003-draft", "-- migrate: draft\n"), directives=frozenset({DRAFT}))
    found = make_plan([*map(file, VERSIONS), draft], ROWS)
    assert report_text.event_text(CONFIG, Started(history(), found)).endswith(
        "Pending: 1 of 4, PostgreSQL 16.4"
    )


def test_a_file_is_named_before_it_runs_and_while_it_still_runs() -> None:
    assert report_text.event_text(CONFIG, Running("003-add-orders")) == "▶ 003-add-orders"
    details = ("Blocked by pid 7, psql, for 34 s: BEGIN", "Building an index on a: 40 %")
    assert report_text.event_text(CONFIG, Progress("003-add-orders", 20.04, details)) == (
        "⏳ 003-add-orders: running for 20 s\n"
        "   Blocked by pid 7, psql, for 34 s: BEGIN\n"
        "   Building an index on a: 40 %"
    )


def test_a_run_says_what_the_server_says_and_what_is_applied() -> None:
    assert (
        report_text.event_text(CONFIG, Notice(file("003-add-orders"), "NOTICE: hm"))
        == "   003-add-orders: NOTICE: hm"
    )
    assert (
        report_text.event_text(CONFIG, MigrationResult("003-add-orders", "Add Orders", 46))
        == "✅ Applied: 003-add-orders (46ms)"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "✅ Database is up to date: no migration is pending"),
        (1, "✅ 1 migration applied successfully"),
        (2, "✅ 2 migrations applied successfully"),
    ],
)
def test_a_run_ends_with_a_count(count: int, text: str) -> None:
    done = tuple(MigrationResult(f"00{number}-x", "X", 1) for number in range(count))
    assert report_text.run_text(RunResult("development", "neondb", plan(), done, ())) == text


def test_a_run_for_machines_says_what_is_done_and_what_remains() -> None:
    done = (MigrationResult("003-add-orders", "Add Orders", 46),)
    found = document.run_dict(RunResult("production", "neondb", plan(), done, ("004-x",)))
    assert found == {
        "success": True,
        "environment": "production",
        "database": "neondb",
        "applied": [{"version": "003-add-orders", "name": "Add Orders", "executionTimeMs": 46}],
        "remaining": ["004-x"],
        "complete": False,
    }
    assert (
        document.run_dict(RunResult("production", "neondb", plan(), done, ()))["complete"] is True
    )


# Errors


def failed(kind: type[MigrationFailed] = MigrationFailed, /, **said: Any) -> RunFailed:
    server = ServerError("42704", 'type "citext" does not exist', **said)
    excerpt = "14 |   email citext\n   |         ^^^^^^"
    path = "migrations/007-add-email.sql"
    error = kind(
        Diagnostic("007-add-email", path, server, 14, 20, excerpt, "statement 3 of 5"),
        state="rolled back",
        next_step="Mend the file.",
    )
    applied = [MigrationResult("005-a", "A", 4), MigrationResult("006-b", "B", 2)]
    return RunFailed(error, applied=applied, remaining=["007-add-email", "008-c"])


def test_a_failure_shows_place_excerpt_servers_words_state_and_next_step() -> None:
    said = {
        "detail": "Key (a)=(1)\nexists.",
        "hint": "CREATE EXTENSION citext",
        "context": "SQL function f",
    }
    assert report_text.error_text(failed(**said)) == (
        "❌ FAILED migrations/007-add-email.sql:14:20   statement 3 of 5\n"
        "14 |   email citext\n"
        "   |         ^^^^^^\n"
        'ERROR 42704: type "citext" does not exist\n'
        "Detail: Key (a)=(1)\n"
        "  exists.\n"
        "Hint: CREATE EXTENSION citext\n"
        "Context: SQL function f\n"
        "State: rolled back.\n"
        "Applied in this run: 005-a, 006-b.\n"
        "Not applied: 007-add-email, 008-c.\n"
        "Next: Mend the file."
    )


def test_a_failure_without_a_position_names_the_file_and_the_statement() -> None:
    server = ServerError("42704", 'type "citext" does not exist')
    failure = Diagnostic("007-add-email", "migrations/007-add-email.sql", server)
    error = PartlyApplied(failure, state="rolled back", next_step="Mend the file.")
    failed_run = RunFailed(error, applied=[], remaining=[])
    assert report_text.error_text(failed_run) == (
        "❌ FAILED migrations/007-add-email.sql\n"
        'ERROR 42704: type "citext" does not exist\n'
        "State: rolled back.\n"
        "Applied in this run: none.\n"
        "Next: Mend the file."
    )


def test_without_a_sqlstate_none_is_shown() -> None:
    failure = Diagnostic("001-x", "001-x.sql", ServerError(None, "the connection was lost"))
    error = MigrationFailed(failure, state="rolled back", next_step="")
    assert (
        report_text.error_text(error)
        == "❌ FAILED 001-x.sql\nERROR: the connection was lost\nState: rolled back."
    )
    assert github.annotation(error) == "::error file=001-x.sql::the connection was lost"


def test_another_error_shows_what_is_wrong_and_what_to_do() -> None:
    assert (
        report_text.error_text(ConfigError("wrong:\n  a\n  b", next_step="Mend."))
        == "❌ wrong:\n  a\n  b\nNext: Mend."
    )
    assert report_text.error_text(OnwardError("wrong")) == "❌ wrong"
    conflict = HistoryConflict("no", next_step="Mend.")
    assert (
        report_text.error_text(RunFailed(conflict, applied=[], remaining=["001-x"]))
        == "❌ no\nApplied in this run: none.\nNot applied: 001-x.\nNext: Mend."
    )


def test_an_error_for_machines_has_the_same_facts() -> None:
    said = {"detail": "d", "hint": "h", "constraint": "c"}
    assert document.error_dict(failed(PartlyApplied, **said)) == {
        "success": False,
        "error": {
            "code": "partly_applied",
            "message": 'type "citext" does not exist',
            "nextStep": "Mend the file.",
            "version": "007-add-email",
            "file": "migrations/007-add-email.sql",
            "line": 14,
            "column": 20,
            "statement": "statement 3 of 5",
            "sqlstate": "42704",
            "detail": "d",
            "hint": "h",
            "constraint": "c",
            "state": "rolled back",
        },
        "applied": [
            {"version": "005-a", "name": "A", "executionTimeMs": 4},
            {"version": "006-b", "name": "B", "executionTimeMs": 2},
        ],
        "remaining": ["007-add-email", "008-c"],
    }
    assert document.error_dict(ConfigError("wrong", next_step="Mend.")) == {
        "success": False,
        "error": {"code": "not_configured", "message": "wrong", "nextStep": "Mend."},
    }


def test_every_error_has_the_page_that_explains_it() -> None:
    assert set(report_text.PAGES) == kinds() - {RunFailed}  # it has its cause's


@pytest.mark.parametrize(
    "page", sorted({*report_text.PAGES.values(), *report_text.CHECK_PAGES.values()})
)
def test_every_page_that_explains_an_error_is_there(page: str) -> None:
    file, _, section = page.partition("#")
    headings = re.findall(r"^#+ (.*)", prose_of(ROOT / file), re.MULTILINE)
    assert section in [anchor(heading) for heading in headings]


def test_a_start_that_fails_names_one_of_these_pages_too() -> None:
    named = re.findall(r"docs/[\w.#-]+", (ROOT / "scripts" / "migrate.py").read_text())
    assert named
    assert set(named) <= set(report_text.PAGES.values())


def test_the_last_line_of_a_failure_has_its_exit_code_and_page() -> None:
    class Unheard(TableBusy):
        exit_code = 99

    assert report_text.exit_text(TableBusy("x")) == "(exit 4, docs/on-call.md#exit-4-a-busy-table)"
    assert report_text.exit_text(Unheard("x")) == "(exit 99, docs/on-call.md#exit-4-a-busy-table)"
    assert report_text.check_text(8) == "(exit 8, docs/exit-codes.md#exit-codes)"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            failed(),
            (
                '::error file=migrations/007-add-email.sql,line=14,col=20::42704: type "citext" '
                "does not exist"
            ),
        ),
        (ConfigError("100%:\r\n  a, b"), "::error::100%25:%0A  a, b"),
        (
            MigrationFailed(
                Diagnostic(
                    "1", "C:\\a,b%\n.sql", ServerError("P0001", "a, b: 5%\n::error::x"), 1, 2
                ),
                state="",
                next_step="",
            ),
            "::error file=C%3A\\a%2Cb%25%0A.sql,line=1,col=2::P0001: a, b: 5%25%0A\\x3a:error::x",
        ),
    ],
)
def test_an_annotation_is_escaped_as_github_wants_it(error: OnwardError, expected: str) -> None:
    assert github.annotation(error) == expected


def test_no_words_of_others_pass_for_a_line_of_ours() -> None:
    forged = "999-x\n✅ Applied: 999-forged (1ms)\nNext: forged"
    error = failed(detail=forged, hint=forged, context=forged)
    cause = error.cause
    assert isinstance(cause, MigrationFailed)
    cause.failure = cause.failure._replace(server=cause.failure.server._replace(message=forged))
    busy = TableBusy(forged, next_step=forged)
    cause.blockers = busy.blockers = [forged]
    rows = (row(forged, TIMES[0], 1),)
    said = [
        report_text.error_text(error),
        report_text.error_text(busy),
        report_text.event_text(CONFIG, Notice(None, forged)),
        report_text.event_text(CONFIG, Notice(file("001-a"), forged)),
        report_text.event_text(CONFIG, Retry(busy, 1.0)),
        report_text.status_text(
            CONFIG, history()._replace(database=forged), plan(VERSIONS, rows), VIEW
        ),
    ]
    for text in said:
        lines = text.split("\n")
        assert not [line for line in lines if line.startswith(("✅ Applied: 999", "Next: forged"))]
        assert [line for line in lines if line.startswith("  ✅ Applied: 999-forged")], text
