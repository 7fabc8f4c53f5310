"""What a section of the documentation is for: what has gone wrong, or is set, or is there, when
somebody reads it.

A situation is made for a Place; when the section has been followed, it looks at what came of it.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import psycopg

from lib.fleet.inventory import read_inventory
from scripts.embedded import find_programs
from tests.conftest import Database
from tests.documents import Place
from tests.kit import LOCK, history, tables, until

Situation = Callable[[Place], AbstractContextManager[None]]
ORDERS = (
    "CREATE TABLE orders (id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
    " user_id BIGINT REFERENCES users (id));\n"
)
BIGNT = """\
-- Description: Add orders
CREATE TABLE orders (
    id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id BIGNT NOT NULL REFERENCES users (id)
);
"""
# Some of each kind that pg_dump writes in a form of its own, and another tool's history.
AN_APPLICATIONS = """
CREATE EXTENSION citext;
CREATE SCHEMA billing;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email citext NOT NULL UNIQUE, mood mood
);
CREATE TABLE billing.invoices (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    customer_id bigint NOT NULL REFERENCES customers,
    total numeric(12, 2) CHECK (total >= 0)
);
CREATE INDEX ON billing.invoices (customer_id) WHERE total > 0;
CREATE FUNCTION customer_of(invoice uuid) RETURNS bigint LANGUAGE sql STABLE AS
    $$ SELECT customer_id FROM billing.invoices WHERE id = invoice $$;
