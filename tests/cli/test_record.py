"""The commands that write files and rows: `create`, `baseline`, `repair`.

Each test ends by looking at the database.
"""

import json
import shutil
import subprocess
import sys
import time
from datetime import date
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Cli, Database, Here
from tests.kit import FIVE, ONE, TWO, Write, contents, environment, recorded, tables

# Create


@pytest.mark.slow
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
    assert {
        "-- Version: 003",
        f"-- Date: {date.today().isoformat()}",
        "-- Description: add Orders, quickly",
    } <= set(lines)
    for refused in (cli(url=database.url), cli("validate", url=database.url), cli("validate")):
        assert refused.code == 2
        assert (
            "migrations/003-add-orders-quickly.sql: still a draft; remove the line" in refused.err
        )
    assert contents(database) == ([], [])
    path.write_text(
        path.read_text().replace("-- migrate: draft\n", "") + "CREATE TABLE orders (id int);\n"
    )
    assert cli("validate").code == 0
    assert cli(url=database.url).code == 0
    assert recorded(database) == ["001-one", "002-two", "003-add-orders-quickly"]
    assert tables(database) == ["one", "orders", "two"]


@pytest.mark.parametrize(
    ("there", "number"),
    [
        ([], "000"),
        (["000-a.sql"], "001"),
        (["099-a.sql"], "100"),
        (["999-a.sql"], "1000"),
        (["1000-a.sql"], "1001"),
    ],
)
def test_create_takes_the_number_after_the_highest(
    here: Here, migrations: Write, there: list[str], number: str
) -> None:
    directory = migrations(dict.fromkeys(there, "SELECT 1;"))
    assert here("create", "next").code == 0
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        [*there, f"{number}-next.sql"]
    )


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
    assert json.loads(result.out) == {
        "success": True,
        "version": "001-first",
        "file": "migrations/001-first.sql",
        "takenBy": None,
        "notFollowed": [],
    }
    assert (tmp_path / "migrations" / "000-first.sql").read_text() == "mine"
    shutil.rmtree(tmp_path / "migrations")
    (tmp_path / "migrations").write_text("a file in the way")
    result = here("create", "second")
    assert result.code == 2
    assert "❌ migrations: cannot create a migration" in result.err
    assert (tmp_path / "migrations").read_text() == "a file in the way"


# Baseline


def test_baseline_records_without_running_and_a_run_applies_the_rest(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations({**FIVE, "002-f2.sql": "SELECT no_such_function();"})
    result = here("baseline", "003", url=database.url)
    assert (result.code, result.err) == (0, "")
    assert result.out == "".join(f"✅ Recorded as applied: 00{n}-f{n}\n" for n in (1, 2, 3))
    assert tables(database) == []
    rows = database.execute(
        "SELECT version, checksum, execution_time_ms, environment FROM schema_migrations"
    )
    assert rows[0] == (
        "001-f1",
        sha256(FIVE["001-f1.sql"].encode()).hexdigest(),
        None,
        "development",
    )
    assert here(url=database.url).code == 0
    assert recorded(database) == [f"00{n}-f{n}" for n in range(1, 6)]
    assert tables(database) == ["f4", "f5"]


def test_baseline_json_lists_what_it_recorded(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(TWO)
    result = here("baseline", "1", "--json", url=database.url)
    assert json.loads(result.out) == {"success": True, "recorded": ["001-one"]}
    assert recorded(database) == ["001-one"]


def test_baseline_records_what_is_not_recorded_yet_and_nothing_twice(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    here(url=database.url)
    migrations(TWO)
    assert here("baseline", "2", url=database.url).out == "✅ Recorded as applied: 002-two\n"
    before = contents(database)
    assert (
        here("baseline", "2", url=database.url).out
        == "✅ Nothing to record: all files up to 002 are recorded\n"
    )
    assert contents(database) == before
    assert recorded(database) == ["001-one", "002-two"]


@pytest.mark.parametrize("number", ["4", "0", "x", "-1", "1.5", "²", "001-one", ""])
def test_baseline_wants_the_number_of_a_file(
    here: Here, migrations: Write, database: Database, number: str
) -> None:
    migrations(TWO)
    result = here("baseline", number, url=database.url)
    assert result.code == 2
    assert "number" in result.err or "NNN" in result.err
    assert contents(database) == ([], [])


def test_a_failing_baseline_leaves_nothing(
    here: Here, migrations: Write, migrated: Database
) -> None:
    migrations(FIVE)
    migrated.execute("TRUNCATE schema_migrations")
    migrated.execute(
        "ALTER TABLE schema_migrations ADD CONSTRAINT no_third CHECK (version <> '003-f3')"
    )
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
    assert tables(database) == ["one", "two"]
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
    assert (document["success"], document["version"], document["changed"]) == (
        True,
        "001-uno",
        True,
    )
    assert here(url=database.url).code == 0
    assert database.execute("SELECT version, name FROM schema_migrations ORDER BY id") == [
        ("001-uno", "Uno"),
        ("002-two", "Two"),
    ]


def test_repair_of_a_sound_file_changes_nothing(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(TWO)
    here(url=database.url)
    before = contents(database)
    assert (
        "Nothing to repair: migrations/001-one.sql"
        in here("repair", "001-one", url=database.url).out
    )
    assert json.loads(here("repair", "001-one", "--json", url=database.url).out)["changed"] is False
    assert contents(database) == before


@pytest.mark.parametrize(
    "version", ["002-two", "009-nobody-knows-it", "one", "%s", "'; DROP TABLE one; --"]
)
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


@pytest.mark.slow
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
        assert recorded(database) == ["001-one", "002-two", "003-three"]
    else:
        assert process.returncode == 0, said
        assert recorded(database) == ["003-three", "001-one", "002-two"]
