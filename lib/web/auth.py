"""The bearer secret: which values can be one, and whether a request carries it. Pure."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from lib.errors import ConfigError
from lib.settings.placeholder import is_placeholder
from lib.web.result import RequestRefused

MIN_BYTES, MAX_BYTES = 32, 1024
_MIN_DIFFERENT_CHARACTERS = 10  # 16 random bytes in hex have 14 on average


def bearer_secret(variable: str, text: str) -> bytes:
    """The bytes of a variable's value. Raises ConfigError, which names the variable alone, for a
    value that cannot be a secret.
    """
    secret = text.encode(errors="surrogateescape")
    if problem := _problem(text, len(secret)):
        raise ConfigError(
            f"{variable} {problem}; set it to the output of `openssl rand -hex 32`, for example"
        )
    return secret


def _problem(text: str, length: int) -> str:
    if not MIN_BYTES <= length <= MAX_BYTES:
        return f"must have {MIN_BYTES} to {MAX_BYTES} bytes"
    if len(set(text)) < _MIN_DIFFERENT_CHARACTERS:
        return f"must have at least {_MIN_DIFFERENT_CHARACTERS} different characters"
    if is_placeholder(text):
        return "is a reference or a placeholder that was not replaced, and not a secret"
    return ""


def authenticate(authorization: Sequence[str], secrets: Mapping[str, bytes]) -> str:
    """The name of the secret that a request's Authorization headers carry. Raises RequestRefused.

    Every wrong token gets the same answer.
    """
    if not authorization:
        challenge = {"WWW-Authenticate": "Bearer"}
        raise RequestRefused(401, "unauthorized", "A bearer token is required.", challenge)
    scheme, _, token = authorization[0].partition(" ")
    matching = _matching_secrets(token.lstrip(" "), secrets)
    if len(authorization) > 1 or scheme.lower() != "bearer" or not matching:
        challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        raise RequestRefused(401, "unauthorized", "The bearer token is invalid.", challenge)
    return matching[0]


def _matching_secrets(token: str, secrets: Mapping[str, bytes]) -> list[str]:
    # Nobody can measure which secret matched, or how much of it: digests are compared, in constant
    # time, and those of all secrets.
    given = _digest(token.encode("latin-1", "replace") if len(token) <= MAX_BYTES else b"")
    return [name for name, secret in secrets.items() if hmac.compare_digest(given, _digest(secret))]


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()
