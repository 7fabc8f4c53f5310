"""What an attempt to connect came to, by what libpq says of it; what it says of real servers:
test_connecting.py.
"""

import pytest

from lib.postgres.connect_failure import Attempt, Fate, advise, decide, read, unresolved

ADDRESS = 'connection to server at "db.example" (10.0.0.9), port 5432 failed: '


def answer(sqlstate: str, words: str, severity: str = "FATAL") -> Attempt:
    """A server's answer, as libpq tells it."""
    (attempt,) = read(
        f"{ADDRESS}{severity}:  {sqlstate}: {words}\nLOCATION:  auth_failed, auth.c:321\n"
    )
    return attempt


def client(words: str) -> Attempt:
    """What libpq says itself."""
    (attempt,) = read(f"{ADDRESS}{words}\n")
    return attempt


@pytest.mark.parametrize(
    ("sqlstate", "words", "severity"),
    [
        ("57P03", "das Datenbanksystem startet", "FATAL"),
        ("57P01", "завершение подключения по команде администратора", "ВАЖНО"),
        ("53300", "üzgünüm, istemci sayısı şu anda çok fazla", "ÖLÜMCÜL (FATAL)"),
        ("57014", "canceling authentication due to timeout", "FATAL"),
        ("08006", "failed to get remote server connection", "FATAL"),
        (
            "08P01",
            "server login has been failing, cached error: connect failed (server_login_retry)",
            "FATAL",
        ),
        ("08P01", "pgbouncer cannot connect to server", "ERROR"),
        ("08P01", "no more connections allowed (max_client_conn)", "FATAL"),
        ("08P01", "the database system is starting up", "FATAL"),
        (
            "XX000",
            "MaxClientsInSessionMode: max clients reached - in Session mode max clients are "
            "limited",
            "FATAL",
        ),
        ("XX000", "(EMAXCONN) max client connections reached, limit: 200", "FATAL"),
        (
            "XX000",
            "(ECHECKOUTTIMEOUT) unable to check out connection from the pool after 15000ms in "
            "Session",
            "FATAL",
        ),
        ("XX000", "Couldn't connect to compute node", "ERROR"),
        ("XX000", "Control plane request failed", "ERROR"),
        (
            "XX000",
            "Control plane request failed: endpoint is temporarily unavailable. Check your quotas",
            "ERROR",
        ),
        ("58000", "could not get connection from the pool - AllServersDown", "FATAL"),
        ("08000", "Timed-out waiting to acquire database connection.", "FATAL"),
    ],
)
def test_an_answer_that_is_known_to_pass_is_worth_another_try(
    sqlstate: str, words: str, severity: str
) -> None:
    attempt = answer(sqlstate, words, severity)
    assert (attempt.fate, attempt.sqlstate, attempt.refuses_credentials) == (
        Fate.PASSES,
        sqlstate,
        False,
    )


@pytest.mark.parametrize(
    ("sqlstate", "words", "refuses"),
    [
        ("28P01", "Passwort-Authentifizierung für Benutzer »app« fehlgeschlagen", True),
        ("28P01", 'ユーザー"app"のパスワード認証に失敗しました', True),
        ("28000", 'role "app" is not permitted to log in', True),
        ("3D000", "Datenbank »app« existiert nicht", False),
        ("55000", 'database "app" is not currently accepting connections', False),
        ("53400", "configuration limit exceeded", False),
        ("42704", 'unrecognized configuration parameter "foo"', False),
        ("57P04", "database was dropped", False),
        ("08004", "connection rejected", False),
        ("P0001", "nobody logs in today", False),
        ("08P01", "no such database: app", False),
        ("08P01", "unsupported startup parameter: search_path", False),
        ("08P01", "SASL authentication failed", True),
        ("08P01", 'password authentication failed for user "app"', True),
        ("XX000", "Tenant or user not found", False),
        (
            "XX000",
            "The requested endpoint could not be found, or you don't have access to it.",
            False,
        ),
        ("XX000", "Control plane request failed: endpoint cannot be found", False),
        ("XX000", "password authentication failed for user 'app'", True),
        ("XX000", "Your account or project has exceeded the compute time quota.", False),
        ("08000", "The password that was provided for the role app is wrong.", True),
    ],
)
def test_any_other_answer_is_final_and_a_refused_password_is_known(
    sqlstate: str, words: str, refuses: bool
) -> None:
    attempt = answer(sqlstate, words)
    assert (attempt.fate, attempt.refuses_credentials) == (Fate.FINAL, refuses)
    assert "Check that the server runs" not in advise(attempt)
    assert attempt.text == f"{ADDRESS}FATAL: {words} (SQLSTATE {sqlstate})"


