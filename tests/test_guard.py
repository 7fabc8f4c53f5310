"""Whose database it is: runs of several environments on one database, its copies, its branches and
its other names.

Each test ends by looking at the database. What a build is, its variables say: see `Deploy`.
"""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from starlette.testclient import TestClient

from lib import runner
from lib.cli.main import main
from lib.errors import WrongEnvironment
from lib.settings.config import Config
from lib.web.routes import create_app
from lib.web.service import Service
from tests.conftest import ROOT, Cli, Completed, Database, Server
from tests.documents import blocks_of
from tests.kit import (
    Write,
    by_name,
    config_of,
    contents,
    login,
    nothing_is_left_running,
    role,
    run_fails,
    tables,
    until,
)

ONE = {"001-one.sql": "CREATE TABLE one (i int);\n"}
TWO = {"002-two.sql": "CREATE TABLE two (i int);\n"}
THREE = {"003-three.sql": "CREATE TABLE three (i int);\n"}
FOUR = {"004-four.sql": "CREATE TABLE four (i int);\n"}
REWORDED = {"001-one.sql": "-- A comment.\nCREATE TABLE one (i int);\n"}
CHANGED = {"001-one.sql": "CREATE TABLE changed (i int);\n"}
LATE = {"000-late.sql": "CREATE TABLE late (i int);\n"}
NEON = "ep-{}.eu-central-1.aws.neon.example"
# A table as the runner before this one left it: no audit columns, so nobody is named.
TAKEN_OVER = """
CREATE TABLE schema_migrations (id serial PRIMARY KEY, version varchar(255) UNIQUE NOT NULL,
    name varchar(255) NOT NULL, applied_at timestamp DEFAULT now(), execution_time_ms int,
    checksum varchar(64));
INSERT INTO schema_migrations (version, name) VALUES ('001-one', 'One');
CREATE TABLE one (i int)
"""


@dataclass(frozen=True)
class Deploy:
    """`deploy("preview", database)` is the build step of such a deploy on Vercel; further words are
    a command.
    """

    directory: Path
    captured: pytest.CaptureFixture[str]

    def __call__(
        self, environment: str, database: Database, *command: str, **environ: str
    ) -> Completed:
        files = {"MIGRATION_DIR": str(self.directory / "migrations"), "POSTGRES_URL": database.url}
        code = main(
            command, {**files, "CI": "1", "VERCEL": "1", "VERCEL_ENV": environment, **environ}
        )
        out, err = self.captured.readouterr()
        password = urlsplit(database.url).password or ""
        assert len(password) < 12 or password not in out + err, "the command printed a password"
        return Completed(code, out, err)


@pytest.fixture
def deploy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Deploy:
    return Deploy(tmp_path, capsys)


@pytest.fixture
def production(database: Database, deploy: Deploy, migrations: Write) -> Database:
    """Production's database: 001 was applied by its deploy, and 002 is pending since."""
    migrations(ONE)
    assert deploy("production", database).code == 0
    migrations(TWO)
    return database


def marks(database: Database, table: str = "schema_migrations") -> list[tuple[Any, ...]]:
    """Which environment the history names for each version."""
    return database.execute(f"SELECT version, environment FROM {table} ORDER BY id")


def identities(database: Database) -> list[str]:
    return [
        identity
        for (identity,) in database.execute(
            "SELECT DISTINCT identity FROM schema_migrations ORDER BY 1"
        )
    ]


def system(database: Database) -> str:
    ((identifier,),) = database.execute("SELECT system_identifier::text FROM pg_control_system()")
    return str(identifier)


def printed_claim(refused: Completed) -> str:
    """The value of the line to set, as somebody copies it from the log."""
    (line,) = re.findall(r"set MIGRATION_CLAIM=(.*)$", refused.err, re.MULTILINE)
    return str(line)


def is_refused(result: Completed, whose: str) -> None:
    assert (result.code, result.out.count("✅")) == (3, 0)
    assert f"❌ this database {whose}" in result.err


# A preview that was handed production's URL


def test_a_preview_with_productions_url_changes_nothing_and_has_3_ways_out(
    production: Database, deploy: Deploy
) -> None:
    before = contents(production)
    result = deploy("preview", production)
    assert contents(production) == before
    is_refused(
        result,
        f"was last migrated as production, and this run is preview\n  Database: {production.name}",
    )
    assert "\n  Environment: preview (from VERCEL_ENV)\n" in result.err
    assert "Nothing was changed." in result.err
    assert "Not applied: 002-two." in result.err
    ways = re.findall(r"^  - (.*)$", result.err, re.MULTILINE)
    assert [re.sub(" [a-z]+@.*", "", way) for way in ways] == [
        "give preview a database or branch of its own, and give only preview its URL",
        "let preview apply nothing, so that its builds pass: set MIGRATION_ENVIRONMENTS=production",
        "if this database belongs to preview from now on: set MIGRATION_CLAIM="
        f"preview@{system(production)}/{production.name}",
    ]


def test_the_refusal_is_one_json_document_where_that_is_asked_for(
    production: Database, deploy: Deploy
) -> None:
    before = contents(production)
    result = deploy("preview", production, "--json")
    document = json.loads(result.out)
    assert (result.code, document["success"], document["error"]["code"]) == (
        3,
        False,
        "wrong_environment",
    )
    assert (document["applied"], document["remaining"]) == ([], ["002-two"])
    assert contents(production) == before


