"""Connecting, with TLS and without; what is sent and what comes back; and that no password is in
any of it.
"""

import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from psycopg.conninfo import timeout_from_conninfo

from lib.errors import (
    DatabaseUnavailable,
    DatabaseUnsuitable,
    LockBusy,
    MigrationFailed,
    OnwardError,
    PasswordRefused,
    TableBusy,
)
from lib.postgres.connecting import READ_BUDGET, Budget, connect
from lib.postgres.connection import Connection
from lib.postgres.executor import Executor as Connected
from lib.quoting import identifier, literal
from lib.settings.database_url import DatabaseURL, parse_url
from scripts.dev.embedded import Embedded, server_user
from tests.conftest import ROOT, Cli, Database, Server
from tests.kit import (
    SETTLED,
    Events,
    Write,
    history,
    login,
    nothing_is_left_running,
    role,
    run,
    until,
)
from tests.proxy import Hold, Proxy, fail, proxied

# 127.0.0.1, in a spelling that nobody can know for this machine's.
ELSEWHERE = "0x7f000001"


def target_of(database: Database) -> DatabaseURL:
    return parse_url("POSTGRES_URL", database.url, {})


def session_of(database: Database) -> Connection:
    return connect(target_of(database), "onward test")


def changed(database: Database, *, query: str = "", **parts: str) -> Database:
    """The database by a URL in which user, password, host or port are others."""
    url = urlsplit(database.url)
    found = {
        "user": url.username,
        "password": url.password,
        "host": url.hostname,
        "port": url.port,
    } | parts
    netloc = f"{found['user']}:{found['password']}@{found['host']}:{found['port']}"
    return Database(database.name, url._replace(netloc=netloc, query=query).geturl())


# No session to be had.


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("password", "canary-of-a-wrong-password", "password authentication failed"),
        ("user", "nobody_of_that_name", "authentication failed"),
    ],
)
def test_a_wrong_password_or_user_ends_the_run_at_once(
    database: Database, cli: Cli, migrations: Write, part: str, value: str, says: str
) -> None:
    migrations({"001-one.sql": "CREATE TABLE one ()"})
    result = cli(url=changed(database, **{part: value}).url)
    assert result.code == 5
    assert says in result.err
    assert "Check user, password and database in the URL." in result.err
    assert "canary" not in result.out + result.err
    assert database.execute("SELECT to_regclass('one')") == [(None,)]


def test_a_database_that_is_missing_ends_the_run_at_once(
    server: Server, database: Database, cli: Cli, migrations: Write
) -> None:
    migrations({"001-one.sql": "CREATE TABLE one ()"})
    result = cli(url=server.database("missing").url)
    assert result.code == 5
    assert 'database "missing" does not exist' in result.err
    assert server.admin.execute("SELECT 1 FROM pg_database WHERE datname = 'missing'") == []


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that is taken, and at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_server_that_is_not_there_ends_the_run_when_the_budget_is_spent(
    database: Database, migrations: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Connected.__init__.__kwdefaults__ or {}, "budget", Budget(0.3))
    directory = migrations({"001-one.sql": "CREATE TABLE one ()"})
    with closed_port() as port, pytest.raises(DatabaseUnavailable, match="refused") as caught:
        run(changed(database, port=str(port), password="canary-of-a-password"), directory)
    assert caught.value.exit_code == 5
    assert "Check that the server runs" in caught.value.next_step
    assert "canary" not in str(caught.value) + caught.value.next_step
    assert database.execute("SELECT to_regclass('one')") == [(None,)]


LETS_IN = "database\0"  # what a client begins with


