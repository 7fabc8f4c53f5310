"""How errors are shown, and what they never show or steer.

Each test ends by looking at the database.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
import pytest

from lib import runner
from tests.conftest import Cli, Database, Here, Server
from tests.kit import CANARY, ONE, SETTLED, TWO, Write, bundle, contents, recorded, tables

# The error of a migration


def test_a_syntax_error_is_shown_with_its_place_in_a_crlf_file_with_emoji(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(
        {
            **TWO,
            "003-orders.sql": (
                "-- 🚀\r\nCREATE TABLE orders (\r\n  id int, -- 😀\r\n"
                "  note /* 😀 */ citextt\r\n);\r\n"
            ),
            "004-later.sql": "CREATE TABLE later ();",
        }
    )
    result = here(url=database.url)
    assert result.code == 1
    assert result.err == (
        "❌ FAILED migrations/003-orders.sql:4:16   statement 1 of 1\n"
        "2 | CREATE TABLE orders (\n"
        "3 |   id int, -- 😀\n"
        "4 |   note /* 😀 */ citextt\n"
        "  |                 ^^^^^^^\n"
        'ERROR 42704: type "citextt" does not exist\n'
        "State: rolled back: no change of this file was kept, and it is not recorded.\n"
        "Applied in this run: 001-one, 002-two.\n"
        "Not applied: 003-orders, 004-later.\n"
        "Next: Fix the file and run again (or deploy again). There is nothing to clean up.\n"
        "(exit 1, docs/on-call.md#exit-1-or-2)\n"
    )
    assert (recorded(database), tables(database)) == (["001-one", "002-two"], ["one", "two"])
    migrations({"003-orders.sql": "CREATE TABLE orders (id int);"})
    assert here(url=database.url).code == 0
    assert tables(database) == ["later", "one", "orders", "two"]


def test_an_error_at_run_time_names_the_statement_and_invents_no_line(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(
        {
            "001-twice.sql": "CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY);\nINSERT INTO t "
            "VALUES (1);\n\n" * 2
        }
    )
    result = here(url=database.url)
    assert result.code == 1
    assert (
        "❌ FAILED migrations/001-twice.sql   statement 4 of 4, which begins on line 5\n"
        in result.err
    )
    assert 'ERROR 23505: duplicate key value violates unique constraint "t_pkey"\n' in result.err
    assert "Detail: Key (id)=(1) already exists.\n" in result.err
    assert not re.search(r"twice\.sql:\d", result.err)
    assert "^" not in result.err
    assert (recorded(database), tables(database)) == ([], [])


def test_hint_and_context_of_the_server_are_shown(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(
        {
            "001-raises.sql": "DO $$ BEGIN RAISE 'boom 100%%' USING DETAIL = 'why', HINT = 'do "
            "that'; END $$;"
        }
    )
    result = here(url=database.url)
    assert result.code == 1
    assert (
        "ERROR P0001: boom 100%\nDetail: why\nHint: do that\nContext: PL/pgSQL function"
        in result.err
    )
    assert recorded(database) == []


def test_json_of_a_failed_run_has_the_error_and_what_was_and_is_left(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations({**ONE, "002-typo.sql": "SELECT 1;\n  SELEC 2;\n", "003-three.sql": "SELECT 3;"})
    result = here("--json", url=database.url)
    document = json.loads(result.out)
    assert result.code == 1
    assert document["success"] is False
    error = document["error"]
    assert (error["code"], error["version"], error["file"]) == (
        "migration_failed",
        "002-typo",
        "migrations/002-typo.sql",
    )
    assert (error["line"], error["column"], error["sqlstate"]) == (2, 3, "42601")
    assert "SELEC" in error["message"]
    assert "rolled back" in error["state"]
    assert "run again" in error["nextStep"]
    assert document["remaining"] == ["002-typo", "003-three"]
    assert "001-one" in json.dumps(document["applied"])
    assert "❌ FAILED migrations/002-typo.sql:2:3" in result.err
    assert recorded(database) == ["001-one"]


def test_a_no_transaction_file_that_fails_midway_says_what_is_done(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations(
        {
            "001-piecewise.sql": "-- migrate: no-transaction\nCREATE TABLE a ();\nSELECT "
            "nothing;\nCREATE TABLE b ();"
        }
    )
    result = here("--json", url=database.url)
    document = json.loads(result.out)
    assert (result.code, document["error"]["code"]) == (7, "partly_applied")
    assert "statement 1 was applied and remains; the file is not recorded" in result.err
    assert "❌ FAILED migrations/001-piecewise.sql:3:8   statement 2 of 3\n" in result.err
    assert (recorded(database), tables(database)) == ([], ["a"])


def test_github_actions_gets_an_annotation_on_the_line(
    here: Here, migrations: Write, database: Database
) -> None:
    migrations({"001-typo.sql": "SELECT 1;\nSELECT 100 %;\n"})
    result = here(url=database.url, env={"GITHUB_ACTIONS": "true"})
    annotation = result.err.splitlines()[-1]
    assert re.fullmatch(
        r"::error file=.*migrations/001-typo\.sql,line=2,col=\d+::42601: .*", annotation
    )
    assert "::error" not in here(url=database.url).err
    migrations({"001-typo.sql": "BEGIN;", "002-typo.sql": "COMMIT;"})
    result = here(url=database.url, env={"GITHUB_ACTIONS": "true"})
    assert len([line for line in result.err.splitlines() if line.startswith("::error")]) == 1
    assert "%0A" in result.err
    assert recorded(database) == []


@pytest.mark.slow
@pytest.mark.parametrize("stands", ["", "app", "app/scripts", "/"])
def test_an_annotation_names_the_file_by_its_path_in_the_workspace(
    project: Path, tmp_path: Path, database: Database, stands: str
) -> None:
    workspace = tmp_path / "work"
    app = Cli(bundle(project, workspace / "app", {"001-typo.sql": "SELEC 1;\n"}), tmp_path)
    github = {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(workspace)}
    result = app(
        url=database.url, env={"MIGRATION_DIR": "migrations", **github}, cwd=workspace / stands
    )
    assert "\n::error file=app/migrations/001-typo.sql,line=1,col=1::42601: " in result.err
    elsewhere = {**github, "GITHUB_WORKSPACE": str(tmp_path / "other")}
    result = app(
        url=database.url, env={"MIGRATION_DIR": "migrations", **elsewhere}, cwd=workspace / stands
    )
    assert f"\n::error file={workspace}/app/migrations/001-typo.sql,line=1,col=1::" in result.err
    assert recorded(database) == []


# What others say

HOSTILE = (
    "x\n::error::forged\n  ::add-mask::a\n##[error]forged\x1b[2J\x1b]0;title\x07\n"
    "✅ Applied: 999-forged (1ms)\u202e\x9b31m"
)


def obeyed(said: str) -> list[str]:
    """The lines that GitHub's runner takes for commands, as its parser does."""
    return [line for line in said.split("\n") if line.lstrip().startswith("::") or "##[" in line]


