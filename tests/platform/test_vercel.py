"""A real `vercel build` of a checkout with a real Postgres, and its functions on Vercel's own
runtime.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.bundle import pins
from tests.conftest import ROOT, Database, Server
from tests.kit import BEARER, OURS, SECRET, history, run, tables
from tests.platform import vercel
from tests.platform.cache import said
from tests.platform.vercel import WAYS, Built, Send, Tools

pytestmark = pytest.mark.timeout(600)  # the first run installs the CLI

STATUS, MIGRATE = "/api/migration-status", "/api/migrate"
FUNCTIONS = ["api/migrate", "api/migration-status"]
ORDERS = "CREATE TABLE orders (id int);\n"
VERCELS = ("pip-", "setuptools-", "vercel_", "wheel-")  # what Vercel's builder adds of its own
BROKEN = f"{ORDERS}SELECT no_such_function();\n"
PREVIEW = {"VERCEL_ENV": "preview", "VERCEL_TARGET_ENV": "preview"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of this test's own, not built yet."""
    return vercel.checkout(tmp_path / "checkout")


@dataclass(frozen=True)
class Deployed(Built):
    """A build for all tests that only look at it, or run what came of it."""

    recorded: list[list[str]]
    """What it left in its database: version, environment and by whom."""


@pytest.fixture(scope="session")
def deployed(
    tools: Tools, server: Server, made_once: Callable[[str, Callable[[Path], object]], Path]
) -> Deployed:
    """Made once a run."""

    def make(place: Path) -> None:
        database = server.create()
        built = vercel.build(tools, vercel.checkout(place / "checkout"), database.url)
        rows = database.execute(
            "SELECT version, environment, applied_by FROM schema_migrations ORDER BY id"
        )
        server.drop(database)
        (place / "result").write_text(json.dumps([built.code, built.log, rows]))

    place = made_once("vercel", make)
    code, log, rows = json.loads((place / "result").read_text())
    return Deployed(code, log, place / "checkout", rows)


Start = Callable[..., Send]


@pytest.fixture(params=WAYS)
def start(
    request: pytest.FixtureRequest, tools: Tools, deployed: Deployed, tmp_path: Path
) -> Iterator[Start]:
    """`start(function, database)` runs one, in each of the ways that there are."""
    with ExitStack() as stack:

        def starting(function: str, database: Database) -> Send:
            environ = {"POSTGRES_URL": database.url, "MIGRATION_SECRET": SECRET}
            task = tmp_path / function.rpartition("/")[2] / "task"
            running = vercel.running(
                tools.python, deployed, function, task, request.param, **environ
            )
            return stack.enter_context(running)

        yield starting


def test_the_build_migrates_the_database_and_makes_both_functions(deployed: Deployed) -> None:
    assert deployed.code == 0, deployed.log
    assert deployed.functions == FUNCTIONS
    assert "Environment: production (from VERCEL_TARGET_ENV)" in deployed.log
    assert deployed.recorded == [[version, "production", "build"] for version in OURS]


def test_the_build_publishes_nothing_but_the_page(deployed: Deployed) -> None:
    assert deployed.published == ["index.html"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_is_made_of_what_it_needs_and_nothing_else(
    deployed: Deployed, function: str
) -> None:
    files = deployed.bundle(function)
    ours = {name for name in files if not name.startswith("_vendor/")}
    assert {f"migrations/{version}.sql" for version in OURS} | {
        "lib/web/routes.py",
        f"{function}.py",
    } <= ours
    assert {name.partition("/")[0] for name in ours} == {
        "api",
        "lib",
        "migrations",
        "vc__handler__python.py",
    }
    assert sum(path.stat().st_size for path in files.values()) < 30_000_000


def test_a_function_has_the_time_that_vercel_json_gives_it(deployed: Deployed) -> None:
    settings = [deployed.settings(function) for function in FUNCTIONS]
    assert [(one["runtime"], one["maxDuration"]) for one in settings] == [
        ("python3.12", 60),
        ("python3.12", 15),
    ]


def test_the_status_route_says_that_the_database_is_current(
    start: Start, migrated: Database
) -> None:
    send = start("api/migration-status", migrated)
    reply = send("GET", STATUS)
    assert (reply.status, reply.document["state"], reply.document["environment"]) == (
        200,
        "current",
        "production",
    )
    assert [one["version"] for one in reply.document["migrations"]] == OURS == history(migrated)
    assert reply.headers["cache-control"] == "no-store"
    assert send("GET", f"{STATUS}?require=current").status == 200


def test_the_status_route_answers_before_the_first_run_and_writes_nothing(
    start: Start, database: Database
) -> None:
    send = start("api/migration-status", database)
    assert (
        send("GET", STATUS).document["state"],
        send("GET", f"{STATUS}?require=current").status,
    ) == ("pending", 503)
    assert database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]


