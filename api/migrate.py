"""POST /api/migrate."""

from lib.web import app
