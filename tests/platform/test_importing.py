"""The real dbmate and Onward on one database: the takeover in every state, and both in use."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT, Cli, Completed, Database, Server
from tests.kit import Write, tables
from tests.platform.cache import cached, said

DBMATE = "2.36.0"  # of npm, with the program for each platform
OWN = "000-create-migration-table"
FILES = {
    "20240101000000_create_people.sql": (
        "CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL);",
        "DROP TABLE people;",
    ),
    "20240102000000_count_people.sql": (
        "CREATE FUNCTION people_count() RETURNS bigint LANGUAGE plpgsql AS $$\n"
        "BEGIN\n    RETURN (SELECT count(*) FROM people);\nEND $$;",
        "DROP FUNCTION people_count();",
    ),
    "20240103000000_add_email.sql": (
        "ALTER TABLE people ADD email text;",
        "ALTER TABLE people DROP email;",
    ),
    "20240104000000_index_name.sql": (
        "CREATE INDEX CONCURRENTLY people_name ON people (name);",
        "DROP INDEX people_name;",
    ),
    "20240105000000_create_pets.sql": (
        "CREATE TABLE pets (owner int REFERENCES people, name text);",
        "DROP TABLE pets;",
    ),
    "20240106000000_fill_people.sql": (
        "INSERT INTO people VALUES (1, 'Ada');\nINSERT INTO pets VALUES (1, 'Rex');",
        "DELETE FROM pets;",
    ),
}
NAMES = list(FILES)
VERSIONS = [f"{number:03}-{name[15:-4].replace('_', '-')}" for number, name in enumerate(NAMES, 1)]
SEVENTH = "20240107000000_add_born.sql"
EIGHTH = "20240108000000_add_died.sql"


def install(place: Path) -> None:
    (place / "package.json").write_text(json.dumps({"dependencies": {"dbmate": DBMATE}}))
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    said("npm", "install", *options, cwd=place)


@pytest.fixture(scope="session")
def program() -> Path:
    if not shutil.which("npm"):
        pytest.skip("node and npm are needed for dbmate")
    return cached(f"dbmate-{DBMATE}", install) / "node_modules" / ".bin" / "dbmate"


class Project(NamedTuple):
    """A team's repository and its database, which dbmate migrates."""

    program: Path
    source: Path
    database: Database
    cli: Cli

    def write(self, *names: str, up: str = "") -> None:
        for name in names:
            sections = FILES.get(name, (up, "SELECT 1;"))
            mode = " transaction:false" if "CONCURRENTLY" in sections[0] else ""
            text = f"-- migrate:up{mode}\n{sections[0]}\n\n-- migrate:down\n{sections[1]}\n"
            (self.source / name).write_text(text)

    def dbmate(self, *command: str, database: Database | None = None) -> Completed:
        url = f"{(database or self.database).url}?sslmode=disable"
        options = ("--url", url, "--migrations-dir", str(self.source), "--no-dump-schema")
        run = subprocess.run(
            [self.program, *options, *command], capture_output=True, text=True, check=False
        )
        return Completed(run.returncode, run.stdout, run.stderr)

    def apply(self, *names: str) -> None:
        """Write these files, and let dbmate apply all that it finds pending."""
        self.write(*names)
        result = self.dbmate("up")
        assert result.code == 0, result.err

    def imports(self) -> None:
        result = self.cli("import", "auto", str(self.source))
        assert result.code == 0, result.err

    def run(self, *arguments: str, environment: str = "production") -> Completed:
        deploy = {"CI": "1", "VERCEL": "1", "VERCEL_ENV": environment}
        return self.cli(*arguments, url=self.database.url, env=deploy)

    @property
    def of_dbmate(self) -> list[str]:
        """The rows of dbmate's table."""
        rows = "SELECT version FROM public.schema_migrations ORDER BY version"
        return [version for (version,) in self.database.execute(rows)]

    @property
    def recorded(self) -> list[str]:
        """What Onward's history has, without its own file."""
        if not self.database.execute("SELECT to_regclass('onward.schema_migrations')")[0][0]:
            return []
        rows = self.database.execute("SELECT version FROM onward.schema_migrations ORDER BY id")
        return [version for (version,) in rows if version != OWN]

    def shape(self, database: Database | None = None) -> Sequence[tuple[object, ...]]:
        """Columns, indexes, functions and rows."""
        return (database or self.database).execute(
            "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull"
            " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            " WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0"
            " UNION ALL SELECT proname, prosrc, NULL, NULL FROM pg_proc"
            " WHERE pronamespace = 'public'::regnamespace"
            " UNION ALL SELECT p.name, t.name, NULL, NULL FROM people p, pets t ORDER BY 1, 2"
        )