def hostile(word: str) -> str:
    """A block that says it in every field that a message has."""
    text = "E'" + "".join(f"\\u{ord(char):04x}" for char in word) + "'"
    fields = ", ".join(
        f"{field} = {text}"
        for field in ("MESSAGE", "DETAIL", "HINT", "CONSTRAINT", "TABLE", "SCHEMA", "COLUMN")
    )
    return f"DO $$ BEGIN RAISE NOTICE '%', {text}; RAISE EXCEPTION USING {fields}; END $$;\n"


@pytest.mark.parametrize("arguments", [(), ("--json",)])
@pytest.mark.parametrize("directive", ["", "-- migrate: no-transaction\n"])
def test_what_a_server_says_steers_neither_terminal_nor_ci(
    cli: Cli, migrations: Write, database: Database, arguments: tuple[str, ...], directive: str
) -> None:
    migrations({"001-talks.sql": directive + hostile(HOSTILE)})
    result = cli(
        *arguments, url=database.url, env={"GITHUB_ACTIONS": "true", "PYTHONIOENCODING": "utf-8"}
    )
    assert result.code == (7 if directive else 1)
    (command,) = obeyed(result.out + result.err)
    assert command.startswith("::error file=")
    for said in (result.out, result.err):
        assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202e]", said)
        assert not re.search(r"(?m)^✅ Applied: 999-forged", said)
    assert r"\x1b[2J\x1b]0;title\x07" in result.err
    if arguments:
        assert json.loads(result.out)["error"]["message"] == HOSTILE
    assert recorded(database) == []