def test_a_laptop_with_productions_url_changes_nothing(production: Database, cli: Cli) -> None:
    before = contents(production)
    result = cli(url=production.url)
    is_refused(result, "was last migrated as production, and this run is development\n")
    assert "\n  Environment: development (from default)\n" in result.err
    assert contents(production) == before


def test_the_documentation_shows_what_is_printed(
    database: Database, deploy: Deploy, migrations: Write
) -> None:
    branch = by_name(database, "ep-cool-rain-1.eu-central-1.aws.neon.tech")
    migrations(ONE)
    assert deploy("production", branch).code == 0
    migrations(TWO)
    skipped, refused = (
        deploy("preview", branch, MIGRATION_ENVIRONMENTS=only) for only in ("production", "")
    )
    printed = [skipped.out, refused.out + refused.err]
    page = ROOT / "docs" / "environments.md"
    shown = [block.text for block in blocks_of(page) if not block.language]
    assert [_without_numbers(text.replace(database.name, "neondb")) for text in printed] == list(
        map(_without_numbers, shown)
    )
    assert marks(database) == [("001-one", "production")]


def _without_numbers(text: str) -> str:
    """Without what is not the page's: versions, identities, and how `by_name` reaches a host of
    that name.
    """
    text = re.sub(r":\d+ \(address [\d.]+\)", "", text)
    return re.sub(r"(PostgreSQL |@)[\d.]+", r"\1N", text)


def test_an_environment_has_its_own_name_where_vercel_calls_it_a_preview(
    production: Database, deploy: Deploy
) -> None:
    before = contents(production)
    refused = deploy("preview", production, VERCEL_TARGET_ENV="staging")
    is_refused(refused, "was last migrated as production, and this run is staging\n")
    assert "\n  Environment: staging (from VERCEL_TARGET_ENV)\n" in refused.err
    assert printed_claim(refused).startswith("staging@")
    assert contents(production) == before


def test_nothing_pending_is_nothing_to_refuse(
    database: Database, deploy: Deploy, migrations: Write
) -> None:
    migrations(ONE)
    assert deploy("production", database).code == 0
    before = contents(database)
    for environment in ("preview", "staging", "development"):
        assert deploy(environment, database).code == 0
    assert contents(database) == before


def test_reading_is_free_for_all(production: Database, deploy: Deploy) -> None:
    before = contents(production)
    assert [deploy("preview", production, command).code for command in ("status", "validate")] == [
        0,
        0,
    ]
    assert contents(production) == before


@pytest.mark.parametrize("environment", ["production", "preview", "Qa-2"])
def test_the_environment_that_migrated_last_goes_on_without_a_word(
    database: Database, deploy: Deploy, migrations: Write, environment: str
) -> None:
    migrations(ONE)
    assert deploy(environment, database).code == 0
    migrations(TWO)
    result = deploy(environment.lower(), database)
    assert (result.code, "⚠️" in result.out + result.err) == (0, False)
    assert marks(database) == [("001-one", environment.lower()), ("002-two", environment.lower())]


@pytest.mark.parametrize("environment", ["preview", "staging", "development"])
def test_production_makes_a_database_its_own_with_a_warning(
    database: Database, deploy: Deploy, migrations: Write, environment: str
) -> None:
    migrations(ONE)
    assert deploy(environment, database).code == 0
    migrations(TWO)
    result = deploy("production", database)
    assert result.code == 0
    assert (
        f"⚠️  this database was last migrated as {environment}; production takes it over"
        in result.out
    )
    migrations(THREE)
    is_refused(deploy(environment, database), "was last migrated as production")
    assert marks(database) == [("001-one", environment), ("002-two", "production")]
    assert tables(database) == ["one", "two"]


def test_the_newest_mark_counts_whichever_environments_came_before(
    production: Database, deploy: Deploy, migrations: Write
) -> None:
    """As where two teams share a history, each with environments of its own."""
    claim = printed_claim(deploy("preview", production)).replace("preview", "theirs")
    assert deploy("theirs", production, MIGRATION_CLAIM=claim).code == 0
    migrations(THREE)
    for environment in ("preview", "ours"):
        is_refused(deploy(environment, production), "was last migrated as theirs")
    assert marks(production) == [("001-one", "production"), ("002-two", "theirs")]


def test_two_histories_in_one_database_have_each_an_environment_of_its_own(
    database: Database, deploy: Deploy, migrations: Write
) -> None:
    database.execute("CREATE SCHEMA a; CREATE SCHEMA b")
    migrations({"001-nothing.sql": "SELECT 1"})
    assert deploy("production", database, MIGRATION_SCHEMA="a").code == 0
    assert deploy("preview", database, MIGRATION_SCHEMA="b").code == 0
    migrations({"002-nothing.sql": "SELECT 2"})
    is_refused(deploy("preview", database, MIGRATION_SCHEMA="a"), "was last migrated as production")
    assert deploy("preview", database, MIGRATION_SCHEMA="b").code == 0
    assert marks(database, "a.schema_migrations") == [("001-nothing", "production")]
    assert marks(database, "b.schema_migrations") == [
        ("001-nothing", "preview"),
        ("002-nothing", "preview"),
    ]