@pytest.fixture
def project(
    program: Path, tmp_path: Path, migrations: Write, database: Database, cli: Cli
) -> Project:
    source = tmp_path / "db" / "migrations"
    source.mkdir(parents=True)
    migrations({f"{OWN}.sql": (ROOT / "migrations" / f"{OWN}.sql").read_bytes()})
    return Project(program, source, database, cli)


def test_a_complete_history_is_taken_over_and_dbmate_finds_all_applied(project: Project) -> None:
    project.apply(*NAMES)
    project.imports()
    before = project.shape()
    result = project.run()
    assert result.code == 0, result.err
    assert "6 migrations that dbmate has applied (public.schema_migrations)" in result.out
    assert project.recorded == VERSIONS
    assert (project.run("validate").code, project.run().code) == (0, 0)
    status = project.dbmate("status", "--exit-code")
    assert (status.code, "Pending: 0" in status.out) == (0, True), status.out + status.err
    assert project.dbmate("up").code == 0
    assert (project.shape(), project.recorded) == (before, VERSIONS)


def test_what_dbmate_has_not_applied_makes_the_schema_that_it_makes(
    project: Project, server: Server
) -> None:
    project.apply(*NAMES[:3])
    project.write(*NAMES[3:])
    project.imports()
    result = project.run()
    assert result.code == 0, result.err
    assert "3 migrations that dbmate has applied" in result.out
    assert project.recorded == VERSIONS
    assert len(project.of_dbmate) == 3
    other = server.create()
    assert project.dbmate("up", database=other).code == 0
    assert project.shape() == project.shape(other)
    server.drop(other)


def test_a_file_that_was_merged_late_is_not_taken_for_applied(project: Project) -> None:
    project.apply(*(name for name in NAMES if name != NAMES[2]))
    project.write(NAMES[2])
    project.imports()
    refused = project.run()
    assert refused.code == 3
    assert "out_of_order" in refused.err
    assert project.run("--allow-out-of-order").code == 0
    assert sorted(project.recorded) == VERSIONS
    assert project.database.execute("SELECT email FROM people") == [(None,)]


def test_a_file_that_failed_in_dbmate_is_pending(project: Project) -> None:
    project.write(*NAMES[:3])
    failing = NAMES[3]
    (project.source / failing).write_text("-- migrate:up\nSELECT 1 / 0;\n")
    assert project.dbmate("up").code != 0
    project.imports()
    result = project.run()
    assert result.code == 1
    assert "division by zero" in result.err
    assert project.recorded == VERSIONS[:3]
    assert len(project.of_dbmate) == 3


def test_a_row_of_dbmate_without_a_file_is_refused(project: Project) -> None:
    project.apply(*NAMES)
    (project.source / NAMES[5]).unlink()
    project.imports()
    result = project.run()
    assert result.code == 3
    assert "dbmate has applied 20240106000000 (public.schema_migrations)" in result.err
    assert project.recorded == []
    assert len(project.of_dbmate) == len(NAMES)


def test_both_can_run_until_dbmate_is_gone(project: Project) -> None:
    project.apply(*NAMES)
    project.imports()
    assert project.run().code == 0
    project.write(SEVENTH, up="ALTER TABLE people ADD born date;")
    assert project.dbmate("up").code == 0
    assert project.run().code == 0
    assert project.recorded == VERSIONS
    project.write(EIGHTH, up="ALTER TABLE people ADD died date;")
    project.imports()
    result = project.run()
    assert result.code == 0, result.err
    assert "1 migration that dbmate has applied" in result.out
    assert project.recorded == [*VERSIONS, "007-add-born", "008-add-died"]
    assert project.database.execute("SELECT born, died FROM people") == [(None, None)]
    assert project.of_dbmate[-1] == SEVENTH[:14]
    assert "Taken over" not in project.run().out


def test_dbmate_does_not_learn_what_onward_has_applied(project: Project) -> None:
    project.apply(*NAMES[:4])
    project.write(*NAMES[4:])
    project.imports()
    assert project.run().code == 0
    before = project.shape()
    failed = project.dbmate("up")
    assert failed.code != 0
    assert 'relation "pets" already exists' in failed.err
    assert (project.shape(), project.recorded) == (before, VERSIONS)


def test_a_preview_with_productions_imported_database_changes_nothing(project: Project) -> None:
    project.apply(*NAMES[:5])
    project.imports()
    before = tables(project.database), project.of_dbmate
    refused = project.run(environment="preview")
    assert refused.code == 3
    assert "has the history of dbmate, which names no environment" in refused.err
    assert (tables(project.database), project.of_dbmate, project.recorded) == (*before, [])
    assert project.run().code == 0
    project.apply(NAMES[5])
    project.imports()
    refused = project.run(environment="preview")
    assert refused.code == 3
    assert "was last migrated as production, and this run is preview" in refused.err
    assert (tables(project.database), project.recorded) == (before[0], VERSIONS[:5])
    assert project.run().code == 0
    assert project.recorded == VERSIONS
