"""The commands that observe the pending files: `rehearse`, `plan`, and MIGRATION_REHEARSE."""

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import Cli, Database, Here, Server
from tests.kit import (
    HEAD,
    Write,
    by_name,
    contents,
    environment,
    fill,
    holding,
    nothing_is_left_running,
    recorded,
    rows,
    until,
    words,
)
from tests.proxy import Action, Proxy, cut_after, cut_before

pytestmark = pytest.mark.slow

BASE = {"001-orders.sql": "CREATE TABLE orders (id int PRIMARY KEY, total int, notes text);\n"}
CHECK = "ALTER TABLE orders ADD CONSTRAINT orders_total_positive CHECK (total >= 0);\n"
THREE = {
    "004-add-order-totals.sql": f"-- Totals are never negative.\n{CHECK}",
    "005-index-order-totals.sql": (
        f"{HEAD}CREATE INDEX CONCURRENTLY orders_total_idx ON orders (total);\n"
    ),
    "006-drop-order-notes.sql": "ALTER TABLE orders DROP COLUMN notes;\n",
}
VERSIONS = [name.removesuffix(".sql") for name in THREE]
SIZES = json.dumps({"sizes": {"public.orders": [9_100_000_000, 41_000_000]}})
LARGE = ("--sizes-from", "sizes.json")
SCHEMA = (
    "SELECT attname::text, atttypid::regtype::text FROM pg_attribute "
    "WHERE attrelid = 'orders'::regclass AND attnum > 0 ORDER BY attnum"
)


@pytest.fixture
def shop(here: Here, migrations: Write, database: Database) -> Database:
    """A database with the base's history; three files are pending."""
    migrations(BASE)
    assert here(url=database.url).code == 0
    migrations(THREE)
    (here.directory / "sizes.json").write_text(SIZES)
    return database


def findings(document: str) -> list[tuple[str, str, str]]:
    found: dict[str, Any] = json.loads(document)
    return [
        (file["version"][:3], one["name"], one["level"])
        for file in found["files"]
        for one in file["findings"]
    ]


def test_a_rehearsal_applies_the_files_and_tells_their_hazards(here: Here, shop: Database) -> None:
    result = here("rehearse", *LARGE, url=shop.url)
    assert result.code == 9
    assert "❌ 004-add-order-totals       blocks reads and writes of orders (9.1 GB" in result.out
    assert "   line 2 · fail · constraint-scan · All rows of orders are read while" in result.out
    assert "ALTER TABLE orders VALIDATE CONSTRAINT orders_total_positive;" in result.out
    assert "✅ 005-index-order-totals     no-transaction\n" in result.out
    assert "line 1 · warn · drop-column · orders.notes is gone" in result.out
    assert "❌ 1 finding fails, 1 finding warns (exit 9)" in result.out
    assert recorded(shop) == ["001-orders", *VERSIONS]


def test_a_rehearsal_leaves_what_a_run_leaves(
    here: Here, shop: Database, migrations: Write
) -> None:
    schema = "SELECT conname FROM pg_constraint WHERE conrelid = 'orders'::regclass ORDER BY 1"
    assert here("rehearse", url=shop.url).code == 0
    found = rows(shop.url, schema), rows(shop.url, SCHEMA)
    history = shop.execute("SELECT version, name, checksum FROM schema_migrations ORDER BY id")
    shop.execute("DROP TABLE orders, schema_migrations")
    assert here(url=shop.url).code == 0
    assert (rows(shop.url, schema), rows(shop.url, SCHEMA)) == found
    again = shop.execute("SELECT version, name, checksum FROM schema_migrations ORDER BY id")
    assert again == history


def test_sizes_that_are_unknown_are_said_to_be_and_fail_nothing(here: Here, shop: Database) -> None:
    result = here("rehearse", url=shop.url)
    assert result.code == 0
    assert "sizes unknown" in result.out
    assert "⚠️  2 findings warn" in result.out
    assert recorded(shop) == ["001-orders", *VERSIONS]


