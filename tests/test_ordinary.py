"""Situations in which teams adopt it every day: a check that refuses one of them is worse than no
check.

Each is a database as somebody has it, and a role that is no superuser; the run, a second run and
the status all exit 0.
"""

from typing import NamedTuple

import pytest

from lib.cli.main import main
from tests.conftest import Database, Server
from tests.kit import Write, history, login, role

SEED = """CREATE TABLE schema_migrations (
    id serial PRIMARY KEY, version varchar(255) UNIQUE NOT NULL, name varchar(255) NOT NULL,
    applied_at timestamp DEFAULT now(), execution_time_ms int, checksum varchar(64))"""
FULL = """CREATE TABLE schema_migrations (
    id serial PRIMARY KEY, version varchar(255) UNIQUE NOT NULL, name varchar(255) NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(), execution_time_ms int,
    checksum varchar(64), environment text, identity text, git_commit text, applied_by text)"""
TRIGGER = "LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit VALUES ('seen'); RETURN {}; END $$"
SUPABASE = """
CREATE ROLE {anon} NOLOGIN;
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT ALL ON TABLES TO {anon};
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT ALL ON SEQUENCES TO {anon};
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT ALL ON FUNCTIONS TO {anon};
CREATE SCHEMA auth; CREATE TABLE auth.users (id int);
CREATE TABLE auth.schema_migrations (version varchar(255));
CREATE SCHEMA storage; CREATE TABLE storage.migrations (id int, name text);
CREATE SCHEMA realtime;
CREATE TABLE realtime.schema_migrations (version bigint, inserted_at timestamp);
CREATE SCHEMA extensions;
ALTER ROLE {owner} SET search_path = "$user", public, extensions;
CREATE FUNCTION extensions.secure() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE made record;
BEGIN
    FOR made IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table' LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', made.object_identity);
    END LOOP;
END $$;
CREATE EVENT TRIGGER {anon} ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
    EXECUTE FUNCTION extensions.secure()
"""


class Situation(NamedTuple):
    """What a superuser has done before, the files' text, and what the environment has besides."""

    there: str = ""
    text: str = "CREATE TABLE one (i int)"
    named: bool = False
    """Whether MIGRATION_ENV says in so many words whose database it is."""


