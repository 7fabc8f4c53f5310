"""Connecting, with TLS and without; and that no password is in what is said of it."""

import math
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from psycopg.conninfo import timeout_from_conninfo

from lib import runner
from lib.errors import (
    AccessRefused,
    DatabaseUnavailable,
    HostUnknown,
    HostUnreachable,
    PasswordRefused,
)
from lib.postgres.connecting import READ_BUDGET, Budget, connect
from lib.postgres.executor import Executor
from lib.settings.database_url import parse_url
from scripts.embedded import Embedded, server_user
from tests.conftest import Cli, Database, Server
from tests.kit import (
    SETTLED,
    Write,
    changed,
    config_of,
    history,
    login,
    role,
    run,
    session_of,
    target_of,
)
from tests.proxy import Hold, Proxy, fail, proxied

# 127.0.0.1, in a spelling that nobody can know for this machine's.
ELSEWHERE = "0x7f000001"


# No session to be had.


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_database_that_is_missing_ends_the_run_at_once(
    server: Server, database: Database, cli: Cli, migrations: Write
) -> None:
    migrations({"001-one.sql": "CREATE TABLE one ()"})
    result = cli(url=server.database("missing").url)
    assert result.code == 5
    assert 'database "missing" does not exist' in result.err
    with pytest.raises(AccessRefused, match="SQLSTATE 3D000"):
        run(server.database("missing"), migrations({}))
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
    monkeypatch.setattr("lib.runner.Executor", partial(Executor, budget=Budget(0.3)))
    directory = migrations({"001-one.sql": "CREATE TABLE one ()"})
    with closed_port() as port, pytest.raises(DatabaseUnavailable, match="refused") as caught:
        run(changed(database, port=str(port), password="canary-of-a-password"), directory)
    assert caught.value.exit_code == 5
    assert "Check that the server runs" in caught.value.next_step
    assert "canary" not in str(caught.value) + caught.value.next_step
    assert database.execute("SELECT to_regclass('one')") == [(None,)]


def test_a_run_tries_to_connect_for_as_long_as_its_settings_say(
    database: Database, migrations: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("lib.postgres.connecting.time.sleep", slept.append)
    directory = migrations({"001-one.sql": "CREATE TABLE one ()"})
    with closed_port() as port:
        dead = config_of(changed(database, port=str(port)), directory)._replace(connect_wait=0.05)
        with pytest.raises(HostUnreachable, match="refused"):
            runner.run(dead, lambda _: None)
    assert slept == []
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
        ("3D000", "Datenbank »app« existiert nicht", "FATAL", AccessRefused),
        ("08P01", "no such database: app", "FATAL", AccessRefused),
        ("XX000", "Tenant or user not found", "FATAL", AccessRefused),
        ("XX000", "password authentication failed for user 'app'", "ERROR", PasswordRefused),
    ],
)
def test_a_final_answer_in_any_language_is_asked_for_once(
    database: Database,
    proxy: Proxy,
    sqlstate: str,
    text: str,
    severity: str,
    kind: type[AccessRefused],
) -> None:
    refusing = proxy.when(LETS_IN, fail(sqlstate, text, severity), times=math.inf)
    url = proxy.url(changed(database, password="canary-of-a-password").url)
    with pytest.raises(AccessRefused, match=re.escape(f"{text} (SQLSTATE {sqlstate})")) as caught:
        connect(parse_url("POSTGRES_URL", url, {}), "onward test")
    assert (type(caught.value), refusing.hits) == (kind, 1)
    assert (caught.value.retry, caught.value.sqlstate) == (False, sqlstate)
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


@pytest.mark.slow
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


def test_who_only_looks_does_not_wait_for_a_local_server_that_is_down(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.postgres.connecting.time.sleep", lambda _: pytest.fail("it waited"))
    with closed_port() as port:
        for host, query in (("127.0.0.1", ""), ("localhost", ""), ("", "host=/tmp/password")):
            target = parse_url("POSTGRES_URL", f"postgresql://me@{host}:{port}/app?{query}", {})
            with pytest.raises(DatabaseUnavailable, match=r"refused|No such file") as caught:
                connect(target, "onward test", budget=READ_BUDGET)
            assert (type(caught.value), caught.value.retry) == (HostUnreachable, True)
            assert "Check that the server runs" in caught.value.next_step


@pytest.mark.parametrize("command", ["status", "validate"])
def test_status_and_validate_only_look(cli: Cli, migrations: Write, command: str) -> None:
    migrations({"001-one.sql": "CREATE TABLE one ()"})
    with closed_port() as port:
        result = cli(command, url=f"postgresql://me:canary-of-a-password@127.0.0.1:{port}/app")
    assert (result.code, "trying again" in result.out + result.err) == (5, False)
    assert "Connection refused" in result.err


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_the_answer_of_one_host_counts_more_than_the_silence_of_others(
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


@pytest.mark.parametrize(
    ("number", "calls", "kind"),
    [(socket.EAI_AGAIN, 3, HostUnreachable), (socket.EAI_NONAME, 1, HostUnknown)],
)
def test_a_name_that_may_soon_be_known_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, number: int, calls: int, kind: type[HostUnreachable]
) -> None:
    asked: list[str] = []

    def unknown(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror(number, "nobody knows")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("lib.postgres.connecting.time.sleep", lambda _: None)
    target = parse_url("POSTGRES_URL", "postgresql://me:canary-of-a-password@db.example/app", {})
    with pytest.raises(
        HostUnreachable, match=r"failed to resolve host 'db\.example'.*nobody knows"
    ) as caught:
        connect(target, "onward test", budget=Budget(20.0 if calls == 1 else 0.3))
    assert asked[:calls] == ["db.example"] * calls
    assert (len(asked) == 1) == (calls == 1)
    assert (type(caught.value), caught.value.retry) == (kind, calls > 1)


def test_a_server_that_has_no_connection_to_spare_is_tried_again(
    server: Server, database: Database
) -> None:
    with login(server, database, "CONNECTION LIMIT 0") as crowded:
        with pytest.raises(DatabaseUnavailable, match="too many connections") as caught:
            connect(target_of(crowded), "onward test", budget=Budget(0.3))
        assert (type(caught.value), caught.value.retry) == (DatabaseUnavailable, True)
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


@pytest.mark.slow
def test_only_the_url_can_allow_a_remote_host_without_tls(
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


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 2])
def test_a_missing_root_certificate_is_a_fault_of_the_configuration(
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


@pytest.mark.slow
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
