"""What a server sends as text: decoded, cut to what is worth showing, and without secrets. Pure."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

from lib.settings.database_url import DatabaseURL, redact

# In characters: a value, or a statement, may have millions.
MAX_NOTICE_LENGTH, MAX_MESSAGE_LENGTH = 2_000, 8_000
# A text is read this far beyond its cut, so that no secret is cut in two and missed.
_MAX_SECRET_LENGTH = 1_000
# Encodings that a file may set, but for UTF8; no name that is only Python's.
_SETS_ENCODING = re.compile(
    rb"(?i)(?:client_encoding|\bset\s+names)\W+(?:to\W+)?"
    rb"((?:latin|iso.?8859|win|koi8|euc|s.?jis|shift|big5|gb|uhc|johab)[\w-]*)"
)


class ServerText:
    """Decodes what one connection receives."""

    NOTICE_BYTES_READ: ClassVar = MAX_NOTICE_LENGTH + _MAX_SECRET_LENGTH

    def __init__(self, parameter: Callable[[str], str], url: DatabaseURL) -> None:
        self.sent = b""
        """The message that is being answered."""
        self._parameter = parameter
        self._url = url

    def value(self, value: bytes) -> str:
        """A value of a row, whole."""
        return _decoded(value, (self._parameter("client_encoding"), "UTF8"))

    def message(self, text: bytes) -> str:
        """A part of an error."""
        read = text[: MAX_MESSAGE_LENGTH + _MAX_SECRET_LENGTH]
        return self._shown(read, len(text), MAX_MESSAGE_LENGTH)

    def notice(self, severity: bytes, beginning: bytes, size: int) -> str:
        """A notice of which the beginning was read; `size` is in bytes."""
        text = self._shown(beginning, size, MAX_NOTICE_LENGTH)
        return f"{_decoded(severity, self._likely_encodings())}: {text}"

    def _shown(self, beginning: bytes, size: int, max_length: int) -> str:
        is_whole = len(beginning) == size
        decoded = _decoded(beginning, self._likely_encodings(), is_whole=is_whole)
        text = redact(decoded, self._url)
        if is_whole and len(text) <= max_length:
            return text
        # The end of a cut text may be the beginning of a secret, which redaction does not find.
        shown = max_length if is_whole else min(max_length, len(text) - _MAX_SECRET_LENGTH)
        return f"{text[:shown]}… ({size:,} bytes in all)"

    def _likely_encodings(self) -> Iterator[str]:
        """The encodings that the server may be using, the likeliest first.

        When a file changes client_encoding, the server reports the change after its reply, and not
        at all if the file fails.
        """
        yield "UTF8"  # other encodings are hardly ever valid UTF-8
        yield self._parameter("client_encoding")
        yield from (found[1].decode() for found in _SETS_ENCODING.finditer(self.sent))


def codec(encoding: str) -> str:
    """Python's name for one of Postgres' encodings."""
    return re.sub(r"(?i)^win(?=\d)", "cp", encoding).replace("KOI8", "KOI8_")


def _decoded(value: bytes, encodings: Iterable[str], *, is_whole: bool = True) -> str:
    for encoding in encodings:
        try:
            # Incremental, because a text that was cut may end in the middle of a character.
            decoder = codecs.getincrementaldecoder(codec(encoding))()
            return decoder.decode(value, final=is_whole)
        except (LookupError, UnicodeDecodeError):
            continue
    return value.decode("ascii", "backslashreplace")