@pytest.mark.parametrize(
    ("sqlstate", "text", "severity", "kind"),
    [
        (
            "28P01",
            "Passwort-Authentifizierung für Benutzer »app« fehlgeschlagen",
            "FATAL",
            PasswordRefused,
        ),
        (
            "28P01",
            "пользователь не прошёл проверку подлинности (по паролю)",
            "ВАЖНО",
            PasswordRefused,
        ),
        ("28000", "ğ", "ÖLÜMCÜL (FATAL)", PasswordRefused),
        ("3D000", "Datenbank »app« existiert nicht", "FATAL", DatabaseUnavailable),
        ("08P01", "no such database: app", "FATAL", DatabaseUnavailable),
        ("XX000", "Tenant or user not found", "FATAL", DatabaseUnavailable),
        ("XX000", "password authentication failed for user 'app'", "ERROR", PasswordRefused),
    ],
)
def test_a_final_answer_in_any_language_is_asked_for_once(
    database: Database,
    proxy: Proxy,
    sqlstate: str,
    text: str,
    severity: str,
    kind: type[DatabaseUnavailable],
) -> None:
    refusing = proxy.when(LETS_IN, fail(sqlstate, text, severity), times=math.inf)
    url = proxy.url(changed(database, password="canary-of-a-password").url)
    with pytest.raises(
        DatabaseUnavailable, match=re.escape(f"{text} (SQLSTATE {sqlstate})")
    ) as caught:
        connect(parse_url("POSTGRES_URL", url, {}), "onward test")
    assert (type(caught.value), refusing.hits) == (kind, 1)
    assert "Check user, password and database in the URL" in caught.value.next_step
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("sqlstate", "text"),
    [
        ("57P03", "das Datenbanksystem startet"),
        (
            "08P01",
            "server login has been failing, cached error: connect failed (server_login_retry)",
        ),
        ("XX000", "Couldn't connect to compute node"),
    ],
)
def test_an_answer_that_is_known_to_pass_is_waited_for(
    database: Database, proxy: Proxy, sqlstate: str, text: str
) -> None:
    refusing = proxy.when(LETS_IN, fail(sqlstate, text), times=2)
    with connect(parse_url("POSTGRES_URL", proxy.url(database.url), {}), "onward test") as session:
        assert session.query("SELECT current_database()") == [(database.name,)]
    assert refusing.hits == 2


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("sslmode=no-verify", 'invalid sslmode value: "no-verify"'),
        ("connect_timeout=10s", "connect_timeout: '10s'"),
        ("channel_binding=x", 'invalid channel_binding value: "x"'),
        ("target_session_attrs=foo", 'invalid target_session_attrs value: "foo"'),
        ("keepalives=yes", 'invalid integer value "yes" for connection option "keepalives"'),
        (
            "sslmode=require&sslrootcert=system",
            'weak sslmode "require" may not be used with sslrootcert=system',
        ),
        ("port=1,2", "could not match 2 port numbers to 1 hosts"),
        ("hostaddr=foo", 'could not parse network address "foo"'),
        ("sslcertmode=maybe", 'invalid sslcertmode value: "maybe"'),
    ],
)
def test_what_libpq_refuses_is_a_fault_of_the_configuration(
    database: Database, cli: Cli, migrations: Write, query: str, says: str
) -> None:
    migrations({"001-one.sql": "CREATE TABLE one ()"})
    for command in ([], ["status"]):
        result = cli(*command, url=changed(database, query=query).url)
        assert result.code == 2
        assert says in result.err
        assert "Next: Correct it in the URL" in result.err
    assert database.execute("SELECT to_regclass('one')") == [(None,)]


def test_who_only_looks_does_not_wait_for_a_server_on_this_machine_that_is_not_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.postgres.connecting.time.sleep", lambda _: pytest.fail("it waited"))
    with closed_port() as port:
        for host, query in (("127.0.0.1", ""), ("localhost", ""), ("", "host=/tmp/password")):
            target = parse_url("POSTGRES_URL", f"postgresql://me@{host}:{port}/app?{query}", {})
            with pytest.raises(DatabaseUnavailable, match=r"refused|No such file") as caught:
                connect(target, "onward test", budget=READ_BUDGET)
            assert type(caught.value) is DatabaseUnavailable
            assert "Check that the server runs" in caught.value.next_step


@pytest.mark.parametrize("command", ["status", "validate"])
def test_status_and_validate_only_look(cli: Cli, migrations: Write, command: str) -> None:
    migrations({"001-one.sql": "CREATE TABLE one ()"})
    with closed_port() as port:
        result = cli(command, url=f"postgresql://me:canary-of-a-password@127.0.0.1:{port}/app")
    assert (result.code, "trying again" in result.out + result.err) == (5, False)
    assert "Connection refused" in result.err


def test_a_run_waits_for_a_server_on_this_machine_and_says_so(
    server: Server, database: Database
) -> None:
    with closed_port() as port:
        pass
    late = proxied(server.url, listen=port)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        late.__enter__()

    try:
        with connect(
            target_of(changed(database, host="127.0.0.1", port=str(port))), "onward test", tell=say
        ) as session:
            assert session.query("SELECT current_database()") == [(database.name,)]
    finally:
        late.__exit__()
    assert len(said) == 1
    assert re.search(r"Connection refused.*; retrying for up to \d+ s$", said[0])


