"""What the two routes take: methods, paths, headers, the secret, the body. In this process, and
behind a real HTTP server where bytes matter.
"""

import gzip
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from lib.web.routes import create_app
from lib.web.service import Service
from tests.conftest import Database
from tests.kit import OURS, Capture, history, until
from tests.web.instance import (
    BEARER,
    JSON,
    MIGRATE,
    PREVIOUS,
    SECRET,
    STATUS,
    Reply,
    Start,
    environment,
    error_of,
    head_of,
    headers,
    serving,
    untouched,
    wire,
)

# Methods, paths, headers.


def test_other_methods_are_told_which_are_allowed_and_reach_no_database(
    wired: Callable[..., Reply],
) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "BREW"):
        for path in (STATUS, "/"):
            refused(wired(method, path, "Content-Length: 0", *headers(BEARER)), {"GET", "HEAD"})
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "BREW"):
        refused(wired(method, MIGRATE, "Content-Length: 0", *headers(BEARER)), {"POST"})


def refused(reply: Reply, allowed: set[str]) -> None:
    assert reply.status == 405
    assert set((reply.header("allow") or "").split(", ")) == allowed
    assert reply.header("cache-control") == "no-store"
    if reply.body:
        assert json.loads(reply.body)["error"]["code"] == "method_not_allowed"


def test_a_head_request_gets_the_status_without_a_body(wired: Callable[..., Reply]) -> None:
    for path, status in (
        (STATUS, 200),
        (f"{STATUS}?require=current", 503),
        ("/", 200),
        ("/?require=current", 503),
        ("/x", 404),
        (MIGRATE, 405),
    ):
        reply = wired("HEAD", path)
        assert (reply.status, reply.body) == (status, b"")


@pytest.mark.parametrize("path", [STATUS, f"{STATUS}?require=current", "/", "/x", MIGRATE])
def test_the_application_itself_sends_no_body_to_a_head_request(
    start: Start, database: Database, path: str
) -> None:
    """A test client drops what comes; a platform's runtime passes it on."""
    sent: list[Any] = []
    app = create_app(Service(environment(database)))

    async def spying(scope: Any, receive: Any, send: Any) -> None:
        async def note(message: Any) -> None:
            sent.append(message.get("body", b""))
            await send(message)

        await app(scope, receive, note)

    TestClient(spying).head(path)
    assert b"".join(sent) == b""


def test_a_preflight_gets_no_permission(wired: Callable[..., Reply]) -> None:
    for path in (STATUS, MIGRATE):
        for method in ("OPTIONS", "GET", "POST"):
            reply = wired(
                method, path, "Origin: https://evil.example", "Access-Control-Request-Method: POST"
            )
            assert not [
                name for name, _ in reply.headers if name.lower().startswith("access-control")
            ]


NOWHERE = [
    *(
        "/api",
        "/api/",
        f"{STATUS}/",
        f"{MIGRATE}/",
        "//",
        "/x",
        "/api/migrate.py",
        "/api/migration-status.py",
    ),
    *(
        "//api/migrate",
        "/api//migrate",
        "/api/./migrate",
        "/x/../api/migrate",
        "/API/MIGRATE",
        "/api/Migrate",
    ),
    *(
        "/api%2fmigrate",
        "/api%2Fmigrate",
        "/%61pi/migrate",
        "/api/migrate%0a",
        "/api/migrate%00",
        "/api/migrate%20",
    ),
    *(
        "/api/migrate;x",
        "/api\\migrate",
        "/api/migration-status%2f",
        "/%2e",
        "/.env",
        "/lib/web/routes.py",
        "/docs",
    ),
]


def test_no_other_path_leads_anywhere_or_redirects(wired: Callable[..., Reply]) -> None:
    for path in NOWHERE:
        for method in ("GET", "POST", "HEAD"):
            reply = wired(method, path, "Content-Length: 0", *headers(BEARER))
            assert (path, reply.status, reply.header("location")) == (path, 404, None)
            assert reply.header("cache-control") == "no-store"
            if method != "HEAD":
                assert json.loads(reply.body)["error"]["code"] == "not_found"


def test_headers_cannot_make_another_method_of_a_request(wired: Callable[..., Reply]) -> None:
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        assert wired("GET", MIGRATE, f"{name}: POST", *headers(BEARER)).status == 405


