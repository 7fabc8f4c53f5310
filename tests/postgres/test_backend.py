"""A process of the server that is left without its client is ended, and no other."""

import pytest

from lib.postgres.backend import SEE_BACKEND, Backend, terminate
from lib.postgres.connection import Connection
from tests.conftest import Database, Server
from tests.kit import login, role, session_of


def seen(connection: Connection) -> Backend:
    ((pid, now),) = connection.query(SEE_BACKEND)
    return Backend(int(pid or 0), float(now or 0))


def is_there(server: Server, backend: Backend) -> bool:
    return bool(
        server.admin.execute("SELECT pid FROM pg_stat_activity WHERE pid = %s", [backend.pid])
    )


@pytest.mark.parametrize("acts_as_another", [False, True])
def test_a_login_ends_its_own(server: Server, database: Database, acts_as_another: bool) -> None:
    with login(server, database) as there:
        if acts_as_another:
            server.admin.execute(f"GRANT pg_monitor TO {role(there)}")
            server.admin.execute(f"ALTER ROLE {role(there)} SET role = pg_monitor")
        with session_of(there) as lost, session_of(there) as connection:
            backend = seen(lost)
            terminate(connection, backend)
            assert not is_there(server, backend)
            assert connection.query("SELECT current_user::text")[0][0] == (
                "pg_monitor" if acts_as_another else role(there).strip('"')
            )


def test_a_later_process_with_the_same_pid_is_left_alone(
    server: Server, database: Database
) -> None:
    with session_of(database) as lost, session_of(database) as connection:
        before = seen(connection)
        with session_of(database) as later:
            other = seen(later)
            terminate(connection, before._replace(pid=other.pid))
            assert is_there(server, other)
        assert is_there(server, seen(lost))


def test_another_roles_is_left_alone(server: Server, database: Database) -> None:
    with session_of(database) as owner, login(server, database) as there:
        backend = seen(owner)
        with session_of(there) as connection:
            terminate(connection, backend)
            assert connection.query("SELECT 1") == [("1",)]
        assert is_there(server, backend)
        owner.close()
