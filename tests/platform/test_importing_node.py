"""The real migration tools of npm: each makes a history, which is taken over.

Prisma's own engine is a program from elsewhere. 6.19 has it as WebAssembly, too, which runs with a
driver adapter.
"""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.embedded import find_programs
from tests.conftest import ROOT, Database, Here, Server
from tests.importers.node_histories import (
    DRIZZLE,
    DRIZZLE_1,
    NAMES,
    NODE_PG_MIGRATE,
    PRISMA,
    VERSIONS,
    Tool,
)
from tests.kit import Write, contents, fill, history
from tests.platform.cache import cached, said

OWN = "000-create-migration-table"
ALL = [OWN, *VERSIONS]
PG = {"pg": "8.16.3"}
PRISMA_CONFIG = """
import { PrismaPg } from "@prisma/adapter-pg";
export default {
    engine: "js",
    experimental: { adapter: true },
    schema: import.meta.dirname + "/schema.prisma",
    migrations: { path: process.env.MIGRATIONS },
    adapter: async () => new PrismaPg({ connectionString: process.env.DATABASE_URL }),
};
"""
PRISMA_SCHEMA = """
datasource db {
  provider = "postgresql"
  url      = "postgresql://unused"
}
"""
DRIZZLE_CONFIG = """
export default {
    dialect: "postgresql",
    out: process.env.MIGRATIONS,
    dbCredentials: { url: process.env.DATABASE_URL },
};
"""
DRIZZLE_MIGRATE = """
import { drizzle } from "drizzle-orm/node-postgres";
import { migrate } from "drizzle-orm/node-postgres/migrator";
const db = drizzle(process.env.DATABASE_URL);
await migrate(db, { migrationsFolder: process.env.MIGRATIONS });
await db.$client.end();
"""


class Real(NamedTuple):
    """A tool as npm has it."""

    tool: Tool
    packages: dict[str, str]
    files: dict[str, str]
    """Beside its packages: its configuration."""
    command: Sequence[str]
    """Of node: applies what is pending."""
    settled: str
    """What it says when nothing is."""

    def install(self) -> Path:
        """Where its packages are, installed at most once."""
        made = dumps([self.packages, self.files])
        name = f"{self.tool.tool}-{sha256(made.encode()).hexdigest()[:8]}"
        return cached(name, partial(_install, self))

    def apply(self, database: Database, directory: Path, *command: str) -> str:
        """Run it; returns what it says. Raises OSError if it fails."""
        place = self.install()
        environment = {
            "DATABASE_URL": database.url,
            "MIGRATIONS": str(directory),
            "CHECKPOINT_DISABLE": "1",
            # Prisma would download them. It only asks the second whether it can connect.
            "PRISMA_QUERY_ENGINE_LIBRARY": "/bin/true",
            "PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true",
        }
        settings = [f"{name}={value}" for name, value in environment.items()]
        asked = [one.format(directory=directory) for one in command or self.command]
        return said("env", *settings, "node", *asked, cwd=place)


def _install(real: Real, place: Path) -> None:
    fill(place, {**real.files, "package.json": dumps({"dependencies": real.packages})})
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    said("npm", "install", *options, cwd=place)


_PRISMA_COMMAND = ("node_modules/prisma/build/index.js", "migrate")
_PRISMA_OPTIONS = ("--config", "prisma.config.mjs")
REAL = {
    "prisma": Real(
        PRISMA,
        {"prisma": "6.19.3", "@prisma/adapter-pg": "7.10.1"},
        {"prisma.config.mjs": PRISMA_CONFIG, "schema.prisma": PRISMA_SCHEMA},
        (*_PRISMA_COMMAND, "deploy", *_PRISMA_OPTIONS),
        "No pending migrations to apply.",
    ),
    "drizzle": Real(
        DRIZZLE,
        {"drizzle-kit": "0.31.11", "drizzle-orm": "0.45.3", **PG},
        {"drizzle.config.mjs": DRIZZLE_CONFIG},
        ("node_modules/drizzle-kit/bin.cjs", "migrate", "--config", "drizzle.config.mjs"),
        "migrations applied successfully!",
    ),
    "drizzle-1": Real(
        DRIZZLE_1,
        {"drizzle-orm": "1.0.0-rc.4", **PG},
        {"migrate.mjs": DRIZZLE_MIGRATE},
        ("migrate.mjs",),
        "",
    ),
    "node-pg-migrate": Real(
        NODE_PG_MIGRATE,
        {"node-pg-migrate": "9.0.0", **PG},
        {},
        ("node_modules/node-pg-migrate/bin/node-pg-migrate.js", "up", "-m", "{directory}"),
        "No migrations to run!",
    ),
}


