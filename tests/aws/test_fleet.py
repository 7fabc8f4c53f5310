"""The function as a fleet's worker: events with tenants in them; the databases are real."""

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from lib.aws.fleet import MAX_MESSAGE, TenantsBehind, TenantsBusy, TenantsFailed
from lib.aws.function import Handler
from lib.errors import ConfigError
from lib.imported import Imported, ImportedFile, imported_text
from tests.aws.instance import Context, Event
from tests.conftest import Database, Server
from tests.kit import LOCK, ONE, OURS, Capture, Write, history, holding, tables

FLEET = {"MIGRATION_ENV": "test", "MIGRATION_FLEET": "1"}
LOCKED = f"SELECT pg_advisory_xact_lock({LOCK})"
BROKEN = {"003-broken.sql": "CREATE TABLE broken ();\nSELECT nothing FROM nowhere;\n"}


@pytest.fixture(autouse=True)
def password(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of the server's URL, which no inventory holds."""
    monkeypatch.setenv("PGPASSWORD", urlsplit(server.url).password or "")


def tenant(database: Database, name: str = "") -> dict[str, str]:
    """A database's line."""
    parts = urlsplit(database.url)
    netloc = f"{parts.username}@{parts.hostname}:{parts.port}"
    return {"tenant": name or database.name, "url": parts._replace(netloc=netloc).geturl()}


def event(*tenants: dict[str, str], action: str = "migrate", **more: str) -> Event:
    head = {"environment": "test", "head": OURS[-1]}
    return {"action": action, **head, "tenants": list(tenants), **more}


def worker(**environ: str) -> Handler:
    return Handler(FLEET | environ)


def found(error: pytest.ExceptionInfo[Exception]) -> list[dict[str, Any]]:
    """The tenants that are not fine."""
    listed: list[dict[str, Any]] = json.loads(str(error.value))
    return [{key: one[key] for key in one.keys() - {"ms"}} for one in listed]


def test_each_tenant_is_migrated_once_and_then_is_current(
    server: Server, database: Database, migrated: Database
) -> None:
    pair = tenant(database), tenant(migrated)
    answer = worker()(event(*pair), Context())
    assert [(one["outcome"], one["applied"], one["version"]) for one in answer["tenants"]] == [
        ("migrated", 3, OURS[-1]),
        ("current", 0, OURS[-1]),
    ]
    assert all(one["ms"] > 0 for one in answer["tenants"])
    for action in ("migrate", "status"):
        answer = worker()(event(*pair, action=action), Context())
        assert [one["outcome"] for one in answer["tenants"]] == ["current", "current"]
    assert history(database) == history(migrated) == OURS
    audit = "SELECT DISTINCT applied_by, environment FROM schema_migrations"
    assert database.execute(audit) == [("lambda", "test")]


def test_a_look_writes_nothing_and_raises_for_what_is_behind(
    database: Database, migrated: Database
) -> None:
    with pytest.raises(TenantsBehind) as behind:
        worker()(event(tenant(migrated), tenant(database, "acme"), action="status"), Context())
    assert found(behind) == [{"tenant": "acme", "outcome": "pending", "applied": 0}]
    assert tables(database) == []


def test_a_failing_tenant_does_not_stop_the_next_one_and_tells_no_words(
    server: Server, database: Database, migrations: Write, capsys: Capture
) -> None:
    other = server.create()
    other.execute("CREATE TABLE nowhere (nothing int)")
    directory = str(migrations(BROKEN))
    handler = worker(MIGRATION_DIR=directory, MIGRATION_ALLOW_NONEMPTY="1")
    sick, well = tenant(database, "sick"), tenant(other, "well")
    with pytest.raises(TenantsFailed) as failed:
        handler(event(sick, well, head="003-broken"), Context())
    assert found(failed) == [
        {
            "tenant": "sick",
            "outcome": "migration_failed",
            "version": "003-broken",
            "applied": 0,
            "sqlstate": "42P01",
            "line": 2,
        }
    ]
    assert (tables(database), history(other)) == ([], ["003-broken"])
    logged = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["tenant"], line["outcome"]) for line in logged] == [
        ("sick", "migration_failed"),
        ("well", "ok"),
    ]
    server.drop(other)


def test_what_was_applied_before_a_file_failed_is_counted(
    database: Database, migrations: Write
) -> None:
    handler = worker(MIGRATION_DIR=str(migrations(ONE | BROKEN)))
    with pytest.raises(TenantsFailed) as failed:
        handler(event(tenant(database), head="003-broken"), Context())
    assert [(one["version"], one["applied"]) for one in found(failed)] == [("003-broken", 1)]
    assert (tables(database), history(database)) == (["one"], ["001-one"])