def test_a_server_that_does_not_answer_is_told_of_while_it_is_waited_for(
    database: Database, proxy: Proxy
) -> None:
    waking = Hold()
    proxy.when(LETS_IN, waking)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        waking.release()

    with connect(
        parse_url("POSTGRES_URL", proxy.url(database.url), {}), "onward test", tell=say
    ) as session:
        assert session.query("SELECT current_database()") == [(database.name,)]
    assert len(said) == len(proxy.connections) == 1
    assert said[0].startswith(
        f"no answer yet from {database.name} on 127.0.0.1:{proxy.port} (from POSTGRES_URL); "
        "retrying"
    )


def test_of_several_hosts_the_answer_of_one_counts_more_than_the_silence_of_others(
    database: Database, proxy: Proxy
) -> None:
    refusing = proxy.when(LETS_IN, fail("28P01", "nein"), times=math.inf)
    url = urlsplit(proxy.url(database.url))
    user = url.netloc.rpartition("@")[0]
    with closed_port() as port:
        hosts = f"127.0.0.1:{port},127.0.0.1:{proxy.port},127.0.0.1:{port}"
        several = parse_url("POSTGRES_URL", url._replace(netloc=f"{user}@{hosts}").geturl(), {})
        with pytest.raises(PasswordRefused, match=r"Connection refused.*; .*nein") as caught:
            connect(several, "onward test")
        assert refusing.hits == 1
        assert caught.value.message.count("Connection refused") == 1
        refusing.times = refusing.hits
        with connect(several, "onward test") as session:
            assert session.query("SELECT current_database()") == [(database.name,)]


