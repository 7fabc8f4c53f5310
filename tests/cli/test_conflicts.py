"""What stops a run: conflicts, production, databases that are not there.

Each test ends by looking at the database.
"""

import json
from pathlib import Path

import pytest

from tests.conftest import Cli, Database, Here, Server
from tests.kit import ONE, TWO, Write, bundle, contents, recorded, tables

# Conflicts between files and history


def test_a_modified_file_stops_the_run(here: Here, migrations: Write, database: Database) -> None:
    migrations(ONE)
    here(url=database.url)
    before = contents(database)
    migrations({"001-one.sql": "CREATE TABLE uno (id int);\n", "002-two.sql": TWO["002-two.sql"]})
    result = here(url=database.url)
    assert result.code == 3
    assert "migrations/001-one.sql: changed after it was applied" in result.err
    assert "scripts/migrate.py repair 001-one\n" in result.err
    assert "reset this database" in result.err
    assert "Next: Nothing was changed." in result.err
    assert contents(database) == before


def test_in_production_resetting_the_database_is_no_remedy(
    here: Here, migrations: Write, database: Database
) -> None:
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
    assert (
        "missing: 001-one: applied, but its file is gone\n    - restore the file from version "
        "control\n" in result.err
    )
    assert contents(database) == before


def test_status_says_which_of_two_files_with_one_number_is_applied(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(TWO)
    assert here(url=database.url).code == 0
    before = contents(database)
    migrations({"002-b.sql": "SELECT 2;"})
    result = here("status", url=database.url)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(
        "❌ migration files share a number:\n"
        "  number 2 is applied as 002-two, and not as 002-b\n"
        "Next: Nothing was changed. The next free number is 003:\n"
        "  scripts/migrate.py renumber 002-b\n"
    )
    for command in ((), ("validate",), ("status",)):
        offline = here(*command, url="postgresql://me@127.0.0.1:1/x")
        assert offline.code == 2
        assert "migrations/002-two.sql: number 2 is taken by 002-b.sql; rename one" in offline.err
        assert "  scripts/migrate.py renumber 002-b\n" in offline.err
    assert here("renumber", "002-b", url=database.url).code == 0
    assert here("status", "--check", url=database.url).code == 8
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
    allowed = {"MIGRATION_ALLOW_OUT_OF_ORDER": "1"}
    assert here("status", "--check", url=database.url, env=allowed).code == 8
    for off in ("0", "", "false"):
        assert here(url=database.url, env={"MIGRATION_ALLOW_OUT_OF_ORDER": off}).code == 3
    assert contents(database) == before
    assert here("--allow-out-of-order", url=database.url).code == 0
    assert recorded(database) == ["002-two", "001-one"]
    assert here(url=database.url).code == 0


def test_the_variable_allows_out_of_order_too(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations({"002-two.sql": TWO["002-two.sql"]})
    here(url=database.url)
    migrations(ONE)
    assert here(url=database.url, env={"MIGRATION_ALLOW_OUT_OF_ORDER": "1"}).code == 0
    assert (recorded(database), tables(database)) == (["002-two", "001-one"], ["one", "two"])


def test_a_database_that_is_ahead_is_a_warning(
    here: Here, migrations: Write, database: Database
) -> None:
    directory = migrations(TWO)
    here(url=database.url)
    before = contents(database)
    (directory / "002-two.sql").unlink()
    result = here(url=database.url)
    assert (result.code, result.err) == (0, "")
    assert (
        "⚠️  Applied, but newer than every file here (an older build, after a rollback?): 002-two"
        in result.out
    )
    assert contents(database) == before


def test_all_conflicts_are_named_in_one_message(
    here: Here, migrations: Write, database: Database
) -> None:
    numbers = (1, 2, 3, 5)
    directory = migrations({f"00{n}-f{n}.sql": f"SELECT {n};" for n in numbers})
    here(url=database.url)
    before = contents(database)
    (directory / "002-f2.sql").unlink()
    (directory / "003-f3.sql").rename(directory / "003-drei.sql")
    migrations(
        {"001-f1.sql": "SELECT 'changed';", "004-late.sql": "SELECT 4;", "006-new.sql": "SELECT 6;"}
    )
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
    database.execute(
        "CREATE TABLE schema_migrations (version text); INSERT INTO schema_migrations VALUES "
        "('20240101')"
    )
    before = contents(database)
    for command in ((), ("status",), ("baseline", "1"), ("repair", "001-one")):
        result = here(*command, url=database.url)
        assert result.code == 3
        assert "public.schema_migrations was created by another tool" in result.err
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
    assert database.execute("SELECT environment, applied_by FROM schema_migrations") == [
        ("production", "cli")
    ]


@pytest.mark.parametrize("sign", ["CI", "VERCEL_DEPLOYMENT_ID"])
def test_a_deploy_changes_production(
    here: Here, migrations: Write, database: Database, sign: str
) -> None:
    migrations(ONE)
    assert (
        here(
            url=database.url, env={"MIGRATION_ENV": "", "VERCEL_ENV": "production", sign: "1"}
        ).code
        == 0
    )
    assert database.execute("SELECT environment, applied_by FROM schema_migrations") == [
        ("production", "build")
    ]


@pytest.mark.slow
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
    assert recorded(database) == ["001-one"]


# The database is not there


@pytest.mark.parametrize("command", ["run", "status", "validate", "baseline", "repair"])
def test_a_missing_database_is_5_with_one_document(
    here: Here, migrations: Write, database: Database, server: Server, command: str
) -> None:
    migrations(ONE)
    arguments = {"run": [], "baseline": ["baseline", "1"], "repair": ["repair", "001-one"]}.get(
        command, [command]
    )
    result = here("--json", *arguments, url=server.database("there-is-none").url)
    document = json.loads(result.out)
    assert result.code == 5
    assert (document["success"], document["error"]["code"]) == (False, "database_unavailable")
    assert 'database "there-is-none" does not exist' in result.err
    assert "Next: " in result.err
    assert contents(database) == ([], [])


def test_no_variable_set_is_2_and_names_them_all(
    here: Here, migrations: Write, database: Database
) -> None:
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
    assert (recorded(database), contents(migrated)) == (["001-one"], before)
