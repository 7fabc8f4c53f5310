"""A fleet migrated in one process: waves, clusters, what fails, and what is interrupted."""

import os
import signal
from typing import Any

import pytest

from tests.conftest import Database
from tests.fleet.tenants import EFFECT, HOSTS, VERSIONS, Fleet, Tenants, effects
from tests.kit import LOCK, contents, history, holding, tables, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DATABASES = int(os.environ.get("ONWARD_FLEET_DATABASES", "60"))
LAST = {"004-slow.sql": f"SELECT pg_sleep(0.2);\n{EFFECT}"}
DONE = [*VERSIONS, "004-slow"]


def all_at_head(databases: list[Database], versions: list[str]) -> bool:
    """Whether all have every row once and, of each file, its effect once."""
    found = {(tuple(history(one)), effects(one)) for one in databases}
    return found == {(tuple(versions), len(versions))}


def two_clusters(tenants: Tenants, databases: list[Database], canaries: int = 2) -> list[Any]:
    return [
        tenants.line(database, HOSTS[number % 2], wave=0 if number < canaries else 1)
        for number, database in enumerate(databases)
    ]


def test_three_sick_tenants_concern_nobody_else_and_are_named(
    fleet: Fleet, tenants: Tenants
) -> None:
    *well, refused, modified, failing = databases = tenants.make(DATABASES)
    lines = two_clusters(tenants, databases)
    sick = tenants.admin
    sick.execute(f"DROP ROLE IF EXISTS sick; CREATE ROLE sick LOGIN PASSWORD 'another {LOCK}'")
    lines[-3]["url"] = lines[-3]["url"].replace("postgres@", "sick@")
    fleet.inventory(lines[-2])
    assert fleet.run().code == 0
    modified.execute("UPDATE schema_migrations SET checksum = repeat('0', 64) WHERE id = 2")
    failing.execute("CREATE TABLE last ()")
    before = [contents(modified), contents(failing)]
    fleet.inventory(*lines)
    result = fleet.run("--tolerate", "10%", MIGRATION_ALLOW_NONEMPTY="1")
    report = fleet.report()
    assert result.code == 1, result.out + result.err
    assert report["databases"] == DATABASES
    assert (report["current"], report["behind"], report["notReached"]) == (DATABASES - 3, 3, 0)
    assert (report["migrated"], report["stoppedAfterWave"]) == (DATABASES - 3, None)
    errors = {
        one["code"]: (one["version"], one["sqlstate"], one["tenants"]) for one in report["errors"]
    }
    assert errors == {
        "database_unavailable": (None, "28P01", [refused.name]),
        "history_conflict": (None, None, [modified.name]),
        "migration_failed": ("003-last", "42P07", [failing.name]),
    }
    for name in (refused.name, modified.name, failing.name):
        assert name in result.out
    assert all_at_head(well, VERSIONS)
    assert tables(refused) == []
    assert before[0] == contents(modified)
    assert history(failing) == ["001-effects", "002-more"]
    assert effects(failing) == 2


def test_the_same_command_again_changes_nothing(fleet: Fleet, tenants: Tenants) -> None:
    databases = tenants.make(6)
    fleet.inventory(*two_clusters(tenants, databases))
    assert fleet.run().code == 0
    before = [contents(database) for database in databases]
    assert fleet.run().code == 0
    report = fleet.report()
    assert (report["current"], report["migrated"]) == (6, 0)
    assert before == [contents(database) for database in databases]
    assert all_at_head(databases, VERSIONS)


def test_after_sick_canaries_no_other_wave_begins(fleet: Fleet, tenants: Tenants) -> None:
    canary, other, later = databases = tenants.make(3)
    canary.execute("CREATE TABLE last ()")
    lines = [tenants.line(one, wave=wave) for one, wave in zip(databases, (0, 0, 1), strict=True)]
    fleet.inventory(*lines)
    result = fleet.run("--tolerate", "1", MIGRATION_ALLOW_NONEMPTY="1")
    report = fleet.report()
    assert (result.code, report["stoppedAfterWave"]) == (1, 0)
    assert (report["current"], report["behind"], report["notReached"]) == (1, 1, 1)
    assert "No other wave was begun after wave 0" in result.out
    assert (history(other), tables(later)) == (VERSIONS, [])
    canary.execute("DROP TABLE last")
    assert fleet.run().code == 0
    assert all_at_head(databases, VERSIONS)


def test_a_cluster_in_which_too_many_fail_is_left_and_the_other_is_not(
    fleet: Fleet, tenants: Tenants
) -> None:
    databases = tenants.make(12)
    lines = two_clusters(tenants, databases, canaries=0)
    for line in lines[::2]:
        line["url"] = line["url"].replace("/t", "/gone")
    fleet.inventory(*lines)
    result = fleet.run("--tolerate", "2", "--concurrency", "1")
    report = fleet.report()
    assert result.code == 5
    assert (report["current"], report["behind"], report["notReached"]) == (6, 3, 3)
    assert all_at_head(databases[1::2], VERSIONS)
    assert [tables(one) for one in databases[::2]] == [[]] * 6


def test_a_look_goes_through_all_tenants_however_many_are_behind(
    fleet: Fleet, tenants: Tenants
) -> None:
    databases = tenants.make(6)
    fleet.inventory(*two_clusters(tenants, databases, canaries=1))
    assert fleet("status", "fleet.jsonl", "--concurrency", "1").code == 8
    report = fleet.report()
    assert (report["behind"], report["notReached"]) == (6, 0)
    assert [tables(one) for one in databases] == [[]] * 6


