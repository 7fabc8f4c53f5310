"""The public status and the runs over HTTP, on a real Postgres."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from lib import runner
from lib.errors import ConfigError
from lib.web.request_log import LogEntry
from lib.web.result import ApiResult
from lib.web.service import Limits, Service
from tests.conftest import Database, Server
from tests.kit import (
    LOCK,
    ONE,
    OURS,
    Capture,
    Write,
    contents,
    history,
    holding,
    login,
    nothing_is_left_running,
    role,
    run,
    tables,
    until,
)
from tests.proxy import Hold, proxied
from tests.web.instance import (
    BEARER,
    MIGRATE,
    SECRET,
    STATUS,
    TWO,
    Silent,
    Start,
    environment,
    error_of,
    head_of,
    headers,
    serving,
    untouched,
    waits,
    wire,
)

# The public status.


def file_that_runs(document: dict[str, Any]) -> dict[str, Any] | None:
    running: dict[str, Any] | None = document["running"]
    return running if running and running["version"] else None


def test_the_status_says_what_the_contract_says_and_no_more(
    start: Start, migrated: Database
) -> None:
    instance = start(migrated)
    response = instance.status()
    document = response.json()
    assert response.status_code == 200
    assert list(document) == [
        *("success", "environment", "database", "pgVersion", "state"),
        *("appliedMigrations", "pendingMigrations", "lastMigration"),
        *("drift", "driftAsOf", "running", "migrations"),
    ]
    assert (document["success"], document["environment"], document["state"]) == (
        True,
        "test",
        "current",
    )
    assert document["database"] == migrated.name
    assert [one["version"] for one in document["migrations"]] == OURS
    assert all(
        set(one) == {"version", "name", "state", "appliedAt", "executionTimeMs"}
        for one in document["migrations"]
    )
    assert document["lastMigration"]["version"] == OURS[-1]
    [(checksum, identity)] = migrated.execute(
        "SELECT checksum, identity FROM schema_migrations WHERE id = 1"
    )
    for private in (checksum, identity, "127.0.0.1", "postgres:"):
        assert private not in response.text
    (entry,) = instance.log()
    assert (entry["action"], entry["outcome"], entry["status"]) == ("public_status", "current", 200)
    assert entry["requestId"] == response.headers["x-request-id"]
    assert entry["durationMs"] >= 0


def test_the_status_says_what_the_last_run_found_and_looks_for_no_drift(
    start: Start, database: Database, migrations: Write
) -> None:
    directory = migrations(TWO)
    run(database, directory)
    database.execute("CREATE TABLE by_hand ()")
    migrations({"003-c.sql": "SELECT 3"})
    before = contents(database)
    assert start(database, directory).status().json()["drift"] == "none"
    assert contents(database) == before
    run(database, directory)
    instance = start(database, directory)
    document = instance.status().json()
    assert (document["drift"], document["driftAsOf"][-1]) == ("found", "Z")
    assert "by_hand" not in instance.status().text + instance.post({"action": "status"}).text


def test_the_status_says_which_file_runs_since_when_and_no_session(
    start: Start, database: Database, migrations: Write
) -> None:
    directory = migrations({"001-a.sql": "CREATE TABLE a (id int)"})
    run(database, directory)
    migrations({"002-wait.sql": "ALTER TABLE a ADD b int"})
    instance = start(database, directory)
    idle = "LOCK TABLE a IN ACCESS SHARE MODE"
    with holding(database, idle) as other, ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, database, directory, MIGRATION_LOCK_TIMEOUT="0")
        found = until(lambda: file_that_runs(instance.post({"action": "status"}).json()))
        public = start(database, directory).status().json()["running"]
        other.rollback()
        running.result()
    assert public == {"version": "002-wait", "since": found["since"]}
    assert found.keys() == {"version", "since", "pid"}
    assert history(database) == ["001-a", "002-wait"]
    assert start(database, directory).status().json()["running"] is None


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("onward 0.2.0 production 003-add-orders", "003-add-orders"),
        ("onward 0.2.0 preview of ada 003-add-", "003-add-orders"),
        ("onward 0.2.0 production 1-<script>", None),
        ("onward 0.2.0 production 003-'--", None),
        ("onward 0.2.0 production 003-add-orders; call +1 555", None),
        ("003-add-orders", None),
        ("pgbouncer", None),
        ("", None),
    ],
)
def test_only_a_version_is_taken_from_the_name_of_the_locks_session(
    start: Start, database: Database, migrations: Write, name: str, version: str | None
) -> None:
    directory = migrations({**ONE, "003-add-orders.sql": "SELECT 3"})
    before = contents(database)
    with psycopg.connect(database.url, application_name=name) as other:
        assert start(database, directory).status().json()["running"] is None
        other.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        running = start(database, directory).status().json()["running"]
    assert running["version"] == version
    assert set(running) == {"version", "since"}
    assert contents(database) == before


def test_a_role_that_may_not_see_sessions_sees_that_a_run_is_under_way(
    server: Server, start: Start, database: Database, migrations: Write
) -> None:
    directory = migrations(ONE)
    run(database, directory)
    name = "onward 0.2.0 production 001-one"
    with login(server, database) as plain:
        database.execute(f"GRANT SELECT ON schema_migrations TO {role(plain)}")
        with psycopg.connect(database.url, application_name=name) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
            document = start(plain, directory).status().json()
    assert document["running"] == {"version": "001-one", "since": None}
    assert document["appliedMigrations"] == 1


def test_only_the_secret_shows_the_hash_of_the_schema_and_the_sizes_of_tables(
    start: Start, database: Database, migrations: Write
) -> None:
    directory = migrations({"001-a.sql": "CREATE TABLE a AS SELECT generate_series(1, 50000)"})
    run(database, directory)
    database.execute("ANALYZE a")
    before = contents(database)
    instance = start(database, directory)
    document = instance.post({"action": "status"}).json()
    assert (len(document["schemaHash"]), document["drift"]) == (16, "none")
    size, count = document["sizes"]["public.a"]
    assert (size > 1_000_000, count) == (True, 50_000)
    public = instance.status().json()
    assert public["driftAsOf"] == document["driftAsOf"]
    private = {"schemaHash", "sizes", "invalidIndexes", "pendingDetaches", "trusted"}
    assert private <= document.keys() and private.isdisjoint(public)
    assert contents(database) == before


def test_a_validation_over_http_looks_for_no_drift(
    start: Start, database: Database, migrations: Write
) -> None:
    directory = migrations(TWO)
    run(database, directory)
    database.execute("CREATE TABLE by_hand ()")
    before = contents(database)
    response = start(database, directory, MIGRATION_DRIFT="fail").post({"action": "validate"})
    assert response.status_code == 200
    assert response.json() == {"success": True, "state": "current", "problems": []}
    assert contents(database) == before


def test_a_schema_that_has_drifted_is_a_conflict_where_it_is_to_fail(
    start: Start, database: Database, migrations: Write
) -> None:
    directory = migrations(TWO)
    run(database, directory)
    database.execute("CREATE TABLE by_hand ()")
    migrations({"003-c.sql": "SELECT 3"})
    before = contents(database)
    instance = start(database, directory, MIGRATION_DRIFT="fail", MIGRATION_ENV="development")
    response = instance.post()
    assert error_of(response) == (409, "schema_drift")
    assert "by_hand" not in response.text
    assert contents(database) == before


def test_a_summary_names_no_migration_no_database_and_no_exact_version(
    start: Start, migrated: Database, migrations: Write
) -> None:
    directory = migrations(
        {"000-create-migration-table.sql": "", "777-secret-plan.sql": "SELECT 1"}
    )
    instance = start(migrated, directory, MIGRATION_STATUS=" Summary ")
    response = instance.status()
    major = migrated.execute("SELECT current_setting('server_version_num')::int / 10000")[0][0]
    assert (response.status_code, list(response.json().items())) == (
        200,
        [
            *(("success", True), ("environment", "test"), ("pgVersion", f"PostgreSQL {major}")),
            *(("state", "conflict"), ("appliedMigrations", 3), ("pendingMigrations", 1)),
        ],
    )
    assert "migrations" in instance.post({"action": "status"}).json()
    assert migrated.name in instance.post({"action": "status"}).text


@pytest.mark.parametrize(
    ("files", "expected"), [(TWO, 200), (TWO | {"003-c.sql": "SELECT 3"}, 503)]
)
def test_who_requires_current_need_not_see_more_than_a_summary(
    start: Start, database: Database, migrations: Write, files: dict[str, str], expected: int
) -> None:
    directory = migrations(TWO)
    run(database, directory)
    migrations(files)
    instance = start(database, directory, MIGRATION_STATUS="summary")
    for method in ("GET", "HEAD"):
        assert instance(method, f"{STATUS}?require=current").status_code == expected
        assert instance(method, STATUS).status_code == 200
    assert history(database) == ["001-a", "002-b"]


def test_a_status_that_is_off_is_like_a_path_that_is_not_there(
    start: Start, migrated: Database
) -> None:
    instance = start(migrated, MIGRATION_STATUS="off")
    for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS"):
        for query in ("", "?require=current"):
            off, nowhere = (
                instance(method, STATUS + query),
                instance(method, "/api/nowhere" + query),
            )
            assert (off.status_code, off.text, off.headers) == (404, nowhere.text, nowhere.headers)
    assert error_of(instance("GET", STATUS)) == (404, "not_found")
    assert instance.log() == []
    assert instance.post({"action": "status"}).json()["state"] == "current"
    assert (instance.post().status_code, history(migrated)) == (200, OURS)


@pytest.mark.parametrize("value", ["none", "0", "true", "full,summary"])
def test_an_unknown_status_setting_shows_nothing_and_only_the_log_names_it(
    start: Start, silent: Silent, value: str
) -> None:
    instance = start(silent.database, MIGRATION_STATUS=value)
    for query in ("", "?require=current"):
        response = instance("GET", STATUS + query)
        assert error_of(response) == (503, "not_configured")
        assert "MIGRATION_STATUS" not in response.text
    (entry,) = instance.log()
    assert entry["reason"].split()[0] == "MIGRATION_STATUS"
    assert silent.connections() == 0


def test_within_two_seconds_whatever_the_query_the_database_is_asked_once(
    start: Start, migrated: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, now = start(migrated), time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    bodies = {instance("GET", f"{STATUS}?x={number}").text for number in range(100)}
    reads = len(instance.log())
    assert len(bodies) == 1
    assert reads == 1


def test_without_a_table_everything_is_pending_and_nothing_is_created(
    start: Start, database: Database
) -> None:
    document = start(database).status().json()
    assert (document["state"], document["appliedMigrations"], document["pendingMigrations"]) == (
        "pending",
        0,
        3,
    )
    assert document["lastMigration"] is None
    assert untouched(database)


def test_a_role_that_may_only_select_is_enough(
    server: Server, migrated: Database, start: Start
) -> None:
    with login(server, migrated) as limited:
        migrated.execute(f"GRANT SELECT ON schema_migrations TO {role(limited)}")
        response = start(limited).status()
        assert (response.status_code, response.json()["state"]) == (200, "current")
        assert history(migrated) == OURS


def test_a_role_that_may_not_even_select_gets_a_fixed_answer(
    server: Server, migrated: Database, start: Start
) -> None:
    with login(server, migrated) as limited:
        assert error_of(start(limited).status()) == (503, "database_unavailable")


@pytest.mark.slow
def test_a_table_that_is_locked_exclusively_makes_the_status_unavailable(
    server: Server, migrated: Database, start: Start
) -> None:
    instance = start(migrated)
    with holding(migrated, "LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE"):
        response = instance.status()
        assert error_of(response) == (503, "database_unavailable")
        assert response.headers["retry-after"] == "5"
    nothing_is_left_running(server, migrated)
    assert instance.status().status_code == 200


@pytest.mark.slow
def test_a_long_lock_timeout_does_not_make_the_status_wait(
    migrated: Database, start: Start
) -> None:
    instance = start(migrated, MIGRATION_LOCK_TIMEOUT="24h")
    with holding(migrated, "LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE"):
        assert error_of(instance.status()) == (503, "database_unavailable")


@pytest.mark.slow
def test_the_status_statement_is_cancelled_after_a_second_and_a_half(
    server: Server, migrated: Database, start: Start
) -> None:
    instance = start(migrated, MIGRATION_LOCK_TIMEOUT="24h", MIGRATION_STATEMENT_TIMEOUT="1h")
    instance.service.limits = Limits(
        status_connect_seconds=60.0, status_read_seconds=60.0, status_seconds=60.0
    )
    waiting = "SELECT query FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    with (
        holding(migrated, "LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE"),
        ThreadPoolExecutor(1) as pool,
    ):
        asking = pool.submit(instance.status)
        ((query,),) = until(lambda: migrated.execute(waiting, [migrated.name]))
        assert "SET LOCAL statement_timeout = '1500ms';" in query
        assert error_of(asking.result()) == (503, "database_unavailable")
        nothing_is_left_running(server, migrated)
    assert "statement timeout" in instance.log()[0]["reason"]
    assert history(migrated) == OURS


@pytest.mark.slow
def test_a_server_that_falls_silent_ends_the_status_and_does_not_occupy_it(
    migrated: Database, start: Start
) -> None:
    hold = Hold()
    with proxied(migrated.url) as proxy:
        proxy.when("onward_document", hold)
        instance = start(Database(migrated.name, proxy.url(migrated.url)))
        instance.service.limits = Limits(status_seconds=60.0)
        assert error_of(instance.status()) == (503, "database_unavailable")
        assert hold.reached.is_set()
        assert "was not read within" not in instance.log()[0]["reason"]
        assert instance.status().json()["state"] == "current"
        hold.release()
    assert history(migrated) == OURS


def test_a_database_that_is_down_makes_the_status_unavailable(start: Start) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"postgresql://someone:canary-password@127.0.0.1:{closed.getsockname()[1]}/somewhere"
        instance = start(Database("somewhere", url))
        response = instance.status()
    assert error_of(response) == (503, "database_unavailable")
    assert response.headers["retry-after"] == "5"
    assert "127.0.0.1" not in response.text
    assert "somewhere" not in response.text
    assert instance.log()[0]["outcome"] == "database_unavailable"


def test_files_and_history_that_disagree_are_a_status_without_checksums(
    start: Start, migrated: Database
) -> None:
    migrated.execute("UPDATE schema_migrations SET checksum = repeat('ab', 32) WHERE id = 2")
    response = start(migrated).status()
    assert (response.status_code, response.json()["state"]) == (200, "conflict")
    assert "abab" not in response.text


def test_a_run_that_is_under_way_is_not_in_the_status(
    start: Start, database: Database, migrations: Write
) -> None:
    directory = migrations({"001-a.sql": "CREATE TABLE a ()"})
    run(database, directory, MIGRATION_ENV="test")
    migrations({"002-b.sql": f"CREATE TABLE b (); SELECT pg_advisory_xact_lock({LOCK + 1})"})
    with ThreadPoolExecutor(1) as pool:
        with holding(database, f"SELECT pg_advisory_xact_lock({LOCK + 1})"):
            running = pool.submit(start(database, directory, MIGRATION_LOCK_TIMEOUT="1min").post)
            until(lambda: waits(database))
            document = start(database, directory).status().json()
            assert (document["appliedMigrations"], document["pendingMigrations"]) == (1, 1)
        assert running.result().status_code == 200
    assert history(database) == ["001-a", "002-b"]


@pytest.mark.parametrize(
    ("files", "state", "expected"),
    [
        (TWO, "current", 200),
        (TWO | {"003-c.sql": "SELECT 3"}, "pending", 503),
        ({"001-a.sql": TWO["001-a.sql"]}, "ahead", 200),
        (TWO | {"001-a.sql": "SELECT 'changed'"}, "conflict", 503),
    ],
    ids=["current", "pending", "ahead", "conflict"],
)
def test_only_current_and_ahead_satisfy_who_requires_current(
    start: Start,
    database: Database,
    migrations: Write,
    files: dict[str, str],
    state: str,
    expected: int,
) -> None:
    directory = migrations(TWO)
    run(database, directory)
    for path in directory.iterdir():
        path.unlink()
    migrations(files)
    instance = start(database, directory)
    required, plain = instance("GET", f"{STATUS}?require=current"), instance("GET", STATUS)
    assert (required.status_code, plain.status_code) == (expected, 200)
    assert required.json() == plain.json()
    assert plain.json()["state"] == state
    assert instance("HEAD", f"{STATUS}?require=current").status_code == expected
    assert history(database) == ["001-a", "002-b"]


def test_who_requires_something_else_gets_what_everybody_gets(
    start: Start, database: Database
) -> None:
    instance = start(database)
    assert [
        instance("GET", f"{STATUS}?{query}").status_code
        for query in ("require=", "require=x", "Require=current")
    ]
    assert instance("GET", f"{STATUS}?require=x").status_code == 200


# A run.


def test_a_run_applies_what_is_pending_and_a_second_one_nothing(
    start: Start, database: Database
) -> None:
    instance = start(database)
    first, second = instance.post({}), instance.post()
    document = first.json()
    assert first.status_code == second.status_code == 200
    assert [one["version"] for one in document["applied"]] == OURS == history(database)
    assert all(set(one) == {"version", "name", "executionTimeMs"} for one in document["applied"])
    assert {**document, "applied": []} == second.json()
    assert second.json() == {
        "success": True,
        "environment": "test",
        "database": database.name,
        "applied": [],
        "remaining": [],
        "complete": True,
    }
    entries = instance.log()
    assert [entry["applied"] for entry in entries] == [OURS, []]
    assert {(entry["action"], entry["outcome"], entry["secret"]) for entry in entries} == {
        ("migrate", "ok", "current")
    }
    assert [entry["requestId"] for entry in entries] == [
        one.headers["x-request-id"] for one in (first, second)
    ]
    assert database.execute("SELECT DISTINCT applied_by, environment FROM schema_migrations") == [
        ("api", "test")
    ]


def test_the_full_status_adds_checksums_and_audit_columns_and_runs_nothing(
    start: Start, database: Database, migrated: Database
) -> None:
    instance = start(migrated)
    full, public = instance.post({"action": "status"}).json(), instance.status().json()
    extra = {"checksum", "environment", "identity", "gitCommit", "appliedBy"}
    assert all(extra < set(one) for one in full["migrations"])
    full["migrations"] = [
        {k: v for k, v in one.items() if k not in extra} for one in full["migrations"]
    ]
    assert (full.pop("trusted"), full.pop("owner")) == (True, "postgres")
    assert len(full.pop("schemaHash")) == 16
    assert [full.pop(name) for name in ("invalidIndexes", "pendingDetaches")] == [[], []]
    assert full.pop("sizes") == {}
    assert full.pop("asOf").endswith("Z")
    assert full.pop("restorePoint")["before"] == OURS
    assert full == public
    assert start(database).post({"action": "status"}).json()["pendingMigrations"] == 3
    assert untouched(database)


def test_validate_finds_nothing_or_a_conflict_and_runs_nothing(
    start: Start, database: Database, migrated: Database
) -> None:
    fine = start(database).post({"action": "validate"})
    assert (fine.status_code, fine.json()) == (
        200,
        {"success": True, "state": "pending", "problems": []},
    )
    assert untouched(database)
    migrated.execute("UPDATE schema_migrations SET checksum = repeat('ab', 32) WHERE id = 2")
    found = start(migrated).post({"action": "validate"})
    assert (found.status_code, found.json()["success"], found.json()["state"]) == (
        409,
        False,
        "conflict",
    )
    assert [(one["version"], one["state"]) for one in found.json()["problems"]] == [
        (OURS[1], "modified")
    ]


def test_validate_refuses_what_a_run_would_refuse(
    start: Start, database: Database, migrations: Write
) -> None:
    files = {
        "001-a.sql": "CREATE TABLE a ()",
        "002-draft.sql": "-- migrate: draft\nCREATE TABLE b ()",
        "003-begins.sql": "BEGIN; CREATE TABLE c ()",
    }
    instance = start(database, migrations(files))
    assert error_of(instance.post({"action": "validate"})) == (503, "invalid_files")
    (entry,) = instance.log()
    assert "002-draft.sql: still a draft" in entry["reason"]
    assert "003-begins.sql:1" in entry["reason"]
    assert error_of(instance.post())[0] == 503
    assert untouched(database)


def test_validate_answers_a_conflict_together_with_files_that_cannot_run(
    start: Start, migrated: Database, migrations: Write
) -> None:
    directory = migrations({"003-begins.sql": "BEGIN"})
    found = start(migrated, directory).post({"action": "validate"})
    problems = [(one["version"], one["state"]) for one in found.json()["problems"]]
    missing = [(version, "missing") for version in OURS]
    assert (found.status_code, problems) == (409, [*missing, ("003-begins", "pending")])


def test_a_conflict_runs_nothing(start: Start, migrated: Database, migrations: Write) -> None:
    directory = migrations({"000-other.sql": "SELECT 1", "999-new.sql": "CREATE TABLE new ()"})
    response = start(migrated, directory).post()
    assert error_of(response) == (409, "history_conflict")
    assert (response.json()["applied"], response.json()["remaining"]) == ([], ["999-new"])
    assert "retry-after" not in response.headers
    assert history(migrated) == OURS
    assert "new" not in tables(migrated)


def test_files_that_cannot_be_used_run_nothing(
    start: Start, database: Database, migrations: Write
) -> None:
    instance = start(
        database, migrations({"001-a.sql": "CREATE TABLE a ()", "001-b.sql": "CREATE TABLE b ()"})
    )
    for response in (instance.post(), instance.post({"action": "validate"}), instance.status()):
        assert error_of(response) == (503, "invalid_files")
    assert all("001-a" in entry["reason"] for entry in instance.log())
    assert untouched(database)


def test_a_budget_that_cannot_be_read_runs_nothing(start: Start, database: Database) -> None:
    instance = start(database, MIGRATION_HTTP_BUDGET="soon")
    assert error_of(instance.post()) == (503, "not_configured")
    assert "MIGRATION_HTTP_BUDGET" in instance.log()[0]["reason"]
    assert untouched(database)


def test_another_run_is_waited_for_by_who_called(start: Start, database: Database) -> None:
    instance = start(database)
    with holding(database, f"SELECT pg_advisory_xact_lock({LOCK})"):
        response = instance.post()
        assert error_of(response) == (409, "busy")
        assert response.headers["retry-after"] == "5"
        assert untouched(database)
    assert instance.post().status_code == 200
    assert history(database) == OURS


def test_the_database_being_down_is_no_conflict(start: Start) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"postgresql://someone:canary-password@127.0.0.1:{closed.getsockname()[1]}/somewhere"
        response = start(Database("somewhere", url), MIGRATION_HTTP_BUDGET="4s").post()
    assert error_of(response) == (503, "database_unavailable")
    assert response.headers["retry-after"] == "5"


def test_a_role_that_may_not_create_the_table_runs_nothing(
    server: Server, database: Database, start: Start
) -> None:
    database.execute(
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    )  # which everybody has before PostgreSQL 15
    with login(server, database) as limited:
        assert error_of(start(limited).post()) == (503, "database_unavailable")
        assert untouched(database)


def test_a_failed_file_is_told_by_version_sqlstate_and_line_without_a_row(
    start: Start, database: Database, migrations: Write
) -> None:
    files = {
        "001-a.sql": "CREATE TABLE a (mail text CONSTRAINT one_each UNIQUE)",
        "002-b.sql": "CREATE TABLE b ();\nINSERT INTO a VALUES ('canary-row'), ('canary-row');",
        "003-c.sql": "CREATE TABLE c ()",
    }
    instance = start(database, migrations(files))
    response = instance.post()
    document = response.json()
    error = {
        name: document["error"][name] for name in ("code", "version", "sqlstate", "constraint")
    }
    assert response.status_code == 500
    assert error == {
        "code": "migration_failed",
        "version": "002-b",
        "sqlstate": "23505",
        "constraint": "one_each",
    }
    assert [one["version"] for one in document["applied"]] == ["001-a"]
    assert document["remaining"] == ["002-b", "003-c"]
    (entry,) = instance.log()
    assert (entry["outcome"], entry["sqlstate"], entry["version"]) == (
        "migration_failed",
        "23505",
        "002-b",
    )
    assert entry["applied"] == ["001-a"]
    assert (tables(database), history(database)) == (["a"], ["001-a"])


def test_a_syntax_error_is_told_by_its_line(
    start: Start, database: Database, migrations: Write
) -> None:
    instance = start(database, migrations({"001-a.sql": "CREATE TABLE a ();\n\nCREATE canary;\n"}))
    error = instance.post().json()["error"]
    assert (error["sqlstate"], error["line"]) == ("42601", 3)
    assert instance.log()[0]["line"] == 3
    assert tables(database) == []


def test_a_file_that_fails_midway_outside_a_transaction_is_told_as_such(
    start: Start, database: Database, migrations: Write
) -> None:
    sql = "-- migrate: no-transaction\nCREATE TABLE IF NOT EXISTS a ();\nSELECT 1/0;\n"
    response = start(database, migrations({"001-a.sql": sql})).post()
    assert (response.status_code, response.json()["error"]["code"]) == (500, "partly_applied")
    assert (tables(database), history(database)) == (["a"], [])


def test_a_commit_that_was_not_answered_and_not_done_is_a_failure(
    start: Start, database: Database, migrations: Write
) -> None:
    """The server ends the session within COMMIT: a deferred trigger does it."""
    sql = """
        CREATE TABLE a (id int);
        CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
        ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS mark int;
        CREATE CONSTRAINT TRIGGER leaves AFTER INSERT ON schema_migrations
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION leave();
    """
    instance = start(database, migrations({"001-a.sql": sql}))
    response = instance.post()
    assert (response.status_code, response.json()["error"]["code"]) == (500, "migration_failed")
    assert instance.status().json()["pendingMigrations"] == 1
    assert tables(database) == []


@pytest.mark.slow
def test_when_the_budget_ends_between_two_files_the_next_call_goes_on(
    start: Start, server: Server, database: Database, migrations: Write
) -> None:
    # The first file leaves less time than a second one is begun with; what is left, its
    # statement_timeout says.
    sql = (
        "SELECT pg_sleep(extract(epoch FROM current_setting('statement_timeout')::interval) - 0.9)"
    )
    directory = migrations(
        {"001-a.sql": f"CREATE TABLE a (); {sql}", "002-b.sql": "CREATE TABLE b ()"}
    )
    response = start(database, directory, MIGRATION_HTTP_BUDGET="5s").post()
    document = response.json()
    assert (response.status_code, document["success"], document["complete"]) == (202, True, False)
    assert [one["version"] for one in document["applied"]] == history(database) == ["001-a"]
    assert document["remaining"] == ["002-b"]
    nothing_is_left_running(server, database)
    response = start(database, directory).post()
    assert (response.status_code, response.json()["complete"]) == (200, True)
    assert history(database) == ["001-a", "002-b"]


def test_a_run_over_http_has_25_seconds_unless_it_is_told_otherwise(
    start: Start, database: Database, migrations: Write
) -> None:
    limit = "extract(epoch FROM current_setting('statement_timeout')::interval) AS seconds"
    directory = migrations({"001-usual.sql": f"CREATE TABLE usual AS SELECT {limit}"})
    assert start(database, directory).post().status_code == 200
    migrations({"002-told.sql": f"CREATE TABLE told AS SELECT {limit}"})
    assert start(database, directory, MIGRATION_HTTP_BUDGET="10min").post().status_code == 200
    ((usual, told),) = database.execute("SELECT usual.seconds, told.seconds FROM usual, told")
    assert 0 < float(usual) + runner.SHUTDOWN_MARGIN_SECONDS <= 25
    assert 300 < float(told) + runner.SHUTDOWN_MARGIN_SECONDS <= 600


def test_a_budget_with_no_time_for_a_first_file_begins_nothing(
    start: Start, database: Database
) -> None:
    response = start(database, MIGRATION_HTTP_BUDGET="3500ms").post()
    document = response.json()
    assert (response.status_code, document["applied"], document["remaining"]) == (202, [], OURS)
    assert untouched(database)


def test_a_budget_with_no_time_for_any_run_is_a_fault_of_the_configuration(
    start: Start, database: Database
) -> None:
    instance = start(database, MIGRATION_HTTP_BUDGET="3s")
    assert error_of(instance.post()) == (503, "not_configured")
    assert "MIGRATION_HTTP_BUDGET" in instance.log()[0]["reason"]
    assert instance.post({"action": "status"}).status_code == 200
    assert untouched(database)


@pytest.mark.slow
def test_a_statement_longer_than_the_budget_is_cancelled_and_rolled_back(
    start: Start, server: Server, database: Database, migrations: Write
) -> None:
    directory = migrations(
        {"001-a.sql": "CREATE TABLE a ()", "002-b.sql": "CREATE TABLE b (); SELECT pg_sleep(100)"}
    )
    response = start(database, directory, MIGRATION_HTTP_BUDGET="5s").post()
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["sqlstate"]) == (
        500,
        "migration_failed",
        "57014",
    )
    assert [one["version"] for one in response.json()["applied"]] == ["001-a"]
    assert (tables(database), history(database)) == (["a"], ["001-a"])
    nothing_is_left_running(server, database)


@pytest.mark.slow
def test_one_among_files_that_are_sent_ahead_is_left_for_the_next_call_which_tells_it(
    start: Start, server: Server, database: Database, migrations: Write
) -> None:
    files = {f"{number:03}-f.sql": f"CREATE TABLE t{number} ();" for number in range(1, 7)}
    directory = migrations({**files, "003-f.sql": "CREATE TABLE t3 (); SELECT pg_sleep(100)"})
    instance = start(database, directory, MIGRATION_HTTP_BUDGET="6s")
    first, second = instance.post(), instance.post()
    applied, remaining = ["001-f", "002-f"], ["003-f", "004-f", "005-f", "006-f"]
    assert (first.status_code, first.json()["complete"]) == (202, False)
    assert [one["version"] for one in first.json()["applied"]] == applied
    assert first.json()["remaining"] == remaining
    error = second.json()["error"]
    assert (second.status_code, error["version"], error["sqlstate"]) == (500, "003-f", "57014")
    assert (tables(database), history(database)) == (["t1", "t2"], applied)
    nothing_is_left_running(server, database)


def test_two_calls_at_once_apply_each_file_once(
    start: Start, database: Database, migrations: Write
) -> None:
    files = {f"{number:03}-t.sql": f"CREATE TABLE t{number} ()" for number in range(1, 9)}
    directory = migrations(files)
    with ThreadPoolExecutor(4) as pool:
        answers = [
            one.result() for one in [pool.submit(start(database, directory).post) for _ in range(4)]
        ]
    assert {answer.status_code for answer in answers} <= {200, 409}
    applied = [one["version"] for answer in answers for one in answer.json().get("applied", ())]
    assert len(applied) == len(set(applied))
    start(database, directory).post()
    assert history(database) == sorted(name[:-4] for name in files)


def test_a_client_that_hangs_up_does_not_end_the_run(
    server: Server, database: Database, migrations: Write, capsys: Capture
) -> None:
    files = TWO | {"001-a.sql": f"CREATE TABLE a (); SELECT pg_advisory_xact_lock({LOCK + 1})"}
    with serving(
        Service(environment(database, migrations(files), MIGRATION_LOCK_TIMEOUT="1min"))
    ) as port:
        call = head_of("POST", MIGRATE, *headers(BEARER), "Content-Length: 0").encode()
        with holding(database, f"SELECT pg_advisory_xact_lock({LOCK + 1})"):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(call)
            until(lambda: waits(database))
            connection.close()
        nothing_is_left_running(server, database)
        reply = wire(port, head_of("GET", STATUS))
    assert json.loads(reply.body)["state"] == "current"
    assert history(database) == ["001-a", "002-b"]
    entry = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (entry["action"], entry["outcome"], entry["applied"]) == (
        "migrate",
        "ok",
        ["001-a", "002-b"],
    )


def test_a_password_refused_midway_ends_the_run_with_what_it_applied(
    server: Server, database: Database, migrations: Write, capsys: Capture
) -> None:
    """A second credential is for a run that has not begun: another run would not tell what the
    first one applied.
    """
    files = {
        "001-a.sql": "CREATE TABLE a (); ALTER ROLE CURRENT_USER PASSWORD 'canary-of-the-rotation'",
        "002-b.sql": "-- migrate: no-transaction\nCREATE TABLE IF NOT EXISTS b ()",
    }
    directory = migrations(files)
    with login(server, database) as limited:
        database.execute(f"GRANT CREATE ON SCHEMA public TO {role(limited)}")
        rotated = limited.url.replace(
            urlsplit(limited.url).password or "", "canary-of-the-rotation"
        )

        def store(environ: Mapping[str, str], _: Sequence[str]) -> Iterator[Mapping[str, str]]:
            yield environ
            yield {**environ, "POSTGRES_URL": rotated}

        service = Service(environment(limited, directory), store)
        first = service.call("migrate", applied_by="api")
        assert (first.status, first.document["error"]["code"]) == (503, "database_unavailable")
        assert (
            [one["version"] for one in first.document["applied"]] == history(database) == ["001-a"]
        )
        assert (first.document["remaining"], tables(database)) == (["002-b"], ["a"])
        second = service.call("migrate", applied_by="api")
        assert [one["version"] for one in second.document["applied"]] == ["002-b"]
        assert (second.status, history(database), tables(database)) == (
            200,
            ["001-a", "002-b"],
            ["a", "b"],
        )
    assert "canary" not in "".join(capsys.readouterr())


def test_a_line_of_the_log_may_name_a_tenant(capsys: Capture) -> None:
    LogEntry("migrate", {"tenant": "acme"}).write(ApiResult(200, {"state": "current"}))
    line = json.loads(capsys.readouterr().out)
    assert (line["action"], line["tenant"], line["outcome"]) == ("migrate", "acme", "current")


def test_a_line_of_the_log_has_exactly_these_keys(
    start: Start, database: Database, migrations: Write
) -> None:
    directory = migrations({"001-a.sql": "CREATE TABLE a ()"})
    instance = start(database, directory)
    always = ["requestId", "action", "durationMs", "status", "outcome", "applied"]
    instance.status()
    instance("POST", MIGRATE)
    assert [list(entry) for entry in instance.log()] == [always, always]
    instance.post()
    assert [sorted(entry) for entry in instance.log()] == [sorted((*always, "secret"))]
    migrations({"002-b.sql": "CREATE canary"})
    instance.post()
    (entry,) = instance.log()
    assert sorted(entry) == sorted(
        (*always, "secret", "reason", "version", "sqlstate", "constraint", "line")
    )
    assert entry["reason"] == "002-b failed"
    assert history(database) == ["001-a"]


# What nobody foresaw.


def test_an_unknown_error_is_a_fixed_answer_and_a_redacted_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    url = "postgresql://someone:canary-password@db.example/somewhere"

    def broken(*_: Any) -> Any:
        raise RuntimeError(f"cannot use\n{url}")

    with serving(Service({"MIGRATION_ENV": "test", "MIGRATION_SECRET": SECRET}, broken)) as port:
        replies = [
            wire(port, head_of("GET", STATUS)),
            wire(port, head_of("POST", MIGRATE, *headers(BEARER), "Content-Length: 0")),
        ]
    out, err = capfd.readouterr()
    entries = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    for reply, entry in zip(replies, entries, strict=True):
        assert (reply.status, json.loads(reply.body)) == (
            500,
            {"success": False, "error": {"code": "internal", "message": "Internal error."}},
        )
        assert (entry["outcome"], entry["requestId"]) == ("internal", reply.header("x-request-id"))
        assert entry["reason"] == "RuntimeError: cannot use\npostgresql://***@db.example/somewhere"
        assert entry["where"][-1].startswith("test_service.py:")
    assert "canary" not in out
    assert "Traceback" not in out


@pytest.mark.parametrize(
    "value", [SECRET, "postgresql://someone:canary-password@db.example/somewhere"]
)
def test_what_was_put_into_the_wrong_variable_is_redacted_in_the_log(
    start: Start, database: Database, value: str
) -> None:
    instance = start(database, MIGRATION_LOCK_TIMEOUT=value)
    response = instance.post()
    assert error_of(response) == (503, "not_configured")
    assert "MIGRATION_LOCK_TIMEOUT" not in response.text
    (entry,) = instance.log()
    assert entry["reason"].startswith("MIGRATION_LOCK_TIMEOUT is '")
    assert "***" in entry["reason"]
    assert untouched(database)


def test_a_failed_status_shows_no_secret_in_the_log_of_a_fresh_instance(
    start: Start, database: Database
) -> None:
    instance = start(database, MIGRATION_LOCK_TIMEOUT=SECRET)
    assert error_of(instance.status()) == (503, "not_configured")
    (entry,) = instance.log()
    assert "MIGRATION_LOCK_TIMEOUT is '***'" in entry["reason"]
    assert untouched(database)


@pytest.mark.parametrize("kind", [RuntimeError, ConfigError])
@pytest.mark.parametrize("spelling", ['k"%y', 'k\\"%y', "k%22%25y", "%6b%22%25%79"])
def test_a_short_password_in_any_spelling_is_not_logged(
    capsys: Capture, kind: type[Exception], spelling: str
) -> None:
    environ = {"POSTGRES_URL": "postgresql://nobody:k%22%25y@127.0.0.1/nowhere"}

    def store(_: Mapping[str, str], __: Sequence[str]) -> Iterator[Mapping[str, str]]:
        raise kind(f"came {spelling} here")

    Service(environ, store).call("status", applied_by="api")
    assert "came *** here" in json.loads(capsys.readouterr().out)["reason"]


def test_what_a_store_of_secrets_gave_is_redacted_too(migrated: Database, capsys: Capture) -> None:
    found = environment(migrated, MIGRATION_SECRET=SECRET)

    def store(environ: Mapping[str, str], variables: Sequence[str]) -> Iterator[Mapping[str, str]]:
        yield found
        raise RuntimeError(f"after {SECRET} came {urlsplit(found['POSTGRES_URL']).password}")

    found["POSTGRES_URL"] = migrated.url.replace(
        urlsplit(migrated.url).netloc.partition("@")[0], "nobody:canary-pass"
    )
    service = Service({}, store)
    assert asyncio.run(service.secrets()) == {"current": SECRET.encode()}
    answer = service.call("status", applied_by="api")
    assert (answer.status, answer.document["error"]["code"]) == (500, "internal")
    assert json.loads(capsys.readouterr().out)["reason"] == "RuntimeError: after *** came ***"