@pytest.mark.slow
def test_of_two_environments_that_meet_on_a_new_database_one_gets_it(
    database: Database, cli: Cli, migrations: Write
) -> None:
    """Both find it empty, so free; the one that waits for the lock looks again when it has it."""
    waiting = (
        "SELECT query FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name LIKE %s"
    )
    migrations({"001-one.sql": "SELECT pg_advisory_xact_lock(1); CREATE TABLE one (i int);"})
    with psycopg.connect(database.url) as gate, ThreadPoolExecutor() as pool:
        gate.execute("SELECT pg_advisory_xact_lock(1)")
        environ = {"CI": "1", "VERCEL_ENV": "production", "MIGRATION_LOCK_TIMEOUT": "0"}
        first = pool.submit(cli, url=database.url, env=environ)
        until(
            lambda: [
                q
                for (q,) in database.execute(waiting, ["onward % production%"])
                if "CREATE TABLE one" in q
            ]
        )
        migrations(TWO)
        second = pool.submit(cli, url=database.url, env={**environ, "VERCEL_ENV": "preview"})
        # It has read the history when it asks for something else.
        until(
            lambda: [
                q
                for (q,) in database.execute(waiting, ["onward % preview%"])
                if q and "onward_document" not in q
            ]
        )
        gate.rollback()
        assert first.result().code == 0
        is_refused(second.result(), "was last migrated as production")
    assert marks(database) == [("001-one", "production")]
    assert tables(database) == ["one"]


# MIGRATION_CLAIM


def test_the_printed_claim_is_good_for_one_environment_and_one_database(
    server: Server, production: Database, deploy: Deploy, migrations: Write
) -> None:
    claim = printed_claim(deploy("preview", production))
    before = contents(production)
    staging = deploy("staging", production, MIGRATION_CLAIM=claim)
    is_refused(staging, "was last migrated as production, and this run is staging")
    assert f"MIGRATION_CLAIM names another pair: {claim}." in staging.err
    for other in (f"{claim}x", claim[:-1], "preview@x", f"{claim}/ep-cool-1"):
        is_refused(
            deploy("preview", production, MIGRATION_CLAIM=other), "was last migrated as production"
        )
    assert contents(production) == before

    result = deploy("preview", production, MIGRATION_CLAIM=claim)
    assert result.code == 0
    assert (
        "⚠️  this database was last migrated as production; MIGRATION_CLAIM assigns it to preview"
        in result.out
    )
    assert marks(production) == [("001-one", "production"), ("002-two", "preview")]
    assert identities(production) == [f"{system(production)}/{production.name}"]


def test_a_claimed_database_is_the_claimers_until_production_takes_it_back(
    production: Database, deploy: Deploy, migrations: Write
) -> None:
    claim = printed_claim(deploy("preview", production))
    assert deploy("preview", production, MIGRATION_CLAIM=claim).code == 0
    migrations(THREE)
    is_refused(
        deploy("staging", production), "was last migrated as preview, and this run is staging"
    )
    again = deploy("preview", production)
    assert (again.code, "⚠️" in again.out + again.err) == (0, False)
    migrations(FOUR)
    assert (
        "last migrated as preview; production takes it over" in deploy("production", production).out
    )
    migrations({"005-five.sql": "CREATE TABLE five (i int)"})
    is_refused(deploy("preview", production), "was last migrated as production")
    expected = [
        ("001-one", "production"),
        ("002-two", "preview"),
        ("003-three", "preview"),
        ("004-four", "production"),
    ]
    assert marks(production) == expected


def test_a_claim_that_is_left_in_the_settings_claims_each_time_and_says_so(
    production: Database, deploy: Deploy, migrations: Write
) -> None:
    claim = printed_claim(deploy("preview", production))
    for files, environment in ((TWO, "preview"), (THREE, "production"), (FOUR, "preview")):
        migrations(files)
        result = deploy(environment, production, MIGRATION_CLAIM=claim)
        assert (result.code, "⚠️  this database was last migrated as" in result.out) == (0, True)
    assert [environment for _, environment in marks(production)] == [
        "production",
        "preview",
        "production",
        "preview",
    ]


def test_a_claim_whose_migration_fails_leaves_the_database_to_whom_it_was(
    production: Database, deploy: Deploy, migrations: Write
) -> None:
    claim = printed_claim(deploy("preview", production))
    before = contents(production)
    migrations({"002-two.sql": "CREATE TABLE two (i int); SELECT no_such_function();"})
    assert deploy("preview", production, MIGRATION_CLAIM=claim).code == 1
    migrations(TWO)
    is_refused(deploy("preview", production), "was last migrated as production")
    assert contents(production) == before


def test_a_claim_can_be_copied_whatever_the_database_is_called(
    server: Server, deploy: Deploy, migrations: Write
) -> None:
    created = server.create(name=f"{server.run}_{server.worker}_it's 100% ü/b")
    database = replace(
        created,
        url=urlsplit(created.url)._replace(path=f"/{quote(created.name, safe='')}").geturl(),
    )
    try:
        migrations(ONE)
        assert deploy("production", database).code == 0
        migrations(TWO)
        claim = printed_claim(deploy("preview", database))
        assert deploy("preview", database, MIGRATION_CLAIM=f" {claim} ").code == 0
        assert marks(database) == [("001-one", "production"), ("002-two", "preview")]
    finally:
        server.drop(database)


