"""The takeover of another tool's history through a pooler in transaction mode."""

from pathlib import Path

import pytest

from lib.imported import Imported, ImportedFile, imported_text
from tests.conftest import Database, Server
from tests.kit import TWO, Write, holding, nothing_is_left_running, run, tables
from tests.platform.pooler import Pooler

THEIRS = """CREATE TABLE schema_migrations (version varchar(255) PRIMARY KEY);
    INSERT INTO schema_migrations VALUES ('1'); CREATE TABLE one (id int)"""


@pytest.fixture
def imported(migrations: Write) -> Path:
    """Two files, imported from dbmate."""
    files = (ImportedFile("1_one.sql", "1", "001-one"), ImportedFile("2_two.sql", "2", "002-two"))
    document = Imported("dbmate", "schema_migrations", "onward", files)
    return migrations({**TWO, "imported.json": imported_text(document)})


def recorded(database: Database) -> list[tuple[str, str]]:
    return database.execute("SELECT version, applied_by FROM onward.schema_migrations ORDER BY id")


def test_a_history_is_taken_over_through_a_pooler(
    kind: type[Pooler], server: Server, database: Database, imported: Path
) -> None:
    database.execute(THEIRS)
    with kind(server.url, pool=1) as pooler:
        there = Database(database.name, pooler.url(database.url))
        assert run(there, imported).applied == ["002-two"]
        assert run(there, imported).applied == []
        path = there.execute(
            "SELECT current_setting('search_path'), current_setting('row_security')"
        )
        assert path == [('"$user", public', "on")]
    nothing_is_left_running(server, database)
    assert recorded(database) == [("001-one", "import"), ("002-two", "cli")]
    assert tables(database) == ["one", "two"]


def test_a_tool_that_records_meanwhile_is_waited_for_through_a_pooler(
    kind: type[Pooler], server: Server, database: Database, imported: Path
) -> None:
    database.execute(THEIRS)
    with kind(server.url, pool=1) as pooler:
        there = Database(database.name, pooler.url(database.url))
        with holding(database, "INSERT INTO schema_migrations VALUES ('2')") as tool:
            with pytest.raises(Exception, match=r"public\.schema_migrations is locked"):
                run(there, imported, MIGRATION_LOCK_TIMEOUT="100ms", MIGRATION_RETRY="0")
            tool.commit()
        assert run(there, imported).applied == []
    assert recorded(database) == [("001-one", "import"), ("002-two", "import")]
