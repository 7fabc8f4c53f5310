"""A UTF-8 file as text with one character for each byte. Pure.

Such a text is lexed like the decoded one, since every character beyond ASCII is a letter; and a
single emoji does not make it four times as large.
"""

BOM = b"\xef\xbb\xbf"


def as_latin1(content: bytes) -> str:
    """The content without its byte order mark, with a character for each byte."""
    return content.removeprefix(BOM).decode("latin-1")


def from_latin1(text: str) -> str:
    """A part of such a text as its author wrote it."""
    return text.encode("latin-1").decode(errors="replace")
