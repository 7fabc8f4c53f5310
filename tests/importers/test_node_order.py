"""The order of names in the tools written for Node, as `localeCompare` of Node 20 gave it."""

from collections.abc import Callable, Iterable

from lib.importers.node_order import Key, locale_key, natural_key


def by(key: Callable[[str], Key], names: Iterable[str]) -> list[str]:
    """The names in this order, from that of their code points."""
    found = sorted(names)
    found.sort(key=key)
    return found


def test_punctuation_comes_before_digits_and_these_before_letters() -> None:
    ordered = ["20250625_add", "20250625-add", "20250625093000_add", "202506250a", "a"]
    assert by(locale_key, ordered) == ordered


def test_cases_and_accents_only_decide_between_equal_letters() -> None:
    ordered = ["a", "á", "ä", "a b", "a_b", "a-b", "ab", "aB", "Ab", "ab1", "az", "Z"]
    assert by(locale_key, ordered) == ordered


def test_every_mark_has_its_place() -> None:
    marks = " _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789aAbBzZ"
    assert "".join(by(locale_key, marks)) == marks


def test_a_natural_order_reads_numbers_and_skips_punctuation() -> None:
    ordered = ["1_+a", "1_$", "1_9", "1_10", "1a", "1_b", "1_B"]
    assert by(natural_key, ordered) == ordered
    assert natural_key("1 a") == natural_key("1-a")
