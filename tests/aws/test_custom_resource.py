"""CloudFormation's requests in this process: each is answered, and only to AWS. The receiver stands
for the bucket of S3's that the answers go to.
"""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lib.aws.custom_resource import (
    ANSWER_SECONDS,
    PHYSICAL_ID,
    RETURN_SECONDS,
    NotAnswered,
    ResponseRefused,
    respond,
)
from lib.aws.function import Handler
from lib.postgres.lock import TURN_KEY
from tests.aws.instance import Context, configuration
from tests.conftest import Database
from tests.kit import (
    BEARER,
    FIVE,
    KANARIE,
    LOCK,
    ONE,
    OURS,
    TWO,
    Write,
    changed,
    everything,
    history,
    holding,
    recorded,
    run,
    tables,
    until,
)
from tests.platform.lambda_runtime import SIGNED, function_url, stack_request
from tests.receiver import BREAKS_OFF, Receiver, receiving

HERE = re.compile(r"127\.0\.0\.1:\d+")


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving(tmp_path) as found:
        monkeypatch.setenv("SSL_CERT_FILE", str(found.certificate))
        yield found


def instance(database: Database, files: Path | None = None, **environ: str) -> Handler:
    """A new instance of a function, which may answer to this machine."""
    directory = {"MIGRATION_DIR": str(files)} if files else {}
    return Handler(configuration(database) | directory | environ, response_hosts=HERE)


def send(
    receiver: Receiver,
    kind: str,
    database: Database,
    files: Path | None = None,
    context: Context = Context(),  # noqa: B008 - it is never changed
    **environ: str,
) -> dict[str, Any]:
    """Send a request to a new instance; the document that CloudFormation got."""
    instance(database, files, **environ)(stack_request(kind, receiver.host), context)
    return receiver.documents[-1]


def test_create_and_update_migrate_and_say_how_many_were_applied(
    receiver: Receiver, database: Database, migrations: Write
) -> None:
    created = send(receiver, "Create", database, migrations(ONE))
    updated = send(receiver, "Update", database, migrations(TWO))
    assert created == {
        "Status": "SUCCESS",
        "Reason": "1 applied",
        "PhysicalResourceId": "onward-migrations",
        "StackId": "arn:aws:cloudformation:eu-west-1:123456789012:stack/app/5f1c",
        "RequestId": "of-Create",
        "LogicalResourceId": "Migrations",
        "Data": {"Applied": "1"},
    }
    assert updated == created | {"RequestId": "of-Update"}
    assert history(database) == ["001-one", "002-two"]
    assert database.execute("SELECT DISTINCT applied_by FROM schema_migrations") == [("lambda",)]


def test_the_answer_is_a_put_to_the_signed_path_with_an_empty_type(
    receiver: Receiver, migrated: Database
) -> None:
    send(receiver, "Update", migrated)
    [sent] = receiver.received
    assert (sent.method, sent.path, sent.headers["Content-Type"]) == ("PUT", SIGNED, "")
    assert int(sent.headers["Content-Length"]) == len(sent.body) <= 4096
    assert history(migrated) == OURS


def test_delete_changes_nothing_and_needs_no_database(
    receiver: Receiver, database: Database, migrations: Write
) -> None:
    send(receiver, "Create", database, migrations(ONE))
    here = send(receiver, "Delete", database, migrations(TWO))
    gone = send(receiver, "Delete", changed(database, port="1"), MIGRATION_ENV="")
    assert [one["Status"] for one in (here, gone)] == ["SUCCESS", "SUCCESS"]
    assert (tables(database), history(database)) == (["one"], ["001-one"])


def test_a_failed_file_is_told_by_its_place_and_without_rows(
    receiver: Receiver, database: Database, migrations: Write
) -> None:
    files = {**ONE, "002-bad.sql": f"SELECT 1;\nSELECT '{KANARIE}'::int;"}
    answer = send(receiver, "Update", database, migrations(files))
    assert answer["Status"] == "FAILED"
    assert answer["Reason"].startswith("migration_failed: A migration failed")
    assert answer["Reason"].endswith("(version 002-bad, sqlstate 22P02, line 2)")
    assert KANARIE not in str(answer)
    assert (tables(database), history(database)) == (["one"], ["001-one"])


