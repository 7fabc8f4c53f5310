"""GET /api/migration-status."""

from lib.vercel import app