def test_what_a_file_has_in_it_steers_neither_terminal_nor_ci(
    cli: Cli, migrations: Write, database: Database
) -> None:
    migrations(
        {"001-shown.sql": "SELECT '\x1b[2J\n::error::forged\n##[error]forged' nothing here;\n"}
    )
    result = cli(url=database.url, env={"GITHUB_ACTIONS": "true"})
    assert result.code == 1
    assert [line[:13] for line in obeyed(result.out + result.err)] == ["::error file="]
    assert "\x1b" not in result.out + result.err
    assert (
        "1 | SELECT '\\x1b[2J\n2 | ::error::forged\n3 | \\x23#[error]forged' nothing here;\n"
        in result.err
    )
    assert recorded(database) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "status", "validate"])
def test_what_a_history_has_in_it_steers_neither_terminal_nor_ci(
    cli: Cli, migrations: Write, database: Database, command: str
) -> None:
    migrations(ONE)
    assert cli(url=database.url).code == 0
    database.execute(
        "INSERT INTO schema_migrations (version, name) VALUES (%s, %s)", [HOSTILE, HOSTILE]
    )
    arguments = () if command == "run" else (command,)
    for more in ((), ("--json",)):
        result = cli(*arguments, *more, url=database.url, env={"GITHUB_ACTIONS": "true"})
        assert "forged" in result.out + result.err
        assert all(line.startswith("::error::") for line in obeyed(result.out + result.err))
        assert not re.search(r"(?m)^✅ Applied: 999|[\x1b\x9b\x07]", result.out + result.err)
    assert recorded(database) == ["001-one", HOSTILE]


@pytest.mark.slow
def test_a_sessions_name_and_query_steer_neither_terminal_nor_ci(
    cli: Cli, migrations: Write, database: Database
) -> None:
    database.execute("CREATE TABLE busy ()")
    migrations({"001-waits.sql": "ALTER TABLE busy ADD COLUMN a int;"})
    with psycopg.connect(database.url) as other:
        other.execute("LOCK TABLE busy; /*\n::error::forged\n##[error]forged \x1b[2J*/ SELECT")
        limits = {"MIGRATION_RETRY": "0", "MIGRATION_LOCK_TIMEOUT": "500ms"}
        result = cli(url=database.url, env={**SETTLED, **limits})
    assert (result.code, obeyed(result.err)) == (4, [])
    assert "forged" in result.err
    assert "\x1b" not in result.err
    assert recorded(database) == []


@pytest.mark.parametrize(
    "variable", ["MIGRATION_SECRET", "MIGRATION_SECRET_PREVIOUS", "PGPASSWORD"]
)
def test_a_secret_that_is_in_no_url_is_shown_neither_in_words_nor_in_json(
    here: Here, migrations: Write, database: Database, variable: str
) -> None:
    secret = "S3cret-of-nobody's-business"
    migrations(
        {
            "001-talks.sql": f"DO $$ BEGIN RAISE EXCEPTION USING MESSAGE = $a${secret}$a$, HINT = "
            f"$a${secret}$a$; END $$"
        }
    )
    for arguments in ((), ("--json",)):
        result = here(
            *arguments, url=database.url, env={variable: secret, "GITHUB_ACTIONS": "true"}
        )
        assert result.code == 1
        assert secret not in result.out + result.err
        assert (
            json.loads(result.out)["error"]["message"].count("***")
            if arguments
            else "::P0001: ***" in result.err
        )
    assert recorded(database) == []


