"""The sandbox, run as a user runs it in a copy of the project."""

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from scripts.embedded import Embedded
from tests.conftest import Completed, Database, Server
from tests.kit import history, rows, until, wait_until_gone

pytestmark = pytest.mark.slow

BROKEN = "CREATE TABLE half_done (id int);\nSELECT no_such_function();\n"


class Sandbox:
    """`scripts/sandbox.py` of a project's copy, with the environment of a shell in which nothing is
    set.
    """

    def __init__(self, project: Path) -> None:
        self.project = project
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start it and leave it running."""
        process = subprocess.Popen(
            [sys.executable, str(self.project / "scripts" / "sandbox.py"), *arguments],
            env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **(env or {})},
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> Completed:
        """Run it to its end; both streams are in `out`."""
        process = self.start(*arguments, env=env)
        printed, _ = process.communicate()
        return Completed(process.returncode, printed, "")

    def write(self, name: str, sql: str) -> None:
        """Put a migration into the project."""
        (self.project / "migrations" / name).write_text(sql)

    @property
    def data(self) -> Path:
        """Where its Postgres lives, which is in /var/tmp for a root whose folders are closed."""
        return (self.project / ".sandbox" / "postgres").resolve()


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What a running sandbox prints, up to a line with these words."""
    assert process.stdout
    printed = ""
    for line in process.stdout:
        printed += line
        if words in line:
            return printed
    raise AssertionError(f"the sandbox ended:\n{printed}")


def url_in(printed: str) -> str:
    found = re.search(r"^URL: (postgresql://\S+)$", printed, re.MULTILINE)
    assert found, printed
    return found[1]


class Request(NamedTuple):
    """What a printed curl line asks for."""

    method: str
    port: int
    path: str
    headers: dict[str, str]

    def send(self) -> tuple[int, Any]:
        """The status code and the JSON of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request(self.method, self.path, headers=self.headers)
        answer = connection.getresponse()
        found = answer.status, json.loads(answer.read())
        connection.close()
        return found

    def refused(self) -> bool:
        """Whether nobody listens there."""
        try:
            self.send()
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False


def requests_in(printed: str) -> tuple[Request, Request]:
    """The status request and the POST."""
    status, migrate = (curl(line) for line in printed.splitlines() if line.startswith("  curl "))
    return status, migrate


def curl(line: str) -> Request:
    words = shlex.split(line)[1:]
    method, headers = "GET", {}
    while words[0].startswith("-"):
        option, value = words.pop(0), words.pop(0)
        if option == "-X":
            method = value
        else:
            assert option == "-H"
            headers[value.partition(": ")[0]] = value.partition(": ")[2]
    [url] = words
    assert urlsplit(url).hostname == "127.0.0.1"
    return Request(method, urlsplit(url).port or 0, urlsplit(url).path, headers)


@pytest.fixture
def sandbox(project: Path, tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox of this test's own, without data."""
    sandbox = Sandbox(Path(shutil.copytree(project, tmp_path / "project")))
    yield sandbox
    for process in sandbox.started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
    wait_until_gone(sandbox.data)
    Embedded(sandbox.data).drop()


def test_once_prints_the_status_and_leaves_with_0_and_without_a_process(sandbox: Sandbox) -> None:
    result = sandbox.run("--once")
    assert result.code == 0, result.out
    assert "📊 Migration Status" in result.out
    assert "Database: onward" in result.out
    assert "Environment: development" in result.out
    for version in (
        "000-create-migration-table",
        "001-create-users-table",
        "002-add-reset-token-fields",
    ):
        assert f"✅ {version}" in result.out
    assert "postgresql://" not in result.out
    assert "curl" not in result.out
    wait_until_gone(sandbox.data)


def test_the_requests_of_the_curl_lines_that_it_prints_work(sandbox: Sandbox) -> None:
    process = sandbox.start()
    printed = read_until(process, "Ctrl-C")
    status, migrate = requests_in(printed)
    code, document = status.send()
    assert (code, document["state"], document["environment"]) == (200, "current", "development")
    assert migrate._replace(headers={}).send()[0] == 401
    sandbox.write("003-add-orders.sql", "CREATE TABLE orders ();\n")
    code, document = migrate.send()
    assert (code, [one["version"] for one in document["applied"]]) == (200, ["003-add-orders"])
    assert rows(
        url_in(printed), "SELECT applied_by FROM schema_migrations WHERE name = 'Add Orders'"
    ) == [("api",)]


