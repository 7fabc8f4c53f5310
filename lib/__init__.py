"""Onward: forward-only Postgres migrations that ship with a serverless deploy."""

VERSION = "0.1.0"
