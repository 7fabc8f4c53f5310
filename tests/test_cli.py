"""The command line against a real Postgres: each test ends by looking at the database."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from lib import VERSION, runner
from lib.cli.commands import main
from tests.conftest import Cli, Completed, Database, Server
from tests.running import SETTLED

Write = Callable[[Mapping[str, str | bytes]], Path]

CANARY = "C4nary-Pa55word-K7"
OURS = ["000-create-migration-table", "001-create-users-table", "002-add-reset-token-fields"]
ONE = {"001-one.sql": "CREATE TABLE one (id int);\n"}
TWO = {**ONE, "002-two.sql": "CREATE TABLE two (id int);\n"}
FIVE = {f"00{number}-f{number}.sql": f"CREATE TABLE f{number} (id int);\n" for number in range(1, 6)}
REFUSED_BY_NAME = (
    "2-too-few-digits.sql",
    "003_under_score.sql",
    "004-Upper-Case.sql",
    "005-shouted.SQL",
    "006-.sql",
    "notes.sql",
    "\u0661\u0662\u0663-arabic-digits.sql",
)
REFUSED_BY_CONTENT = {
    "BEGIN;\nSELECT 1;\nCOMMIT;": (1, "BEGIN starts a transaction"),
    "SELECT 1;\nSTART TRANSACTION;": (2, "START TRANSACTION starts a transaction"),
    "SELECT 1;\n\nCOMMIT;": (3, "COMMIT ends the transaction"),
    "COMMIT AND CHAIN;": (1, "COMMIT ends the transaction"),
    "end;": (1, "END ends the transaction"),
    "ROLLBACK;": (1, "ROLLBACK ends the transaction"),
    "ABORT;": (1, "ABORT ends the transaction"),
    "PREPARE TRANSACTION 'x';": (1, "PREPARE TRANSACTION ends the transaction"),
    "SET TRANSACTION READ ONLY;": (1, "SET TRANSACTION changes the transaction"),
    "\\copy t FROM 'x.csv'": (1, "\\copy is a psql command"),
    "\\i other.sql": (1, "\\i is a psql command"),
    "\\restrict abc": (1, "\\restrict is a psql command"),
    "COPY t FROM STDIN;\n1\n\\.\n": (1, "COPY ... FROM STDIN"),
    "CREATE INDEX CONCURRENTLY i ON t (id);": (1, "CREATE INDEX CONCURRENTLY cannot run inside a transaction"),
    "VACUUM;": (1, "VACUUM cannot run inside a transaction"),
    "ALTER SYSTEM SET work_mem = '1MB';": (1, "ALTER SYSTEM cannot run inside a transaction"),
    "CREATE DATABASE x;": (1, "CREATE DATABASE cannot run inside a transaction"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Here":
    """`here("status", url=database.url)` is `cli` without the process: for the many tests that need none."""
    monkeypatch.chdir(tmp_path)
    return Here(tmp_path, capsys)


class Here:
    """Runs `main` in this process."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._capsys = capsys

    def __call__(self, *arguments: str, url: str | None = None, env: Mapping[str, str] | None = None) -> Completed:
        """Run one command; a `.env` of the developer's own decides nothing that a test depends on."""
        environ = {"MIGRATION_DIR": str(self.directory / "migrations"), "MIGRATION_ENV": "development"}
        if url:
            environ["POSTGRES_URL"] = url
        code = main(arguments, environ | dict(env or {}))
        out, err = self._capsys.readouterr()
        if url and len(password := urlsplit(url).password or "") >= 12:
            assert password not in out + err, "the command printed a password"
        return Completed(code, out, err)


def history(database: Database) -> list[str] | None:
    """The recorded versions in the order of their ids, None where there is no history."""
    if database.execute("SELECT to_regclass('public.schema_migrations')") == [(None,)]:
        return None
    rows = database.execute("SELECT version FROM schema_migrations h ORDER BY (to_jsonb(h) ->> 'id')::int")
    return [version for (version,) in rows]


def contents(database: Database) -> tuple[list[Any], list[Any]]:
    """All that a run could have changed: every relation that is not the server's own, and the whole history."""
    relations = database.execute(
        "SELECT relnamespace::regnamespace::text, relname, relkind, xmin::text FROM pg_class "
        "WHERE relnamespace::regnamespace::text !~ '^(pg_|information_schema)' ORDER BY 1, 2"
    )
    return relations, database.execute("TABLE schema_migrations") if history(database) is not None else []


def tables(database: Database) -> set[str]:
    """The tables that migrations made."""
    rows = database.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    )
    return {name for (name,) in rows} - {"schema_migrations"}


def words(result: Completed) -> str:
    """What was said, whichever stream it went to, without the marks and line ends that tests need not know."""
    return " ".join((result.out + result.err).split())


