"""The function on AWS Lambda, `lib.aws.handler`: HTTP events, direct events, and references to stored secrets.

The direct event {"action": "migrate" | "status" | "validate"} returns what the route would answer; IAM is its guard,
so it needs no secret. A URL variable, MIGRATION_SECRET and MIGRATION_SECRET_PREVIOUS may hold a reference:

    secretsmanager:NAME        the text of a secret; NAME may be an ARN
    secretsmanager:NAME#KEY    one string of a secret that is a JSON object
    ssm:/NAME                  a parameter, decrypted

A secret with `username` and `password`, as RDS makes and rotates them, does not say where the database is. Another URL
variable says that, with a URL that has no password:

    MIGRATION_DATABASE_URL=secretsmanager:rds!db-4f1c
    DATABASE_URL=postgresql://app.cluster-abc.eu-west-1.rds.amazonaws.com:5432/app

Nothing here may call asyncio.run: it would take the event loop from the HTTP events that come after it.
"""

# ruff: noqa: E402 - the collector must be off before anything else is imported
import gc

gc.disable()  # looking for garbage among what is imported takes a sixth of a cold start, and finds none

import base64
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import quote

from mangum import Mangum

from lib.config import URL_VARIABLES, named_targets, parse_url
from lib.errors import ConfigError
from lib.service import ACTIONS, Service
from lib.threads import Shared
from lib.web import MIGRATE, STATUS, create_app

_GATEWAY = 27.0  # seconds; API Gateway gives up after 29, however long the function may run
_REMEMBERED = 60.0
_ASKED_ONCE_IN = 5.0  # seconds: a store is asked the same no more often, whatever it says, and if it fails
# A stage, the base path of a custom domain, the path of a balancer's rule: all that may be in front of a route.
_PREFIXED = re.compile(rf"(?:/(?!\.\.?/)[\w.~$+!*'()-]+)+({MIGRATE}|{STATUS})", re.ASCII)
_MAKING_CLIENTS = Lock()  # boto3's default session is not safe for threads; its clients are
_REFERENCE = re.compile(r"(secretsmanager|ssm):.+")
_DENIED = "this function's role may not read it"
_MISSING = "there is none of that name in this account and region"
_REASONS = {
    "403": _DENIED,
    "AccessDeniedException": _DENIED,
    "InvalidRequestException": "it is marked for deletion",
    "ParameterNotFound": _MISSING,
    "ResourceNotFoundException": _MISSING,
}


class UnknownEvent(Exception):
    """An event that is neither an HTTP request nor a direct one. Names its keys, never their values."""


class Handler:
    """What Lambda calls: one service behind both kinds of event."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._service = Service(environ, References())
        self._app = create_app(self._service)
        self._adapter = Mangum(self._serve, lifespan="off")

    def __call__(self, event: Any, context: Any) -> Any:
        """Answer one event. Raises UnknownEvent."""
        keys = event if isinstance(event, dict) else ()
        if "requestContext" in keys:
            return self._adapter(event, context) if self._is_readable(event, context) else _bad_request(event)
        if "action" in keys:
            return self._direct(event, context)
        named = sorted(str(key)[:40] for key in keys)[:10]
        raise UnknownEvent(
            f'neither an HTTP request nor {{"action": ...}}, but {type(event).__name__} with keys {named}'
        )

    def _direct(self, event: Mapping[str, Any], context: Any) -> dict[str, Any]:
        if set(event) != {"action"} or event["action"] not in ACTIONS:
            return _refusal('The event may say {"action": "migrate" | "status" | "validate"} only.')
        return self._service.act(event["action"], applied_by="lambda", seconds=_seconds(context)).document

    def _is_readable(self, event: dict[str, Any], context: Any) -> bool:
        """Whether Mangum can make a request of it, which believes every field, and the Host header's port."""
        try:
            request = self._adapter.infer(event, context)
            scope, _ = request.scope, request.body
            if event.get("isBase64Encoded"):
                base64.b64decode(event.get("body") or "", validate=True)
        except Exception:  # whatever it stumbled over is the request's fault
            return False
        return isinstance(event["requestContext"], dict) and {type(scope["method"]), type(scope["path"])} == {str}

    async def _serve(
        self, scope: MutableMapping[str, Any], receive: Callable[..., Any], send: Callable[..., Any]
    ) -> None:
        """The application, told what Mangum leaves out: the path as it was sent, less a prefix, and the time left."""
        event, seconds = scope["aws.event"], _seconds(scope["aws.context"])
        stage, domain = (str(event["requestContext"].get(name)) for name in ("stage", "domainName"))
        if route := _PREFIXED.fullmatch(scope["path"]):
            scope["path"] = route[1]
        elif "version" in event and scope["path"].removesuffix("/") == f"/{stage}":
            scope["path"] = "/"
        scope["raw_path"] = str(event.get("rawPath") or event.get("path")).encode(errors="replace")
        scope["onward.deadline"] = time.monotonic() + (seconds if ".lambda-url." in domain else min(seconds, _GATEWAY))
        await self._app(scope, receive, send)