def test_a_request_id_from_outside_is_ignored(wired: Callable[..., Reply]) -> None:
    reply = wired("GET", STATUS, f"X-Request-Id: {'x' * 1024}")
    assert (reply.status, len(reply.header("x-request-id") or "")) == (200, 32)


# The secret.


def test_without_a_token_one_is_asked_for(start: Start, database: Database) -> None:
    response = start(database)("POST", MIGRATE)
    assert error_of(response) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert untouched(database)


WRONG = {
    "another": f"Bearer {PREVIOUS}",
    "its beginning": f"Bearer {SECRET[:-1]}",
    "its end": f"Bearer {SECRET[1:]}",
    "longer": f"Bearer {SECRET}x",
    "wrong at the start": f"Bearer x{SECRET[1:]}",
    "wrong at the end": f"Bearer {SECRET[:-1]}x",
    "upper case": f"Bearer {SECRET.upper()}",
    "empty": "Bearer ",
    "no token": "Bearer",
    "nothing": "",
    "undefined": "Bearer undefined",
    "null": "Bearer null",
    "not ASCII": "Bearer s\xe9cret",
    "another scheme": f"Basic {SECRET}",
    "without a scheme": SECRET,
    "two in one": f"Bearer {SECRET},Bearer {SECRET}",
    "two words": f"Bearer {SECRET} {SECRET}",
    "a tab": f"Bearer\t{SECRET}",
    "a tab behind a space": f"Bearer \t{SECRET}",
    "a tab and a space": f"Bearer\t {SECRET}",
    "only spaces": f"Bearer {' ' * 100}",
    "a space in it": f"Bearer {SECRET[:20]} {SECRET[20:]}",
    "quoted": f'Bearer "{SECRET}"',
    "long": f"Bearer {SECRET}" + "x" * 40_000,
}


def test_whatever_is_wrong_with_a_token_the_answer_is_the_same(wired: Callable[..., Reply]) -> None:
    replies = [
        wired("POST", MIGRATE, f"Authorization: {value}", "Content-Length: 0")
        for value in WRONG.values()
    ]
    assert {reply.status for reply in replies} == {401}
    assert {reply.header("www-authenticate") for reply in replies} == {
        'Bearer error="invalid_token"'
    }
    assert len({reply.body for reply in replies}) == 1


def test_a_header_of_any_size_is_refused_and_does_no_harm(wired: Callable[..., Reply]) -> None:
    assert wired(
        "POST", MIGRATE, f"Authorization: Bearer {'x' * 65_000}", "Content-Length: 0"
    ).status in (
        400,
        401,
        431,
    )


def test_a_second_authorization_header_is_refused_beside_the_right_one_too(
    wired: Callable[..., Reply],
) -> None:
    right, wrong = headers(BEARER)[0], "Authorization: Bearer x"
    for pair in ((right, wrong), (wrong, right), (right, right)):
        assert wired("POST", MIGRATE, *pair, "Content-Length: 0").status == 401


def test_the_secret_counts_in_its_header_alone(start: Start, database: Database) -> None:
    instance = start(database)
    assert instance("POST", f"{MIGRATE}?token={SECRET}&secret={SECRET}").status_code == 401
    for name in ("X-Migration-Secret", "Proxy-Authorization"):
        assert instance("POST", MIGRATE, headers={name: f"Bearer {SECRET}"}).status_code == 401
    instance.client.cookies.set("token", "canary-cookie")
    assert instance("POST", MIGRATE, json={"token": SECRET}).status_code == 401
    assert untouched(database)


def test_the_name_of_the_scheme_may_be_written_in_any_case(
    start: Start, migrated: Database
) -> None:
    for scheme in ("bearer", "BEARER"):
        assert start(migrated).post(Authorization=f"{scheme} {SECRET}").status_code == 200


def test_between_scheme_and_token_there_may_be_several_spaces(
    start: Start, migrated: Database
) -> None:
    assert [
        start(migrated).post(Authorization=f"Bearer{' ' * n}{SECRET}").status_code
        for n in (1, 2, 9)
    ] == [200] * 3


def test_during_a_rotation_both_secrets_count_and_the_log_names_the_slot(
    start: Start, migrated: Database
) -> None:
    instance = start(migrated, MIGRATION_SECRET_PREVIOUS=PREVIOUS)
    tokens = (SECRET, PREVIOUS, f"{PREVIOUS}x")
    answers = [instance.post(Authorization=f"Bearer {token}").status_code for token in tokens]
    assert answers == [200, 200, 401]
    assert [entry.get("secret") for entry in instance.log()] == ["current", "previous", None]
    instance = start(migrated)
    assert instance.post(Authorization=f"Bearer {PREVIOUS}").status_code == 401
    assert history(migrated) == OURS