def test_killed_in_the_middle_and_run_again_every_effect_is_there_once(
    fleet: Fleet, tenants: Tenants
) -> None:
    databases = tenants.make(12)
    in_hand = databases[5]
    fleet.files(LAST)
    fleet.inventory(*two_clusters(tenants, databases))
    with holding(in_hand, "CREATE TABLE last ()"):
        process = fleet.start("run", "fleet.jsonl", "--environment", "ci", "--concurrency", "2")
        until(lambda: effects(in_hand) == 2)
        until(lambda: in_hand.execute("SELECT 1 FROM pg_locks WHERE NOT granted"))
        process.kill()
        fleet.end(process)
    report = fleet.report()
    assert (report["state"], report["success"]) == ("killed", False)
    assert 0 < report["current"] < 12
    result = fleet("report")
    assert (result.code, "The run was killed" in result.out) == (8, True)
    until(lambda: fleet.run().code == 0)  # until the server has noticed that its clients are gone
    assert all_at_head(databases, DONE)


def test_ctrl_c_stops_after_the_tenants_in_hand(fleet: Fleet, tenants: Tenants) -> None:
    in_hand, *others = databases = tenants.make(4)
    fleet.inventory(*map(tenants.line, databases))
    command = ["run", "fleet.jsonl", "--environment", "ci", "--concurrency", "1"]
    with holding(in_hand, "CREATE TABLE last ()") as session:
        process = fleet.start(*command, MIGRATION_ALLOW_NONEMPTY="1")
        until(lambda: effects(in_hand) == 2)
        until(lambda: in_hand.execute("SELECT 1 FROM pg_locks WHERE NOT granted"))
        process.send_signal(signal.SIGINT)
        stderr = process.stderr
        assert stderr
        until(lambda: "stopping after the tenants in hand" in stderr.readline())
        session.rollback()
        result = fleet.end(process)
    report = fleet.report()
    assert (result.code, report["state"]) == (8, "interrupted"), result.out + result.err
    assert (report["current"], report["notReached"]) == (1, 3)
    assert f"To go on: scripts/fleet.py {' '.join(command)}" in result.out
    assert all_at_head([in_hand], VERSIONS)
    assert [tables(one) for one in others] == [[]] * 3
    assert fleet(*command).code == 0
    assert all_at_head(databases, VERSIONS)


def test_a_cluster_never_has_more_at_work_than_it_may(fleet: Fleet, tenants: Tenants) -> None:
    databases = tenants.make(24)
    fleet.files(LAST)
    fleet.inventory(*two_clusters(tenants, databases, canaries=0))
    clusters = [[one.name for one in databases[number::2]] for number in (0, 1)]
    process = fleet.start("run", "fleet.jsonl", "--environment", "ci", "--concurrency", "3")
    seen: list[list[tuple[int, int]]] = [[], []]
    at_work = (
        "SELECT count(*) FILTER (WHERE state <> 'idle'), count(*) FROM pg_stat_activity "
        "WHERE datname = ANY (%s)"
    )
    while process.poll() is None:
        for cluster, names in enumerate(clusters):
            seen[cluster] += tenants.admin.execute(at_work, [names])
    assert fleet.end(process).code == 0
    for found in seen:
        # A session that closes is idle, and its successor may be there already.
        assert max(busy for busy, _ in found) == 3
        assert max(sessions for _, sessions in found) <= 2 * 3
    assert all_at_head(databases, DONE)


def test_a_tenant_that_is_busy_is_tried_again_after_the_others(
    fleet: Fleet, tenants: Tenants
) -> None:
    databases = tenants.make(3)
    fleet.inventory(*two_clusters(tenants, databases, canaries=0))
    with holding(databases[0], f"SELECT pg_advisory_xact_lock({LOCK})") as session:
        process = fleet.start("run", "fleet.jsonl", "--environment", "ci")
        until(lambda: list(map(effects, databases)) == [None, 3, 3])
        journal = until(lambda: list(fleet.directory.glob("fleet-runs/*/report.jsonl")))[0]
        until(lambda: '"busy"' in journal.read_text())
        session.rollback()
        assert fleet.end(process).code == 0
    assert all_at_head(databases, VERSIONS)


def test_a_run_that_goes_on_has_a_report_too(fleet: Fleet, tenants: Tenants) -> None:
    databases = tenants.make(2)
    fleet.inventory(*(tenants.line(one, wave=wave) for wave, one in enumerate(databases)))
    with holding(databases[1], "CREATE TABLE effects ()"):
        process = fleet.start("run", "fleet.jsonl", "--environment", "ci")
        until(lambda: effects(databases[0]) == 3)
        until(lambda: fleet.report()["current"] == 1)
        report = fleet.report()
        assert (report["state"], report["notReached"], report["success"]) == ("running", 1, False)
        assert "The run goes on" in fleet("report").out
    assert fleet.end(process).code == 0
    assert all_at_head(databases, VERSIONS)


def test_tenants_with_a_schema_each_are_migrated_beside_each_other(
    fleet: Fleet, tenants: Tenants
) -> None:
    [database] = tenants.make(1)
    names = [f"s{number}" for number in range(6)]
    database.execute("".join(f"CREATE SCHEMA {name};" for name in names))
    fleet.inventory(*(tenants.line(database) | {"tenant": one, "schema": one} for one in names))
    assert fleet.run("--concurrency", "3").code == 0
    assert fleet.report()["migrated"] == 6
    for name in names:
        assert history(database, f"{name}.schema_migrations") == VERSIONS
        assert database.execute(f"SELECT count(*) FROM {name}.effects") == [(3,)]
    assert not [name for name in tables(database) if "." not in name]