@pytest.mark.slow
def test_a_notice_and_a_failure_show_no_secret_of_the_environment(
    cli: Cli, migrations: Write, database: Database, login: Callable[[str], str]
) -> None:
    """The server knows them from wherever it has them: a foreign server's options, a row, a
    function's text.
    """
    url, secret = login(CANARY), "S3cret-of-the-route-and-long-enough"
    said = f"{url} {CANARY} password={CANARY} {secret} postgresql://else:{CANARY[::-1]}@where/x"
    migrations(
        {"001-talks.sql": f"DO $$ BEGIN RAISE NOTICE '{said}'; RAISE EXCEPTION '{said}'; END $$;"}
    )
    for arguments in ((), ("--json",)):
        result = cli(*arguments, url=url, env={"MIGRATION_SECRET": secret})
        assert result.code == 1
        for hidden in (CANARY, CANARY[::-1], secret):
            assert hidden not in result.out + result.err
        assert "NOTICE: postgresql://***@" in result.out + result.err
    assert recorded(database) == []


# Secrets


@pytest.fixture
def login(database: Database, server: Server) -> Iterator[Callable[[str], str]]:
    """`login(password)` is a URL of the test's database for a role with that password."""
    role = f"login_{database.name}"
    server.admin.execute(f"CREATE ROLE {role} LOGIN SUPERUSER")

    def url(password: str) -> str:
        server.admin.execute(f"ALTER ROLE {role} PASSWORD '{password}'")
        place = urlsplit(database.url).netloc.rpartition("@")[2]
        return urlsplit(database.url)._replace(netloc=f"{role}:{password}@{place}").geturl()

    yield url
    database.execute(f"DROP OWNED BY {role}")
    server.admin.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("files", [ONE, {"001-typo.sql": "SELEC 1;"}, {"001-begin.sql": "BEGIN;"}])
def test_no_password_is_printed_whatever_becomes_of_a_run(
    here: Here,
    migrations: Write,
    database: Database,
    login: Callable[[str], str],
    files: dict[str, str],
) -> None:
    migrations(files)
    url = login(CANARY)
    for arguments in (
        (),
        ("--json",),
        ("status", "--json"),
        ("validate",),
        ("baseline", "1"),
        ("repair", "001-one"),
    ):
        result = here(*arguments, url=url, env={"GITHUB_ACTIONS": "true"})
        assert CANARY not in result.out + result.err
    expected = [] if "001-begin.sql" in files else [next(iter(files)).removesuffix(".sql")]
    assert (recorded(database) or []) == expected, (
        "what could run, the baseline at the latest has recorded"
    )


def odd_urls(host: str) -> dict[str, str]:
    """URLs with the canary where no password, or no URL, should be."""
    return {
        "a wrong password": f"postgresql://postgres:{CANARY}@{host}/postgres",
        "an @ in it": f"postgresql://postgres:a@{CANARY}@{host}/postgres",
        "a slash in it": f"postgresql://postgres:a/{CANARY}@{host}/postgres",
        "a question mark in it": f"postgresql://postgres:a?{CANARY}@{host}/postgres",
        "a question mark and an = in it": f"postgresql://postgres:1?x={CANARY}@{host}/postgres",
        "a hash in it": f"postgresql://postgres:a#{CANARY}@{host}/postgres",
        "a percent in it": f"postgresql://postgres:%zz{CANARY}@{host}/postgres",
        "a blank in it": f"postgresql://postgres:a {CANARY}@{host}/postgres",
        "a line break in it": f"postgresql://postgres:a\n{CANARY}@{host}/postgres",
        "encoded characters in "
        "it": f"postgresql://postgres:{quote(CANARY + '@/:', safe='')}@{host}/postgres",
        "no scheme": f"postgres:{CANARY}@{host}/postgres",
        "a scheme cut short": f"postgres:/postgres:{CANARY}@{host}/postgres",
        "another scheme": f"mysql://postgres:{CANARY}@{host}/postgres",
        "no user": f"postgresql://:{CANARY}@{host}/postgres",
        "a port that is none": f"postgresql://postgres@localhost:{CANARY}/postgres",
        "it in the query": f"postgresql://postgres@{host}/postgres?password={CANARY}",
        "a key's in the query": f"postgresql://postgres@{host}/postgres?sslpassword={CANARY}",
        "an unknown ssl parameter": f"postgresql://postgres:{CANARY}@{host}/postgres?sslx=1",
        "a conninfo string": f"host=localhost password={CANARY}",
        "a JDBC URL": f"jdbc:postgresql://{host}/postgres?user=postgres&password={CANARY}",
        "quotes around it": f'"postgresql://postgres:{CANARY}@{host}/postgres"',
        "psql before it": f"psql 'postgresql://postgres:{CANARY}@{host}/postgres'",
        "a port beyond all": f"postgresql://postgres:{CANARY}@localhost:99999/postgres",
        "a broken IPv6 address": f"postgresql://postgres:{CANARY}@[::1/postgres",
        "a URL as the database": f"postgresql://{host}/?dbname=postgresql://postgres:{CANARY}@{host}/postgres",
    }


