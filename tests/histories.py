"""Histories as teams have them, some forty files each: what a rehearsal must leave as a run does.

They use what is easily done differently statement by statement: bodies with semicolons, settings,
temporary tables, deferred constraints, files without a transaction.
"""

from collections.abc import Iterator, Mapping

from tests.kit import HEAD

# Tenants, each with its rows only

_TENANTS = (
    "CREATE SCHEMA app CREATE TABLE tenants (id int PRIMARY KEY, name text NOT NULL)"
    " CREATE VIEW tenant_names AS SELECT name FROM tenants",
    "CREATE FUNCTION app.tenant() RETURNS int LANGUAGE sql STABLE\n"
    "BEGIN ATOMIC; SELECT 1; SELECT nullif(current_setting('app.tenant', true), '')::int; END",
    "CREATE TABLE app.audit (at timestamptz DEFAULT now(), relation regclass, change jsonb);\n"
    "CREATE FUNCTION app.audited() RETURNS trigger LANGUAGE plpgsql AS $body$\nBEGIN\n"
    "    INSERT INTO app.audit (relation, change) VALUES (TG_RELID, to_jsonb(NEW));\n"
    "    RETURN NEW; -- it's not an end;\nEND; $body$",
    "SET LOCAL search_path = app; INSERT INTO tenants VALUES (1, 'a;b'), (2, E'it\\'s; c')",
)
_TENANTS_TABLE = (
    "CREATE TABLE app.{0} (id bigint GENERATED ALWAYS AS IDENTITY, tenant int NOT NULL REFERENCES "
    "app.tenants ON DELETE CASCADE, title varchar(40) CHECK (title IN ('a', 'b')),"
    " PRIMARY KEY (tenant, id))",
    "ALTER TABLE app.{0} ENABLE ROW LEVEL SECURITY; ALTER TABLE app.{0} FORCE ROW LEVEL SECURITY;\n"
    "CREATE POLICY own ON app.{0} USING (tenant = app.tenant()) WITH CHECK (tenant > 0);\n"
    "GRANT SELECT, INSERT (tenant, title) ON app.{0} TO PUBLIC",
    "CREATE TRIGGER audited AFTER INSERT OR UPDATE ON app.{0} FOR EACH ROW\n"
    "    WHEN (NEW.title IS NOT NULL) EXECUTE FUNCTION app.audited();\n"
    "INSERT INTO app.{0} (tenant, title) SELECT id, 'a' FROM app.tenants",
    f"{HEAD}CREATE INDEX CONCURRENTLY {{0}}_title ON app.{{0}} (tenant, lower(title));\n"
    "COMMENT ON INDEX app.{0}_title IS 'for the list; of {0}'",
    "ALTER TABLE app.{0} ADD COLUMN state text DEFAULT 'new', ADD COLUMN note text;\n"
    "UPDATE app.{0} SET note = 'n' WHERE note IS NULL; SET CONSTRAINTS ALL IMMEDIATE;\n"
    "ALTER TABLE app.{0} ALTER note SET NOT NULL",
)


def tenants() -> Iterator[str]:
    """Software for many tenants: row level security, audit triggers, grants."""
    yield from _TENANTS
    for name in ("projects", "tasks", "remarks", "invoices", "uploads", "members", "hooks"):
        for sql in _TENANTS_TABLE:
            yield sql.format(name)
    yield "ALTER TABLE app.hooks RENAME TO webhooks; DROP VIEW app.tenant_names CASCADE"
    yield "ALTER TABLE app.members DROP COLUMN note; ALTER POLICY own ON app.members USING (true)"


# A shop, whose orders are partitioned

