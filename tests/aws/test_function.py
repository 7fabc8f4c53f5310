"""The Lambda handler in this process: every shape of event, and secrets that moto keeps; the
databases are real.
"""

import asyncio
import base64
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import httpx2
import pytest
import yaml  # type: ignore[import-untyped]
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count

from lib.aws.function import Handler, UnknownEvent
from lib.aws.secrets import SecretReferences, read_secret
from lib.runner import SHUTDOWN_MARGIN_SECONDS
from lib.web.routes import create_app
from lib.web.service import Service
from tests.conftest import ROOT, Database, Server
from tests.kit import (
    BEARER,
    OURS,
    SECRET,
    Write,
    history,
    login,
    nothing_is_left_running,
    role,
    tables,
)
from tests.platform.lambda_runtime import SOURCES, function_url, http_api, load_balancer, rest_api
from tests.proxy import Proxy, proxied

Event = dict[str, Any]
Request = Callable[..., Event]


@dataclass(frozen=True)
class Context:
    """What Lambda tells a handler beside the event."""

    seconds: float = 60.0

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


@pytest.fixture(params=SOURCES.values(), ids=list(SOURCES))
def request_by(request: pytest.FixtureRequest) -> Request:
    """Makes the event of a request, for each thing that can send one."""
    made: Request = request.param
    return made


def configuration(database: Database) -> dict[str, str]:
    """A function's variables."""
    return {"MIGRATION_ENV": "test", "MIGRATION_SECRET": SECRET, "DATABASE_URL": database.url}


def function(database: Database, **environ: str) -> Handler:
    """A new instance of the function."""
    return Handler(configuration(database) | environ)


def answer(handler: Handler, event: Event) -> tuple[int, Any]:
    """Status and document of an HTTP answer, which must be JSON as text."""
    response = handler(event, Context())
    assert response["isBase64Encoded"] is False
    return response["statusCode"], json.loads(response["body"])


