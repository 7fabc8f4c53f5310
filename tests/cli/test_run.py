"""The commands that run and read: a run, `status`, `validate`.

Each test ends by looking at the database.
"""

import json
import re
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from tests.conftest import Cli, Database, Here
from tests.kit import ONE, OURS, TWO, Write, contents, recorded, tables

# Run


def test_a_run_applies_every_pending_file_and_says_where_and_what(
    cli: Cli, project: Path, database: Database
) -> None:
    result = cli(url=database.url, env={"MIGRATION_DIR": "migrations"}, cwd=project)
    said = re.sub(r"\d+ms", "Nms", re.sub(r"PostgreSQL [\d.]+", "PostgreSQL N", result.out))
    assert (result.code, result.err) == (0, "")
    host = urlsplit(database.url).netloc.rpartition("@")[2].removesuffix(":5432")
    assert said == (
        f"Database: {database.name} on {host} (from POSTGRES_URL)\n"
        "Environment: development (from default)\n"
        "Pending: 3 of 3, PostgreSQL N\n"
        "▶ 000-create-migration-table\n"
        "✅ Applied: 000-create-migration-table (Nms)\n"
        "▶ 001-create-users-table\n"
        "✅ Applied: 001-create-users-table (Nms)\n"
        "▶ 002-add-reset-token-fields\n"
        "✅ Applied: 002-add-reset-token-fields (Nms)\n"
        "✅ 3 migrations applied successfully\n"
    )
    rows = database.execute(
        "SELECT version, name, checksum, environment, applied_by FROM schema_migrations"
    )
    checksum = sha256(
        (project / "migrations" / "001-create-users-table.sql").read_bytes()
    ).hexdigest()
    assert rows[1] == (
        "001-create-users-table",
        "Create Users Table",
        checksum,
        "development",
        "cli",
    )
    assert recorded(database) == OURS
    assert "users" in tables(database)


def test_a_run_with_nothing_pending_changes_nothing_and_says_so(
    cli: Cli, project: Path, migrated: Database
) -> None:
    before = contents(migrated)
    result = cli(url=migrated.url, env={"MIGRATION_DIR": "migrations"}, cwd=project)
    assert result.code == 0
    assert result.out.endswith("Database is up to date: no migration is pending\n")
    assert contents(migrated) == before