@pytest.mark.parametrize(("number", "calls"), [(socket.EAI_AGAIN, 3), (socket.EAI_NONAME, 1)])
def test_a_name_that_may_soon_be_known_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, number: int, calls: int
) -> None:
    asked: list[str] = []

    def unknown(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror(number, "nobody knows")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("lib.postgres.connecting.time.sleep", lambda _: None)
    target = parse_url("POSTGRES_URL", "postgresql://me:canary-of-a-password@db.example/app", {})
    with pytest.raises(
        DatabaseUnavailable, match=r"failed to resolve host 'db\.example'.*nobody knows"
    ):
        connect(target, "onward test", budget=Budget(20.0 if calls == 1 else 0.3))
    assert asked[:calls] == ["db.example"] * calls
    assert (len(asked) == 1) == (calls == 1)


def test_a_server_that_has_no_connection_to_spare_is_tried_again(
    server: Server, database: Database
) -> None:
    with login(server, database, "CONNECTION LIMIT 0") as crowded:
        with pytest.raises(DatabaseUnavailable, match="too many connections"):
            connect(target_of(crowded), "onward test", budget=Budget(0.3))
        relief = threading.Timer(
            0.2, server.admin.execute, [f"ALTER ROLE {role(crowded)} CONNECTION LIMIT 1"]
        )
        relief.start()
        with connect(target_of(crowded), "onward test") as session:
            assert session.query("SELECT 1") == [("1",)]
        relief.join()


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What libpq is told of each address that is tried, in this order."""
    addresses: list[dict[str, Any]] = []

    def note(address: dict[str, Any]) -> int:
        addresses.append(address)
        return timeout_from_conninfo(address)

    monkeypatch.setattr("lib.postgres.connecting.timeout_from_conninfo", note)
    return addresses


@pytest.mark.parametrize(
    ("budget", "query", "seconds"),
    [(300.0, "", [10]), (9.0, "", range(2, 10)), (300.0, "connect_timeout=33", [33])],
)
def test_a_silent_address_is_given_up_in_a_bounded_time(
    database: Database,
    dialled: list[dict[str, Any]],
    budget: float,
    query: str,
    seconds: Collection[int],
) -> None:
    """At most ten seconds, and no more than there are, unless the URL says so: the next address has
    its turn then.
    """
    with connect(
        target_of(changed(database, query=query)), "onward test", budget=Budget(budget)
    ) as session:
        assert session.query("SELECT current_database()") == [(database.name,)]
    (address,) = dialled
    assert timeout_from_conninfo(address) in seconds


def test_a_server_that_vanishes_is_noticed_unless_the_url_says_when(
    database: Database, dialled: list[dict[str, Any]]
) -> None:
    usual = {
        "keepalives_idle": "5",
        "keepalives_interval": "2",
        "keepalives_count": "3",
        "tcp_user_timeout": "15000",
    }
    of_the_url = {"keepalives_idle": "77", "tcp_user_timeout": "7000"}
    query = urlencode(of_the_url)
    for one in (database, changed(database, query=query)):
        with session_of(one) as session:
            assert session.query("SELECT current_database()") == [(database.name,)]
    assert [{name: address[name] for name in usual} for address in dialled] == [
        usual,
        usual | of_the_url,
    ]


def test_a_refused_session_says_nothing_of_the_password(server: Server, database: Database) -> None:
    with login(server, database) as closed:
        server.admin.execute(f"ALTER ROLE {role(closed)} NOLOGIN")
        with pytest.raises(DatabaseUnavailable) as caught:
            session_of(closed)
        error: BaseException | None = caught.value
        while error:
            assert "canary" not in f"{error!r} {error}"
            error = error.__cause__
        assert "canary" not in repr(target_of(closed))
    assert "is not permitted to log in" in caught.value.message


# TLS.


def test_a_host_that_is_not_local_is_not_spoken_to_without_tls_unless_the_url_says_so(
    server: Server, database: Database, cli: Cli, migrations: Write
) -> None:
    if urlsplit(server.url).hostname != "127.0.0.1" or server.admin.execute("SHOW ssl") != [
        ("off",)
    ]:
        pytest.skip("this server has TLS, or is not at 127.0.0.1")
    migrations({"001-one.sql": "CREATE TABLE one ()"})
    result = cli(url=changed(database, host=ELSEWHERE).url)
    assert result.code == 5
    assert "does not support SSL" in result.err
    assert "sslmode=disable" in result.err
    assert database.execute("SELECT to_regclass('one')") == [(None,)]

    assert cli(url=changed(database, host=ELSEWHERE, query="sslmode=disable").url).code == 0
    assert history(database) == ["001-one"]


@pytest.fixture(scope="module")
def tls() -> Iterator[Database]:
    """A database of a server that has TLS, as Debian's Postgres has, with a certificate that nobody
    has signed.
    """
    installed = [
        path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "postgres").is_file()
    ]
    if not installed or not shutil.which("openssl"):
        assert not os.environ.get("CI"), "CI must have openssl and Debian's Postgres"
        pytest.skip("this needs openssl and Debian's Postgres")
    parent = Path(tempfile.mkdtemp(prefix="onward-tls-"))
    parent.chmod(0o755)
    key, certificate = parent / "key", parent / "certificate"
    command = [
        "openssl",
        "req",
        "-x509",
        "-nodes",
        "-newkey",
        "rsa:2048",
        "-subj",
        "/CN=db.example.com",
    ]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    key.chmod(0o600)
    if user := server_user():
        os.chown(key, user.pw_uid, user.pw_gid)
    settings = ("ssl=on", f"ssl_key_file={key}", f"ssl_cert_file={certificate}", "fsync=off")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTGRES_BIN", str(installed[-1]))
        try:
            with Embedded(parent / "postgres", settings=settings) as server:
                yield Database("postgres", server.url())
        finally:
            shutil.rmtree(parent)


@pytest.mark.parametrize("code", [0, 2])
def test_a_root_certificate_that_is_not_there_is_a_fault_of_the_configuration(
    tls: Database, cli: Cli, migrations: Write, code: int
) -> None:
    migrations({"001-never.sql": "CREATE TABLE never ()"})
    query = (
        "sslmode=verify-full&" if code else ""
    ) + "sslrootcert=/nowhere.pem"  # our own default does without
    result = cli("status", url=changed(tls, host=ELSEWHERE, query=query).url)
    assert (result.code, 'root certificate file "/nowhere.pem" does not exist' in result.err) == (
        code,
        bool(code),
    )
    assert tls.execute("SELECT to_regclass('never')") == [(None,)]


LOOK = "INSERT INTO seen SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@pytest.mark.parametrize(
    ("query", "encrypted"), [("", True), ("sslmode=disable", False), ("sslrootcert=system", None)]
)
def test_tls_is_used_where_the_host_is_not_local_and_as_the_url_says(
    tls: Database, cli: Cli, migrations: Write, query: str, encrypted: bool | None
) -> None:
    tls.execute("DROP TABLE IF EXISTS seen, schema_migrations; CREATE TABLE seen (ssl boolean)")
    migrations({"001-look.sql": LOOK, "002-look.sql": f"-- migrate: no-transaction\n{LOOK}"})
    result = cli(url=changed(tls, host=ELSEWHERE, query=query).url, env=SETTLED)
    if encrypted is None:
        assert result.code == 5
        assert "certificate" in result.err
        assert tls.execute("SELECT to_regclass('schema_migrations')") == [(None,)]
    else:
        assert result.code == 0
        assert tls.execute("TABLE seen") == [(encrypted,), (encrypted,)]


# What is sent and what comes back.


@pytest.mark.parametrize(
    "setting",
    [
        "SELECT 1",
        "SET standard_conforming_strings = off",
        "SET client_encoding = 'LATIN1'",
        "SET client_encoding = 'SQL_ASCII'",
        "SET backslash_quote = off",
    ],
)
@pytest.mark.parametrize(
    "value",
    ["", "it's", 'a "quote"', "\\", "\\'; DROP TABLE t; --", "größe 🐘\n\t\x01", "%s $1 {}"],
)
def test_values_and_names_are_read_alike_whatever_a_file_has_set(
    database: Database, setting: str, value: str
) -> None:
    name = value or "empty"
    database.execute("CREATE SCHEMA names")
    with session_of(database) as session:
        session.send(setting)
        query = f"SELECT encode(convert_to({literal(value)}, 'UTF8'), 'hex')"
        assert session.send(query).rows == [(value.encode().hex(),)]
        session.send(f"CREATE TABLE names.{identifier(name)} ()")
    ((found,),) = database.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'names'::regnamespace"
    )
    assert found == name


@pytest.mark.parametrize(
    ("variable", "value", "setting"),
    [
        ("PGDATESTYLE", "SQL, DMY", "datestyle"),
        ("PGGEQO", "off", "geqo"),
        ("PGTZ", "Asia/Tokyo", "timezone"),
    ],
)
def test_a_files_session_is_the_same_whatever_a_persons_environment_says(
    database: Database, cli: Cli, migrations: Write, variable: str, value: str, setting: str
) -> None:
    migrations({"001-seen.sql": f"CREATE TABLE seen AS SELECT current_setting('{setting}')"})
    assert cli(url=database.url, env={variable: value}).code == 0
    assert database.execute("SELECT * FROM seen") == database.execute(f"SHOW {setting}")
    assert history(database) == ["001-seen"]


def test_a_query_of_ours_sees_one_snapshot_and_can_write_nothing(database: Database) -> None:
    with session_of(database) as session:
        answer = session.read("CREATE TABLE public.one ()")
        assert answer.error
        assert answer.error.sqlstate == "25006"
        assert not session.in_transaction
        assert session.query("SELECT current_setting('transaction_isolation')") == [
            ("repeatable read",)
        ]
        assert not session.in_transaction
    assert database.execute("SELECT to_regclass('one')") == [(None,)]


def test_a_session_has_our_name_and_encoding_whatever_the_url_says(database: Database) -> None:
    url = changed(database, query="application_name=other&client_encoding=LATIN1")
    with session_of(url) as session:
        query = "SELECT current_setting('application_name'), current_setting('client_encoding')"
        assert session.query(query) == [("onward test", "UTF8")]


def test_numbers_and_nothing_are_literals_too(database: Database) -> None:
    with session_of(database) as session:
        assert session.query(f"SELECT {literal(-7)}, {literal(None)}") == [("-7", None)]


def test_an_answer_has_rows_tags_and_the_error_after_them(database: Database) -> None:
    with session_of(database) as session:
        answer = session.send(
            "CREATE TABLE t (i int); INSERT INTO t VALUES (1), (2) RETURNING i; ; SELECT 1 / 0"
        )
        assert (answer.rows, answer.tags, answer.finished, answer.lost) == (
            [("1",), ("2",)],
            ["CREATE TABLE", "INSERT 0 2"],
            2,
            False,
        )
        assert answer.error
        assert (answer.error.sqlstate, answer.error.message) == ("22012", "division by zero")
        assert not session.in_transaction
        dropped = session.send(
            "SELECT 'row' FROM generate_series(1, 1000); SELECT 2", collect=False
        )
        assert (dropped.rows, dropped.tags, dropped.finished, dropped.error) == ([], [], 2, None)
    assert database.execute("SELECT to_regclass('t')") == [(None,)]


def test_an_errors_place_and_words_are_all_taken_over(database: Database) -> None:
    database.execute(
        "CREATE TABLE t (i int CONSTRAINT small CHECK (i < 9)); CREATE TABLE users (mail text)"
    )
    with session_of(database) as session:
        placed = session.send("SELECT '🐘', mial FROM users").error
        assert placed
        assert (placed.sqlstate, placed.position) == ("42703", 13), "in characters"
        assert placed.hint == 'Perhaps you meant to reference the column "users.mail".'
        refused = session.send("DO $$BEGIN INSERT INTO t VALUES (9); END$$").error
        assert refused
        assert (refused.constraint, refused.detail, refused.position) == (
            "small",
            "Failing row contains (9).",
            None,
        )
        assert refused.context
        assert refused.context.startswith("SQL statement")
    assert database.execute("TABLE t") == []


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        *(
            (sqlstate, DatabaseUnavailable)
            for sqlstate in ("08006", "08P01", "53300", "57P01", "57P02", "57P03")
        ),
        *((sqlstate, DatabaseUnsuitable) for sqlstate in ("42501", "25006", "57P05")),
        *((sqlstate, TableBusy) for sqlstate in ("55P03", "40P01")),
        ("57014", LockBusy),
    ],
)
def test_an_error_in_a_query_of_ours_is_told_by_its_kind(
    database: Database, sqlstate: str, kind: type[OnwardError]
) -> None:
    with session_of(database) as session:
        with pytest.raises(kind, match=f"canary.*{sqlstate}") as caught:
            session.query(
                f"DO $$BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}', MESSAGE = 'canary'; "
                "END$$"
            )
        assert type(caught.value) is kind
        assert session.query("SELECT 1") == [("1",)]


def test_a_session_that_the_server_ends_is_lost_and_says_so(
    server: Server, database: Database
) -> None:
    with session_of(database) as session:
        session.send("BEGIN; CREATE TABLE t ()")
        assert session.in_transaction
        server.admin.execute("SELECT pg_terminate_backend(%s)", [session.pid])
        answer = session.send("SELECT 1")
        assert answer.lost
        with pytest.raises(DatabaseUnavailable, match="lost"):
            session.query("SELECT 1")
    nothing_is_left_running(server, database)
    assert database.execute("SELECT to_regclass('t')") == [(None,)]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where pytest was started in the background, with SIGINT
    ignored.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_statement_is_cancelled_on_the_server(
    server: Server, database: Database
) -> None:
    with session_of(database) as session:
        session.send("BEGIN; CREATE TABLE t ()")
        query = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"

        def interrupt() -> None:
            until(lambda: server.admin.execute(query, [session.pid]))
            os.kill(os.getpid(), signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            session.send("SELECT pg_sleep(600)")
        interrupter.join()
        nothing_is_left_running(server, database)
    assert database.execute("SELECT to_regclass('t')") == [(None,)]


# What a server says.


@contextmanager
def encoded(server: Server, encoding: str) -> Iterator[Database]:
    """A database in which text is of this encoding."""
    database = server.database(
        f"{server.run}_{server.worker}_{encoding.lower()}_{next(server.numbers)}"
    )
    server.admin.execute(
        f"CREATE DATABASE \"{database.name}\" TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE "
        "'C' LC_CTYPE 'C'"
    )
    try:
        yield Database(database.name, f"{database.url}?client_encoding=utf8")
    finally:
        server.drop(database)


LONG = "DO $$ BEGIN FOR i IN 1..%d LOOP RAISE NOTICE '%%', repeat('x', %d); END LOOP; END $$"


def test_of_a_long_notice_the_beginning_is_kept(database: Database) -> None:
    with session_of(database) as session:
        session.send(LONG % (1, 2_000) + ";" + LONG % (1, 2_001))
        whole, cut = session.notices
    assert whole == f"NOTICE: {'x' * 2_000}"
    assert cut == f"NOTICE: {'x' * 2_000}… (2,001 bytes in all)"


def test_of_a_long_error_the_beginning_is_kept(database: Database) -> None:
    words = "repeat('é', 1000000)"
    raised = f"RAISE EXCEPTION USING MESSAGE = {words}, DETAIL = {words}, HINT = {words}, CONSTRAINT = 'c'"
    with session_of(database) as session:
        error = session.send(f"DO $$ BEGIN {raised}; END $$").failure
    for text in (error.message, error.detail, error.hint):
        assert re.fullmatch(r"é{3500}… \(2,000,000 bytes in all\)", text or "")
    assert error.constraint == "c"


def test_long_notices_take_no_memory(database: Database) -> None:
    """A process of its own, since a peak is a process's."""
    script = (
        "import os, resource; from lib.settings.config import parse_url; from "
        "lib.postgres.connecting import connect\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with connect(parse_url('URL', os.environ['URL'], {}), 'onward test') as session:\n"
        f"    session.send('''{LONG % (1, 10_000_000)}'''); before = peak()\n"
        f"    session.send('''{LONG % (40, 10_000_000)}'''); print(len(session.notices), (peak() - "
        "before) // 1024)"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(
        command, env={"URL": database.url}, cwd=ROOT, capture_output=True, check=True
    )
    count, megabytes = map(int, result.stdout.split())
    assert count == 41
    assert megabytes < 100


def test_no_secret_is_in_what_a_server_says_not_even_half_of_one(database: Database) -> None:
    target = target_of(database)
    (secret,) = target.secrets
    said = f"repeat('x', 1980) || '{database.url}{secret}'"
    raised = f"RAISE NOTICE '%', '{database.url}'; RAISE NOTICE '%', {said}; RAISE EXCEPTION '%', '{secret}'"
    with session_of(database) as session:
        error = session.send(f"DO $$ BEGIN {raised}; END $$").failure
        told = [*session.notices, error.message, error.context or ""]
    for text in told:
        assert secret[:4] not in text
    assert "***" in told[0] and "***" in error.message


@pytest.mark.parametrize("before", ["", "é" * 4_500, "東" * 3_000, "x://" + "y" * 1_500 + "@"])
def test_no_half_of_a_secret_is_shown_where_a_long_text_is_cut(
    database: Database, before: str
) -> None:
    """It is cut after so many bytes, which may be few characters, or fewer when what is in front is
    redacted.
    """
    (secret,) = target_of(database).secrets

    def around(cut: int) -> str:
        """A text in which byte number `cut` is inside of the secret."""
        head = before.encode()[: cut - 10].decode(errors="ignore")
        return f"{head}{'x' * (cut - 10 - len(head.encode()))}{secret}{'z' * 9_000}"

    with session_of(database) as session:
        raised = "".join(f"RAISE NOTICE '%', '{around(cut)}'; " for cut in (2_000, 3_000))
        error = session.send(
            f"DO $$ BEGIN {raised} RAISE EXCEPTION '%', '{around(9_000)}'; END $$"
        ).failure
        told = [*session.notices, error.message]
    assert [text.endswith(" bytes in all)") for text in told] == [True] * 3
    for text in told:
        assert secret[:4] not in text


@pytest.mark.parametrize("sqlstate", ["55P03", "57014", "57P01", "42501", "42P01"])
def test_an_error_in_a_query_of_ours_does_not_show_the_password(
    database: Database, sqlstate: str
) -> None:
    (secret,) = target_of(database).secrets
    raised = (
        f"RAISE EXCEPTION USING ERRCODE = '{sqlstate}', MESSAGE = '{secret}', HINT = '{secret}'"
    )
    with session_of(database) as session:
        with pytest.raises(OnwardError) as caught:
            session.query(f"DO $$BEGIN {raised}; END$$")
        assert "***" in caught.value.message
        assert secret not in f"{caught.value!r} {caught.value.next_step}"
        assert session.query("SELECT 1") == [("1",)]


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "EUC_JP", "SQL_ASCII"])
@pytest.mark.parametrize("text", ["é ä", "東京"])
def test_an_error_is_in_its_place_whatever_the_encoding_of_the_database(
    server: Server, migrations: Write, encoding: str, text: str
) -> None:
    if (encoding, text) in (("LATIN1", "東京"), ("EUC_JP", "é ä")):
        text = {"LATIN1": "é ä", "EUC_JP": "東京"}[encoding]
    transactional = f"SELECT '{text}';\n/* {text} */ SELECT '{text}', nothing;\n"
    directory = migrations({"001-whole.sql": transactional})
    with encoded(server, encoding) as database:
        with pytest.raises(MigrationFailed) as whole:
            run(database, directory)
        migrations({"001-whole.sql": f"-- migrate: no-transaction\n{transactional}"})
        with pytest.raises(MigrationFailed) as pieces:
            run(database, directory)
        assert history(database) == []
    column = transactional.splitlines()[1].index("nothing") + 1
    assert (whole.value.failure.line, whole.value.failure.column) == (2, column)
    assert (pieces.value.failure.line, pieces.value.failure.column) == (3, column)
    assert f"SELECT '{text}', nothing" in whole.value.failure.excerpt


