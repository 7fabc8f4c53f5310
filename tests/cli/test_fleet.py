"""The command line of a fleet: what it refuses, what it shows, and who may run it."""

import json
import os
import pty
from contextlib import suppress
from pathlib import Path

import pytest

from lib.cli.fleet import main
from tests.fleet.tenants import EFFECT, VERSIONS, Fleet, Tenants
from tests.kit import CANARY, Capture, history

ACME = {"tenant": "acme", "url": "postgresql://c1.example/acme", "wave": 0}
BETA = {"tenant": "beta", "url": "postgresql://c2.example/beta"}


def runs(fleet: Fleet) -> list[Path]:
    return [path for path in fleet.directory.glob("fleet-runs/*") if path.is_dir()]


@pytest.mark.slow
def test_a_wrong_inventory_is_refused_whole_before_anything_is_connected_to(
    fleet: Fleet, tenants: Tenants
) -> None:
    [database] = tenants.make(1)
    lines = [json.dumps(tenants.line(database)), "nope", json.dumps(ACME | {"urll": 1})]
    lines += [json.dumps(BETA | {"url": f"postgresql://u:{CANARY}@h/x"})]
    for command in ("plan", "status", "run"):
        more = ["--environment", "ci"] if command == "run" else []
        result = fleet(command, "-", *more, input="\n".join(lines))
        assert result.code == 2
        for number in (2, 3, 4):
            assert f"line {number}: " in result.err
        assert "line 1" not in result.err
        assert CANARY not in result.err
    assert (runs(fleet), database.execute("SELECT to_regclass('schema_migrations')")) == (
        [],
        [(None,)],
    )


@pytest.mark.slow
def test_an_empty_inventory_and_one_that_is_not_there_are_refused(fleet: Fleet) -> None:
    fleet.inventory()
    assert (fleet.run().code, fleet("status", "gone.jsonl").code) == (2, 2)
    assert runs(fleet) == []


@pytest.mark.slow
def test_a_plan_connects_to_nothing_and_shows_waves_clusters_and_connections(fleet: Fleet) -> None:
    fleet.inventory(ACME, BETA, BETA | {"tenant": "gamma", "url": "postgresql://c2.example/gamma"})
    result = fleet("plan", "fleet.jsonl", "--concurrency", "2")
    assert result.code == 0
    assert "3 databases in 2 waves" in result.out
    assert "Wave 0: 1 database, must be current before another wave begins" in result.out
    assert "c2.example: 2 databases, 2 at a time, 4 connections at most" in result.out
    document = json.loads(fleet("plan", "fleet.jsonl", "--json").out)
    assert [wave["databases"] for wave in document["waves"]] == [1, 2]
    assert runs(fleet) == []


@pytest.mark.slow
def test_a_run_shows_the_environment_first_and_needs_its_name(
    fleet: Fleet, tenants: Tenants
) -> None:
    [database] = tenants.make(1)
    fleet.inventory(tenants.line(database))
    assert fleet("run", "fleet.jsonl").code == 2
    assert fleet("run", "fleet.jsonl", "--environment", "prod").code == 2
    other = fleet.run(MIGRATION_ENV="staging")
    assert (other.code, "but MIGRATION_ENV is staging" in other.err) == (3, True)
    assert runs(fleet) == []
    result = fleet.run()
    assert result.code == 0, result.err
    assert result.out.startswith("Environment: ci\nMigrating 1 database on 1 cluster to 003-last\n")
    assert history(database) == VERSIONS
    environments = database.execute(
        "SELECT DISTINCT environment, applied_by FROM schema_migrations"
    )
    assert environments == [("ci", "cli")]


@pytest.mark.slow
def test_production_is_migrated_by_a_deploy_or_after_a_confirmation(
    fleet: Fleet, tenants: Tenants
) -> None:
    first, second = tenants.make(2)
    fleet.inventory(tenants.line(first))
    command = ("run", "fleet.jsonl", "--environment", "production")
    refused = fleet(*command)
    assert (refused.code, "--production" in refused.err, runs(fleet)) == (3, True, [])
    assert fleet(*command, "--production").code == 0
    fleet.inventory(tenants.line(second))
    assert fleet(*command, CI="1").code == 0
    assert history(first) == history(second) == VERSIONS


@pytest.mark.slow
def test_in_an_environment_that_may_apply_nothing_it_applies_nothing(
    fleet: Fleet, tenants: Tenants
) -> None:
    [database] = tenants.make(1)
    fleet.inventory(tenants.line(database))
    result = fleet.run(MIGRATION_ENVIRONMENTS="production")
    assert (result.code, "Skipped" in result.out, runs(fleet)) == (0, True, [])
    assert database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]


