"""What scripts/dev/bench.py times: runners and their file formats, handlers, bare scripts.

All are processes with DATABASE_URL, MIGRATION_DIR and PROJECT in their environment.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from scripts.embedded import EmbeddedError, find_programs

ROOT = Path(__file__).resolve().parents[2]
NPM = ("dbmate@2.36.0", "node-pg-migrate@9.0.0", "pg@8.23.1", "postgres-migrations@5.3.0")
PIP = ("alembic==1.20.1", f"psycopg[binary]=={version('psycopg')}", "yoyo-migrations==9.0.0")

ONE_ROW = """
import os, psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute("SELECT 1").fetchone()
"""
WHOLE_FILE = """
import os, pathlib, psycopg
[file] = pathlib.Path(os.environ["MIGRATION_DIR"]).iterdir()
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute(file.read_bytes())
"""
READ = """
import hashlib, os, pathlib
for file in sorted(pathlib.Path(os.environ["MIGRATION_DIR"]).iterdir()):
    hashlib.sha256(file.read_bytes()).hexdigest()
"""
PLAIN = """
import json, os, psycopg
def handler(event, context):
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        return {"statusCode": 200, "body": json.dumps(connection.execute("SELECT 1").fetchone())}
assert handler({}, None)["statusCode"] == 200
"""
VERCEL_ROUTE = """
import asyncio, importlib.util, os, sys
sys.path.insert(0, os.environ["PROJECT"])
file = os.environ["PROJECT"] + "/api/migration-status.py"
spec = importlib.util.spec_from_file_location("route", file)
route = importlib.util.module_from_spec(spec)
spec.loader.exec_module(route)
path, sent = "/api/migration-status", []
scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode()}
scope |= {"query_string": b"", "headers": []}
async def receive(): return {"type": "http.request"}
async def send(message): sent.append(message)
asyncio.run(route.app(scope, receive, send))
assert sent[0]["status"] == 200, sent
"""
LAMBDA_HANDLER = """
import os, sys
sys.path.insert(0, os.environ["PROJECT"])
from lib.aws import handler
class Context:
    def get_remaining_time_in_millis(self): return 30000
