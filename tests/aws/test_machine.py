"""The engine on AWS, without what it starts. On a real engine: tests/platform/test_fleet.py."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.stepfunctions.models import stepfunctions_backends

from lib.aws.calls import CallFailed, read_s3
from lib.aws.execution import MAX_EVENTS
from lib.aws.fleet import MAX_MESSAGE
from lib.aws.machine import Machine
from lib.errors import ConfigError, Interrupted, LockBusy
from lib.fleet.inventory import read_inventory
from lib.fleet.journal import Journal, read_journal
from lib.fleet.order import Order, Tolerance
from lib.fleet.report import Header, Report, make_report, report_dict
from tests.aws.results import ARN, MAP_RUN, failed, manifest, succeeded, unwell
from tests.conftest import ROOT

BUCKET = "onward-fleet-runs-1a2b3c4d"
RUN = "20261126T203000Z-1a2b3c4-x9k2"
TENANTS = {"canary": 0, "acme": 1, "beta": 1, "gamma": 1}


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An account with the stack of template-fleet.yaml."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    definition = (ROOT / "infra" / "fleet.asl.json").read_text().replace("${Bucket}", BUCKET)
    with mock_aws():
        boto3.client("s3").create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
        boto3.client("stepfunctions").create_state_machine(
            name="onward-fleet",
            definition=definition,
            roleArn="arn:aws:iam::123456789012:role/onward-fleet",
        )
        yield


def order(waves: dict[str, int] = TENANTS, **changes: Any) -> Order:
    lines = [
        {"tenant": name, "url": f"postgresql://c1.example/{name}", "wave": wave}
        for name, wave in waves.items()
    ]
    inventory = read_inventory("\n".join(map(json.dumps, lines)))
    return Order(RUN, "migrate", "production", "002-two", inventory)._replace(**changes)


class Ends(Event):
    """An event that is never set: the execution ends while somebody waits for it."""

    def __init__(self, status: str = "SUCCEEDED", error: str = "", cause: str = "") -> None:
        super().__init__()
        self._found = {"status": status, "error": error or None, "cause": cause or None}

    def wait(self, timeout: float | None = None) -> bool:
        (execution,) = executions()
        vars(execution).update(self._found)
        execution.stop_date = execution.start_date + timedelta(seconds=90)
        return False


def executions() -> list[Any]:
    backend = stepfunctions_backends["123456789012"]["eu-west-1"]
    found: list[Any] = backend.describe_state_machine(ARN).executions
    return found


def stored(key: str) -> Any:
    return json.loads(boto3.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read())


def store(key: str, content: Any) -> None:
    boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=json.dumps(content))


def keys() -> list[str]:
    found = boto3.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", ())
    return [one["Key"] for one in found]


def leave(folder: str, **results: list[dict[str, Any]]) -> None:
    """Put results where a Distributed Map would: `SUCCEEDED=[...]`."""
    place = f"{RUN}/{folder}"
    store(f"{place}/{MAP_RUN}/manifest.json", manifest(place, *results))
    for status, chunks in results.items():
        store(f"{place}/{MAP_RUN}/{status}_0.json", chunks)


def carried_out(place: Path, given: Order, stop: Event) -> Report:
    """Carry an order out; what the journal says of it, which is what AWS says of it later."""
    machine = Machine(ARN, stop=stop)
    machine.check(given)
    header = Header.of(given, "2026-11-26T20:30:00+00:00")
    with Journal(place / "run", header) as journal:
        journal.end(machine(given, journal))
    report = make_report(read_journal(place / "run"))
    later = make_report(machine.entries(RUN)._replace(header=header))
    assert report_dict(later) == report_dict(report)
    return report


FINE = {"outcome": "current", "version": "002-two", "ms": 12}
MIGRATED = {"outcome": "migrated", "version": "002-two", "applied": 2, "ms": 130}
SICK = {"outcome": "migration_failed", "version": "002-two", "sqlstate": "42703", "line": 3}


def named(names: str, outcome: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"tenant": name, **outcome} for name in names.split()]


def test_a_run_writes_its_chunks_and_starts_one_execution_of_its_name(tmp_path: Path) -> None:
    carried_out(tmp_path, order(chunk=2, tolerance=Tolerance(50, is_percentage=True)), Ends())
    (execution,) = executions()
    assert (execution.name, json.loads(execution.execution_input)) == (
        RUN,
        {
            "action": "migrate",
            "environment": "production",
            "head": "002-two",
            "waves": [
                {"number": 0, "required": True, "clusters": [cluster(0, 1, 1, 1)]},
                {"number": 1, "required": False, "clusters": [cluster(1, 3, 2, 2)]},
            ],
        },
    )
    assert [
        [tenant["tenant"] for tenant in chunk["tenants"]]
        for chunk in stored(f"{RUN}/1-c1.example.json")
    ] == [["acme", "beta"], ["gamma"]]
    assert stored(f"{RUN}/0-c1.example.json")[0]["tenants"][0] == {
        "tenant": "canary",
        "url": "postgresql://c1.example/canary",
    }


def cluster(wave: int, databases: int, chunks: int, tolerated: int) -> dict[str, Any]:
    return {
        "name": "c1.example",
        "key": f"{RUN}/{wave}-c1.example.json",
        "databases": databases,
        "chunks": chunks,
        "concurrency": 8,
        "tolerated": tolerated,
    }


def test_canaries_that_are_all_there_is_need_not_stop_anything(tmp_path: Path) -> None:
    carried_out(tmp_path, order({"canary": 0}), Ends())
    (execution,) = executions()
    assert json.loads(execution.execution_input)["waves"][0]["required"] is False


def test_the_results_of_all_chunks_make_the_report(tmp_path: Path) -> None:
    leave("migrate", SUCCEEDED=[succeeded(*named("canary acme", MIGRATED))])
    leave("look", SUCCEEDED=[succeeded(*named("canary acme beta gamma", FINE))])
    report = carried_out(tmp_path, order(), Ends())
    assert (report.success, report.exit_code, report.ending and report.ending.seconds) == (
        True,
        0,
        90.0,
    )
    assert (report.total.current, report.total.migrated) == (4, 2)


def test_a_tenant_that_failed_is_named_and_its_chunk_is_not_blamed(tmp_path: Path) -> None:
    sick = named("beta", SICK)
    leave(
        "migrate",
        SUCCEEDED=[succeeded(*named("canary", MIGRATED))],
        FAILED=[unwell(["acme", "beta", "gamma"], "TenantsFailed", *sick)],
    )
    leave(
        "look",
        SUCCEEDED=[succeeded(*named("canary", FINE))],
        FAILED=[
            unwell(
                ["acme", "beta", "gamma"], "TenantsBehind", *named("beta", {"outcome": "pending"})
            )
        ],
    )
    report = carried_out(tmp_path, order(), Ends("FAILED", "FleetBehind"))
    assert (report.success, report.exit_code) == (False, 1)
    assert (report.total.current, report.total.behind, report.total.not_reached) == (3, 1, 0)
    (group,) = report.errors
    assert group == ("migration_failed", "002-two", "42703", ("beta",))


def test_waves_that_were_not_begun_are_not_reached(tmp_path: Path) -> None:
    leave("migrate", FAILED=[unwell(["canary"], "TenantsFailed", *named("canary", SICK))])
    leave(
        "look",
        FAILED=[unwell(["canary"], "TenantsBehind", *named("canary", {"outcome": "pending"}))],
    )
    report = carried_out(tmp_path, order(), Ends("FAILED", "WaveBehind"))
    assert report.ending and report.ending.stopped_after == 0
    assert (report.exit_code, report.total.behind, report.total.not_reached) == (1, 1, 3)


def test_a_function_that_died_leaves_an_unknown_outcome_until_the_look(tmp_path: Path) -> None:
    names = ["acme", "beta", "gamma"]
    leave("migrate", FAILED=[failed(names, "Sandbox.Timedout", "Task timed out after 900.00 s")])
    leave(
        "look",
        SUCCEEDED=[succeeded(*named("canary", FINE))],
        FAILED=[unwell(names, "TenantsBehind", *named("gamma", {"outcome": "pending"}))],
    )
    report = carried_out(tmp_path, order(), Ends("FAILED", "FleetBehind"))
    assert report.exit_code == 6
    assert [(group.code, group.tenants) for group in report.errors] == [
        ("outcome_unknown", ("gamma",))
    ]
    assert (report.total.current, report.total.behind) == (3, 1)


@pytest.mark.parametrize("cause", ["Task timed out", '{"errorMessage": "[{\\"tena', None])
def test_a_look_that_says_nothing_of_its_tenants_reached_none(
    tmp_path: Path, cause: str | None
) -> None:
    chunk = failed(["acme", "beta"], "TenantsBehind", "")
    leave(
        "look",
        SUCCEEDED=[succeeded(*named("canary gamma", FINE))],
        FAILED=[{**chunk, "Cause": cause}],
    )
    report = carried_out(tmp_path, order(), Ends("FAILED", "FleetBehind"))
    assert (report.exit_code, report.total.current, report.total.not_reached) == (8, 2, 2)


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        ("ConfigError", "not_configured", 2),
        ("FilesError", "invalid_files", 2),
        ("KeyError", "internal", 70),
    ],
)
def test_a_function_that_cannot_work_at_all_says_why(
    tmp_path: Path, error: str, code: str, exit_code: int
) -> None:
    chunks = [failed(list(TENANTS), error, "this function is not a fleet's")]
    leave("migrate", FAILED=chunks)
    leave("look", FAILED=chunks)
    report = carried_out(tmp_path, order(), Ends("FAILED", "WaveBehind"))
    assert ([group.code for group in report.errors], report.exit_code) == ([code], exit_code)


def test_a_chunk_that_no_instance_was_free_for_was_not_reached(tmp_path: Path) -> None:
    chunks = [failed(list(TENANTS), "Lambda.TooManyRequestsException", "Rate Exceeded.")]
    leave("migrate", FAILED=chunks)
    leave("look", FAILED=chunks)
    report = carried_out(tmp_path, order(), Ends("FAILED", "WaveBehind"))
    assert (report.exit_code, report.total.not_reached, report.errors) == (8, 4, ())


def test_of_a_list_that_may_have_been_cut_nobody_is_current(tmp_path: Path) -> None:
    pending = {"outcome": "pending", "version": "0" * MAX_MESSAGE}
    leave("look", FAILED=[unwell(list(TENANTS), "TenantsBehind", *named("acme", pending))])
    report = carried_out(tmp_path, order(), Ends("FAILED", "WaveBehind"))
    assert (report.total.current, report.total.behind, report.total.not_reached) == (0, 1, 3)


def test_where_no_results_are_the_machine_s_own_verdict_counts(tmp_path: Path) -> None:
    leave("migrate")
    leave("look")
    assert carried_out(tmp_path, order(), Ends()).total.current == 4


def test_without_results_a_fleet_that_is_behind_was_not_reached(tmp_path: Path) -> None:
    leave("look")
    report = carried_out(tmp_path, order(), Ends("FAILED", "FleetBehind"))
    assert (report.success, report.exit_code, report.total.not_reached) == (False, 8, 4)


def test_a_run_that_somebody_stopped_was_interrupted(tmp_path: Path) -> None:
    report = carried_out(tmp_path, order(), Ends("ABORTED"))
    assert report.ending and report.ending.interrupted


def refused(given: Order, error: type[Exception], arn: str = ARN) -> Any:
    """The error, before anything is in the bucket."""
    with pytest.raises(error) as raised:
        Machine(arn, stop=Event()).check(given)
    assert keys() == []
    return raised.value


def journal(given: Order, place: Path) -> Journal:
    return Journal(place / "run", Header.of(given, "2026-11-26T20:30:00+00:00"))


def test_while_a_run_goes_on_no_other_one_is_started() -> None:
    boto3.client("stepfunctions").start_execution(stateMachineArn=ARN, name="first", input="{}")
    error = refused(order(), LockBusy)
    assert (error.exit_code, error.message) == (4, "the run first of this fleet goes on")
    assert f"scripts/fleet.py report first --machine {ARN}" in error.next_step
    assert [execution.name for execution in executions()] == ["first"]


def test_ctrl_c_leaves_the_run_going_and_says_how_to_stop_it(tmp_path: Path) -> None:
    stop = Event()
    stop.set()
    given = order()
    with pytest.raises(Interrupted) as raised, journal(given, tmp_path) as written:
        Machine(ARN, stop=stop)(given, written)
    assert raised.value.exit_code == 130
    assert f"report {RUN} --machine {ARN}" in raised.value.next_step
    assert f"stop-execution --execution-arn {executions()[0].execution_arn}" in (
        raised.value.next_step
    )
    assert executions()[0].status == "RUNNING"
    entries = Machine(ARN, stop=stop).entries(RUN)
    assert (entries.running, entries.ending, entries.records) == (True, None, [])


def test_a_run_that_broke_off_is_told_with_its_reason(tmp_path: Path) -> None:
    stop = Ends("FAILED", "States.ItemReaderFailed", "no such key")
    given = order()
    with pytest.raises(CallFailed) as raised, journal(given, tmp_path) as written:
        Machine(ARN, stop=stop)(given, written)
    assert raised.value.exit_code == 6
    assert raised.value.message.endswith("its end: States.ItemReaderFailed: no such key")
    entries = Machine(ARN, stop=stop).entries(RUN)
    assert (entries.running, entries.ending) == (False, None)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda arn: "onward-fleet", "expected arn:aws:states:REGION"),
        (lambda arn: f"{arn}-2", "StateMachineDoesNotExist"),
        (lambda arn: other(), "is not the state machine of infra/fleet.asl.json"),
    ],
    ids=["no ARN", "none there", "another one"],
)
def test_a_machine_that_is_not_ours_is_refused(change: Callable[[str], str], part: str) -> None:
    error = refused(order(), ConfigError, change(ARN))
    assert part in error.message


def other() -> str:
    definition = '{"StartAt": "A", "States": {"A": {"Type": "Succeed"}}}'
    role = "arn:aws:iam::123456789012:role/onward-fleet"
    made = boto3.client("stepfunctions").create_state_machine(
        name="other", definition=definition, roleArn=role
    )
    return str(made["stateMachineArn"])


def test_what_an_execution_cannot_hold_is_refused_before_anything_is_written() -> None:
    line = '{"tenant": "t%d", "url": "postgresql://c%d.example/t", "wave": 1}'
    many = read_inventory("\n".join(line % (number, number) for number in range(900)))
    error = refused(order(inventory=many), ConfigError)
    assert error.message.startswith("900 pairs of wave and cluster are too many")
    assert f"{MAX_EVENTS:,} events" in error.message


def test_a_chunk_that_is_too_large_for_a_function_is_refused() -> None:
    secret = f"secretsmanager:{'x' * 1900}"
    lines = [
        {"tenant": f"t{number}", "url": f"postgresql://c.example/{number}", "secret": secret}
        for number in range(150)
    ]
    large = read_inventory("\n".join(map(json.dumps, lines)))
    error = refused(order(inventory=large, chunk=150), ConfigError)
    assert error.next_step == "Choose a smaller --chunk."


def test_an_inventory_may_be_an_object_of_s3() -> None:
    store("fleet.jsonl", {"tenant": "acme"})
    assert read_s3(f"s3://{BUCKET}/fleet.jsonl") == '{"tenant": "acme"}'


@pytest.mark.parametrize("url", ["s3://nowhere", "s3://nowhere/x", f"s3://{BUCKET}/gone"])
def test_an_object_that_is_not_there_is_told_by_its_url(url: str) -> None:
    with pytest.raises(ConfigError, match=url):
        read_s3(url)


def test_an_object_that_is_no_text_is_refused() -> None:
    boto3.client("s3").put_object(Bucket=BUCKET, Key="x", Body=b"\xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        read_s3(f"s3://{BUCKET}/x")


def test_an_aws_that_does_not_answer_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(CallFailed) as raised:
        read_s3(f"s3://{BUCKET}/x")
    assert raised.value.exit_code == 5