_SHOP = (
    "CREATE TABLE products (id serial PRIMARY KEY, sku text UNIQUE, price numeric(8,2) NOT NULL);\n"
    "CREATE TABLE customers (id serial PRIMARY KEY, email text, born date)",
    "CREATE TABLE orders (id bigserial, customer int REFERENCES customers DEFERRABLE, at date NOT"
    " NULL, total numeric(12,2) DEFAULT 0, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
    "CREATE TABLE lines (ord bigint, at date, product int REFERENCES products, count int CHECK "
    "(count > 0), price numeric(8,2), amount numeric GENERATED ALWAYS AS (count * price) STORED,"
    " FOREIGN KEY (ord, at) REFERENCES orders DEFERRABLE INITIALLY DEFERRED)",
    "INSERT INTO customers SELECT n, 'c' || n || '@example.org' FROM generate_series(1, 9) n;\n\n"
    "/* a comment; with /* another; */ in it */\n"
    "INSERT INTO products VALUES (1, 'a', 1.5), (2, 'b', 2)",
)
_MONTH = (
    "CREATE TABLE orders_{0:02} PARTITION OF orders FOR VALUES FROM ('2025-{0:02}-01') TO "
    "('{1}-{2:02}-01');\nINSERT INTO lines VALUES ({0}, '2025-{0:02}-02', 1, 2, 3);\n"
    "INSERT INTO orders (id, customer, at) VALUES ({0}, 1, '2025-{0:02}-02')"
)
_SHOP_LATER = (
    "CREATE FUNCTION total_of(ord bigint) RETURNS numeric LANGUAGE sql AS\n"
    "    'SELECT coalesce(sum(amount), 0) FROM lines l WHERE l.ord = total_of.ord;'",
    "CREATE PROCEDURE recount() LANGUAGE plpgsql AS $$BEGIN\n"
    "    UPDATE orders SET total = total_of(id); END$$; CALL recount()",
    "CREATE FUNCTION recounted() RETURNS trigger LANGUAGE plpgsql AS $$\nBEGIN\n"
    "    UPDATE orders SET total = total_of(NEW.ord) WHERE id = NEW.ord; RETURN NULL;\nEND $$;\n"
    "CREATE CONSTRAINT TRIGGER recounted AFTER INSERT ON lines DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW EXECUTE FUNCTION recounted();\nINSERT INTO lines VALUES (1, '2025-01-02', 2, 1)",
    "CREATE INDEX ON orders (customer); CREATE INDEX products_price ON products (price DESC)",
    "ALTER TABLE products ADD CONSTRAINT positive CHECK (price > 0) NOT VALID",
    "ALTER TABLE products VALIDATE CONSTRAINT positive",
    "CREATE VIEW open AS SELECT id, total FROM orders WHERE total > 0",
    "CREATE MATERIALIZED VIEW sales AS SELECT product, sum(amount) FROM lines GROUP BY 1;\n"
    "CREATE UNIQUE INDEX sales_product ON sales (product)",
    f"{HEAD}REFRESH MATERIALIZED VIEW CONCURRENTLY sales",
    "CREATE OR REPLACE VIEW open AS SELECT id, total, at FROM orders WHERE total > 0",
    "CREATE RULE keep AS ON DELETE TO customers DO INSTEAD (SELECT 1; SELECT 2)",
    "ALTER TABLE customers ALTER email TYPE varchar(80), ALTER email SET NOT NULL",
    "ALTER TABLE customers RENAME email TO address",
    "ALTER TABLE customers ADD CONSTRAINT customers_address UNIQUE (address)",
    "DO $$DECLARE one regclass; BEGIN\n"
    "    FOR one IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'orders'::regclass LOOP\n"
    "        EXECUTE format('ALTER TABLE %s SET (fillfactor = 90);', one);\n    END LOOP;\nEND$$",
    f"{HEAD}DELETE FROM lines WHERE ord = 1;\n"
    "ALTER TABLE orders DETACH PARTITION orders_01 CONCURRENTLY",
    "CREATE TABLE archive (LIKE orders_01 INCLUDING ALL); INSERT INTO archive TABLE orders_01",
    "TRUNCATE orders_01 CASCADE",
    "CREATE STATISTICS lines_both ON ord, product FROM lines; ANALYZE lines",
    "ALTER SEQUENCE products_id_seq INCREMENT 10 CACHE 5; SELECT nextval('products_id_seq')",
)


