"""The function on AWS Lambda: what `lib.aws.handler` does with an event.

Lambda calls `handler(event, context)`, and there are two kinds of events.

- An HTTP request, which a function URL, an API Gateway or a load balancer has made into an event.
  Mangum makes it a request again, for the same application that runs on Vercel.
- A direct event, `{"action": "migrate" | "status" | "validate"}`, which somebody with permission to
  invoke the function has sent, for instance with scripts/invoke.py. It returns the document that
  the route would answer with. IAM is its guard, so it needs no secret.

Any other event raises UnknownEvent, and Lambda reports the invocation as failed.

Nothing here may call asyncio.run, which would take the event loop from the HTTP events after it.
"""

import base64
import json
import re
import time
from collections.abc import Mapping
from typing import Any

from mangum import Mangum
from starlette.types import Receive, Scope, Send

from lib.aws.secrets import SecretReferences
from lib.report.document import error_document
from lib.web.routes import DEADLINE, MIGRATE, RESPONSE_HEADERS, STATUS, create_app
from lib.web.service import ACTIONS, Service

GATEWAY_SECONDS = 27.0
"""API Gateway gives up after 29 seconds, however long the function may run."""
# In front of a route there may be a stage, the base path of a custom domain, or the path of a load
# balancer's rule.
_PREFIXED_ROUTE = re.compile(rf"(?:/(?!\.\.?/)[\w.~$+!*'()-]+)+({MIGRATE}|{STATUS})", re.ASCII)


class UnknownEvent(Exception):
    """An event that is neither an HTTP request nor a direct one. Names its keys, never their
    values.
    """


class Handler:
    """What Lambda calls: one service behind both kinds of events."""

    def __init__(
        self, environ: Mapping[str, str], *, gateway_seconds: float = GATEWAY_SECONDS
    ) -> None:
        self._environ, self._references = environ, SecretReferences()
        self.service = Service(environ, self._references)
        self._app = create_app(self.service)
        self._mangum = Mangum(self._serve, lifespan="off")
        self._gateway_seconds = gateway_seconds

    def __call__(self, event: Any, context: Any) -> Any:
        """Answer one event. Raises UnknownEvent."""
        keys = event if isinstance(event, dict) else ()
        if "requestContext" in keys:
            return self._answer_http(event, context)
        if "action" in keys:
            return self._answer_direct(event, context)
        shown = sorted(str(key)[:40] for key in keys)[:10]
        raise UnknownEvent(
            f'neither an HTTP request nor {{"action": ...}}, but {type(event).__name__} with keys '
            f"{shown}"
        )

    def _answer_direct(self, event: Mapping[str, Any], context: Any) -> dict[str, Any]:
        if "tenants" in event:
            return self._answer_fleet(event, context)
        if set(event) != {"action"} or event["action"] not in ACTIONS:
            return error_document(
                "invalid_request",
                'The event must be {"action": "migrate" | "status" | "validate"}.',
            )
        result = self.service.call(
            event["action"], applied_by="lambda", seconds=_seconds_left(context)
        )
        return result.document

    def _answer_fleet(self, event: Mapping[str, Any], context: Any) -> dict[str, Any]:
        from lib.aws import fleet  # noqa: PLC0415 - the function of one database does not need it

        return fleet.work(event, self._environ, self._references, _seconds_left(context))

    def _answer_http(self, event: dict[str, Any], context: Any) -> Any:
        if self._is_malformed(event, context):
            return _bad_request(event)
        return self._mangum(event, context)

    def _is_malformed(self, event: dict[str, Any], context: Any) -> bool:
        """Whether Mangum would fail on the event. It trusts every field, and the port in the Host
        header.
        """
        try:
            request = self._mangum.infer(event, context)
            scope, _ = request.scope, request.body
            if event.get("isBase64Encoded"):
                base64.b64decode(event.get("body") or "", validate=True)
        except Exception:  # whatever was raised, the request is at fault
            return True
        texts = (scope["method"], scope["path"])
        return not (
            isinstance(event["requestContext"], dict) and all(type(text) is str for text in texts)
        )

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application with what Mangum leaves out of the scope."""
        event, context = scope["aws.event"], scope["aws.context"]
        scope["path"] = _path_without_prefix(scope["path"], event)
        path_as_sent = str(event.get("rawPath") or event.get("path"))
        scope["raw_path"] = path_as_sent.encode(errors="replace")
        scope[DEADLINE] = time.monotonic() + self._seconds_to_answer(event, context)
        await self._app(scope, receive, send)

    def _seconds_to_answer(self, event: Mapping[str, Any], context: Any) -> float:
        """A function URL waits for as long as the function runs; a gateway does not."""
        seconds = _seconds_left(context)
        if ".lambda-url." in str(event["requestContext"].get("domainName")):
            return seconds
        return min(seconds, self._gateway_seconds)


def _path_without_prefix(path: str, event: Mapping[str, Any]) -> str:
    if route := _PREFIXED_ROUTE.fullmatch(path):
        return route[1]
    stage = event["requestContext"].get("stage")
    if "version" in event and path.removesuffix("/") == f"/{stage}":
        return "/"
    return path


def _seconds_left(context: Any) -> float:
    return int(context.get_remaining_time_in_millis()) / 1000


def _bad_request(event: Mapping[str, Any]) -> dict[str, Any]:
    """The response to an HTTP event that cannot be made a request."""
    headers = {"Content-Type": "application/json", **RESPONSE_HEADERS}
    document = error_document("invalid_request", "The request cannot be read.")
    response = {
        "statusCode": 400,
        "headers": headers,
        "body": json.dumps(document),
        "isBase64Encoded": False,
    }
    if "multiValueHeaders" in event:
        response["multiValueHeaders"] = {name: [value] for name, value in headers.items()}
    return response
