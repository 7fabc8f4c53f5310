"""POST /api/migrate."""

from lib.vercel import app
