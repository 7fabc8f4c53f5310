"""The two routes as one Starlette application.

`GET /api/migration-status` is public and tells nothing that a stranger may not know.
`POST /api/migrate` needs the secret. It checks a request in this order: path, method,
configuration, secret, size and type, JSON, database.

The status is JSON, or a page where the request prefers HTML, as a browser's does; at `/` it is a
page unless the request prefers JSON. `?format=json` is JSON everywhere.

A request goes one way: an endpoint reads it and awaits the service. Errors become responses in
Starlette's exception handlers, and a middleware adds what all responses have in common.
"""

import json
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib.plan import State
from lib.web.accept import prefers_html
from lib.web.auth import authenticate
from lib.web.request_log import LogEntry
from lib.web.result import ApiResult, RequestRefused, error_result
from lib.web.service import ACTIONS, Service

STATUS, MIGRATE = "/api/migration-status", "/api/migrate"
DEADLINE = "onward.deadline"
"""In the scope of a request whose platform ends it at a time: that time, in monotonic seconds."""
RESPONSE_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
# Nothing but the page's own style and icon: no script, even if one got into it.
_PAGE_POLICY = (
    "default-src 'none'; style-src {}; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_MAX_BODY_BYTES = 4096


def create_app(service: Service) -> Starlette:
    """The application. It serves exactly the two paths, and at `/` the status as a page."""

    async def status(request: Request) -> Response:
        result = await service.public_status()
        required = request.query_params.get("require") == "current"
        if required and result.document.get("state") in (State.PENDING, State.CONFLICT):
            result = result._replace(status=503)
        return _negotiated(request, result, otherwise_page=request.scope["path"] == "/")

    async def migrate(request: Request) -> Response:
        entry = request.state.log_entry = LogEntry()
        secrets = await service.secrets()
        entry.fields["secret"] = authenticate(request.headers.getlist("authorization"), secrets)
        body = await _read_body(request)
        entry.fields["action"] = action = _requested_action(request.headers, body)
        deadline = request.scope.get(DEADLINE)
        applied_by = "api" if deadline is None else "lambda"
        result = await service.perform(action, applied_by=applied_by, deadline=deadline)
        return _response(entry.write(result))

    async def migrate_error(request: Request, error: Exception) -> Response:
        entry: LogEntry = request.state.log_entry
        return _response(entry.write(service.error_result(error, entry)))

    # Starlette's own handler of Exception would raise the error again after its response, and the
    # platform would log it: with its text, which may hold a URL.
    handlers = {HTTPException: migrate_error, Exception: migrate_error}
    migrate_middleware = [Middleware(ExceptionMiddleware, handlers=handlers)]
    routes = [ExactRoute(MIGRATE, migrate, methods=["POST"], middleware=migrate_middleware)]
    if not service.hides_status:
        routes += [ExactRoute(path, status, methods=["GET"]) for path in (STATUS, "/")]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(CommonResponse)],
        exception_handlers={HTTPException: _http_error},
    )
    app.router.redirect_slashes = False  # the Host header would decide where a redirect leads
    return app


class ExactRoute(Route):
    """A route whose path must be written as it is: `%2f` and the like match nothing."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Starlette's own match, but for a path with an escape in it."""
        if b"%" in (scope.get("raw_path") or b""):
            return Match.NONE, {}
        return super().matches(scope)


class CommonResponse:
    """Middleware: adds the headers that all responses have, and sends no body to a HEAD request.

    Neither Vercel's runtime nor Mangum leaves the body out.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def send_changed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(RESPONSE_HEADERS)
            elif message["type"] == "http.response.body" and scope["method"] == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        await self._app(scope, receive, send_changed)


async def _read_body(request: Request) -> bytes:
    """The body, read no further than to its limit. Raises RequestRefused."""
    if "content-encoding" in request.headers:
        raise RequestRefused(415, "unsupported_encoding", "Send the body without Content-Encoding.")
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY_BYTES:
                message = f"The body is larger than {_MAX_BODY_BYTES} bytes."
                raise RequestRefused(413, "too_large", message)
    except ClientDisconnect:
        raise RequestRefused(400, "disconnected", "The request was interrupted.") from None
    return body


def _requested_action(headers: Headers, body: bytes) -> str:
    """The action that a body names; no body means `migrate`. Raises RequestRefused.

    A body with anything else in it is refused, so that none is misunderstood.
    """
    if not body:
        return "migrate"
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise RequestRefused(415, "unsupported_type", "Send application/json or no body.")
    document = _parse_json(body)
    action = document.pop("action", "migrate") if isinstance(document, dict) else None
    if document or action not in ACTIONS:
        raise RequestRefused(
            400,
            "invalid_request",
            'The body must be {"action": "migrate" | "status" | "validate"}, {} or empty.',
        )
    return str(action)


def _parse_json(body: bytes) -> Any:
    """The document. Raises RequestRefused, also for what only Python takes for JSON."""
    try:
        return json.loads(
            body.decode(), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        raise RequestRefused(400, "invalid_json", "The body is not valid JSON.") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key is there twice")
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, which no line of the log is written for."""
    return _negotiated(request, error_result(error))


def _negotiated(request: Request, result: ApiResult, *, otherwise_page: bool = False) -> Response:
    """The result in the form that the request prefers."""
    accept = ",".join(request.headers.getlist("accept"))
    wants_page = prefers_html(accept, otherwise=otherwise_page)
    is_json = request.query_params.get("format") == "json" or not wants_page
    response = _response(result) if is_json else _page(result)
    response.headers["Vary"] = "Accept"
    return response


def _response(result: ApiResult) -> Response:
    return JSONResponse(result.document, result.status, headers=result.headers)


def _page(result: ApiResult) -> Response:
    # Most requests, and every cold start, do without it.
    from lib.report.page_style import STYLE_SOURCE  # noqa: PLC0415

    response = HTMLResponse(_LATEST.page(result), result.status, headers=result.headers)
    response.headers["Content-Security-Policy"] = _PAGE_POLICY.format(STYLE_SOURCE)
    return response


class _Latest:
    """The page that was made last: a status is shared, and so is its page."""

    def __init__(self) -> None:
        # Threads share it, so document and page are assigned together.
        self._made: tuple[object, str] = None, ""

    def page(self, result: ApiResult) -> str:
        """The page of a result."""
        from lib.report.page import page  # noqa: PLC0415 - as in `_page`

        document, made = self._made
        if document is not result.document:
            made = page(result.document, datetime.now(UTC))
            self._made = result.document, made
        return made


_LATEST = _Latest()