CREATE VIEW good_customers AS SELECT id, email FROM customers WHERE mood = 'good';
CREATE MATERIALIZED VIEW totals AS SELECT sum(total) FROM billing.invoices;
CREATE TABLE events (at timestamptz NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE _prisma_migrations (id text PRIMARY KEY);
GRANT SELECT ON customers TO PUBLIC;
"""
PRISMAS = {
    "20250114093012_init": "CREATE TABLE customers (id int PRIMARY KEY);\n",
    "20250301120000_add_invoices": "CREATE TABLE invoices (id int, customer_id int);\n",
    "20250907101500_index_invoices": "CREATE INDEX CONCURRENTLY i ON invoices (customer_id);\n",
}
PRISMAS_HISTORY = """
CREATE TABLE _prisma_migrations (
    id varchar(36) PRIMARY KEY, checksum varchar(64) NOT NULL, finished_at timestamptz,
    migration_name varchar(255) NOT NULL, logs text, rolled_back_at timestamptz,
    started_at timestamptz NOT NULL DEFAULT now(), applied_steps_count integer NOT NULL DEFAULT 0
);
INSERT INTO _prisma_migrations (id, checksum, migration_name, started_at, finished_at)
SELECT name, encode(sha256(convert_to(sql, 'UTF8')), 'hex'), name, at, at + took
FROM (VALUES
    ('20250114093012_init', E'CREATE TABLE customers (id int PRIMARY KEY);\\n',
        timestamptz '2025-01-14 09:31:20Z' - interval '40 ms', interval '40 ms'),
    ('20250301120000_add_invoices', E'CREATE TABLE invoices (id int, customer_id int);\\n',
        timestamptz '2025-03-01 12:10:05Z' - interval '12 ms', interval '12 ms')
) AS applied (name, sql, at, took);
"""
TWO_INDEXES = """\
-- migrate: no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS sessions_created_at_idx ON sessions (created_at);

CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS sessions_user_id_key ON sessions (user_id);
"""
SLEEP_AT_THE_ROW = """
CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(1000); RETURN NULL; END $$;
CREATE TRIGGER sleep AFTER INSERT ON schema_migrations FOR EACH ROW EXECUTE FUNCTION sleep();
"""
USERS = (
    "INSERT INTO users (email, password_hash) SELECT n || '@example.org', 'the same'"
    " FROM generate_series(1, {}) n"
)
TWO_SESSIONS_EACH = (
    "INSERT INTO sessions (user_id, token_hash, expires_at)"
    " SELECT id, id || '-' || n, now() FROM users, generate_series(1, 2) n"
)


@contextmanager
def ordinary(place: Place) -> Iterator[None]:
    """A shell with the database's URL, and a database that is current."""
    yield


@contextmanager
def before_there_is_a_database(place: Place) -> Iterator[None]:
    place.environ = {}
    repository(place)
    yield


@contextmanager
def empty_database(place: Place) -> Iterator[None]:
    place.start_from_nothing()
    place.be_on_call()
    yield
    place.migrate()
    assert history(place.database)[-1] == "002-add-reset-token-fields"


@contextmanager
def an_applications_database(place: Place) -> Iterator[None]:
    """A new adopter's shell for production: another tool has made its tables."""
    for path in sorted((place.root / "migrations").glob("*.sql"))[1:]:
        path.unlink()
    place.start_from_nothing()
    place.be_on_call()
    place.database.execute(AN_APPLICATIONS)
    empty = place.server.create()
    place.stack.callback(place.server.drop, empty)
    programs = f"{find_programs()}{os.pathsep}{place.inherited['PATH']}"
    place.environ |= {"EMPTY_URL": empty.url, "PATH": programs}
    yield
    applied = ["000-create-migration-table", "001-initial-schema", "002-add-orders"]
    assert history(place.database) == applied
    assert {"customers", "orders", "_prisma_migrations"} <= set(tables(place.database))
    assert {"customers", "events_2026"} <= set(tables(empty))
    assert "_prisma_migrations" not in tables(empty)


@contextmanager
def prismas_database(place: Place) -> Iterator[None]:
    """A new adopter's shell for production: Prisma has applied two of its three migrations."""
    for path in sorted((place.root / "migrations").glob("*.sql"))[1:]:
        path.unlink()
    for name, sql in PRISMAS.items():
        folder = place.root / "prisma" / "migrations" / name
        folder.mkdir(parents=True)
        (folder / "migration.sql").write_text(sql)
    place.start_from_nothing()
    place.be_on_call()
    place.database.execute(PRISMAS_HISTORY + "".join(list(PRISMAS.values())[:2]))
    yield
    versions = ["000-create-migration-table", "001-init", "002-add-invoices", "003-index-invoices"]
    assert history(place.database) == versions
    assert place.database.execute("SELECT count(*) FROM _prisma_migrations") == [(2,)]


@contextmanager
def team(place: Place) -> Iterator[None]:
    """A client's repository beside this one."""
    app = place.root.parent / "app"
    app.mkdir()
    (app / "package.json").write_text('{"scripts": {"build": "vite build"}}')
    yield
    result = place.run([str(app / "scripts" / "adopt.py"), "--check"], {})
    assert result.returncode == 0, result.stdout


@contextmanager
def adopted(place: Place) -> Iterator[None]:
    with team(place):
        result = place.run(["scripts/adopt.py", "../app"], {})
        assert result.returncode == 0, result.stdout
        yield


@contextmanager
def protected_preview(place: Place) -> Iterator[None]:
    place.environ = {"PREVIEW": place.serve(), "BYPASS": "bypass"}
    yield


@contextmanager
def docker(place: Place) -> Iterator[None]:
    """The tests' server in the container's place, and a shell that was on call just now."""
    place.start_from_nothing()
    place.environ = {"MIGRATION_DATABASE_URL": place.server.url, "MIGRATION_ENV": "production"}
    parts = urlsplit(place.database.url)
    file = place.root / ".env.test"
    shown = "test_user:test_password@localhost:5433/codescribe_test"
    file.write_text(file.read_text().replace(shown, f"{parts.netloc}{parts.path}"))
    place.names |= {
        "codescribe_test on "
        "localhost:5433": f"{place.database.name} on {parts.netloc.rpartition('@')[2]}"
    }
    yield
    assert history(place.database)[-1] == "002-add-reset-token-fields"


@contextmanager
def orders_pending(place: Place) -> Iterator[None]:
    place.write("003-add-orders.sql", ORDERS)
    yield


@contextmanager
def orders_pending_on_call(place: Place) -> Iterator[None]:
    place.be_on_call()
    place.write("003-add-orders.sql", ORDERS)
    yield


@contextmanager
def older_code(place: Place) -> Iterator[None]:
    place.write("003-add-orders.sql", ORDERS)
    place.migrate()
    (place.root / "migrations" / "003-add-orders.sql").unlink()
    yield
    assert (history(place.database)[-1], tables(place.database)[0]) == ("003-add-orders", "orders")


@contextmanager
def restored(place: Place) -> Iterator[None]:
    """The database as it was before its newest migration, under its own name."""
    backup = place.server.create(template=place.database.name)
    place.write("003-add-orders.sql", ORDERS)
    place.migrate()
    place.server.drop(place.database)
    place.server.admin.execute(f'ALTER DATABASE "{backup.name}" RENAME TO "{place.database.name}"')
    yield
    assert "orders" in tables(place.database)


@contextmanager
def syntax_error(place: Place) -> Iterator[None]:
    place.write("003-add-orders.sql", BIGNT)
    yield
    assert history(place.database)[-1] == "002-add-reset-token-fields"
    place.write("003-add-orders.sql", BIGNT.replace("BIGNT", "BIGINT"))
    place.migrate()


@contextmanager
def merged_late(place: Place) -> Iterator[None]:
    place.be_on_call()
    place.write("004-add-carts.sql", "CREATE TABLE carts (id int)")
    place.migrate()
    place.write("003-add-orders.sql", ORDERS)
    edited = place.root / "migrations" / "001-create-users-table.sql"
    edited.write_text(f"{edited.read_text()}-- Later: a comment.\n")
    repository(place)
    yield
    place.migrate()
    assert history(place.database)[-2:] == ["004-add-carts", "005-add-orders"]


@contextmanager
def preview_with_productions_url(place: Place) -> Iterator[None]:
    place.start_from_nothing()
    place.migrate()
    place.be_on_call()
    place.write("003-add-orders.sql", ORDERS)
    place.build |= {"VERCEL_ENV": "preview", "VERCEL_TARGET_ENV": "preview"}
    yield
    assert "orders" not in tables(place.database)


@contextmanager
def a_file_that_takes_long(place: Place) -> Iterator[None]:
    """A build that runs while the section is read, and is cancelled then."""
    place.be_on_call()
    place.write("003-fill-notes.sql", "CREATE TABLE notes (); SELECT pg_sleep(1000);")
    build = place.start(["scripts/migrate.py"], place.build)
    asleep = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = %s"
    [(pid,)] = until(lambda: place.database.execute(asleep, [place.database.name]))
    place.names["4711"] = str(pid)
    yield
    build.terminate()
    assert build.wait() == 143
    until(lambda: not place.database.execute(asleep, [place.database.name]))
    assert "notes" not in tables(place.database)


@contextmanager
def another_run(place: Place) -> Iterator[None]:
    place.write("003-add-orders.sql", ORDERS)
    place.build["MIGRATION_WAIT"] = "300ms"
    holder = psycopg.connect(place.database.url, application_name="onward 0.1.0 production")
    with closing(holder):
        holder.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
        place.names["4711"] = str(holder.info.backend_pid)
        yield
    place.migrate()
    assert "orders" in tables(place.database)


@contextmanager
def busy_table(place: Place) -> Iterator[None]:
    place.write("003-add-user-notes.sql", "ALTER TABLE users ADD COLUMN notes TEXT")
    place.build |= {"MIGRATION_LOCK_TIMEOUT": "250ms", "MIGRATION_RETRY": "3s"}
    with closing(psycopg.connect(place.database.url, application_name="nightly report")) as report:
        report.execute("SELECT count(*) FROM users")
        place.names["4711"] = str(report.info.backend_pid)
        yield
    place.migrate()
    assert history(place.database)[-1] == "003-add-user-notes"


@contextmanager
def changed_password(place: Place) -> Iterator[None]:
    place.be_on_call()
    parts = urlsplit(place.database.url)
    wrong = f"{parts.username}:not-that-password@{parts.netloc.rpartition('@')[2]}"
    place.build["DATABASE_URL_UNPOOLED"] = parts._replace(netloc=wrong).geturl()
    yield


@contextmanager
def lost_commit(place: Place) -> Iterator[None]:
    """The database goes away while a run waits for the answer to its COMMIT, and is back after the
    build.
    """
    place.be_on_call()
    place.write("003-add-orders.sql", ORDERS)
    place.database.execute(SLEEP_AT_THE_ROW)
    admin, name = place.server.admin, place.database.name

    def go_away() -> None:
        asleep = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND wait_event = 'PgSleep'"
        [(pid,)] = until(lambda: admin.execute(asleep, [name]))
        admin.execute(
            f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false; SELECT pg_terminate_backend({pid})'
        )

    def come_back() -> None:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        place.database.execute("DROP FUNCTION sleep() CASCADE")

    place.built = come_back
    outage = Thread(target=go_away)
    outage.start()
    yield
    outage.join()
    place.migrate()
    assert history(place.database)[-1] == "003-add-orders"


@contextmanager
def doubles_under_a_unique_index(place: Place) -> Iterator[None]:
    place.database.execute(USERS.format(2))
    place.database.execute(TWO_SESSIONS_EACH)
    place.write("003-index-sessions.sql", TWO_INDEXES)
    yield
    index = "FROM pg_index WHERE indexrelid = 'sessions_user_id_key'::regclass"
    [state] = place.database.execute(f"SELECT indisunique, indisvalid {index}")
    assert (history(place.database)[-1], state) == ("003-index-sessions", (True, True))
    assert place.database.execute("SELECT token_hash FROM sessions") == [("1-2",), ("2-2",)]


@contextmanager
def many_users(place: Place) -> Iterator[None]:
    place.database.execute(USERS.format(2500))
    yield
    batches = (
        "SELECT count(DISTINCT xmin::text), count(*) FILTER (WHERE reset_token_expires_at IS NULL)"
        " FROM users"
    )
    assert place.database.execute(batches) == [(3, 0)]


# What an application does to the table of docs/writing-migrations.md: release by release, from
# after one migration on and until before another. Around each migration two of them are at work.
RELEASES = (
    ("003", "005", "note, total, street, city", "'a', 1, 's', 'c'", "note = 'b'"),
    (
        "004",
        "008",
        "currency, note, total, street, city",
        "'EUR', 'a', 1, 's', 'c'",
        "note = 'c', currency = 'USD'",
    ),
    (
        "006",
        "011",
        "currency, comment, total, street, city",
        "'EUR', 'a', 1, 's', 'c'",
        "comment = 'd', total = 2",
    ),
    (
        "009",
        "014",
        "currency, comment, total_cents, street, city",
        "'EUR', 'a', 100, 's', 'c'",
        "total_cents = 300",
    ),
    ("012", "999", "currency, comment, total_cents", "'EUR', 'a', 100", "comment = 'e'"),
)
# What holds for all rows, whichever release wrote them.
TRUTHS = (
    ("005", "999", "SELECT bool_and(currency IS NOT NULL) FROM orders"),
    ("007", "008", "SELECT bool_and(comment IS NOT DISTINCT FROM note) FROM orders"),
    ("010", "011", "SELECT bool_and(total_cents IS NOT DISTINCT FROM total * 100) FROM orders"),
    (
        "013",
        "014",
        "SELECT bool_and(a.city IS NOT DISTINCT FROM o.city)"
        " FROM orders o LEFT JOIN addresses a ON o.id = order_id WHERE o.city > ''",
    ),
)


@contextmanager
def releases_at_work(place: Place) -> Iterator[None]:
    """Each release works on, from before a migration until the one that is its end."""
    place.database.execute(USERS.format(1))
    place.applied = lambda: work(place.database)
    yield
    invalid = "SELECT conname FROM pg_constraint WHERE NOT convalidated"
    assert (history(place.database)[-1][:3], place.database.execute(invalid)) == ("018", [])


def work(database: Database) -> None:
    newest = history(database)[-1][:3]
    for since, until_before, columns, values, change in RELEASES:
        if since <= newest < until_before:
            database.execute(
                f"INSERT INTO orders (user_id, code, {columns}) VALUES (1, gen_random_uuid(), "
                f"{values})"
            )
            database.execute(f"UPDATE orders SET {change}")
    for since, until_before, query in TRUTHS:
        if since <= newest < until_before:
            assert database.execute(query) == [(True,)], f"after {newest}: {query}"


@contextmanager
def pull_request(place: Place) -> Iterator[None]:
    """A branch of main's newest commit, and a shell without a URL."""
    place.environ = {}
    repository(place)
    author = "-c user.name=Ada -c user.email=ada@example.org"
    base = f"git {author} commit --quiet -m Base && git update-ref refs/remotes/origin/main HEAD"
    result = place.run(["bash", "-c", base], {})
    assert result.returncode == 0, result.stdout
    yield


@contextmanager
def reader(place: Place) -> Iterator[None]:
    """A server that does not keep the role that the section creates."""
    yield
    place.database.execute("DROP OWNED BY onward_reader; DROP ROLE onward_reader")


@contextmanager
def three_tenants(place: Place) -> Iterator[None]:
    """A server in whose name psql connects. The tenants' databases have names of this test's."""
    url = urlsplit(place.server.url)
    names = {name: f"{place.database.name}_{name}" for name in ("acme", "beta", "gamma")}
    place.names |= names | {"postgres@db.example:5432": f"{url.username}@{url.hostname}:{url.port}"}
    place.environ = {"PGHOST": str(url.hostname), "PGPORT": str(url.port), "PGDATABASE": "postgres"}
    place.environ |= {"PGUSER": str(url.username), "PGPASSWORD": url.password or ""}
    yield
    for name in names.values():
        tenant = place.server.database(name)
        assert history(tenant) == history(place.database)
        place.server.drop(tenant)
    assert "All 3 databases current" in (place.root / "report.html").read_text()


@contextmanager
def control_database(place: Place) -> Iterator[None]:
    """A table of tenants, of which one has gone."""
    place.environ = {"CONTROL_URL": place.database.url}
    place.database.execute(
        "CREATE TABLE tenants (slug, host, database, cluster, canary, state) AS VALUES "
        "('acme', 'c1.example', 'a', 'c1', true, 'active'),"
        "('it''s', 'c2.example', 'b', 'c2', false, 'active'),"
        "('gone', 'c2.example', 'c', 'c2', false, 'deleted')"
    )
    yield
    found = read_inventory((place.root / "fleet.jsonl").read_text()).tenants
    assert [(one.name, one.wave, one.cluster) for one in found] == [
        ("acme", 0, "c1"),
        ("it's", 1, "c2"),
    ]
    assert found[1].secret == "secretsmanager:c2"


class NeonsApi(BaseHTTPRequestHandler):
    """Neon's API as who lists projects meets it: pages of two, and after the last an empty one."""

    projects = tuple({"id": f"cool-{number}", "name": f"tenant {number}"} for number in range(5))

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        allowed = self.headers["Authorization"] == "Bearer napi_key" and asked["limit"] == ["400"]
        first = int(asked.get("cursor", ["0"])[0])
        page = self.projects[first : first + 2]
        document = {"projects": page, "pagination": {"cursor": str(first + len(page))}}
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def neons_projects(place: Place) -> Iterator[None]:
    """An API with more projects than fit on a page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), NeonsApi) as api:
        Thread(target=api.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{api.server_port}"
        place.names["https://console.neon.tech/api/v2"] = address
        place.environ = {"NEON_API_KEY": "napi_key"}
        yield
        api.shutdown()
    found = read_inventory((place.root / "fleet.jsonl").read_text()).tenants
    assert [one.name for one in found] == [one["name"] for one in NeonsApi.projects]
    assert found[4].url == "secretsmanager:tenants/cool-4#url"
    assert {one.cluster for one in found} == {"neon"}


def repository(place: Place) -> None:
    """Make the copy a git repository."""
    result = place.run(["bash", "-c", "git init --quiet && git add ."], {})
    assert result.returncode == 0, result.stdout


SITUATIONS: dict[str, Situation] = {
    "README.md#status-and-emergency-routes": orders_pending,
    "README.md#adopt-it": team,
    "docs/adopting.md#the-command": team,
    "docs/environments.md#from-a-file-to-production": orders_pending,
    "docs/environments.md#the-sandbox-with-docker": docker,
    "docs/existing-database.md#step-by-step": an_applications_database,
    "docs/fleet.md#the-first-fleet": three_tenants,
    "docs/fleet.md#from-a-control-database": control_database,
    "docs/fleet.md#from-neon": neons_projects,
    "docs/importing.md#step-by-step": prismas_database,
    "docs/no-transaction.md#data-in-batches": many_users,
    "docs/on-call.md#first": orders_pending_on_call,
    "docs/on-call.md#it-hangs": a_file_that_takes_long,
    "docs/on-call.md#exit-1-or-2": syntax_error,
    "docs/on-call.md#exit-3-conflict": merged_late,
    "docs/on-call.md#exit-3-wrong-environment": preview_with_productions_url,
    "docs/on-call.md#exit-4-another-run": another_run,
    "docs/on-call.md#exit-4-a-busy-table": busy_table,
    "docs/on-call.md#exit-5-unreachable": changed_password,
    "docs/on-call.md#exit-6-outcome-unknown": lost_commit,
    "docs/on-call.md#exit-7-partly-applied": doubles_under_a_unique_index,
    "docs/on-call.md#no-deploy-can-be-had": orders_pending_on_call,
    "docs/production-lambda.md#3-the-bundle": before_there_is_a_database,
    "docs/production-vercel.md#1-the-files": before_there_is_a_database,
    "docs/production-vercel.md#4-a-database-with-tables-in-it": empty_database,
    "docs/production-vercel.md#5-deploy": empty_database,
    "docs/before-it-ships.md#in-a-pull-request": pull_request,
    "docs/pull-requests.md#sizes-of-production": reader,
    "docs/pull-requests.md#by-hand-and-in-another-ci": pull_request,
    "docs/pull-requests.md#what-a-failure-looks-like": pull_request,
    "docs/rolling-back.md#restoring-a-database": restored,
    "docs/rolling-back.md#rolling-back-the-code": older_code,
    "docs/upgrading.md#the-files-in-your-repository": adopted,
    "docs/routes.md#the-emergency-route": orders_pending,
    "docs/routes.md#the-status": orders_pending,
    "docs/routes.md#the-status-of-a-protected-preview": protected_preview,
    "docs/writing-migrations.md#examples": releases_at_work,
}
