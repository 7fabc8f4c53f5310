"""The command `drift`, and what `validate` and `status` say of drift.

Each test ends by looking at the database, or at what the next `drift` finds in it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Completed, Database, Here, Server
from tests.kit import ONE, TWO, Write, by_name, contents, dump_and_restore, login, role, run

pytestmark = pytest.mark.slow

ORDERS = {
    "001-orders.sql": """
CREATE TABLE orders (id int PRIMARY KEY, total numeric(12,2) NOT NULL);
CREATE INDEX orders_total ON orders (total);
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touched BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();
CREATE POLICY everybody ON orders USING (true);
GRANT SELECT ON orders TO PUBLIC;
"""
}
BY_HAND = """
CREATE TABLE planted ();
ALTER TABLE orders ADD extra text;
ALTER TABLE orders ALTER total SET DEFAULT 0;
ALTER TABLE orders DISABLE TRIGGER touched;
DROP INDEX orders_total;
CREATE OR REPLACE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT n + n';
ALTER POLICY everybody ON orders USING (id > 0);
REVOKE SELECT ON orders FROM PUBLIC;
"""
CREATE_TWICE = (
    "CREATE OR REPLACE FUNCTION public.twice(n integer)\n RETURNS integer\n LANGUAGE sql\n"
    "AS $function$SELECT {}$function$\n"
)
TOUCHED = (
    "CREATE TRIGGER touched BEFORE UPDATE ON public.orders FOR EACH ROW "
    "EXECUTE FUNCTION public.touch()"
)
FOUND = [
    {"object": "column public.orders.extra", "was": None, "is": "text"},
    {
        "object": "column public.orders.total",
        "was": "numeric(12,2) NOT NULL",
        "is": "numeric(12,2) NOT NULL DEFAULT 0",
    },
    {
        "object": "function public.twice(n integer)",
        "was": CREATE_TWICE.format("n * 2"),
        "is": CREATE_TWICE.format("n + n"),
    },
    {
        "object": "index public.orders_total",
        "was": "CREATE INDEX orders_total ON public.orders USING btree (total)",
        "is": None,
    },
    {
        "object": "policy public.orders.everybody",
        "was": "PERMISSIVE FOR ALL TO PUBLIC USING true",
        "is": "PERMISSIVE FOR ALL TO PUBLIC USING (id > 0)",
    },
    {"object": "table public.planted", "was": None, "is": ""},
    {
        "object": "trigger public.orders.touched",
        "was": TOUCHED,
        "is": f"{TOUCHED} DISABLED",
    },
]
STRICTLY_TOO = {"object": "privileges on public.orders", "was": "PUBLIC SELECT", "is": None}
HOST = "db.example.com"
ASSISTANT = {"CLAUDECODE": "1"}


def document(result: Completed) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.out)
    return found


def drift(here: Here, database: Database, *arguments: str) -> dict[str, Any]:
    return document(here("drift", *arguments, "--json", url=database.url))


@pytest.fixture
def drifted(database: Database, migrations: Write) -> Database:
    """A database in which a column was added by hand."""
    run(database, migrations(ONE))
    database.execute("ALTER TABLE one ADD by_hand text")
    return database


# Show


def test_all_changes_by_hand_are_named_with_was_and_is(
    here: Here, migrations: Write, database: Database
) -> None:
    run(database, migrations(ORDERS))
    database.execute(BY_HAND)
    before = contents(database)
    found = drift(here, database)
    assert (found["drift"], found["differences"]) == ("found", FOUND)
    assert STRICTLY_TOO not in found["differences"]
    assert STRICTLY_TOO in drift(here, database, "--strict")["differences"]
    assert contents(database) == before


def test_all_changes_by_hand_are_still_named_after_the_next_run(
    here: Here, migrations: Write, database: Database
) -> None:
    run(database, migrations(ORDERS))
    database.execute(BY_HAND)
    strictly = drift(here, database, "--strict")["differences"]
    run(
        database,
        migrations({"002-next.sql": "CREATE TABLE next (); GRANT SELECT ON next TO PUBLIC"}),
    )
    found = drift(here, database)
    assert (found["drift"], found["differences"]) == ("found", FOUND)
    assert drift(here, database, "--strict")["differences"] == strictly
    assert STRICTLY_TOO in strictly


def test_maintenance_a_dump_and_its_restore_are_no_drift(
    server: Server, here: Here, migrations: Write, database: Database
) -> None:
    run(database, migrations(ORDERS))
    database.execute("INSERT INTO orders SELECT n, n FROM generate_series(1, 100) n")
    for sql in (
        "ANALYZE",
        "VACUUM FULL",
        "REINDEX TABLE orders",
        "CLUSTER orders USING orders_total",
    ):
        database.execute(sql)
    restored = server.create()
    try:
        dump_and_restore(database, restored)
        for one in (database, restored):
            found = drift(here, one, "--strict")
            assert (found["drift"], found["differences"]) == ("none", [])
        events = run(restored, migrations({"002-next.sql": "CREATE TABLE next ()"}))
        assert (events.notices, drift(here, restored)["drift"]) == ([], "none")
    finally:
        server.drop(restored)


def test_drift_is_shown_and_exits_3_where_it_is_checked(here: Here, drifted: Database) -> None:
    before = contents(drifted)
    assert here("drift", url=drifted.url).code == 0
    result = here("drift", "--check", url=drifted.url)
    assert (result.code, result.err) == (3, "(exit 3, docs/drift.md#what-to-do-about-it)\n")
    assert result.out == (
        "⚠️  The schema is not as the migrations left it (1 difference):\n"
        "  column public.one.by_hand\n"
        "    was: not there\n"
        "    is:  text\n"
        "Next: Undo the change, or write a migration that makes it, or accept the schema as it is:"
        "\n  scripts/migrate.py drift --accept\n"
    )
    assert contents(drifted) == before


def test_without_drift_it_says_up_to_where(
    here: Here, migrations: Write, database: Database
) -> None:
    run(database, migrations(TWO))
    result = here("drift", "--check", url=database.url)
    assert (result.code, result.err) == (0, "")
    assert result.out == ("✅ No drift: the schema is as the migrations left it (up to 002-two)\n")
    assert drift(here, database)["drift"] == "none"


@pytest.mark.parametrize("files", [{}, ONE], ids=["no history", "an older history"])
def test_where_nothing_is_stored_it_is_unknown_and_no_failure(
    here: Here, migrations: Write, database: Database, files: Mapping[str, str]
) -> None:
    if files:
        run(database, migrations(files), MIGRATION_DRIFT="off")
    before = contents(database)
    result = here("drift", "--check", url=database.url)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(
        "⚠️  Whether the schema has drifted is unknown: no run has stored what the schema should be"
        "\nNext: To expect the schema as it is now:\n  scripts/migrate.py drift --refresh\n"
    )
    assert contents(database) == before


def test_a_role_that_may_only_read_the_history_sees_the_same(
    server: Server, here: Here, drifted: Database
) -> None:
    with login(server, drifted) as reader:
        drifted.execute(f"GRANT SELECT ON schema_migrations TO {role(reader)}")
        assert drift(here, reader, "--strict") == drift(here, drifted, "--strict")


# Others that tell of it


def test_validate_names_drift_and_does_not_fail(here: Here, drifted: Database) -> None:
    before = contents(drifted)
    result = here("validate", url=drifted.url)
    assert result.code == 0
    assert "⚠️  the schema is not as the migrations left it: column public.one.by_hand" in result.out
    assert "    was: not there\n    is:  text\n" in result.out
    off = here("validate", url=drifted.url, env={"MIGRATION_DRIFT": "off"})
    assert (off.code, "by_hand" in off.out) == (0, False)
    assert contents(drifted) == before


def test_a_run_that_is_to_fail_prints_what_to_do(
    here: Here, migrations: Write, drifted: Database
) -> None:
    migrations(TWO)
    before = contents(drifted)
    result = here(url=drifted.url, env={"MIGRATION_DRIFT": "fail"})
    assert result.code == 3
    assert "left it: column public.one.by_hand; and MIGRATION_DRIFT is fail\n" in result.err
    assert "Next: Nothing was changed. To see what was and what is:\n" in result.err
    assert result.err.endswith("(exit 3, docs/drift.md#what-to-do-about-it)\n")
    assert contents(drifted) == before


def test_the_status_has_what_the_last_run_stored(
    here: Here, migrations: Write, drifted: Database
) -> None:
    stale = document(here("status", "--json", url=drifted.url))
    assert stale["drift"] == "none", "a status computes nothing"
    migrations(TWO)
    assert here(url=drifted.url).code == 0
    found = document(here("status", "--json", url=drifted.url))
    assert (found["drift"], stale["driftAsOf"] < found["driftAsOf"]) == ("found", True)
    assert len(found["schemaHash"]) == 16 and found["schemaHash"] != stale["schemaHash"]
    assert "left it: scripts/migrate.py drift\n" in here("status", url=drifted.url).out


def test_another_word_for_the_setting_is_refused(here: Here, drifted: Database) -> None:
    before = contents(drifted)
    result = here(url=drifted.url, env={"MIGRATION_DRIFT": "error"})
    assert result.code == 2
    assert "MIGRATION_DRIFT is 'error'; expected one of warn, fail, off" in result.err
    assert contents(drifted) == before


# Accept and refresh


def test_accepted_differences_are_expected_from_then_on(
    here: Here, migrations: Write, drifted: Database
) -> None:
    result = here("drift", "--accept", url=drifted.url)
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "✅ The schema is expected to be as it is now (1 difference)\n"
        "  column public.one.by_hand\n    was: not there\n    is:  text\n"
    )
    assert drift(here, drifted)["drift"] == "none"
    migrations(TWO)
    assert here(url=drifted.url, env={"MIGRATION_DRIFT": "fail"}).code == 0
    drifted.execute("ALTER TABLE one DROP by_hand")
    assert drift(here, drifted)["differences"] == [
        {"object": "column public.one.by_hand", "was": "text", "is": None}
    ]


def test_a_refresh_ends_what_is_unknown(here: Here, migrations: Write, database: Database) -> None:
    run(database, migrations(ONE))
    run(database, migrations(TWO), MIGRATION_DRIFT="off")
    unknown = drift(here, database)
    assert (unknown["drift"], unknown["unknownSince"]) == ("unknown", "002-two")
    assert [one["object"] for one in unknown["differences"]] == [
        "column public.two.id",
        "table public.two",
    ]
    assert here("drift", "--accept", url=database.url).code == 3
    assert here("drift", "--refresh", url=database.url).code == 0
    assert drift(here, database)["drift"] == "none"


def test_a_refresh_forgets_no_known_difference(here: Here, drifted: Database) -> None:
    before = contents(drifted)
    result = here("drift", "--refresh", url=drifted.url)
    assert result.code == 3
    assert "drift --refresh does not apply: the schema is not as the migrations" in result.err
    assert "Next: Nothing was changed. To accept these differences:\n" in result.err
    assert contents(drifted) == before


@pytest.mark.parametrize("option", ["--accept", "--refresh"])
def test_without_any_row_there_is_nothing_to_accept(
    here: Here, database: Database, option: str
) -> None:
    result = here("drift", option, url=database.url)
    assert result.code == 3
    assert "no migration is recorded, so nothing is expected of the schema" in result.err
    assert contents(database) == ([], [])


@pytest.mark.parametrize("option", ["--accept", "--refresh"])
def test_accepting_passes_the_guards_of_a_run(here: Here, drifted: Database, option: str) -> None:
    before = contents(drifted)
    production = here("drift", option, url=drifted.url, env={"MIGRATION_ENV": "production"})
    assert "would change production from outside a deploy" in production.err
    assert "--production" in production.err
    preview = here("drift", option, url=drifted.url, env={"MIGRATION_ENV": "preview"})
    assert "was last migrated as development, and this run is preview" in preview.err
    persistent = by_name(drifted, HOST)
    assistant = here("drift", option, url=persistent.url, env=ASSISTANT)
    assert f"""words>" scripts/migrate.py drift {option}\n""" in assistant.err
    assert {production.code, preview.code, assistant.code} == {3}
    assert here("drift", url=persistent.url, env=ASSISTANT).code == 0
    assert contents(drifted) == before