class References:
    """Puts values in the place of references, and remembers them for a minute."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, str]] = {}
        self._asked: dict[tuple[str, str, str], Shared[_Found]] = {}

    def __call__(self, environ: Mapping[str, str], variables: Sequence[str]) -> Iterator[Mapping[str, str]]:
        """The environment with these variables resolved; the next one is for when a password of the last is refused.

        First as remembered, then as stored now, then as the rotation under way will store it: none of them twice.
        Raises ConfigError that names the variable and the reference, never what is behind it.
        """
        began = time.time()
        references = {name: environ[name].strip() for name in variables if _is_reference(environ.get(name, ""))}
        tried: list[dict[str, str]] = []
        for read in (self._remembered, self._current, self._pending):
            values = {variable: read(variable, reference, began) for variable, reference in references.items()}
            if values not in tried:
                tried.append(values)
                yield _with_credentials({**environ, **values}, references)

    def _remembered(self, variable: str, reference: str, began: float) -> str:
        since, value = self._known.get(reference, (0.0, ""))
        if value and 0 <= began - since < _REMEMBERED:
            return value
        return self._remember(reference, self._ask(variable, reference, "AWSCURRENT"))

    def _current(self, variable: str, reference: str, began: float) -> str:
        since, value = self._known[reference]
        if since >= began:
            return value
        return self._remember(reference, self._ask(variable, reference, "AWSCURRENT", "after a refusal"))

    def _pending(self, variable: str, reference: str, _: float) -> str:
        value = "" if reference.startswith("ssm:") else self._ask(variable, reference, "AWSPENDING")
        return self._remember(reference, value) if value else self._known[reference][1]

    def _remember(self, reference: str, value: str) -> str:
        self._known[reference] = (time.time(), value)
        return value

    def _ask(self, variable: str, reference: str, stage: str, why: str = "") -> str:
        """The store's answer: one for all who want the same meanwhile or soon after. Raises ConfigError."""
        asking = Shared(partial(_fetch, reference, stage), seconds=_ASKED_ONCE_IN)
        found = self._asked.setdefault((reference, stage, why), asking).result()
        if found.reason:
            raise _unusable(variable, reference, found.reason)
        return found.value


def _seconds(context: Any) -> float:
    return int(context.get_remaining_time_in_millis()) / 1000


def _refusal(message: str) -> dict[str, Any]:
    return {"success": False, "error": {"code": "invalid_request", "message": message}}


def _bad_request(event: Mapping[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    body = json.dumps(_refusal("The request cannot be read."))
    several = {"multiValueHeaders": {name: [value] for name, value in headers.items()}}
    return {"statusCode": 400, "body": body, "isBase64Encoded": False, "headers": headers} | (
        several if "multiValueHeaders" in event else {}
    )


def _is_reference(value: str) -> bool:
    return bool(_REFERENCE.fullmatch(value.strip()))


def _with_credentials(environ: dict[str, str], references: Mapping[str, str]) -> dict[str, str]:
    """The environment with each secret that is a user and a password put into the URLs that have none."""
    addresses = [target.variable for target in named_targets(environ) if not target.parameters.get("password")]
    for variable in (name for name in URL_VARIABLES if name in references):
        if environ[variable].startswith("{"):
            user, password = _credentials(variable, references[variable], environ[variable])
            if not addresses:
                missing = "it does not say where the database is; set another URL variable to a URL without a password"
                raise _unusable(variable, references[variable], missing)
            environ[variable] = environ[addresses[0]]
            environ |= {name: _with_user(environ[name], user, password) for name in (variable, *addresses)}
        try:
            parse_url(variable, environ[variable], environ)
        except ConfigError as error:
            raise _unusable(variable, references[variable], error.message) from None
    return environ


def _credentials(variable: str, reference: str, text: str) -> tuple[str, str]:
    secret = _json(text)
    user, password = (str(secret.get(name) or "") for name in ("username", "password"))
    if not (user and password):
        raise _unusable(variable, reference, "it is JSON without username and password; add #KEY")
    return user, password


def _with_user(url: str, user: str, password: str) -> str:
    written = f"://{quote(user, safe='')}:{quote(password, safe='')}@"
    return re.sub("://(?:[^@/?]*@)?", written, url, count=1)


class _Found(NamedTuple):
    """What a store said: a value, empty where a secret has no such stage; or the reason why there is none."""

    value: str = ""
    reason: str = ""


def _fetch(reference: str, stage: str) -> _Found:
    try:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - on Lambda, not in the bundle
    except ImportError:
        return _Found(reason="boto3 is not installed here")
    try:
        text = _read(reference, stage)
    except ClientError as error:
        code = str(error.response["Error"]["Code"])
        none_yet = (stage, code) == ("AWSPENDING", "ResourceNotFoundException")
        return _Found() if none_yet else _Found(reason=_REASONS.get(code, code))
    except BotoCoreError as error:
        return _Found(reason=f"{type(error).__name__}; from within a VPC the store needs an endpoint there")
    key = reference.partition("#")[2]
    value = _json(text).get(key) if key else text
    if isinstance(value, str) and value.strip():
        return _Found(value.strip())
    return _Found(reason="it has no text under that key" if key else "it is empty")


def _read(reference: str, stage: str) -> str:
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    store, _, name = reference.partition(":")
    once_more = Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 2})
    with _MAKING_CLIENTS:
        client = boto3.client(store, config=once_more)
    if store == "ssm":
        return str(client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])
    found = client.get_secret_value(SecretId=name.partition("#")[0], VersionStage=stage)
    return str(found.get("SecretString", ""))


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _unusable(variable: str, reference: str, reason: str) -> ConfigError:
    return ConfigError(f"{variable} refers to {reference}, which cannot be used: {reason}")


handler = Handler(os.environ)
gc.freeze()
gc.enable()