@pytest.mark.parametrize("claim", ["preview", "@", "preview@", "@123/app"])
def test_a_claim_that_says_nothing_is_refused_before_anything_is_done(
    production: Database, deploy: Deploy, claim: str
) -> None:
    before = contents(production)
    for environment in ("preview", "production"):
        result = deploy(environment, production, MIGRATION_CLAIM=claim)
        assert (
            result.code,
            "MIGRATION_CLAIM must look like environment@identity" in result.err,
        ) == (2, True)
    assert contents(production) == before


# A history without marks


@pytest.fixture
def taken_over(database: Database, migrations: Write) -> Database:
    """The database of a team that comes from another runner; 002 is pending."""
    database.execute(TAKEN_OVER)
    migrations({**ONE, **TWO})
    return database


@pytest.mark.parametrize("environment", ["preview", "development"])
def test_a_history_without_marks_is_nobodys_but_productions(
    taken_over: Database, deploy: Deploy, environment: str
) -> None:
    before = contents(taken_over)
    result = deploy(environment, taken_over)
    is_refused(result, "has a history that names no environment")
    assert "MIGRATION_ENVIRONMENTS=production" in result.err
    assert f"set MIGRATION_ENV={environment} once" in result.err
    assert contents(taken_over) == before, "not even the audit columns were added"

    result = deploy("production", taken_over)
    assert (result.code, "this database" in result.out) == (0, False)
    assert marks(taken_over) == [("001-one", None), ("002-two", "production")]


@pytest.mark.slow
def test_a_laptop_does_not_touch_a_history_without_marks(taken_over: Database, cli: Cli) -> None:
    before = contents(taken_over)
    is_refused(cli(url=taken_over.url), "has a history that names no environment")
    assert contents(taken_over) == before


@pytest.mark.parametrize("way", ["MIGRATION_ENV", "MIGRATION_CLAIM"])
def test_who_names_its_environment_outright_takes_over_an_unmarked_history(
    taken_over: Database, deploy: Deploy, migrations: Write, way: str
) -> None:
    claim = printed_claim(deploy("preview", taken_over))
    assert (
        deploy("preview", taken_over, **{way: {"MIGRATION_ENV": "preview"}.get(way, claim)}).code
        == 0
    )
    migrations(THREE)
    assert deploy("preview", taken_over).code == 0, "once is enough"
    migrations(FOUR)
    is_refused(
        deploy("staging", taken_over, MIGRATION_ENV="staging"), "was last migrated as preview"
    )
    assert marks(taken_over) == [
        ("001-one", None),
        ("002-two", "preview"),
        ("003-three", "preview"),
    ]


@pytest.mark.parametrize(
    "half",
    [
        "environment = 'production'",
        "identity = 'x/y'",
        "identity = '7000000000000000001/other'",
        "environment = '', identity = ''",
    ],
)
def test_half_a_mark_is_none(taken_over: Database, deploy: Deploy, half: str) -> None:
    columns = ", ".join(
        f"ADD {column} text" for column in ("environment", "identity", "git_commit", "applied_by")
    )
    taken_over.execute(
        f"ALTER TABLE schema_migrations {columns}; UPDATE schema_migrations SET {half}"
    )
    before = contents(taken_over)
    is_refused(deploy("preview", taken_over), "has a history that names no environment")
    assert contents(taken_over) == before


def test_a_baseline_marks_the_database_as_its_environments(
    database: Database, deploy: Deploy, migrations: Write
) -> None:
    migrations(ONE)
    assert deploy("production", database, "baseline", "001").code == 0
    migrations(TWO)
    is_refused(deploy("preview", database), "was last migrated as production")
    assert deploy("production", database).code == 0
    assert marks(database) == [("001-one", "production"), ("002-two", "production")]
    assert tables(database) == ["two"]


# Copies, branches and other names


@pytest.mark.slow
def test_a_clone_by_another_name_is_free_and_the_original_is_not(
    server: Server, production: Database, deploy: Deploy, migrations: Write
) -> None:
    clone = server.create(template=production.name)
    try:
        result = deploy("preview", clone)
        assert (result.code, "⚠️" in result.out + result.err) == (0, False)
        is_refused(deploy("preview", production), "was last migrated as production")
        migrations(THREE)
        is_refused(deploy("staging", clone), "was last migrated as preview")
        assert marks(clone) == [("001-one", "production"), ("002-two", "preview")]
        assert identities(clone) == [
            f"{system(clone)}/{name}" for name in sorted((production.name, clone.name))
        ]
        assert marks(production) == [("001-one", "production")]
    finally:
        server.drop(clone)


@pytest.mark.slow
def test_in_a_fleet_a_copy_is_its_originals_environments_and_no_others(
    server: Server, production: Database, migrations: Write
) -> None:
    clone = server.create(template=production.name)
    directory = migrations(TWO)
    try:
        for environment in ("staging", "preview"):
            with run_fails(WrongEnvironment, match="is a copy of one that was last migrated as"):
                runner.run(in_a_fleet(clone, directory, environment), lambda _: None)
        assert (marks(clone), tables(clone)) == ([("001-one", "production")], ["one"])
        runner.run(in_a_fleet(clone, directory, "production"), lambda _: None)
        assert marks(clone) == [("001-one", "production"), ("002-two", "production")]
        migrations(THREE)
        with run_fails(WrongEnvironment, match="was last migrated as production"):
            runner.run(in_a_fleet(clone, directory, "staging"), lambda _: None)
        assert tables(clone) == ["one", "two"]
    finally:
        server.drop(clone)


