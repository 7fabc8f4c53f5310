"""The order of JavaScript's `localeCompare`, in which tools written for Node sort names. Pure.

It is that of Unicode: punctuation before digits before letters, whatever their case. As bytes,
`20250102_b` would come behind `20250102093000_a`, which these tools run last. What is not Latin
comes by code point.
"""

import re
import unicodedata
from collections.abc import Sequence

_PUNCTUATION = " _-,;:!?.'\"()[]{}@*/\\&#%"
_SYMBOLS = "`^+<=>|~$"
_WEIGHTS = {mark: weight for weight, mark in enumerate(_PUNCTUATION + _SYMBOLS)}

Key = tuple[list[tuple[int, int]], list[tuple[int, str]], list[bool]]


def locale_key(name: str) -> Key:
    """As `a.localeCompare(b)` sorts."""
    return _key(re.findall(r"(?s).", _decomposed(name)))


def natural_key(name: str) -> Key:
    """As it sorts with `numeric` and `ignorePunctuation`: 9 before 10, and `a-b` with `ab`."""
    words = re.findall(r"(?s)[0-9]+|.", _decomposed(name))
    return _key([word for word in words if word not in _PUNCTUATION])


def _decomposed(name: str) -> str:
    return unicodedata.normalize("NFKD", name)


def _key(words: Sequence[str]) -> Key:
    """Accents count only between names of the same letters, and cases only after them."""
    letters = [word for word in words if not unicodedata.combining(word[0])]
    accents = [(place, word) for place, word in enumerate(words) if word not in letters]
    return [_weight(word) for word in letters], accents, [word.isupper() for word in letters]


def _weight(word: str) -> tuple[int, int]:
    if word.isdecimal():
        return 1, int(word)
    return (0, _WEIGHTS[word]) if word in _WEIGHTS else (2, ord(word.lower()[0]))