def test_an_older_bundle_on_a_newer_database_succeeds(
    receiver: Receiver, database: Database, migrations: Write
) -> None:
    run(database, migrations(TWO), MIGRATION_ENV="test")
    (migrations({}) / "002-two.sql").unlink()
    answer = send(receiver, "Update", database, migrations(ONE))
    assert (answer["Status"], answer["Data"]) == ("SUCCESS", {"Applied": "0"})
    assert history(database) == ["001-one", "002-two"]


def test_a_file_that_was_changed_afterwards_fails(
    receiver: Receiver, database: Database, migrations: Write
) -> None:
    send(receiver, "Create", database, migrations(ONE))
    answer = send(receiver, "Update", database, migrations({"001-one.sql": "SELECT 1;"}))
    assert (answer["Status"], answer["Reason"].partition(":")[0]) == ("FAILED", "history_conflict")
    assert (tables(database), history(database)) == (["one"], ["001-one"])


def test_a_run_that_did_not_come_to_its_end_is_a_failure(
    receiver: Receiver, database: Database, migrations: Write
) -> None:
    context = Context(seconds=ANSWER_SECONDS + 3.9)
    answer = send(receiver, "Update", database, migrations(FIVE), context)
    assert (answer["Status"], answer["Reason"]) == ("FAILED", "incomplete: 5 left, deploy again")
    assert tables(database) == []


def test_a_function_with_too_little_time_says_so(receiver: Receiver, database: Database) -> None:
    answer = send(receiver, "Create", database, context=Context(seconds=ANSWER_SECONDS))
    assert (answer["Status"], answer["Reason"].partition(":")[0]) == ("FAILED", "not_configured")
    assert tables(database) == []


def test_a_run_waits_for_another_one_to_finish(
    receiver: Receiver, database: Database, migrations: Write
) -> None:
    handler, event = instance(database, migrations(ONE)), stack_request("Update", receiver.host)
    with ThreadPoolExecutor(1) as pool:
        with holding(database, f"SELECT pg_advisory_xact_lock({LOCK})"):
            sent = pool.submit(handler, event, Context())
            until(lambda: sent.done() or waiting(database))
            assert not sent.done()
        assert sent.result()["Reason"] == "1 applied"
    assert history(database) == ["001-one"]


def waiting(database: Database) -> bool:
    """Whether a run has been refused the lock, and has its turn."""
    query = (
        "SELECT 1 FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
        " WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.granted"
        " AND l.classid::bigint << 32 | l.objid::bigint = %s"
    )
    return bool(database.execute(query, [TURN_KEY]))


@pytest.mark.slow
def test_a_run_that_waits_in_vain_answers_in_time(
    receiver: Receiver, database: Database, migrations: Write
) -> None:
    context = Context(seconds=ANSWER_SECONDS + 6.0)
    with holding(database, f"SELECT pg_advisory_xact_lock({LOCK})"):
        answer = send(receiver, "Update", database, migrations(ONE), context)
    assert (answer["Status"], answer["Reason"].partition(":")[0]) == ("FAILED", "busy")
    assert tables(database) == []


@pytest.mark.parametrize(
    "error", [ValueError(KANARIE), psycopg.OperationalError(KANARIE), SystemExit(KANARIE)]
)
def test_whatever_a_run_raises_is_answered(receiver: Receiver, error: BaseException) -> None:
    def migrate() -> dict[str, Any]:
        raise error

    event = stack_request("Update", receiver.host)
    respond(event, migrate, ends_at=float("inf"), hosts=HERE)
    [answer] = receiver.documents
    assert (answer["Status"], answer["Reason"]) == ("FAILED", f"internal: {type(error).__name__}")
    assert KANARIE not in str(answer)


@pytest.mark.parametrize("kind", ["Import", "", None, ["Create"], 5])
def test_a_request_of_another_type_is_answered_and_runs_nothing(
    receiver: Receiver, database: Database, kind: Any
) -> None:
    assert send(receiver, kind, database)["Status"] == "FAILED"
    assert tables(database) == []


