"""A plain dump made into a migration."""

from lib.source.dump import as_migration, objects_of

DUMP = r"""--
-- PostgreSQL database dump
--

\restrict kQ1

-- Dumped from database version 18.1

SET statement_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SELECT pg_catalog.set_config('search_path', '', false);

--
-- Name: app; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA app;

--
-- Name: EXTENSION hstore; Type: COMMENT; Schema: -; Owner: -
--

COMMENT ON EXTENSION hstore IS 'ours;
of two lines';

--
-- Name: f(); Type: FUNCTION; Schema: app; Owner: -
--

CREATE FUNCTION app.f() RETURNS int
    LANGUAGE sql
    AS $$
-- a comment; of the body
\restrict of the body
SELECT 1; $$;

--
-- Data for Name: t; Type: TABLE DATA; Schema: app; Owner: -
--

INSERT INTO app.t (a) VALUES
	('\unrestrict x
SET lock_timeout = 0;
');
INSERT INTO app.t (a) VALUES
	('b');
INSERT INTO app.u (a) VALUES
	('c');
ALTER DEFAULT PRIVILEGES FOR ROLE admin IN SCHEMA app GRANT SELECT ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE other IN SCHEMA app GRANT SELECT ON TABLES TO admin;

\unrestrict kQ1
"""
MIGRATION = r"""SET client_encoding = 'UTF8';

CREATE SCHEMA IF NOT EXISTS app;

CREATE FUNCTION app.f() RETURNS int
    LANGUAGE sql
    AS $$
-- a comment; of the body
\restrict of the body
SELECT 1; $$;

INSERT INTO app.t (a) VALUES
	('\unrestrict x
SET lock_timeout = 0;
');
INSERT INTO app.t (a) VALUES
	('b');

INSERT INTO app.u (a) VALUES
	('c');

ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO PUBLIC;

ALTER DEFAULT PRIVILEGES FOR ROLE other IN SCHEMA app GRANT SELECT ON TABLES TO admin;
"""


def test_what_a_file_must_not_contain_is_left_out_and_the_rest_is_as_it_was() -> None:
    assert as_migration(DUMP, "admin") == MIGRATION


def test_what_is_a_migration_already_stays_as_it_is() -> None:
    assert as_migration(MIGRATION.replace(" IF NOT EXISTS", ""), "admin") == MIGRATION


def test_the_objects_of_a_dump_are_those_that_its_comments_name() -> None:
    assert objects_of(DUMP) == [
        "Name: EXTENSION hstore; Type: COMMENT; Schema: -",
        "Name: app; Type: SCHEMA; Schema: -",
        "Name: f(); Type: FUNCTION; Schema: app",
    ]