def assistants(directory: Path, *more: str, **environ: str) -> int:
    """What a coding assistant's run of a fleet far away exits with."""
    (directory / "fleet.jsonl").write_text(json.dumps(ACME | {"wave": 1}) + "\n")
    arguments = ["run", str(directory / "fleet.jsonl"), "--environment", "staging", *more]
    return main(arguments, {"AI_AGENT": "robot", **environ})


def test_a_coding_assistant_needs_a_persons_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    for consent in ("", "1", "<the person's words>"):
        assert assistants(tmp_path, MIGRATION_CONSENT=consent) == 3
        said = capsys.readouterr().err
        assert "May I apply the pending migrations to 1 database of" in said
        assert "--environment staging" in said
    assert not (tmp_path / "fleet-runs").exists()


@pytest.mark.slow
def test_a_look_writes_nothing_into_a_database_and_exits_by_what_it_finds(
    fleet: Fleet, tenants: Tenants
) -> None:
    done, pending = tenants.make(2)
    fleet.inventory(tenants.line(done))
    assert fleet.run().code == 0
    fleet.inventory(tenants.line(done), tenants.line(pending))
    result = fleet("status", "fleet.jsonl", "--json")
    document = json.loads(result.out)
    assert (result.code, document["current"], document["behind"]) == (8, 1, 1)
    assert [(one["code"], one["tenants"]) for one in document["errors"]] == [
        ("pending", [pending.name])
    ]
    assert pending.execute("SELECT to_regclass('schema_migrations')") == [(None,)]


@pytest.mark.slow
def test_a_report_can_be_read_later_by_name_by_directory_and_as_a_page(
    fleet: Fleet, tenants: Tenants
) -> None:
    assert (fleet("report").code, fleet("report", "gone").code) == (2, 2)
    [database] = tenants.make(1)
    fleet.inventory(tenants.line(database))
    assert fleet.run().code == 0
    [directory] = runs(fleet)
    expected = fleet("report").out
    assert "✅ 1 of 1 database is current; 1 migrated now" in expected
    assert fleet("report", directory.name).out == fleet("report", str(directory)).out == expected
    page = fleet("report", "--html")
    assert (page.code, page.out.startswith("<!doctype html>")) == (0, True)
    assert "All 1 database current" in page.out
    logged = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    assert [(line["tenant"], line["action"]) for line in logged] == [
        (database.name, "migrate"),
        (database.name, "status"),
    ]
    assert (directory.parent / ".gitignore").read_text() == "*\n"
    assert history(database) == VERSIONS


@pytest.mark.slow
def test_a_secret_without_the_library_that_reads_it_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (tmp_path / "fleet.jsonl").write_text(json.dumps(ACME | {"secret": "ssm:/c1"}) + "\n")
    assert main(["status", "fleet.jsonl"], {}) == 2
    assert "boto3 is not installed" in capsys.readouterr().err


@pytest.mark.slow
def test_on_a_terminal_a_bar_shows_how_far_it_is(fleet: Fleet, tenants: Tenants) -> None:
    [database] = tenants.make(1)
    fleet.files({"002-more.sql": f"SELECT pg_sleep(1);\n{EFFECT}"})
    fleet.inventory(tenants.line(database))
    ours, theirs = pty.openpty()
    process = fleet.start("run", "fleet.jsonl", "--environment", "ci", stdout=theirs)
    os.close(theirs)
    printed = b""
    with suppress(OSError):  # the other end is closed
        while more := os.read(ours, 4096):
            printed += more
    os.close(ours)
    assert fleet.end(process).code == 0
    shown = printed.decode().replace("\r\n", "\n")
    assert "\r░░░░" in shown
    assert "Wave 1: 0 of 1 done, 0 failed" in shown
    assert "\r\033[KWave 1: 1 of 1 done, 0 failed" in shown
    assert history(database) == VERSIONS


def test_the_command_line_is_checked_before_anything_else(capsys: Capture) -> None:
    for arguments in (
        [],
        ["migrate"],
        ["run"],
        ["plan", "x", "--concurrency", "0"],
        ["run", "x", "--environment", "ci", "--tolerate", "many"],
        ["run", "x", "--environment", "ci", "--tolerate", "101%"],
        ["run", "x", "--environment", "ci", "--tolerate", "1.5"],
    ):
        assert main(arguments, {}) == 2, arguments
    assert "Traceback" not in capsys.readouterr().err