UNUSABLE = {
    "missing": ("", "", "MIGRATION_SECRET"),
    "blank": (" \n", "", "MIGRATION_SECRET"),
    "short": ("canary-canary-canary-canary-can", "", "MIGRATION_SECRET"),
    "long": ("canary" * 200, "", "MIGRATION_SECRET"),
    "previous alone": ("", PREVIOUS, "MIGRATION_SECRET"),
    "previous short": (SECRET, "canary", "MIGRATION_SECRET_PREVIOUS"),
    "monotonous": ("canary-" * 6, "", "MIGRATION_SECRET"),
    "previous monotonous": (SECRET, "canary-" * 6, "MIGRATION_SECRET_PREVIOUS"),
    "a reference": ("secretsmanager:canary#migration-secret", "", "MIGRATION_SECRET"),
    "previous a reference": (
        SECRET,
        "ssm:/canary/migration-secret-of-before",
        "MIGRATION_SECRET_PREVIOUS",
    ),
    "a template": ("${CANARY_MIGRATION_SECRET_OF_PRODUCTION}", "", "MIGRATION_SECRET"),
}


@pytest.mark.parametrize(("current", "previous", "variable"), UNUSABLE.values(), ids=list(UNUSABLE))
def test_an_unusable_secret_closes_the_route_and_only_the_log_names_it(
    start: Start, database: Database, current: str, previous: str, variable: str
) -> None:
    instance = start(database, MIGRATION_SECRET=current, MIGRATION_SECRET_PREVIOUS=previous)
    for token in (current.strip(), previous, "", "undefined"):
        response = instance.post(Authorization=f"Bearer {token}")
        assert error_of(response) == (503, "not_configured")
        assert "MIGRATION_SECRET" not in response.text
        (entry,) = instance.log()
        assert entry["reason"].split()[0] == variable
    assert untouched(database)
    assert instance.status().status_code == 200


def test_what_a_shell_put_around_a_secret_does_not_count(start: Start, migrated: Database) -> None:
    assert start(migrated, MIGRATION_SECRET=f" {SECRET}\n").post().status_code == 200


def test_a_secret_need_not_be_ascii(migrated: Database) -> None:
    secret = "sécret-of-this-test-" * 3
    with serving(Service(environment(migrated, MIGRATION_SECRET=secret))) as port:
        head = head_of("POST", MIGRATE, "Content-Length: 0", "Authorization: Bearer ").encode()
        assert wire(port, head.replace(b"Bearer ", b"Bearer " + secret.encode())).status == 200


