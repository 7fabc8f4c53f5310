import json
import re
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from lib import ROOT
from lib.errors import ConfigError
from lib.settings.config import (
    Config,
    choose_database,
    migrations_directory,
    read_config,
    read_duration,
)
from lib.settings.database_url import DatabaseURL, configured_urls, parse_url, redact, unpooled
from lib.settings.environ import URL_VARIABLES, url_variables_set, with_env_files
from lib.settings.environment import allowed_environments
from tests.conftest import Server

LOCAL = "postgresql://me:secret@localhost/app"
NEON = "postgresql://me:secret@ep-cool-1{}.eu-central-1.aws.neon.tech/neondb?sslmode=require"
SUPABASE = "postgres://postgres.{}:secret@aws-0-eu-central-1.pooler.supabase.com:{}/postgres"
CANARY = "kanarie7"


def config(**environ: str) -> Config:
    return read_config({"DATABASE_URL": LOCAL, **environ})


def target(url: str, **environ: str) -> DatabaseURL:
    return parse_url("DATABASE_URL", url, environ)


def parameters(url: str, **environ: str) -> dict[str, str]:
    return dict(target(url, **environ).parameters)


def everything(error: BaseException) -> str:
    """All that a careless printer could show of an error."""
    chain = [error, error.__cause__, error.__context__]
    return "".join(traceback.format_exception(error)) + "".join(
        f"{one} {one!r} {getattr(one, '__dict__', '')}" for one in chain
    )


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
    assert caught.value.message == f"no database URL is set in {', '.join(URL_VARIABLES)}"
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
def test_urls_that_differ_by_pooler_port_spelling_and_user_name_one_database(
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


def test_a_target_shows_variable_host_and_database_only() -> None:
    shown = target(
        "postgresql://kanarie7:kanarie7@h.example:6543/app?sslpassword=kanarie7&options=kanarie7"
    )
    assert str(shown) == "app on h.example:6543 (from DATABASE_URL)"
    assert repr(shown) == "DatabaseURL(variable='DATABASE_URL', host='h.example', database='app')"
    assert (
        str(target("postgresql://kanarie7@"))
        == "the default database on this machine (from DATABASE_URL)"
    )
    assert str(target("postgres:///", PGHOST="h", PGDATABASE="d")) == "d on h (from DATABASE_URL)"
    assert CANARY not in repr(config(DATABASE_URL="postgresql://kanarie7:kanarie7@h.example/app"))


@pytest.mark.parametrize(
    ("url", "environ", "shown"),
    [
        ("postgresql://h/app?hostaddr=10.0.0.9", {}, "app on h (address 10.0.0.9)"),
        ("postgresql://h:5433/app", {"PGHOSTADDR": "10.0.0.9"}, "app on h:5433 (address 10.0.0.9)"),
        (
            "postgresql://a,b/app?hostaddr=10.0.0.8,10.0.0.9",
            {},
            "app on a (address 10.0.0.8),b (address 10.0.0.9)",
        ),
        ("postgresql:///app?hostaddr=10.0.0.9", {"PGHOST": "h"}, "app on h (address 10.0.0.9)"),
        ("postgresql:///app?hostaddr=10.0.0.9", {}, "app on 10.0.0.9"),
        ("postgresql://h/app?host=other&host=last", {}, "app on last"),
        ("postgresql://h/app?port=5433", {}, "app on h:5433"),
        ("postgresql://h/app", {"PGPORT": "5433"}, "app on h:5433"),
        ("postgresql://h:5432/app", {"PGPORT": "5433"}, "app on h"),
        ("postgresql:///app", {"PGPORT": "5433"}, "app on this machine:5433"),
        ("postgresql://a:1,b,[::1]:2/app", {}, "app on a:1,b,[::1]:2"),
        ("postgresql://a,b/app?port=5433", {}, "app on a:5433,b:5433"),
        ("postgresql:///?host=h", {"PGDATABASE": "d", "PGUSER": "kanarie7"}, "d on h"),
        (
            "postgresql://h/app",
            {"PGOPTIONS": "-c geqo=off -c search_path=shop"},
            "app on h (search_path=shop)",
        ),
        (
            "postgresql://h/app?options=endpoint%3Dep-a",
            {"PGOPTIONS": "-c x=y"},
            "app on h (endpoint=ep-a)",
        ),
    ],
)
def test_whatever_decides_where_it_connects_is_shown_and_passed_on(
    url: str, environ: dict[str, str], shown: str
) -> None:
    found = target(url, **environ)
    assert found.label == shown
    names = {name.removeprefix("PG").lower().replace("database", "dbname") for name in environ}
    assert names <= set(found.parameters), "libpq is told, and does not look for itself"


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
    assert CANARY not in everything(caught.value)
    assert (
        choose_database({"DATABASE_URL": LOCAL, "PGSERVICE": " ", "PGSERVICEFILE": "x"}).database
        == "app"
    )


@pytest.mark.parametrize(
    "where", ["localhost:0", "localhost:65536", "a:1,b:99999", "localhost:5432/app?port=x1"]
)
def test_a_port_that_cannot_be_is_refused(where: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^DATABASE_URL has a port that is not a number from 1 to 65535$"
    ):
        target(f"postgresql://{where}")


@pytest.mark.parametrize(
    "reference", ["secretsmanager:prod/url#KEY", " ssm:/prod/url ", "secretsmanager:kanarie7"]
)
def test_a_reference_that_nothing_resolves_here_is_told_as_such(reference: str) -> None:
    with pytest.raises(
        ConfigError,
        match=r"^DATABASE_URL is a reference to a secret; references are resolved only on AWS",
    ) as caught:
        choose_database({"DATABASE_URL": reference})
    assert "prod/url" not in everything(caught.value)
    assert CANARY not in everything(caught.value)


# How a URL is read


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://",
        "postgresql://localhost",
        "postgres://localhost/app",
        "postgresql:///app",
        "postgresql://me@localhost:5433/app",
        "postgresql://me:@localhost/app",
        "postgresql://:secret@localhost/app",
        "postgresql://me:p%40%2F%3F%23%25%3A%20%C3%A4@localhost/my%20app",
        "postgresql://me:a:b#c+d&e=f!$'()*,;@localhost/app",
        "postgresql://me:secret@[::1]:5433/app",
        "postgresql://[::1]/app",
        "postgresql://localhost:1,127.0.0.1:2,[::1]/app",
        "postgresql://localhost,127.0.0.1:2/app",
        "postgresql://localhost,/app",
        "postgresql://%2Ftmp%2Fpg:5433/app",
        "postgresql:///app?host=/tmp/pg&port=5433",
        "postgresql://localhost/app?user=me&password=p%26w",
        "postgresql://localhost/app?dbname=other&connect_timeout=3&connect_timeout=4",
        "postgresql://localhost/app?options=-c%20geqo%3Doff&application_name=a+b",
        "postgresql://localhost/app?sslmode=verify-full&sslrootcert=/etc/ca.pem&channel_binding=require",
        "postgresql://localhost/app?ssl=true",
        "postgresql://localhost/app?%75ser=me",
        "postgresql://example.com/app?sslmode=disable",
    ],
)
def test_a_url_is_read_as_libpq_reads_it(url: str) -> None:
    assert {name: value for name, value in conninfo_to_dict(url).items() if value} == parameters(
        url
    )


