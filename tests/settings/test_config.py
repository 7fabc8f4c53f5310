from pathlib import Path

import pytest

from lib import ROOT
from lib.errors import ConfigError
from lib.settings.config import choose_database, migrations_directory, read_config, read_duration
from lib.settings.database_url import configured_urls
from lib.settings.environ import URL_VARIABLES, url_variables_set
from tests.kit import KANARIE, LOCAL, NEON, SUPABASE, config, everything

# Which URL


@pytest.mark.parametrize("chosen", range(5))
def test_the_first_variable_that_is_set_and_not_empty_is_chosen(chosen: int) -> None:
    empty = dict.fromkeys(URL_VARIABLES[:chosen], " ")
    environ = empty | dict.fromkeys(URL_VARIABLES[chosen:], LOCAL)
    assert choose_database(environ).variable == URL_VARIABLES[chosen]
    assert url_variables_set(environ) == list(URL_VARIABLES[chosen:])
    assert URL_VARIABLES == (
        "MIGRATION_DATABASE_URL",
        "POSTGRES_URL_NON_POOLING",
        "DATABASE_URL_UNPOOLED",
        "POSTGRES_URL",
        "DATABASE_URL",
    )


def test_without_any_url_every_variable_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        choose_database({"DATABASE_URL": "", "POSTGRES_PRISMA_URL": LOCAL})
    assert (
        caught.value.message
        == f"no database URL is set: none of {', '.join(URL_VARIABLES)} has a value"
    )
    assert url_variables_set({}) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (LOCAL, LOCAL),
        (NEON.format(""), NEON.format("-pooler")),
        (NEON.format("-pooler"), NEON.format("").replace("ep-cool-1.eu", "EP-Cool-1.EU")),
        (SUPABASE.format("abc", 5432), SUPABASE.format("abc", 6543)),
        ("postgres://a@h/app", "postgresql://b:x@h:6432/app?sslmode=disable"),
        ("postgres://x-pooler.a:1,y-pooler.a/app", "postgres://x.a,y.a/app"),
        ("postgres:///app", "postgres:///app?host="),
        (LOCAL, LOCAL.replace("localhost", "127.0.0.1")),
        (LOCAL, LOCAL.replace("localhost", "[::1]:5432")),
        (LOCAL, LOCAL.replace("localhost", "LocalHost.:6432")),
        (LOCAL, "postgresql:///app"),
        (LOCAL, "postgresql:///app?host=/var/run/postgresql/"),
        ("postgres://h.example./app", "postgres://H.Example:5432/app"),
        ("postgres://[2001:DB8::1]/app", "postgres://[2001:db8:0:0::1]/app"),
        ("postgres://h:6432/app", "postgres://h:6543/app"),
        ("postgres://h:5433/app", "postgres://me@h:5433/app"),
        ("postgres://x-pooler.a:6000/app", "postgres://x.a/app"),
        ("postgres://postgres:x@db.abc.supabase.co/postgres", SUPABASE.format("abc", 6543)),
        ("postgres://postgres:x@db.abc.supabase.co:6543/postgres", SUPABASE.format("abc", 5432)),
        (
            SUPABASE.format("abc", 5432),
            SUPABASE.format("abc", 5432).replace("aws-0-eu-central-1", "aws-1-us-east-1"),
        ),
        (
            "postgres://a.b1:x@eu.horizon.psdb.cloud/app",
            "postgres://c.b1:x@eu.horizon.psdb.cloud:6432/app",
        ),
        ("postgres://me@h", "postgres://me@h/me"),
        ("postgres:///app?hostaddr=10.0.0.9", "postgres://10.0.0.9/app"),
        ("postgres://h/app?options=-c%20geqo%3Doff", "postgres://h/app"),
        (
            "postgres://h/app?options=-c%20search_path%3Da,b%20-c%20geqo%3Doff",
            "postgres://h/app?options=--search-path%3Da,b",
        ),
    ],
)
def test_pooler_port_spelling_and_user_make_no_other_database_of_a_url(
    first: str, second: str
) -> None:
    assert (
        choose_database({"POSTGRES_URL": first, "DATABASE_URL": second}).variable == "POSTGRES_URL"
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (LOCAL, "postgresql://me:secret@localhost/other"),
        (LOCAL, "postgresql://me:secret@127.0.0.2/app"),
        (LOCAL, "postgresql://me:secret@localhost:5433/app"),
        (LOCAL, "postgresql:///app?host=/cloudsql/one"),
        ("postgres:///app?host=/cloudsql/one", "postgres:///app?host=/cloudsql/two"),
        ("postgres://proxy.example:4001/app", "postgres://proxy.example:4002/app"),
        ("postgres://h/app", "postgres://h/app?hostaddr=10.0.0.9"),
        ("postgres://h/app?hostaddr=10.0.0.8", "postgres://h/app?hostaddr=10.0.0.9"),
        ("postgres://h/app", "postgres://h/app?options=-csearch_path%3Da"),
        (
            "postgres://h/app?options=-c%20search_path%3Db",
            "postgres://h/app?options=-c%20search_path%3Da",
        ),
        ("postgres://h/app?options=endpoint%3Dep-a", "postgres://h/app?options=endpoint%3Dep-b"),
        ("postgres://a@h", "postgres://b@h"),
        ("postgres://postgres:x@db.abc.supabase.co/postgres", SUPABASE.format("xyz", 6543)),
        (
            "postgres://a.b1:x@eu.horizon.psdb.cloud/app",
            "postgres://a.b2:x@eu.horizon.psdb.cloud/app",
        ),
        (LOCAL, "postgresql://me:secret@localhost/APP"),
        (LOCAL, "postgresql://me:secret@localhost"),
        (NEON.format(""), NEON.format("-pooler").replace("ep-cool", "ep-warm")),
        (NEON.format(""), NEON.format("-pooler-x")),
        (SUPABASE.format("abc", 5432), SUPABASE.format("xyz", 5432)),
        ("postgres://x,y/app", "postgres://x,z-pooler/app"),
    ],
)
def test_urls_of_different_databases_are_refused_by_their_names(first: str, second: str) -> None:
    environ = {"DATABASE_URL_UNPOOLED": first, "POSTGRES_URL": "", "DATABASE_URL": second}
    with pytest.raises(ConfigError) as caught:
        choose_database(environ)
    heading, *named = caught.value.message.split("\n  ")
    assert heading == "these variables name different databases:"
    assert [line.partition(":")[0] for line in named] == ["DATABASE_URL_UNPOOLED", "DATABASE_URL"]
    assert all(line.count(" on ") == 1 and "secret" not in line for line in named)
    assert "MIGRATION_DATABASE_URL" in caught.value.next_step
    assert caught.value.exit_code == 2
    assert (
        choose_database({**environ, "MIGRATION_DATABASE_URL": LOCAL}).variable
        == "MIGRATION_DATABASE_URL"
    )