def test_guessing_reaches_no_database(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = (
            f"postgresql://someone:canary-password@127.0.0.1:{listener.getsockname()[1]}/somewhere"
        )
        instance = start(Database("somewhere", url))
        for number in range(100):
            assert instance.post(Authorization=f"Bearer {number}").status_code == 401
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert [entry["outcome"] for entry in instance.log()] == ["unauthorized"] * 100


# The body.

BAD_JSON = {
    "cut off": b'{"action": "mig',
    "not UTF-8": b'{"action": "\xff"}',
    "UTF-16": '{"action": "status"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"action": "status"}',
    "deep": b"[" * 4000,
    "deep in an object": b'{"a":' * 800,
    "a constant": b"NaN",
    "a constant in an object": b'{"action": Infinity}',
    "a key twice": b'{"action": "status", "action": "migrate"}',
    "a key twice, further in": b'{"x": {"action": "status", "action": "migrate"}}',
    "two documents": b"{}{}",
    "a form": b"action=migrate",
    "XML": b"<migrate/>",
}
BAD_REQUESTS: dict[str, Any] = {
    "a list": [],
    "a list of one": [{"action": "migrate"}],
    "a word": "migrate",
    "nothing": None,
    "false": False,
    "a number": 0,
    "a long number": 10**3900,
    "an unknown action": {"action": "rollback"},
    "an action in upper case": {"action": "MIGRATE"},
    "an empty action": {"action": ""},
    "no action": {"action": None},
    "a list of actions": {"action": ["migrate"]},
    "an object for an action": {"action": {"migrate": True}},
    "half a character": {"action": "\ud800"},
    "another key": {"dryRun": True},
    "another key beside it": {"action": "migrate", "force": True},
    "SQL": {"action": "migrate", "sql": "DROP TABLE users"},
    "SQL for an action": {"action": "migrate; DROP TABLE users"},
    "a URL": {"action": "migrate", "url": "postgresql://canary@elsewhere/x"},
    "a path": {"action": "migrate", "directory": "/etc"},
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=list(BAD_JSON))
def test_what_is_not_json_runs_nothing(start: Start, database: Database, body: bytes) -> None:
    response = start(database)("POST", MIGRATE, content=body, headers=JSON)
    assert error_of(response) == (400, "invalid_json")
    assert untouched(database)


@pytest.mark.parametrize("document", BAD_REQUESTS.values(), ids=list(BAD_REQUESTS))
def test_what_is_not_exactly_a_request_runs_nothing(
    start: Start, database: Database, document: Any
) -> None:
    assert error_of(
        start(database)("POST", MIGRATE, content=json.dumps(document), headers=JSON)
    ) == (
        400,
        "invalid_request",
    )
    assert untouched(database)


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
def test_a_body_of_another_type_is_refused(start: Start, database: Database, kind: str) -> None:
    response = start(database)(
        "POST", MIGRATE, content=b"{}", headers=BEARER | {"Content-Type": kind}
    )
    assert error_of(response) == (415, "unsupported_type")
    assert untouched(database)


def test_a_compressed_body_is_not_unpacked(start: Start, database: Database) -> None:
    for encoding in ("gzip", "deflate", "br", "identity, gzip"):
        body = gzip.compress(b"{}" + b" " * 1_000_000)
        response = start(database)(
            "POST", MIGRATE, content=body, headers=JSON | {"Content-Encoding": encoding}
        )
        assert error_of(response) == (415, "unsupported_encoding")
    assert untouched(database)


def test_the_type_may_say_its_characters(start: Start, migrated: Database) -> None:
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        assert (
            start(migrated).post({"action": "status"}, **{"Content-Type": kind}).status_code == 200
        )


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_not_read_to_its_end(
    wired: Callable[..., Reply], chunked: bool
) -> None:
    length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 1000000000"
    piece = " " * 5000
    body = f"1388\r\n{piece}\r\n" if chunked else piece
    reply = wired(
        "POST", MIGRATE, *headers(JSON), length, body=body
    )  # and what was announced never comes
    assert (reply.status, json.loads(reply.body)["error"]["code"]) == (413, "too_large")


def test_a_body_has_4096_bytes_at_most(start: Start, database: Database) -> None:
    instance, document = start(database), b'{"action": "status"}'
    answers = [
        instance("POST", MIGRATE, content=document.ljust(length), headers=JSON)
        for length in (4096, 4097)
    ]
    assert (answers[0].status_code, answers[0].json()["pendingMigrations"]) == (200, 3)
    assert error_of(answers[1]) == (413, "too_large")
    assert untouched(database)


def test_a_body_in_chunks_is_put_together(database: Database) -> None:
    with serving(Service(environment(database))) as port:
        body = '9\r\n{"action"\r\n9\r\n:"status"\r\n1\r\n}\r\n0\r\n\r\n'
        reply = wire(
            port, head_of("POST", MIGRATE, *headers(JSON), "Transfer-Encoding: chunked") + body
        )
    assert (reply.status, json.loads(reply.body)["pendingMigrations"]) == (200, 3)
    assert untouched(database)


def test_the_secret_is_asked_for_before_the_body_is_looked_at(
    start: Start, database: Database
) -> None:
    instance = start(database)
    for options in (
        {"content": b"x" * 10_000},
        {"content": b"{"},
        {"headers": {"Content-Encoding": "gzip"}},
    ):
        assert instance("POST", MIGRATE, **options).status_code == 401
    assert untouched(database)


def test_who_hangs_up_before_the_body_is_there_runs_nothing(
    database: Database, capsys: Capture
) -> None:
    with serving(Service(environment(database))) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                head_of("POST", MIGRATE, *headers(JSON), "Content-Length: 100").encode() + b"{}"
            )
        entry = json.loads(until(lambda: capsys.readouterr().out))
    assert (entry["outcome"], entry["status"]) == ("disconnected", 400)
    assert untouched(database)