def test_every_parameter_of_libpq_is_passed_on() -> None:
    known = {option.keyword.decode() for option in Conninfo.get_defaults()} - {
        "service",
        "servicefile",
    }
    for name in sorted(known):
        assert parameters(f"postgresql://localhost/app?{name}=1")[name] == "1"


@given(user=st.text(), password=st.text(), database=st.text())
@example(user="a%40", password="@/#?:%&= '\"\\", database="%")
def test_what_is_quoted_is_read_back(user: str, password: str, database: str) -> None:
    words = (user, password, database)
    assume(not any(char in word for word in words for char in "\0\ufffd"))
    assume("@" not in database[1:] and "://" not in database)
    for safe in ("", "!$&'()*+,;=~"):
        quoted = (quote(word, safe=safe) for word in words)
        found = parameters("postgresql://{}:{}@localhost/{}".format(*quoted))
        assert [found.get(name, "") for name in ("user", "password", "dbname")] == list(words)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_scheme_of_postgres_is_accepted_and_white_space_around_a_url_too(scheme: str) -> None:
    assert parameters(f" {scheme}://localhost/app\n") == {"host": "localhost", "dbname": "app"}


@pytest.mark.parametrize(
    "parameter",
    [
        "pgbouncer=true",
        "supa=base-pooler.x",
        "connection_limit=1",
        "schema=public",
        "pool_timeout=0&x",
        "requiressl=1",
        "",
        # Prisma, SQLAlchemy with asyncpg, pgx, pgjdbc, node-postgres, postgres.js, sqlx, Rails,
        # golang-migrate, Npgsql
        "socket_timeout=3&statement_cache_size=0&single_use_connections=true&max_connection_lifetime=1",
        "prepared_statement_cache_size=0&async_fallback=true",
        "pool_max_conns=10&pool_min_conns=1&default_query_exec_mode=exec&statement_cache_capacity=0",
        "prepareThreshold=0&ApplicationName=x&connectTimeout=3&socketTimeout=3&preferQueryMode=simple",
        "keepAlive=true&query_timeout=3&uselibpqcompat=true&max=3&idle_timeout=20&prepare=false&workaround=x",
        "statement-cache-capacity=1&pool=5&checkout_timeout=5&prepared_statements=false&advisory_locks=false",
        "x-migrations-table=x&Pooling=true&MaxPoolSize=5&CommandTimeout=3&binary_parameters=yes",
    ],
)
def test_parameters_of_other_drivers_are_dropped(parameter: str) -> None:
    url = f"postgresql://localhost/app?{parameter}&connect_timeout=5&{parameter}"
    assert parameters(url) == {"host": "localhost", "dbname": "app", "connect_timeout": "5"}