def test_in_a_fleet_production_takes_no_other_environments_database(
    database: Database, deploy: Deploy, migrations: Write
) -> None:
    directory = migrations(ONE)
    assert deploy("preview", database).code == 0
    migrations(TWO)
    with run_fails(WrongEnvironment, match="was last migrated as preview"):
        runner.run(in_a_fleet(database, directory, "production"), lambda _: None)
    assert (marks(database), tables(database)) == ([("001-one", "preview")], ["one"])


def test_in_a_fleet_half_a_mark_is_none_either(taken_over: Database, migrations: Write) -> None:
    taken_over.execute(
        "ALTER TABLE schema_migrations ADD environment text, ADD identity text;"
        "UPDATE schema_migrations SET environment = 'production'"
    )
    runner.run(in_a_fleet(taken_over, migrations(TWO), "staging"), lambda _: None)
    assert marks(taken_over) == [("001-one", "production"), ("002-two", "staging")]


def in_a_fleet(database: Database, directory: Path, environment: str) -> Config:
    return config_of(database, directory, MIGRATION_ENV=environment)._replace(fleet=True)


def test_rows_that_were_restored_elsewhere_do_not_bind_anybody(
    server: Server, production: Database, deploy: Deploy
) -> None:
    """As pg_dump and pg_restore would bring them there."""
    restored = server.create()
    try:
        restored.execute(
            (ROOT / "migrations" / "000-create-migration-table.sql").read_text()
            + ONE["001-one.sql"]
        )
        ((row,),) = production.execute("SELECT to_jsonb(h)::text FROM schema_migrations h")
        restored.execute(
            "INSERT INTO schema_migrations SELECT * FROM "
            "jsonb_populate_record(null::schema_migrations, %s)",
            [row],
        )
        restored.execute("SELECT setval('schema_migrations_id_seq', 1)")
        assert marks(restored) == marks(production) == [("001-one", "production")]
        assert deploy("preview", restored).code == 0
        assert marks(restored) == [("001-one", "production"), ("002-two", "preview")]
    finally:
        server.drop(restored)


def test_a_branch_of_neon_is_free_and_its_parent_is_not(
    database: Database, deploy: Deploy, migrations: Write
) -> None:
    """A branch has the rows, the system identifier and the name of its parent: only the endpoint is
    another.
    """
    parent, branch = (
        by_name(database, NEON.format(name)) for name in ("cool-rain-1", "quiet-snow-2")
    )
    migrations(ONE)
    assert deploy("production", parent).code == 0
    migrations(TWO)
    refused = deploy("preview", parent)
    is_refused(refused, "was last migrated as production")
    assert printed_claim(refused) == f"preview@{system(database)}/{database.name}/ep-cool-rain-1"
    assert deploy("preview", branch).code == 0
    assert marks(database) == [("001-one", "production"), ("002-two", "preview")]
    assert identities(database) == [
        f"{system(database)}/{database.name}/{endpoint}"
        for endpoint in ("ep-cool-rain-1", "ep-quiet-snow-2")
    ]


@pytest.mark.parametrize(
    "host", ["ep-cool-rain-1-pooler.c-2.eu-central-1.aws.neon.example", "EP-Cool-Rain-1.example"]
)
def test_a_branch_of_neon_is_the_same_through_its_pooler(
    database: Database, deploy: Deploy, migrations: Write, host: str
) -> None:
    migrations(ONE)
    assert deploy("production", by_name(database, NEON.format("cool-rain-1"))).code == 0
    migrations(TWO)
    is_refused(deploy("preview", by_name(database, host)), "was last migrated as production")
    assert deploy("production", by_name(database, host)).code == 0
    assert identities(database) == [f"{system(database)}/{database.name}/ep-cool-rain-1"]
    assert marks(database) == [("001-one", "production"), ("002-two", "production")]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "Db.Internal.example", ""])
def test_a_server_by_another_name_has_the_same_databases(
    production: Database, deploy: Deploy, host: str
) -> None:
    other = by_name(production, host)
    before = contents(production)
    is_refused(deploy("preview", other), "was last migrated as production")
    assert contents(production) == before
    assert deploy("production", other).code == 0
    assert identities(production) == [f"{system(production)}/{production.name}"]


@pytest.fixture
def unidentified(server: Server, database: Database) -> Iterator[Database]:
    """A database whose role may not ask the server who it is."""
    database.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    with login(server, database) as plain:
        database.execute(f"GRANT ALL ON SCHEMA public TO {role(plain)}")
        yield plain


def test_where_a_server_does_not_say_who_it_is_its_name_counts(
    unidentified: Database, deploy: Deploy, migrations: Write
) -> None:
    migrations(ONE)
    assert deploy("production", by_name(unidentified, "db-1.example")).code == 0
    migrations(TWO)
    for host in ("db-1.example", "DB-1.example", "db-1-pooler.example"):
        is_refused(
            deploy("preview", by_name(unidentified, host)), "was last migrated as production"
        )
    assert (marks(unidentified), tables(unidentified)) == ([("001-one", "production")], ["one"])
    assert deploy("preview", by_name(unidentified, "db-2.example")).code == 0
    assert identities(unidentified) == [
        f"db-{number}.example/{unidentified.name}" for number in (1, 2)
    ]


