"""Our commands and functions in a team's vercel.json."""

import json
from typing import Any

import pytest

from scripts.adopting import AdoptError
from scripts.adopting.vercel_json import (
    BUILD_FIRST,
    MIGRATE_FIRST,
    Defaults,
    Merged,
    Order,
    changed_by_hand,
    merge,
)

OURS: dict[str, Any] = {
    "$schema": "https://x.invalid",
    "framework": None,
    "installCommand": "our-install",
    "buildCommand": "our-check && our-migrate",
    "outputDirectory": "public",
    "functions": {"api/migrate.py": {"maxDuration": 60}},
}
NEWER = OURS | {
    "installCommand": "new-install",
    "functions": {"api/migrate.py": {"maxDuration": 90}},
}
DEFAULTS = Defaults("npm install", "npm run build", (("framework", None),))


def merged(theirs: Any, **options: Any) -> dict[str, Any]:
    text = theirs if isinstance(theirs, str) else json.dumps(theirs)
    document: dict[str, Any] = json.loads(merge(text, OURS, DEFAULTS, **options).text)
    return document


def again(first: Merged, ours: dict[str, Any], text: str | None = None) -> Merged:
    return merge(first.text if text is None else text, ours, DEFAULTS, before=first.added)


def test_without_a_file_it_is_ours_around_their_build() -> None:
    assert merged("") == {
        "framework": None,
        "installCommand": "npm install && our-install",
        "buildCommand": "npm run build && our-check && our-migrate",
        "functions": OURS["functions"],
    }


@pytest.mark.parametrize(
    ("theirs", "order", "command"),
    [
        ("vite build", BUILD_FIRST, "vite build && our-check && our-migrate"),
        ("vite build", MIGRATE_FIRST, "our-check && our-migrate && vite build"),
        ("cd web && vite build", BUILD_FIRST, "(cd web && vite build) && our-check && our-migrate"),
        ("a || b", MIGRATE_FIRST, "our-check && our-migrate && (a || b)"),
        (None, BUILD_FIRST, "npm run build && our-check && our-migrate"),
    ],
)
def test_their_command_is_kept_on_the_side_that_the_order_says(
    theirs: str | None, order: str, command: str
) -> None:
    assert merged({"buildCommand": theirs}, order=Order(order))["buildCommand"] == command


def test_what_else_they_have_stays_and_our_functions_come_first() -> None:
    theirs = {
        "rewrites": [{"source": "/a", "destination": "/b"}],
        "framework": "vite",
        "functions": {"api/**/*.py": {"memory": 512}},
    }
    found = merged(theirs)
    assert list(found)[:3] == ["rewrites", "framework", "functions"]
    assert (found["rewrites"], found["framework"]) == (theirs["rewrites"], "vite")
    assert list(found["functions"]) == ["api/migrate.py", "api/**/*.py"]


def test_a_second_merge_changes_no_byte_whatever_the_format() -> None:
    first = merge('{\n\t"cleanUrls": true}', OURS, DEFAULTS)
    assert '\n\t"cleanUrls"' in first.text
    compact = json.dumps(json.loads(first.text))
    assert again(first, OURS, compact).text == compact


def test_a_newer_version_replaces_only_our_part() -> None:
    first = merge("", OURS, DEFAULTS)
    edited = first.text.replace("npm run build", "make build")
    found = json.loads(again(first, NEWER, edited).text)
    assert found["installCommand"] == "npm install && new-install"
    assert found["buildCommand"] == "make build && our-check && our-migrate"
    assert found["functions"] == NEWER["functions"]


def test_a_part_that_was_changed_by_hand_is_left_and_named() -> None:
    first = merge("", OURS, DEFAULTS)
    edited = first.text.replace("our-install", "my-install").replace("60", "61")
    second = again(first, NEWER, edited)
    assert second.left == ["installCommand", "functions['api/migrate.py']"]
    assert json.loads(second.text) == json.loads(edited)
    assert changed_by_hand(edited, first.added) == second.left
    assert changed_by_hand(first.text, first.added) == []


def test_another_order_moves_our_part() -> None:
    first = merge("", OURS, DEFAULTS)
    moved = Order(MIGRATE_FIRST, changed=True)
    second = merge(first.text, OURS, DEFAULTS, moved, first.added)
    assert json.loads(second.text)["buildCommand"] == "our-check && our-migrate && npm run build"
    back = merge(second.text, OURS, DEFAULTS, Order(BUILD_FIRST, changed=True), first.added)
    assert json.loads(back.text) == json.loads(first.text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, // no\n}', "vercel.json:1:10 is not JSON"),
        ('{\n  "a": 1,\n}', "is not JSON"),
        ("[]", "vercel.json is not a JSON object"),
        ('{"builds": []}', "the key `builds`"),
        ('{"functions": []}', "`functions` in vercel.json is not an object"),
        ('{"buildCommand": 1}', "`buildCommand` in vercel.json is not a string"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(AdoptError) as refused:
        merge(text, OURS, DEFAULTS)
    assert words in str(refused.value)
