"""References to stored secrets, resolved: Secrets Manager and Parameter Store."""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import quote

from lib.errors import ConfigError
from lib.settings.database_url import configured_urls, parse_url
from lib.settings.environ import URL_VARIABLES
from lib.web.threads import Shared

CACHE_SECONDS = 60.0
_ASKED_ONCE_IN = (
    5.0  # seconds: a store is asked the same no more often, whatever it says, and if it fails
)
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


class SecretReferences:
    """Puts values in the place of references, and remembers them for a minute."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, str]] = {}
        self._asked: dict[tuple[str, str, str], Shared[_Found]] = {}

    def __call__(
        self, environ: Mapping[str, str], variables: Sequence[str]
    ) -> Iterator[Mapping[str, str]]:
        """The environment with these variables resolved; the next one is for when a password of the
        last is refused.

        First as remembered, then as stored now, then as the rotation under way will store it: none
        of them twice. Raises ConfigError that names the variable and the reference, never what is
        behind it.
        """
        began = time.time()
        references = {
            name: environ[name].strip()
            for name in variables
            if _is_reference(environ.get(name, ""))
        }
        tried: list[dict[str, str]] = []
        for read in (self._remembered, self._current, self._pending):
            values = {
                variable: read(variable, reference, began)
                for variable, reference in references.items()
            }
            if values not in tried:
                tried.append(values)
                yield _with_credentials({**environ, **values}, references)

    def _remembered(self, variable: str, reference: str, began: float) -> str:
        since, value = self._known.get(reference, (0.0, ""))
        if value and 0 <= began - since < CACHE_SECONDS:
            return value
        return self._remember(reference, self._ask(variable, reference, "AWSCURRENT"))

    def _current(self, variable: str, reference: str, began: float) -> str:
        since, value = self._known[reference]
        if since >= began:
            return value
        return self._remember(
            reference, self._ask(variable, reference, "AWSCURRENT", "after a refusal")
        )

    def _pending(self, variable: str, reference: str, _: float) -> str:
        value = "" if reference.startswith("ssm:") else self._ask(variable, reference, "AWSPENDING")
        return self._remember(reference, value) if value else self._known[reference][1]

    def _remember(self, reference: str, value: str) -> str:
        self._known[reference] = (time.time(), value)
        return value

    def _ask(self, variable: str, reference: str, stage: str, why: str = "") -> str:
        """The store's answer: one for all who want the same meanwhile or soon after. Raises
        ConfigError.
        """
        asking = Shared(partial(_fetch, reference, stage), seconds=_ASKED_ONCE_IN)
        found = self._asked.setdefault((reference, stage, why), asking).result()
        if found.reason:
            raise _unusable(variable, reference, found.reason)
        return found.value


def _is_reference(value: str) -> bool:
    return bool(_REFERENCE.fullmatch(value.strip()))


def _with_credentials(environ: dict[str, str], references: Mapping[str, str]) -> dict[str, str]:
    """The environment with each secret that is a user and a password put into the URLs that have
    none.
    """
    addresses = [
        url.variable for url in configured_urls(environ) if not url.parameters.get("password")
    ]
    for variable in (name for name in URL_VARIABLES if name in references):
        if environ[variable].startswith("{"):
            user, password = _credentials(variable, references[variable], environ[variable])
            if not addresses:
                missing = "it does not say where the database is; set another URL variable to a URL without a password"
                raise _unusable(variable, references[variable], missing)
            environ[variable] = environ[addresses[0]]
            environ |= {
                name: _with_user(environ[name], user, password) for name in (variable, *addresses)
            }
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
    """What a store said: a value, empty where a secret has no such stage; or the reason why there
    is none.
    """

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
        return _Found(
            reason=f"{type(error).__name__}; from within a VPC the store needs an endpoint there"
        )
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