@pytest.fixture(params=REAL.values(), ids=list(REAL))
def real(request: pytest.FixtureRequest) -> Real:
    if not shutil.which("npm"):
        pytest.skip("node and npm are needed for the tools")
    found: Real = request.param
    return found


@pytest.fixture
def files(tmp_path: Path, real: Real) -> Path:
    """All files of the tool."""
    return real.tool.write(tmp_path / "all")


@pytest.fixture(autouse=True)
def imported(files: Path, migrations: Write, here: Here) -> None:
    migrations({f"{OWN}.sql": (ROOT / "migrations" / f"{OWN}.sql").read_bytes()})
    result = here("import", "auto", str(files))
    assert result.code == 0, result.err


@pytest.fixture
def own_schema(server: Server, real: Real, files: Path) -> Callable[[], str]:
    """The schema that the tool makes of all its files."""

    def dumped() -> str:
        database = server.create()
        real.apply(database, files)
        found = schema(database)
        server.drop(database)
        return found

    return dumped


def schema(database: Database) -> str:
    """The schema without the histories, as pg_dump prints it."""
    left_out = ("schema_migrations*", "_prisma_migrations", "pgmigrations*", "drizzle.*")
    options = [f"--exclude-table={one}" for one in left_out]
    command = [
        str(find_programs() / "pg_dump"),
        "-s",
        "-N",
        "drizzle",
        *options,
        "-d",
        database.url,
    ]
    lines = subprocess.check_output(command, text=True).splitlines()
    return "\n".join(line for line in lines if not line.startswith("\\"))


def runs(here: Here, database: Database, *arguments: str) -> None:
    result = here(*arguments, url=database.url)
    assert result.code == 0, result.err


def test_a_complete_history_is_taken_over_and_the_tool_agrees(
    real: Real, files: Path, here: Here, database: Database
) -> None:
    real.apply(database, files)
    theirs, before = real.tool.rows(database), schema(database)
    runs(here, database)
    assert history(database) == ALL
    after = contents(database)
    runs(here, database)
    runs(here, database, "validate")
    assert real.settled in real.apply(database, files)
    assert contents(database) == after
    assert real.tool.rows(database) == theirs
    assert schema(database) == before


@pytest.mark.parametrize("applied", [NAMES[:1], (*NAMES[:2], NAMES[3])], ids=["early", "late"])
def test_what_the_tool_has_not_applied_is_applied(
    real: Real,
    applied: Sequence[str],
    here: Here,
    database: Database,
    tmp_path: Path,
    own_schema: Callable[[], str],
) -> None:
    real.apply(database, real.tool.write(tmp_path / "some", applied))
    theirs = real.tool.rows(database)
    runs(here, database, "--allow-out-of-order")
    assert sorted(history(database)) == ALL
    runs(here, database, "validate")
    assert real.tool.rows(database) == theirs
    assert schema(database) == own_schema()


@pytest.mark.parametrize("real", [REAL["prisma"]], ids=["prisma"], indirect=True)
def test_one_that_failed_is_refused_until_prisma_knows_what_became_of_it(
    real: Real, here: Here, database: Database, tmp_path: Path, own_schema: Callable[[], str]
) -> None:
    broken = real.tool.write(tmp_path / "broken")
    (broken / NAMES[3] / "migration.sql").write_text("CREATE TABLE four (id bigint")
    with pytest.raises(OSError, match="syntax error at end of input"):
        real.apply(database, broken)
    before = contents(database)
    result = here(url=database.url)
    assert (result.code, f"has not finished {NAMES[3]}" in result.err) == (3, True)
    assert contents(database) == before
    undone = ("resolve", "--rolled-back", NAMES[3], *_PRISMA_OPTIONS)
    real.apply(database, broken, *_PRISMA_COMMAND, *undone)
    runs(here, database)
    assert history(database) == ALL
    assert schema(database) == own_schema()