def test_a_request_without_its_names_is_answered(receiver: Receiver, migrated: Database) -> None:
    event = {"ResponseURL": f"https://{receiver.host}{SIGNED}", "RequestType": "Update"}
    for names in ({}, {"PhysicalResourceId": None}, {"PhysicalResourceId": ""}):
        instance(migrated)(event | names, Context())
    for answer in receiver.documents:
        assert (answer["Status"], answer["PhysicalResourceId"]) == ("SUCCESS", PHYSICAL_ID)
    assert len(receiver.documents) == 3
    assert history(migrated) == OURS


@pytest.mark.parametrize(
    ("version", "reason"),
    [("001-x", "busy: Another run. (version 001-x)"), (None, "busy: Another run.")],
)
def test_what_is_not_known_of_a_failure_is_left_out_of_the_answer(
    receiver: Receiver, version: str | None, reason: str
) -> None:
    known = {"code": "busy", "message": "Another run.", "version": version}
    document = {"success": False, "error": {**known, "sqlstate": None, "line": None}}
    event = stack_request("Update", receiver.host)
    respond(event, lambda: document, ends_at=9e9, hosts=HERE)
    assert [one["Reason"] for one in receiver.documents] == [reason]


def test_the_longest_answer_fits(receiver: Receiver, database: Database, migrations: Write) -> None:
    name = f"001-{'x' * 247}"
    files = migrations({f"{name}.sql": "SELECT nonsense"})
    send(receiver, "Update", database, files)
    assert f"version {name}," in receiver.documents[0]["Reason"]
    long = {"StackId": "s" * 300, "LogicalResourceId": "l" * 255, "PhysicalResourceId": "p" * 1024}
    event = stack_request("Update", receiver.host, **long)
    error = {"code": "internal", "message": "x" * 9000}
    respond(event, lambda: {"success": False, "error": error}, ends_at=9e9, hosts=HERE)
    assert len(receiver.bodies[1]) <= 4096
    assert receiver.documents[1]["PhysicalResourceId"] == "p" * 1024
    assert tables(database) == []


# Where the answer goes.

ELSEWHERE = [
    "https://example.org{}",
    "https://amazonaws.com.example.org{}",
    "https://example.org/.amazonaws.com{}",
    "https://example.org#.s3.amazonaws.com{}",
    "https://example.org?.s3.amazonaws.com{}",
    "https://example.org\\.s3.amazonaws.com{}",
    "https://example.org%2f.s3.amazonaws.com{}",
    "https://notamazonaws.com{}",
    "https://amazonaws.com{}",
    "https://bucket.s3.amazonaws.com.{}",
    "https://bucket.s3.amazonaws.com.cn.example.org{}",
    "https://bucket.s3.amazonaws.co{}",
    "https://b\u00fccket.s3.amazonaws.com{}",
    "https://bucket.s3.amazonaws.com@example.org{}",
    "https://user@bucket.s3.amazonaws.com{}",
    "https://user:password@bucket.s3.amazonaws.com{}",
    "https://bucket.s3.amazonaws.com:8443{}",
    "https://bucket.s3.amazonaws.com:{}",
    "https://bucket.s3.amazonaws.com:x{}",
    "http://bucket.s3.amazonaws.com{}",
    "ftp://bucket.s3.amazonaws.com{}",
    "//bucket.s3.amazonaws.com{}",
    "https://127.0.0.1{}",
    "https://169.254.169.254{}",
    "https://[::1{}",
    "https:{}",
    "",
    None,
    5,
    ["https://bucket.s3.amazonaws.com{}"],
]