def test_a_mark_of_another_kind_of_identity_does_not_free_a_database(
    unidentified: Database, database: Database, deploy: Deploy, migrations: Write
) -> None:
    """The same database: first the server is known by its name only, then it says which cluster it
    is.
    """
    migrations(ONE)
    assert deploy("production", by_name(unidentified, "db-1.example")).code == 0
    assert identities(database) == [f"db-1.example/{database.name}"]
    migrations(TWO)
    database.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
    for host in ("db-1.example", "db-2.example", NEON.format("cool-rain-1")):
        refused = deploy("preview", by_name(unidentified, host))
        is_refused(refused, "has a history that names no environment")
        assert f"preview@{system(database)}/{database.name}" in printed_claim(refused)
    assert (marks(database), tables(database)) == ([("001-one", "production")], ["one"])


def test_an_endpoint_is_part_of_an_identity_s_kind_too(
    database: Database, deploy: Deploy, migrations: Write
) -> None:
    migrations(ONE)
    assert deploy("production", database).code == 0
    migrations(TWO)
    refused = deploy("preview", by_name(database, NEON.format("cool-rain-1")))
    is_refused(refused, "has a history that names no environment")
    assert (marks(database), tables(database)) == ([("001-one", "production")], ["one"])


@pytest.fixture
def tenants(server: Server, database: Database) -> Iterator[list[Database]]:
    """A database as two roles see it whose names end in that of a pooler's tenant; they may not ask
    who the server is.

    Behind a real pooler each tenant has a server of its own, and the second one's database would be
    a copy.
    """
    names = [f"{database.name}.{tenant}" for tenant in ("abcdefghij", "klmnopqrst")]
    parts = urlsplit(database.url)
    address = parts.netloc.rpartition("@")[2]
    try:
        for name in names:
            server.admin.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'canary-password'")
        database.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        database.execute(
            f'GRANT ALL ON SCHEMA public TO "{names[0]}"; GRANT "{names[0]}" TO "{names[1]}"'
        )
        yield [
            replace(
                database, url=parts._replace(netloc=f"{name}:canary-password@{address}").geturl()
            )
            for name in names
        ]
    finally:
        server.drop(database)
        for name in names:
            server.admin.execute(f'DROP ROLE IF EXISTS "{name}"')


@pytest.mark.parametrize("host", ["aws-0-eu-1.pooler.supabase.example", "eu-1.pg.psdb.cloud"])
def test_two_tenants_of_one_pooler_host_have_different_identities(
    tenants: list[Database], deploy: Deploy, migrations: Write, host: str
) -> None:
    first, second = (by_name(tenant, host) for tenant in tenants)
    migrations(ONE)
    assert deploy("production", first).code == 0
    migrations(TWO)
    is_refused(deploy("preview", first), "was last migrated as production")
    assert (marks(first), tables(first)) == ([("001-one", "production")], ["one"])
    assert deploy("preview", second).code == 0
    assert identities(first) == [
        f"{tenant}.{host}/{first.name}" for tenant in ("abcdefghij", "klmnopqrst")
    ]
    assert marks(first) == [("001-one", "production"), ("002-two", "preview")]


# MIGRATION_ENVIRONMENTS


ONLY = "production, Development"


@pytest.mark.parametrize("environment", ["preview", "staging"])
def test_the_build_of_any_other_environment_passes_and_applies_nothing(
    production: Database, deploy: Deploy, migrations: Write, environment: str
) -> None:
    migrations(THREE)
    before = contents(production)
    result = deploy(environment, production, MIGRATION_ENVIRONMENTS=ONLY)
    reason = f"{environment} is not among MIGRATION_ENVIRONMENTS=production,development"
    assert (result.code, result.out, result.err) == (0, f"⏩ Skipped: {reason}. Pending: 2.\n", "")
    assert contents(production) == before


def test_the_build_says_it_as_a_json_document_too(production: Database, deploy: Deploy) -> None:
    before = contents(production)
    result = deploy("preview", production, "--json", MIGRATION_ENVIRONMENTS=ONLY)
    document = json.loads(result.out)
    assert (result.code, document["success"], document["environment"], document["applied"]) == (
        0,
        True,
        "preview",
        [],
    )
    assert (
        document["skipped"] == "preview is not among MIGRATION_ENVIRONMENTS=production,development"
    )
    assert str(document["pending"]) == "1"
    assert "Skipped" in result.err
    assert contents(production) == before


def test_the_environments_that_are_named_migrate(
    production: Database, deploy: Deploy, migrations: Write
) -> None:
    assert deploy("PRODUCTION", production, MIGRATION_ENVIRONMENTS=ONLY).code == 0
    migrations(THREE)
    is_refused(
        deploy("development", production, MIGRATION_ENVIRONMENTS=ONLY),
        "was last migrated as production",
    )
    assert marks(production) == [("001-one", "production"), ("002-two", "production")]


@pytest.mark.parametrize("environments", ["", " "])
def test_naming_none_is_naming_all(
    database: Database, deploy: Deploy, migrations: Write, environments: str
) -> None:
    migrations(ONE)
    assert deploy("preview", database, MIGRATION_ENVIRONMENTS=environments).code == 0
    assert marks(database) == [("001-one", "preview")]