@pytest.mark.parametrize("name", ["schema=kanarie7", "schema=", "schema", "schema=public&schema=x"])
def test_a_schema_other_than_public_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^DATABASE_URL has a schema parameter other than public, which"
    ) as caught:
        target(f"postgresql://localhost/app?{name}")
    assert "MIGRATION_SCHEMA" in caught.value.next_step


@pytest.mark.parametrize(
    "parameter",
    [
        "search_path=kanarie7",
        "currentSchema=kanarie7",
        "schema_search_path=kanarie7",
        "searchPath=kanarie7",
        "role=kanarie7",
        "readOnly=true",
        "min_messages=warning",
        "STATEMENT_TIMEOUT=5s",
        "lock_timeout",
        "TimeZone=kanarie7",
        "x=1&default_transaction_isolation=serializable",
        "database=kanarie7",
        "targetServerType=primary",
        "unix_sock=kanarie7",
    ],
)
def test_what_would_change_what_the_sql_does_and_is_not_obeyed_is_refused_by_name(
    parameter: str,
) -> None:
    name = parameter.rpartition("&")[2].partition("=")[0]
    with pytest.raises(ConfigError, match=rf"^DATABASE_URL has the parameter {name}, ") as caught:
        target(f"postgresql://localhost/app?{parameter}")
    assert caught.value.exit_code == 2
    assert CANARY not in everything(caught.value)


def test_every_setting_of_the_server_is_refused_as_a_parameter(server: Server) -> None:
    """asyncpg, pgx, lib/pq and postgres.js would send it: see `target` for what libpq has under the
    same name.
    """
    settings = "SELECT name FROM pg_settings WHERE context ~ 'user|backend' AND name NOT IN ('application_name'"
    known = [
        name
        for (name,) in server.admin.execute(f"{settings}, 'client_encoding', 'tcp_user_timeout')")
    ]
    assert len(known) > 150
    for name in [*known, "session_authorization", "shop.tenant", "options[search_path]"]:
        with pytest.raises(ConfigError, match=r"^DATABASE_URL has (?:the|a) parameter "):
            target(f"postgresql://localhost/app?{quote(name)}=1")


def test_what_postgres_itself_calls_options_is_obeyed() -> None:
    assert (
        parameters("postgresql://localhost/app?options=-c%20search_path%3Dshop")["options"]
        == "-c search_path=shop"
    )


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_tls_that_is_wanted_and_not_wanted_is_refused(mode: str) -> None:
    for query in (f"sslmode={mode}&ssl=true", f"ssl=true&sslmode={mode}"):
        with pytest.raises(
            ConfigError,
            match=r"^DATABASE_URL has both ssl=true and an sslmode that does not require TLS$",
        ):
            target(f"postgresql://localhost/app?{query}")


@pytest.mark.parametrize(
    "parameter",
    [
        "ssl=false",
        "ssl=1",
        "ssl=no-verify",
        "sslaccept=strict",
        "sslkanarie7",
        "SSLMODE=verify-full",
        "%73slmod=x",
        "ssl",
    ],
)
def test_what_libpq_does_not_know_about_ssl_is_refused(parameter: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^DATABASE_URL has an ssl parameter that libpq does not know"
    ) as caught:
        target(f"postgresql://localhost/app?{parameter}")
    assert CANARY not in everything(caught.value)


