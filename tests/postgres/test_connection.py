"""What is sent to a server and what comes back; and that no password is in any of it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lib.errors import (
    DatabaseUnavailable,
    DatabaseUnsuitable,
    LockBusy,
    MigrationFailed,
    OnwardError,
    TableBusy,
)
from lib.postgres.connecting import connect
from lib.quoting import identifier, literal
from tests.conftest import ROOT, Cli, Database, Server
from tests.kit import (
    Events,
    Write,
    changed,
    history,
    nothing_is_left_running,
    run,
    run_fails,
    session_of,
    target_of,
    until,
)


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


@pytest.mark.parametrize("text", ["a;b", "a;0f", "'\";é\\;", ";"])
def test_values_and_names_are_read_back_and_have_no_semicolon(
    database: Database, text: str
) -> None:
    query = f"SELECT {literal(text)} AS {identifier(text)}"
    assert ";" not in query
    with session_of(database) as session:
        assert session.query(f"SELECT row_to_json(r) FROM ({query}) r") == [
            (json.dumps({text: text}, ensure_ascii=False, separators=(",", ":")),)
        ]


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
    raised = (
        f"RAISE EXCEPTION USING MESSAGE = {words}, DETAIL = {words},"
        f" HINT = {words}, CONSTRAINT = 'c'"
    )
    with session_of(database) as session:
        error = session.send(f"DO $$ BEGIN {raised}; END $$").failure
    for text in (error.message, error.detail, error.hint):
        assert re.fullmatch(r"é{3500}… \(2,000,000 bytes in all\)", text or "")
    assert error.constraint == "c"


@pytest.mark.slow
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
    raised = (
        f"RAISE NOTICE '%', '{database.url}'; RAISE NOTICE '%', {said}; "
        f"RAISE EXCEPTION '%', '{secret}'"
    )
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
        with run_fails(MigrationFailed) as whole:
            run(database, directory)
        migrations({"001-whole.sql": f"-- migrate: no-transaction\n{transactional}"})
        with run_fails(MigrationFailed) as pieces:
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
        with run_fails(MigrationFailed) as failed:
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


def test_a_statement_says_the_same_whatever_encoding_was_set_before_it(
    database: Database, migrations: Write
) -> None:
    """The invalid index must be found by its name, too, to be built again."""
    database.execute('CREATE TABLE t (a text); CREATE INDEX "é" ON t (a)')
    database.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = '\"é\"'::regclass")
    sql = (
        "-- migrate: no-transaction\nSET client_encoding = 'LATIN1';\n"
        'CREATE INDEX CONCURRENTLY "é" ON t (a);\n'
    )
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


@pytest.mark.slow
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


def test_a_statement_that_is_parsed_is_described_and_not_run(database: Database) -> None:
    database.execute('CREATE TABLE one (id int, "größe" varchar(20))')
    with session_of(database) as session:
        reply = session.parse("INSERT INTO one VALUES ($1, $2) RETURNING *, 'x' AS \"a b\"")
        assert reply.columns == (("id", 23, -1), ("größe", 1043, 24), ("a b", 25, -1))
        assert session.parse("DELETE FROM one WHERE id = $1").columns == ()
        wrong = session.parse("SELECT größe, 1 FROM one; DROP TABLE one").failure
        assert wrong.sqlstate == "42601"
        assert session.send("SELECT 1").rows == [("1",)]
        session.close()
        assert session.parse("SELECT 1").lost
    assert database.execute("SELECT * FROM one") == []