@pytest.mark.parametrize(
    ("encoding", "client", "made", "word"),
    [
        ("UTF8", "LATIN1", "chr(233)", "café"),
        ("UTF8", "WIN1252", "chr(8364)", "caf€"),
        ("UTF8", "EUC_JP", "chr(26481) || chr(20140)", "caf東京"),
        ("UTF8", "KOI8R", "chr(1046)", "cafЖ"),
        ("LATIN1", "UTF8", "chr(233)", "café"),
        ("LATIN1", "LATIN1", "chr(233)", "café"),
        ("SQL_ASCII", "SQL_ASCII", r"E'\351'", r"caf\xe9"),
    ],
)
@pytest.mark.parametrize(
    "way", ["SET client_encoding = '{}'", "SET NAMES '{}'", "SET LOCAL client_encoding TO {}"]
)
def test_what_is_said_after_a_change_of_encoding_is_readable(
    server: Server, migrations: Write, encoding: str, client: str, made: str, word: str, way: str
) -> None:
    talking = f"{way.format(client)};\nDO $$ BEGIN RAISE NOTICE '%', 'caf' || {made}; END $$;\n"
    failing = talking.replace("NOTICE", "EXCEPTION").partition("\n")[2]
    with encoded(server, encoding) as database:
        directory = migrations({"001-talks.sql": talking})
        assert run(database, directory).notices == [f"NOTICE: {word}"]
        migrations({"002-fails.sql": talking + failing})
        events = Events()
        with pytest.raises(MigrationFailed) as failed:
            run(database, directory, events)
        assert (failed.value.failure.server.message, events.notices) == (word, [f"NOTICE: {word}"])
        assert history(database) == ["001-talks"]


