"""Scratch databases: they are there for a block, and gone after it, however it ends."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from lib.errors import DatabaseUnsuitable
from lib.postgres.connecting import connect
from lib.postgres.scratch import scratch_database
from tests.conftest import Database, Server
from tests.kit import changed, holding, login, target_of

Listed = Callable[[], list[tuple[Any, ...]]]


def test_it_is_an_empty_database_that_is_gone_afterwards(
    server: Server, scratch_databases: Listed
) -> None:
    with scratch_database(target_of(server.admin)) as url:
        with connect(url, "test") as connection:
            assert connection.query("SELECT current_database()::text") == [(url.database,)]
            assert connection.query("SHOW server_encoding") == [("UTF8",)]
        assert scratch_databases() == [(url.database,)]
    assert scratch_databases() == []


def test_it_is_gone_after_an_error_though_sessions_hold_on(
    server: Server, scratch_databases: Listed
) -> None:
    with ExitStack() as other, pytest.raises(ZeroDivisionError):  # noqa: SIM117
        with scratch_database(target_of(server.admin)) as url:
            other.enter_context(connect(url, "test"))
            raise ZeroDivisionError
    assert scratch_databases() == []


def test_a_role_that_may_not_create_one_is_told_so(server: Server, database: Database) -> None:
    with (
        login(server, database) as plain,
        pytest.raises(DatabaseUnsuitable) as caught,
        scratch_database(target_of(plain)),
    ):
        pass
    assert caught.value.exit_code == 5
    assert "cannot create a scratch database: permission denied" in caught.value.message
    assert caught.value.next_step == "Use the URL of a role with CREATEDB."


def test_the_database_of_the_url_is_not_touched(server: Server, database: Database) -> None:
    database.execute("CREATE TABLE mine ()")
    with (
        holding(database, "LOCK mine"),  # a lock that any change would wait for
        scratch_database(target_of(changed(database))) as url,
    ):
        assert url.database != database.name
    assert database.execute("SELECT count(*) FROM mine") == [(0,)]
