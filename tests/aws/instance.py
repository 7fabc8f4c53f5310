"""A function of Lambda's in this process, and what it is given."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lib.aws.function import Handler
from tests.conftest import Database
from tests.kit import SECRET

Event = dict[str, Any]
Request = Callable[..., Event]


@dataclass(frozen=True)
class Context:
    """What Lambda tells a handler beside the event."""

    seconds: float = 60.0

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


def configuration(database: Database) -> dict[str, str]:
    """A function's variables."""
    return {"MIGRATION_ENV": "test", "MIGRATION_SECRET": SECRET, "DATABASE_URL": database.url}


def function(database: Database, **environ: str) -> Handler:
    """A new instance of the function."""
    return Handler(configuration(database) | environ)


def answer(handler: Handler, event: Event) -> tuple[int, Any]:
    """Status and document of an HTTP answer, which must be JSON as text."""
    response = handler(event, Context())
    assert response["isBase64Encoded"] is False
    return response["statusCode"], json.loads(response["body"])