def test_what_was_said_before_a_change_of_encoding_stays_readable(
    database: Database, migrations: Write
) -> None:
    says = "DO $$ BEGIN RAISE NOTICE '%', chr(233); END $$"
    directory = migrations({"001-talks.sql": f"{says}; SET client_encoding = 'LATIN1'; {says};"})
    assert run(database, directory).notices == ["NOTICE: é", "NOTICE: é"]
    assert history(database) == ["001-talks"]


def test_a_statement_says_the_same_whatever_encoding_the_one_before_it_has_set(
    database: Database, migrations: Write
) -> None:
    """The invalid index must be found by its name, too, to be built again."""
    database.execute('CREATE TABLE t (a text); CREATE INDEX "é" ON t (a)')
    database.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = '\"é\"'::regclass")
    sql = "-- migrate: no-transaction\nSET client_encoding = 'LATIN1';\nCREATE INDEX CONCURRENTLY \"é\" ON t (a);\n"
    run(
        database,
        migrations(
            {"001-index.sql": f"{sql}INSERT INTO t VALUES ('é');\nINSERT INTO t VALUES ('東');\n"}
        ),
    )
    found = database.execute(
        "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = 't'::regclass"
    )
    assert found == [('"é"', True)]
    assert database.execute("SELECT a FROM t") == [("é",), ("æ\x9d±",)]


