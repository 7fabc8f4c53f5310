"""Which pg_dump is run, and what of it reaches a user."""

from pathlib import Path

import pytest

from lib.errors import ConfigError, DatabaseUnsuitable
from lib.postgres.pg_dump import dump, find_pg_dump
from scripts.embedded import find_programs
from tests.conftest import Database
from tests.kit import changed, parsed, target_of


def program(place: Path, version: str) -> Path:
    """A program that says it is a pg_dump."""
    place.mkdir()
    path = place / "pg_dump"
    path.write_text(f"#!/bin/sh\necho 'pg_dump (PostgreSQL) {version}'\n")
    path.chmod(0o755)
    return path


def test_the_servers_own_comes_before_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, set_, on_path = (program(tmp_path / name, "17.1") for name in ("own", "set", "path"))
    monkeypatch.setenv("POSTGRES_BIN", str(set_.parent))
    monkeypatch.setenv("PATH", f"{on_path.parent}:/bin")
    assert find_pg_dump(own.parent, 17) == own
    assert find_pg_dump(None, 17) == set_
    monkeypatch.delenv("POSTGRES_BIN")
    assert find_pg_dump(None, 16) == on_path


def test_an_older_one_is_passed_over_and_named_if_there_is_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = program(tmp_path / "old", "14.20"), program(tmp_path / "new", "19beta1")
    monkeypatch.setenv("POSTGRES_BIN", str(new.parent))
    monkeypatch.setenv("PATH", f"{old.parent}:/bin")
    assert find_pg_dump(old.parent, 18) == new
    monkeypatch.delenv("POSTGRES_BIN")
    with pytest.raises(ConfigError) as caught:
        find_pg_dump(tmp_path / "nowhere", 18)
    assert caught.value.message == (
        "pg_dump of PostgreSQL 18 or newer is needed for this server, and none is found:"
        f"\n  {old} is of PostgreSQL 14"
    )
    assert "POSTGRES_BIN=/usr/lib/postgresql/18/bin" in caught.value.next_step


def test_tables_are_left_out_and_rows_are_statements(database: Database) -> None:
    database.execute("CREATE TABLE here (id serial); CREATE TABLE gone (id serial)")
    database.execute("INSERT INTO here DEFAULT VALUES")
    found = dump(
        target_of(database), find_programs() / "pg_dump", ["public.gone", "public.gone_id_seq"]
    )
    assert "INSERT INTO public.here (id) VALUES\n\t(1);" in found
    assert "gone" not in found


def test_what_it_says_is_shown_without_the_password(database: Database) -> None:
    wrong = parsed(changed(database, password="C4nary-Pa55word-K7").url)
    with pytest.raises(DatabaseUnsuitable, match="password authentication failed") as caught:
        dump(wrong, find_programs() / "pg_dump", [])
    assert "C4nary" not in caught.value.message