@pytest.mark.parametrize("oddity", odd_urls(""))
def test_a_url_that_does_not_work_shows_nothing_of_its_password(
    here: Here, migrations: Write, database: Database, server: Server, oddity: str
) -> None:
    migrations(ONE)
    url = odd_urls(server.url.rpartition("@")[2].partition("/")[0])[oddity]
    for arguments in ((), ("status", "--json")):
        result = here(*arguments, env={"POSTGRES_URL": url, "GITHUB_ACTIONS": "true"})
        assert result.code in (2, 5), result
        assert CANARY not in result.out + result.err
        assert "POSTGRES_URL" in result.err
    assert contents(database) == ([], [])


@pytest.mark.parametrize(
    "variable",
    [
        "MIGRATION_ENV",
        "MIGRATION_LOCK_TIMEOUT",
        "MIGRATION_WAIT",
        "MIGRATION_DIR",
        "MIGRATION_SCHEMA",
    ],
)
def test_a_url_in_the_wrong_variable_shows_nothing_of_its_password(
    here: Here, migrations: Write, database: Database, variable: str
) -> None:
    migrations(ONE)
    result = here(url=database.url, env={variable: f"postgresql://postgres:{CANARY}@localhost/x"})
    assert result.code in (2, 5)
    assert CANARY not in result.out + result.err
    assert contents(database) == ([], [])


def test_a_short_password_does_not_garble_what_is_said(
    here: Here, migrations: Write, database: Database, login: Callable[[str], str]
) -> None:
    migrations({"001-users.sql": "SELECT users;"})
    result = here("--json", url=login("e"))
    assert result.code == 1
    assert json.loads(result.out)["error"]["file"] == "migrations/001-users.sql"
    assert "FAILED migrations/001-users.sql:1:8" in result.err
    assert recorded(database) == []


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_fault_of_ours_is_one_line_without_secrets_or_traceback(
    here: Here,
    migrations: Write,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    password = "short?" + CANARY
    url = f"postgresql://me:{quote(password, safe='')}@localhost/x"

    def fail(*_: object) -> None:
        raise RuntimeError(f"it broke\nwith {url} and {password}")

    migrations(ONE)
    monkeypatch.setattr(runner, "run", fail)
    result = here(*arguments, env={"POSTGRES_URL": url})
    assert result.code == 70
    assert re.fullmatch(
        r"❌ internal error at test_errors\.py:\d+: RuntimeError: it broke with "
        r"postgresql://\*\*\*@localhost/x and \*\*\*\n"
        r"Next: Please report this\. What was committed stays applied; to see it:\n"
        r"  scripts/migrate\.py status\n"
        r"\(exit 70, docs/exit-codes\.md#exit-codes\)\n",
        result.err,
    )
    if arguments:
        assert json.loads(result.out)["error"]["code"] == "internal"
    else:
        assert result.out == ""
    assert contents(database) == ([], [])


def test_the_example_of_a_url_is_shown_whole_and_no_other_credentials_are(here: Here) -> None:
    result = here("status", env={"POSTGRES_URL": f"nonsense://user:{CANARY}@host/x"})
    assert result.code == 2
    assert "Expected postgresql://user:password@host:5432/database, without quotes" in result.err
    assert CANARY not in result.out + result.err