@pytest.mark.parametrize(
    ("url", "environ", "sslmode"),
    [
        ("postgresql://h.example/app", {}, "require"),
        ("postgresql://10.0.0.1/app", {}, "require"),
        ("postgresql://[2001:db8::1]/app", {}, "require"),
        ("postgresql://localhost.example/app", {}, "require"),
        ("postgresql://127.0.0.1.example/app", {}, "require"),
        ("postgresql://localhost,h.example/app", {}, "require"),
        ("postgresql:///app?host=h.example", {}, "require"),
        ("postgresql:///app?hostaddr=10.0.0.1", {}, "require"),
        ("postgresql://localhost/app?hostaddr=10.0.0.1", {}, "require"),
        ("postgresql:///app", {"PGHOST": "h.example"}, "require"),
        ("postgresql://h.example/app?sslmode=", {}, "require"),
        ("postgresql://h.example/app", {"PGSSLMODE": "disable"}, "require"),
        ("postgresql://h.example/app", {"PGSSLMODE": "verify-full"}, None),
        ("postgresql://h.example/app", {"PGSSLMODE": "verify-ca"}, None),
        ("postgresql://h.example/app?sslmode=disable", {}, "disable"),
        ("postgresql://h.example/app?sslmode=verify-full&ssl=true", {}, "verify-full"),
        ("postgresql://h.example/app?sslrootcert=system", {}, None),
        ("postgresql://h.example/app?sslrootcert=/etc/ca.pem", {}, "require"),
        ("postgresql://h.example/app", {"PGSSLROOTCERT": "system"}, None),
        (
            "postgresql://h.example/app?sslrootcert=/etc/ca.pem",
            {"PGSSLROOTCERT": "system"},
            "require",
        ),
        ("postgresql://h.example/app?sslmode=require&sslrootcert=system", {}, "require"),
        ("postgresql://localhost/app", {"PGHOSTADDR": "10.0.0.1"}, "require"),
        ("postgresql://localhost/app", {}, None),
        ("postgresql://LOCALHOST:5433/app", {}, None),
        ("postgresql://127.0.0.1/app", {}, None),
        ("postgresql://127.1.2.3,[::1]/app", {}, None),
        ("postgresql:///app", {}, None),
        ("postgresql://%2Frun%2Fpg/app", {}, None),
        ("postgresql:///app?host=@abstract", {}, "refused"),
        ("postgresql:///app?host=%40abstract", {}, None),
        ("postgresql://h.example/app?hostaddr=127.0.0.1", {}, None),
        ("postgresql://localhost/app?ssl=true", {}, "require"),
    ],
)
def test_a_host_that_is_not_local_is_spoken_to_over_tls_unless_the_url_says_otherwise(
    url: str, environ: dict[str, str], sslmode: str | None
) -> None:
    if sslmode == "refused":
        with pytest.raises(ConfigError):
            target(url)
    else:
        assert parameters(url, **environ).get("sslmode") == sslmode


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("ep-a-1-pooler.eu.aws.neon.tech", "ep-a-1.eu.aws.neon.tech"),
        ("EP-A-1-Pooler.eu.aws.neon.tech", "ep-a-1.eu.aws.neon.tech"),
        ("db-pooler", "db"),
        ("db.x-pooler.example", "db.x-pooler.example"),
        ("db-pooler-1.example", "db-pooler-1.example"),
        ("", ""),
    ],
)
def test_a_poolers_suffix_belongs_to_the_first_label(host: str, expected: str) -> None:
    assert unpooled(host) == expected


# Nothing of a URL shows