def test_a_tenant_whose_history_is_taken_over_is_migrated(
    database: Database, migrations: Write
) -> None:
    database.execute(
        "CREATE TABLE one (id int); CREATE SCHEMA theirs;"
        "CREATE TABLE theirs.versions (version text); INSERT INTO theirs.versions VALUES ('1')"
    )
    of_dbmate = (ImportedFile("one", "1", "001-one"),)
    document = imported_text(Imported("dbmate", "theirs.versions", None, of_dbmate))
    handler = worker(MIGRATION_DIR=str(migrations({**ONE, "imported.json": document})))
    for outcome in ("migrated", "current"):
        [answer] = handler(event(tenant(database), head="001-one"), Context())["tenants"]
        assert (answer["outcome"], answer["applied"]) == (outcome, 0)
    assert (tables(database), history(database)) == (["one", "theirs.versions"], ["001-one"])


def test_a_tenant_that_is_locked_is_worth_another_try(database: Database) -> None:
    with holding(database, LOCKED), pytest.raises(TenantsBusy) as busy:
        worker()(event(tenant(database)), Context())
    assert [one["outcome"] for one in found(busy)] == ["busy"]
    assert tables(database) == []
    worker()(event(tenant(database)), Context())
    assert history(database) == OURS


def test_one_that_is_busy_among_others_that_failed_makes_it_failed(
    server: Server, database: Database
) -> None:
    other = server.create()
    other.execute("CREATE TABLE theirs ()")
    with holding(database, LOCKED), pytest.raises(TenantsFailed) as failed:
        worker()(event(tenant(database), tenant(other)), Context())
    assert [one["outcome"] for one in found(failed)] == ["busy", "not_empty"]
    assert (tables(database), tables(other)) == ([], ["theirs"])
    server.drop(other)