@pytest.mark.parametrize("url", ELSEWHERE, ids=str)
def test_no_answer_goes_to_another_host_and_nothing_is_run(
    database: Database, url: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    url = url.format(SIGNED) if isinstance(url, str) else url
    event = stack_request("Create", "", ResponseURL=url)
    with pytest.raises(ResponseRefused) as refused:
        Handler(configuration(database))(event, Context())
    shown = everything(refused.value) + "".join(capsys.readouterr())
    assert "T0PSECRET" not in shown
    assert tables(database) == []


@pytest.mark.parametrize(
    "host",
    [
        "cloudformation-custom-resource-response-useast1.s3.amazonaws.com",
        "cloudformation-custom-resource-response-useast1.s3-us-east-1.amazonaws.com",
        "cloudformation-custom-resource-response-eucentral1.s3.eu-central-1.amazonaws.com:443",
        "cloudformation-custom-resource-response-cnnorth1.s3.cn-north-1.amazonaws.com.cn",
        "Bucket.S3.AmazonAWS.com",
    ],
)
def test_an_answer_goes_to_the_hosts_of_aws(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def no_network(address: tuple[str, int], *_: Any, **__: Any) -> None:
        called.append(address)
        raise OSError(SIGNED)

    monkeypatch.setattr("socket.create_connection", no_network)
    event = stack_request("Delete", host)
    with pytest.raises(NotAnswered, match="OSError") as unanswered:
        Handler({})(event, Context(seconds=RETURN_SECONDS))
    assert called == [(host.removesuffix(":443"), 443)]
    assert "T0PSECRET" not in everything(unanswered.value)


def test_what_comes_over_http_is_no_request_of_cloudformations(
    receiver: Receiver, database: Database
) -> None:
    event = stack_request("Create", receiver.host)
    headers = BEARER | {"content-type": "application/json"}
    posted = function_url("POST", "/api/migrate", headers=headers, body=json.dumps(event))
    handler = instance(database)
    assert handler(posted | event, Context())["statusCode"] == 400
    assert handler(event | {"action": "migrate"}, Context())["success"] is False
    assert receiver.received == []
    assert tables(database) == []


# When the answer does not arrive.


@pytest.mark.parametrize("status", [500, 503, 307, BREAKS_OFF])
@pytest.mark.slow
def test_an_answer_that_does_not_arrive_is_sent_again(
    receiver: Receiver, database: Database, migrations: Write, status: int
) -> None:
    receiver.statuses = [status, status, 200]
    send(receiver, "Create", database, migrations(ONE))
    assert [one["Status"] for one in receiver.documents] == ["SUCCESS"] * 3
    assert history(database) == ["001-one"]


@pytest.mark.parametrize("status", [403, 400])
def test_an_answer_that_is_refused_is_sent_once(
    receiver: Receiver,
    database: Database,
    migrations: Write,
    status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    receiver.statuses = [status]
    with pytest.raises(NotAnswered, match=f"status {status}") as unanswered:
        send(receiver, "Create", database, migrations(ONE))
    assert len(receiver.received) == 1
    shown = everything(unanswered.value) + "".join(capsys.readouterr())
    assert "T0PSECRET" not in shown
    assert history(database) == ["001-one"]


@pytest.mark.slow
def test_attempts_to_answer_end_with_the_functions_time(
    receiver: Receiver, migrated: Database
) -> None:
    receiver.statuses = [503]
    with pytest.raises(NotAnswered, match="status 503"):
        send(receiver, "Delete", migrated, context=Context(seconds=2.5))
    assert len(receiver.received) > 1
    assert history(migrated) == OURS


def test_a_receiver_that_is_not_trusted_gets_no_answer(
    receiver: Receiver, migrated: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(NotAnswered, match="SSLCertVerificationError"):
        send(receiver, "Delete", migrated, context=Context(seconds=RETURN_SECONDS))
    assert receiver.received == []
    assert recorded(migrated) == OURS


def test_the_log_has_no_part_of_the_url(
    receiver: Receiver,
    database: Database,
    migrations: Write,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = {"002-bad.sql": "SELECT nonsense"}
    for kind, files in (("Create", ONE), ("Update", bad), ("Delete", {})):
        send(receiver, kind, database, migrations(files))
    logged = "".join(capsys.readouterr())
    assert '"sqlstate": "42703"' in logged
    assert not [part for part in (receiver.host, "T0PSECRET", "stack%7C1") if part in logged]
    assert history(database) == ["001-one"]