def test_a_plan_leaves_schema_rows_and_history_as_they_were(here: Here, shop: Database) -> None:
    shop.execute("INSERT INTO orders VALUES (1, 1, 'x')")
    before = contents(shop), rows(shop.url, "SELECT * FROM orders"), rows(shop.url, SCHEMA)
    result = here("plan", *LARGE, "--json", url=shop.url)
    assert result.code == 9
    assert findings(result.out) == [
        ("004", "constraint-scan", "fail"),
        ("006", "drop-column", "warn"),
    ]
    assert "sequences that the files use move on" in result.err
    assert "no-transaction: not run by a plan" in result.err
    after = contents(shop), rows(shop.url, "SELECT * FROM orders"), rows(shop.url, SCHEMA)
    assert after == before


def test_a_plan_whose_file_fails_changes_nothing(
    here: Here, shop: Database, migrations: Write
) -> None:
    migrations({"007-wrong.sql": "CREATE TABLE fine (id int);\nSELECT 1 / 0 AS wrong;\n"})
    before = contents(shop)
    result = here("plan", url=shop.url)
    assert result.code == 1
    assert "division by zero" in result.err
    assert "statement 2 of 2" in result.err
    assert "may work" not in result.err
    assert contents(shop) == before


def test_a_plan_says_that_a_file_after_others_may_work_in_a_run(
    here: Here, shop: Database, migrations: Write
) -> None:
    migrations({"007-cluster.sql": "ALTER TABLE orders CLUSTER ON orders_total_idx;\n"})
    result = here("plan", url=shop.url)
    assert result.code == 1
    assert "this file may work there" in result.err
    assert here(url=shop.url).code == 0
    migrations({"008-wrong.sql": "ALTER TABLE orders CLUSTER ON wrong;\n"})
    assert "this file may work there" not in here("plan", url=shop.url).err
    assert recorded(shop) == ["001-orders", *VERSIONS, "007-cluster"]


def test_a_plan_finds_a_mistake_in_its_line(here: Here, shop: Database, migrations: Write) -> None:
    migrations({"007-wrong.sql": "CREATE TABLE fine (id int);\n\nSELECT 1,, 2;\n"})
    result = here("plan", url=shop.url)
    assert "007-wrong.sql:3:10" in result.err
    assert recorded(shop) == ["001-orders"]


