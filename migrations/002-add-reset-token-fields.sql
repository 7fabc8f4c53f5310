-- Version: 002
-- Date: 2026-11-22
-- Description: Add reset token fields
--
-- A password reset: the token's hash (never the token) and when it stops to be valid.

ALTER TABLE users
    ADD COLUMN IF NOT EXISTS reset_token_hash TEXT,
    ADD COLUMN IF NOT EXISTS reset_token_expires_at TIMESTAMPTZ;

CREATE UNIQUE INDEX IF NOT EXISTS users_reset_token_hash_key
    ON users (reset_token_hash)
    WHERE reset_token_hash IS NOT NULL;