def test_a_claim_does_not_let_in_an_environment_that_is_not_named(
    production: Database, deploy: Deploy
) -> None:
    claim = printed_claim(deploy("preview", production))
    before = contents(production)
    result = deploy(
        "preview", production, MIGRATION_CLAIM=claim, MIGRATION_ENVIRONMENTS="production"
    )
    assert (result.code, "Skipped" in result.out) == (0, True)
    assert contents(production) == before


def test_the_way_out_that_the_refusal_prints_lets_the_build_pass(
    production: Database, deploy: Deploy
) -> None:
    before = contents(production)
    (line,) = re.findall(
        r"set MIGRATION_ENVIRONMENTS=([\w,.-]+)", deploy("preview", production).err
    )
    assert deploy("preview", production, MIGRATION_ENVIRONMENTS=line).code == 0
    assert contents(production) == before
    assert deploy("production", production, MIGRATION_ENVIRONMENTS=line).code == 0
    assert marks(production) == [("001-one", "production"), ("002-two", "production")]


def test_the_way_out_never_leaves_production_without_its_migrations(
    database: Database, deploy: Deploy, migrations: Write
) -> None:
    """The line may well be set for all environments."""
    migrations(ONE)
    assert deploy("staging", database).code == 0
    migrations(TWO)
    (line,) = re.findall(r"set MIGRATION_ENVIRONMENTS=([\w,.-]+)", deploy("preview", database).err)
    assert marks(database) == [("001-one", "staging")]
    assert set(line.split(",")) == {"production", "staging"}


def test_a_database_before_its_first_run_is_left_as_it_is(
    database: Database, deploy: Deploy, migrations: Write
) -> None:
    migrations(ONE)
    assert "Pending: 1." in deploy("preview", database, MIGRATION_ENVIRONMENTS="production").out
    assert contents(database) == ([], [])


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (None, "no database URL is set"),
        ("postgresql://me:canary-password@127.0.0.1:1/app", "cannot connect to app on 127.0.0.1"),
        ("canary-password", "POSTGRES_URL is not a valid Postgres URL"),
    ],
)
def test_such_a_build_passes_without_a_database_and_says_so(
    cli: Cli, migrations: Write, url: str | None, reason: str
) -> None:
    migrations(ONE)
    environ = {"CI": "1", "VERCEL_ENV": "preview", "MIGRATION_ENVIRONMENTS": "production"}
    for arguments in ((), ("--json",)):
        result = cli(*arguments, url=url, env=environ)
        assert result.code == 0
        assert re.search(
            rf"Skipped: .*\. Pending: unknown \({reason}",
            result.out if not arguments else result.err,
        )
        assert "canary" not in result.out + result.err


@pytest.mark.slow
def test_such_a_build_does_not_wait_for_who_has_locked_the_history(
    server: Server, production: Database, deploy: Deploy
) -> None:
    before = contents(production)
    limits = {"MIGRATION_LOCK_TIMEOUT": "24h", "MIGRATION_ENVIRONMENTS": "production"}
    with psycopg.connect(production.url) as other:
        other.execute("LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE")
        result = deploy("preview", production, **limits)
        nothing_is_left_running(server, production)
    assert (
        result.code,
        "Pending: unknown (the history is locked by another session" in result.out,
    ) == (0, True)
    assert contents(production) == before


def test_such_a_build_passes_beside_another_tools_history_and_says_so(
    database: Database, deploy: Deploy, migrations: Write
) -> None:
    database.execute("CREATE TABLE schema_migrations (version text)")
    migrations(ONE)
    before = contents_of_another_tool(database)
    result = deploy("preview", database, MIGRATION_ENVIRONMENTS="production")
    assert (
        result.code,
        "Pending: unknown (public.schema_migrations was created by another tool" in result.out,
    ) == (
        0,
        True,
    )
    assert contents_of_another_tool(database) == before


def contents_of_another_tool(database: Database) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT relname, xmin::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    )


@pytest.mark.parametrize("files", [CHANGED, LATE])
def test_such_a_build_passes_on_a_conflict_and_says_so(
    production: Database, deploy: Deploy, migrations: Write, files: dict[str, str]
) -> None:
    migrations(files)
    before = contents(production)
    result = deploy("preview", production, MIGRATION_ENVIRONMENTS="production")
    assert contents(production) == before
    assert (result.code, "Skipped" in result.out) == (0, True)
    assert re.search("conflict|disagree|modified|out.of.order", result.out)


@pytest.mark.parametrize("name", ["3-too-short.sql", "003_three.sql", "002-two-again.sql"])
def test_broken_files_fail_such_a_build_too(
    production: Database, deploy: Deploy, migrations: Write, name: str
) -> None:
    migrations({name: "SELECT 1"})
    before = contents(production)
    result = deploy("preview", production, MIGRATION_ENVIRONMENTS="production")
    assert (result.code, name in result.err) == (2, True)
    assert contents(production) == before


@pytest.mark.parametrize(
    "environments", ["production development", "production;preview", "größe", "production,a b"]
)
def test_environments_that_cannot_be_read_are_refused(
    production: Database, deploy: Deploy, environments: str
) -> None:
    before = contents(production)
    for environment in ("preview", "production"):
        result = deploy(environment, production, MIGRATION_ENVIRONMENTS=environments)
        assert (result.code, "MIGRATION_ENVIRONMENTS is '" in result.err) == (2, True)
    assert contents(production) == before