def test_where_the_database_is_said_outright_the_other_urls_do_not_matter() -> None:
    environ = {
        "MIGRATION_DATABASE_URL": LOCAL,
        "POSTGRES_URL": "prisma+postgres://x",
        "DATABASE_URL": NEON.format(""),
    }
    assert read_config(environ).status_url.variable == "MIGRATION_DATABASE_URL"
    assert [one.variable for one in configured_urls(environ)] == [
        "MIGRATION_DATABASE_URL",
        "DATABASE_URL",
    ]


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        (
            {"DATABASE_URL_UNPOOLED": NEON.format(""), "DATABASE_URL": NEON.format("-pooler")},
            "DATABASE_URL",
        ),
        (
            {"POSTGRES_URL_NON_POOLING": NEON.format(""), "POSTGRES_URL": NEON.format("-pooler")},
            "POSTGRES_URL",
        ),
        (
            {"MIGRATION_DATABASE_URL": NEON.format(""), "DATABASE_URL": NEON.format("-pooler")},
            "DATABASE_URL",
        ),
        (
            {"MIGRATION_DATABASE_URL": LOCAL, "DATABASE_URL": NEON.format("")},
            "MIGRATION_DATABASE_URL",
        ),
        ({"DATABASE_URL_UNPOOLED": LOCAL}, "DATABASE_URL_UNPOOLED"),
    ],
)
def test_the_status_goes_through_the_pooled_url_of_the_same_database(
    environ: dict[str, str], variable: str
) -> None:
    assert read_config(environ).status_url.variable == variable