@pytest.mark.slow
@pytest.mark.parametrize("action", ["migrate", "status"])
def test_a_host_that_does_not_answer_is_asked_once(
    migrated: Database, action: str, capsys: Capture
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"postgresql://127.0.0.1:{nobody.getsockname()[1]}/"
        dead = [{"tenant": f"dead-{number}", "url": f"{url}{number}"} for number in range(3)]
        with pytest.raises(TenantsBusy) as busy:
            worker()(event(*dead, tenant(migrated), action=action), Context())
    outcomes = {one["tenant"]: one["outcome"] for one in found(busy)}
    assert outcomes.pop("dead-0") == "database_unavailable"
    assert {outcomes.pop("dead-1"), outcomes.pop("dead-2")} == {"not_reached"}
    logged = [json.loads(line)["tenant"] for line in capsys.readouterr().out.splitlines()]
    assert logged == ["dead-0", migrated.name]
    assert history(migrated) == OURS


def test_a_tenant_with_a_schema_gets_its_tables_there_and_its_own_history(
    server: Server, database: Database, migrations: Write
) -> None:
    database.execute("CREATE SCHEMA a; CREATE SCHEMA b")
    handler = worker(MIGRATION_DIR=str(migrations({"001-one.sql": "CREATE TABLE one ();"})))
    pair = [tenant(database, name) | {"schema": name} for name in ("a", "b")]
    for outcome in ("migrated", "current"):
        answer = handler(event(*pair, head="001-one"), Context())
        assert [one["outcome"] for one in answer["tenants"]] == [outcome] * 2
    assert tables(database) == ["a.one", "b.one"]
    for schema in ("a", "b"):
        assert history(database, f"{schema}.schema_migrations") == ["001-one"]


def test_a_database_that_is_not_there_is_its_tenants_own_failure(
    server: Server, migrated: Database
) -> None:
    gone = tenant(server.database("no_such_database"))
    with pytest.raises(TenantsFailed) as failed:
        worker()(event(gone, tenant(migrated)), Context())
    assert [(one["outcome"], one["sqlstate"]) for one in found(failed)] == [
        ("database_unavailable", "3D000")
    ]
    assert history(migrated) == OURS


def test_a_copy_of_another_environments_template_is_refused(
    server: Server, database: Database
) -> None:
    directory = {"MIGRATION_ENV": "staging"}
    worker(**directory)(event(tenant(database), environment="staging"), Context())
    database.execute("DELETE FROM schema_migrations WHERE version = '002-add-reset-token-fields'")
    copy = server.create(template=database.name)
    with pytest.raises(TenantsFailed) as failed:
        worker()(event(tenant(copy)), Context())
    assert [one["outcome"] for one in found(failed)] == ["wrong_environment"]
    assert history(copy) == OURS[:2]
    server.drop(copy)


def test_with_less_than_five_seconds_left_no_tenant_is_begun(database: Database) -> None:
    with pytest.raises(TenantsBusy) as busy:
        worker()(event(tenant(database, "acme")), Context(seconds=4.9))
    assert found(busy) == [{"tenant": "acme", "outcome": "not_reached", "applied": 0}]
    assert tables(database) == []


@pytest.mark.parametrize(
    ("more", "outcome"),
    [({"environment": "production"}, "wrong_environment"), ({"head": "001-x"}, "another_bundle")],
)
@pytest.mark.parametrize("action", ["migrate", "status"])
def test_another_environment_and_another_bundle_are_refused(
    database: Database, more: dict[str, str], outcome: str, action: str
) -> None:
    kind = TenantsFailed if action == "migrate" else TenantsBehind
    with pytest.raises(kind) as refused:
        worker()(event(tenant(database), action=action, **more), Context())
    assert [one["outcome"] for one in found(refused)] == [outcome]
    assert tables(database) == []


def test_a_function_that_is_not_a_fleets_touches_no_tenant(database: Database) -> None:
    for value in ("", "0"):
        with pytest.raises(ConfigError, match="MIGRATION_FLEET"):
            worker(MIGRATION_FLEET=value)(event(tenant(database)), Context())
    assert tables(database) == []


@pytest.mark.parametrize(
    "change",
    [
        {"tenants": []},
        {"tenants": None},
        {"tenants": ["acme"]},
        {"tenants": [{"tenant": "acme"}]},
        {"action": "validate"},
        {"action": ["migrate"]},
        {"secret": "x"},
    ],
)
def test_an_event_with_tenants_that_is_not_readable_fails(
    database: Database, change: Event
) -> None:
    with pytest.raises(ConfigError):
        worker()(event(tenant(database)) | change, Context())
    with pytest.raises(ConfigError):
        worker()({"action": "migrate", "tenants": [tenant(database)]}, Context())
    assert tables(database) == []


def test_the_functions_own_database_is_no_tenants(database: Database, migrated: Database) -> None:
    handler = worker(DATABASE_URL=database.url, POSTGRES_URL=database.url)
    handler(event(tenant(migrated)), Context())
    assert (tables(database), history(migrated)) == ([], OURS)


def test_a_tenants_secret_is_looked_up_and_shown_nowhere(
    server: Server, database: Database, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delenv("PGPASSWORD")
    parts = urlsplit(database.url)
    known = json.dumps({"username": parts.username, "password": parts.password})
    stored = {"secretsmanager:c1": known, "secretsmanager:gone": "wrong-canary-of-a-password"}
    monkeypatch.setattr("lib.aws.secrets.read_secret", lambda name, _: stored[name])
    line = tenant(database) | {"secret": "secretsmanager:c1"}
    answer = worker()(event(line), Context())
    assert [one["outcome"] for one in answer["tenants"]] == ["migrated"]
    with pytest.raises(TenantsFailed) as failed:
        worker()(event(line | {"secret": "secretsmanager:gone"}), Context())
    assert [one["outcome"] for one in found(failed)] == ["not_configured"]
    assert "canary-of-a-password" not in str(failed.value) + "".join(capsys.readouterr())
    assert history(database) == OURS


def test_a_tenants_url_may_be_a_reference_and_is_not_logged(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Nor is its password where an error that nobody has foreseen quotes it."""

    def quoting(*_: object, **__: object) -> None:
        raise ValueError(f"cannot use {urlsplit(database.url).password}")

    monkeypatch.setattr("lib.aws.secrets.read_secret", lambda *_: database.url)
    line = {"tenant": "acme", "url": "secretsmanager:acme"}
    answer = worker()(event(line), Context())
    assert [one["outcome"] for one in answer["tenants"]] == ["migrated"]
    monkeypatch.setattr("lib.runner.run", quoting)
    with pytest.raises(TenantsFailed) as failed:
        worker()(event(line), Context())
    assert [one["outcome"] for one in found(failed)] == ["internal"]
    logged = "".join(capsys.readouterr())
    assert "ValueError: cannot use" in logged
    assert str(urlsplit(database.url).password) not in logged + str(failed.value)
    assert history(database) == OURS


def test_the_message_of_many_that_failed_stays_json_and_short(database: Database) -> None:
    many = [
        tenant(database, f"tenant-{number}") | {"url": f"ssm:/{number}"} for number in range(999)
    ]
    with pytest.raises(TenantsFailed) as failed:
        worker()(event(*many, head="another"), Context())
    assert MAX_MESSAGE / 2 < len(str(failed.value)) <= MAX_MESSAGE
    assert found(failed)[0]["tenant"] == "tenant-0"
    assert tables(database) == []