@pytest.fixture(autouse=True)
def event_loop() -> Iterator[None]:
    """The loop that HTTP events run on, which nobody else would close."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


# HTTP events.


def test_every_kind_of_http_event_gets_the_status_as_text(
    migrated: Database, request_by: Request
) -> None:
    status, document = answer(function(migrated), request_by("GET", "/api/migration-status"))
    assert (status, document["state"], document["appliedMigrations"]) == (200, "current", 3)
    assert document["database"] == migrated.name


def test_every_kind_of_http_event_can_run_what_is_pending(
    database: Database, request_by: Request
) -> None:
    status, document = answer(
        function(database), request_by("POST", "/api/migrate", headers=BEARER)
    )
    assert (status, document["success"], document["complete"]) == (200, True, True)
    assert [one["version"] for one in document["applied"]] == history(database) == OURS
    assert database.execute("SELECT DISTINCT applied_by, environment FROM schema_migrations") == [
        ("lambda", "test")
    ]


def test_no_kind_of_http_event_runs_anything_without_the_secret(
    database: Database, request_by: Request
) -> None:
    for headers in ({}, {"authorization": f"Bearer {SECRET}x"}, {"authorization": SECRET}):
        status, document = answer(
            function(database), request_by("POST", "/api/migrate", headers=headers)
        )
        assert (status, document["error"]["code"]) == (401, "unauthorized")
    assert tables(database) == []


NOWHERE = [
    *(
        "/api",
        "/api/migrate/",
        "/api/Migrate",
        "/API/migrate",
        "//api/migrate",
        "/api//migrate",
        "/xapi/migrate",
    ),
    *(
        "/x//api/migrate",
        "//x/api/migrate",
        "/x/api/migrate/",
        "/x/API/MIGRATE",
        "/x/../api/migrate",
        "/./api/migrate",
    ),
    *(
        "/x;y/api/migrate",
        "/x y/api/migrate",
        "/x\\api/migrate",
        "/x/api/migrate\n",
        "/\u00e9/api/migrate",
    ),
    *("/api/migrate/x", "/api/migrate/api", "/api/migrate.py"),
]


@pytest.mark.parametrize("path", NOWHERE)
def test_no_other_path_leads_to_the_route(
    database: Database, request_by: Request, path: str
) -> None:
    status, document = answer(function(database), request_by("POST", path, headers=BEARER))
    assert (status, document["error"]["code"]) == (404, "not_found")
    assert tables(database) == []


@pytest.mark.parametrize(
    "path",
    [
        "/api%2Fmigrate",
        "/%61pi/migrate",
        "/x/api%2fmigrate",
        "/x%2fapi/migrate",
        "/%78/api/migrate",
        "/%2e/api/migrate",
    ],
)
def test_an_escaped_path_is_not_the_route(
    database: Database, request_by: Request, path: str
) -> None:
    status, _ = answer(function(database), request_by("POST", path, headers=BEARER))
    assert status == 404
    assert tables(database) == []


@pytest.mark.parametrize(
    "prefix", ["/onward", "/onward/v1", "/prod/prod", "/Onward_1.0", "/$default", "/api"]
)
def test_what_a_gateway_has_in_front_of_it_is_no_part_of_the_path(
    database: Database, request_by: Request, prefix: str
) -> None:
    handler = function(database)
    for headers, expected in (
        ({}, 401),
        (BEARER | {"authorization": "Bearer x"}, 401),
        (BEARER, 200),
    ):
        assert (
            answer(handler, request_by("POST", f"{prefix}/api/migrate", headers=headers))[0]
            == expected
        )
    assert answer(handler, request_by("GET", f"{prefix}/api/migrate", headers=BEARER))[0] == 405
    status, document = answer(handler, request_by("GET", f"{prefix}/api/migration-status"))
    assert (status, document["state"], history(database)) == (200, "current", OURS)


def test_the_page_is_at_the_root_and_at_that_of_a_stage_alone(
    migrated: Database, request_by: Request
) -> None:
    handler = function(migrated)
    paths = ("/", "/elsewhere/", "/elsewhere", "//")
    assert [handler(request_by("GET", path), Context())["statusCode"] for path in paths] == [
        200,
        404,
        404,
        404,
    ]


def test_a_head_request_gets_no_body(migrated: Database, request_by: Request) -> None:
    response = function(migrated)(request_by("HEAD", "/api/migration-status"), Context())
    assert (response["statusCode"], response["body"]) == (200, "")


def test_the_query_is_read_from_every_kind_of_event(database: Database) -> None:
    for request_by in (function_url, http_api, rest_api, load_balancer):
        event = request_by("GET", "/api/migration-status", query="require=current")
        status, document = answer(function(database), event)
        assert (status, document["state"]) == (503, "pending")


def test_a_body_in_base64_is_read(database: Database, request_by: Request) -> None:
    body = base64.b64encode(b'{"action": "status"}').decode()
    event = request_by(
        "POST", "/api/migrate", headers=BEARER | {"content-type": "application/json"}, body=body
    )
    status, document = answer(function(database), event | {"isBase64Encoded": True})
    assert (status, document["pendingMigrations"]) == (200, 3)
    assert tables(database) == []


@pytest.mark.parametrize("body", ["{}", "a", "e30", "e30=\n!", "\u00e9", 5, ["e30="]])
def test_a_body_that_is_not_base64_is_a_bad_request(
    database: Database, request_by: Request, body: Any
) -> None:
    event = request_by("POST", "/api/migrate", headers=BEARER) | {
        "body": body,
        "isBase64Encoded": True,
    }
    status, document = answer(function(database), event)
    assert (status, document["error"]["code"]) == (400, "invalid_request")
    assert tables(database) == []


BROKEN: dict[str, Event] = {
    "an empty context": {"requestContext": {}},
    "a context that is none": {"requestContext": None},
    "a context that is a number": {"requestContext": 5},
    "a context that is a word": load_balancer("GET", "/") | {"requestContext": "elb"},
    "a method that is none": load_balancer("GET", "/") | {"httpMethod": None},
    "a method that is a list": rest_api("GET", "/") | {"httpMethod": []},
    "a path that is a number": load_balancer("GET", "/") | {"path": 5},
    "a load balancer's without a path": {"requestContext": {"elb": {}}, "httpMethod": "GET"},
    "a WebSocket's": {"requestContext": {"eventType": "CONNECT", "connectionId": "x"}},
    "a destination's": {
        "version": "1.0",
        "requestContext": {"condition": "Success"},
        "responsePayload": {},
    },
    "version 2 without http": {"version": "2.0", "requestContext": {}, "headers": {}},
    "headers that are none": function_url("GET", "/") | {"headers": None},
    "a header that is a number": function_url("GET", "/", headers={"x": 5}),  # type: ignore[dict-item]
    "a header that is no character": function_url("GET", "/", headers={"x": "\ud800"}),
    "a host with two ports": load_balancer("GET", "/", headers={"host": "a:1:2"}),
    "a host with an address": load_balancer("GET", "/", headers={"host": "[::1]:443"}),
    "a port that is a word": load_balancer("GET", "/", headers={"x-forwarded-port": "http"}),
}


@pytest.mark.parametrize("event", BROKEN.values(), ids=list(BROKEN))
def test_an_http_event_that_cannot_be_read_is_a_bad_request(
    event: Event, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = Handler({"MIGRATION_ENV": "test"})
    status, document = answer(handler, event)
    assert (status, document["error"]["code"]) == (400, "invalid_request")
    headers = handler(event, Context())["headers"]
    assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    assert "Traceback" not in "".join(capsys.readouterr())


def test_a_load_balancer_that_wants_lists_of_headers_gets_them_with_a_bad_request_too() -> None:
    event = load_balancer("GET", "/", headers={"host": "a:1:2"}, several=True)
    assert Handler({})(event, Context())["multiValueHeaders"]["Content-Type"] == [
        "application/json"
    ]


# Direct events, and those that are neither.


def test_a_direct_event_returns_what_the_route_answers(server: Server, database: Database) -> None:
    handler = function(database)
    other = server.create()
    assert handler({"action": "status"}, Context()) == _posted(handler, "status")
    assert handler({"action": "validate"}, Context()) == _posted(handler, "validate")
    direct, posted = handler({"action": "migrate"}, Context()), _posted(function(other), "migrate")
    assert _without_times(direct) == _without_times(posted) | {"database": database.name}
    assert history(database) == history(other) == OURS
    assert database.execute("SELECT DISTINCT applied_by FROM schema_migrations") == [("lambda",)]
    server.drop(other)


def _posted(handler: Handler, action: str) -> Any:
    headers = BEARER | {"content-type": "application/json"}
    return answer(
        handler,
        function_url("POST", "/api/migrate", headers=headers, body=json.dumps({"action": action})),
    )[1]


def _without_times(document: dict[str, Any]) -> dict[str, Any]:
    return document | {"applied": [one | {"executionTimeMs": 0} for one in document["applied"]]}


@pytest.mark.parametrize(
    "event",
    [
        {"action": "migrate", "target": "postgresql://elsewhere/x"},
        {"action": "migrate", "action ": "status"},
        {"action": "Migrate"},
        {"action": ""},
        {"action": None},
        {"action": ["migrate"]},
        {"action": {"action": "migrate"}},
    ],
)
def test_a_direct_event_with_anything_else_in_it_runs_nothing(
    database: Database, event: Event
) -> None:
    document = function(database)(event, Context())
    assert (document["success"], document["error"]["code"]) == (False, "invalid_request")
    assert "elsewhere" not in str(document)
    assert tables(database) == []


@pytest.mark.parametrize(
    "event",
    [
        {},
        None,
        [],
        [{"action": "migrate"}],
        "migrate",
        5,
        {"Records": [{"body": SECRET, "eventSource": "aws:sqs"}]},
        {"detail-type": "Scheduled Event", "detail": {"password": SECRET}},
        {"Action": "migrate"},
        {"key" * 100: SECRET},
    ],
)
def test_an_event_that_is_neither_is_refused_with_the_names_of_its_keys(
    database: Database, event: Any
) -> None:
    with pytest.raises(UnknownEvent) as refused:
        function(database)(event, Context())
    assert SECRET not in str(refused.value)
    assert len(str(refused.value)) < 200
    assert all(key[:40] in str(refused.value) for key in event) if isinstance(event, dict) else True
    assert tables(database) == []


def test_http_events_still_work_after_direct_and_unknown_ones(migrated: Database) -> None:
    handler = function(migrated)
    for _ in range(3):
        assert handler({"action": "status"}, Context())["success"] is True
        with pytest.raises(UnknownEvent):
            handler({}, Context())
        assert answer(handler, function_url("GET", "/api/migration-status"))[0] == 200


def test_with_too_little_time_left_nothing_is_begun(database: Database) -> None:
    document = function(database)({"action": "migrate"}, Context(seconds=3.5))
    assert (document["success"], document["complete"], document["applied"]) == (True, False, [])
    assert document["remaining"] == OURS
    assert tables(database) == []


def test_what_gives_up_before_the_function_does_gets_an_answer_before_that(
    database: Database,
) -> None:
    for request_by in (http_api, rest_api, load_balancer):
        handler = Handler(configuration(database), gateway_seconds=3.5)
        status, document = answer(handler, request_by("POST", "/api/migrate", headers=BEARER))
        assert (status, document["complete"], document["remaining"]) == (202, False, OURS)
    assert tables(database) == []
    handler = Handler(configuration(database), gateway_seconds=3.5)
    status, _ = answer(handler, function_url("POST", "/api/migrate", headers=BEARER))
    assert (status, history(database)) == (200, OURS)


def test_a_run_behind_a_gateway_ends_before_that_gives_up(
    database: Database, migrations: Write
) -> None:
    """API Gateway waits for 29 seconds and not one more; a function's own URL for as long as the
    function may run.
    """
    files = {"000-limits.sql": "CREATE TABLE limits (seconds numeric)"}
    noting = "INSERT INTO limits VALUES (extract(epoch FROM current_setting('statement_timeout')::interval))"
    handler = function(database, MIGRATION_DIR=str(migrations(files)))
    sources: list[Request] = [http_api, rest_api, load_balancer, function_url]
    for number, request_by in enumerate(sources, 1):
        migrations({f"{number:03}-limit.sql": noting})
        response = handler(
            request_by("POST", "/api/migrate", headers=BEARER), Context(seconds=900.0)
        )
        assert response["statusCode"] == 200
    *gateways, longest = (
        seconds for (seconds,) in database.execute("SELECT seconds FROM limits ORDER BY 1")
    )
    assert len(gateways) == 3
    assert all(0 < seconds + SHUTDOWN_MARGIN_SECONDS < 29 for seconds in map(float, gateways))
    assert longest > 29
    assert history(database) == ["000-limits", *(f"{number:03}-limit" for number in range(1, 5))]


def test_a_statement_that_outlasts_the_function_is_cancelled_before_that(
    server: Server, database: Database, migrations: Write
) -> None:
    files = {
        "001-short.sql": "CREATE TABLE short ()",
        "002-long.sql": "CREATE TABLE long (); SELECT pg_sleep(100)",
    }
    handler = function(database, MIGRATION_DIR=str(migrations(files)))
    document = handler({"action": "migrate"}, Context(seconds=5.0))
    assert document["success"] is False
    assert (document["error"]["code"], document["error"]["sqlstate"]) == (
        "migration_failed",
        "57014",
    )
    assert tables(database) == ["short"]
    assert history(database) == ["001-short"]
    nothing_is_left_running(server, database)


# Secrets.


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An account without anything in it, and a function's credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with mock_aws():
        yield


@pytest.fixture
def plain(server: Server, database: Database) -> Iterator[Database]:
    """The database as a role of its own sees it, which may create tables there; its password is a
    canary.
    """
    with login(server, database) as limited:
        database.execute(f"GRANT CREATE ON SCHEMA public TO {role(limited)}")
        yield limited


def referring(**environ: str) -> Handler:
    """An instance whose variables are as given: no database but what they name."""
    return Handler({"MIGRATION_ENV": "test", "MIGRATION_SECRET": SECRET, **environ})


def store(name: str, value: str | Mapping[str, str]) -> str:
    """Put a secret into Secrets Manager; returns its ARN."""
    text = value if isinstance(value, str) else json.dumps(value)
    return str(boto3.client("secretsmanager").create_secret(Name=name, SecretString=text)["ARN"])


def credentials(database: Database) -> dict[str, str]:
    """What an RDS-managed secret holds."""
    parts = urlsplit(database.url)
    return {"username": parts.username or "", "password": parts.password or ""}


def address(database: Database) -> str:
    """The database's URL without user and password."""
    parts = urlsplit(database.url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def works(handler: Handler, database: Database) -> None:
    """The function reaches the database: the status by HTTP, and a run."""
    status, document = answer(handler, function_url("GET", "/api/migration-status"))
    assert (status, document["database"]) == (200, database.name), document
    assert handler({"action": "migrate"}, Context())["success"] is True
    assert history(database) == OURS


def reaches(handler: Handler) -> str:
    """The error's code of a direct status; empty if there is none."""
    return str(handler({"action": "status"}, Context()).get("error", {}).get("code", ""))


def change_password(server: Server, database: Database, password: str) -> Database:
    """As a rotation does it: the role's password, and what its URL is from now on."""
    escaped = password.replace("'", "''")
    server.admin.execute(f"ALTER ROLE {role(database)} PASSWORD '{escaped}'")
    user, place = urlsplit(database.url).username, urlsplit(database.url).netloc.rpartition("@")[2]
    netloc = f"{user}:{quote(password, safe='')}@{place}"
    return Database(database.name, urlsplit(database.url)._replace(netloc=netloc).geturl())


def test_a_url_may_be_a_secret_by_name_or_arn(aws: None, plain: Database) -> None:
    arn = store("prod/app-url", plain.url)
    works(referring(DATABASE_URL="secretsmanager:prod/app-url"), plain)
    works(referring(POSTGRES_URL=f" secretsmanager:{arn}\n"), plain)


def test_a_url_may_be_one_string_of_a_json_secret(aws: None, plain: Database) -> None:
    store("app", {"other": "x", "url": plain.url})
    works(referring(MIGRATION_DATABASE_URL="secretsmanager:app#url"), plain)


def test_a_url_may_be_an_encrypted_parameter(aws: None, plain: Database) -> None:
    boto3.client("ssm").put_parameter(Name="/app/url", Value=plain.url, Type="SecureString")
    works(referring(DATABASE_URL="ssm:/app/url"), plain)


@pytest.mark.parametrize(
    "password", ["plain", "p@ss/w%rd?:#&= \"'{}", "%41", "pässwörd", "\\1\\g<0>"]
)
def test_user_and_password_of_an_rds_secret_complete_a_url_without(
    aws: None, server: Server, plain: Database, password: str
) -> None:
    changed = change_password(server, plain, password)
    store(
        "rds!db-4f1c",
        f"\n{json.dumps({'username': credentials(plain)['username'], 'password': password})}\n",
    )
    works(
        referring(MIGRATION_DATABASE_URL="secretsmanager:rds!db-4f1c", DATABASE_URL=address(plain)),
        changed,
    )
    works(
        referring(DATABASE_URL="secretsmanager:rds!db-4f1c", POSTGRES_URL=address(plain)), changed
    )


def test_the_name_of_an_rds_secret_s_user_may_need_quotes(
    aws: None, server: Server, plain: Database
) -> None:
    name = role(plain).strip('"')
    odd = f"{name}@a/b:c?d%41"
    server.admin.execute(f'ALTER ROLE "{name}" RENAME TO "{odd}"')
    try:
        store("rds", credentials(plain) | {"username": odd})
        document = referring(
            MIGRATION_DATABASE_URL="secretsmanager:rds", DATABASE_URL=address(plain)
        )({"action": "migrate"}, Context())
        assert document["success"] is True
    finally:
        server.admin.execute(f'ALTER ROLE "{odd}" RENAME TO "{name}"')
    assert history(plain) == OURS


def test_the_address_may_name_a_user_who_is_not_the_secret_s(aws: None, plain: Database) -> None:
    store("rds", credentials(plain))
    url = address(plain).replace("://", "://somebody@")
    works(referring(MIGRATION_DATABASE_URL="secretsmanager:rds", DATABASE_URL=url), plain)


def test_a_url_with_a_password_of_its_own_is_no_address_for_a_secret(
    aws: None, plain: Database
) -> None:
    store("rds", credentials(plain))
    handler = referring(
        MIGRATION_DATABASE_URL="secretsmanager:rds",
        POSTGRES_URL="postgresql://a:b@127.0.0.1:1/elsewhere",
        DATABASE_URL=address(plain),
    )
    assert handler({"action": "migrate"}, Context())["success"] is True
    assert history(plain) == OURS


UNUSABLE: dict[str, tuple[str, str | Mapping[str, str] | None, str]] = {
    "missing": ("secretsmanager:gone", None, "no such name exists"),
    "a missing parameter": ("ssm:/gone", None, "no such name exists"),
    "empty": ("secretsmanager:it", " ", "it is empty"),
    "without that key": (
        "secretsmanager:it#url",
        {"canary": "canary"},
        "it has no string under that key",
    ),
    "with an empty text there": (
        "secretsmanager:it#url",
        {"url": ""},
        "it has no string under that key",
    ),
    "with a number there": (
        "secretsmanager:it#url",
        '{"url": 5, "x": "canary"}',
        "it has no string under that key",
    ),
    "a key of a list": ("secretsmanager:it#url", '["canary"]', "it has no string under that key"),
    "a key of a word": ("secretsmanager:it#url", '"canary"', "it has no string under that key"),
    "a key of what is not JSON": (
        "secretsmanager:it#url",
        "canary{",
        "it has no string under that key",
    ),
    "JSON that is cut off": (
        "secretsmanager:it",
        '{"username": "canary"',
        "it is JSON without username and password",
    ),
    "JSON without a password": (
        "secretsmanager:it",
        {"username": "canary"},
        "it is JSON without username and pass",
    ),
    "JSON with an empty one": (
        "secretsmanager:it",
        {"username": "canary", "password": ""},
        "it is JSON without user",
    ),
    "credentials without an address": (
        "secretsmanager:it",
        {"username": "canary", "password": "canary"},
        "it does not contain the database's address",
    ),
    "no URL": ("secretsmanager:it", "canary", "is not a valid Postgres URL"),
    "another reference": (
        "secretsmanager:it",
        "secretsmanager:canary",
        "DATABASE_URL is a reference",
    ),
}


@pytest.mark.parametrize(("reference", "value", "reason"), UNUSABLE.values(), ids=list(UNUSABLE))
def test_what_cannot_be_used_is_told_by_variable_and_reference_and_never_shown(
    aws: None,
    capsys: pytest.CaptureFixture[str],
    reference: str,
    value: str | Mapping[str, str] | None,
    reason: str,
) -> None:
    if value is not None:
        store("it", value)
    handler = referring(DATABASE_URL=reference)
    document = handler({"action": "migrate"}, Context())
    assert (document["success"], document["error"]["code"]) == (False, "not_configured")
    said = capsys.readouterr().out
    assert f"DATABASE_URL refers to {reference}, which cannot be used: " in said
    assert reason in said
    assert "canary" not in said + str(document)


def test_a_secret_that_the_role_may_not_read_is_told_as_such(
    aws: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store("app", "postgresql://u:canary@localhost/x")
    boto3.client("iam").create_user(UserName="function")
    key = boto3.client("iam").create_access_key(UserName="function")["AccessKey"]
    monkeypatch.setattr(
        boto3, "DEFAULT_SESSION", None
    )  # it keeps the credentials that it began with
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    asked_for_permissions = set_initial_no_auth_action_count(0)

    assert (
        asked_for_permissions(reaches)(referring(DATABASE_URL="secretsmanager:app"))
        == "not_configured"
    )
    said = capsys.readouterr().out
    assert (
        "DATABASE_URL refers to secretsmanager:app, which cannot be used: this function's role has "
        "no permission" in said
    )
    assert "canary" not in said


def test_a_deleted_secret_is_told_as_such(aws: None, capsys: pytest.CaptureFixture[str]) -> None:
    store("app", "canary")
    boto3.client("secretsmanager").delete_secret(SecretId="app")
    assert reaches(referring(DATABASE_URL="secretsmanager:app")) == "not_configured"
    assert (
        "secretsmanager:app, which cannot be used: it is marked for deletion"
        in capsys.readouterr().out
    )


def test_without_credentials_the_answer_names_the_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    assert reaches(referring(DATABASE_URL="secretsmanager:app")) == "not_configured"
    assert "DATABASE_URL refers to secretsmanager:app" in capsys.readouterr().out


def test_a_warm_instance_does_not_ask_for_a_secret_again(aws: None, plain: Database) -> None:
    store("app", plain.url)
    handler = referring(DATABASE_URL="secretsmanager:app")
    works(handler, plain)
    boto3.client("secretsmanager").delete_secret(SecretId="app", ForceDeleteWithoutRecovery=True)
    works(handler, plain)
    assert reaches(referring(DATABASE_URL="secretsmanager:app")) == "not_configured"


def test_a_warm_instance_asks_again_when_its_password_is_refused(
    aws: None, server: Server, plain: Database
) -> None:
    store("app", plain.url)
    handler = referring(DATABASE_URL="secretsmanager:app")
    works(handler, plain)
    rotated = change_password(server, plain, "canary-after-rotation")
    boto3.client("secretsmanager").put_secret_value(SecretId="app", SecretString=rotated.url)
    works(handler, rotated)


def test_a_rotation_that_is_under_way_stops_nobody(
    aws: None, server: Server, plain: Database
) -> None:
    secrets = boto3.client("secretsmanager")
    old = credentials(plain)
    store("rds", old)
    environ = {"MIGRATION_DATABASE_URL": "secretsmanager:rds", "DATABASE_URL": address(plain)}
    warm = referring(**environ)
    works(warm, plain)

    new = old | {"password": "canary-of-the-next-version"}
    pending = secrets.put_secret_value(
        SecretId="rds", SecretString=json.dumps(new), VersionStages=["AWSPENDING"]
    )
    works(warm, plain)
    works(referring(**environ), plain)

    rotated = change_password(server, plain, new["password"])  # and AWSCURRENT is the old one still
    works(warm, rotated)
    works(referring(**environ), rotated)

    versions = secrets.describe_secret(SecretId="rds")["VersionIdsToStages"]
    (before,) = (version for version, stages in versions.items() if "AWSCURRENT" in stages)
    secrets.update_secret_version_stage(
        SecretId="rds",
        VersionStage="AWSCURRENT",
        MoveToVersionId=pending["VersionId"],
        RemoveFromVersionId=before,
    )
    works(warm, rotated)
    works(referring(**environ), rotated)


def test_a_rotation_that_is_taken_back_stops_nobody(
    aws: None, server: Server, plain: Database
) -> None:
    old = credentials(plain)
    store("rds", old)
    new = old | {"password": "canary-of-the-next-version"}
    boto3.client("secretsmanager").put_secret_value(
        SecretId="rds", SecretString=json.dumps(new), VersionStages=["AWSPENDING"]
    )
    handler = referring(MIGRATION_DATABASE_URL="secretsmanager:rds", DATABASE_URL=address(plain))
    rotated = change_password(server, plain, new["password"])
    works(handler, rotated)
    change_password(server, plain, old["password"])
    works(handler, plain)


def test_a_password_that_no_version_of_the_secret_has_is_a_refusal(
    aws: None, server: Server, plain: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    store("app", plain.url)
    boto3.client("secretsmanager").put_secret_value(
        SecretId="app",
        SecretString=plain.url.replace("canary-", "canary-pending-"),
        VersionStages=["AWSPENDING"],
    )
    change_password(server, plain, "another")
    handler = referring(DATABASE_URL="secretsmanager:app")
    assert reaches(handler) == "database_unavailable"
    assert answer(handler, function_url("GET", "/api/migration-status"))[0] == 503
    assert "canary" not in "".join(capsys.readouterr())


def test_a_url_without_a_reference_is_tried_once(server: Server, plain: Database) -> None:
    change_password(server, plain, "another")
    with through_proxy(plain) as (proxy, there):
        assert reaches(function(there)) == "database_unavailable"
        assert len(proxy.connections) == 1


def test_a_password_that_is_the_same_in_every_version_is_tried_once(
    aws: None, server: Server, plain: Database
) -> None:
    """Else a few requests would use up the tries after which a server locks a role."""
    change_password(server, plain, "another")
    with through_proxy(plain) as (proxy, there):
        store("app", there.url)
        assert reaches(referring(DATABASE_URL="secretsmanager:app")) == "database_unavailable"
        assert len(proxy.connections) == 1


@contextmanager
def through_proxy(database: Database) -> Iterator[tuple[Proxy, Database]]:
    """The database by way of a proxy."""
    with proxied(database.url) as proxy:
        yield proxy, Database(database.name, proxy.url(database.url))


def test_the_bearer_secret_may_be_a_reference_too(aws: None, database: Database) -> None:
    store("onward", {"current": SECRET, "previous": SECRET[::-1]})
    handler = function(
        database,
        MIGRATION_SECRET="secretsmanager:onward#current",
        MIGRATION_SECRET_PREVIOUS="secretsmanager:onward#previous",
    )
    for token, expected in (
        (SECRET, 200),
        (SECRET[::-1], 200),
        ("secretsmanager:onward#current", 401),
        ("", 401),
    ):
        status, _ = answer(
            handler,
            function_url("POST", "/api/migrate", headers={"authorization": f"Bearer {token}"}),
        )
        assert status == expected
    assert history(database) == OURS


@pytest.mark.parametrize(
    "value",
    [
        "short",
        "s3cret-" * 6,
        "secretsmanager:onward#another-secret",
        "ssm:/onward/another/migration-secret",
        "${MIGRATION_SECRET_OF_PRODUCTION}",
    ],
)
def test_a_bearer_secret_whose_reference_leads_to_none_closes_the_route(
    aws: None, database: Database, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    store("onward", {"it": value, "fine": SECRET})
    it, fine = "secretsmanager:onward#it", "secretsmanager:onward#fine"
    for variables in (
        {"MIGRATION_SECRET": it},
        {"MIGRATION_SECRET": fine, "MIGRATION_SECRET_PREVIOUS": it},
        {"MIGRATION_SECRET": value},
    ):
        handler = function(database, **variables)
        for token in (value, it, fine, SECRET):
            event = function_url(
                "POST", "/api/migrate", headers={"authorization": f"Bearer {token}"}
            )
            status, document = answer(handler, event)
            assert (status, document["error"]["code"]) == (503, "not_configured")
        said = capsys.readouterr().out
        assert f'"reason": "{list(variables)[-1]} ' in said
        assert value not in said or value.startswith(("secretsmanager:", "ssm:"))
    assert tables(database) == []


def test_a_bearer_secret_that_is_missing_closes_its_route_alone(
    aws: None, migrated: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = function(migrated, MIGRATION_SECRET="secretsmanager:gone")
    status, document = answer(handler, function_url("POST", "/api/migrate", headers=BEARER))
    assert (status, document["error"]["code"]) == (503, "not_configured")
    assert "MIGRATION_SECRET refers to secretsmanager:gone" in capsys.readouterr().out
    assert answer(handler, function_url("GET", "/api/migration-status"))[0] == 200


def test_a_url_that_cannot_be_resolved_is_nobody_s_business_without_the_secret(aws: None) -> None:
    handler = referring(DATABASE_URL="secretsmanager:gone")
    status, _ = answer(
        handler, function_url("POST", "/api/migrate", headers={"authorization": "Bearer x"})
    )
    assert status == 401


# How often a store is asked.


@pytest.fixture
def asked(aws: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a store was asked for: each time the reference and the stage."""
    questions: list[str] = []

    def noted(reference: str, stage: str) -> str:
        questions.append(f"{reference} {stage}")
        return read_secret(reference, stage)

    monkeypatch.setattr("lib.aws.secrets.read_secret", noted)
    return questions


def test_guessing_does_not_ask_a_store_that_fails_each_time(
    asked: list[str], migrated: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = function(migrated, MIGRATION_SECRET="secretsmanager:onward")
    guess = function_url("POST", "/api/migrate", headers={"authorization": "Bearer guessed"})
    assert {answer(handler, guess)[0] for _ in range(100)} == {503}
    assert asked == ["secretsmanager:onward AWSCURRENT"]
    store("onward", SECRET)
    later = time.time() + 6
    monkeypatch.setattr(time, "time", lambda: later)
    assert {answer(handler, guess)[0] for _ in range(100)} == {401}
    assert answer(handler, function_url("POST", "/api/migrate", headers=BEARER))[0] == 200
    assert len(asked) == 2


def test_a_status_that_fails_for_want_of_a_secret_does_not_ask_the_store_each_time(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    handler = referring(DATABASE_URL="secretsmanager:gone", POSTGRES_URL="secretsmanager:gone")
    for _ in range(5):
        handler.service.forget_status()
        assert answer(handler, function_url("GET", "/api/migration-status"))[0] == 503
        assert reaches(handler) == "not_configured"
    assert asked == ["secretsmanager:gone AWSCURRENT"]
    assert (
        capsys.readouterr().out.count(
            "POSTGRES_URL refers to secretsmanager:gone, which cannot be used"
        )
        == 10
    )


def test_a_password_that_is_refused_is_asked_for_once_in_some_seconds(
    asked: list[str], server: Server, plain: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("app", plain.url)
    handler = referring(DATABASE_URL="secretsmanager:app")
    works(handler, plain)
    change_password(server, plain, "another")
    assert {reaches(handler) for _ in range(5)} == {"database_unavailable"}
    current, pending = "secretsmanager:app AWSCURRENT", "secretsmanager:app AWSPENDING"
    assert asked == [current, current, pending]
    assert reaches(referring(DATABASE_URL="secretsmanager:app")) == "database_unavailable"
    assert asked[3:] == [current, pending]
    later = time.time() + 6
    monkeypatch.setattr(time, "time", lambda: later)
    assert {reaches(handler) for _ in range(5)} == {"database_unavailable"}
    assert asked[5:] == [current, pending]


def test_many_at_once_ask_a_store_once(asked: list[str], plain: Database) -> None:
    store("app", plain.url)
    store("onward", SECRET)
    environ = {"DATABASE_URL": "secretsmanager:app", "MIGRATION_SECRET": "secretsmanager:onward"}
    service = Service({"MIGRATION_ENV": "test", **environ}, SecretReferences())

    async def call(client: httpx2.AsyncClient, method: str, path: str) -> int:
        return (await client.request(method, path, headers=BEARER)).status_code

    async def calls() -> list[int]:
        transport = httpx2.ASGITransport(create_app(service))
        async with httpx2.AsyncClient(transport=transport, base_url="http://onward") as client:
            wanted = [("GET", "/api/migration-status"), ("POST", "/api/migrate")] * 30
            return await asyncio.gather(*(call(client, *one) for one in wanted))

    assert set(asyncio.run(calls())) <= {200, 409}
    assert sorted(asked) == ["secretsmanager:app AWSCURRENT", "secretsmanager:onward AWSCURRENT"]
    assert history(plain) == OURS


def test_after_a_minute_a_bearer_secret_that_was_revoked_opens_nothing(
    aws: None, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("onward", SECRET)
    handler = function(database, MIGRATION_SECRET="secretsmanager:onward")
    status = json.dumps({"action": "status"})

    def post(secret: str, body: str | None = status) -> int:
        headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
        return answer(handler, function_url("POST", "/api/migrate", headers=headers, body=body))[0]

    assert post(SECRET) == 200
    boto3.client("secretsmanager").put_secret_value(SecretId="onward", SecretString=SECRET[::-1])
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    assert [post(SECRET, None), post(SECRET)] == [401, 401]
    assert tables(database) == []
    assert post(SECRET[::-1], None) == 200
    assert history(database) == OURS


def test_a_clock_that_is_set_back_makes_no_secret_last_longer(
    asked: list[str], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("onward", SECRET)
    handler = function(database, MIGRATION_SECRET="secretsmanager:onward")
    guess = function_url("POST", "/api/migrate", headers={"authorization": "Bearer guessed"})
    assert answer(handler, guess)[0] == 401
    boto3.client("secretsmanager").put_secret_value(SecretId="onward", SecretString=SECRET[::-1])
    earlier = time.time() - 600
    monkeypatch.setattr(time, "time", lambda: earlier)
    assert answer(handler, function_url("POST", "/api/migrate", headers=BEARER))[0] == 401
    assert asked == ["secretsmanager:onward AWSCURRENT"] * 2
    assert tables(database) == []


def test_a_store_that_says_nothing_is_given_up_in_seconds_with_an_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As from within a VPC that has no endpoint for it."""
    made: list[Any] = []
    make = boto3.client

    def noted(*arguments: Any, **options: Any) -> Any:
        made.append(make(*arguments, **options))
        return made[-1]

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setattr(boto3, "client", noted)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        document = referring(DATABASE_URL="secretsmanager:app")({"action": "migrate"}, Context())
        silent.setblocking(False)
        assert connections(silent) == 2
    assert (document["success"], document["error"]["code"]) == (False, "not_configured")
    assert (
        "which cannot be used: ReadTimeoutError; inside a VPC, the store" in capsys.readouterr().out
    )
    (client,) = made
    longest = max(client.meta.config.connect_timeout, client.meta.config.read_timeout)
    assert 2 * longest <= 8


def connections(listening: socket.socket) -> int:
    """How many have come."""
    count = 0
    with suppress(BlockingIOError):
        while True:
            listening.accept()[0].close()
            count += 1
    return count


# template.yaml


class Tagged(yaml.SafeLoader):  # type: ignore[misc]
    """Reads `!Ref X` as {"!Ref": "X"}."""


def tagged(loader: Any, suffix: str, node: yaml.Node) -> dict[str, Any]:
    found = (
        loader.construct_scalar(node)
        if node.id == "scalar"
        else loader.construct_sequence(node, deep=True)
    )
    return {f"!{suffix}": found}


Tagged.add_multi_constructor("!", tagged)


def template() -> dict[str, Any]:
    """The functions by name, their common properties under `Globals`, and what the outputs are."""
    document = yaml.load((ROOT / "template.yaml").read_text(), Tagged)
    functions = {name: resource["Properties"] for name, resource in document["Resources"].items()}
    outputs = {name: output["Value"] for name, output in document["Outputs"].items()}
    return functions | {"Globals": document["Globals"]["Function"], "Outputs": outputs}


def test_no_stranger_can_use_up_the_instances_of_the_function_that_a_pipeline_invokes() -> None:
    found = template()
    common, outputs = found.pop("Globals"), found.pop("Outputs")
    public = [
        name
        for name, properties in found.items()
        if {"FunctionUrlConfig", "Events"} & set(properties)
    ]
    invoked = outputs["FunctionName"]["!Ref"]
    assert set(found) == {invoked, *public}
    assert invoked not in public
    assert outputs == {
        "FunctionName": {"!Ref": invoked},
        "Url": {"!GetAtt": f"{public[0]}Url.FunctionUrl"},
    }
    assert not {"FunctionUrlConfig", "ReservedConcurrentExecutions"} & set(common)
    reserved = {
        name: properties["ReservedConcurrentExecutions"] for name, properties in found.items()
    }
    assert reserved == {
        invoked: {"!If": ["ReservesConcurrency", 2, {"!Ref": "AWS::NoValue"}]},
        public[0]: {
            "!If": ["ReservesConcurrency", {"!Ref": "Concurrency"}, {"!Ref": "AWS::NoValue"}]
        },
    }


def test_only_the_function_that_asks_for_the_secret_has_it() -> None:
    found = template()
    variables = {
        name: set(found[name].get("Environment", {}).get("Variables", ())) for name in found
    }
    assert variables["Globals"] == {"MIGRATION_ENV", "MIGRATION_DATABASE_URL", "DATABASE_URL"}
    assert variables["PublicFunction"] == {"MIGRATION_SECRET", "MIGRATION_STATUS"}
    assert variables["Function"] == set()


def test_an_instance_without_a_secret_still_obeys_a_direct_event(database: Database) -> None:
    handler = Handler({"MIGRATION_ENV": "test", "DATABASE_URL": database.url})
    assert answer(handler, function_url("POST", "/api/migrate", headers=BEARER))[0] == 503
    assert handler({"action": "migrate"}, Context())["success"] is True
    assert history(database) == OURS
