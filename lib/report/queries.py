"""The statements that a database runs, as a JSON document. Pure."""

from collections.abc import Sequence
from typing import Any

from lib.history import History
from lib.observation import Query
from lib.queries import FORMAT
from lib.report.document import iso
from lib.settings.config import Config


def queries_dict(config: Config, history: History, queries: Sequence[Query]) -> dict[str, Any]:
    """The document that `--queries` reads."""
    return {
        "success": True,
        "format": FORMAT,
        "environment": config.environment,
        "database": history.database,
        "pgVersion": f"PostgreSQL {history.version.split()[0]}",
        "asOf": iso(history.activity.as_of) if history.activity else None,
        "queries": [
            {"text": one.text, "callsPerMinute": round(one.calls_a_minute, 3)} for one in queries
        ],
    }


def queries_text(queries: Sequence[Query]) -> str:
    """What the document has."""
    calls = sum(one.calls_a_minute for one in queries)
    count = "1 statement" if len(queries) == 1 else f"{len(queries)} statements"
    return f"✅ {count}, {calls:,.0f} calls a minute"