def test_an_answer_to_head_has_no_body(start: Start, migrated: Database) -> None:
    reply = start("api/migration-status", migrated)("HEAD", STATUS)
    assert (reply.status, reply.headers["content-type"], reply.body) == (
        200,
        "application/json",
        b"",
    )


def test_the_emergency_route_wants_the_secret(start: Start, database: Database) -> None:
    send = start("api/migrate", database)
    replies = [send("POST", MIGRATE), send("POST", MIGRATE, {"authorization": "Bearer guessed"})]
    assert [(one.status, one.document["error"]["code"]) for one in replies] == [
        (401, "unauthorized")
    ] * 2
    assert database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]


def test_the_emergency_route_migrates(start: Start, database: Database) -> None:
    send = start("api/migrate", database)
    reply = send("POST", MIGRATE, BEARER)
    assert (reply.status, [one["version"] for one in reply.document["applied"]]) == (200, OURS)
    assert send("POST", MIGRATE, BEARER).document["applied"] == []
    assert history(database) == OURS
    assert database.execute("SELECT DISTINCT environment, applied_by FROM schema_migrations") == [
        ("production", "api")
    ]


def test_other_paths_and_methods_are_refused_and_never_redirected(
    start: Start, database: Database
) -> None:
    migrate, status = (start(function, database) for function in FUNCTIONS)
    paths = (
        f"{STATUS}/",
        f"{MIGRATE}/",
        f"/{STATUS}",
        "/api",
        "/api/other",
        "/api/migrate.py",
        "/lib/web/routes.py",
    )
    assert {(path, send("GET", path).status) for send in (migrate, status) for path in paths} == {
        (path, 404) for path in paths
    }
    assert (migrate("GET", MIGRATE).status, status("POST", STATUS).status) == (405, 405)
    assert database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]


def test_a_failing_migration_fails_the_build_and_its_log_shows_where(
    tools: Tools, checkout: Path, database: Database
) -> None:
    (checkout / "migrations" / "003-broken.sql").write_text(BROKEN)
    built = vercel.build(tools, checkout, database.url)
    assert built.code != 0
    assert "FAILED migrations/003-broken.sql:2:8" in built.log
    assert "no_such_function() does not exist" in built.log
    assert built.functions == []
    assert (history(database), "orders" in tables(database)) == (OURS, False)


def test_a_function_that_cannot_be_imported_fails_the_build_unmigrated(
    tools: Tools, checkout: Path, database: Database
) -> None:
    (checkout / "api" / "orders.py").write_text(
        "from lib.vercel import app\nfrom lib import no_such_module\n"
    )
    built = vercel.build(tools, checkout, database.url)
    assert built.code != 0
    assert (
        "api/orders.py cannot be imported: ImportError: cannot import name 'no_such_module'"
        in built.log
    )
    assert "(api/orders.py:2)" in built.log
    assert built.functions == []
    assert database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]


def test_a_package_with_an_unlocked_hash_fails_the_build_unmigrated(
    tools: Tools, checkout: Path, database: Database
) -> None:
    lock = checkout / "scripts" / "locks" / "runtime.txt"
    lock.write_text(re.sub(r"(?<=--hash=sha256:)[0-9a-f]{64}", "0" * 64, lock.read_text()))
    built = vercel.build(tools, checkout, database.url)
    assert built.code != 0
    assert "Hash mismatch" in built.log
    assert built.functions == []
    assert database.execute("SELECT to_regclass('schema_migrations')") == [(None,)]


