"""Onward: forward-only Postgres migrations that ship with a serverless deploy."""

from pathlib import Path

VERSION = "0.1.0"
ROOT = Path(__file__).resolve().parent.parent
"""The folder of the project: what `migrations/` and the `.env` files are looked for in."""