def test_a_plan_of_a_new_database_creates_nothing(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations({**BASE, **THREE})
    before = contents(database)
    result = here("plan", "--json", url=database.url)
    assert (result.code, findings(result.out)) == (0, [])
    assert contents(database) == before


def test_tables_that_the_same_run_creates_have_no_findings(
    here: Here, migrations: Write, database: Database
) -> None:
    later = {
        f"{number:03}-step.sql": sql
        for number, sql in enumerate(
            (
                "CREATE INDEX orders_total ON orders (total);",
                "ALTER TABLE orders ADD COLUMN paid boolean NOT NULL;",
                "UPDATE orders SET total = 1;",
                "ALTER TABLE orders ALTER total TYPE bigint, ALTER total SET NOT NULL;",
                "ALTER TABLE orders RENAME total TO amount;",
                CHECK.replace("total >=", "amount >="),
                "ALTER TABLE orders DROP COLUMN notes;",
                "CREATE TABLE lines (id int PRIMARY KEY, order_id int REFERENCES orders);",
                "TRUNCATE lines; DROP INDEX orders_total; DROP TABLE lines;",
            ),
            start=2,
        )
    }
    migrations({**BASE, **later})
    result = here("rehearse", "--json", url=database.url)
    assert (result.code, findings(result.out)) == (0, [])
    assert len(recorded(database) or ()) == 10


def test_a_plan_whose_connection_is_cut_changes_nothing(
    here: Here, shop: Database, migrations: Write
) -> None:
    migrations({"007-cut.sql": "SELECT pg_terminate_backend(pg_backend_pid());\n"})
    before = contents(shop)
    result = here("plan", url=shop.url)
    assert result.code not in (0, 9, 70)
    assert contents(shop) == before


@pytest.mark.parametrize("cut", [cut_before, cut_after])
def test_a_plan_that_loses_its_connection_says_so_and_changes_nothing(
    here: Here, shop: Database, migrations: Write, proxy: Proxy, cut: Action
) -> None:
    shop.execute("INSERT INTO orders VALUES (1, 1, 'x')")
    migrations({"007-cut.sql": "CREATE TABLE fine ();\nUPDATE orders SET total = 0;\n"})
    before = contents(shop), rows(shop.url, "SELECT * FROM orders"), rows(shop.url, SCHEMA)
    proxy.when("UPDATE orders", cut)
    result = here("plan", url=proxy.url(shop.url))
    assert result.code == 1
    assert "007-cut" in result.err
    assert "rolled back" in result.err
    after = contents(shop), rows(shop.url, "SELECT * FROM orders"), rows(shop.url, SCHEMA)
    assert after == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_plan_that_is_stopped_in_a_statement_changes_nothing(
    cli: Cli, server: Server, shop: Database, migrations: Write, number: signal.Signals
) -> None:
    shop.execute("INSERT INTO orders VALUES (1, 1, 'x')")
    sleep = "CREATE TABLE fine ();\nUPDATE orders SET total = 0;\nSELECT pg_sleep(60);\n"
    migrations({"007-sleep.sql": sleep})
    before = contents(shop), rows(shop.url, "SELECT * FROM orders"), rows(shop.url, SCHEMA)
    process = subprocess.Popen(
        [sys.executable, str(cli.script), "plan"],
        env=environment(cli, shop.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    until(lambda: rows(shop.url, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
    process.send_signal(number)
    said, _ = process.communicate()
    killed = number is signal.SIGKILL
    assert process.returncode == (-number if killed else 128 + number)
    assert killed or f"interrupted by {number.name}" in said
    assert "Traceback" not in said
    nothing_is_left_running(server, shop)
    after = contents(shop), rows(shop.url, "SELECT * FROM orders"), rows(shop.url, SCHEMA)
    assert after == before


def test_a_plan_does_not_blame_a_file_for_locks_of_the_one_before(
    here: Here, shop: Database, migrations: Write
) -> None:
    (here.directory / "migrations" / "005-index-order-totals.sql").unlink()
    not_valid = CHECK.replace(";", " NOT VALID;")
    migrations(
        {
            "004-add-order-totals.sql": not_valid,
            "006-drop-order-notes.sql": (
                "ALTER TABLE orders VALIDATE CONSTRAINT orders_total_positive;\n"
            ),
        }
    )
    result = here("plan", *LARGE, "--json", url=shop.url)
    note = ("004", "new-rule-on-old-writes", "note")
    assert (result.code, findings(result.out)) == (0, [note])
    assert recorded(shop) == ["001-orders"]


def test_an_accepted_hazard_does_not_fail_and_its_reason_is_shown(
    here: Here, shop: Database, migrations: Write
) -> None:
    accepted = f"-- migrate: accept constraint-scan: the shop is closed on Sunday\n{CHECK}"
    migrations({"004-add-order-totals.sql": accepted})
    result = here("rehearse", *LARGE, url=shop.url)
    assert result.code == 0
    assert "accepted: the shop is closed on Sunday" in result.out
    assert recorded(shop) == ["001-orders", *VERSIONS]


def test_an_acceptance_that_matches_nothing_is_a_finding(
    here: Here, shop: Database, migrations: Write
) -> None:
    migrations({"006-drop-order-notes.sql": "-- migrate: accept rename: none\nSELECT 1;\n"})
    result = here("plan", "--json", url=shop.url)
    assert ("006", "accepts-nothing", "warn") in findings(result.out)
    assert recorded(shop) == ["001-orders"]


def test_an_acceptance_of_an_unknown_hazard_is_refused(
    here: Here, shop: Database, migrations: Write
) -> None:
    migrations({"006-drop-order-notes.sql": "-- migrate: accept dorp: yes\nSELECT 1;\n"})
    result = here("rehearse", url=shop.url)
    assert result.code == 2
    assert "006-drop-order-notes.sql: dorp" in result.err
    assert "The names are accepts-nothing, backfill" in result.err
    assert recorded(shop) == ["001-orders"]


@pytest.mark.parametrize(("fail_on", "code"), [("fail", 0), ("warn", 9), ("never", 0)])
def test_which_findings_fail_is_a_setting(
    here: Here, shop: Database, fail_on: str, code: int
) -> None:
    result = here("plan", url=shop.url, env={"MIGRATION_PLAN_FAIL_ON": fail_on})
    assert result.code == code
    assert recorded(shop) == ["001-orders"]


def test_what_is_large_is_a_setting(here: Here, shop: Database) -> None:
    limit = {"MIGRATION_PLAN_LARGE": "10GB"}
    assert here("plan", *LARGE, url=shop.url, env=limit).code == 0
    assert recorded(shop) == ["001-orders"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("MIGRATION_PLAN_LARGE", "big"), ("MIGRATION_PLAN_FAIL_ON", "sometimes")],
)
def test_a_setting_that_says_nothing_is_refused(
    here: Here, shop: Database, variable: str, value: str
) -> None:
    result = here("plan", url=shop.url, env={variable: value})
    assert result.code == 2
    assert f"{variable} is '{value}'; expected" in result.err
    assert recorded(shop) == ["001-orders"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "sizes.json cannot be read: no such file or directory"),
        ("[]", "sizes.json is no document of `status --json` with `sizes`"),
        ('{"sizes": {"public.x": 1}}', "sizes.json is no document of `status --json`"),
        ('{"sizes": {"public.x": [2000000, 1]}}', "sizes.json has the sizes of another database"),
    ],
)
def test_sizes_that_are_none_are_refused(
    here: Here, shop: Database, content: str | None, problem: str
) -> None:
    path = here.directory / "sizes.json"
    path.unlink()
    if content:
        path.write_text(content)
    result = here("rehearse", *LARGE, url=shop.url)
    assert result.code == 2
    assert problem in result.err
    assert recorded(shop) == ["001-orders"]


def test_the_status_lists_sizes_that_a_rehearsal_takes(here: Here, shop: Database) -> None:
    shop.execute("INSERT INTO orders SELECT g, g, repeat('x', 50) FROM generate_series(1, 20000) g")
    shop.execute("VACUUM ANALYZE orders")
    status = here("status", "--json", url=shop.url)
    size, count = json.loads(status.out)["sizes"]["public.orders"]
    assert (size > 1_000_000, count) == (True, 20_000)
    (here.directory / "sizes.json").write_text(status.out)
    result = here("plan", *LARGE, url=shop.url, env={"MIGRATION_PLAN_LARGE": "1MB"})
    assert result.code == 9
    assert "20 k rows" in result.out
    assert "else sizes.json (less than an hour old)" in result.out
    assert recorded(shop) == ["001-orders"]


def test_a_table_with_rows_has_its_own_size_and_others_that_of_the_file(
    here: Here, shop: Database, migrations: Write
) -> None:
    shop.execute("INSERT INTO orders SELECT g, g, repeat('x', 50) FROM generate_series(1, 20000) g")
    shop.execute("CREATE TABLE users (id int); ANALYZE orders")
    migrations({"007-users.sql": "ALTER TABLE users ADD CHECK (id > 0);\n"})
    large = {"public.orders": [9_100_000_000, 41_000_000], "public.users": [2_000_000_000, 1]}
    (here.directory / "sizes.json").write_text(json.dumps({"sizes": large}))
    result = here("plan", *LARGE, "--json", url=shop.url)
    assert result.code == 9
    document = json.loads(result.out)
    assert document["sizesFrom"] == "this database, else sizes.json"
    checks = [file["findings"][0] for file in (document["files"][0], document["files"][3])]
    assert [(one["table"], one["level"]) for one in checks] == [
        ("orders", "warn"),
        ("users", "fail"),
    ]
    assert (checks[0]["rows"], checks[1]["bytes"]) == (20_000, 2_000_000_000)
    assert recorded(shop) == ["001-orders"]


@pytest.mark.parametrize("command", ["rehearse", "plan"])
def test_production_is_refused(here: Here, shop: Database, command: str) -> None:
    before = contents(shop)
    result = here(command, url=shop.url, env={"MIGRATION_ENV": "production"})
    assert result.code == 3
    assert "this is production, where nothing is rehearsed or planned" in result.err
    shop.execute("UPDATE schema_migrations SET environment = 'production'")
    ((identity,),) = shop.execute("SELECT DISTINCT identity FROM schema_migrations")
    claim = {"MIGRATION_CLAIM": f"development@{identity}"}
    result = here(command, url=shop.url, env=claim)
    assert result.code == 3
    assert "this is production, where nothing is rehearsed or planned" in result.err
    assert recorded(shop) == ["001-orders"]
    assert contents(shop)[0] == before[0]


@pytest.mark.parametrize("command", ["rehearse", "plan"])
def test_a_history_without_marks_is_refused_until_it_is_claimed(
    here: Here, shop: Database, command: str
) -> None:
    ((identity,),) = shop.execute("SELECT DISTINCT identity FROM schema_migrations")
    shop.execute("UPDATE schema_migrations SET environment = NULL, identity = NULL")
    result = here(command, url=shop.url)
    assert result.code == 3
    assert f"MIGRATION_CLAIM=development@{identity}" in result.err
    assert recorded(shop) == ["001-orders"]
    claim = {"MIGRATION_CLAIM": f"development@{identity}"}
    assert here(command, url=shop.url, env=claim).code == 0


@pytest.mark.parametrize("command", ["rehearse", "plan", ""])
def test_a_copy_of_production_may_be_rehearsed(here: Here, shop: Database, command: str) -> None:
    shop.execute(
        "UPDATE schema_migrations SET environment = 'production', "
        "identity = regexp_replace(identity, '^[0-9]', '9') || '9'"
    )
    result = here(*command.split(), url=shop.url, env={"MIGRATION_REHEARSE": "1"})
    assert (result.code, "· constraint-scan ·" in result.out) == (0, True)
    assert recorded(shop) == ["001-orders", *(VERSIONS if command != "plan" else [])]


def test_a_run_that_production_marked_is_refused_and_observed_by_no_claim(
    here: Here, shop: Database
) -> None:
    shop.execute("UPDATE schema_migrations SET environment = 'production'")
    ((identity,),) = shop.execute("SELECT DISTINCT identity FROM schema_migrations")
    before = contents(shop)
    result = here(url=shop.url, env={"MIGRATION_REHEARSE": "1"})
    assert result.code == 3
    assert "was last migrated as production, and this run is development" in result.err
    assert contents(shop) == before
    claim = {"MIGRATION_REHEARSE": "1", "MIGRATION_CLAIM": f"development@{identity}"}
    result = here(url=shop.url, env=claim)
    assert (result.code, "constraint-scan" in result.out) == (0, False)
    assert "MIGRATION_REHEARSE: not observed: this is production" in result.out
    assert recorded(shop) == ["001-orders", *VERSIONS]


@pytest.mark.parametrize("command", ["rehearse", "plan"])
def test_tables_without_a_history_are_refused(
    here: Here, database: Database, migrations: Write, command: str
) -> None:
    migrations(BASE)
    database.execute("CREATE TABLE theirs (id int)")
    before = contents(database)
    result = here(command, url=database.url)
    assert result.code == 3
    assert "has no migration history, but it has tables: public.theirs" in result.err
    assert contents(database) == before


def test_a_coding_assistant_asks_before_it_rehearses(here: Here, shop: Database) -> None:
    persistent = by_name(shop, "db-1.example")
    result = here("rehearse", url=persistent.url, env={"CLAUDECODE": "1"})
    assert result.code == 3
    assert "May I apply the pending migrations, observed statement by statement, to" in result.err
    assert recorded(shop) == ["001-orders"]


def test_a_run_outside_production_tells_hazards_and_does_not_fail(
    here: Here, shop: Database
) -> None:
    result = here(url=shop.url, env={"MIGRATION_REHEARSE": "1", "MIGRATION_PLAN_FAIL_ON": "warn"})
    assert result.code == 0
    assert "⚠️  2 findings warn" in result.out
    assert "use a new branch of the database" in words(result)
    assert recorded(shop) == ["001-orders", *VERSIONS]


def test_a_run_that_may_not_be_observed_runs_all_the_same(here: Here, shop: Database) -> None:
    shop.execute("UPDATE schema_migrations SET environment = NULL, identity = NULL")
    result = here(url=shop.url, env={"MIGRATION_REHEARSE": "1"})
    assert result.code == 0
    assert "MIGRATION_REHEARSE: not observed: this database has a history that" in result.out
    assert recorded(shop) == ["001-orders", *VERSIONS]


def test_an_acceptance_of_an_unknown_hazard_does_not_fail_a_run(
    here: Here, shop: Database, migrations: Write
) -> None:
    migrations({"006-drop-order-notes.sql": "-- migrate: accept dorp: yes\nSELECT 1;\n"})
    result = here(url=shop.url, env={"MIGRATION_REHEARSE": "1"})
    assert result.code == 0
    assert "MIGRATION_REHEARSE: not observed: " in result.out
    assert "006-drop-order-notes.sql: dorp" in result.out
    assert recorded(shop) == ["001-orders", *VERSIONS]


def test_the_comment_for_a_pull_request_is_alone_on_stdout(here: Here, shop: Database) -> None:
    result = here("plan", *LARGE, "--markdown", url=shop.url)
    assert result.out.startswith("<!-- onward:plan -->\n### ❌ 3 migrations: 1 finding fails")
    assert "| ❌ | `004-add-order-totals` | blocks reads and writes of orders (9.1" in result.out
    assert "-- and in a file of its own:\nALTER TABLE orders VALIDATE" in result.out
    assert "🔎" not in result.out
    assert recorded(shop) == ["001-orders"]


def test_on_github_each_finding_is_beside_its_line(here: Here, shop: Database) -> None:
    result = here("plan", *LARGE, url=shop.url, env={"GITHUB_ACTIONS": "true"})
    place = "file=migrations/004-add-order-totals.sql,line=2,title=constraint-scan"
    assert f"::error {place}::All rows of orders are read" in result.err
    assert "::warning file=migrations/006-drop-order-notes.sql,line=1" in result.err
    assert recorded(shop) == ["001-orders"]


def test_a_busy_table_is_tried_again_under_observation(here: Here, shop: Database) -> None:
    env = {"MIGRATION_LOCK_TIMEOUT": "50ms", "MIGRATION_RETRY": "1s"}
    with holding(shop, "LOCK TABLE orders IN ACCESS SHARE MODE"):
        result = here("rehearse", url=shop.url, env=env)
    assert result.code == 4
    assert recorded(shop) == ["001-orders"]


LOCKED = "LOCK TABLE invoices IN ACCESS EXCLUSIVE MODE"
SOON = {"MIGRATION_REHEARSE": "1", "MIGRATION_LOCK_TIMEOUT": "500ms"}
# The second statement takes from the role of the fourth what observing needs.
UNOBSERVABLE = """\
CREATE TABLE kept (id int); INSERT INTO kept VALUES (1);
REVOKE EXECUTE ON FUNCTION pg_catalog.pg_get_constraintdef(oid) FROM PUBLIC;
SET LOCAL ROLE pg_monitor; SELECT;
RESET ROLE; INSERT INTO kept VALUES (2);
"""


@pytest.fixture
def billing(shop: Database) -> Database:
    """Beside the shop, a table whose definition cannot be printed while it is locked."""
    shop.execute("CREATE TABLE invoices (id int PRIMARY KEY, total int CHECK (total > 0))")
    return shop


def test_a_run_applies_what_it_cannot_observe_and_names_the_lock(
    here: Here, billing: Database
) -> None:
    with holding(billing, LOCKED):
        result = here(url=billing.url, env=SOON)
    assert result.code == 0
    assert (
        "004-add-order-totals: applied, but not observed: public.invoices is locked" in result.out
    )
    assert "; blocked by pid" in result.out
    assert ", reporting, for " in result.out
    assert "retrying" not in result.out
    assert recorded(billing) == ["001-orders", *VERSIONS]


@pytest.mark.parametrize("form", ["{}", HEAD + "BEGIN;\n{}COMMIT;\n"])
def test_a_run_keeps_what_a_file_did_before_observing_failed(
    here: Here, billing: Database, migrations: Write, form: str
) -> None:
    migrations({"004-add-order-totals.sql": form.format(UNOBSERVABLE)})
    result = here(url=billing.url, env=SOON)
    assert result.code == 0
    assert "applied, but not observed: permission denied for function" in result.out
    assert "004-add-order-totals       not observed\n" in result.out
    assert "line 1 · warn · drop-column" in result.out
    assert rows(billing.url, "SELECT id FROM kept ORDER BY 1") == [(1,), (2,)]
    assert recorded(billing) == ["001-orders", *VERSIONS]


def test_a_rehearsal_that_cannot_observe_fails_and_names_the_lock(
    here: Here, billing: Database
) -> None:
    assert here(url=billing.url).code == 0
    before = contents(billing)
    fill(here.directory / "migrations", {"007-more.sql": "CREATE TABLE more (id int);\n"})
    impatient = {**SOON, "MIGRATION_RETRY": "0"}
    with holding(billing, LOCKED):
        found = [here(command, url=billing.url, env=impatient) for command in ("rehearse", "plan")]
    assert [one.code for one in found] == [4, 4]
    for one in found:
        assert "public.invoices is locked by another session" in one.err
        assert "Blocked by pid" in one.err
    assert contents(billing) == before