def bundle(project: Path, place: Path, files: Mapping[str, str | bytes]) -> Path:
    """A team's repository with the bundle and its own migrations."""
    shutil.copytree(project, place)
    shutil.rmtree(place / "migrations")
    (place / "migrations").mkdir()
    for name, content in files.items():
        (place / "migrations" / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return place


def environment(cli: Cli, url: str, **more: str) -> dict[str, str]:
    """The environment that `cli` runs in, for tests that start the process themselves."""
    named = {"MIGRATION_DIR": str(cli.directory / "migrations"), "POSTGRES_URL": url, "PATH": os.environ["PATH"]}
    return named | more


# Run


def test_a_run_applies_every_pending_file_and_says_where_and_what(cli: Cli, project: Path, database: Database) -> None:
    result = cli(url=database.url, env={"MIGRATION_DIR": "migrations"}, cwd=project)
    said = re.sub(r"\d+ms", "Nms", re.sub(r"PostgreSQL [\d.]+", "PostgreSQL N", result.out))
    assert (result.code, result.err) == (0, "")
    host = urlsplit(database.url).netloc.rpartition("@")[2].removesuffix(":5432")
    assert said == (
        f"Database: {database.name} on {host} (from POSTGRES_URL)\n"
        "Environment: development (from default)\n"
        "Pending: 3 of 3, PostgreSQL N\n"
        "✅ Applied: 000-create-migration-table (Nms)\n"
        "✅ Applied: 001-create-users-table (Nms)\n"
        "✅ Applied: 002-add-reset-token-fields (Nms)\n"
        "✅ 3 migrations applied successfully\n"
    )
    recorded = database.execute("SELECT version, name, checksum, environment, applied_by FROM schema_migrations")
    checksum = sha256((project / "migrations" / "001-create-users-table.sql").read_bytes()).hexdigest()
    assert recorded[1] == ("001-create-users-table", "Create Users Table", checksum, "development", "cli")
    assert history(database) == OURS
    assert tables(database) >= {"users"}


def test_a_run_with_nothing_pending_changes_nothing_and_says_so(cli: Cli, project: Path, migrated: Database) -> None:
    before = contents(migrated)
    result = cli(url=migrated.url, env={"MIGRATION_DIR": "migrations"}, cwd=project)
    assert result.code == 0
    assert result.out.endswith("Nothing to do: no migration is pending\n")
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
    assert history(database) == ["001-one", "002-two"]


def test_a_file_without_a_statement_is_recorded_with_a_warning(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations({"001-empty.sql": "-- nothing yet\n;;\n"})
    result = here(url=database.url)
    assert result.code == 0
    assert "⚠️  001-empty has no statement in it" in result.out
    assert history(database) == ["001-empty"]


def test_a_notice_of_the_server_is_shown_beside_its_file(here: Here, migrations: Write, database: Database) -> None:
    migrations({"001-talks.sql": "DO $$ BEGIN RAISE NOTICE 'on %', current_database(); END $$;"})
    result = here(url=database.url)
    assert f"   001-talks: NOTICE: on {database.name}\n" in result.out
    assert history(database) == ["001-talks"]


def test_1000_comes_after_999(here: Here, migrations: Write, database: Database) -> None:
    migrations({"1000-last.sql": "ALTER TABLE t ADD b int;", "999-first.sql": "CREATE TABLE t (a int);"})
    assert here(url=database.url).code == 0
    assert history(database) == ["999-first", "1000-last"]
    assert here(url=database.url).out.endswith("no migration is pending\n")


def test_a_run_is_recorded_as_a_build_with_its_commit_on_a_platform(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    platform = {"CI": "1", "VERCEL": "1", "VERCEL_ENV": "preview", "VERCEL_GIT_COMMIT_SHA": "abc123"}
    result = here(url=database.url, env=platform | {"MIGRATION_ENV": ""})
    assert "Environment: preview (from VERCEL_ENV)" in result.out
    assert database.execute("SELECT environment, git_commit, applied_by FROM schema_migrations") == [
        ("preview", "abc123", "build")
    ]


def test_options_count_before_and_after_the_command(here: Here, migrations: Write, database: Database) -> None:
    migrations(ONE)
    for arguments in (("--json", "status"), ("status", "--json"), ("--json", "status", "--json")):
        assert json.loads(here(*arguments, url=database.url).out)["state"] == "pending"
    for arguments in (("--production", "baseline", "1"), ("repair", "001-one", "--production")):
        assert here(*arguments, url=database.url, env={"MIGRATION_ENV": "production"}).code == 0
    assert history(database) == ["001-one"]


# Status


def test_the_status_looks_exactly_as_the_contract_shows_it(cli: Cli, project: Path, migrated: Database) -> None:
    for number, moment, milliseconds in ((0, "14:00:17", 25), (1, "14:01:28", 46), (2, "14:01:28", 27)):
        migrated.execute(
            "UPDATE schema_migrations SET applied_at = %s, execution_time_ms = %s WHERE version = %s",
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


def test_the_status_of_a_fresh_database_creates_nothing(here: Here, migrations: Write, database: Database) -> None:
    migrations(TWO)
    result = here("status", url=database.url)
    assert result.code == 0
    assert "Applied Migrations: None\n\nPending Migrations (2):\n⏳ 001-one\n⏳ 002-two\n" in result.out
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
    assert "⚠️  The database is ahead of these files by 1" in ahead.out
    migrations({"002-two.sql": "SELECT 'changed';"})
    conflict = here("status", "--check", url=database.url)
    assert (conflict.code, here("status", url=database.url).code) == (3, 0)
    assert "Conflicts:\nmodified: migrations/002-two.sql: changed after it was applied" in conflict.out
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
    assert (document["success"], document["state"], document["database"]) == (True, "pending", database.name)
    assert (document["appliedMigrations"], document["pendingMigrations"]) == (1, 1)
    applied, pending = document["migrations"]
    assert applied["checksum"] == sha256(ONE["001-one.sql"].encode()).hexdigest()
    assert (applied["state"], applied["environment"], applied["appliedBy"]) == ("applied", "development", "cli")
    assert (pending["version"], pending["state"], pending["appliedAt"]) == ("002-two", "pending", None)
    assert result.err.startswith("📊 Migration Status\n")
    assert contents(database) == before


def test_a_read_only_role_can_ask_for_the_status_and_is_told_why_it_cannot_run(
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


def test_validate_checks_the_files_without_a_database(here: Here, migrations: Write, database: Database) -> None:
    migrations(TWO)
    result = here("validate")
    assert (result.code, result.err) == (0, "")
    assert result.out == "✅ 2 files are valid (no database is named, so checksums were not compared)\n"
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
    assert here("validate", url=database.url).out == "✅ 2 files are valid, and those applied are unchanged\n"
    migrations({"001-one.sql": "SELECT 'changed';"})
    result = here("validate", "--json", url=database.url)
    document = json.loads(result.out)
    assert result.code == 3
    assert (document["success"], document["state"]) == (False, "conflict")
    assert [(one["version"], one["state"]) for one in document["problems"]] == [("001-one", "modified")]
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


def test_validate_refuses_a_pending_file_that_cannot_run_with_2(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations({"001-vacuum.sql": "VACUUM;"})
    result = here("validate", "--json", url=database.url)
    document = json.loads(result.out)
    assert (result.code, document["success"], document["state"]) == (2, False, "pending")
    assert [one["version"] for one in document["problems"]] == ["001-vacuum"]
    assert contents(database) == ([], [])


def test_what_an_older_runner_applied_may_stay_as_it_is_and_validate_only_warns(
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
    assert database.execute("SELECT count(*) FROM schema_migrations WHERE checksum IS NULL") == [(0,)]


def test_validate_warns_of_a_database_that_is_ahead(here: Here, migrations: Write, database: Database) -> None:
    directory = migrations(TWO)
    here(url=database.url)
    (directory / "002-two.sql").unlink()
    result = here("validate", url=database.url)
    assert result.code == 0
    assert "⚠️  002-two: applied, but newer than every file here" in result.out
    assert history(database) == ["001-one", "002-two"]


# Create


def test_create_writes_a_draft_with_the_next_number_that_no_run_takes(
    cli: Cli, migrations: Write, database: Database
) -> None:
    directory = migrations(TWO)
    result = cli("create", "add Orders, quickly")
    path = directory / "003-add-orders-quickly.sql"
    assert result.code == 0
    assert f"Created {Path('migrations', path.name)}: " in result.out
    lines = path.read_text().splitlines()
    assert lines[0] == "-- migrate: draft"
    assert {"-- Version: 003", f"-- Date: {date.today().isoformat()}", "-- Description: add Orders, quickly"} <= set(
        lines
    )
    for refused in (cli(url=database.url), cli("validate", url=database.url), cli("validate")):
        assert refused.code == 2
        assert "migrations/003-add-orders-quickly.sql: still a draft; remove the line" in refused.err
    assert contents(database) == ([], [])
    path.write_text(path.read_text().replace("-- migrate: draft\n", "") + "CREATE TABLE orders (id int);\n")
    assert cli("validate").code == 0
    assert cli(url=database.url).code == 0
    assert history(database) == ["001-one", "002-two", "003-add-orders-quickly"]
    assert tables(database) == {"one", "two", "orders"}


@pytest.mark.parametrize(
    ("there", "number"),
    [([], "000"), (["000-a.sql"], "001"), (["099-a.sql"], "100"), (["999-a.sql"], "1000"), (["1000-a.sql"], "1001")],
)
def test_create_takes_the_number_after_the_highest(
    here: Here, migrations: Write, there: list[str], number: str
) -> None:
    directory = migrations(dict.fromkeys(there, "SELECT 1;"))
    assert here("create", "next").code == 0
    assert sorted(path.name for path in directory.iterdir()) == sorted([*there, f"{number}-next.sql"])


@pytest.mark.parametrize(
    ("words_given", "name"),
    [
        (("  Mixed   CASE, and (signs)!  ",), "001-mixed-case-and-signs.sql"),
        (("add", "orders", "without", "quotes"), "001-add-orders-without-quotes.sql"),
        (("../../etc/passwd",), "001-etc-passwd.sql"),
        (("50% off; DROP TABLE users",), "001-50-off-drop-table-users.sql"),
        (("one\nDROP TABLE users;",), "001-one-drop-table-users.sql"),
        (("migrate: no-transaction",), "001-migrate-no-transaction.sql"),
    ],
)
def test_an_odd_description_makes_a_tame_name_and_stays_in_its_comment(
    here: Here, migrations: Write, words_given: tuple[str, ...], name: str
) -> None:
    directory = migrations({"000-a.sql": "SELECT 1;"})
    assert here("create", *words_given).code == 0
    text = (directory / name).read_text()
    assert all(line.startswith("--") or not line for line in text.splitlines())
    (directory / name).write_text(text.replace("-- migrate: draft\n", ""))
    assert here("validate").code == 0


@pytest.mark.parametrize("description", ["", "   ", "---", "größer", "表", "😀", "a" * 300])
def test_a_description_that_makes_no_name_is_refused_with_an_example(
    here: Here, migrations: Write, description: str
) -> None:
    directory = migrations(ONE)
    result = here("create", "--", description)
    assert result.code == 2
    assert "such as" in result.err or "too long" in result.err
    assert [path.name for path in directory.iterdir()] == ["001-one.sql"]


def test_create_overwrites_nothing_and_makes_the_directory(here: Here, tmp_path: Path) -> None:
    assert here("create", "first").code == 0
    (tmp_path / "migrations" / "000-first.sql").write_text("mine")
    result = here("create", "first", "--json")
    assert json.loads(result.out) == {"success": True, "version": "001-first", "file": "migrations/001-first.sql"}
    assert (tmp_path / "migrations" / "000-first.sql").read_text() == "mine"
    shutil.rmtree(tmp_path / "migrations")
    (tmp_path / "migrations").write_text("a file in the way")
    result = here("create", "second")
    assert result.code == 2
    assert "❌ migrations: cannot create a migration" in result.err
    assert (tmp_path / "migrations").read_text() == "a file in the way"


# What does not belong in a file


GOOSE = """-- +goose Up
CREATE TABLE orders (id int);

-- +goose Down
DROP TABLE users;
"""
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
CONFLICT = "SELECT 1;\n<<<<<<< HEAD\nSELECT 2;\n=======\nSELECT 3;\n>>>>>>> topic\n"
UNFINISHED = {
    POINTER: ":1:1: this is a Git LFS pointer in the file's place",
    CONFLICT: ":2:1: `<<<<<<< HEAD` is a merge conflict marker",
    "-- migrate: draft\nSELECT 1;\n": ": still a draft",
}


def test_an_undo_section_is_not_run_and_nothing_else_is_either(
    here: Here, migrations: Write, database: Database
) -> None:
    database.execute("CREATE TABLE users AS SELECT generate_series(1, 1000) id")
    migrations({"001-one.sql": "CREATE TABLE one ();\n", "002-orders.sql": GOOSE, "003-odd.sql": "SELECT\xa01;\n"})
    env = {"MIGRATION_ALLOW_NONEMPTY": "1"}
    for result in (here(url=database.url, env=env), here("validate", url=database.url, env=env), here("validate")):
        assert result.code == 2
        for words in (
            "migrations/002-orders.sql:1:1: `-- +goose Up` is a mark of goose",
            "migrations/002-orders.sql:4:1: `-- +goose Down` is a mark of goose, and Onward runs the whole file",
            "migrations/003-odd.sql:1:7: invisible character outside of quotes: NO-BREAK SPACE (U+00A0)",
            "Nothing was changed",
        ):
            assert words in result.err
    assert tables(database) == {"users"}
    assert database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]
    migrations({"002-orders.sql": GOOSE.splitlines()[1], "003-odd.sql": "SELECT 1;\n"})
    assert here(url=database.url, env=env).code == 0
    assert history(database) == ["001-one", "002-orders", "003-odd"]
    assert database.execute("SELECT count(*) FROM users") == [(1000,)]


def test_an_applied_file_with_another_tools_marks_may_stay(here: Here, migrations: Write, database: Database) -> None:
    dbmate = "-- migrate:up\nCREATE TABLE one ();\n-- migrate:down\nDROP TABLE one;\n"
    migrations({"001-one.sql": "SELECT 1;"})
    assert here("baseline", "001", url=database.url).code == 0
    migrations({"001-one.sql": dbmate})
    assert here("repair", "001-one", url=database.url).code == 0
    migrations({"002-two.sql": "CREATE TABLE two ();"})
    result = here("validate", "--json", url=database.url)
    assert result.code == 0
    assert [one.split("; ")[0].split("/")[-1] for one in json.loads(result.out)["warnings"]] == [
        f"001-one.sql:{line}:1: `-- migrate:{way}` is a mark of dbmate, and Onward runs the whole file"
        for line, way in ((1, "up"), (3, "down"))
    ]
    assert here(url=database.url).code == 0
    assert (history(database), tables(database)) == (["001-one", "002-two"], {"two"})


@pytest.mark.parametrize("text", UNFINISHED)
def test_a_file_that_is_not_finished_is_neither_run_nor_recorded(
    here: Here, migrations: Write, database: Database, text: str
) -> None:
    migrations({"001-one.sql": text})
    for command in ((), ("validate",), ("baseline", "1")):
        result = here(*command, url=database.url)
        assert result.code == 2
        assert f"migrations/001-one.sql{UNFINISHED[text]}" in result.err
        assert "it is only recorded" not in result.out
    assert contents(database) == ([], [])
    migrations(ONE)
    assert here(url=database.url).code == 0
    before = database.execute("SELECT * FROM schema_migrations")
    migrations({"001-one.sql": text})
    result = here("repair", "001-one", url=database.url)
    assert result.code == 2
    assert result.err.startswith("❌ migrations cannot be recorded:\n  ")
    assert f"migrations/001-one.sql{UNFINISHED[text]}" in result.err
    assert database.execute("SELECT * FROM schema_migrations") == before


def test_repair_takes_what_only_a_pending_file_may_not_contain(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    here(url=database.url)
    migrations({"001-one.sql": GOOSE})
    assert here("repair", "001-one", url=database.url).code == 0
    checksum = sha256(GOOSE.encode()).hexdigest()
    assert database.execute("SELECT checksum FROM schema_migrations") == [(checksum,)]


# Baseline


def test_baseline_records_without_running_and_a_run_applies_the_rest(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations({**FIVE, "002-f2.sql": "SELECT no_such_function();"})
    result = here("baseline", "003", url=database.url)
    assert (result.code, result.err) == (0, "")
    assert result.out == "".join(f"✅ Recorded as applied: 00{n}-f{n}\n" for n in (1, 2, 3))
    assert tables(database) == set()
    rows = database.execute("SELECT version, checksum, execution_time_ms, environment FROM schema_migrations")
    assert rows[0] == ("001-f1", sha256(FIVE["001-f1.sql"].encode()).hexdigest(), None, "development")
    assert here(url=database.url).code == 0
    assert history(database) == [f"00{n}-f{n}" for n in range(1, 6)]
    assert tables(database) == {"f4", "f5"}


def test_baseline_json_lists_what_it_recorded(here: Here, migrations: Write, database: Database) -> None:
    migrations(TWO)
    result = here("baseline", "1", "--json", url=database.url)
    assert json.loads(result.out) == {"success": True, "recorded": ["001-one"]}
    assert history(database) == ["001-one"]


def test_baseline_records_what_is_not_recorded_yet_and_nothing_twice(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    here(url=database.url)
    migrations(TWO)
    assert here("baseline", "2", url=database.url).out == "✅ Recorded as applied: 002-two\n"
    before = contents(database)
    assert here("baseline", "2", url=database.url).out == "✅ Nothing to record: all files up to 002 are recorded\n"
    assert contents(database) == before
    assert history(database) == ["001-one", "002-two"]


@pytest.mark.parametrize("number", ["4", "0", "x", "-1", "1.5", "²", "001-one", ""])
def test_baseline_wants_the_number_of_a_file(here: Here, migrations: Write, database: Database, number: str) -> None:
    migrations(TWO)
    result = here("baseline", number, url=database.url)
    assert result.code == 2
    assert "number" in result.err or "NNN" in result.err
    assert contents(database) == ([], [])


def test_a_failing_baseline_leaves_nothing(here: Here, migrations: Write, migrated: Database) -> None:
    migrations(FIVE)
    migrated.execute("TRUNCATE schema_migrations")
    migrated.execute("ALTER TABLE schema_migrations ADD CONSTRAINT no_third CHECK (version <> '003-f3')")
    before = contents(migrated)
    result = here("baseline", "5", url=migrated.url)
    assert result.code == 5
    assert "no_third" in result.err
    assert contents(migrated) == before


# Repair


def test_repair_accepts_a_changed_file_and_then_a_run_is_clean(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(TWO)
    here(url=database.url)
    migrations({"001-one.sql": "CREATE TABLE other (id int);\n"})
    assert here(url=database.url).code == 3
    result = here("repair", "001-one", url=database.url)
    assert (result.code, result.err) == (0, "")
    assert "migrations/001-one.sql" in result.out
    assert tables(database) == {"one", "two"}
    assert here(url=database.url).code == 0
    assert database.execute("SELECT version, checksum FROM schema_migrations WHERE id = 1") == [
        ("001-one", sha256(b"CREATE TABLE other (id int);\n").hexdigest())
    ]


@pytest.mark.parametrize("named", ["001-one", "001-uno", "migrations/001-uno.sql"])
def test_repair_accepts_a_renamed_file_by_either_name(
    here: Here, migrations: Write, database: Database, named: str
) -> None:
    directory = migrations(TWO)
    here(url=database.url)
    (directory / "001-one.sql").rename(directory / "001-uno.sql")
    refused = here(url=database.url)
    assert refused.code == 3
    assert "number 1 is applied" in refused.err
    result = here("repair", named, "--json", url=database.url)
    document = json.loads(result.out)
    assert (document["success"], document["version"], document["changed"]) == (True, "001-uno", True)
    assert here(url=database.url).code == 0
    assert database.execute("SELECT version, name FROM schema_migrations ORDER BY id") == [
        ("001-uno", "Uno"),
        ("002-two", "Two"),
    ]


def test_repair_of_a_sound_file_changes_nothing(here: Here, migrations: Write, database: Database) -> None:
    migrations(TWO)
    here(url=database.url)
    before = contents(database)
    assert "Nothing to repair: migrations/001-one.sql" in here("repair", "001-one", url=database.url).out
    assert json.loads(here("repair", "001-one", "--json", url=database.url).out)["changed"] is False
    assert contents(database) == before


@pytest.mark.parametrize("version", ["002-two", "009-nobody-knows-it", "one", "%s", "'; DROP TABLE one; --"])
def test_repair_refuses_what_is_not_both_file_and_applied(
    here: Here, migrations: Write, database: Database, version: str
) -> None:
    migrations(ONE)
    here(url=database.url)
    migrations(TWO)
    before = contents(database)
    result = here("repair", version, url=database.url)
    assert result.code == 3
    assert "nothing to repair" in result.err
    assert contents(database) == before


@pytest.mark.parametrize("command", [("repair", "001-one"), ("baseline", "2")])
def test_a_history_that_changes_while_they_wait_for_the_lock_is_read_again(
    cli: Cli, migrations: Write, database: Database, command: tuple[str, ...]
) -> None:
    migrations(TWO)
    if command[0] == "repair":
        cli(url=database.url)
        migrations({"001-one.sql": "SELECT 'changed';"})
    else:
        cli("baseline", "1", url=database.url)
        database.execute("TRUNCATE schema_migrations")
    with psycopg.connect(database.url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [int(b"onward".hex(), 16)])
        process = subprocess.Popen(
            [sys.executable, str(cli.script), *command],
            env=environment(cli, database.url) | {"MIGRATION_ENV": "development"},
            cwd=cli.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND query ~ 'pg_try_advisory'"
        )
        while other.execute(waiting).fetchone() != (1,):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        other.execute("INSERT INTO schema_migrations (version, name) VALUES ('003-three', 'Three')")
    said, _ = process.communicate()
    if command[0] == "repair":
        assert process.returncode == 0, said
        assert cli("status", "--check", url=database.url).code == 0
        assert history(database) == ["001-one", "002-two", "003-three"]
    else:
        assert process.returncode == 0, said
        assert history(database) == ["003-three", "001-one", "002-two"]


# Files that are refused before anything is connected to


def test_every_file_that_cannot_be_used_is_named_in_one_message_before_connecting(
    here: Here, migrations: Write, database: Database, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.sql"
    outside.write_text("SELECT 1;")
    directory = migrations({**TWO, **dict.fromkeys(REFUSED_BY_NAME, "SELECT 1;")})
    migrations(
        {
            "007-seven.sql": "SELECT 7;",
            "0007-seven-again.sql": "SELECT 7;",
            "011-latin.sql": "SELECT 'Größe'".encode("latin-1"),
            "012-nul.sql": b"SELECT\0 1;",
            "013-directive.sql": "-- migrate: no-transactions\nSELECT 1;",
            "014-near-miss.sql": "-- Migrate: no transaction\nSELECT 1;",
        }
    )
    (directory / "015-directory.sql").mkdir()
    os.mkfifo(directory / "016-pipe.sql")
    (directory / "017-link.sql").symlink_to(outside)
    (directory / "018-dangling.sql").symlink_to(directory / "nowhere.sql")
    result = here(url=database.url)
    assert result.code == 2
    for name, words_wanted in {
        **dict.fromkeys(REFUSED_BY_NAME, "the name must be NNN-kebab-case.sql"),
        "007-seven.sql": "number 7 is taken by 0007-seven-again.sql; rename one of them, the next free number is",
        "011-latin.sql": "not UTF-8: byte 0xf6 at offset 10; save the file as UTF-8",
        "012-nul.sql": "a NUL byte at offset 6",
        "013-directive.sql": "write `-- migrate: no-transaction`",
        "014-near-miss.sql": "write `-- migrate: no-transaction`",
        "015-directory.sql": "not a regular file",
        "016-pipe.sql": "not a regular file",
        "017-link.sql": "a symlink to a file outside the directory; copy that file here",
        "018-dangling.sql": "cannot be read",
    }.items():
        assert re.search(rf"^  migrations/{re.escape(name)}: .*{re.escape(words_wanted)}", result.err, re.MULTILINE), (
            name
        )
    assert "001-one" not in result.err
    assert "Next: Nothing was sent to a database" in result.err
    assert contents(database) == ([], [])


@pytest.mark.parametrize("command", ["run", "status", "validate", "baseline", "repair"])
def test_no_command_connects_while_files_are_wrong(
    here: Here, migrations: Write, database: Database, server: Server, command: str
) -> None:
    migrations({"one.sql": "SELECT 1;"})
    arguments = {"run": [], "baseline": ["baseline", "1"], "repair": ["repair", "x"]}.get(command, [command])
    result = here(*arguments, url=server.database("there-is-none").url)
    assert result.code == 2, "with a connection it would have been 5"
    assert "migrations/one.sql: the name must be" in result.err
    assert contents(database) == ([], [])


def test_what_does_not_end_in_sql_is_ignored(here: Here, migrations: Write, database: Database) -> None:
    migrations({**ONE, "README.md": "x", ".DS_Store": b"\0", "002-x.sql~": "x", ".003-x.sql.swp": b"\0"})
    assert here(url=database.url).code == 0
    assert history(database) == ["001-one"]


def test_an_unreadable_file_is_named(cli: Cli, migrations: Write, database: Database) -> None:
    directory = migrations(TWO)
    (directory / "002-two.sql").chmod(0)
    if os.access(directory / "002-two.sql", os.R_OK):
        pytest.skip("root reads everything")
    result = cli(url=database.url)
    assert result.code == 2
    assert "migrations/002-two.sql: cannot be read: permission denied" in result.err
    assert contents(database) == ([], [])


@pytest.mark.parametrize("state", ["missing", "empty", "a file", "a link to itself", "unreadable"])
def test_a_directory_without_migrations_is_refused_with_its_remedy(
    here: Here, tmp_path: Path, database: Database, state: str
) -> None:
    directory = tmp_path / "migrations"
    if state == "a file":
        directory.write_text("")
    elif state == "a link to itself":
        directory.symlink_to(directory)
    elif state != "missing":
        directory.mkdir(mode=0 if state == "unreadable" else 0o755)
    if state == "unreadable" and os.access(directory, os.R_OK):
        pytest.skip("root reads everything")
    for command in ((), ("status",), ("validate",)):
        result = here(*command, url=database.url)
        assert result.code == 2
        assert result.err.startswith("❌ migrations: ")
        assert "MIGRATION_DIR" in result.err
    assert contents(database) == ([], [])


# Pending files that are refused after the history is read


@pytest.mark.parametrize("sql", REFUSED_BY_CONTENT)
def test_a_pending_file_with_such_a_statement_is_refused_with_its_line_and_remedy(
    here: Here, migrations: Write, database: Database, sql: str
) -> None:
    line, what = REFUSED_BY_CONTENT[sql]
    migrations({**ONE, "002-refused.sql": sql})
    result = here(url=database.url)
    assert result.code == 2
    assert re.search(
        rf"^  migrations/002-refused\.sql:{line}: {re.escape(what)}.*; (remove|write|add) ", result.err, re.MULTILINE
    )
    assert "Nothing was changed." in result.err
    assert contents(database) == ([], [])


def test_all_refused_pending_files_are_named_in_one_message_and_none_before_them_is_applied(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    here(url=database.url)
    before = contents(database)
    refused = {f"{number:03}-refused.sql": sql for number, sql in enumerate(REFUSED_BY_CONTENT, 3)}
    migrations({"002-two.sql": TWO["002-two.sql"], **refused, "099-draft.sql": "-- migrate: draft\nSELECT 1;"})
    result = here("--json", url=database.url)
    document = json.loads(result.out)
    assert result.code == 2
    assert (document["error"]["code"], document["applied"]) == ("invalid_files", [])
    assert document["remaining"] == ["002-two", *(name.removesuffix(".sql") for name in refused), "099-draft"]
    for name in (*refused, "099-draft.sql"):
        assert f"migrations/{name}:" in result.err
        assert f"migrations/{name}:" in document["error"]["message"]
    assert contents(database) == before


def test_savepoints_are_fine(here: Here, migrations: Write, database: Database) -> None:
    migrations({"001-save.sql": "SAVEPOINT a; CREATE TABLE gone (); ROLLBACK TO a; RELEASE a; CREATE TABLE kept ();"})
    assert here(url=database.url).code == 0
    assert (history(database), tables(database)) == (["001-save"], {"kept"})


# Conflicts between files and history


def test_a_modified_file_stops_the_run(here: Here, migrations: Write, database: Database) -> None:
    migrations(ONE)
    here(url=database.url)
    before = contents(database)
    migrations({"001-one.sql": "CREATE TABLE uno (id int);\n", "002-two.sql": TWO["002-two.sql"]})
    result = here(url=database.url)
    assert result.code == 3
    assert "migrations/001-one.sql: changed after it was applied" in result.err
    assert "`repair 001-one`" in result.err
    assert "reset this database" in result.err
    assert "Next: Nothing was changed." in result.err
    assert contents(database) == before


def test_in_production_resetting_the_database_is_no_remedy(here: Here, migrations: Write, database: Database) -> None:
    migrations(ONE)
    here(url=database.url)
    before = contents(database)
    migrations({"001-one.sql": "SELECT 'changed';"})
    result = here("--production", url=database.url, env={"MIGRATION_ENV": "production"})
    assert result.code == 3
    assert "restore the file" in result.err
    assert "reset" not in result.err
    assert contents(database) == before


def test_other_line_ends_and_a_byte_order_mark_are_no_modification(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    here(url=database.url)
    before = contents(database)
    migrations({"001-one.sql": b"\xef\xbb\xbf" + ONE["001-one.sql"].replace("\n", "\r\n").encode()})
    assert here(url=database.url).code == 0
    assert contents(database) == before


def test_a_missing_file_stops_the_run(here: Here, migrations: Write, database: Database) -> None:
    directory = migrations(TWO)
    here(url=database.url)
    before = contents(database)
    (directory / "001-one.sql").unlink()
    migrations({"003-three.sql": "SELECT 3;"})
    result = here(url=database.url)
    assert result.code == 3
    assert "001-one: applied, but its file is gone; restore the file from version control" in result.err
    assert contents(database) == before


def test_a_file_that_was_merged_late_stops_the_run_until_it_is_allowed(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations({"002-two.sql": TWO["002-two.sql"]})
    here(url=database.url)
    before = contents(database)
    migrations(ONE)
    result = here(url=database.url)
    assert result.code == 3
    assert "migrations/001-one.sql: not applied, but number 2 already is" in result.err
    assert "rename the file to a number above 2" in result.err
    assert "--allow-out-of-order" in result.err
    assert here("status", "--check", url=database.url).code == 3
    assert here("status", "--check", "--allow-out-of-order", url=database.url).code == 8
    for off in ("0", "", "false"):
        assert here(url=database.url, env={"MIGRATION_ALLOW_OUT_OF_ORDER": off}).code == 3
    assert contents(database) == before
    assert here("--allow-out-of-order", url=database.url).code == 0
    assert history(database) == ["002-two", "001-one"]
    assert here(url=database.url).code == 0


def test_the_variable_allows_out_of_order_too(here: Here, migrations: Write, database: Database) -> None:
    migrations({"002-two.sql": TWO["002-two.sql"]})
    here(url=database.url)
    migrations(ONE)
    assert here(url=database.url, env={"MIGRATION_ALLOW_OUT_OF_ORDER": "1"}).code == 0
    assert (history(database), tables(database)) == (["002-two", "001-one"], {"one", "two"})


def test_a_database_that_is_ahead_is_a_warning(here: Here, migrations: Write, database: Database) -> None:
    directory = migrations(TWO)
    here(url=database.url)
    before = contents(database)
    (directory / "002-two.sql").unlink()
    result = here(url=database.url)
    assert (result.code, result.err) == (0, "")
    assert "⚠️  The database is ahead of these files by 1" in result.out
    assert contents(database) == before


def test_all_conflicts_are_named_in_one_message(here: Here, migrations: Write, database: Database) -> None:
    numbers = (1, 2, 3, 5)
    directory = migrations({f"00{n}-f{n}.sql": f"SELECT {n};" for n in numbers})
    here(url=database.url)
    before = contents(database)
    (directory / "002-f2.sql").unlink()
    (directory / "003-f3.sql").rename(directory / "003-drei.sql")
    migrations({"001-f1.sql": "SELECT 'changed';", "004-late.sql": "SELECT 4;", "006-new.sql": "SELECT 6;"})
    result = here("--json", url=database.url)
    document = json.loads(result.out)
    assert result.code == 3
    for problem in (
        "modified: migrations/001-f1.sql: changed after it was applied",
        "missing: 002-f2: applied, but its file is gone",
        "modified: migrations/003-drei.sql: number 3 is applied",
        "out_of_order: migrations/004-late.sql: not applied, but number 5 already is",
    ):
        assert problem in result.err
        assert problem in document["error"]["message"]
    assert "migrations/006-new.sql" not in result.err
    assert (document["error"]["code"], document["applied"], document["remaining"]) == (
        "history_conflict",
        [],
        ["006-new"],
    )
    assert contents(database) == before


def test_a_table_of_that_name_with_another_shape_is_left_alone(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    database.execute("CREATE TABLE schema_migrations (version text); INSERT INTO schema_migrations VALUES ('20240101')")
    before = contents(database)
    for command in ((), ("status",), ("baseline", "1"), ("repair", "001-one")):
        result = here(*command, url=database.url)
        assert result.code == 3
        assert "public.schema_migrations is not a history of ours" in result.err
        assert "MIGRATION_SCHEMA" in result.err
    assert contents(database) == before


# Production


def test_production_is_changed_by_deploys_only_unless_a_person_says_so(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    production = {"MIGRATION_ENV": "production"}
    for command in ((), ("baseline", "1"), ("repair", "001-one")):
        result = here(*command, url=database.url, env=production)
        assert result.code == 3
        assert "from outside a deploy" in result.err
        assert f"{database.name} on " in result.err
        assert "--production" in result.err
        assert here(*command, url=database.url, env=production | {"CI": "false"}).code == 3
    document = json.loads(here("--json", url=database.url, env=production).out)
    assert (document["success"], document["error"]["code"]) == (False, "wrong_environment")
    assert here("status", url=database.url, env=production).code == 0
    assert here("validate", url=database.url, env=production).code == 0
    assert contents(database) == ([], [])
    assert here("--production", url=database.url, env=production).code == 0
    assert database.execute("SELECT environment, applied_by FROM schema_migrations") == [("production", "cli")]


@pytest.mark.parametrize("sign", ["CI", "VERCEL_DEPLOYMENT_ID"])
def test_a_deploy_changes_production(here: Here, migrations: Write, database: Database, sign: str) -> None:
    migrations(ONE)
    assert here(url=database.url, env={"MIGRATION_ENV": "", "VERCEL_ENV": "production", sign: "1"}).code == 0
    assert database.execute("SELECT environment, applied_by FROM schema_migrations") == [("production", "build")]


def test_variables_that_were_pulled_to_a_laptop_do_not_make_it_a_deploy(
    project: Path, tmp_path: Path, database: Database
) -> None:
    team = bundle(project, tmp_path / "team", ONE)
    (team / ".env.local").write_text(
        f"POSTGRES_URL={database.url}\nVERCEL=1\nVERCEL_ENV=production\nCI=1\nVERCEL_DEPLOYMENT_ID=dpl_1\n"
    )
    result = Cli(team, team)()
    assert result.code == 3
    assert "(from VERCEL_ENV)" in result.err
    assert contents(database) == ([], [])
    assert Cli(team, team)(env={"CI": "1"}).code == 0
    assert history(database) == ["001-one"]


# The error of a migration


def test_a_syntax_error_is_shown_with_its_place_in_a_crlf_file_with_emoji(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(
        {
            **TWO,
            "003-orders.sql": "-- 🚀\r\nCREATE TABLE orders (\r\n  id int, -- 😀\r\n  note /* 😀 */ citextt\r\n);\r\n",
            "004-later.sql": "CREATE TABLE later ();",
        }
    )
    result = here(url=database.url)
    assert result.code == 1
    assert result.err == (
        "❌ FAILED migrations/003-orders.sql:4:16   statement 1 of 1\n"
        "2 | CREATE TABLE orders (\n"
        "3 |   id int, -- 😀\n"
        "4 |   note /* 😀 */ citextt\n"
        "  |                 ^^^^^^^\n"
        'ERROR 42704: type "citextt" does not exist\n'
        "State: rolled back: nothing of this file is kept or recorded.\n"
        "Applied in this run: 001-one, 002-two.\n"
        "Not applied: 003-orders, 004-later.\n"
        "Next: Mend the file and run again (or deploy again). Nothing needs repair.\n"
    )
    assert (history(database), tables(database)) == (["001-one", "002-two"], {"one", "two"})
    migrations({"003-orders.sql": "CREATE TABLE orders (id int);"})
    assert here(url=database.url).code == 0
    assert tables(database) == {"one", "two", "orders", "later"}


def test_an_error_at_run_time_names_the_statement_and_invents_no_line(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(
        {"001-twice.sql": "CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY);\nINSERT INTO t VALUES (1);\n\n" * 2}
    )
    result = here(url=database.url)
    assert result.code == 1
    assert "❌ FAILED migrations/001-twice.sql   statement 4 of 4, which begins on line 5\n" in result.err
    assert 'ERROR 23505: duplicate key value violates unique constraint "t_pkey"\n' in result.err
    assert "Detail: Key (id)=(1) already exists.\n" in result.err
    assert not re.search(r"twice\.sql:\d", result.err)
    assert "^" not in result.err
    assert (history(database), tables(database)) == ([], set())


def test_hint_and_context_of_the_server_are_shown(here: Here, migrations: Write, database: Database) -> None:
    migrations({"001-raises.sql": "DO $$ BEGIN RAISE 'boom 100%%' USING DETAIL = 'why', HINT = 'do that'; END $$;"})
    result = here(url=database.url)
    assert result.code == 1
    assert "ERROR P0001: boom 100%\nDetail: why\nHint: do that\nContext: PL/pgSQL function" in result.err
    assert history(database) == []


def test_run_json_on_failure_has_the_error_and_what_was_and_was_not_applied(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations({**ONE, "002-typo.sql": "SELECT 1;\n  SELEC 2;\n", "003-three.sql": "SELECT 3;"})
    result = here("--json", url=database.url)
    document = json.loads(result.out)
    assert result.code == 1
    assert document["success"] is False
    error = document["error"]
    assert (error["code"], error["version"], error["file"]) == (
        "migration_failed",
        "002-typo",
        "migrations/002-typo.sql",
    )
    assert (error["line"], error["column"], error["sqlstate"]) == (2, 3, "42601")
    assert "SELEC" in error["message"]
    assert "rolled back" in error["state"]
    assert "run again" in error["nextStep"]
    assert document["remaining"] == ["002-typo", "003-three"]
    assert "001-one" in json.dumps(document["applied"])
    assert "❌ FAILED migrations/002-typo.sql:2:3" in result.err
    assert history(database) == ["001-one"]


def test_a_no_transaction_file_that_fails_midway_says_what_is_done(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(
        {"001-piecewise.sql": "-- migrate: no-transaction\nCREATE TABLE a ();\nSELECT nothing;\nCREATE TABLE b ();"}
    )
    result = here("--json", url=database.url)
    document = json.loads(result.out)
    assert (result.code, document["error"]["code"]) == (7, "partly_applied")
    assert "statement 1 is done and stays; the file is not recorded" in result.err
    assert "❌ FAILED migrations/001-piecewise.sql:3:8   statement 2 of 3\n" in result.err
    assert (history(database), tables(database)) == ([], {"a"})


def test_github_actions_gets_an_annotation_on_the_line(here: Here, migrations: Write, database: Database) -> None:
    migrations({"001-typo.sql": "SELECT 1;\nSELECT 100 %;\n"})
    result = here(url=database.url, env={"GITHUB_ACTIONS": "true"})
    annotation = result.err.splitlines()[-1]
    assert re.fullmatch(r"::error file=.*migrations/001-typo\.sql,line=2,col=\d+::42601: .*", annotation)
    assert "::error" not in here(url=database.url).err
    migrations({"001-typo.sql": "BEGIN;", "002-typo.sql": "COMMIT;"})
    result = here(url=database.url, env={"GITHUB_ACTIONS": "true"})
    assert len([line for line in result.err.splitlines() if line.startswith("::error")]) == 1
    assert "%0A" in result.err
    assert history(database) == []


@pytest.mark.parametrize("stands", ["", "app", "app/scripts", "/"])
def test_an_annotation_names_the_file_as_the_workspace_knows_it_wherever_the_run_stands(
    project: Path, tmp_path: Path, database: Database, stands: str
) -> None:
    workspace = tmp_path / "work"
    app = Cli(bundle(project, workspace / "app", {"001-typo.sql": "SELEC 1;\n"}), tmp_path)
    github = {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(workspace)}
    result = app(url=database.url, env={"MIGRATION_DIR": "migrations", **github}, cwd=workspace / stands)
    assert "\n::error file=app/migrations/001-typo.sql,line=1,col=1::42601: " in result.err
    elsewhere = {**github, "GITHUB_WORKSPACE": str(tmp_path / "other")}
    result = app(url=database.url, env={"MIGRATION_DIR": "migrations", **elsewhere}, cwd=workspace / stands)
    assert f"\n::error file={workspace}/app/migrations/001-typo.sql,line=1,col=1::" in result.err
    assert history(database) == []


# What others say

HOSTILE = (
    "x\n::error::forged\n  ::add-mask::a\n##[error]forged\x1b[2J\x1b]0;title\x07\n"
    "✅ Applied: 999-forged (1ms)\u202e\x9b31m"
)


def obeyed(said: str) -> list[str]:
    """The lines that GitHub's runner takes for commands, as its parser does."""
    return [line for line in said.split("\n") if line.lstrip().startswith("::") or "##[" in line]


def hostile(word: str) -> str:
    """A block that says it in every field that a message has."""
    text = "E'" + "".join(f"\\u{ord(char):04x}" for char in word) + "'"
    fields = ", ".join(
        f"{field} = {text}" for field in ("MESSAGE", "DETAIL", "HINT", "CONSTRAINT", "TABLE", "SCHEMA", "COLUMN")
    )
    return f"DO $$ BEGIN RAISE NOTICE '%', {text}; RAISE EXCEPTION USING {fields}; END $$;\n"


@pytest.mark.parametrize("arguments", [(), ("--json",)])
@pytest.mark.parametrize("directive", ["", "-- migrate: no-transaction\n"])
def test_what_a_server_says_steers_neither_terminal_nor_ci(
    cli: Cli, migrations: Write, database: Database, arguments: tuple[str, ...], directive: str
) -> None:
    migrations({"001-talks.sql": directive + hostile(HOSTILE)})
    result = cli(*arguments, url=database.url, env={"GITHUB_ACTIONS": "true", "PYTHONIOENCODING": "utf-8"})
    assert result.code == (7 if directive else 1)
    (command,) = obeyed(result.out + result.err)
    assert command.startswith("::error file=")
    for said in (result.out, result.err):
        assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202e]", said)
        assert not re.search(r"(?m)^✅ Applied: 999-forged", said)
    assert r"\x1b[2J\x1b]0;title\x07" in result.err
    if arguments:
        assert json.loads(result.out)["error"]["message"] == HOSTILE
    assert history(database) == []


def test_what_a_file_has_in_it_steers_neither_terminal_nor_ci(cli: Cli, migrations: Write, database: Database) -> None:
    migrations({"001-shown.sql": "SELECT '\x1b[2J\n::error::forged\n##[error]forged' nothing here;\n"})
    result = cli(url=database.url, env={"GITHUB_ACTIONS": "true"})
    assert result.code == 1
    assert [line[:13] for line in obeyed(result.out + result.err)] == ["::error file="]
    assert "\x1b" not in result.out + result.err
    assert "1 | SELECT '\\x1b[2J\n2 | ::error::forged\n3 | \\x23#[error]forged' nothing here;\n" in result.err
    assert history(database) == []


@pytest.mark.parametrize("command", ["run", "status", "validate"])
def test_what_a_history_has_in_it_steers_neither_terminal_nor_ci(
    cli: Cli, migrations: Write, database: Database, command: str
) -> None:
    migrations(ONE)
    assert cli(url=database.url).code == 0
    database.execute("INSERT INTO schema_migrations (version, name) VALUES (%s, %s)", [HOSTILE, HOSTILE])
    arguments = () if command == "run" else (command,)
    for more in ((), ("--json",)):
        result = cli(*arguments, *more, url=database.url, env={"GITHUB_ACTIONS": "true"})
        assert "forged" in result.out + result.err
        assert all(line.startswith("::error::") for line in obeyed(result.out + result.err))
        assert not re.search(r"(?m)^✅ Applied: 999|[\x1b\x9b\x07]", result.out + result.err)
    assert history(database) == ["001-one", HOSTILE]


def test_what_another_session_is_called_and_does_steers_neither_terminal_nor_ci(
    cli: Cli, migrations: Write, database: Database
) -> None:
    database.execute("CREATE TABLE busy ()")
    migrations({"001-waits.sql": "ALTER TABLE busy ADD COLUMN a int;"})
    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE busy; /*\n::error::forged\n##[error]forged \x1b[2J*/ SELECT")
        limits = {"MIGRATION_RETRY": "0", "MIGRATION_LOCK_TIMEOUT": "500ms"}
        result = cli(url=database.url, env={**SETTLED, **limits})
    assert (result.code, obeyed(result.err)) == (4, [])
    assert "forged" in result.err
    assert "\x1b" not in result.err
    assert history(database) == []


def test_a_notice_and_a_failure_show_no_secret_of_the_environment(
    cli: Cli, migrations: Write, database: Database, login: Callable[[str], str]
) -> None:
    """The server knows them from wherever it has them: a foreign server's options, a row, a function's text."""
    url, secret = login(CANARY), "S3cret-of-the-route-and-long-enough"
    said = f"{url} {CANARY} password={CANARY} {secret} postgresql://else:{CANARY[::-1]}@where/x"
    migrations({"001-talks.sql": f"DO $$ BEGIN RAISE NOTICE '{said}'; RAISE EXCEPTION '{said}'; END $$;"})
    for arguments in ((), ("--json",)):
        result = cli(*arguments, url=url, env={"MIGRATION_SECRET": secret})
        assert result.code == 1
        for hidden in (CANARY, CANARY[::-1], secret):
            assert hidden not in result.out + result.err
        assert "NOTICE: postgresql://***@" in result.out + result.err
    assert history(database) == []


# The database is not there


@pytest.mark.parametrize("command", ["run", "status", "validate", "baseline", "repair"])
def test_a_missing_database_is_5_with_one_document(
    here: Here, migrations: Write, database: Database, server: Server, command: str
) -> None:
    migrations(ONE)
    arguments = {"run": [], "baseline": ["baseline", "1"], "repair": ["repair", "001-one"]}.get(command, [command])
    result = here("--json", *arguments, url=server.database("there-is-none").url)
    document = json.loads(result.out)
    assert result.code == 5
    assert (document["success"], document["error"]["code"]) == (False, "database_unavailable")
    assert 'database "there-is-none" does not exist' in result.err
    assert "Next: " in result.err
    assert contents(database) == ([], [])


def test_no_variable_set_is_2_and_names_them_all(here: Here, migrations: Write, database: Database) -> None:
    migrations(ONE)
    for command in ((), ("status",), ("baseline", "1"), ("repair", "001-one")):
        result = here(*command)
        assert result.code == 2
        assert "none of MIGRATION_DATABASE_URL, POSTGRES_URL_NON_POOLING" in result.err
    assert contents(database) == ([], [])


def test_two_databases_in_the_variables_are_refused(
    here: Here, migrations: Write, database: Database, migrated: Database
) -> None:
    migrations(ONE)
    before = contents(migrated)
    result = here(env={"POSTGRES_URL": database.url, "DATABASE_URL": migrated.url})
    assert result.code == 2
    assert f"POSTGRES_URL: {database.name} on" in result.err
    assert f"DATABASE_URL: {migrated.name} on" in result.err
    assert (contents(database), contents(migrated)) == (([], []), before)
    chosen = {"MIGRATION_DATABASE_URL": database.url, "DATABASE_URL": migrated.url}
    assert here(env=chosen).code == 0
    assert (history(database), contents(migrated)) == (["001-one"], before)


# Secrets


@pytest.fixture
def login(database: Database, server: Server) -> Iterator[Callable[[str], str]]:
    """`login(password)` is a URL of the test's database for a role with that password."""
    role = f"login_{database.name}"
    server.admin.execute(f"CREATE ROLE {role} LOGIN SUPERUSER")

    def url(password: str) -> str:
        server.admin.execute(f"ALTER ROLE {role} PASSWORD '{password}'")
        place = urlsplit(database.url).netloc.rpartition("@")[2]
        return urlsplit(database.url)._replace(netloc=f"{role}:{password}@{place}").geturl()

    yield url
    database.execute(f"DROP OWNED BY {role}")
    server.admin.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("files", [ONE, {"001-typo.sql": "SELEC 1;"}, {"001-begin.sql": "BEGIN;"}])
def test_no_password_is_printed_whatever_becomes_of_a_run(
    here: Here, migrations: Write, database: Database, login: Callable[[str], str], files: dict[str, str]
) -> None:
    migrations(files)
    url = login(CANARY)
    for arguments in ((), ("--json",), ("status", "--json"), ("validate",), ("baseline", "1"), ("repair", "001-one")):
        result = here(*arguments, url=url, env={"GITHUB_ACTIONS": "true"})
        assert CANARY not in result.out + result.err
    recorded = [] if "001-begin.sql" in files else [next(iter(files)).removesuffix(".sql")]
    assert (history(database) or []) == recorded, "what could run, the baseline at the latest has recorded"


def odd_urls(host: str) -> dict[str, str]:
    """URLs with the canary where no password, or no URL, should be."""
    return {
        "a wrong password": f"postgresql://postgres:{CANARY}@{host}/postgres",
        "an @ in it": f"postgresql://postgres:a@{CANARY}@{host}/postgres",
        "a slash in it": f"postgresql://postgres:a/{CANARY}@{host}/postgres",
        "a question mark in it": f"postgresql://postgres:a?{CANARY}@{host}/postgres",
        "a question mark and an = in it": f"postgresql://postgres:1?x={CANARY}@{host}/postgres",
        "a hash in it": f"postgresql://postgres:a#{CANARY}@{host}/postgres",
        "a percent in it": f"postgresql://postgres:%zz{CANARY}@{host}/postgres",
        "a blank in it": f"postgresql://postgres:a {CANARY}@{host}/postgres",
        "a line break in it": f"postgresql://postgres:a\n{CANARY}@{host}/postgres",
        "encoded characters in it": f"postgresql://postgres:{quote(CANARY + '@/:', safe='')}@{host}/postgres",
        "no scheme": f"postgres:{CANARY}@{host}/postgres",
        "a scheme cut short": f"postgres:/postgres:{CANARY}@{host}/postgres",
        "another scheme": f"mysql://postgres:{CANARY}@{host}/postgres",
        "no user": f"postgresql://:{CANARY}@{host}/postgres",
        "a port that is none": f"postgresql://postgres@localhost:{CANARY}/postgres",
        "it in the query": f"postgresql://postgres@{host}/postgres?password={CANARY}",
        "a key's in the query": f"postgresql://postgres@{host}/postgres?sslpassword={CANARY}",
        "an unknown ssl parameter": f"postgresql://postgres:{CANARY}@{host}/postgres?sslx=1",
        "a conninfo string": f"host=localhost password={CANARY}",
        "a JDBC URL": f"jdbc:postgresql://{host}/postgres?user=postgres&password={CANARY}",
        "quotes around it": f'"postgresql://postgres:{CANARY}@{host}/postgres"',
        "psql before it": f"psql 'postgresql://postgres:{CANARY}@{host}/postgres'",
        "a port beyond all": f"postgresql://postgres:{CANARY}@localhost:99999/postgres",
        "a broken IPv6 address": f"postgresql://postgres:{CANARY}@[::1/postgres",
        "a URL as the database": f"postgresql://{host}/?dbname=postgresql://postgres:{CANARY}@{host}/postgres",
    }


@pytest.mark.parametrize("oddity", odd_urls(""))
def test_a_url_that_does_not_work_shows_nothing_of_its_password(
    here: Here, migrations: Write, database: Database, server: Server, oddity: str
) -> None:
    migrations(ONE)
    url = odd_urls(server.url.rpartition("@")[2].partition("/")[0])[oddity]
    for arguments in ((), ("status", "--json")):
        result = here(*arguments, env={"POSTGRES_URL": url, "GITHUB_ACTIONS": "true"})
        assert result.code in (2, 5), result
        assert CANARY not in result.out + result.err
        assert "POSTGRES_URL" in result.err
    assert contents(database) == ([], [])


@pytest.mark.parametrize(
    "variable", ["MIGRATION_ENV", "MIGRATION_LOCK_TIMEOUT", "MIGRATION_WAIT", "MIGRATION_DIR", "MIGRATION_SCHEMA"]
)
def test_a_url_in_the_wrong_variable_shows_nothing_of_its_password(
    here: Here, migrations: Write, database: Database, variable: str
) -> None:
    migrations(ONE)
    result = here(url=database.url, env={variable: f"postgresql://postgres:{CANARY}@localhost/x"})
    assert result.code in (2, 5)
    assert CANARY not in result.out + result.err
    assert contents(database) == ([], [])


def test_a_short_password_does_not_garble_what_is_said(
    here: Here, migrations: Write, database: Database, login: Callable[[str], str]
) -> None:
    migrations({"001-users.sql": "SELECT users;"})
    result = here("--json", url=login("e"))
    assert result.code == 1
    assert json.loads(result.out)["error"]["file"] == "migrations/001-users.sql"
    assert "FAILED migrations/001-users.sql:1:8" in result.err
    assert history(database) == []


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_fault_of_ours_is_one_line_without_secrets_and_without_a_traceback(
    here: Here,
    migrations: Write,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    password = "short?" + CANARY
    url = f"postgresql://me:{quote(password, safe='')}@localhost/x"

    def fail(*_: object) -> None:
        raise RuntimeError(f"it broke\nwith {url} and {password}")

    migrations(ONE)
    monkeypatch.setattr(runner, "run", fail)
    result = here(*arguments, env={"POSTGRES_URL": url})
    assert result.code == 70
    assert re.fullmatch(
        r"❌ internal error at test_cli\.py:\d+, please report it: RuntimeError: it broke with "
        r"postgresql://\*\*\*@localhost/x and \*\*\*; what is committed stays, `status` shows it\n",
        result.err,
    )
    if arguments:
        assert json.loads(result.out)["error"]["code"] == "internal"
    else:
        assert result.out == ""
    assert contents(database) == ([], [])


# The files .env.local and .env


@pytest.fixture
def team(project: Path, tmp_path: Path) -> Path:
    """A copy of the bundle in which a test can put `.env` files."""
    return bundle(project, tmp_path / "team", ONE)


def test_env_local_comes_before_env_and_the_two_are_never_mixed(
    team: Path, database: Database, migrated: Database
) -> None:
    before = contents(migrated)
    (team / ".env.local").write_text(f"# mine\nexport DATABASE_URL='{database.url}' # this one\n")
    (team / ".env").write_text(f'MIGRATION_DATABASE_URL="{migrated.url}"\nMIGRATION_ENV=sandbox\n')
    result = Cli(team, team)()
    assert result.code == 0, words(result)
    assert "(from DATABASE_URL)" in result.out
    assert "Environment: sandbox" in result.out
    assert history(database) == ["001-one"]
    assert contents(migrated) == before


def test_env_counts_where_env_local_names_no_database(team: Path, database: Database) -> None:
    (team / ".env.local").write_text("MIGRATION_ENV=mine\n")
    (team / ".env").write_text(f"DATABASE_URL={database.url}\nMIGRATION_ENV=theirs\n")
    assert Cli(team, team)().code == 0
    assert database.execute("SELECT environment FROM schema_migrations") == [("mine",)]


@pytest.mark.parametrize("variable", ["DATABASE_URL", "MIGRATION_DATABASE_URL"])
def test_a_database_in_the_environment_switches_the_files_urls_off(
    team: Path, database: Database, migrated: Database, variable: str
) -> None:
    before = contents(migrated)
    (team / ".env.local").write_text(f"MIGRATION_DATABASE_URL={migrated.url}\nPOSTGRES_URL={migrated.url}\n")
    result = Cli(team, team)(env={variable: database.url})
    assert result.code == 0
    assert f"(from {variable})" in result.out
    assert history(database) == ["001-one"]
    assert contents(migrated) == before


def test_a_broken_env_file_is_named_and_its_content_is_not_shown(team: Path, database: Database) -> None:
    (team / ".env.local").write_bytes(b"POSTGRES_URL=postgresql://postgres:" + CANARY.encode() + b"\xff@localhost/x\n")
    result = Cli(team, team)(url=database.url)
    assert result.code == 2
    assert ".env.local cannot be read as UTF-8 text" in result.err
    assert CANARY not in result.out + result.err
    (team / ".env.local").write_text(f"POSTGRES_URL=postgresql://postgres:a@{CANARY}@localhost/x\n")
    result = Cli(team, team)("--json")
    assert result.code == 2
    assert "POSTGRES_URL" in result.err
    assert CANARY not in result.out + result.err
    assert contents(database) == ([], [])


# Where it is started


def test_it_runs_from_another_directory_and_through_a_link(team: Path, tmp_path: Path, database: Database) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "migrate").symlink_to(team / "scripts" / "migrate.py")
    linked = Cli(team, team)
    linked.script = elsewhere / "migrate"
    result = linked(url=database.url, env={"MIGRATION_DIR": ""}, cwd=elsewhere)
    assert result.code == 0
    assert history(database) == ["001-one"]
    (team / "other").mkdir()
    (team / "other" / "002-two.sql").write_text("SELEC 2;")
    shutil.copy(team / "migrations" / "001-one.sql", team / "other")
    assert (
        str(team / "other" / "002-two.sql")
        in linked(url=database.url, env={"MIGRATION_DIR": "other"}, cwd=elsewhere).err
    )
    inside = linked(url=database.url, env={"MIGRATION_DIR": "other"}, cwd=team)
    assert "FAILED other/002-two.sql:1:1" in inside.err
    assert history(database) == ["001-one"]


def test_a_python_without_the_requirements_says_what_to_do(cli: Cli, migrations: Write, database: Database) -> None:
    migrations(ONE)
    result = subprocess.run(
        [sys.executable, "-S", str(cli.script), "--json"],
        env=environment(cli, database.url),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 2
    assert "psycopg" in result.stderr
    assert "scripts/setup" in result.stderr
    assert "Traceback" not in result.stderr
    assert json.loads(result.stdout)["success"] is False
    assert contents(database) == ([], [])


def test_strict_warnings_of_python_find_nothing(cli: Cli, migrations: Write, database: Database) -> None:
    directory = migrations({**TWO, "003-fails.sql": "SELECT nothing;"})
    for arguments, code in (
        (("status",), 0),
        (("baseline", "1"), 0),
        ((), 1),
        (("validate",), 0),
        (("repair", "001-one"), 0),
        (("create", "four"), 0),
        (("nonsense",), 2),
    ):
        result = subprocess.run(
            [sys.executable, "-W", "error", str(cli.script), *arguments],
            env=environment(cli, database.url),
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert result.returncode == code, result.stderr
        assert "Warning" not in result.stderr
        assert "Exception ignored" not in result.stderr
    assert history(database) == ["001-one", "002-two"]
    assert (directory / "004-four.sql").exists()


# Streams


def test_colour_is_for_terminals_and_no_color_switches_it_off(cli: Cli, migrations: Write, database: Database) -> None:
    migrations(ONE)

    def on_a_terminal(*arguments: str, **more: str) -> str:
        ours, its = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, str(cli.script), *arguments],
            env=environment(cli, database.url, **more),
            stdin=its,
            stdout=its,
            stderr=its,
        )
        os.close(its)
        printed = b""
        try:
            while chunk := os.read(ours, 4096):
                printed += chunk
        except OSError:  # how a terminal says that the other end is gone
            pass
        os.close(ours)
        process.wait()
        return printed.decode()

    assert "\033[32m✅ Applied: 001-one" in on_a_terminal()
    assert "\033[31m❌" in on_a_terminal("nonsense")
    assert "\033" not in on_a_terminal("status", NO_COLOR="1")
    assert "\033" in on_a_terminal("status", NO_COLOR="")
    assert "\033" not in cli("status", url=database.url).out
    assert history(database) == ["001-one"]


def test_a_stdout_that_knows_no_emoji_gets_the_rest(cli: Cli, migrations: Write, database: Database) -> None:
    migrations({"001-one.sql": "DO $$ BEGIN RAISE NOTICE 'größer 😀'; END $$;"})
    narrow = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    result = cli(url=database.url, env=narrow)
    assert (result.code, result.err) == (0, "")
    assert "? Applied: 001-one" in result.out
    migrations({"002-two.sql": "SELECT größer;"})
    result = cli("--json", url=database.url, env=narrow)
    assert result.code == 1
    assert json.loads(result.out)["error"]["message"] == 'column "größer" does not exist'
    assert history(database) == ["001-one"]


@pytest.mark.parametrize("arguments", [(), ("--json",), ("status",), ("--help",), ("nonsense",)])
def test_a_reader_that_has_left_changes_neither_the_run_nor_its_exit_code(
    cli: Cli, migrations: Write, database: Database, arguments: tuple[str, ...]
) -> None:
    migrations({**FIVE, "006-fails.sql": "SELECT nothing;"} if not arguments else FIVE)
    ours, its = os.pipe()
    os.close(ours)
    result = subprocess.run(
        [sys.executable, str(cli.script), *arguments],
        env=environment(cli, database.url),
        stdout=its,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    os.close(its)
    assert result.returncode == {(): 1, ("nonsense",): 2}.get(arguments, 0)
    assert "Traceback" not in result.stderr
    assert "Broken" not in result.stderr
    runs = arguments in ((), ("--json",))
    assert history(database) == ([f"00{n}-f{n}" for n in range(1, 6)] if runs else None)


def test_a_reader_of_the_first_line_only_gets_it(cli: Cli, migrations: Write, database: Database) -> None:
    migrations(FIVE)
    process = subprocess.Popen(
        [sys.executable, str(cli.script)],
        env=environment(cli, database.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline().startswith(b"Database: ")
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 0
    assert len(history(database) or []) == 5


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>/dev/full"])
@pytest.mark.parametrize("arguments", ["", "--json"])
def test_a_stream_that_is_closed_or_full_does_not_stop_a_run(
    cli: Cli, migrations: Write, database: Database, closed: str, arguments: str
) -> None:
    migrations({**TWO, "003-fails.sql": "SELECT nothing;"})
    result = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -W error "$1" {arguments} {closed}', sys.executable, str(cli.script)],
        env=environment(cli, database.url),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    if "2>" in closed and ">&-" in closed:
        assert "FAILED" not in result.stdout, "the words of a closed stderr are not for stdout"
    assert (history(database), tables(database)) == (["001-one", "002-two"], {"one", "two"})


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_what_is_kept_and_leaves_with_its_signals_code(
    cli: Cli, migrations: Write, database: Database, number: signal.Signals, code: int
) -> None:
    migrations({**ONE, "002-sleeps.sql": "CREATE TABLE two (); SELECT pg_sleep(60);"})
    process = subprocess.Popen(
        [sys.executable, str(cli.script), "--json"],
        env=environment(cli, database.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    while database.execute(asleep) != [(1,)]:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate()
    document = json.loads(out)
    assert process.returncode == code
    assert (document["error"]["code"], document["remaining"]) == ("interrupted", ["002-sleeps"])
    assert f"❌ interrupted by {number.name}" in err
    assert "Applied in this run: 001-one." in err
    assert "Traceback" not in err
    while database.execute(asleep) != [(0,)]:
        time.sleep(0.02)
    assert (history(database), tables(database)) == (["001-one"], {"one"})


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def starting(tmp_path: Path, module: str, line: str) -> dict[str, str]:
    """An environment in which this is run where a module is imported, that is found before the one of its name."""
    (tmp_path / "first").mkdir(exist_ok=True)
    (tmp_path / "first" / f"{module}.py").write_text(f"import os, signal\n{line}\n")
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "first")}


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("module", ["datetime", "psycopg"])
def test_a_signal_while_it_starts_is_one_line_and_its_code(
    cli: Cli, migrations: Write, database: Database, number: signal.Signals, code: int, module: str
) -> None:
    migrations(ONE)
    env = starting(cli.directory, module, f"os.kill(os.getpid(), {int(number)})")
    for arguments in ((), ("--json",)):
        result = subprocess.run(
            [sys.executable, str(cli.script), *arguments],
            env=env | environment(cli, database.url),
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert (result.returncode, result.stderr) == (code, f"❌ interrupted by {number.name}: nothing was begun\n")
        assert (json.loads(result.stdout)["error"]["code"] if arguments else result.stdout) in ("interrupted", "")
    assert history(database) is None


@pytest.mark.parametrize("script", ["bundle.py", "check_functions.py", "invoke.py", "sandbox.py"])
def test_ctrl_c_while_another_script_starts_shows_no_traceback(cli: Cli, script: str) -> None:
    env = starting(cli.directory, "argparse", "os.kill(os.getpid(), signal.SIGINT)")
    env |= starting(cli.directory, "psycopg", "os.kill(os.getpid(), signal.SIGINT)")
    result = subprocess.run(
        [sys.executable, str(cli.script.with_name(script)), "--help"], env=env, capture_output=True, check=False
    )
    assert (result.returncode, result.stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("late", ["atexit.register(strike)", "late = type('Late', (), {'__del__': strike})()"])
def test_a_signal_behind_the_end_changes_nothing(
    cli: Cli, migrations: Write, database: Database, number: signal.Signals, late: str
) -> None:
    migrations(ONE)
    script = (
        "import atexit, os, sys; from lib.cli.process import run_process\n"
        f"def strike(*_, kill=os.kill, process=os.getpid()): kill(process, {int(number)})\n"
        f"sys.argv = ['migrate.py', '--json']; {late}; sys.exit(run_process())"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(cli, database.url),
        cwd=cli.script.parent.parent,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (result.returncode, json.loads(result.stdout)["success"]) == (0, True)
    assert "Traceback" not in result.stderr
    assert history(database) == ["001-one"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("file", "code", "outcome"), [(ONE, 0, None), ({"001-fails.sql": "SELECT nothing;"}, 1, "migration_failed")]
)
def test_a_signal_while_the_end_is_told_does_not_cut_it_short(
    cli: Cli, migrations: Write, database: Database, number: signal.Signals, file: Any, code: int, outcome: str | None
) -> None:
    """The words go to a pipe that is full, so that the run stands still in the middle of them."""
    migrations(file)
    ours, its = os.pipe()
    os.set_blocking(its, False)
    with suppress(BlockingIOError):
        while True:
            os.write(its, b"." * 512)
    os.set_blocking(its, True)
    process = subprocess.Popen(
        [sys.executable, str(cli.script), "--json"],
        env=environment(cli, database.url),
        stdout=its,
        stderr=subprocess.PIPE,
    )
    os.close(its)
    assert process.stderr
    with process.stderr as words, os.fdopen(ours, "rb") as out:
        said = b""
        while b"applied successfully" not in said and b"Next:" not in said:
            said += words.readline()
        process.send_signal(number)
        document = json.loads(out.read().lstrip(b"."))
        assert b"interrupted" not in words.read()
    assert process.wait() == code
    assert document.get("error", {}).get("code") == outcome
    assert history(database) == (["001-one"] if code == 0 else [])


# The command line itself


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("status", "--chek"),
        ("--prod",),
        ("status", "--che"),
        ("create",),
        ("baseline",),
        ("repair",),
        ("repair", "a", "b"),
        ("--check",),
        ("--json=1",),
        ("",),
    ],
)
def test_a_wrong_command_line_is_2_in_words_and_in_the_document(
    here: Here, migrations: Write, database: Database, arguments: tuple[str, ...]
) -> None:
    migrations(ONE)
    result = here(*arguments, url=database.url)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("❌ ")
    assert "--help` says what there is" in result.err
    document = json.loads(here("--json", *arguments, url=database.url).out)
    assert (document["success"], document["error"]["code"]) == (False, "usage")
    assert contents(database) == ([], [])


def test_help_reads_like_a_manual_page(cli: Cli, database: Database) -> None:
    for columns in ("40", "300"):
        result = cli("--help", url=database.url, env={"COLUMNS": columns})
        assert (result.code, result.err) == (0, "")
        assert max(map(len, result.out.splitlines())) <= 80
    headings = [line for line in result.out.splitlines() if re.fullmatch(r"[a-z ]+:", line)]
    assert headings == ["commands:", "options:", "environment:", "exit codes:", "examples:"]
    manual, examples = result.out.split("examples:\n")
    assert len([line for line in examples.splitlines() if "scripts/migrate.py" in line]) == 3
    source = "".join((cli.script.parent.parent / "lib" / name).read_text() for name in ("config.py", "errors.py"))
    for variable in set(re.findall(r'"(MIGRATION_\w+|[A-Z_]+_URL\w*)"', source)):
        assert variable in manual, "a variable that decides something is in the manual"
    for code in (1, 2, 3, 4, 5, 6, 7, 8, 70, 130, 143):
        assert re.search(rf"^  (\d+, )?{code}\b", manual, re.MULTILINE), code
    for command in ("status", "validate", "create", "baseline", "repair"):
        assert f"\n  {command} " in manual
    assert contents(database) == ([], [])


@pytest.mark.parametrize("command", ["status", "validate", "create", "baseline", "repair"])
def test_each_command_has_a_help_of_its_own(
    command: str, capsys: pytest.CaptureFixture[str], database: Database
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"], {"POSTGRES_URL": database.url})
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert out.startswith(f"usage: scripts/migrate.py {command} [-h]")
    assert max(map(len, out.splitlines())) <= 80
    assert contents(database) == ([], [])


def test_version_is_one_line(cli: Cli, database: Database) -> None:
    result = cli("--version", url=database.url)
    assert (result.code, result.out, result.err) == (0, f"onward {VERSION}\n", "")
    assert contents(database) == ([], [])


def test_times_of_an_older_history_are_the_servers_and_not_those_of_the_users_zone(
    database: Database, cli: Cli, migrations: Write
) -> None:
    migrations({"001-old.sql": "SELECT 1"})
    database.execute(f"ALTER DATABASE \"{database.name}\" SET timezone = 'America/New_York'")
    database.execute(
        "CREATE TABLE schema_migrations (id SERIAL PRIMARY KEY, version VARCHAR(255) UNIQUE NOT NULL,"
        " name VARCHAR(255) NOT NULL, applied_at TIMESTAMP, execution_time_ms INTEGER, checksum VARCHAR(64))"
    )
    database.execute(
        "INSERT INTO schema_migrations (version, name, applied_at) VALUES ('001-old', 'Old', '2025-07-01 08:00:00')"
    )
    result = cli("status", "--json", url=database.url, env={"PGTZ": "Asia/Tokyo"})
    assert json.loads(result.out)["lastMigration"]["appliedAt"] == "2025-07-01T12:00:00.000Z"
    assert database.execute("SELECT applied_at::text FROM schema_migrations") == [("2025-07-01 08:00:00",)]


@pytest.mark.parametrize(
    "entry", ["api/migrate.py", "api/migration-status.py", "lib/aws/__init__.py", "scripts/migrate.py"]
)
def test_what_a_process_begins_with_turns_the_collector_on_again_and_waits_for_no_parser(
    project: Path, entry: str
) -> None:
    look = f"import gc, runpy, sys; runpy.run_path({str(project / entry)!r}); print(gc.isenabled(), *sys.modules)"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(project), "MIGRATION_ENV": "test"}
    command = [sys.executable, "-c", look]
    enabled, *modules = subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout.split()
    assert enabled == "True"
    assert "psycopg" in modules
    assert "argparse" not in modules
