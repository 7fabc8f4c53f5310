"""The secrets of an environment, kept out of everything that is printed. Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lib.settings.database_url import configured_urls, redact
from lib.settings.placeholder import is_placeholder

# A shorter password occurs in ordinary text by chance, and replacing it would garble messages.
_MIN_SECRET_LENGTH = 12
_BEARER_VARIABLES = (
    "MIGRATION_SECRET",
    "MIGRATION_SECRET_PREVIOUS",
    "MIGRATION_WEBHOOK",  # a URL that is a secret as a whole
    "MIGRATION_WEBHOOK_SECRET",
)
# Also the password of a URL that Onward cannot parse, or does not use.
_PASSWORD_IN_URL = re.compile(r"://[^:]*:(.*)@", re.DOTALL)


class Redactor:
    """Replaces the secrets of one environment by `***`.

    This is the second safeguard: what a server or a driver says is redacted where it is received.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._urls = urls = configured_urls(environ)
        # Hosts and database names are printed anyway: to replace them would give a secret away.
        printed = {name for url in urls for name in (url.host, url.database)}
        self._bearer = {environ.get(variable, "").strip() for variable in _BEARER_VARIABLES}
        found = {secret for url in urls for secret in url.secrets} | set(_passwords_in(environ))
        # Longest first, so that a secret within a secret leaves no rest.
        secrets = self._bearer | (found - printed)
        self._secrets = sorted(secrets - {""}, key=len, reverse=True)

    def text(self, text: str, *, thorough: bool = False) -> str:
        """The text without secrets and without the credentials of any URL.

        `thorough` is for words that nothing else redacts: it also finds secrets that are short, and
        those of the URLs in other spellings. It takes longer.
        """
        for secret in self._secrets:
            long_enough = thorough or len(secret) >= _MIN_SECRET_LENGTH
            if long_enough and secret in text and self._is_secret(secret):
                text = text.replace(secret, "***")
        return redact(text, *(self._urls if thorough else ()))

    def document(self, value: Any) -> Any:
        """A JSON value with all strings in it redacted."""
        if isinstance(value, dict):
            return {name: self.document(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.document(inner) for inner in value]
        return self.text(value) if isinstance(value, str) else value

    def _is_secret(self, text: str) -> bool:
        # A reference is no secret, and a message about it must name it.
        return text not in self._bearer or not is_placeholder(text)


def _passwords_in(environ: Mapping[str, str]) -> Iterator[str]:
    yield environ.get("PGPASSWORD", "").strip()
    for value in environ.values():
        yield from _PASSWORD_IN_URL.findall(value)
