"""The variables of a process, completed from `.env` files. Pure but for these."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lib import ROOT
from lib.errors import ConfigError

URL_VARIABLES = (
    "MIGRATION_DATABASE_URL",
    "POSTGRES_URL_NON_POOLING",
    "DATABASE_URL_UNPOOLED",
    "POSTGRES_URL",
    "DATABASE_URL",
)
_ENV_FILES = (".env.local", ".env")
_SETTING = r"MIGRATION_(?!DATABASE_URL$)\w+|VERCEL|VERCEL_ENV|VERCEL_TARGET_ENV"
_ASSIGNMENT = (
    r"""(?m)^[ \t]*(?:export[ \t]+)?(\w+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|`([^`]*)`|([^\s"'`#][^\n]*?)?)"""
    r"""[ \t]*(?:(?<=[\s="'`])#[^\n]*)?$"""
)
_REPLACED = r"\$\{([^}]*)\}|\$([A-Za-z_]\w*)"
_IN_DOUBLE_QUOTES = re.compile(r"""\\(["$\\nr])|""" + _REPLACED)
_IN_NO_QUOTES = re.compile(r"\\(\$)|" + _REPLACED)


def url_variables_set(environ: Mapping[str, str]) -> list[str]:
    """The URL variables that are set, first choice first."""
    return [variable for variable in URL_VARIABLES if value_of(environ, variable)]


def with_env_files(environ: Mapping[str, str], folder: Path = ROOT) -> dict[str, str]:
    """The environment completed from `.env.local` and `.env`; raises ConfigError for one that
    cannot be read.

    The first of process, `.env.local` and `.env` that names a database supplies all URLs: never a
    mix of two worlds. Only what names database, environment and settings is taken: a pulled file
    must not pass a laptop off as a build.
    """
    merged = dict(environ)
    for name in _ENV_FILES:
        urls = () if url_variables_set(merged) else URL_VARIABLES
        written = _env_file(folder / name)
        for variable in written:
            if not value_of(merged, variable) and (
                variable in urls or re.fullmatch(_SETTING, variable)
            ):
                merged[variable] = _Expansion(name, written, environ).value(variable)
    return merged


def is_set(environ: Mapping[str, str], variable: str) -> bool:
    """Whether a variable that is a switch is on."""
    return value_of(environ, variable).lower() not in ("", "0", "false", "no", "off")


def value_of(environ: Mapping[str, str], variable: str) -> str:
    """A variable, where one that is empty is none."""
    return environ.get(variable, "").strip()


def _env_file(path: Path) -> dict[str, tuple[str, str, str]]:
    """What each variable is in a file: in double quotes, in quotes that keep all as it is, in none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (
        FileNotFoundError,
        IsADirectoryError,
    ):  # a directory of that name is somebody's virtual environment
        return {}
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"{path.name} cannot be read as UTF-8 text", next_step="Mend it, or move it away."
        ) from None
    found = re.findall(_ASSIGNMENT, text)
    return {
        name: (double, single or backtick, bare) for name, double, single, backtick, bare in found
    }


class _Expansion(NamedTuple):
    """How the values of one file are read: as dotenv does, and dotenv-expand after it."""

    file: str
    written: Mapping[str, tuple[str, str, str]]
    environ: Mapping[str, str]

    def value(self, variable: str, *within: str) -> str:
        """A variable's value, with what it refers to put in. Raises ConfigError for what has two
        readings, or none.
        """
        double, kept, bare = self.written[variable]
        pattern, text = (_IN_DOUBLE_QUOTES, double) if double else (_IN_NO_QUOTES, bare)
        return kept or pattern.sub(lambda found: self._replaced(found, variable, *within), text)

    def _replaced(self, found: re.Match[str], variable: str, *within: str) -> str:
        escaped, name, undecided = found.groups()
        if escaped:
            return {"n": "\n", "r": "\r"}.get(escaped, escaped)
        if undecided and undecided not in (*self.environ, *self.written):
            return found[0]
        if not undecided and self.environ.get(name):
            return self.environ[name]
        if undecided or name not in self.written or name in (variable, *within):
            raise ConfigError(
                f"{variable} in {self.file} has a $ that "
                + (
                    "may be meant as it is"
                    if undecided
                    else "names no variable of that file or of this process"
                ),
                next_step="Write ${NAME} for the value of another variable, \\$ for the sign "
                "itself.",
            )
        return self.value(name, variable, *within)