def test_the_install_step_takes_its_own_python_whatever_the_image_prefers(
    tools: Tools, checkout: Path
) -> None:
    preferred = {
        "UV_PYTHON": "3.13",
        "UV_PYTHON_PREFERENCE": "only-managed",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_PYTHON": "1",
    }
    environ = {"PATH": tools.path, "HOME": str(checkout), "UV_NATIVE_TLS": "true", **preferred}
    # A proxy's certificates, where there is one.
    environ |= {name: value for name, value in os.environ.items() if name.startswith("SSL_")}
    command = ["sh", "scripts/setup", "runtime"]
    result = subprocess.run(
        command, cwd=checkout, env=environ, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == "setup: 7 packages into .vercel/migrate-venv with uv (5 MB)\n"
    python = checkout / ".vercel" / "migrate-venv" / "bin" / "python"
    code = "import psycopg, sys; print(psycopg.pq.__impl__, sys.version)"
    version = said(tools.python, "-c", "import sys; print(sys.version)")
    assert said(str(python), "-c", code) == f"binary {version}"


def test_the_functions_have_the_versions_of_the_lock_and_no_others(deployed: Deployed) -> None:
    locked = {
        f"{pin.package}-{pin.version}".replace("-", "_")
        for pin in pins(ROOT / "scripts/locks/runtime.txt")
    }
    for function in FUNCTIONS:
        folders = {
            name.split("/")[1] for name in deployed.bundle(function) if name.startswith("_vendor/")
        }
        packages = {
            name.removesuffix(".dist-info") for name in folders if name.endswith(".dist-info")
        }
        ours = {name.replace("-", "_") for name in packages if not name.startswith(VERCELS)}
        assert ours == {name for name in locked if not name.startswith("tzdata")}


@pytest.fixture
def production(checkout: Path, database: Database) -> Database:
    """Production's database, which it has migrated; the checkout is of a branch that has one file
    more.
    """
    run(database, checkout / "migrations", MIGRATION_ENV="production")
    (checkout / "migrations" / "003-add-orders.sql").write_text(ORDERS)
    return database


def test_a_preview_with_productions_url_fails_and_changes_nothing(
    tools: Tools, checkout: Path, production: Database
) -> None:
    before = production.execute("SELECT xmin::text, * FROM schema_migrations ORDER BY id")
    built = vercel.build(tools, checkout, production.url, **PREVIEW)
    assert (built.code != 0, built.functions) == (True, [])
    assert "this database was last migrated as production, and this run is preview" in built.log
    [(identity,)] = production.execute("SELECT DISTINCT identity FROM schema_migrations")
    assert f"set MIGRATION_CLAIM=preview@{identity}" in built.log
    assert "exited with 3" in built.log
    assert production.execute("SELECT xmin::text, * FROM schema_migrations ORDER BY id") == before
    assert tables(production) == ["sessions", "users"]


def test_a_preview_with_a_database_of_its_own_migrates_it(
    tools: Tools, checkout: Path, production: Database, server: Server
) -> None:
    branch = server.create(template=production.name)
    try:
        built = vercel.build(tools, checkout, branch.url, **PREVIEW)
        assert (built.code, built.functions) == (0, FUNCTIONS), built.log
        assert "✅ Applied: 003-add-orders" in built.log
        newest = (
            "SELECT version, environment, applied_by FROM schema_migrations"
            " ORDER BY id DESC LIMIT 1"
        )
        assert branch.execute(newest) == [("003-add-orders", "preview", "build")]
        assert ("orders" in tables(branch), "orders" in tables(production)) == (True, False)
        assert history(production) == OURS
    finally:
        server.drop(branch)


def test_a_preview_that_is_not_to_migrate_passes_and_says_what_it_left_out(
    tools: Tools, checkout: Path, production: Database
) -> None:
    built = vercel.build(
        tools, checkout, production.url, **PREVIEW, MIGRATION_ENVIRONMENTS="production"
    )
    assert (built.code, built.functions) == (0, FUNCTIONS), built.log
    assert (
        "Skipped: preview is not among MIGRATION_ENVIRONMENTS=production. Pending: 1." in built.log
    )
    assert (history(production), tables(production)) == (OURS, ["sessions", "users"])
