"""The request log: one JSON object on one line of stdout, where every platform collects it."""

import json
import secrets
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

from lib.errors import OnwardError
from lib.settings.redactor import Redactor
from lib.web.result import ApiResult, RequestRefused

NOTHING: Mapping[str, Any] = MappingProxyType({})


class LogEntry:
    """The line of one request. It grows while the request is worked on, and is written once."""

    def __init__(
        self,
        action: str | None = None,
        about: Mapping[str, Any] = NOTHING,
        *,
        log: TextIO | None = None,
    ) -> None:
        """`about` is what the line says besides: which tenant's database this is, for instance.

        Without a log the line goes to stdout.
        """
        self.fields: dict[str, Any] = {
            "requestId": secrets.token_hex(16),
            "action": action,
            **about,
        }
        self._log = log
        self._started = time.monotonic()

    def explain(self, error: Exception, redactor: Redactor) -> None:
        """Why the request failed, without secrets."""
        if isinstance(error, OnwardError):
            self.add_reason(redactor.text(error.message, thorough=True))
        elif not isinstance(error, RequestRefused):
            words = f"{type(error).__name__}: {error}"
            self.add_reason(redactor.text(words, thorough=True))
            self.add_traceback(error)

    def add_reason(self, reason: str) -> None:
        """Why the request failed. The reason must hold no secret."""
        self.fields["reason"] = reason

    def add_traceback(self, error: Exception) -> None:
        """Where an unforeseen error was raised: files and lines, without any values."""
        frames = traceback.extract_tb(error.__traceback__)
        self.fields["where"] = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]

    def write(self, result: ApiResult) -> ApiResult:
        """Write the line. Returns the result with the line's id in a header."""
        self.fields["durationMs"] = round((time.monotonic() - self._started) * 1000)
        log = self._log or sys.stdout
        log.write(json.dumps(self.fields | _outcome(result)) + "\n")
        log.flush()
        headers = {**result.headers, "X-Request-Id": self.fields["requestId"]}
        return result._replace(headers=headers)


def _outcome(result: ApiResult) -> dict[str, Any]:
    """What the log says of a result: codes and versions, no sentences."""
    error = dict(result.document.get("error", {}))
    error.pop("message", None)
    code = error.pop("code", None)
    return {
        "status": result.status,
        "outcome": code or result.document.get("state", "ok"),
        "applied": [done["version"] for done in result.document.get("applied", ())],
        **error,
    }
