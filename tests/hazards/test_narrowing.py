"""Which types hold less than others."""

import pytest

from lib.hazards.narrowing import narrowed


@pytest.mark.parametrize(
    ("was", "now", "condition"),
    [
        ("bigint", "integer", "x BETWEEN -2147483648 AND 2147483647"),
        ("integer", "smallint", "x BETWEEN -32768 AND 32767"),
        ("text", "character varying(20)", "char_length(x) <= 20"),
        ("character varying(20)", "character varying(10)", "char_length(x) <= 10"),
        ("character varying", "character(3)", "char_length(x) <= 3"),
        ("numeric(12,2)", "numeric(8,2)", "abs(x) < 1e6"),
        ("numeric", "numeric(8,2)", "abs(x) < 1e6"),
        ("numeric(8,2)", "numeric(8,4)", "abs(x) < 1e4"),
        ("integer", "bigint", ""),
        ("integer", "numeric(3,0)", ""),
        ("integer", "text", ""),
        ("character varying(20)", "text", ""),
        ("character varying(20)", "character varying(40)", ""),
        ("numeric(8,2)", "numeric", ""),
        ("numeric(8,2)", "numeric(10,4)", ""),
        ("timestamp with time zone", "timestamp(3) with time zone", ""),
        ("text", "public.mood", ""),
    ],
)
def test_a_type_that_holds_less_has_the_condition_of_what_fits(
    was: str, now: str, condition: str
) -> None:
    assert narrowed("x", was, now) == condition