# A deadline.


def test_a_statement_is_cancelled_at_its_deadline_and_the_session_goes_on(
    database: Database,
) -> None:
    with connect(target_of(database), "onward test", deadline=time.monotonic() + 0.2) as session:
        answer = session.send("CREATE TABLE one (); SELECT pg_sleep(60)")
        assert answer.error is not None
        assert (answer.error.sqlstate, answer.lost) == ("57014", False)
        assert session.query("SELECT to_regclass('one')") == [(None,)]


@pytest.mark.parametrize("size", [0, 50_000_000], ids=["answer", "read"])
def test_a_server_that_does_not_answer_the_cancellation_is_left(
    database: Database, server: Server, size: int
) -> None:
    """Nor one that does not even read the whole of what it is sent. A fault that waits for ever
    ends by the timer.
    """
    patient = changed(database, query="tcp_user_timeout=0")
    with connect(target_of(patient), "onward test", deadline=time.monotonic() + 0.2) as session:
        backend = int(session.query("SELECT pg_backend_pid()")[0][0] or 0)
        os.kill(backend, signal.SIGSTOP)
        relief = threading.Timer(60, os.kill, [backend, signal.SIGCONT])
        relief.start()
        try:
            assert session.send(f"CREATE TABLE one () -- {'x' * size}").lost
        finally:
            relief.cancel()
            os.kill(backend, signal.SIGCONT)
        assert session.send("SELECT 1").lost
    nothing_is_left_running(server, database)
