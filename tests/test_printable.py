import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.printable import hanging, printable, printable_json, visible

COMMANDS = ("error", "add-mask", "stop-commands", "task.setvariable", "setParameter")
PIECES = st.sampled_from(
    [
        *"::##[]|x \t\n\r\f\v\x1b\x85\xa0\u2003\u2028\u202e\u3000\u200b\xad😀é",
        "##vso[",
        "##teamcity[",
        "\r\n",
        *COMMANDS,
    ]
)
FOREIGN = st.lists(PIECES, max_size=30).map("".join)


def is_command(line: str) -> bool:
    """Whether GitHub's runner, Azure's agent or TeamCity would obey a line, as their parsers read
    it.
    """
    return line.lstrip().startswith("::") or any(
        mark in line for mark in ("##[", "##vso[", "##teamcity[")
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\x00b\x07c\x08d\x7fe", r"a\x00b\x07c\x08d\x7fe"),
        ("\x9b2J\x85", r"\x9b2J\x85"),
        ("over\rwritten", r"over\x0dwritten"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("user\u202egnp.exe\u2066x\u2069", r"user\u202egnp.exe\u2066x\u2069"),
        ("\x0b\x0c\x1c", r"\x0b\x0c\x1c"),
    ],
)
def test_a_control_character_is_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "größer, 東京, עברית, हिन्दी",
        "👩‍🚀 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ⚠️ ✅",
        "a\tb\n  c\n",
        "e\u0301",
        "x::int, a::text",
        "# [1]",
        "C:\\x1b",
        "5 # 3",
        "",
    ],
)
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_the_line_ends_of_windows_are_line_ends() -> None:
    assert printable("a\r\nb\r\n") == "a\nb\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x\n::error::y", "x\n\\x3a:error::y"),
        ("  \t::add-mask::y", "  \t\\x3a:add-mask::y"),
        ("\xa0\u3000::error::y", "\xa0\u3000\\x3a:error::y"),
        ("so ##[error]y", "so \\x23#[error]y"),
        ("###[error]y", "#\\x23#[error]y"),
        ("a ##vso[task.setvariable]b", "a \\x23#vso[task.setvariable]b"),
        ("##teamcity[x]", "\\x23#teamcity[x]"),
    ],
)
def test_no_line_is_a_command_for_a_ci(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(FOREIGN)
def test_no_ci_obeys_what_others_say_and_no_line_of_it_is_at_the_margin(
    text: str,
) -> None:
    shown = printable(hanging(f"ours: {text}"))
    first, *further = shown.split("\n")
    assert first.startswith("ours: ")
    assert all(line == "" or line.startswith("  ") for line in further)
    assert not any(map(is_command, shown.split("\n")))
    assert not any(map(is_command, printable(text).split("\n")))
    assert printable(shown) == shown


@given(st.dictionaries(FOREIGN, FOREIGN))
def test_a_document_says_the_same_and_has_no_command_in_it(document: dict[str, str]) -> None:
    text = printable_json(document)
    assert json.loads(text) == document
    assert text.isascii()
    assert not any(map(is_command, text.split("\n")))