def test_the_routes_end_with_the_sandbox_even_in_the_middle_of_a_migration(
    sandbox: Sandbox,
) -> None:
    process = sandbox.start()
    printed = read_until(process, "Ctrl-C")
    status, migrate = requests_in(printed)
    sandbox.write("003-slow.sql", "CREATE TABLE half_done ();\nSELECT pg_sleep(3600);\n")
    connection = http.client.HTTPConnection("127.0.0.1", migrate.port)
    connection.request("POST", migrate.path, headers=migrate.headers)
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    until(lambda: rows(url_in(printed), sleeping))
    process.terminate()
    process.communicate()
    assert process.returncode == 0
    assert status.refused()
    connection.close()
    (sandbox.project / "migrations" / "003-slow.sql").unlink()
    again = read_until(sandbox.start(), "Ctrl-C")
    assert rows(
        url_in(again), "SELECT to_regclass('half_done')::text, count(*) FROM schema_migrations"
    ) == [(None, 3)]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_stays_until_it_is_told_to_stop_and_leaves_no_process(
    sandbox: Sandbox, stop: signal.Signals
) -> None:
    process = sandbox.start()
    url = url_in(read_until(process, "Ctrl-C stops the sandbox."))
    assert rows(url, "SELECT count(*) FROM schema_migrations") == [(3,)]
    process.send_signal(stop)
    printed, _ = process.communicate()
    assert (process.returncode, "Traceback" in printed) == (0, False), printed
    wait_until_gone(sandbox.data)
    assert "database system is shut down" in (sandbox.data / "log").read_text()


