"""Which form of an answer a request prefers. Pure."""

import re

_QUALITY = re.compile(r";\s*q=(?:(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*(?:;|$))?", re.IGNORECASE)


def prefers_html(accept: str, *, otherwise: bool) -> bool:
    """Whether an Accept header ranks HTML above JSON; `otherwise` where it ranks them alike.

    Of two with one quality, that which is named ranks above that which a wildcard includes.
    """
    qualities = dict(map(_range, reversed(accept.lower().split(","))))
    html, json = _rank("text", "html", qualities), _rank("application", "json", qualities)
    return otherwise if html == json else html > json


def _range(text: str) -> tuple[str, float]:
    """A media range and its quality, which is 0 if it cannot be read."""
    found = _QUALITY.search(text)
    return text.partition(";")[0].strip(), float(found[1] or 0) if found else 1.0


def _rank(kind: str, subtype: str, qualities: dict[str, float]) -> tuple[float, int]:
    """The quality of the most specific range, and how specific it is."""
    ranges = ("*/*", f"{kind}/*", f"{kind}/{subtype}")
    found = [(qualities[one], place) for place, one in enumerate(ranges) if one in qualities]
    return found[-1] if found and found[-1][0] else (0.0, 0)
