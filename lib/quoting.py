"""Values and names as SQL text, in ASCII and without a semicolon. Pure."""

import re

_SPECIAL = re.compile(r"[^ -~]|['\\;]")


def literal(value: str | int | None) -> str:
    """A value as SQL text, read alike whatever a file has set (encodings, string syntax)."""
    if value is None or isinstance(value, int):
        return "NULL" if value is None else str(value)
    return f"E'{_SPECIAL.sub(_escape, value)}'"


def identifier(name: str) -> str:
    """A name as SQL text."""
    quoted = '"' + name.replace('"', '""') + '"'
    if name.isascii() and ";" not in name:
        return quoted
    return "U&" + "".join(
        char if " " <= char <= "~" and char not in "\\;" else f"\\+{ord(char):06X}"
        for char in quoted
    )


def _escape(special: re.Match[str]) -> str:
    code = ord(special[0])
    return f"\\U{code:08X}" if code > 127 else f"\\x{code:02X}"
