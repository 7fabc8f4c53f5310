"""How often a run waits for the server: over a network, that is what it costs."""

from pathlib import Path

import psycopg
import pytest

from tests.conftest import Cli, Database, Server
from tests.kit import HEAD, Write, history, run
from tests.proxy import Hold, Message, Proxy


def files(count: int) -> dict[str, str]:
    return {
        f"{number:03}-t{number}.sql": f"CREATE TABLE t{number} (); SELECT 1"
        for number in range(count)
    }


def cost(
    proxy: Proxy, database: Database, directory: Path, drift: str = "off", ahead: str = "0"
) -> int:
    """The round trips of one run."""
    before = proxy.round_trips
    through = Database(database.name, proxy.url(database.url))
    run(through, directory, MIGRATION_DRIFT=drift, MIGRATION_AHEAD=ahead)
    return proxy.round_trips - before


def test_the_proxy_counts_what_it_passes_on(proxy: Proxy, database: Database) -> None:
    with psycopg.connect(
        proxy.url(database.url), autocommit=True, prepare_threshold=None
    ) as connection:
        assert proxy.round_trips == 0
        for _ in range(7):
            connection.execute("SELECT 1")
        with connection.transaction():
            connection.execute("SELECT generate_series(1, 1000)")
    assert (proxy.round_trips, len(proxy.connections)) == (10, 1)


@pytest.mark.parametrize("made", [False, True], ids=["empty database", "with a history"])
def test_a_file_costs_two_round_trips(
    server: Server, proxy: Proxy, migrations: Write, made: bool
) -> None:
    databases = {count: server.create() for count in (1, 2, 3, 8, 9)}
    if made:
        for database in databases.values():
            run(database, migrations(files(1)))
    costs = {}
    for count, database in databases.items():
        costs[count] = cost(proxy, database, migrations(files(count + made)))
        assert len(history(database)) == count + made
        server.drop(database)
    # The history is read, the table made where there is none (two), the first transaction opened.
    assert costs == {count: 2 * count + (2 if made else 4) for count in costs}
    assert len(proxy.connections) == len(costs)


def test_files_sent_ahead_cost_as_much_as_one(
    server: Server, proxy: Proxy, database: Database, migrations: Write
) -> None:
    run(database, migrations(files(1)))
    costs = [cost(proxy, database, migrations(files(count)), ahead="1") for count in (5, 15, 40)]
    # The history is read, the rows to come are foreseen, the files are sent.
    assert costs == [3, 3, 3]
    assert len(history(database)) == 40


def test_all_of_them_are_sent_before_the_server_has_answered_for_the_first(
    proxy: Proxy, database: Database, migrations: Write
) -> None:
    run(database, migrations(files(1)))
    first = Hold()

    async def let_go(message: Message) -> None:
        first.release()
        await message.pass_on()

    proxy.when("CREATE TABLE", first, answer=True)
    proxy.when("CREATE TABLE t39", let_go)
    assert cost(proxy, database, migrations(files(40)), ahead="1") == 3
    assert first.reached.is_set()
    assert len(history(database)) == 40


def test_nothing_pending_costs_one_query(
    proxy: Proxy, database: Database, migrations: Write
) -> None:
    directory = migrations(files(5))
    run(database, directory)
    assert cost(proxy, database, directory, drift="fail") == 1
    assert len(proxy.connections) == 1


def test_drift_costs_a_read_before_and_a_read_and_a_write_after(
    proxy: Proxy, database: Database, migrations: Write
) -> None:
    opening, reading, storing = 1, 1, 1
    stored = opening + reading + storing
    assert cost(proxy, database, migrations(files(1)), drift="warn") == 2 + 4 + stored
    assert cost(proxy, database, migrations(files(4)), drift="warn") == 6 + 2 + reading + stored
    assert cost(proxy, database, migrations(files(5))) == 2 + 2, "nothing where it is off"
    assert len(history(database)) == 5


def test_to_say_that_a_no_transaction_file_begins_costs_nothing(
    proxy: Proxy, database: Database, migrations: Write
) -> None:
    costs = []
    for number, stored in enumerate(("off", "off", "warn", "off"), start=1):
        name = f"{number:03}-index.sql"
        directory = migrations({name: f"{HEAD}CREATE TABLE t{number} ();"})
        costs.append(cost(proxy, database, directory, drift=stored))
        assert len(history(database)) == number
    assert costs[3] == costs[1] == costs[2] - 3


def test_only_a_file_that_creates_an_extension_costs_one_more(
    proxy: Proxy, database: Database, migrations: Write
) -> None:
    run(database, migrations(files(1)))
    sql = "CREATE EXTENSION IF NOT EXISTS plpgsql;"
    directory = migrations({**files(1), "001-extension.sql": sql})
    assert cost(proxy, database, directory) == 2 + 2 + 1
    assert cost(proxy, database, directory) == 1
    assert history(database) == ["000-t0", "001-extension"]


@pytest.mark.slow
def test_status_costs_one_query(
    proxy: Proxy, database: Database, cli: Cli, migrations: Write
) -> None:
    migrations(files(5))
    for pending in (True, False):
        before = proxy.round_trips
        assert cli("status", "--check", url=proxy.url(database.url)).code == (8 if pending else 0)
        assert proxy.round_trips - before == 1
        run(database, cli.directory / "migrations")
    assert len(proxy.connections) == 2