def shop() -> Iterator[str]:
    """A shop: partitions, triggers, functions, views, a deferred foreign key."""
    yield from _SHOP
    for month in range(1, 13):
        yield _MONTH.format(month, 2025 + month // 12, month % 12 + 1)
    yield from _SHOP_LATER


# A queue of jobs

_QUEUE = (
    "CREATE TYPE state AS ENUM ('queued', 'done');\n"
    "CREATE DOMAIN attempts AS int CHECK (VALUE >= 0)",
    "CREATE UNLOGGED TABLE jobs (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, state "
    "state DEFAULT 'queued', tries attempts DEFAULT 0, args jsonb, at timestamptz DEFAULT now())",
    "DO $$BEGIN FOR n IN 1..50 LOOP INSERT INTO jobs (args) VALUES (jsonb_build_object('n', n));"
    " END LOOP; END$$",
    "CREATE FUNCTION announce() RETURNS trigger LANGUAGE plpgsql AS\n"
    "'BEGIN PERFORM pg_notify(''jobs'', NEW.id::text); RETURN NEW; END';\n"
    "CREATE TRIGGER announce AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION announce()",
)
_QUEUE_STATE = (
    "ALTER TYPE state ADD VALUE IF NOT EXISTS '{0}' BEFORE 'done'",
    "INSERT INTO jobs (state) VALUES ('{0}'); CREATE VIEW {0} AS SELECT * FROM jobs"
    " WHERE state = '{0}'",
    f"{HEAD}CREATE INDEX CONCURRENTLY IF NOT EXISTS jobs_{{0}} ON jobs (at) WHERE state = '{{0}}';"
    "\nCREATE INDEX CONCURRENTLY jobs_{0}_twice ON jobs (state, at);\n"
    "DROP INDEX CONCURRENTLY jobs_{0}_twice",
    "CREATE TEMPORARY TABLE waiting AS SELECT id FROM jobs WHERE state = '{0}';\n"
    "UPDATE jobs SET tries = tries + 1 WHERE id IN (SELECT id FROM waiting)",
)
_QUEUE_LATER = (
    "ALTER TABLE jobs SET LOGGED; SELECT set_config('work_mem', '8MB', true)",
    f"{HEAD}VACUUM ANALYZE jobs; REINDEX INDEX CONCURRENTLY jobs_failed",
    "ALTER TYPE state RENAME VALUE 'running' TO 'under way'",
    "CREATE AGGREGATE tries_of (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0')",
    "SAVEPOINT before; ALTER TABLE jobs ADD COLUMN never int; ROLLBACK TO before;\n"
    "ALTER TABLE jobs ADD COLUMN queue text NOT NULL DEFAULT 'usual'",
    "PREPARE one AS SELECT 1; LISTEN jobs; SET statement_timeout = '1h'; SELECT 1 AS \"a;b\"",
    "ALTER TABLE jobs DROP COLUMN args CASCADE; ALTER TABLE jobs DISABLE TRIGGER announce",
    "ALTER DOMAIN attempts ADD CONSTRAINT few CHECK (VALUE < 99) NOT VALID",
    "ALTER DOMAIN attempts VALIDATE CONSTRAINT few; DELETE FROM jobs WHERE tries > 1",
    f"{HEAD}BEGIN; CREATE TABLE queues (name text); COMMENT ON TABLE queues IS 'all'; COMMIT;\n"
    "CREATE UNIQUE INDEX CONCURRENTLY queues_name ON queues (name)",
    "ALTER TABLE queues ADD CONSTRAINT queues_name PRIMARY KEY USING INDEX queues_name",
    "INSERT INTO queues SELECT DISTINCT queue FROM jobs;\n"
    "ALTER TABLE jobs ADD FOREIGN KEY (queue) REFERENCES queues NOT VALID",
)


def queue() -> Iterator[str]:
    """A queue of jobs: enums, indexes built concurrently, blocks, temporary tables."""
    yield from _QUEUE
    for state in ("running", "failed", "retried", "cancelled", "stalled"):
        for sql in _QUEUE_STATE:
            yield sql.format(state)
    yield from _QUEUE_LATER


def _files(texts: Iterator[str]) -> dict[str, str]:
    return {f"{number:03}-step.sql": f"{sql};\n" for number, sql in enumerate(texts, start=1)}


HISTORIES: Mapping[str, Mapping[str, str]] = {
    make.__name__: _files(make()) for make in (tenants, shop, queue)
}
