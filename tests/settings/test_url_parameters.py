from urllib.parse import quote

import pytest
from psycopg.pq import Conninfo

from lib.errors import ConfigError
from tests.conftest import Server
from tests.kit import KANARIE, everything, parameters, parsed


def test_every_parameter_of_libpq_is_passed_on() -> None:
    known = {option.keyword.decode() for option in Conninfo.get_defaults()} - {
        "service",
        "servicefile",
    }
    for name in sorted(known):
        assert parameters(f"postgresql://localhost/app?{name}=1")[name] == "1"


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
        parsed(f"postgresql://localhost/app?{name}")
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
def test_a_parameter_that_changes_the_sql_and_is_not_obeyed_is_refused(
    parameter: str,
) -> None:
    name = parameter.rpartition("&")[2].partition("=")[0]
    with pytest.raises(ConfigError, match=rf"^DATABASE_URL has the parameter {name}, ") as caught:
        parsed(f"postgresql://localhost/app?{parameter}")
    assert caught.value.exit_code == 2
    assert KANARIE not in everything(caught.value)


def test_every_setting_of_the_server_is_refused_as_a_parameter(server: Server) -> None:
    """asyncpg, pgx, lib/pq and postgres.js would send it: see the pattern for what libpq has under
    the same name.
    """
    settings = (
        "SELECT name FROM pg_settings WHERE context ~ 'user|backend'"
        " AND name NOT IN ('application_name'"
    )
    known = [
        name
        for (name,) in server.admin.execute(f"{settings}, 'client_encoding', 'tcp_user_timeout')")
    ]
    assert len(known) > 150
    for name in [*known, "session_authorization", "shop.tenant", "options[search_path]"]:
        with pytest.raises(ConfigError, match=r"^DATABASE_URL has (?:the|a) parameter "):
            parsed(f"postgresql://localhost/app?{quote(name)}=1")


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
            parsed(f"postgresql://localhost/app?{query}")


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
        parsed(f"postgresql://localhost/app?{parameter}")
    assert KANARIE not in everything(caught.value)