@pytest.mark.parametrize(
    "words",
    [
        "Connection refused\n\tIs the server running on that host and accepting TCP/IP "
        "connections?",
        "server closed the connection unexpectedly\n\tThis probably means the server terminated "
        "abnormally",
        "could not receive data from server: Connection reset by peer",
        "SSL SYSCALL error: EOF detected",
        "SSL error: unexpected eof while reading",
        "timeout expired",
        "Network is unreachable",
        "session is read-only",
        "server is in hot standby mode",
        "could not fork new process for connection: Resource temporarily unavailable",
    ],
)
def test_silence_is_worth_another_try(words: str) -> None:
    assert (client(words).fate, "Check that the server runs" in advise(client(words))) == (
        Fate.SILENCE,
        True,
    )


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("server does not support SSL, but SSL was required", "sslmode=disable"),
        ("SSL error: certificate verify failed", "sslrootcert"),
        ('server certificate for "a" does not match host name "b"', "sslrootcert"),
        ("fe_sendauth: no password supplied", "Check user, password and database"),
        ("channel binding required, but SSL not in use", "Correct what"),
        (
            'authentication method requirement "none" failed: server requested SASL authentication',
            "Correct what",
        ),
        ("received invalid response to SSL negotiation: H", "Correct what"),
    ],
)
def test_what_libpq_makes_of_a_server_that_it_has_heard_is_final(words: str, advice: str) -> None:
    assert (client(words).fate, advice in advise(client(words))) == (Fate.FINAL, True)


@pytest.mark.parametrize(
    "message",
    [
        'invalid sslmode value: "no-verify"\n',
        'weak sslmode "require" may not be used with sslrootcert=system (use "verify-full")\n',
        "could not match 1 host names to 2 hostaddr values\n",
        f'{ADDRESS}invalid integer value "yes" for connection option "keepalives"\n',
        (
            f'{ADDRESS}root certificate file "/nowhere.pem" does not exist\n'
            "Either provide the file, or change sslmode\n"
        ),
        f'{ADDRESS}could not open certificate file "/nowhere.pem": No such file or directory\n',
    ],
)
def test_what_libpq_cannot_use_is_a_setting(message: str) -> None:
    (attempt,) = read(message)
    assert (attempt.fate, attempt.text) == (Fate.SETTING, " ".join(message.split()))
    assert "in the URL" in advise(attempt)


@pytest.mark.parametrize(
    "address",
    [
        'connection to server on socket "/run/password/certificate/.s.PGSQL.5432" failed: ',
        'connection to server on socket "/run/FATAL:  28P01: x/.s.PGSQL.5432" failed: ',
        'connection to server at "password-authentication-failed.example" (::1), port 1 failed: ',
        'connection to server at "does-not-support-SSL", port 1 failed: ',
    ],
)
def test_the_name_of_a_host_or_a_directory_decides_nothing(address: str) -> None:
    (attempt,) = read(f"{address}Connection refused\n")
    assert (attempt.fate, attempt.refuses_credentials, attempt.finds_nobody) == (
        Fate.SILENCE,
        False,
        True,
    )
    assert "Check that the server runs" in advise(attempt)


def test_the_name_of_a_role_or_a_database_decides_nothing() -> None:
    assert (
        answer("3D000", 'database "the database system is starting up" does not exist').fate
        is Fate.FINAL
    )
    assert answer("08P01", 'no such database: "query_wait_timeout"').fate is Fate.FINAL
    assert not answer("08P01", 'database "authentication failed" is disabled').refuses_credentials


def test_both_attempts_of_a_connection_are_read_with_tls_and_without() -> None:
    first, second = read(
        f"{ADDRESS}FATAL:  28000: no encryption for you\nHINT:  Ask for less.\nLOCATION:  a, "
        "b.c:1\n"
        f"{ADDRESS}FATAL:  57P03: not yet\nLOCATION:  a, b.c:1\n"
    )
    assert (
        first.text == f"{ADDRESS}FATAL: no encryption for you HINT: Ask for less. (SQLSTATE 28000)"
    )
    assert (first.fate, second.fate, second.sqlstate) == (Fate.FINAL, Fate.PASSES, "57P03")


def test_an_answer_counts_more_than_silence_and_one_that_passes_most() -> None:
    passing, final, silence = (
        answer("57P03", "not yet"),
        answer("28P01", "no"),
        client("Connection refused"),
    )
    setting = read("invalid port number\n")[0]
    assert decide([silence, final, passing]) is passing
    assert decide([silence, final]) is final
    assert decide([silence, final, setting]) is setting
    assert decide([silence, silence]) is silence


@pytest.mark.parametrize(("passes", "fate"), [(True, Fate.SILENCE), (False, Fate.FINAL)])
def test_an_unknown_name_is_final_unless_it_may_soon_be_known(passes: bool, fate: Fate) -> None:
    attempt = unresolved("failed to resolve host 'x'\n", passes=passes)
    assert (attempt.fate, attempt.text, attempt.refuses_credentials) == (
        fate,
        "failed to resolve host 'x'",
        False,
    )
    assert ("Check the host in the URL." in advise(attempt)) == (not passes)
