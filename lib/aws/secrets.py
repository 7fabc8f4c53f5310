"""References to stored secrets, resolved: AWS Secrets Manager and Systems Manager Parameter Store.

A URL variable, MIGRATION_SECRET and MIGRATION_SECRET_PREVIOUS may hold a reference:

    secretsmanager:NAME        the text of a secret; NAME may be an ARN
    secretsmanager:NAME#KEY    one string of a secret that is a JSON object
    ssm:/NAME                  a parameter, decrypted

A secret that RDS makes and rotates has a `username` and a `password`, and does not tell where the
database is. Another URL variable tells that, by a URL without a password:

    MIGRATION_DATABASE_URL=secretsmanager:rds!db-4f1c
    DATABASE_URL=postgresql://app.cluster-abc.eu-west-1.rds.amazonaws.com:5432/app
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import quote

from lib.errors import ConfigError
from lib.settings.database_url import configured_urls, parse_url
from lib.settings.environ import URL_VARIABLES
from lib.web.threads import Shared

CACHE_SECONDS = 60.0
REPLY_SHARED_SECONDS = 5.0
"""A store is not asked the same thing more often than this, even if it fails."""
_CREATING_CLIENT = Lock()  # boto3's default session is not safe for threads; its clients are
_NOT_READ = (0.0, "")
_REFERENCE = re.compile(r"(secretsmanager|ssm):.+")
_DENIED = "this function's role has no permission to read it"
_MISSING = "no such name exists in this account and region"
_REASONS = {
    "403": _DENIED,
    "AccessDeniedException": _DENIED,
    "InvalidRequestException": "it is marked for deletion",
    "ParameterNotFound": _MISSING,
    "ResourceNotFoundException": _MISSING,
}


class StoreReply(NamedTuple):
    """What a store answered: a value, empty if the secret has no such stage; or the reason why
    there is none.
    """

    value: str = ""
    reason: str = ""


class SecretReferences:
    """Replaces references by their values, and remembers the values for CACHE_SECONDS.

    Each new value makes it forget the older ones: a process that meets thousands of databases has
    the passwords of the last minute.
    """

    def __init__(self) -> None:
        self._cache: dict[str, tuple[float, str]] = {}
        """By reference: when the value was read, and the value."""
        self._replies: dict[tuple[str, str, str], tuple[float, Shared[StoreReply]]] = {}
        """By what is asked: when it was first asked, and the reply."""

    def __call__(
        self, environ: Mapping[str, str], variables: Sequence[str]
    ) -> Iterator[Mapping[str, str]]:
        """The environment with these variables resolved. Take the next one when the database
        refuses the password of the last.

        The first has the remembered values, the second those stored now, the third those that a
        rotation under way will store; none is yielded twice. Raises ConfigError, which names the
        variable and the reference, and never shows a value.
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
        read_at, value = self._cache.get(reference, _NOT_READ)
        if value and _is_recent(read_at, began):
            return value
        return self._remember(reference, self._read(variable, reference, "AWSCURRENT"))

    def _current(self, variable: str, reference: str, began: float) -> str:
        read_at, value = self._cache.get(reference, _NOT_READ)
        if read_at >= began:
            return value
        current = self._read(variable, reference, "AWSCURRENT", "after a refused password")
        return self._remember(reference, current)

    def _pending(self, variable: str, reference: str, began: float) -> str:
        has_stages = not reference.startswith("ssm:")
        value = self._read(variable, reference, "AWSPENDING") if has_stages else ""
        if value:
            return self._remember(reference, value)
        return self._current(variable, reference, began)

    def _remember(self, reference: str, value: str) -> str:
        now = time.time()
        self._cache[reference] = (now, value)
        _drop_old(self._cache, now)
        _drop_old(self._replies, now)
        return value

    def _read(self, variable: str, reference: str, stage: str, purpose: str = "") -> str:
        """The stored value: all who ask the same at a time, or soon afterwards, share one reply.

        Raises ConfigError. A reply from before a password was refused is no reply for afterwards,
        so the purpose tells them apart.
        """
        ask = partial(_store_reply, reference, stage)
        asked = time.time(), Shared(ask, seconds=REPLY_SHARED_SECONDS)
        reply = self._replies.setdefault((reference, stage, purpose), asked)[1].result()
        if reply.reason:
            raise _unusable(variable, reference, reply.reason)
        return reply.value


