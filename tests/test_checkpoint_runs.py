"""What a run does with a checkpoint, in every state of a database."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lib import runner
from lib.adopt import baseline
from lib.errors import HistoryConflict, MigrationFailed
from tests.conftest import Cli, Database, Here, Server
from tests.kit import (
    Events,
    Write,
    checkpoint_of,
    config_of,
    environment,
    fill,
    history,
    nothing_is_left_running,
    run,
    run_fails,
    tables,
    until,
)
from tests.proxy import Action, Proxy, cut_after, cut_before
from tests.stage import recording

pytestmark = pytest.mark.slow

OLD = {
    "001-one.sql": "CREATE TABLE one (id int);\n",
    "002-two.sql": "CREATE TABLE two (id int);\n",
    "003-index.sql": "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY one_id ON one (id);\n",
}
NEW = {"004-all.sql": checkpoint_of(OLD, "CREATE TABLE one (); CREATE TABLE two ();\n")}
LATER = {"005-later.sql": "CREATE TABLE later ();\n"}
ALL = ["001-one", "002-two", "003-index", "004-all"]


def rows(database: Database) -> list[tuple[object, ...]]:
    return database.execute(
        "SELECT version, name, checksum IS NULL, execution_time_ms IS NULL, environment, identity, "
        "git_commit, applied_by FROM schema_migrations ORDER BY id"
    )


def ours(directory: Path, files: Mapping[str, str]) -> Path:
    """The directory with these files and no others."""
    for path in directory.glob("*.sql"):
        path.unlink()
    return fill(directory, files)


@pytest.mark.parametrize("files", [{**OLD, **NEW, **LATER}, {**NEW, **LATER}], ids=["all", "new"])
def test_a_new_database_gets_the_checkpoint_with_the_rows_it_stands_for(
    database: Database, tmp_path: Path, files: Mapping[str, str]
) -> None:
    events = run(database, fill(tmp_path, files), VERCEL_GIT_COMMIT_SHA="abc")
    assert events.applied == ["004-all", "005-later"]
    assert history(database) == [*ALL, "005-later"]
    assert tables(database) == ["later", "one", "two"]
    found = rows(database)
    assert [name for _, name, *_ in found] == ["One", "Two", "Index", "All", "Later"]
    assert [unknown for _, _, _, unknown, *_ in found] == [True, True, True, False, False]
    assert len({row[4:] for row in found}) == 1
    assert found[0][4] == "development" and found[0][6] == "abc"
    assert not any(no_checksum for _, _, no_checksum, *_ in found)
    # Every file is known to be applied as it is.
    assert run(database, fill(tmp_path, OLD)).applied == []
    assert len(rows(database)) == 5


def test_a_database_that_has_all_of_it_only_records_it(database: Database, tmp_path: Path) -> None:
    run(database, fill(tmp_path, OLD))
    events = run(database, fill(tmp_path, NEW | LATER))
    assert events.applied == ["004-all", "005-later"]
    assert history(database) == [*ALL, "005-later"]
    assert database.execute("SELECT id FROM one") == []  # the column is still there
    assert rows(database)[3][3] is True
    assert run(database, ours(tmp_path, NEW | LATER)).applied == []


def test_a_database_that_has_a_part_applies_the_rest_and_records_it(
    database: Database, tmp_path: Path
) -> None:
    run(database, fill(tmp_path, {"001-one.sql": OLD["001-one.sql"]}))
    events = run(database, fill(tmp_path, OLD | NEW))
    assert events.applied == ALL[1:]
    assert history(database) == ALL
    assert database.execute("SELECT to_regclass('one_id')::text") == [("one_id",)]


def test_a_database_that_has_a_part_whose_rest_is_gone_is_in_conflict(
    database: Database, tmp_path: Path
) -> None:
    run(database, fill(tmp_path, {"001-one.sql": OLD["001-one.sql"]}))
    with run_fails(HistoryConflict) as ended:
        run(database, ours(tmp_path, NEW))
    assert "whose files are gone: 002-two, 003-index" in ended.value.message
    assert ended.value.exit_code == 3
    assert (history(database), tables(database)) == (["001-one"], ["one"])
    # What the message says: restore, run, delete again.
    run(database, fill(tmp_path, OLD))
    assert run(database, ours(tmp_path, NEW)).applied == []
    assert history(database) == ALL


def test_a_checkpoint_that_fails_leaves_nothing(database: Database, tmp_path: Path) -> None:
    broken = {"004-all.sql": checkpoint_of(OLD, "CREATE TABLE one (); CREATE TABLE one ();\n")}
    with run_fails(MigrationFailed):
        run(database, fill(tmp_path, broken))
    assert (history(database), tables(database)) == ([], [])
    run(database, fill(tmp_path, NEW))
    assert history(database) == ALL


def test_a_row_that_is_changed_on_its_way_fails_the_whole_checkpoint(
    database: Database, tmp_path: Path
) -> None:
    database.execute(
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.version = '002-two' THEN RETURN NULL; END IF; RETURN NEW; END $$"
    )
    spoiled = (
        "CREATE TABLE one (); CREATE TRIGGER spoil BEFORE INSERT ON schema_migrations "
        "FOR EACH ROW EXECUTE FUNCTION spoil();"
    )
    with run_fails(MigrationFailed):
        run(database, fill(tmp_path, {"004-all.sql": checkpoint_of(OLD, spoiled)}))
    assert (history(database), tables(database)) == ([], [])


def test_of_two_checkpoints_a_new_database_gets_the_newest(
    database: Database, tmp_path: Path
) -> None:
    newest = {"006-all.sql": checkpoint_of(OLD | NEW | LATER, "CREATE TABLE newest ();\n")}
    assert run(database, fill(tmp_path, OLD | NEW | LATER | newest)).applied == ["006-all"]
    assert history(database) == [*ALL, "005-later", "006-all"]
    assert tables(database) == ["newest"]


def test_a_baseline_records_what_a_checkpoint_stands_for(
    database: Database, tmp_path: Path
) -> None:
    database.execute("CREATE TABLE one (id int); CREATE TABLE two ()")
    recorded = baseline(config_of(database, fill(tmp_path, NEW | LATER)), 4)
    assert [one.version for one in recorded] == ALL
    assert history(database) == ALL
    assert run(database, tmp_path).applied == ["005-later"]
    assert tables(database) == ["later", "one", "two"]


def test_a_baseline_below_a_checkpoint_records_files_alone(
    database: Database, tmp_path: Path
) -> None:
    database.execute("CREATE TABLE one (id int)")
    baseline(config_of(database, fill(tmp_path, OLD | NEW)), 1)
    assert history(database) == ["001-one"]
    assert run(database, tmp_path).applied == ALL[1:]
    assert tables(database) == ["one", "two"]


def test_status_and_run_tell_what_became_of_it(
    here: Here, database: Database, migrations: Write
) -> None:
    migrations(OLD)
    assert here(url=database.url).code == 0
    migrations(NEW)
    assert "⏳ 004-all" in here("status", url=database.url).out
    result = here(url=database.url)
    assert "✅ Recorded: 004-all (its migrations are applied)" in result.out
    assert here("status", "--check", url=database.url).code == 0
    assert here("validate", url=database.url).code == 0
    assert history(database) == ALL


def test_the_document_of_a_run_says_that_nothing_was_executed(
    cli: Cli, database: Database, migrations: Write
) -> None:
    migrations(OLD)
    cli(url=database.url)
    migrations(NEW)
    document = json.loads(cli("--json", url=database.url).out)
    assert document["applied"] == [{"version": "004-all", "name": "All", "executionTimeMs": None}]
    assert history(database) == ALL


def test_a_rehearsal_and_a_plan_run_it_only_where_a_run_would(
    here: Here, database: Database, migrations: Write
) -> None:
    migrations(OLD | NEW)
    planned = here("plan", url=database.url)
    assert planned.code == 0 and "004-all" in planned.out and "001-one" not in planned.out
    assert tables(database) == []
    directory = migrations({})
    (directory / "004-all.sql").unlink()
    here(url=database.url)
    migrations(NEW)
    for command in ("plan", "rehearse"):
        result = here(command, url=database.url)
        assert result.code == 0, result.err
        assert (
            "004-all                    only recorded: what it stands for is applied" in result.out
        )
    assert history(database) == ALL
    assert tables(database) == ["one", "two"]


@pytest.mark.parametrize("action", [cut_before, cut_after], ids=["before", "after"])
@pytest.mark.parametrize("before", [{}, OLD], ids=["applied", "recorded"])
def test_a_connection_that_is_cut_at_its_commit_is_no_reason_to_guess(
    database: Database, proxy: Proxy, tmp_path: Path, action: Action, before: Mapping[str, str]
) -> None:
    if before:
        run(database, fill(tmp_path, before))
    cut = proxy.when(recording("004-all"), action)
    through = Database(database.name, proxy.url(database.url))
    directory = ours(tmp_path, NEW | LATER)
    if action is cut_after:
        assert run(through, directory).applied == ["004-all", "005-later"]
    else:
        with run_fails(MigrationFailed) as ended:
            run(through, directory)
        assert (ended.applied, ended.remaining) == ([], ["004-all", "005-later"])
        assert history(database) == (ALL[:3] if before else [])
        assert run(database, directory).applied == ["004-all", "005-later"]
    assert cut.hits == 1
    assert history(database) == [*ALL, "005-later"]
    assert tables(database) == ["later", "one", "two"]


def test_a_run_that_is_killed_within_it_leaves_nothing(
    cli: Cli, database: Database, migrations: Write, server: Server
) -> None:
    directory = migrations(
        {"004-all.sql": checkpoint_of(OLD, "CREATE TABLE one (); SELECT pg_sleep(1000);\n")}
    )
    process = subprocess.Popen(
        [sys.executable, cli.script], env=environment(cli, database.url), cwd=cli.directory
    )
    sleeping = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event = 'PgSleep'"
    )
    ((pid,),) = until(lambda: database.execute(sleeping))
    process.kill()
    process.wait()
    database.execute("SELECT pg_terminate_backend(%s)", [pid])
    nothing_is_left_running(server, database)
    assert (history(database), tables(database)) == ([], [])
    run(database, fill(directory, NEW))
    assert history(database) == ALL


def test_a_file_below_it_that_it_does_not_stand_for_comes_after_it(
    database: Database, tmp_path: Path
) -> None:
    renumbered = {"006-all.sql": NEW["004-all.sql"]}
    later = {"005-later.sql": "ALTER TABLE one ADD later int;\n"}
    broken = {"005-later.sql": "ALTER TABLE nothing ADD later int;\n"}
    with run_fails(MigrationFailed) as ended:
        run(database, fill(tmp_path, OLD | renumbered | broken))
    assert (ended.applied, ended.remaining) == (["006-all"], ["005-later"])
    assert run(database, fill(tmp_path, later)).applied == ["005-later"]
    assert history(database) == [*ALL[:3], "006-all", "005-later"]


def test_without_history_one_transaction_applies_and_records_it(
    database: Database, tmp_path: Path
) -> None:
    events = Events()
    config = config_of(database, fill(tmp_path, NEW))
    runner.run(config, events.all.append)
    marks = database.execute("SELECT DISTINCT xmin::text FROM schema_migrations WHERE id < 4")
    assert len(marks) == 1


def test_offline_a_file_that_it_was_not_made_from_is_named(here: Here, migrations: Write) -> None:
    migrations(OLD | NEW)
    assert here("validate").code == 0
    migrations({"001-one.sql": "CREATE TABLE one (id bigint);\n"})
    result = here("validate")
    assert result.code == 2
    assert "001-one.sql: 004-all was made from another text of it" in result.err