@pytest.mark.parametrize("environments", [",", " , ,"])
def test_environments_without_a_name_among_them_do_not_mean_all(
    production: Database, deploy: Deploy, environments: str
) -> None:
    before = contents(production)
    assert deploy("production", production, MIGRATION_ENVIRONMENTS=environments).code == 2
    assert contents(production) == before


# The route, and the other commands that write


def post(database: Database, cli: Cli, **environ: str) -> tuple[int, dict[str, Any]]:
    """A run over HTTP."""
    secret = "s3cret-of-this-test-" * 3
    environ = {
        "MIGRATION_SECRET": secret,
        "MIGRATION_DIR": str(cli.directory / "migrations"),
        **environ,
    }
    with TestClient(create_app(Service({**environ, "POSTGRES_URL": database.url}))) as client:
        response = client.post("/api/migrate", headers={"Authorization": f"Bearer {secret}"})
        assert client.get("/api/migration-status").status_code == 200
    return response.status_code, response.json()


@pytest.mark.parametrize("environ", [{}, {"MIGRATION_ENVIRONMENTS": "production"}])
def test_the_route_refuses_and_says_nothing_about_the_database(
    production: Database, cli: Cli, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    named = by_name(production, "db-1.example")
    before = contents(production)
    status, document = post(named, cli, VERCEL="1", VERCEL_ENV="preview", **environ)
    assert (status, document["success"], document["error"]["code"]) == (
        409,
        False,
        "wrong_environment",
    )
    assert (document["applied"], document["remaining"]) == ([], ["002-two"])
    assert set(document["error"]) == {"code", "message"}
    for said in (
        system(production),
        production.name,
        "db-1",
        "POSTGRES_URL",
        "MIGRATION_",
        "production",
    ):
        assert said not in json.dumps(document)
    log = "".join(capsys.readouterr())
    assert [one["outcome"] for one in map(json.loads, log.splitlines())] == [
        "wrong_environment",
        "pending",
    ]
    assert (system(production) in log, urlsplit(production.url).password in log) == (False, False)  # type: ignore[operator]
    assert contents(production) == before


def test_the_route_takes_the_claim_that_the_build_printed(
    production: Database, cli: Cli, deploy: Deploy
) -> None:
    claim = printed_claim(deploy("preview", production))
    status, document = post(production, cli, VERCEL_ENV="preview", MIGRATION_CLAIM=claim)
    assert (status, [one["version"] for one in document["applied"]]) == (200, ["002-two"])
    assert production.execute(
        "SELECT environment, applied_by FROM schema_migrations ORDER BY id"
    ) == [
        ("production", "build"),
        ("preview", "api"),
    ]


def test_a_repair_is_the_environments_own_affair_too(
    production: Database, deploy: Deploy, migrations: Write
) -> None:
    migrations(REWORDED)
    before = contents(production)
    refused = deploy("preview", production, "repair", "001-one")
    is_refused(refused, "was last migrated as production, and this run is preview")
    assert contents(production) == before
    assert (
        deploy(
            "preview", production, "repair", "001-one", MIGRATION_CLAIM=printed_claim(refused)
        ).code
        == 0
    )
    checksum = sha256(REWORDED["001-one.sql"].encode()).hexdigest()
    assert production.execute("SELECT version, checksum FROM schema_migrations") == [
        ("001-one", checksum)
    ]


def test_a_repair_of_what_is_as_it_should_be_is_refused_to_nobody(
    production: Database, deploy: Deploy
) -> None:
    before = contents(production)
    result = deploy("preview", production, "repair", "001-one")
    assert (result.code, "Nothing to repair" in result.out) == (0, True)
    assert contents(production) == before


def test_an_environment_that_is_not_named_does_not_repair(
    production: Database, deploy: Deploy, migrations: Write
) -> None:
    migrations(REWORDED)
    before = contents(production)
    result = deploy("preview", production, "repair", "001-one", MIGRATION_ENVIRONMENTS="production")
    assert (
        result.code,
        "preview applies nothing: MIGRATION_ENVIRONMENTS is production" in result.err,
    ) == (3, True)
    assert contents(production) == before


def test_an_environment_that_is_not_named_does_not_record_a_baseline(
    database: Database, deploy: Deploy, migrations: Write
) -> None:
    migrations(ONE)
    assert (
        deploy("preview", database, "baseline", "001", MIGRATION_ENVIRONMENTS="production").code
        == 3
    )
    assert contents(database) == ([], [])


# Files and history disagree as well


def test_a_preview_with_productions_url_is_told_so_before_anything_else(
    production: Database, deploy: Deploy, migrations: Write
) -> None:
    migrations({**CHANGED, "003-draft.sql": "-- migrate: draft\nBEGIN;"})
    before = contents(production)
    result = deploy("preview", production)
    is_refused(result, "was last migrated as production")
    assert "reset this database" not in result.err
    assert contents(production) == before


@pytest.mark.parametrize("command", [(), ("status",), ("validate",)])
def test_nobody_is_advised_to_reset_the_database_of_production(
    production: Database, deploy: Deploy, migrations: Write, command: tuple[str, ...]
) -> None:
    """Where every file is applied or in conflict, nothing is pending, so nobody asks whose the
    database is.
    """
    assert deploy("production", production).code == 0
    migrations(CHANGED | LATE)
    before = contents(production)
    result = deploy("preview", production, *command)
    assert contents(production) == before
    assert "reset this database" not in result.out + result.err
