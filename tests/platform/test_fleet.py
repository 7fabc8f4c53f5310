"""A fleet on an engine that is not ours: the stack of template-fleet.yaml on LocalStack, the zip on
Lambda's runtime client, and a database for each tenant.
"""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from scripts.bundle import BundleError, Target
from tests.conftest import ROOT, Completed, Database, Server
from tests.kit import fill, history, nothing_is_left_running, tables, until
from tests.platform import localstack
from tests.platform.localstack import LocalStack, Stack
from tests.platform.runtime import made_runtime

# The first one to come may have to install LocalStack.
pytestmark = pytest.mark.timeout(600)
ONE = {"001-one.sql": "CREATE TABLE one ();\n"}
TWO = {**ONE, "002-two.sql": "CREATE TABLE two ();\n"}
VERSIONS = ["001-one", "002-two"]
SECRET = "secretsmanager:cluster"


@dataclass(frozen=True)
class Fleet:
    """The deployed stack, and the files that its function has."""

    local: LocalStack
    stack: Stack
    migrations: Path
    password: str = field(repr=False)
    """Of the databases, which only the function has a use for."""

    def run(self, place: Path, inventory: list[dict[str, Any]], *options: str) -> Completed:
        """Run scripts/fleet.py to its end, with the inventory in the stack's bucket."""
        lines = "\n".join(map(json.dumps, inventory))
        store = self.local.client("s3")
        store.put_object(Bucket=self.stack.bucket, Key="fleet.jsonl", Body=lines.encode())
        url = f"s3://{self.stack.bucket}/fleet.jsonl"
        return self("run", url, "--environment", "test", "--concurrency", "2", *options, cwd=place)

    def __call__(self, *arguments: str, cwd: Path) -> Completed:
        environ = {
            **self.local.environ,
            "PATH": os.environ["PATH"],
            "MIGRATION_DIR": str(self.migrations),
        }
        command = [sys.executable, str(ROOT / "scripts" / "fleet.py"), *arguments]
        command += ["--json", "--machine", self.stack.machine]
        result = subprocess.run(
            command, cwd=cwd, env=environ, capture_output=True, encoding="utf-8", check=False
        )
        assert "Traceback" not in result.stderr
        assert self.password not in result.stdout + result.stderr
        return Completed(result.returncode, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def fleet(
    made_once: Callable[[str, Callable[[Path], object]], Path],
    tmp_path_factory: pytest.TempPathFactory,
    server: Server,
) -> Iterator[Fleet]:
    if sys.platform != "linux":
        pytest.skip("what is built for Lambda runs on Linux only")
    try:
        python = localstack.install()
    except (BundleError, OSError) as error:
        pytest.skip(str(error))
    runtime = made_runtime(Target(localstack.MINOR, platform.machine()), made_once)
    place, files = tmp_path_factory.mktemp("localstack"), tmp_path_factory.mktemp("migrations")
    with localstack.running(python, runtime.python, place) as local:
        parts = urlsplit(server.url)
        password = parts.password or "canary-of-no-password"
        user = {"username": parts.username, "password": password}
        local.client("secretsmanager").create_secret(Name="cluster", SecretString=json.dumps(user))
        variables = {"MIGRATION_DIR": str(files), "MIGRATION_RETRY": "1s"}
        stack = localstack.deploy(local, runtime.zipped, variables)
        yield Fleet(local, stack, files, password)


@pytest.fixture
def make(server: Server) -> Iterator[Callable[[int], list[Database]]]:
    """`make(3)`: so many empty databases."""
    made: list[Database] = []

    def create(number: int) -> list[Database]:
        new = [server.create() for _ in range(number)]
        made.extend(new)
        return new

    yield create
    for database in made:
        server.drop(database)


def line(database: Database, wave: int, cluster: str = "c1") -> dict[str, Any]:
    """Its line of the inventory: no password, but where it is."""
    parts = urlsplit(database.url)
    url = f"postgresql://{parts.hostname}:{parts.port}/{database.name}"
    place = {"wave": wave, "cluster": cluster}
    return {"tenant": database.name, "url": url, "secret": SECRET, **place}


def sums(result: Completed) -> dict[str, int]:
    """What the report counts, which is all there is."""
    report = json.loads(result.out)
    names = ("current", "ahead", "behind", "notReached")
    assert sum(report[name] for name in names) == report["databases"]
    return {name: report[name] for name in (*names, "migrated") if report[name]}


def write(fleet: Fleet, files: dict[str, str]) -> None:
    for path in fleet.migrations.iterdir():
        path.unlink()
    fill(fleet.migrations, files)


def sleeping(server: Server, database: Database) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event = 'PgSleep'"
    return bool(server.admin.execute(query, [database.name]))


def test_a_fleet_is_migrated_once_and_the_same_again_changes_nothing(
    fleet: Fleet, make: Callable[[int], list[Database]], tmp_path: Path
) -> None:
    write(fleet, TWO)
    databases = make(9)
    inventory = [line(databases[0], 0)]
    inventory += [line(one, 1, "c1") for one in databases[1:6]]
    inventory += [line(one, 1, "c2") for one in databases[6:]]
    first = fleet.run(tmp_path, inventory, "--chunk", "2")
    assert (first.code, sums(first)) == (0, {"current": 9, "migrated": 9}), first.err
    before = [one.execute("SELECT * FROM schema_migrations") for one in databases]
    assert [(tables(one), history(one)) for one in databases] == [(["one", "two"], VERSIONS)] * 9
    assert databases[0].execute(
        "SELECT DISTINCT applied_by, environment FROM schema_migrations"
    ) == [("lambda", "test")]
    second = fleet.run(tmp_path, inventory, "--chunk", "2")
    assert (second.code, sums(second)) == (0, {"current": 9}), second.err
    looked = fleet(
        *("status", str(inventory_file(tmp_path, inventory)), "--environment", "test"), cwd=tmp_path
    )
    assert (looked.code, sums(looked)) == (0, {"current": 9}), looked.err
    assert [one.execute("SELECT * FROM schema_migrations") for one in databases] == before
    report = json.loads(fleet("report", cwd=tmp_path).out)
    assert (report["state"], report["current"]) == ("ended", 9)


def inventory_file(place: Path, inventory: list[dict[str, Any]]) -> Path:
    path = place / "fleet.jsonl"
    path.write_text("\n".join(map(json.dumps, inventory)))
    return path


def test_a_sick_canary_keeps_every_later_wave_from_beginning(
    fleet: Fleet, make: Callable[[int], list[Database]], tmp_path: Path
) -> None:
    write(fleet, TWO)
    databases = make(4)
    gone = line(databases[0], 0)
    gone = {**gone, "tenant": "gone", "url": f"{gone['url']}_gone"}
    inventory = [line(databases[0], 0), gone, *(line(one, 1) for one in databases[1:])]
    result = fleet.run(tmp_path, inventory)
    found = sums(result)
    assert (result.code, found.get("current"), found.get("notReached")) == (5, 1, 3), result.err
    report = json.loads(result.out)
    assert (report["stoppedAfterWave"], report["errors"][0]["tenants"]) == (0, ["gone"])
    assert history(databases[0]) == VERSIONS
    assert [tables(one) for one in databases[1:]] == [[]] * 3


def test_a_sick_tenant_is_named_and_nobody_else_is_affected(
    fleet: Fleet, make: Callable[[int], list[Database]], tmp_path: Path
) -> None:
    write(fleet, ONE)
    databases = make(6)
    inventory = [line(databases[0], 0), *(line(one, 1) for one in databases[1:])]
    assert fleet.run(tmp_path, inventory).code == 0
    databases[3].execute("CREATE TABLE two ()")
    write(fleet, TWO)
    result = fleet.run(tmp_path, inventory, "--chunk", "3")
    assert (result.code, sums(result)["current"], sums(result)["behind"]) == (1, 5, 1), result.err
    (group,) = json.loads(result.out)["errors"]
    found = (group["code"], group["version"], group["sqlstate"], group["tenants"])
    assert found == ("migration_failed", "002-two", "42P07", [databases[3].name])
    for one in databases:
        assert history(one) == (VERSIONS[:1] if one is databases[3] else VERSIONS)
    databases[3].execute("DROP TABLE two")
    again = fleet.run(tmp_path, inventory, "--chunk", "3")
    assert (again.code, sums(again)) == (0, {"current": 6, "migrated": 1}), again.err
    assert [history(one) for one in databases] == [VERSIONS] * 6


def test_a_function_that_is_killed_in_a_file_is_made_good_by_the_same_command(
    fleet: Fleet, make: Callable[[int], list[Database]], server: Server, tmp_path: Path
) -> None:
    write(fleet, ONE)
    databases = make(5)
    inventory = [line(databases[0], 0), *(line(one, 1) for one in databases[1:])]
    assert fleet.run(tmp_path, inventory).code == 0
    slow = databases[2]
    slow.execute("CREATE TABLE slow ()")
    sleep = "IF to_regclass('public.slow') IS NOT NULL THEN PERFORM pg_sleep(1000); END IF;"
    write(fleet, {**ONE, "002-two.sql": f"CREATE TABLE two ();\nDO $$ BEGIN {sleep} END $$;\n"})
    options = ("--chunk", "2", "--concurrency", "1")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fleet.run, tmp_path, inventory, *options)
        until(lambda: sleeping(server, slow))
        busy = fleet.run(tmp_path, inventory)
        for pid in fleet.local.instances():
            os.kill(pid, signal.SIGKILL)
        killed = running.result()
    nothing_is_left_running(server, slow)
    assert (busy.code, json.loads(busy.out)["error"]["code"]) == (4, "busy")
    assert killed.code == 6, killed.err
    assert json.loads(killed.out)["errors"][0]["code"] == "outcome_unknown"
    assert (tables(slow), history(slow)) == (["one", "slow"], VERSIONS[:1])
    slow.execute("DROP TABLE slow")
    again = fleet.run(tmp_path, inventory, *options)
    assert (again.code, sums(again)["current"]) == (0, 5), again.err
    assert [(tables(one), history(one)) for one in databases] == [(["one", "two"], VERSIONS)] * 5