http = {"method": "GET", "path": "/api/migration-status", "sourceIp": "127.0.0.1"}
url = {"domainName": "x.lambda-url.eu-west-1.on.aws", "stage": "$default", "http": http}
event = {"version": "2.0", "rawPath": http["path"], "rawQueryString": "", "headers": {}}
answer = handler(event | {"requestContext": url, "isBase64Encoded": False}, Context())
assert answer["statusCode"] == 200, answer
"""
HANDLERS = {"plain handler": PLAIN, "Vercel route": VERCEL_ROUTE, "Lambda handler": LAMBDA_HANDLER}

PSQL_FILE = "BEGIN;\n{sql}\nINSERT INTO schema_migrations VALUES ('{n:04}');\nCOMMIT;\n"
PSQL_TABLE = (
    "CREATE TABLE schema_migrations "
    "(version text PRIMARY KEY, applied_at timestamptz DEFAULT now());\n"
)
POSTGRES_MIGRATIONS = """
const {migrate} = require(process.argv[2]), {Client} = require(process.argv[2] + "/../pg");
const client = new Client({connectionString: process.env.DATABASE_URL});
client.connect().then(() => migrate({client}, process.env.MIGRATION_DIR)).then(() => client.end());
"""
ALEMBIC_FILE = """
from alembic import op
revision, down_revision = "r{n:04}", {n} > 1 and "r{previous:04}" or None
def upgrade(): op.execute('''{sql}''')
"""
ALEMBIC_ENVIRONMENT = """
import os
from alembic import context
from sqlalchemy import create_engine, pool
url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://")
with create_engine(url, poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
"""


@dataclass(frozen=True)
class Tool:
    """A migration runner. `program` is a glob pattern below the peers' folder."""

    name: str
    program: str
    command: Sequence[str]
    file: str = "{n:04}-step-{n}.sql"
    text: str = "{sql}"
    support: Mapping[str, str] = field(default_factory=dict)

    def write(self, directory: Path, files: Sequence[str]) -> None:
        """Write migrations in the tool's format; with a fixed file name, all into one file."""
        directory.mkdir(parents=True)
        for name, text in self.support.items():
            (directory / name).write_text(text)
        for n, sql in enumerate(files, 1):
            path = directory / self.file.format(n=n)
            path.parent.mkdir(exist_ok=True)
            with path.open("a") as file:
                file.write(self.text.format(n=n, previous=n - 1, sql=sql))

    def arguments(self, directory: Path, url: str) -> list[str]:
        """The command that applies the migrations of a directory."""
        other = url.replace("postgresql://", "postgresql+psycopg://")
        return [
            part.format(program=self.program, directory=directory, url=url, url3=other)
            for part in self.command
        ]


ONWARD = Tool("onward", sys.executable, ("{program}", str(ROOT / "scripts" / "migrate.py")))
PSYCOPG = Tool("psycopg", sys.executable, ("{program}", "-c", WHOLE_FILE))
PSQL = Tool(
    "psql",
    "psql",
    ("{program}", "-qX", "-v", "ON_ERROR_STOP=1", "-d", "{url}", "-f", "{directory}/all.sql"),
    file="all.sql",
    text=PSQL_FILE,
    support={"all.sql": PSQL_TABLE},
)
PEERS = (
    Tool(
        "dbmate",
        "node_modules/@dbmate/*/bin/dbmate",  # not npm's wrapper of it
        ("{program}", "--no-dump-schema", "-d", "{directory}", "migrate"),
        file="20250101{n:06}_step.sql",
        text="-- migrate:up\n{sql}\n-- migrate:down\n",
    ),
    Tool(
        "node-pg-migrate",
        "node_modules/.bin/node-pg-migrate",
        ("{program}", "up", "-m", "{directory}", "--no-verbose"),
        file="170000000{n:04}_step.sql",
        text="-- Up Migration\n{sql}\n-- Down Migration\n",
    ),
    Tool(
        "postgres-migrations",
        "node_modules/postgres-migrations",
        ("node", "{directory}/../postgres-migrations.js", "{program}"),
        support={"../postgres-migrations.js": POSTGRES_MIGRATIONS},
    ),
    Tool(
        "yoyo",
        "py/bin/yoyo",
        (
            "{program}",
            "apply",
            "--batch",
            "--no-config-file",
            "--database",
            "{url3}",
            "{directory}",
        ),
    ),
    Tool(
        "alembic",
        "py/bin/alembic",
        ("{program}", "-c", "{directory}/alembic.ini", "upgrade", "head"),
        file="versions/r{n:04}.py",
        text=ALEMBIC_FILE,
        support={
            "alembic.ini": "[alembic]\nscript_location = %(here)s\n",
            "env.py": ALEMBIC_ENVIRONMENT,
        },
    ),
)


def installed(folder: Path) -> Iterator[Tool]:
    """The installed runners: psql (on PATH or embedded), Onward, and those in the peers' folder."""
    psql = shutil.which("psql")
    if not psql:
        try:
            psql = shutil.which(find_programs() / "psql")
        except EmbeddedError:
            psql = None
    if psql:
        yield replace(PSQL, program=psql)
    yield ONWARD
    for tool in PEERS:
        for program in sorted(folder.absolute().glob(tool.program))[:1]:
            yield replace(tool, program=str(program))


def install(folder: Path) -> None:
    """Install the peers with npm and pip. Raises OSError and CalledProcessError."""
    folder.mkdir(parents=True, exist_ok=True)
    npm = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder)]
    python = folder / "py" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [*npm, *NPM],
        [sys.executable, "-m", "venv", str(python.parent.parent)],
        [*pip, *PIP],
    ):
        subprocess.run(command, check=True, stdout=sys.stderr)