def _is_recent(moment: float, now: float) -> bool:
    return 0 <= now - moment < CACHE_SECONDS


def _drop_old(known: dict[Any, tuple[float, Any]], now: float) -> None:
    """Drop what is not recent. Other threads may add something meanwhile."""
    for key, (moment, _) in known.copy().items():
        if not _is_recent(moment, now):
            known.pop(key, None)


def _is_reference(value: str) -> bool:
    return bool(_REFERENCE.fullmatch(value.strip()))


def _with_credentials(environ: dict[str, str], references: Mapping[str, str]) -> dict[str, str]:
    """The environment, with each secret that is a user and a password put into the URLs that have
    no password.
    """
    addresses = [
        url.variable for url in configured_urls(environ) if not url.parameters.get("password")
    ]
    for variable in URL_VARIABLES:
        if variable not in references:
            continue
        reference = references[variable]
        if environ[variable].startswith("{"):
            environ |= _completed_urls(environ, variable, reference, addresses)
        try:
            parse_url(variable, environ[variable], environ)
        except ConfigError as error:
            raise _unusable(variable, reference, error.message) from None
    return environ


def _completed_urls(
    environ: Mapping[str, str], variable: str, reference: str, addresses: Sequence[str]
) -> dict[str, str]:
    """The URLs of the variable, whose value is a JSON secret, and of those with an address only."""
    user, password = _credentials(variable, reference, environ[variable])
    if not addresses:
        raise _unusable(
            variable,
            reference,
            "it does not contain the database's address; set another URL variable to a URL without "
            "a password",
        )
    urls = {name: _with_user(environ[name], user, password) for name in addresses}
    return {variable: urls[addresses[0]], **urls}


def _credentials(variable: str, reference: str, text: str) -> tuple[str, str]:
    secret = _json_object(text)
    user, password = (str(secret.get(name) or "") for name in ("username", "password"))
    if not (user and password):
        raise _unusable(
            variable,
            reference,
            "it is JSON without username and password; append #KEY to the reference",
        )
    return user, password


def _with_user(url: str, user: str, password: str) -> str:
    credentials = f"://{quote(user, safe='')}:{quote(password, safe='')}@"
    return re.sub("://(?:[^@/?]*@)?", credentials, url, count=1)


def _store_reply(reference: str, stage: str) -> StoreReply:
    try:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - on Lambda, not in the bundle
    except ImportError:
        return StoreReply(reason="boto3 is not installed")
    try:
        text = read_secret(reference, stage)
    except ClientError as error:
        return _refused_reply(str(error.response["Error"]["Code"]), stage)
    except BotoCoreError as error:
        return StoreReply(
            reason=f"{type(error).__name__}; inside a VPC, the store needs an endpoint in it"
        )
    key = reference.partition("#")[2]
    value = _json_object(text).get(key) if key else text
    if isinstance(value, str) and value.strip():
        return StoreReply(value.strip())
    return StoreReply(reason="it has no string under that key" if key else "it is empty")


def _refused_reply(code: str, stage: str) -> StoreReply:
    no_rotation = (stage, code) == ("AWSPENDING", "ResourceNotFoundException")
    return StoreReply() if no_rotation else StoreReply(reason=_REASONS.get(code, code))


def read_secret(reference: str, stage: str) -> str:
    """Ask the store itself. Raises what boto3 raises."""
    store, _, name = reference.partition(":")
    with _CREATING_CLIENT:
        client = _client(store)
    if store == "ssm":
        return str(client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])
    secret = client.get_secret_value(SecretId=name.partition("#")[0], VersionStage=stage)
    return str(secret.get("SecretString", ""))


@lru_cache
def _client(store: str) -> Any:
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    two_attempts = Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 2})
    return boto3.client(store, config=two_attempts)


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _unusable(variable: str, reference: str, reason: str) -> ConfigError:
    return ConfigError(f"{variable} refers to {reference}, which cannot be used: {reason}")
