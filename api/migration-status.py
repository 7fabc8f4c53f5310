"""GET /api/migration-status."""

from lib.web import app