@pytest.mark.parametrize(
    "options",
    [("--accept", "--refresh"), ("--accept", "--against", "x"), ("--refresh", "--against", "x")],
)
def test_options_that_exclude_each_other_are_refused(
    here: Here, drifted: Database, options: tuple[str, ...]
) -> None:
    before = contents(drifted)
    assert here("drift", *options, url=drifted.url).code == 2
    assert contents(drifted) == before


# Another environment


def test_a_saved_schema_is_compared_with_by_name(
    server: Server, here: Here, migrations: Write, drifted: Database, tmp_path: Path
) -> None:
    saved = tmp_path / "schema.json"
    saved.write_text(here("drift", "--json", url=drifted.url).out)
    assert here("drift", "--check", "--against", str(saved), url=drifted.url).code == 0
    other = server.create()
    try:
        run(other, migrations(ONE))
        before = contents(other)
        result = here("drift", "--check", "--against", str(saved), url=other.url)
        assert result.code == 3
        assert result.out == (
            f"⚠️  The schema is not as in {saved} (1 difference):\n"
            "  column public.one.by_hand\n    was: text\n    is:  not there\n"
        )
        assert contents(other) == before
    finally:
        server.drop(other)


@pytest.mark.parametrize("content", ['{"success": true}', "not JSON", None])
def test_a_file_that_is_no_schema_is_refused_before_connecting(
    here: Here, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "schema.json"
    if content:
        file.write_text(content)
    url = "postgresql://nobody@127.0.0.1:1/nowhere"
    result = here("drift", "--against", str(file), url=url)
    assert result.code == 2
    assert f"❌ {file} " in result.err
    assert file.exists() == bool(content)
