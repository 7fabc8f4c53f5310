"""Secrets that moto keeps: what refers to them, rotations, and how often a store is asked; the
databases are real.
"""

import asyncio
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import httpx2
import pytest
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count

from lib.aws.function import Handler
from lib.aws.secrets import SecretReferences, _client, read_secret
from lib.web.routes import create_app
from lib.web.service import Service
from tests.aws.instance import Context, answer, function
from tests.conftest import Database, Server
from tests.kit import BEARER, OURS, SECRET, history, login, role, tables
from tests.platform.lambda_runtime import function_url
from tests.proxy import Proxy, proxied

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _new_clients() -> None:
    """No client of another test's, whose account and endpoint are gone."""
    _client.cache_clear()


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
def test_what_cannot_be_used_is_named_by_its_reference_and_never_shown(
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


def test_who_has_no_secret_is_refused_before_a_url_is_resolved(aws: None) -> None:
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


def test_a_status_without_its_secret_does_not_ask_the_store_each_time(
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


def test_a_minute_later_the_secrets_of_other_databases_are_forgotten(
    aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve, began = SecretReferences(), time.time()
    for number in range(6):
        url = f"postgresql://app:canary-of-a-password-{number}@db{number}.example/app"
        store(f"tenant-{number}", url)
        monkeypatch.setattr(time, "time", lambda at=began + 25 * number: at)
        variables = {"DATABASE_URL": f"secretsmanager:tenant-{number}"}
        assert next(resolve(variables, ["DATABASE_URL"]))["DATABASE_URL"] == url
    kept = repr(vars(resolve)) + repr([reply._latest.result() for _, reply in replies(resolve)])
    assert [number for number in range(6) if f"canary-of-a-password-{number}" in kept] == [3, 4, 5]


def replies(resolve: SecretReferences) -> list[tuple[float, Any]]:
    return list(resolve._replies.values())


def test_a_secret_that_was_forgotten_meanwhile_is_read_again(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store("app", "postgresql://me:canary-of-a-password@db.example/app")
    resolve, began = SecretReferences(), time.time()
    variables = {"DATABASE_URL": "secretsmanager:app"}
    assert len(list(resolve(variables, ["DATABASE_URL"]))) == 1
    asking = resolve(variables, ["DATABASE_URL"])
    next(asking)
    store("other", "postgresql://me:canary-of-a-password@db.example/other")
    monkeypatch.setattr(time, "time", lambda: began + 61)
    next(resolve({"DATABASE_URL": "secretsmanager:other"}, ["DATABASE_URL"]))
    assert list(asking) == []
    assert asked.count("secretsmanager:app AWSCURRENT") == 2


def test_a_store_has_one_client(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = boto3.client

    def noted(service: str, **options: Any) -> Any:
        made.append(service)
        return make(service, **options)

    for number in range(3):
        store(f"app-{number}", "x")
    monkeypatch.setattr(boto3, "client", noted)
    assert [read_secret(f"secretsmanager:app-{n}", "AWSCURRENT") for n in range(3)] == ["x"] * 3
    assert made == ["secretsmanager"]


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
