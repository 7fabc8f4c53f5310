"""Which types hold less than others, and the condition that a value still fits. Pure."""

from __future__ import annotations

_BITS = {"smallint": 16, "integer": 32, "bigint": 64}
_TEXTS = ("text", "character varying", "character")


def narrowed(column: str, was: str, now: str) -> str:
    """The condition on values that fit the new type; empty if all do, or none can be named."""
    for rule in (_integer, _text, _numeric):
        if condition := rule(column, was, now):
            return condition
    return ""


def _integer(column: str, was: str, now: str) -> str:
    if _BITS.get(was, 0) <= _BITS.get(now, 64):
        return ""
    limit = 2 ** (_BITS[now] - 1)
    return f"{column} BETWEEN {-limit} AND {limit - 1}"


def _text(column: str, was: str, now: str) -> str:
    (old, old_limits), (new, limits) = _parts(was), _parts(now)
    if old not in _TEXTS or new not in _TEXTS or not limits:
        return ""
    narrower = not old_limits or old_limits[0] > limits[0]
    return f"char_length({column}) <= {limits[0]}" if narrower else ""


def _numeric(column: str, was: str, now: str) -> str:
    (old, old_limits), (new, limits) = _parts(was), _parts(now)
    if {old, new} != {"numeric"} or not limits:
        return ""
    digits = limits[0] - limits[1]
    narrower = not old_limits or old_limits[0] - old_limits[1] > digits
    return f"abs({column}) < 1e{digits}" if narrower else ""


def _parts(name: str) -> tuple[str, list[int]]:
    """A type's name without its limits, and these."""
    base, _, limits = name.removesuffix(")").partition("(")
    return base, [int(one) for one in limits.split(",") if one.lstrip("-").isdecimal()]
