"""`MIGRATION_WEBHOOK`: one POST after a run that changed something, or could not.

The document is what HTTP may say of the run, so it has no row, no SQL and no secret in it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from threading import Thread
from typing import Any

from lib.errors import OnwardError, RunFailed
from lib.events import RunResult
from lib.report.document import public_error_dict, restore_point_dict, run_dict
from lib.settings.environ import value_of

URL_VARIABLE, SECRET_VARIABLE = "MIGRATION_WEBHOOK", "MIGRATION_WEBHOOK_SECRET"
Resolve = Callable[[], Mapping[str, str]]
SIGNATURE_HEADER = "X-Onward-Signature-256"
SECONDS = 5.0
_TO_ANSWER_SECONDS = 0.5  # before a deadline
_SUCCESS = range(200, 300)
_NAMES_SHOWN = 5
_DRIFT = "\n⚠️ The schema was not as the migrations left it: scripts/migrate.py drift"


class Webhook:
    """The address of an environment that is told of runs, if it has one.

    Nothing here raises: what prevents a POST is a warning, and never names the URL, which is a
    secret itself.
    """

    def __init__(self, environ: Mapping[str, str], resolve: Resolve | None = None) -> None:
        """`resolve` makes an environment without references of it, only if there is an address."""
        self._environ = environ
        self._resolve = resolve or (lambda: environ)

    def tell_result(self, result: RunResult, *, before: float = math.inf) -> str:
        """Post what a run has applied or taken over, if anything. Returns a warning, mostly empty.

        It takes SECONDS at most, and ends `before` a time (monotonic seconds).
        """
        if not (result.applied or result.taken_over):
            return ""
        return self._post(run_dict(result, full=True), _applied_text(result), before)

    def tell_error(self, error: OnwardError, environment: str, *, before: float = math.inf) -> str:
        """Post why a run has failed, or was refused. Returns a warning, as `tell_result` does."""
        document = public_error_dict(error) | {"environment": environment}
        if isinstance(error, RunFailed):
            document |= restore_point_dict(error.way_back)
        return self._post(document, _error_text(error, environment), before)

    def _post(self, document: dict[str, Any], text: str, before: float) -> str:
        if not value_of(self._environ, URL_VARIABLE):
            return ""
        # Slack shows `text`, Discord `content`.
        body = json.dumps({"text": text, "content": text, **document}).encode()
        seconds = max(0.1, min(SECONDS, before - time.monotonic() - _TO_ANSWER_SECONDS))
        problems = ["no answer in time"]

        def deliver() -> None:
            problems[0] = self._delivered(body, seconds)

        # The limits of what is called are for one step each; a name that is not resolved, or an
        # answer that comes byte by byte, would take longer.
        thread = Thread(target=deliver, daemon=True)
        thread.start()
        thread.join(seconds)
        return problems[0] and f"{URL_VARIABLE} could not be told of this run: {problems[0]}"

    def _delivered(self, body: bytes, seconds: float) -> str:
        """Send it; what prevents that in words, empty if nothing does."""
        try:
            environ = self._resolve()
            url, secret = (value_of(environ, name) for name in (URL_VARIABLE, SECRET_VARIABLE))
            if not url.lower().startswith("https://"):
                return "it is no https:// URL"
            status = _send(url, body, _signature(secret, body), seconds)
        except OnwardError as error:
            return error.message
        except Exception as error:  # whatever the library raises, the run is over
            return type(error).__name__
        return "" if status in _SUCCESS else f"status {status}"


def _applied_text(result: RunResult) -> str:
    count, place = len(result.applied), f"{result.environment} ({result.database})"
    migrations = "1 migration" if count == 1 else f"{count} migrations"
    more = f"; {len(result.remaining)} remain" if result.remaining else ""
    applied = f"{migrations} applied: {_named(result)}{more}" if count else ""
    taken_over = f"{len(result.taken_over)} taken over" if result.taken_over else ""
    done = "; ".join(filter(None, (taken_over, applied)))
    return f"✅ {place}: {done}{_DRIFT if result.drift_found else ''}"


def _error_text(error: OnwardError, environment: str) -> str:
    found = public_error_dict(error)["error"]
    where = f" {found['version']}" if found.get("version") else ""
    sqlstate = f" (SQLSTATE {found['sqlstate']})" if found.get("sqlstate") else ""
    applied = f" Applied before: {_named(error)}." if _named(error) else ""
    return f"❌ {environment}:{where}{sqlstate} {found['message']}{applied}"


def _named(run: RunResult | OnwardError) -> str:
    done = run.applied if isinstance(run, RunResult | RunFailed) else ()
    names = [one.version for one in done[:_NAMES_SHOWN]]
    more = f" and {len(done) - _NAMES_SHOWN} more" if len(done) > _NAMES_SHOWN else ""
    return f"{', '.join(names)}{more}"


def _signature(secret: str, body: bytes) -> str:
    """HMAC-SHA256 of the body, as GitHub writes it; empty without a secret."""
    import hmac  # noqa: PLC0415 - few runs need it

    return f"sha256={hmac.digest(secret.encode(), body, 'sha256').hex()}" if secret else ""


def _send(url: str, body: bytes, signature: str, seconds: float) -> int:
    """POST it, follow no redirect, and return the status."""
    from http.client import HTTPSConnection  # noqa: PLC0415 - as above
    from urllib.parse import urlsplit  # noqa: PLC0415 - as above

    parts = urlsplit(url)
    headers = {"Content-Type": "application/json", "User-Agent": "onward"}
    if signature:
        headers[SIGNATURE_HEADER] = signature
    connection = HTTPSConnection(parts.hostname or "", parts.port, timeout=seconds)
    try:
        path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        connection.request("POST", path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()
