"""The two routes as one Starlette application.

`GET /api/migration-status` is public and says nothing that a stranger may not know. `POST
/api/migrate` wants the secret, and looks at a request in this order: path, method, configuration,
secret, size and type, JSON, database.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import Scope

from lib import ROOT
from lib.plan import State
from lib.web import auth
from lib.web.service import ACTIONS, ApiResult, Refused, Service

STATUS, MIGRATE = "/api/migration-status", "/api/migrate"
_LONGEST_BODY = 4096
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def create_app(service: Service) -> Starlette:
    """The application. Answers exactly two paths, and `/` with the page that names them."""

    async def status(request: Request) -> Response:
        answer = await service.public_status()
        wanted = request.query_params.get("require") == "current"
        if wanted and answer.document.get("state") in (State.PENDING, State.CONFLICT):
            answer = answer._replace(status=503)
        return _response(request, answer)

    async def migrate(request: Request) -> Response:
        with service.exchange() as exchange:
            exchange.entry["secret"] = _authenticate(request, await service.secrets())
            exchange.entry["action"] = action = _action(request, await _body(request))
            deadline = request.scope.get("onward.deadline")  # set by what knows the platform's
            by = "api" if deadline is None else "lambda"
            exchange.answer = await service.perform(action, applied_by=by, deadline=deadline)
        return _response(request, exchange.answer)

    routes = [
        _ExactRoute(MIGRATE, migrate, methods=["POST"]),
        _ExactRoute("/", _page, methods=["GET"]),
    ]
    if not service.hides_status:
        routes.append(_ExactRoute(STATUS, status, methods=["GET"]))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    app.router.redirect_slashes = False  # a redirect would be built from the Host header
    return app


class _ExactRoute(Route):
    """A route whose path must be written as it is: `%2f` and its like name nothing here."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (
            (Match.NONE, {}) if b"%" in (scope.get("raw_path") or b"") else super().matches(scope)
        )


def _authenticate(request: Request, secrets: Mapping[str, bytes]) -> str:
    """Which of the secrets the request carries. Raises Refused."""
    given = request.headers.getlist("authorization")
    if not given:
        raise Refused(
            401, "unauthorized", "A bearer token is needed.", {"WWW-Authenticate": "Bearer"}
        )
    scheme, _, rest = given[0].partition(" ")
    token = rest.lstrip(" ")
    digest = _digest(token.encode("latin-1", "replace") if len(token) <= auth.LONGEST else b"")
    # Digests, in constant time, and of every slot: neither which one nor how much of it matched can
    # be measured.
    matching = [
        slot for slot, secret in secrets.items() if hmac.compare_digest(digest, _digest(secret))
    ]
    if len(given) > 1 or scheme.lower() != "bearer" or not matching:
        challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        raise Refused(401, "unauthorized", "The bearer token is not valid.", challenge)
    return matching[0]


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


async def _body(request: Request) -> bytes:
    if "content-encoding" in request.headers:
        raise Refused(
            415, "unsupported_encoding", "Send the body as it is, without Content-Encoding."
        )
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LONGEST_BODY:
                raise Refused(413, "too_large", f"A body has at most {_LONGEST_BODY} bytes.")
    except ClientDisconnect:
        raise Refused(400, "disconnected", "The request broke off.") from None
    return body


def _action(request: Request, body: bytes) -> str:
    """What a body asks for; nothing in it may be misunderstood. Raises Refused."""
    if not body:
        return "migrate"
    if (
        request.headers.get("content-type", "").partition(";")[0].strip().lower()
        != "application/json"
    ):
        raise Refused(415, "unsupported_type", "Send application/json, or no body.")
    try:
        document = json.loads(
            body.decode(), object_pairs_hook=_without_doubles, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        raise Refused(400, "invalid_json", "The body is not valid JSON.") from None
    action = document.pop("action", "migrate") if isinstance(document, dict) else None
    if document or action not in ACTIONS:
        raise Refused(
            400,
            "invalid_request",
            'The body may say {"action": "migrate" | "status" | "validate"} only.',
        )
    return str(action)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError
    return document


def _no_constant(_: str) -> None:
    raise ValueError


async def _page(request: Request) -> Response:
    try:
        page = (ROOT / "public" / "index.html").read_bytes()
    except FileNotFoundError:  # where the platform itself publishes it, it is not in the function
        raise HTTPException(404) from None
    return _for_method(request, HTMLResponse(page, headers=_HEADERS))


def _response(request: Request, answer: ApiResult) -> Response:
    return _for_method(
        request,
        JSONResponse(answer.document, answer.status, headers={**_HEADERS, **answer.headers}),
    )


def _for_method(request: Request, response: Response) -> Response:
    if request.method == "HEAD":
        response.body = b""  # neither Vercel's runtime nor Mangum takes it out
    return response


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's 404 and 405, in our form and with its headers."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return _response(request, Refused(error.status_code, code, error.detail, error.headers).answer)