@pytest.mark.parametrize(
    ("url", "environ"), [(LOCAL, {"PGSERVICE": "kanarie7"}), (f"{LOCAL}?service=kanarie7", {})]
)
def test_a_service_file_that_nobody_sees_does_not_decide_where_it_connects(
    url: str, environ: dict[str, str]
) -> None:
    with pytest.raises(
        ConfigError, match=r"^PGSERVICE is set|^DATABASE_URL has the parameter service, "
    ) as caught:
        choose_database({"DATABASE_URL": url, **environ})
    assert "a service file" in caught.value.next_step
    assert KANARIE not in everything(caught.value)
    assert (
        choose_database({"DATABASE_URL": LOCAL, "PGSERVICE": " ", "PGSERVICEFILE": "x"}).database
        == "app"
    )


# Settings


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5),
        ("2min", 120),
        ("24 h", 86400),
        ("0", 0),
        ("0s", 0),
        (" 1s ", 1),
        ("", 7),
        (" ", 7),
    ],
)
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert read_duration({"MIGRATION_WAIT": text}, "MIGRATION_WAIT", "7s") == seconds


@pytest.mark.parametrize(
    "text",
    [
        "5",
        "s",
        "5 minutes",
        "-1s",
        "1.5s",
        "5S",
        "٣s",
        "1s1ms",
        "597h",
        "2147483648ms",
        "9" * 5000 + "s",
        "00",
    ],
)
def test_any_other_duration_is_refused_by_the_variables_name(text: str) -> None:
    with pytest.raises(
        ConfigError,
        match=(
            r"^MIGRATION_WAIT is .*; expected a duration such as 250ms, 5s or 2min, "
            r"at most 24 days$"
        ),
    ):
        config(MIGRATION_WAIT=text)


def test_settings_have_the_defaults_that_are_documented() -> None:
    found = config()
    assert (found.lock_timeout, found.statement_timeout, found.lock_wait) == (1, 0, 120)
    assert (found.schema, found.allow_out_of_order, found.git_commit) == (None, False, None)
    assert (
        config(
            MIGRATION_SCHEMA=" ",
            MIGRATION_DIR="",
            MIGRATION_LOCK_TIMEOUT="",
            VERCEL_GIT_COMMIT_SHA="",
        )
        == found
    )


@pytest.mark.parametrize("name", ["postgresql://u:kanarie7@h/x", "x" * 64, "ä" * 32, "pg_mine"])
def test_what_no_schema_can_be_called_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="MIGRATION_SCHEMA is no name") as caught:
        config(MIGRATION_SCHEMA=name)
    assert "kanarie7" not in str(caught.value)


def test_settings_are_read_from_the_environment() -> None:
    found = config(
        MIGRATION_LOCK_TIMEOUT="2s",
        MIGRATION_STATEMENT_TIMEOUT="3s",
        MIGRATION_WAIT="4s",
        MIGRATION_SCHEMA="app",
        MIGRATION_ALLOW_OUT_OF_ORDER="1",
        GITHUB_SHA="abc",
        VERCEL_GIT_COMMIT_SHA=" ",
    )
    assert (found.lock_timeout, found.statement_timeout, found.lock_wait) == (2, 3, 4)
    assert (found.schema, found.allow_out_of_order, found.git_commit) == ("app", True, "abc")


def test_the_directory_begins_at_the_project_and_is_shown_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert migrations_directory({}) == Path("migrations")
    assert migrations_directory({"MIGRATION_DIR": "db/sql"}) == Path("db/sql")
    monkeypatch.chdir(tmp_path)
    assert migrations_directory({"MIGRATION_DIR": " "}) == ROOT / "migrations"
    assert migrations_directory({"MIGRATION_DIR": str(tmp_path / "x")}) == Path("x")


def test_how_long_a_busy_table_is_tried_again_is_a_setting() -> None:
    assert (
        config().busy_retry,
        config(MIGRATION_RETRY="0").busy_retry,
        config(MIGRATION_RETRY=" 2min ").busy_retry,
    ) == (60, 0, 120)
    with pytest.raises(ConfigError, match=r"^MIGRATION_RETRY is '60'; expected a duration such as"):
        config(MIGRATION_RETRY="60")
