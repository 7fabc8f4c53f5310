"""The function on AWS Lambda, `lib.aws.handler`: HTTP events, direct events, and references to
stored secrets.

The direct event {"action": "migrate" | "status" | "validate"} returns what the route would answer;
IAM is its guard, so it needs no secret. A URL variable, MIGRATION_SECRET and
MIGRATION_SECRET_PREVIOUS may hold a reference:

    secretsmanager:NAME        the text of a secret; NAME may be an ARN
    secretsmanager:NAME#KEY    one string of a secret that is a JSON object
    ssm:/NAME                  a parameter, decrypted

A secret with `username` and `password`, as RDS makes and rotates them, does not say where the
database is. Another URL variable says that, with a URL that has no password:

    MIGRATION_DATABASE_URL=secretsmanager:rds!db-4f1c
    DATABASE_URL=postgresql://app.cluster-abc.eu-west-1.rds.amazonaws.com:5432/app

Nothing here may call asyncio.run: it would take the event loop from the HTTP events that come after
it.
"""

# ruff: noqa: E402 - the collector must be off before anything else is imported
import gc

from lib.aws.secrets import SecretReferences

gc.disable()  # looking for garbage among what is imported takes a sixth of a cold start, and finds none

import base64
import json
import re
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from mangum import Mangum

from lib.web.routes import MIGRATE, STATUS, create_app
from lib.web.service import ACTIONS, Service

GATEWAY_SECONDS = 27.0  # seconds; API Gateway gives up after 29, however long the function may run
# A stage, the base path of a custom domain, the path of a balancer's rule: all that may be in front
# of a route.
_PREFIXED = re.compile(rf"(?:/(?!\.\.?/)[\w.~$+!*'()-]+)+({MIGRATE}|{STATUS})", re.ASCII)


class UnknownEvent(Exception):
    """An event that is neither an HTTP request nor a direct one. Names its keys, never their
    values.
    """


class Handler:
    """What Lambda calls: one service behind both kinds of event."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._service = Service(environ, SecretReferences())
        self._app = create_app(self._service)
        self._adapter = Mangum(self._serve, lifespan="off")

    def __call__(self, event: Any, context: Any) -> Any:
        """Answer one event. Raises UnknownEvent."""
        keys = event if isinstance(event, dict) else ()
        if "requestContext" in keys:
            return (
                self._adapter(event, context)
                if self._is_readable(event, context)
                else _bad_request(event)
            )
        if "action" in keys:
            return self._direct(event, context)
        named = sorted(str(key)[:40] for key in keys)[:10]
        raise UnknownEvent(
            f'neither an HTTP request nor {{"action": ...}}, but {type(event).__name__} with keys {named}'
        )

    def _direct(self, event: Mapping[str, Any], context: Any) -> dict[str, Any]:
        if set(event) != {"action"} or event["action"] not in ACTIONS:
            return _refusal('The event may say {"action": "migrate" | "status" | "validate"} only.')
        return self._service.act(
            event["action"], applied_by="lambda", seconds=_seconds(context)
        ).document

    def _is_readable(self, event: dict[str, Any], context: Any) -> bool:
        """Whether Mangum can make a request of it, which believes every field, and the Host
        header's port.
        """
        try:
            request = self._adapter.infer(event, context)
            scope, _ = request.scope, request.body
            if event.get("isBase64Encoded"):
                base64.b64decode(event.get("body") or "", validate=True)
        except Exception:  # whatever it stumbled over is the request's fault
            return False
        return isinstance(event["requestContext"], dict) and {
            type(scope["method"]),
            type(scope["path"]),
        } == {str}

    async def _serve(
        self, scope: MutableMapping[str, Any], receive: Callable[..., Any], send: Callable[..., Any]
    ) -> None:
        """The application, told what Mangum leaves out: the path as it was sent, less a prefix, and
        the time left.
        """
        event, seconds = scope["aws.event"], _seconds(scope["aws.context"])
        stage, domain = (str(event["requestContext"].get(name)) for name in ("stage", "domainName"))
        if route := _PREFIXED.fullmatch(scope["path"]):
            scope["path"] = route[1]
        elif "version" in event and scope["path"].removesuffix("/") == f"/{stage}":
            scope["path"] = "/"
        scope["raw_path"] = str(event.get("rawPath") or event.get("path")).encode(errors="replace")
        scope["onward.deadline"] = time.monotonic() + (
            seconds if ".lambda-url." in domain else min(seconds, GATEWAY_SECONDS)
        )
        await self._app(scope, receive, send)


def _seconds(context: Any) -> float:
    return int(context.get_remaining_time_in_millis()) / 1000


def _refusal(message: str) -> dict[str, Any]:
    return {"success": False, "error": {"code": "invalid_request", "message": message}}


def _bad_request(event: Mapping[str, Any]) -> dict[str, Any]:
    headers = {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    body = json.dumps(_refusal("The request cannot be read."))
    several = {"multiValueHeaders": {name: [value] for name, value in headers.items()}}
    return {"statusCode": 400, "body": body, "isBase64Encoded": False, "headers": headers} | (
        several if "multiValueHeaders" in event else {}
    )