SITUATIONS = {
    "an empty database of a role that is no superuser": Situation(),
    "the layout of Supabase": Situation(SUPABASE),
    "row security on the history, without FORCE": Situation(
        f"SET ROLE {{owner}}; {FULL}; ALTER TABLE schema_migrations ENABLE ROW LEVEL SECURITY",
        named=True,
    ),
    "a history that belongs to the owner of the database": Situation(
        f"{FULL}; GRANT ALL ON schema_migrations, schema_migrations_id_seq TO {{owner}};"
        "ALTER DATABASE {database} OWNER TO postgres; GRANT CREATE ON SCHEMA public TO {owner}",
        named=True,
    ),
    "a history that belongs to a role which this one is a member of": Situation(
        f"CREATE ROLE {{anon}} NOLOGIN; GRANT CREATE ON SCHEMA public TO {{anon}}; GRANT {{anon}} "
        f"TO {{owner}};"
        f"SET ROLE {{anon}}; {FULL}; RESET ROLE",
        named=True,
    ),
    "a login that acts as the role that owns all": Situation(
        "CREATE ROLE {anon} NOLOGIN; GRANT CREATE ON SCHEMA public TO {anon}; GRANT {anon} TO "
        "{owner};"
        "ALTER ROLE {owner} SET role = {anon}"
    ),
    "a history of the older shape": Situation(
        f"SET ROLE {{owner}}; {SEED}; CREATE TABLE users (id int);"
        "INSERT INTO schema_migrations (version, name) VALUES ('000-zero', 'Zero')",
        named=True,
    ),
    "a history of Rails in another schema": Situation(
        "CREATE SCHEMA rails; CREATE TABLE rails.schema_migrations (version varchar PRIMARY KEY);"
        "INSERT INTO rails.schema_migrations VALUES ('20240101000000')"
    ),
    "another application's tables in a schema of its own": Situation(
        "CREATE SCHEMA crm; CREATE TABLE crm.users (id int); CREATE TABLE crm.alembic_version "
        "(version_num text)"
    ),
    "an extension's table in public, as PostGIS has it": Situation(
        "CREATE TABLE spatial_ref_sys (srid int); ALTER EXTENSION plpgsql ADD TABLE spatial_ref_sys"
    ),
    "an extension's types and functions in public, as citext has them": Situation(
        "CREATE DOMAIN citext AS text; CREATE FUNCTION citext_eq(citext, citext) RETURNS boolean"
        " LANGUAGE sql IMMUTABLE AS 'SELECT true'; ALTER EXTENSION plpgsql ADD FUNCTION "
        "citext_eq(citext, citext)",
        "CREATE TABLE one (email citext)",
    ),
    "TimescaleDB's catalog": Situation(
        "CREATE SCHEMA _timescaledb_catalog; CREATE TABLE _timescaledb_catalog.hypertable (id int)"
    ),
    "views and functions in public, but no table": Situation(
        "CREATE VIEW numbers AS SELECT 1 AS i; CREATE FUNCTION two() RETURNS int LANGUAGE sql AS "
        "'SELECT 2'"
    ),
    "a path that was set for the database": Situation(
        "CREATE SCHEMA app AUTHORIZATION {owner}; ALTER DATABASE {database}"
        ' SET search_path = "$user", app, public'
    ),
    "a host's schema on the path": Situation(
        "CREATE SCHEMA auth; CREATE TABLE auth.users (id int); GRANT USAGE ON SCHEMA auth TO "
        "{owner};"
        "ALTER ROLE {owner} SET search_path = public, auth"
    ),
    "a team's own trigger on the history, with a table that it does not qualify": Situation(
        f"SET ROLE {{owner}}; {FULL}; CREATE TABLE audit (what text); CREATE FUNCTION note() "
        f"RETURNS trigger"
        f" {TRIGGER.format('NEW')}; CREATE TRIGGER note BEFORE INSERT ON schema_migrations FOR "
        "EACH ROW"
        " EXECUTE FUNCTION note(); INSERT INTO schema_migrations (version, name) VALUES "
        "('000-zero', 'Zero')",
        named=True,
    ),
    "an event trigger with a table that it does not qualify": Situation(
        "CREATE SCHEMA audits; CREATE TABLE audits.audit (what text); ALTER EXTENSION plpgsql ADD "
        "TABLE audits.audit;"
        "GRANT USAGE ON SCHEMA audits TO {owner}; GRANT INSERT ON audits.audit TO {owner};"
        "ALTER ROLE {owner} SET search_path = public, audits; CREATE FUNCTION audits.note() "
        "RETURNS event_trigger"
        " LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit VALUES ('seen'); END $$; SET search_path "
        "= public, audits;"
        "CREATE EVENT TRIGGER {anon} ON ddl_command_end EXECUTE FUNCTION audits.note()"
    ),
    "a deferred trigger with a table that it does not qualify": Situation(
        text="CREATE TABLE one (i int); CREATE TABLE audit (what text); CREATE FUNCTION note() "
        "RETURNS trigger"
        f" {TRIGGER.format('NULL')}; CREATE CONSTRAINT TRIGGER note AFTER INSERT ON one DEFERRABLE "
        "INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION note(); INSERT INTO one VALUES (1)"
    ),
    "a dump that empties the path": Situation(
        text="SELECT pg_catalog.set_config('search_path', '', false); CREATE TABLE public.one (i "
        "int)"
    ),
    "a table with a policy that a file reads as another role": Situation(
        "CREATE SCHEMA hr; CREATE TABLE hr.people (who text); ALTER TABLE hr.people ENABLE ROW "
        "LEVEL SECURITY;"
        "CREATE POLICY own ON hr.people USING (who = current_user); GRANT USAGE ON SCHEMA hr TO "
        "{owner};"
        "GRANT SELECT ON hr.people TO {owner}; INSERT INTO hr.people VALUES ('somebody')",
        "CREATE TABLE one AS SELECT * FROM hr.people",
    ),
    "another tool's mark in a string": Situation(
        text="CREATE TABLE one AS SELECT '\n-- +goose Down\n' AS text"
    ),
    "another tool's mark in the body of a function": Situation(
        text="CREATE FUNCTION one() RETURNS int LANGUAGE sql AS $$\n-- migrate:down\nSELECT 1 $$"
    ),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_an_ordinary_situation_is_not_refused(
    server: Server,
    database: Database,
    migrations: Write,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    situation = SITUATIONS[name]
    anon = f'"{database.name}_anon"'
    with login(server, database) as owner:
        names = {"owner": role(owner), "database": f'"{database.name}"', "anon": anon}
        database.execute(f'ALTER DATABASE "{database.name}" OWNER TO {role(owner)}')
        database.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {role(owner)}")
        there = situation.there
        for key, value in names.items():
            there = there.replace(f"{{{key}}}", value)
        database.execute(there) if there else None
        directory = migrations(
            {"000-zero.sql": "SELECT 1;\n", "001-one.sql": f"{situation.text};\n"}
        )
        environ = {"POSTGRES_URL": owner.url, "MIGRATION_DIR": str(directory)}
        if situation.named:
            environ["MIGRATION_ENV"] = "development"
        try:
            for words in (
                [],
                [],
                ["status", "--check"],
                ["validate"],
                ["status", "--upgrade-check"],
            ):
                assert main(words, environ) == 0, capsys.readouterr().err
            [(schema,)] = database.execute(
                "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = "
                "'schema_migrations'"
                " AND relnamespace::regnamespace::text IN ('public', 'app')"
            )
            assert history(database, f"{schema}.schema_migrations") == ["000-zero", "001-one"]
        finally:
            database.execute(f'ALTER DATABASE "{database.name}" OWNER TO postgres')
            server.drop(database)
            server.admin.execute(f"DROP ROLE IF EXISTS {anon}")