def test_run_json_is_one_document_on_stdout_and_the_words_are_on_stderr(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(TWO)
    result = here("--json", url=database.url)
    document = json.loads(result.out)
    times = [one.pop("executionTimeMs") for one in document["applied"]]
    assert document == {
        "success": True,
        "environment": "development",
        "database": database.name,
        "applied": [{"version": "001-one", "name": "One"}, {"version": "002-two", "name": "Two"}],
        "remaining": [],
        "complete": True,
    }
    assert [type(one) for one in times] == [int, int]
    assert "✅ 2 migrations applied successfully" in result.err
    assert recorded(database) == ["001-one", "002-two"]


def test_a_file_without_a_statement_is_recorded_with_a_warning(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations({"001-empty.sql": "-- nothing yet\n;;\n"})
    result = here(url=database.url)
    assert result.code == 0
    assert "⚠️  001-empty contains no SQL" in result.out
    assert recorded(database) == ["001-empty"]


def test_a_notice_of_the_server_is_shown_beside_its_file(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations({"001-talks.sql": "DO $$ BEGIN RAISE NOTICE 'on %', current_database(); END $$;"})
    result = here(url=database.url)
    assert f"   001-talks: NOTICE: on {database.name}\n" in result.out
    assert recorded(database) == ["001-talks"]


def test_1000_comes_after_999(here: Here, migrations: Write, database: Database) -> None:
    migrations(
        {"1000-last.sql": "ALTER TABLE t ADD b int;", "999-first.sql": "CREATE TABLE t (a int);"}
    )
    assert here(url=database.url).code == 0
    assert recorded(database) == ["999-first", "1000-last"]
    assert here(url=database.url).out.endswith("no migration is pending\n")


def test_a_run_is_recorded_as_a_build_with_its_commit_on_a_platform(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    platform = {
        "CI": "1",
        "VERCEL": "1",
        "VERCEL_ENV": "preview",
        "VERCEL_GIT_COMMIT_SHA": "abc123",
    }
    result = here(url=database.url, env=platform | {"MIGRATION_ENV": ""})
    assert "Environment: preview (from VERCEL_ENV)" in result.out
    assert database.execute(
        "SELECT environment, git_commit, applied_by FROM schema_migrations"
    ) == [("preview", "abc123", "build")]


def test_options_count_before_and_after_the_command(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    for arguments in (("--json", "status"), ("status", "--json"), ("--json", "status", "--json")):
        assert json.loads(here(*arguments, url=database.url).out)["state"] == "pending"
    for arguments in (("--production", "baseline", "1"), ("repair", "001-one", "--production")):
        assert here(*arguments, url=database.url, env={"MIGRATION_ENV": "production"}).code == 0
    assert recorded(database) == ["001-one"]


# Status


def test_the_status_looks_exactly_as_the_contract_shows_it(
    cli: Cli, project: Path, migrated: Database
) -> None:
    for number, moment, milliseconds in (
        (0, "14:00:17", 25),
        (1, "14:01:28", 46),
        (2, "14:01:28", 27),
    ):
        migrated.execute(
            "UPDATE schema_migrations SET applied_at = %s, execution_time_ms = %s WHERE version = "
            "%s",
            [f"2025-10-25 {moment}+00", milliseconds, OURS[number]],
        )
    before = contents(migrated)
    result = cli("status", url=migrated.url, env={"MIGRATION_DIR": "migrations"}, cwd=project)
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "📊 Migration Status\n"
        "\n"
        f"Database: {migrated.name}\n"
        "Environment: development\n"
        "\n"
        "Applied Migrations (3):\n"
        "✅ 000-create-migration-table          (2025-10-25 14:00:17 UTC) - 25ms\n"
        "✅ 001-create-users-table              (2025-10-25 14:01:28 UTC) - 46ms\n"
        "✅ 002-add-reset-token-fields          (2025-10-25 14:01:28 UTC) - 27ms\n"
        "\n"
        "Pending Migrations: None\n"
    )
    assert contents(migrated) == before


def test_the_status_of_a_fresh_database_creates_nothing(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(TWO)
    result = here("status", url=database.url)
    assert result.code == 0
    assert (
        "Applied Migrations: None\n\nPending Migrations (2):\n⏳ 001-one\n⏳ 002-two\n"
        in result.out
    )
    assert contents(database) == ([], [])


def test_status_check_tells_current_ahead_pending_and_conflict_apart(
    here: Here, migrations: Write, database: Database
) -> None:
    directory = migrations(TWO)
    assert here("status", "--check", url=database.url).code == 8
    assert here("status", url=database.url).code == 0
    here(url=database.url)
    before = contents(database)
    assert here("status", "--check", url=database.url).code == 0
    (directory / "002-two.sql").unlink()
    ahead = here("status", "--check", url=database.url)
    assert ahead.code == 0
    assert "⏩ 002-two" in ahead.out
    assert (
        "⚠️  Applied, but newer than every file here (an older build, after a rollback?): 002-two"
        in ahead.out
    )
    migrations({"002-two.sql": "SELECT 'changed';"})
    conflict = here("status", "--check", url=database.url)
    assert (conflict.code, here("status", url=database.url).code) == (3, 0)
    assert (
        "Conflicts:\nmodified: migrations/002-two.sql: changed after it was applied" in conflict.out
    )
    assert contents(database) == before


def test_status_json_has_every_migration_with_its_state_and_audit(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    here(url=database.url)
    migrations(TWO)
    before = contents(database)
    result = here("status", "--check", "--json", url=database.url)
    document = json.loads(result.out)
    assert result.code == 8
    assert (document["success"], document["state"], document["database"]) == (
        True,
        "pending",
        database.name,
    )
    assert (document["appliedMigrations"], document["pendingMigrations"]) == (1, 1)
    applied, pending = document["migrations"]
    assert applied["checksum"] == sha256(ONE["001-one.sql"].encode()).hexdigest()
    assert (applied["state"], applied["environment"], applied["appliedBy"]) == (
        "applied",
        "development",
        "cli",
    )
    assert (pending["version"], pending["state"], pending["appliedAt"]) == (
        "002-two",
        "pending",
        None,
    )
    assert result.err.startswith("📊 Migration Status\n")
    assert contents(database) == before


def test_a_read_only_role_may_see_the_status_and_learns_why_it_cannot_run(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(TWO)
    before = contents(database)
    database.execute(f'ALTER DATABASE "{database.name}" SET default_transaction_read_only = on')
    assert here("status", "--check", url=database.url).code == 8
    result = here(url=database.url)
    assert result.code == 5
    assert "read-only" in result.err
    assert contents(database) == before


# Validate


def test_validate_checks_the_files_without_a_database(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(TWO)
    result = here("validate")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "✅ 2 files passed the checks "
        "(SQL syntax is checked when they run, checksums if a database URL is set)\n"
    )
    assert json.loads(here("validate", "--json").out) == {
        "success": True,
        "state": None,
        "problems": [],
        "warnings": [],
    }
    migrations({"003-begins.sql": "BEGIN;", "004-draft.sql": "-- migrate: draft\n"})
    result = here("validate", env={"POSTGRES_URL": " "})
    assert result.code == 2
    assert "migrations/003-begins.sql:1: BEGIN" in result.err
    assert "migrations/004-draft.sql: still a draft" in result.err
    assert contents(database) == ([], [])


def test_validate_with_a_database_compares_checksums_and_writes_nothing(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(TWO)
    here(url=database.url)
    before = contents(database)
    assert here("validate", url=database.url).out == (
        "✅ 2 files passed the checks, and those applied are unchanged "
        "(SQL syntax is checked when they run)\n"
    )
    migrations({"001-one.sql": "SELECT 'changed';"})
    result = here("validate", "--json", url=database.url)
    document = json.loads(result.out)
    assert result.code == 3
    assert (document["success"], document["state"]) == (False, "conflict")
    assert [(one["version"], one["state"]) for one in document["problems"]] == [
        ("001-one", "modified")
    ]
    assert document["error"]["code"] == "history_conflict"
    assert "migrations/001-one.sql: changed after it was applied" in result.err
    assert contents(database) == before


def test_validate_tells_conflicts_and_files_that_cannot_run_at_once(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    here(url=database.url)
    before = contents(database)
    migrations({"001-one.sql": "SELECT 'changed';", "002-commits.sql": "SELECT 1;\nCOMMIT;"})
    result = here("validate", "--json", url=database.url)
    assert result.code == 3
    assert [(one["version"], one["state"]) for one in json.loads(result.out)["problems"]] == [
        ("001-one", "modified"),
        ("002-commits", "pending"),
    ]
    assert "changed after it was applied" in result.err
    assert "migrations/002-commits.sql:2: COMMIT" in result.err
    assert contents(database) == before


def test_validate_says_of_a_file_that_was_merged_late_whether_it_could_run(
    here: Here, migrations: Write, database: Database
) -> None:
    """Else it would be seen only when its order is allowed, by a deploy."""
    migrations(ONE)
    here(url=database.url)
    before = contents(database)
    migrations({"000-late.sql": "SELECT 1;\nCOMMIT;"})
    result = here("validate", "--json", url=database.url)
    messages = [
        one["message"] for one in json.loads(result.out)["problems"] if one["version"] == "000-late"
    ]
    assert (result.code, len(messages)) == (3, 2)
    assert "migrations/000-late.sql:2: COMMIT" in messages[1]
    assert "migrations/000-late.sql:2: COMMIT" in result.err
    assert contents(database) == before


def test_validate_refuses_a_pending_file_that_cannot_run_with_2(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations({"001-vacuum.sql": "VACUUM;"})
    result = here("validate", "--json", url=database.url)
    document = json.loads(result.out)
    assert (result.code, document["success"], document["state"]) == (2, False, "pending")
    assert [one["version"] for one in document["problems"]] == ["001-vacuum"]
    assert contents(database) == ([], [])


def test_what_an_older_runner_applied_may_stay_and_validate_only_warns(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations({"001-wrapped.sql": "SELECT 1;", "002-old.sql": "SELECT 1;"})
    assert here("baseline", "2", url=database.url).code == 0
    migrations({"001-wrapped.sql": "BEGIN;\nCREATE TABLE one (id int);\nCOMMIT;\n"})
    assert here("repair", "001-wrapped", url=database.url).code == 0
    database.execute("UPDATE schema_migrations SET checksum = NULL WHERE version = '002-old'")
    before = contents(database)
    result = here("validate", url=database.url)
    assert result.code == 0
    assert "⚠️  migrations/001-wrapped.sql:1: BEGIN" in result.out
    assert "⚠️  migrations/001-wrapped.sql:3: COMMIT" in result.out
    assert "⚠️  002-old: applied without a checksum" in result.out
    assert len(json.loads(here("validate", "--json", url=database.url).out)["warnings"]) == 3
    assert here(url=database.url).code == 0
    assert contents(database) == before
    assert "verified: 002-old" in here("status", url=database.url).out
    assert here("repair", "002-old", url=database.url).code == 0
    assert "checksum" not in here("validate", url=database.url).out
    assert database.execute("SELECT count(*) FROM schema_migrations WHERE checksum IS NULL") == [
        (0,)
    ]


def test_validate_warns_of_a_database_that_is_ahead(
    here: Here, migrations: Write, database: Database
) -> None:
    directory = migrations(TWO)
    here(url=database.url)
    (directory / "002-two.sql").unlink()
    result = here("validate", url=database.url)
    assert result.code == 0
    assert "⚠️  002-two: applied, but newer than every file here" in result.out
    assert recorded(database) == ["001-one", "002-two"]
