"""The zip of `scripts/bundle.py` on the real runtime client, on each Python that Lambda has and we
build for.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import ROOT, Completed, Database, Server
from tests.kit import BEARER, OURS, SECRET, Write, history, nothing_is_left_running, tables, until
from tests.platform.lambda_runtime import NAME, SOURCES, Function, function_url, load_balancer
from tests.platform.runtime import Runtime

JUNK: list[Any] = [
    None,
    [],
    "migrate",
    {},
    {"Records": [{"body": SECRET}]},
    {"requestContext": None},
    {"requestContext": {"elb": {}}},
    function_url("GET", "/") | {"headers": None},
    function_url("POST", "/api/migrate", headers=BEARER) | {"body": "{}", "isBase64Encoded": True},
    load_balancer("GET", "/", headers={"host": "a:1:2"}),
    {"action": "migrate", "more": 1},
    {"action": []},
]


@pytest.fixture(params=SOURCES.values(), ids=list(SOURCES))
def request_by(request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """Makes the event of a request, for each thing that can send one."""
    made: Callable[..., dict[str, Any]] = request.param
    return made


def test_every_kind_of_http_event_migrates_and_shows_it(
    runtime: Runtime, database: Database, request_by: Callable[..., dict[str, Any]]
) -> None:
    with runtime.function(database.url) as function:
        ran = function.invoke(request_by("POST", "/api/migrate", headers=BEARER))
        shown = function.invoke(request_by("GET", "/api/migration-status", query="require=current"))
        denied = function.invoke(request_by("POST", "/api/migrate"))
    assert [one["version"] for one in json.loads(ran.payload["body"])["applied"]] == OURS
    assert [result.payload["statusCode"] for result in (ran, shown, denied)] == [200, 200, 401]
    assert not any(result.payload["isBase64Encoded"] for result in (ran, shown, denied))
    assert json.loads(shown.payload["body"])["state"] == "current"
    assert history(database) == OURS
    assert SECRET not in ran.log + shown.log + denied.log


def test_a_direct_event_migrates_and_says_what_it_did(runtime: Runtime, database: Database) -> None:
    with runtime.function(database.url) as function:
        before = function.invoke({"action": "validate"})
        ran = function.invoke({"action": "migrate"})
        after = function.invoke({"action": "status"})
    assert (before.payload["success"], before.payload["state"]) == (True, "pending")
    assert [one["version"] for one in ran.payload["applied"]] == OURS
    assert (after.payload["state"], after.payload["appliedMigrations"]) == ("current", 3)
    assert history(database) == OURS
    assert database.execute("SELECT DISTINCT applied_by, environment FROM schema_migrations") == [
        ("lambda", "test")
    ]


def test_an_event_that_makes_no_sense_harms_nobody(runtime: Runtime, database: Database) -> None:
    with runtime.function(database.url) as function:
        first = function.invoke(function_url("GET", "/api/migration-status"))
        for event in JUNK:
            result = function.invoke(event)
            assert result.error in ("", "UnknownEvent")
            assert SECRET not in result.log + json.dumps(result.payload)
            if not result.error:
                assert (
                    result.payload.get("statusCode") == 400
                    or result.payload.get("success") is False
                )
        last = function.invoke(function_url("GET", "/api/migration-status"))
    assert (last.pid, last.payload["statusCode"]) == (first.pid, 200)
    assert tables(database) == []


def test_twenty_events_are_answered_by_one_warm_instance(
    runtime: Runtime, database: Database
) -> None:
    events = [
        {"action": "status"},
        *(by("GET", "/api/migration-status") for by in SOURCES.values()),
        {},
        None,
    ]
    with runtime.function(database.url) as function:
        began = function.invoke({"action": "migrate"})
        results = [function.invoke(event) for event in (events * 2)[:19]]
    assert {result.pid for result in results} == {began.pid}
    assert [result.payload.get("statusCode", 200) for result in results if not result.error] == [
        200
    ] * 16
    nothing_is_left_open(database)


def nothing_is_left_open(database: Database) -> None:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )
    until(lambda: database.execute(query) == [(0,)])


def test_an_instance_with_a_silent_database_answers_and_shares_the_answer(
    runtime: Runtime,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://someone:canary-password@127.0.0.1:{silent.getsockname()[1]}/somewhere"
        with runtime.function(url) as function:
            results = [
                function.invoke(by("GET", "/onward/api/migration-status"))
                for by in (function_url, load_balancer)
            ]
            denied = function.invoke(function_url("POST", "/onward/api/migrate"))
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()
    assert [result.payload["statusCode"] for result in (*results, denied)] == [503, 503, 401]
    assert {json.loads(result.payload["body"])["error"]["code"] for result in results} == {
        "database_unavailable"
    }
    assert len({result.pid for result in (*results, denied)}) == 1
    assert "canary" not in "".join(result.log for result in (*results, denied))


def test_a_function_that_is_killed_in_the_middle_leaves_nothing_half_done(
    runtime: Runtime, server: Server, database: Database, migrations: Write
) -> None:
    with (
        runtime.function(database.url, migrations(ENDLESS)) as function,
        ThreadPoolExecutor(1) as pool,
    ):
        running = pool.submit(function.invoke, {"action": "migrate"})
        until(lambda: sleeping(server, database))
        function.time_out()
        assert running.result().error == "Runtime.ExitError"
        nothing_is_left_running(server, database)
        assert (tables(database), history(database)) == (["short"], ["001-short"])

        migrations({"002-long.sql": "CREATE TABLE long ()"})
        again = function.invoke({"action": "migrate"})
    assert [one["version"] for one in again.payload["applied"]] == ["002-long"]
    assert again.pid != running.result().pid
    assert (tables(database), history(database)) == (["long", "short"], ["001-short", "002-long"])


def test_a_function_whose_time_runs_out_says_so_before_it_is_killed(
    runtime: Runtime, server: Server, database: Database, migrations: Write
) -> None:
    with runtime.function(database.url, migrations(ENDLESS)) as function:
        function.invoke(
            {"action": "status"}
        )  # a cold start on a busy machine would take the time of the run
        result = function.invoke({"action": "migrate"}, seconds=6)
        status = function.invoke({"action": "status"})
    assert (result.payload["success"], result.payload["error"]["sqlstate"]) == (False, "57014")
    assert (status.pid, status.payload["pendingMigrations"]) == (result.pid, 1)
    nothing_is_left_running(server, database)
    assert (tables(database), history(database)) == (["short"], ["001-short"])


def test_a_start_writes_no_bytecode_because_that_of_the_zip_is_valid(
    runtime: Runtime, database: Database
) -> None:
    before = stamps(runtime.bundle)
    with runtime.function(database.url) as function:
        assert function.invoke({"action": "status"}).payload["success"] is True
    assert stamps(runtime.bundle) == before


def stamps(directory: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in directory.rglob("*")}


def test_a_function_without_an_environment_s_name_changes_nothing(
    runtime: Runtime, database: Database
) -> None:
    with runtime.function(database.url, MIGRATION_ENV="") as function:
        result = function.invoke({"action": "migrate"})
    assert (result.payload["success"], result.payload["error"]["code"]) == (False, "not_configured")
    assert "it must be set in MIGRATION_ENV" in result.log
    assert tables(database) == []


# scripts/invoke.py, which calls the function as a pipeline would.

ENDLESS = {
    "001-short.sql": "CREATE TABLE short ()",
    "002-long.sql": "CREATE TABLE long (); SELECT pg_sleep(1000)",
}


def sleeping(server: Server, database: Database) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event = 'PgSleep'"
    return bool(server.admin.execute(query, [database.name]))


def invoke(function: Function, *arguments: str, name: str = NAME, endpoint: str = "") -> Completed:
    """Run scripts/invoke.py with this function as all of AWS."""
    environ = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": endpoint or function.url,
        "PATH": os.environ["PATH"],
    }
    command = [sys.executable, str(ROOT / "scripts" / "invoke.py"), name, *arguments]
    result = subprocess.run(
        command, env=environ, capture_output=True, encoding="utf-8", check=False
    )
    assert "Traceback" not in result.stderr
    return Completed(result.returncode, result.stdout, result.stderr)


def test_invoking_it_exits_zero_when_all_is_done(runtime: Runtime, database: Database) -> None:
    with runtime.function(database.url) as function:
        first = invoke(function)
        status = invoke(function, "--action", "status", "--json")
        valid = invoke(function, "--action", "validate", "--region", "eu-west-1")
    assert (first.code, first.out.splitlines()[:3]) == (
        0,
        [f"✅ Applied: {version}" for version in OURS],
    )
    assert (status.code, json.loads(status.out)["state"]) == (0, "current")
    assert (valid.code, valid.err) == (0, "")
    assert history(database) == OURS


def test_invoking_it_exits_as_the_command_line_would(
    runtime: Runtime, database: Database, migrations: Write
) -> None:
    directory = migrations(
        {"001-good.sql": "CREATE TABLE good ()", "002-bad.sql": "SELECT 1;\nSELECT nonsense"}
    )
    with runtime.function(database.url, directory) as function:
        failed = invoke(function)
        document = invoke(function, "--json")
        migrations({"001-good.sql": "CREATE TABLE changed ()"})
        conflict = [
            invoke(function, "--action", action).code
            for action in ("migrate", "validate", "status")
        ]
        migrations({"001-good.sql": "CREATE TABLE good ()", "001-twice.sql": "SELECT 1"})
        refused = invoke(function)
    assert (failed.code, failed.out) == (1, "")
    assert "002-bad" in failed.err
    assert "sqlstate 42703" in failed.err
    assert "line 2" in failed.err
    assert (document.code, json.loads(document.out)["error"]["version"]) == (1, "002-bad")
    assert (conflict, refused.code) == ([3, 3, 0], 2)
    assert (tables(database), history(database)) == (["good"], ["001-good"])


def test_invoking_it_shows_the_end_of_the_log_when_it_fails(
    runtime: Runtime, database: Database
) -> None:
    wrong = urlsplit(database.url)
    url = wrong._replace(
        netloc=f"{wrong.username}:canary-in-the-url@{wrong.hostname}:{wrong.port}"
    ).geturl()
    with runtime.function(url) as function:
        result = invoke(function, "--action", "status")
    assert result.code == 5
    assert "database_unavailable" in result.err
    assert "password authentication failed" in result.err
    assert "canary" not in result.out + result.err


def test_invoking_what_dies_meanwhile_exits_with_unknown(
    runtime: Runtime, server: Server, database: Database, migrations: Write
) -> None:
    with (
        runtime.function(database.url, migrations(ENDLESS)) as function,
        ThreadPoolExecutor(1) as pool,
    ):
        running = pool.submit(invoke, function)
        until(lambda: sleeping(server, database))
        function.time_out()
        assert running.result().code == 6
        assert "--action status" in running.result().err
    nothing_is_left_running(server, database)
    assert history(database) == ["001-short"]


def test_invoking_what_does_not_start_or_is_not_there_exits_non_zero(
    runtime: Runtime, database: Database
) -> None:
    with Function(runtime.python, runtime.bundle, {}, handler="lib.aws.nothing") as function:
        broken = invoke(function)
        missing = invoke(function, name="another")
        unreachable = invoke(function, "--json", endpoint="http://127.0.0.1:1")
    assert (broken.code, missing.code, unreachable.code) == (70, 2, 5)
    assert "nothing" in broken.err
    assert "ResourceNotFoundException" in missing.err
    assert json.loads(unreachable.out)["success"] is False
    assert tables(database) == []
