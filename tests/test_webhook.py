"""The webhook: what it is told, by whom, and that it never decides anything."""

import hmac
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event

import pytest

from lib.errors import DatabaseUnavailable, MigrationResult
from lib.events import RunResult
from lib.plan import Plan
from lib.web.service import Service
from lib.webhook import SIGNATURE_HEADER, Webhook
from tests.conftest import Database, Here
from tests.kit import ONE, SETTLED, TWO, Write, recorded, tables
from tests.receiver import Receiver, receiving

BROKEN = {**ONE, "002-two.sql": "INSERT INTO one VALUES ('a row of ours');\n"}


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving(tmp_path) as found:
        monkeypatch.setenv("SSL_CERT_FILE", str(found.certificate))
        yield found


def address(receiver: Receiver) -> str:
    return f"https://{receiver.host}/hook?token=T0PSECRET"


def ended(
    applied: int, remaining: tuple[str, ...] = (), taken_over: tuple[str, ...] = ()
) -> RunResult:
    """A run that has applied so many files."""
    done = (MigrationResult(f"{number:03}-x", "X", 1) for number in range(1, applied + 1))
    return RunResult("ci", "app", Plan(()), tuple(done), remaining, taken_over)


def signatures(receiver: Receiver) -> list[str | None]:
    return [one.headers[SIGNATURE_HEADER] for one in receiver.received]


def test_a_run_that_applies_is_told_once_and_one_that_does_not_never(
    receiver: Receiver, here: Here, migrations: Write, database: Database
) -> None:
    migrations(TWO)
    env = {"MIGRATION_WEBHOOK": address(receiver), "MIGRATION_WEBHOOK_SECRET": "k" * 32}
    assert here("--json", url=database.url, env=env).code == 0
    assert here(url=database.url, env=env).code == 0
    [document] = receiver.documents
    text = f"✅ development ({database.name}): 2 migrations applied: 001-one, 002-two"
    assert (document["text"], document["content"]) == (text, text)
    assert [done["version"] for done in document["applied"]] == ["001-one", "002-two"]
    digest = hmac.digest(b"k" * 32, receiver.bodies[0], "sha256").hex()
    assert signatures(receiver) == [f"sha256={digest}"]
    assert recorded(database) == ["001-one", "002-two"]


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (ended(1), "1 migration applied: 001-x"),
        (ended(5), "5 migrations applied: 001-x, 002-x, 003-x, 004-x, 005-x"),
        (ended(6), "6 migrations applied: 001-x, 002-x, 003-x, 004-x, 005-x and 1 more"),
        (ended(1, remaining=("002-x", "003-x")), "1 migration applied: 001-x; 2 remain"),
        (ended(0, taken_over=("001-x", "002-x")), "2 taken over"),
        (ended(1, taken_over=("000-x",)), "1 taken over; 1 migration applied: 001-x"),
    ],
)
def test_the_text_says_how_much_was_applied_or_taken_over(
    receiver: Receiver, result: RunResult, text: str
) -> None:
    assert Webhook({"MIGRATION_WEBHOOK": address(receiver)}).tell_result(result) == ""
    [document] = receiver.documents
    assert document["text"] == f"✅ ci (app): {text}"
    assert receiver.received[0].path == "/hook?token=T0PSECRET"


def test_a_run_that_did_nothing_and_one_without_an_address_tell_nobody(receiver: Receiver) -> None:
    assert Webhook({"MIGRATION_WEBHOOK": address(receiver)}).tell_result(ended(0)) == ""
    assert Webhook({}).tell_result(ended(1)) == ""
    assert receiver.received == []