@pytest.mark.parametrize(
    "url",
    [
        "kanarie7",
        "mysql://me:kanarie7@localhost/app",
        "prisma+postgres://accelerate.prisma-data.net/?api_key=kanarie7",
        "POSTGRES://me:kanarie7@localhost/app",
        '"postgresql://me:kanarie7@localhost/app"',
        "psql 'postgresql://me:kanarie7@localhost/app'",
        "postgresql:/me:kanarie7@localhost/app",
        "postgresql://me:a@kanarie7@localhost/app",
        "postgresql://me:kanarie7@a@localhost/app",
        "postgresql://me:a/kanarie7@localhost/app",
        "postgresql://me:1/kanarie7@localhost/app",
        "postgresql://me:1/x?kanarie7=1@localhost/app",
        "postgresql://me:kanarie7/1@localhost/app",
        "postgresql://me:a?kanarie7@localhost/app",
        "postgresql://me:1?kanarie7=1@localhost/app",
        "postgresql://kanarie7?x:1@localhost/app",
        "postgresql://me:kanarie7%zz@localhost/app",
        "postgresql://me:kanarie7%@localhost/app",
        "postgresql://me:kanarie7%00@localhost/app",
        "postgresql://me:kanarie7%ff@localhost/app",
        "postgresql://me:kanarie7\udcff@localhost/app",
        "postgresql://me:kanarie7 a@localhost/app",
        "postgresql://me:secret@localhost/app postgresql://me:kanarie7@localhost/app",
        "postgresql://me:kanarie7/app",
        "postgresql://localhost:kanarie7/app",
        "postgresql://localhost:5432:kanarie7/app",
        "postgresql://[::1/kanarie7",
        "postgresql://::1/kanarie7",
        "postgresql://me%3Akanarie7%40localhost/app",
        "postgresql://localhost,me%3Akanarie7%40localhost/app",
        "postgresql://localhost/postgresql%3A%2F%2Fme%3Akanarie7%40localhost%2Fapp",
        "postgresql://localhost/app?hostaddr=me%3Akanarie7%40127.0.0.1",
        "postgresql://localhost/app?hostaddr=postgresql%3A%2F%2Fme%3Akanarie7",
        "postgresql://localhost/app?password=kanarie7@x",
        "postgresql://localhost?user=me&password=a@kanarie7",
        "postgresql://localhost/app?password=kanarie7%",
        "postgresql://localhost/app?kanarie7%zz=1",
        "postgresql://localhost/app?schema=kanarie7",
        "postgresql://localhost/app?sslkanarie7=kanarie7",
        "postgresql://localhost/a/kanarie7",
        "postgresql://postgresql://me:kanarie7@localhost/app",
        "postgresql://localhost:٣/kanarie7",
    ],
)
def test_an_error_shows_the_variable_and_nothing_of_its_url(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config({"DATABASE_URL": url})
    assert caught.value.message.startswith("DATABASE_URL ")
    assert CANARY not in everything(caught.value)
    assert "me:" not in caught.value.message


@given(
    st.tuples(
        st.text("aZ0@/#?:%&=[], \\\"'", max_size=6), st.text("aZ0@/#?:%&=[], \\\"'", max_size=6)
    ),
    st.sampled_from(["", "/app", "/app?sslmode=require", ":5432/app?pgbouncer=true"]),
)
def test_no_unencoded_password_can_be_seen_whether_its_url_is_read_or_refused(
    around: tuple[str, str], rest: str
) -> None:
    environ = {"DATABASE_URL": f"postgresql://me:{around[0]}{CANARY}{around[1]}@db.example{rest}"}
    try:
        found = read_config(environ)
    except ConfigError as error:
        shown = everything(error)
    else:
        shown = (
            f"{found} {found.url} {found.url.label} {found.url.database_key} {found.status_url!r}"
        )
        assert CANARY in found.url.parameters["password"]
    assert CANARY not in shown


@given(st.text() | st.from_regex(r"postgres(ql)?://[\s\S]*", fullmatch=True))
def test_any_text_is_a_target_or_a_config_error(url: str) -> None:
    try:
        found = target(url)
    except ConfigError as error:
        assert error.message.startswith("DATABASE_URL ")
    else:
        assert isinstance(found, DatabaseURL)


# Redaction

special = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufffd*"), min_size=1)


@given(secret=special, before=st.text(), after=st.text())
@example(secret='p@s/s?w#o:r%d "\\ä😀', before="", after="")
@example(secret="aa", before="a", after="a")
@example(secret="%41A", before="", after="")
def test_a_secret_is_hidden_however_it_is_written(secret: str, before: str, after: str) -> None:
    found = replace(target(LOCAL), parameters={"password": secret})
    assume(secret not in (found.host, found.database))
    encoded = quote(secret, safe="")
    lower = re.sub("%..", lambda code: code[0].lower(), encoded)
    for written in (
        secret,
        quote(secret),
        encoded,
        lower,
        json.dumps(secret)[1:-1],
        json.dumps(encoded)[1:-1],
    ):
        hidden = redact(f"{before}{written}{after}", found)
        assert "***" in hidden
        assert written not in hidden
        assert secret not in hidden


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at postgresql://me:secret@h/app now", "at postgresql://***@h/app now"),
        ("postgresql+psycopg://me:a/b@c?d#e@h/app", "postgresql+psycopg://***@h/app"),
        ("'postgres://me@h/app'", "'postgres://***@h/app'"),
        (
            "postgres://h/app?user=me&password=secret&x=1",
            "postgres://h/app?user=me&password=***&x=1",
        ),
        ("host=h PASSWORD=secret user=me", "host=h PASSWORD=*** user=me"),
        (
            "see https://example.com/a and me@example.com",
            "see https://example.com/a and me@example.com",
        ),
    ],
)
def test_credentials_of_any_url_are_hidden(text: str, expected: str) -> None:
    assert redact(text, None) == redact(text) == expected


def test_the_secrets_of_all_targets_are_hidden_and_what_is_printed_anyway_is_not() -> None:
    one = target("postgresql://postgres:postgres@localhost/postgres?sslpassword=geheim")
    other = target(
        "postgresql://me:geheimnis@localhost/app?oauth_client_secret=tresor&scram_client_key=kkkk"
    )
    text = 'geheim geheimnis tresor kkkk: no database "postgres" for me'
    assert redact(text, one, None, other) == '*** ***nis *** ***: no database "postgres" for me'
    both = target("postgresql://me:geheimnis@localhost/app?sslpassword=geheim")
    assert redact("geheim geheimnis", both) == "*** ***"
    assert redact(text, other, one) == '*** *** *** ***: no database "postgres" for me'


# `.env` files


