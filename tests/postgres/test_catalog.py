"""The observer sees of each statement what a second session saw of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lib import runner
from lib.observation import FileObservation, Mode, Parsed, Query
from lib.postgres.catalog import Observer
from tests.conftest import Database, Server
from tests.kit import HEAD, config_of, file, fill, history, session_of
from tests.truth import TRUTH, clone_of, observed, rich_database

SHORT = dict(zip(Mode, ("AS", "RS", "RX", "SUX", "S", "SRX", "X", "AX"), strict=True))


@pytest.fixture(scope="module")
def rich(server: Server) -> Iterator[Database]:
    with rich_database(server, "rich") as database:
        yield database


@pytest.fixture
def clone(server: Server, rich: Database) -> Iterator[Database]:
    with clone_of(server, rich) as database:
        yield database


def seen(found: FileObservation) -> dict[str, Any]:
    """What was seen of one statement, as the truth table has it."""
    before, after = found.start, found.end
    locks: dict[str, dict[str, str]] = {"locks": {}, "index_locks": {}}
    for oid in after.locks.keys() & before.relations.keys():
        relation, mode = before.relations[oid], found.mode(after, oid)
        if relation.kind not in "iI":
            locks["locks"][relation.name] = SHORT[mode]
        elif mode > Mode.ROW_EXCLUSIVE:
            locks["index_locks"][relation.name] = SHORT[mode]
    both = [
        (one, after.relations[oid])
        for oid, one in before.relations.items()
        if oid in after.relations
    ]
    return locks | {
        "rewrites": sorted(
            was.name for was, now in both if was.kind in "rm" and was.node != now.node
        ),
        "scans": {now.name: now.scans - was.scans for was, now in both if now.scans > was.scans},
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUTH)
def test_a_statement_is_seen_as_a_second_session_sees_it(
    server: Server, clone: Database, name: str
) -> None:
    major = int(server.admin.execute("SHOW server_version_num")[0][0]) // 10_000
    truth = TRUTH[name]
    if major < truth.get("since", 14):
        pytest.skip("this server does not have it")
    for sql in truth.get("setup", ()):
        clone.execute(sql)
    expected = truth | (truth.get("before_18", {}) if major < 18 else {})
    found = seen(observed(clone, truth["sql"], truth.get("session", "")))
    assert found == {
        "locks": expected.get("locks", {}),
        "index_locks": expected.get("index_locks", {}),
        "rewrites": expected.get("rewrites", []),
        "scans": expected.get("scans", {}),
    }


def test_a_timeout_that_a_file_sets_does_not_end_what_observes_it(clone: Database) -> None:
    lock = "LOCK TABLE ' || string_agg(oid::regclass::text, ', ') FROM pg_class"
    (whole,) = clone.execute(f"SELECT '{lock} WHERE relkind = 'r' AND oid > 16384")
    found = observed(clone, f"{whole[0]}; SET LOCAL statement_timeout = '5ms'")
    assert len(found.steps) == 2
    assert found.end.relations == found.start.relations


def test_a_file_that_is_tried_again_is_compared_with_what_was_before(database: Database) -> None:
    database.execute("CREATE TABLE orders (id int)")
    query = Query("SELECT id FROM orders", 1)
    observer, drop = Observer([query]), file("001-drop", "DROP TABLE orders;")
    with session_of(database) as connection:
        for _ in range(2):
            connection.send("BEGIN")
            assert not observer.send(drop, connection).failed
            connection.send("ROLLBACK")
    (only,) = observer.files
    assert only.queries_before == {query: Parsed("", (("id", 23, -1),))}
    assert only.queries_after == {
        query: Parsed('relation "orders" does not exist (SQLSTATE 42P01)')
    }
    assert database.execute("SELECT id FROM orders") == []


def test_a_file_may_set_the_isolation_of_its_own_transaction(
    database: Database, tmp_path: Path
) -> None:
    database.execute("CREATE TABLE orders (level text)")
    sql = """BEGIN; LOCK TABLE orders;
    SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET LOCAL work_mem = '8MB';
    INSERT INTO orders VALUES (current_setting('transaction_isolation')); COMMIT;"""
    observer = Observer()
    config = config_of(database, fill(tmp_path, {"001-fill.sql": f"{HEAD}{sql}"}))
    runner.run(config, lambda _: None, observer=observer)
    held = [modes for step in observer.files[0].steps for modes in step.after.locks.values()]
    assert any(Mode.ACCESS_EXCLUSIVE in modes for modes in held)
    assert database.execute("TABLE orders") == [("repeatable read",)]
    assert len(history(database)) == 1