def test_drift_that_a_run_has_found_is_told(
    receiver: Receiver, here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    assert here(url=database.url).code == 0
    database.execute("ALTER TABLE one ADD COLUMN by_hand int")
    migrations(TWO)
    env = {"MIGRATION_WEBHOOK": address(receiver)}
    assert here(url=database.url, env=env).code == 0
    [document] = receiver.documents
    assert document["drift"] == "found"
    assert document["text"].endswith("not as the migrations left it: scripts/migrate.py drift")
    assert recorded(database) == ["001-one", "002-two"]


@pytest.mark.parametrize("files", [ONE, BROKEN], ids=["applied", "failed"])
def test_a_run_that_has_changed_something_tells_its_restore_point(
    receiver: Receiver,
    here: Here,
    migrations: Write,
    database: Database,
    files: dict[str, str],
) -> None:
    migrations(files)
    env = {"MIGRATION_WEBHOOK": address(receiver), "MIGRATION_ENV": "staging"}
    printed = json.loads(here("--json", url=database.url, env=env).out)
    [document] = receiver.documents
    assert document["restorePoint"] == printed["restorePoint"]
    assert document["restorePoint"]["before"] == recorded(database) == ["001-one"]


def test_a_failed_run_is_told_without_rows_and_sql(
    receiver: Receiver, here: Here, migrations: Write, database: Database
) -> None:
    migrations(BROKEN)
    result = here(url=database.url, env={"MIGRATION_WEBHOOK": address(receiver)})
    assert result.code == 1
    assert "a row of ours" in result.err
    assert "T0PSECRET" not in result.out + result.err
    [document] = receiver.documents
    assert document["error"]["sqlstate"] == "22P02"
    assert document["text"].startswith(
        "❌ development: 002-two (SQLSTATE 22P02) A migration failed"
    )
    assert document["text"].endswith("Applied before: 001-one.")
    assert b"a row of ours" not in receiver.bodies[0]
    assert b"INSERT" not in receiver.bodies[0]
    assert signatures(receiver) == [None]
    assert recorded(database) == ["001-one"]


def test_a_refused_run_is_told(
    receiver: Receiver, here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    database.execute("CREATE TABLE another (id int)")
    result = here(
        url=database.url,
        env={**SETTLED, "MIGRATION_ALLOW_NONEMPTY": "", "MIGRATION_WEBHOOK": address(receiver)},
    )
    assert result.code == 3
    assert [one["error"]["code"] for one in receiver.documents] == ["not_empty"]
    assert tables(database) == ["another"]


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_every_answer_that_is_a_success_is_no_warning(status: int, receiver: Receiver) -> None:
    receiver.statuses = [status]
    webhook = Webhook({"MIGRATION_WEBHOOK": address(receiver).replace("https", "HTTPS")})
    assert webhook.tell_result(ended(1)) == ""
    assert len(receiver.received) == 1


@pytest.mark.parametrize("status", [300, 302, 404, 500])
def test_an_answer_that_is_no_success_is_a_warning(
    status: int, receiver: Receiver, here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    receiver.statuses = [status]
    result = here(url=database.url, env={"MIGRATION_WEBHOOK": address(receiver)})
    assert (result.code, len(receiver.bodies)) == (0, 1)
    assert f"MIGRATION_WEBHOOK could not be told of this run: status {status}" in result.out
    assert "T0PSECRET" not in result.out + result.err
    assert recorded(database) == ["001-one"]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://127.0.0.1:9/hook", "it is no https:// URL"),
        ("hooks.example/T0PSECRET", "is no https:// URL"),
        ("https://127.0.0.1:9/T0PSECRET", "ConnectionRefusedError"),
        ("https://127.0.0.1:port/T0PSECRET", "ValueError"),
        ("https://[::1/T0PSECRET", "ValueError"),
        ("https://", "gaierror"),
    ],
)
def test_an_address_that_nobody_answers_at_is_a_warning(
    url: str, problem: str, here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    result = here(url=database.url, env={"MIGRATION_WEBHOOK": url})
    assert result.code == 0
    assert problem in result.out
    assert "T0PSECRET" not in result.out + result.err
    assert recorded(database) == ["001-one"]


def test_a_receiver_that_is_not_trusted_gets_nothing(
    receiver: Receiver,
    here: Here,
    migrations: Write,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    migrations(ONE)
    monkeypatch.delenv("SSL_CERT_FILE")
    result = here(url=database.url, env={"MIGRATION_WEBHOOK": address(receiver)})
    assert (result.code, receiver.bodies) == (0, [])
    assert "SSLCertVerificationError" in result.out
    assert recorded(database) == ["001-one"]


@pytest.mark.slow
def test_a_slow_receiver_does_not_hold_up_a_run_for_long(
    receiver: Receiver, here: Here, migrations: Write, database: Database
) -> None:
    migrations(ONE)
    receiver.seconds = 8.0
    result = here(url=database.url, env={"MIGRATION_WEBHOOK": address(receiver)})
    assert result.code == 0
    assert "could not be told of this run: " in result.out
    assert recorded(database) == ["001-one"]


@pytest.mark.slow
def test_a_receiver_is_waited_for_until_the_deadline_only(receiver: Receiver) -> None:
    receiver.seconds = 2.0
    webhook = Webhook({"MIGRATION_WEBHOOK": address(receiver)})
    told = webhook.tell_result(ended(1), before=time.monotonic())
    assert told.startswith("MIGRATION_WEBHOOK could not be told of this run: ")


def test_a_store_that_never_answers_is_not_waited_for() -> None:
    environ = {"MIGRATION_WEBHOOK": "ssm:/hook"}
    answered = Event()

    def resolve() -> Mapping[str, str]:
        answered.wait()
        return environ

    told = Webhook(environ, resolve).tell_result(ended(1), before=time.monotonic())
    answered.set()
    assert told == "MIGRATION_WEBHOOK could not be told of this run: no answer in time"


def test_a_reference_that_cannot_be_resolved_does_not_make_a_run_fail(
    migrations: Write, database: Database
) -> None:
    def resolve(
        environ: Mapping[str, str], variables: Sequence[str]
    ) -> Iterable[Mapping[str, str]]:
        if "MIGRATION_WEBHOOK" in variables:
            raise DatabaseUnavailable("the store does not answer")
        return (environ,)

    environ = {
        "POSTGRES_URL": database.url,
        "MIGRATION_DIR": str(migrations(ONE)),
        "MIGRATION_WEBHOOK": "ssm:/hook",
    }
    answer = Service({**environ, **SETTLED}, resolve).call("migrate", applied_by="api")
    assert (answer.status, len(answer.document["applied"])) == (200, 1)
    assert answer.document["warnings"] == [
        "MIGRATION_WEBHOOK could not be told of this run: the store does not answer"
    ]
    assert recorded(database) == ["001-one"]


def test_a_run_by_the_route_is_told(
    receiver: Receiver, migrations: Write, database: Database
) -> None:
    directory = migrations(ONE)
    environ = {
        "POSTGRES_URL": database.url,
        "MIGRATION_DIR": str(directory),
        "MIGRATION_WEBHOOK": address(receiver),
    }
    service = Service({**environ, **SETTLED})
    answer = service.call("migrate", applied_by="api")
    assert (answer.status, "warnings" in answer.document) == (200, False)
    (directory / "002-two.sql").write_text(BROKEN["002-two.sql"])
    assert service.call("migrate", applied_by="api").status == 500
    assert [one["success"] for one in receiver.documents] == [True, False]
    receiver.statuses = [500]
    (directory / "002-two.sql").write_text("SELECT 1;")
    answer = service.call("migrate", applied_by="api")
    assert answer.document["warnings"] == [
        "MIGRATION_WEBHOOK could not be told of this run: status 500"
    ]
    assert recorded(database) == ["001-one", "002-two"]
