-- Version: 000
-- Date: 2026-11-22
-- Description: Create migration table
--
-- The history of this database: one row for each migration that was applied.
-- The runner makes this table before it runs the first file, so in a database of ours this changes nothing;
-- it stands here so that the whole schema can be built from the files alone. A history in another schema counts:
-- a second, empty table on the search path would make a migrated database look new.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class WHERE relname = 'schema_migrations' AND relkind IN ('r', 'p')) THEN
        CREATE TABLE schema_migrations (
            id                SERIAL PRIMARY KEY,
            version           VARCHAR(255) UNIQUE NOT NULL,
            name              VARCHAR(255) NOT NULL,
            applied_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
            execution_time_ms INTEGER,
            checksum          VARCHAR(64),
            environment       TEXT,
            identity          TEXT,
            git_commit        TEXT,
            applied_by        TEXT
        );
    END IF;
END
$$;