def test_killing_it_with_9_leaves_no_process_and_the_data_are_there_again(sandbox: Sandbox) -> None:
    process = sandbox.start()
    printed = read_until(process, "Ctrl-C")
    url = url_in(printed)
    rows(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    process.kill()
    process.communicate()
    wait_until_gone(sandbox.data)
    until(requests_in(printed)[0].refused)
    assert url_in(read_until(sandbox.start(), "Ctrl-C")) == url
    assert rows(url, "TABLE kept") == [(42,)]


def test_the_address_that_it_prints_is_the_status_page(sandbox: Sandbox) -> None:
    printed = read_until(sandbox.start(), "Ctrl-C")
    assert "<h1>" in page_in(printed)
    assert "Up to date" in page_in(printed)


def page_in(printed: str) -> str:
    """What is at the address of the page."""
    found = re.search(r"^Status page: (http://127\.0\.0\.1:\d+/)$", printed, re.MULTILINE)
    assert found, printed
    with urllib.request.urlopen(found[1]) as answer:
        return str(answer.read().decode())


def test_a_demo_is_current_and_leaves_your_migrations_and_data_alone(sandbox: Sandbox) -> None:
    assert sandbox.run("--once").code == 0
    files = sorted(path.name for path in (sandbox.project / "migrations").iterdir())
    process = sandbox.start("--demo", "40")
    printed = read_until(process, "Ctrl-C")
    _, document = requests_in(printed)[0].send()
    assert (document["state"], document["appliedMigrations"]) == ("current", 40)
    assert (document["database"], document["drift"]) == ("demo", "none")
    [oldest, *_] = sorted(one["appliedAt"] for one in document["migrations"])
    assert oldest < document["lastMigration"]["appliedAt"][:4]
    assert page_in(printed).count("<tr id=") == 40
    process.terminate()
    process.communicate()
    assert sorted(path.name for path in (sandbox.project / "migrations").iterdir()) == files
    with Embedded(sandbox.data) as server:
        assert rows(server.url("onward"), "SELECT count(*) FROM schema_migrations") == [(3,)]


def test_a_second_demo_replaces_the_first_one(sandbox: Sandbox) -> None:
    assert sandbox.run("--once", "--demo", "5").code == 0
    again = sandbox.run("--once", "--demo", "2")
    assert (again.code, "Applied Migrations (2)" in again.out) == (0, True), again.out
    with Embedded(sandbox.data) as server:
        assert rows(server.url("demo"), "SELECT count(*) FROM schema_migrations") == [(2,)]


@pytest.mark.parametrize("number", ["0", "5001", "-1", "many", "1.5"])
def test_a_demo_of_no_number_is_refused_before_anything_starts(
    sandbox: Sandbox, number: str
) -> None:
    result = sandbox.run(f"--demo={number}")
    assert result.code == 2
    assert f"'{number}' is not a number from 1 to 5000" in result.out
    assert not (sandbox.project / ".sandbox").exists()


def test_a_demo_beside_a_running_sandbox_is_refused_and_changes_nothing(sandbox: Sandbox) -> None:
    process = sandbox.start()
    url = url_in(read_until(process, "Ctrl-C"))
    refused = sandbox.run("--demo", "3", "--once")
    assert (refused.code, f"  kill {process.pid}\n" in refused.out) == (5, True)
    assert rows(url, "SELECT count(*) FROM schema_migrations") == [(3,)]
    assert rows(url, "SELECT 1 FROM pg_database WHERE datname = 'demo'") == []


def test_reset_drops_the_data(sandbox: Sandbox) -> None:
    process = sandbox.start()
    rows(url_in(read_until(process, "Ctrl-C")), "CREATE TABLE kept ()")
    process.terminate()
    process.communicate()
    process = sandbox.start("--reset")
    url = url_in(read_until(process, "Ctrl-C"))
    assert rows(url, "SELECT to_regclass('kept')::text, count(*) FROM schema_migrations") == [
        (None, 3)
    ]


def test_a_coding_assistant_needs_no_consent_in_the_sandbox(sandbox: Sandbox) -> None:
    process = sandbox.start(env={"CLAUDECODE": "1", "CI": "1"})
    printed = read_until(process, "Ctrl-C")
    assert "Run by a coding assistant: Claude Code (CLAUDECODE)" in printed
    sandbox.write("003-add-orders.sql", "CREATE TABLE orders ();\n")
    assert [request.send()[0] for request in requests_in(printed)] == [200, 200]
    assert rows(url_in(printed), "SELECT version, applied_by FROM schema_migrations")[2:] == [
        ("002-add-reset-token-fields", "assistant"),
        ("003-add-orders", "assistant"),
    ]


@pytest.mark.parametrize("options", [("--reset",), ("--reset", "--once")])
def test_reset_beside_a_running_sandbox_is_refused_and_deletes_nothing(
    sandbox: Sandbox, options: tuple[str, ...]
) -> None:
    process = sandbox.start()
    url = url_in(read_until(process, "Ctrl-C"))
    refused = sandbox.run(*options)
    assert refused.code == 5
    assert f"process {process.pid} runs this sandbox already\nNo data was deleted" in refused.out
    assert f"  kill {process.pid}\n" in refused.out
    assert rows(url, "SELECT count(*) FROM schema_migrations") == [(3,)]


def test_once_beside_a_running_sandbox_applies_to_it_and_leaves_it_running(
    sandbox: Sandbox,
) -> None:
    process = sandbox.start()
    printed = read_until(process, "Ctrl-C")
    sandbox.write("003-add-orders.sql", "CREATE TABLE orders ();\n")
    once = sandbox.run("--once")
    assert once.code == 0, once.out
    assert f"process {process.pid} runs this sandbox already" in once.out
    assert "✅ Applied: 003-add-orders" in once.out
    status, _ = requests_in(printed)
    assert status.send()[1]["appliedMigrations"] == 4
    assert rows(url_in(printed), "SELECT to_regclass('orders')::text") == [("orders",)]


def test_a_second_sandbox_says_where_the_first_one_is(sandbox: Sandbox) -> None:
    process = sandbox.start()
    printed = read_until(process, "Ctrl-C")
    refused = sandbox.run()
    assert refused.code == 5
    assert (url_in(refused.out), "--reset" in refused.out) == (url_in(printed), False)
    (status,) = (curl(line) for line in refused.out.splitlines() if line.startswith("  curl "))
    assert (status, status.send()[0]) == (requests_in(printed)[0], 200)


def test_once_beside_one_that_is_ending_or_was_killed_starts_its_own(sandbox: Sandbox) -> None:
    process = sandbox.start()
    read_until(process, "Ctrl-C")
    process.kill()
    process.communicate()
    once = sandbox.run("--once")
    assert (once.code, "already" in once.out) == (0, False), once.out
    wait_until_gone(sandbox.data)


def test_the_routes_keep_their_port_unless_it_is_taken(sandbox: Sandbox) -> None:
    ports = []
    for _ in range(2):
        process = sandbox.start()
        ports.append(requests_in(read_until(process, "Ctrl-C"))[0].port)
        process.terminate()
        process.communicate()
    assert ports[0] == ports[1]
    with socket.create_server(("127.0.0.1", ports[0])):
        status, _ = requests_in(read_until(sandbox.start(), "Ctrl-C"))
        assert status.port != ports[0]
        assert status.send()[1]["appliedMigrations"] == 3


def test_a_reader_that_leaves_does_not_change_how_it_ends(sandbox: Sandbox) -> None:
    command = f"{shlex.quote(sys.executable)} scripts/sandbox.py --once; echo $? >&2"
    result = subprocess.run(
        ["sh", "-c", f"({command}) | head -n 1"],
        cwd=sandbox.project,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout.count("\n"), result.stderr) == (1, "0\n")
    with Embedded(sandbox.data) as server:
        assert rows(server.url("onward"), "SELECT count(*) FROM schema_migrations") == [(3,)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_sandbox_is_refused_with_what_to_do(sandbox: Sandbox) -> None:
    place = sandbox.project / ".sandbox"
    place.mkdir()
    os.chown(place, 65534, -1)
    result = sandbox.run("--once")
    assert result.code == 5
    assert f"{place} belongs to nobody, and you are root" in result.out
    assert f"  rm -r {place}\n" in result.out
    assert ("--reset" in result.out, list(place.iterdir())) == (False, [])


def test_a_failing_migration_shows_its_error_and_once_exits_with_its_code(
    sandbox: Sandbox,
) -> None:
    sandbox.write("003-broken.sql", BROKEN)
    result = sandbox.run("--once")
    assert result.code == 1
    assert "003-broken.sql:2" in result.out
    assert "no_such_function" in result.out
    wait_until_gone(sandbox.data)


def test_after_a_failure_the_printed_command_completes_the_mended_file(
    sandbox: Sandbox,
) -> None:
    sandbox.write("003-broken.sql", BROKEN)
    process = sandbox.start()
    printed = read_until(process, "Ctrl-C")
    assert "The migration failed (exit code 1)" in printed
    command = next(line for line in printed.splitlines() if line.startswith("  POSTGRES_URL="))
    sandbox.write("003-broken.sql", BROKEN.replace("no_such_function", "now"))
    again = subprocess.run(
        ["/bin/sh", "-c", command], cwd=sandbox.project, capture_output=True, check=False
    )
    assert again.returncode == 0, again.stderr
    url = shlex.split(command)[0].removeprefix("POSTGRES_URL=")
    assert rows(url, "SELECT to_regclass('half_done')::text, count(*) FROM schema_migrations") == [
        ("half_done", 4)
    ]


def test_a_database_of_yours_is_used_and_its_password_is_not_shown(
    sandbox: Sandbox, database: Database
) -> None:
    process = sandbox.start("--url", database.url)
    printed = read_until(process, "Ctrl-C")
    assert url_in(printed) == re.sub(r":[^:@]*@", ":***@", database.url)
    sandbox.write("003-add-orders.sql", "CREATE TABLE orders ();\n")
    assert [request.send()[0] for request in requests_in(printed)] == [200, 200]
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    assert history(database)[3:] == ["003-add-orders"]
    assert not (sandbox.project / ".sandbox").exists()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:canary-s3cret@{place}/none",
        "postgresql://me:canary-s3cret-with-@-and-/-and-?@{place}/none",
        "postgresql://me@{place}/none?password=canary-s3cret&sslpassword=canary-s3cret",
        "host=127.0.0.1 port=1 password=canary-s3cret",
    ],
)
def test_the_password_of_a_url_that_does_not_work_is_not_shown(
    sandbox: Sandbox, server: Server, url: str
) -> None:
    process = sandbox.start(
        "--url", url.format(place=urlsplit(server.url).netloc.rpartition("@")[2])
    )
    printed = read_until(process, "Ctrl-C")
    assert "The migration failed (exit code" in printed
    assert "canary" not in printed