def env(
    folder: Path, content: str | bytes, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What is added to the environment by an `.env`."""
    (folder / ".env").write_bytes(content.encode() if isinstance(content, str) else content)
    return dict(with_env_files(environ or {}, folder).items() - (environ or {}).items())


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("MIGRATION_DIR=a", "a"),
        ("  export MIGRATION_DIR = a b  ", "a b"),
        ("MIGRATION_DIR=a#b", "a#b"),
        ("MIGRATION_DIR=a #b", "a"),
        ("MIGRATION_DIR=a\t# b 'c'", "a"),
        ("MIGRATION_DIR='a #b \\n' # c", "a #b \\n"),
        ('MIGRATION_DIR="a #b"# c', "a #b"),
        ('MIGRATION_DIR="a\\"b\\\\c\\$d\\e"', 'a"b\\c$d\\e'),
        ("MIGRATION_DIR='a\"b'", 'a"b'),
        ("MIGRATION_DIR=`a\"b'c` # d", "a\"b'c"),
        ('MIGRATION_DIR="a\\nb\\r\\\\n"', "a\nb\r\\n"),
        ("MIGRATION_DIR='a\\nb'", "a\\nb"),
        ("MIGRATION_DIR=a\\nb", "a\\nb"),
        ("MIGRATION_DIR='a${A}b'", "a${A}b"),
        ("MIGRATION_DIR=a\\${A}b\\$A", "a${A}b$A"),
        ('MIGRATION_DIR="a\\${A}b\\$A"', "a${A}b$A"),
        ("MIGRATION_DIR=pa$word$1$", "pa$word$1$"),
        ("MIGRATION_DIR=it's", "it's"),
        ('MIGRATION_DIR="a\nMIGRATION_ENV=b"', "a\nMIGRATION_ENV=b"),
        ("MIGRATION_DIR=a=b&c=d", "a=b&c=d"),
        ("MIGRATION_DIR=a\nMIGRATION_DIR=b", "b"),
        ("MIGRATION_DIR=", ""),
        ('MIGRATION_DIR=""', ""),
        ("MIGRATION_DIR= # a", ""),
        ("MIGRATION_DIR=#a", ""),
        ("# MIGRATION_DIR=a", None),
        ("MIGRATION_DIR", None),
        ("XMIGRATION_DIR=a", None),
        ('MIGRATION_DIR="a', None),
        ("KEY='-----BEGIN\nMIGRATION_DIR=a\n-----END'", None),
    ],
)
def test_a_line_of_an_env_file_is_read_as_others_read_it(
    tmp_path: Path, line: str, value: str | None
) -> None:
    for content in (
        line,
        f"\ufeff{line}\n",
        f"A=1\n\n{line}\nB=2",
        f"A=1\r\n{line}\r\nB=2\r\n".replace("\r\r", "\r"),
    ):
        found = env(tmp_path, content)
        assert found.pop("MIGRATION_DIR", None) == value
        assert found == {}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            '"postgresql://${USER_NAME}:${PASSWORD}@localhost/${NAME}"',
            "postgresql://me:p%40w@localhost/shop",
        ),
        ("postgresql://${USER_NAME}@localhost/app # no quotes", "postgresql://me@localhost/app"),
        ('"${BASE}/app"', "postgresql://me@localhost/app"),
        ('"postgresql://me:pa$wo$d$$1@localhost/app"', "postgresql://me:pa$wo$d$$1@localhost/app"),
        (
            "'postgresql://me:${PASSWORD}$NAME@localhost/app'",
            "postgresql://me:${PASSWORD}$NAME@localhost/app",
        ),
        (
            '"postgresql://me:\\${PASSWORD}\\$NAME@localhost/app\\n"',
            "postgresql://me:${PASSWORD}$NAME@localhost/app\n",
        ),
    ],
)
def test_a_reference_to_another_variable_is_replaced_from_process_and_file(
    tmp_path: Path, url: str, expected: str
) -> None:
    others = "USER_NAME=nobody\nPASSWORD='p%40w'\nBASE=\"postgresql://${USER_NAME}@localhost\"\n"
    process = {"USER_NAME": "me", "PASSWORD": ""}
    assert env(tmp_path, f"{others}DATABASE_URL={url}\nNAME=shop\nBROKEN=${{X}}", process) == {
        "DATABASE_URL": expected
    }


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:${kanarie7}@localhost/app",
        "postgresql://me:${NAME:-kanarie7}@localhost/app",
        "postgresql://me:kanarie7$NAME@localhost/app",
        "postgresql://me:kanarie7$HOME@localhost/app",
        "${LOOP}kanarie7",
        "${DATABASE_URL}kanarie7",
        "${ODD}kanarie7",
    ],
)
def test_a_reference_without_one_reading_is_refused_and_not_shown(tmp_path: Path, url: str) -> None:
    others = "NAME=shop\nLOOP=${LOOP2}\nLOOP2=${LOOP}\nODD=$NAME\n"
    for written in (url, f'"{url}"'):
        with pytest.raises(
            ConfigError, match=r"^(?:DATABASE_URL|LOOP2?|ODD) in \.env has a \$ that "
        ) as caught:
            env(tmp_path, f"{others}DATABASE_URL={written}", {"HOME": "/root"})
        assert caught.value.exit_code == 2
        assert CANARY not in everything(caught.value)
        assert (
            env(tmp_path, f"{others}DATABASE_URL={written}", {"POSTGRES_URL": "x", "HOME": "/root"})
            == {}
        )


@pytest.mark.parametrize(
    ("process", "local", "plain", "expected"),
    [
        (
            {},
            "POSTGRES_URL=local",
            "POSTGRES_URL=plain\nDATABASE_URL=plain",
            {"POSTGRES_URL": "local"},
        ),
        (
            {},
            "MIGRATION_DIR=local",
            "POSTGRES_URL=plain",
            {"MIGRATION_DIR": "local", "POSTGRES_URL": "plain"},
        ),
        (
            {},
            "POSTGRES_URL=\nDATABASE_URL=' '",
            "DATABASE_URL=plain",
            {"POSTGRES_URL": "", "DATABASE_URL": "plain"},
        ),
        (
            {},
            "DATABASE_URL=local\nPOSTGRES_URL=local",
            "",
            {"DATABASE_URL": "local", "POSTGRES_URL": "local"},
        ),
        (
            {"DATABASE_URL": "mine"},
            "MIGRATION_DATABASE_URL=local",
            "POSTGRES_URL=plain",
            {"DATABASE_URL": "mine"},
        ),
        (
            {"DATABASE_URL": " "},
            "POSTGRES_URL=local",
            "",
            {"DATABASE_URL": " ", "POSTGRES_URL": "local"},
        ),
        ({"DATABASE_URL": ""}, "DATABASE_URL=local", "", {"DATABASE_URL": "local"}),
        ({"MIGRATION_ENV": ""}, "", "MIGRATION_ENV=plain", {"MIGRATION_ENV": "plain"}),
        (
            {"MIGRATION_ENV": "mine"},
            "MIGRATION_ENV=local",
            "MIGRATION_WAIT=1s",
            {"MIGRATION_ENV": "mine", "MIGRATION_WAIT": "1s"},
        ),
    ],
)
def test_the_first_source_with_a_url_supplies_all_urls(
    tmp_path: Path, process: dict[str, str], local: str, plain: str, expected: dict[str, str]
) -> None:
    (tmp_path / ".env.local").write_text(local)
    (tmp_path / ".env").write_text(plain)
    assert with_env_files(process, tmp_path) == expected


def test_a_pulled_file_does_not_pass_a_laptop_off_as_a_build(tmp_path: Path) -> None:
    pulled = "VERCEL=1\nVERCEL_ENV=production\nVERCEL_TARGET_ENV=production\nDATABASE_URL=postgres://localhost/app\n"
    signs = "CI=1\nVERCEL_DEPLOYMENT_ID=dpl_1\nAWS_LAMBDA_FUNCTION_NAME=f\nVERCEL_GIT_COMMIT_SHA=abc\nPGHOST=h\nNO_COLOR=1"
    found = read_config(with_env_files({}, tmp_path) | env(tmp_path, pulled + signs))
    assert (found.production, found.deploying, found.applied_by, found.git_commit) == (
        True,
        False,
        "cli",
        None,
    )
    assert set(env(tmp_path, signs)) == set()


def test_without_files_the_environment_is_as_it_was(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert with_env_files({"A": "1", "DATABASE_URL": ""}, tmp_path) == {
        "A": "1",
        "DATABASE_URL": "",
    }


def test_an_env_file_that_is_not_text_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^\.env cannot be read as UTF-8 text$") as caught:
        env(tmp_path, "DATABASE_URL=kanarie7".encode("utf-16"))
    assert CANARY not in str(caught.value.args)


# Which environment


@pytest.mark.parametrize(
    ("environ", "environment", "source"),
    [
        ({}, "development", "default"),
        (
            {"MIGRATION_ENV": "staging", "VERCEL_TARGET_ENV": "a", "VERCEL_ENV": "b"},
            "staging",
            "MIGRATION_ENV",
        ),
        (
            {"MIGRATION_ENV": " ", "VERCEL_TARGET_ENV": "qa", "VERCEL_ENV": "preview"},
            "qa",
            "VERCEL_TARGET_ENV",
        ),
        (
            {"VERCEL": "1", "VERCEL_TARGET_ENV": "", "VERCEL_ENV": "production"},
            "production",
            "VERCEL_ENV",
        ),
        ({"MIGRATION_ENV": "Production"}, "production", "MIGRATION_ENV"),
        ({"MIGRATION_ENV": "prod-eu"}, "prod-eu", "MIGRATION_ENV"),
        ({"VERCEL": "1", "MIGRATION_ENV": "a.b_c-1"}, "a.b_c-1", "MIGRATION_ENV"),
        (
            {"AWS_LAMBDA_FUNCTION_NAME": "f", "MIGRATION_ENV": "production"},
            "production",
            "MIGRATION_ENV",
        ),
        (
            {"AWS_LAMBDA_FUNCTION_NAME": "f", "VERCEL": "1", "VERCEL_ENV": "preview"},
            "preview",
            "VERCEL_ENV",
        ),
    ],
)
def test_the_environment_is_named_by_the_first_variable(
    environ: dict[str, str], environment: str, source: str
) -> None:
    found = config(**environ)
    assert (found.environment, found.environment_source) == (environment, source)
    assert found.production == (environment == "production")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"VERCEL": "1"},
            "the environment: VERCEL is set, but neither VERCEL_TARGET_ENV nor VERCEL_ENV",
        ),
        (
            {"VERCEL": "1", "VERCEL_ENV": " ", "AWS_LAMBDA_FUNCTION_NAME": "f"},
            "VERCEL is set, but neither",
        ),
        (
            {"AWS_LAMBDA_FUNCTION_NAME": "f"},
            "cannot determine the environment: on Lambda it must be set in MIGRATION_ENV",
        ),
        (
            {"AWS_LAMBDA_FUNCTION_NAME": "f", "VERCEL_ENV": "production"},
            "cannot determine the environment: on Lambda",
        ),
        (
            {"MIGRATION_ENV": "my prod"},
            "MIGRATION_ENV is 'my prod'; a name has at most 63 letters, digits, dots, _ and -",
        ),
        ({"VERCEL_TARGET_ENV": "größe"}, "VERCEL_TARGET_ENV is 'größe'; a name has at most"),
        ({"MIGRATION_ENV": " Prod "}, "MIGRATION_ENV is Prod; the full name is production"),
        ({"VERCEL_TARGET_ENV": "prd"}, "VERCEL_TARGET_ENV is prd; the full name is production"),
        ({"VERCEL": "1", "VERCEL_ENV": "LIVE"}, "VERCEL_ENV is LIVE; the full name is production"),
        (
            {"MIGRATION_ENV": "production", "VERCEL_ENV": "preview"},
            "is production, but VERCEL_ENV is preview",
        ),
        (
            {"MIGRATION_ENV": "Production", "VERCEL_ENV": "Development"},
            "is production, but VERCEL_ENV is development",
        ),
        (
            {"MIGRATION_ENVIRONMENTS": "preview, prod"},
            "MIGRATION_ENVIRONMENTS is prod; the full name is production",
        ),
        (
            {"MIGRATION_CLAIM": "Live @123/app"},
            "MIGRATION_CLAIM is Live; the full name is production",
        ),
        ({"MIGRATION_ENV": "x" * 64}, "a name has at most"),
    ],
)
def test_an_environment_is_never_guessed(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**environ)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("environ", "deploying"),
    [
        ({}, False),
        ({"VERCEL": "1", "VERCEL_ENV": "production"}, False),
        ({"CI": "false"}, False),
        ({"CI": ""}, False),
        ({"CI": "1"}, True),
        ({"CI": "woodpecker"}, True),
        ({"VERCEL_DEPLOYMENT_ID": "dpl_1"}, True),
        ({"VERCEL_DEPLOYMENT_ID": ""}, False),
        ({"AWS_LAMBDA_FUNCTION_NAME": "f", "MIGRATION_ENV": "qa"}, True),
    ],
)
def test_a_platform_or_ci_is_told_from_a_person(environ: dict[str, str], deploying: bool) -> None:
    found = config(**environ)
    assert (found.deploying, found.applied_by) == (deploying, "build" if deploying else "cli")
    assert read_config({"DATABASE_URL": LOCAL, **environ}, applied_by="api").applied_by == "api"


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
        match=r"^MIGRATION_WAIT is .*; expected a duration such as 250ms, 5s or 2min, at most 24 days$",
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


def test_the_directory_begins_at_the_project_and_is_shown_from_where_one_stands(
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


# Whose database


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("", ""),
        (" ", ""),
        (" preview@123/app ", "preview@123/app"),
        ("Preview@123/App", "preview@123/App"),
        ("preview@123/a@b c/ep-cool-1", "preview@123/a@b c/ep-cool-1"),
    ],
)
def test_a_claim_is_an_environment_and_an_identity(claim: str, expected: str) -> None:
    assert config(MIGRATION_CLAIM=claim).claim == expected


@pytest.mark.parametrize(
    "claim", ["preview", "@", "preview@", " preview@ ", "@123/app", "kanarie7:123/app"]
)
def test_a_claim_of_half_a_pair_is_refused_and_not_shown(claim: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^MIGRATION_CLAIM must look like environment@identity$"
    ) as caught:
        config(MIGRATION_CLAIM=claim)
    assert "kanarie7" not in everything(caught.value)


@pytest.mark.parametrize(
    ("environments", "expected"),
    [
        ("", ()),
        (" ", ()),
        ("production", ("production",)),
        (" Production , qa-2 ", ("production", "qa-2")),
        ("production,,development,", ("production", "development")),
    ],
)
def test_environments_are_names_with_commas_between(
    environments: str, expected: tuple[str, ...]
) -> None:
    environ = {"MIGRATION_ENVIRONMENTS": environments, "VERCEL_ENV": "Preview"}
    assert config(**environ).environments == expected
    assert allowed_environments(environ) == ("preview", expected), "without any URL"


@pytest.mark.parametrize(
    "name", ["production development", "production;preview", "größe", "x" * 64]
)
def test_environments_with_what_cannot_be_a_name_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^MIGRATION_ENVIRONMENTS is '.*'; a name has at most"):
        config(MIGRATION_ENVIRONMENTS=f"production,{name}")
