"""The Lambda handler in this process: every shape of event; the databases are real."""

import base64
import json
from typing import Any

import pytest

from lib.aws.function import Handler, UnknownEvent
from lib.runner import SHUTDOWN_MARGIN_SECONDS
from tests.aws.instance import Context, Event, Request, answer, configuration, function
from tests.conftest import Database, Server
from tests.kit import BEARER, OURS, SECRET, Write, history, nothing_is_left_running, tables
from tests.platform.lambda_runtime import function_url, http_api, load_balancer, rest_api

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
@pytest.mark.slow
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


def test_a_browser_gets_the_page_as_text(migrated: Database, request_by: Request) -> None:
    for path in ("/", "/api/migration-status", "/onward/api/migration-status"):
        event = request_by("GET", path, headers={"accept": "text/html,*/*;q=0.8"})
        response = function(migrated)(event, Context())
        assert (response["statusCode"], response["isBase64Encoded"]) == (200, False)
        assert response["body"].startswith("<!doctype html>")
        assert "Up to date" in response["body"]
    assert history(migrated) == OURS


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


def test_a_load_balancer_that_wants_lists_gets_them_with_a_400_too() -> None:
    event = load_balancer("GET", "/", headers={"host": "a:1:2"}, several=True)
    assert Handler({})(event, Context())["multiValueHeaders"]["Content-Type"] == [
        "application/json"
    ]


# Direct events, and those that are neither.


def test_a_direct_event_returns_what_the_route_answers(server: Server, database: Database) -> None:
    handler = function(database)
    other = server.create()
    direct, posted = handler({"action": "status"}, Context()), _posted(handler, "status")
    assert direct.pop("asOf") <= posted.pop("asOf")
    assert direct == posted
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
    noting = (
        "INSERT INTO limits VALUES (extract(epoch"
        " FROM current_setting('statement_timeout')::interval))"
    )
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


@pytest.mark.slow
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


def test_an_instance_without_a_secret_still_obeys_a_direct_event(database: Database) -> None:
    handler = Handler({"MIGRATION_ENV": "test", "DATABASE_URL": database.url})
    assert answer(handler, function_url("POST", "/api/migrate", headers=BEARER))[0] == 503
    assert handler({"action": "migrate"}, Context())["success"] is True
    assert history(database) == OURS