def test_reset_of_a_database_of_yours_is_refused(sandbox: Sandbox) -> None:
    result = sandbox.run("--reset", "--url", "postgresql://127.0.0.1:1/none")
    assert result.code == 2
    assert "argument --url: not allowed with argument --reset" in result.out


def test_what_shell_and_env_files_set_for_other_databases_is_left_alone(
    sandbox: Sandbox,
) -> None:
    elsewhere = "postgresql://nobody:nothing@127.0.0.1:1/production"
    names = (
        "MIGRATION_DATABASE_URL",
        "POSTGRES_URL_NON_POOLING",
        "DATABASE_URL_UNPOOLED",
        "POSTGRES_URL",
        "DATABASE_URL",
    )
    (sandbox.project / ".env.local").write_text(
        f'POSTGRES_URL="{elsewhere}"\nVERCEL="1"\nVERCEL_ENV="production"\n'
    )
    others = {
        "VERCEL": "1",
        "VERCEL_ENV": "production",
        "MIGRATION_ENV": "production",
        "CI": "1",
        "PGSSLMODE": "require",
    }
    result = sandbox.run("--once", env=dict.fromkeys(names, elsewhere) | others)
    assert result.code == 0, result.out
    assert "Environment: development" in result.out


def test_help_has_examples(sandbox: Sandbox) -> None:
    result = sandbox.run("--help")
    assert result.code == 0
    assert "scripts/sandbox --reset" in result.out
