from collections.abc import Mapping
from pathlib import Path

import pytest

from lib.errors import ConfigError
from lib.settings.config import read_config
from lib.settings.environ import env_file_with, with_env_files
from tests.kit import KANARIE, everything


def env(
    folder: Path, content: str | bytes, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What is added to the environment by an `.env`."""
    (folder / ".env").write_bytes(content.encode() if isinstance(content, str) else content)
    return dict(with_env_files(environ or {}, folder).items() - (environ or {}).items())


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("MIGRATION_DIR=a", "a"),
        ("  export MIGRATION_DIR = a b  ", "a b"),
        ("MIGRATION_DIR=a#b", "a#b"),
        ("MIGRATION_DIR=a #b", "a"),
        ("MIGRATION_DIR=a\t# b 'c'", "a"),
        ("MIGRATION_DIR='a #b \\n' # c", "a #b \\n"),
        ('MIGRATION_DIR="a #b"# c', "a #b"),
        ('MIGRATION_DIR="a\\"b\\\\c\\$d\\e"', 'a"b\\c$d\\e'),
        ("MIGRATION_DIR='a\"b'", 'a"b'),
        ("MIGRATION_DIR=`a\"b'c` # d", "a\"b'c"),
        ('MIGRATION_DIR="a\\nb\\r\\\\n"', "a\nb\r\\n"),
        ("MIGRATION_DIR='a\\nb'", "a\\nb"),
        ("MIGRATION_DIR=a\\nb", "a\\nb"),
        ("MIGRATION_DIR='a${A}b'", "a${A}b"),
        ("MIGRATION_DIR=a\\${A}b\\$A", "a${A}b$A"),
        ('MIGRATION_DIR="a\\${A}b\\$A"', "a${A}b$A"),
        ("MIGRATION_DIR=pa$word$1$", "pa$word$1$"),
        ("MIGRATION_DIR=it's", "it's"),
        ('MIGRATION_DIR="a\nMIGRATION_ENV=b"', "a\nMIGRATION_ENV=b"),
        ("MIGRATION_DIR=a=b&c=d", "a=b&c=d"),
        ("MIGRATION_DIR=a\nMIGRATION_DIR=b", "b"),
        ("MIGRATION_DIR=", ""),
        ('MIGRATION_DIR=""', ""),
        ("MIGRATION_DIR= # a", ""),
        ("MIGRATION_DIR=#a", ""),
        ("# MIGRATION_DIR=a", None),
        ("MIGRATION_DIR", None),
        ("XMIGRATION_DIR=a", None),
        ('MIGRATION_DIR="a', None),
        ("KEY='-----BEGIN\nMIGRATION_DIR=a\n-----END'", None),
    ],
)
def test_a_line_of_an_env_file_is_read_as_others_read_it(
    tmp_path: Path, line: str, value: str | None
) -> None:
    for content in (
        line,
        f"\ufeff{line}\n",
        f"A=1\n\n{line}\nB=2",
        f"A=1\r\n{line}\r\nB=2\r\n".replace("\r\r", "\r"),
    ):
        found = env(tmp_path, content)
        assert found.pop("MIGRATION_DIR", None) == value
        assert found == {}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            '"postgresql://${USER_NAME}:${PASSWORD}@localhost/${NAME}"',
            "postgresql://me:p%40w@localhost/shop",
        ),
        ("postgresql://${USER_NAME}@localhost/app # no quotes", "postgresql://me@localhost/app"),
        ('"${BASE}/app"', "postgresql://me@localhost/app"),
        ('"postgresql://me:pa$wo$d$$1@localhost/app"', "postgresql://me:pa$wo$d$$1@localhost/app"),
        (
            "'postgresql://me:${PASSWORD}$NAME@localhost/app'",
            "postgresql://me:${PASSWORD}$NAME@localhost/app",
        ),
        (
            '"postgresql://me:\\${PASSWORD}\\$NAME@localhost/app\\n"',
            "postgresql://me:${PASSWORD}$NAME@localhost/app\n",
        ),
    ],
)
def test_a_reference_to_another_variable_is_replaced_from_process_and_file(
    tmp_path: Path, url: str, expected: str
) -> None:
    others = "USER_NAME=nobody\nPASSWORD='p%40w'\nBASE=\"postgresql://${USER_NAME}@localhost\"\n"
    process = {"USER_NAME": "me", "PASSWORD": ""}
    assert env(tmp_path, f"{others}DATABASE_URL={url}\nNAME=shop\nBROKEN=${{X}}", process) == {
        "DATABASE_URL": expected
    }


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:${kanarie7}@localhost/app",
        "postgresql://me:${NAME:-kanarie7}@localhost/app",
        "postgresql://me:kanarie7$NAME@localhost/app",
        "postgresql://me:kanarie7$HOME@localhost/app",
        "${LOOP}kanarie7",
        "${DATABASE_URL}kanarie7",
        "${ODD}kanarie7",
    ],
)
def test_a_reference_without_one_reading_is_refused_and_not_shown(tmp_path: Path, url: str) -> None:
    others = "NAME=shop\nLOOP=${LOOP2}\nLOOP2=${LOOP}\nODD=$NAME\n"
    for written in (url, f'"{url}"'):
        with pytest.raises(
            ConfigError, match=r"^(?:DATABASE_URL|LOOP2?|ODD) in \.env has a \$ that "
        ) as caught:
            env(tmp_path, f"{others}DATABASE_URL={written}", {"HOME": "/root"})
        assert caught.value.exit_code == 2
        assert KANARIE not in everything(caught.value)
        assert (
            env(tmp_path, f"{others}DATABASE_URL={written}", {"POSTGRES_URL": "x", "HOME": "/root"})
            == {}
        )


@pytest.mark.parametrize(
    ("process", "local", "plain", "expected"),
    [
        (
            {},
            "POSTGRES_URL=local",
            "POSTGRES_URL=plain\nDATABASE_URL=plain",
            {"POSTGRES_URL": "local"},
        ),
        (
            {},
            "MIGRATION_DIR=local",
            "POSTGRES_URL=plain",
            {"MIGRATION_DIR": "local", "POSTGRES_URL": "plain"},
        ),
        (
            {},
            "POSTGRES_URL=\nDATABASE_URL=' '",
            "DATABASE_URL=plain",
            {"POSTGRES_URL": "", "DATABASE_URL": "plain"},
        ),
        (
            {},
            "DATABASE_URL=local\nPOSTGRES_URL=local",
            "",
            {"DATABASE_URL": "local", "POSTGRES_URL": "local"},
        ),
        (
            {"DATABASE_URL": "mine"},
            "MIGRATION_DATABASE_URL=local",
            "POSTGRES_URL=plain",
            {"DATABASE_URL": "mine"},
        ),
        (
            {"DATABASE_URL": " "},
            "POSTGRES_URL=local",
            "",
            {"DATABASE_URL": " ", "POSTGRES_URL": "local"},
        ),
        ({"DATABASE_URL": ""}, "DATABASE_URL=local", "", {"DATABASE_URL": "local"}),
        ({"MIGRATION_ENV": ""}, "", "MIGRATION_ENV=plain", {"MIGRATION_ENV": "plain"}),
        (
            {"MIGRATION_ENV": "mine"},
            "MIGRATION_ENV=local",
            "MIGRATION_WAIT=1s",
            {"MIGRATION_ENV": "mine", "MIGRATION_WAIT": "1s"},
        ),
    ],
)
def test_the_first_source_with_a_url_supplies_all_urls(
    tmp_path: Path, process: dict[str, str], local: str, plain: str, expected: dict[str, str]
) -> None:
    (tmp_path / ".env.local").write_text(local)
    (tmp_path / ".env").write_text(plain)
    assert with_env_files(process, tmp_path) == expected


def test_a_pulled_file_does_not_pass_a_laptop_off_as_a_build(tmp_path: Path) -> None:
    pulled = "VERCEL=1\nVERCEL_ENV=production\nVERCEL_TARGET_ENV=production\nDATABASE_URL=postgres://localhost/app\n"
    signs = (
        "CI=1\nVERCEL_DEPLOYMENT_ID=dpl_1\nAWS_LAMBDA_FUNCTION_NAME=f\nVERCEL_GIT_COMMIT_SHA=abc\n"
        "PGHOST=h\nNO_COLOR=1"
    )
    found = read_config(with_env_files({}, tmp_path) | env(tmp_path, pulled + signs))
    assert (found.production, found.deploying, found.applied_by, found.git_commit) == (
        True,
        False,
        "cli",
        None,
    )
    assert set(env(tmp_path, signs)) == set()


def test_without_files_the_environment_is_as_it_was(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert with_env_files({"A": "1", "DATABASE_URL": ""}, tmp_path) == {
        "A": "1",
        "DATABASE_URL": "",
    }


def test_an_env_file_that_is_not_text_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^\.env cannot be read as UTF-8 text$") as caught:
        env(tmp_path, "DATABASE_URL=kanarie7".encode("utf-16"))
    assert KANARIE not in str(caught.value.args)


def test_consent_is_not_taken_from_a_file_but_the_file_is_named(tmp_path: Path) -> None:
    assert env_file_with("MIGRATION_CONSENT", tmp_path) == ""
    assert env(tmp_path, "MIGRATION_CONSENT=go ahead\nMIGRATION_CONSENTS=x\n") == {
        "MIGRATION_CONSENTS": "x"
    }
    assert env_file_with("MIGRATION_CONSENT", tmp_path) == ".env"
    (tmp_path / ".env.local").write_text("MIGRATION_CONSENT='go ahead'")
    assert env_file_with("MIGRATION_CONSENT", tmp_path) == ".env.local"
    process = {"MIGRATION_CONSENT": "apply 003"}
    assert with_env_files(process, tmp_path)["MIGRATION_CONSENT"] == "apply 003"
