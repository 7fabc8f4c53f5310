import json
import re
from dataclasses import replace
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from lib.errors import ConfigError
from lib.settings.config import choose_database, read_config
from lib.settings.database_url import DatabaseURL, redact, unpooled
from tests.kit import KANARIE, LOCAL, config, everything, parameters, parsed


def test_a_url_shows_variable_host_and_database_only() -> None:
    shown = parsed(
        "postgresql://kanarie7:kanarie7@h.example:6543/app?sslpassword=kanarie7&options=kanarie7"
    )
    assert str(shown) == "app on h.example:6543 (from DATABASE_URL)"
    assert repr(shown) == "DatabaseURL(variable='DATABASE_URL', host='h.example', database='app')"
    assert (
        str(parsed("postgresql://kanarie7@"))
        == "the default database on this machine (from DATABASE_URL)"
    )
    assert str(parsed("postgres:///", PGHOST="h", PGDATABASE="d")) == "d on h (from DATABASE_URL)"
    assert KANARIE not in repr(config(DATABASE_URL="postgresql://kanarie7:kanarie7@h.example/app"))


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
    found = parsed(url, **environ)
    assert found.label == shown
    names = {name.removeprefix("PG").lower().replace("database", "dbname") for name in environ}
    assert names <= set(found.parameters), "libpq is told, and does not look for itself"


@pytest.mark.parametrize(
    "where", ["localhost:0", "localhost:65536", "a:1,b:99999", "localhost:5432/app?port=x1"]
)
def test_a_port_that_cannot_be_is_refused(where: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^DATABASE_URL has a port that is not a number from 1 to 65535$"
    ):
        parsed(f"postgresql://{where}")


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
    assert KANARIE not in everything(caught.value)


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
def test_a_remote_host_is_reached_over_tls_unless_the_url_says_otherwise(
    url: str, environ: dict[str, str], sslmode: str | None
) -> None:
    if sslmode == "refused":
        with pytest.raises(ConfigError):
            parsed(url)
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
    assert KANARIE not in everything(caught.value)
    assert "me:" not in caught.value.message


@given(
    st.tuples(
        st.text("aZ0@/#?:%&=[], \\\"'", max_size=6), st.text("aZ0@/#?:%&=[], \\\"'", max_size=6)
    ),
    st.sampled_from(["", "/app", "/app?sslmode=require", ":5432/app?pgbouncer=true"]),
)
def test_no_unencoded_password_is_seen_whether_its_url_is_read_or_refused(
    around: tuple[str, str], rest: str
) -> None:
    environ = {"DATABASE_URL": f"postgresql://me:{around[0]}{KANARIE}{around[1]}@db.example{rest}"}
    try:
        found = read_config(environ)
    except ConfigError as error:
        shown = everything(error)
    else:
        shown = (
            f"{found} {found.url} {found.url.label} {found.url.database_key} {found.status_url!r}"
        )
        assert KANARIE in found.url.parameters["password"]
    assert KANARIE not in shown


@given(st.text() | st.from_regex(r"postgres(ql)?://[\s\S]*", fullmatch=True))
def test_any_text_is_a_url_or_a_config_error(url: str) -> None:
    try:
        found = parsed(url)
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
    found = replace(parsed(LOCAL), parameters={"password": secret})
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


def test_the_secrets_of_all_urls_are_hidden_but_not_what_else_is_said() -> None:
    one = parsed("postgresql://postgres:postgres@localhost/postgres?sslpassword=geheim")
    other = parsed(
        "postgresql://me:geheimnis@localhost/app?oauth_client_secret=tresor&scram_client_key=kkkk"
    )
    text = 'geheim geheimnis tresor kkkk: no database "postgres" for me'
    assert redact(text, one, None, other) == '*** ***nis *** ***: no database "postgres" for me'
    both = parsed("postgresql://me:geheimnis@localhost/app?sslpassword=geheim")
    assert redact("geheim geheimnis", both) == "*** ***"
    assert redact(text, other, one) == '*** *** *** ***: no database "postgres" for me'
