"""The variables of a process, completed from `.env` files. Pure but for reading these."""

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
# The other variables that are taken from a file. Consent is given to one command, not to all.
_SETTING = r"MIGRATION_(?!(?:DATABASE_URL|CONSENT)$)\w+|VERCEL|VERCEL_ENV|VERCEL_TARGET_ENV"

# The patterns are compiled at their first use: a deploy has no `.env` files.
_ASSIGNMENT = r"""(?mx)
    ^ [ \t]* (?: export [ \t]+ )? (?P<name> \w+ ) [ \t]* = [ \t]*
    (?:
        " (?P<double> (?: [^"\\] | \\. )* ) "
      | ' (?P<single> [^']* ) '
      | ` (?P<backtick> [^`]* ) `
      | (?P<bare> [^\s"'`\#] [^\n]*? )?
    )
    [ \t]* (?: (?<= [\s="'`] ) \# [^\n]* )? $
"""
_REFERENCE = r"""
    \$ \{ (?P<braced> [^}]* ) \}
  | \$ (?P<plain> [A-Za-z_] \w* )
"""
_IN_DOUBLE_QUOTES = rf"""(?x) \\ (?P<escaped> ["$\\nr] ) | {_REFERENCE}"""
_IN_NO_QUOTES = rf"(?x) \\ (?P<escaped> \$ ) | {_REFERENCE}"


def url_variables_set(environ: Mapping[str, str]) -> list[str]:
    """The URL variables that are set, first choice first."""
    return [variable for variable in URL_VARIABLES if value_of(environ, variable)]


def with_env_files(environ: Mapping[str, str], folder: Path = ROOT) -> dict[str, str]:
    """The environment completed from `.env.local` and `.env`. Raises ConfigError.

    The first of process, `.env.local` and `.env` that names a database supplies all URLs, so that
    settings of two environments are never mixed. Only variables that name database, environment
    and settings are taken: a pulled file must not pass a laptop off as a build.
    """
    merged = dict(environ)
    for file in _ENV_FILES:
        urls = () if url_variables_set(merged) else URL_VARIABLES
        values = _read_env_file(folder / file)
        for variable in values:
            wanted = variable in urls or re.fullmatch(_SETTING, variable)
            if wanted and not value_of(merged, variable):
                merged[variable] = _Expansion(file, values, environ).value(variable)
    return merged


def env_file_with(variable: str, folder: Path = ROOT) -> str:
    """The name of the first `.env` file that sets a variable; empty if none does."""
    files = (file for file in _ENV_FILES if variable in _read_env_file(folder / file))
    return next(files, "")


def is_set(environ: Mapping[str, str], variable: str, *, default: str = "") -> bool:
    """Whether a variable that is a switch is on; `default` is the value of one without a value."""
    value = value_of(environ, variable) or default
    return value.lower() not in ("", "0", "false", "no", "off")


def value_of(environ: Mapping[str, str], variable: str) -> str:
    """A variable's value without white space around it; an empty one counts as unset."""
    return environ.get(variable, "").strip()


class _Value(NamedTuple):
    """A value as its file has it, without its quotes."""

    text: str
    expands: str | None
    """The pattern of what is replaced in it; None for quotes that keep everything as it is."""


def _read_env_file(path: Path) -> dict[str, _Value]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):  # a directory may be a virtual environment
        return {}
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"{path.name} cannot be read as UTF-8 text", next_step="Fix it or remove it."
        ) from None
    return {found["name"]: _value(found) for found in re.finditer(_ASSIGNMENT, text)}


def _value(found: re.Match[str]) -> _Value:
    if found["double"]:
        return _Value(found["double"], _IN_DOUBLE_QUOTES)
    if kept := found["single"] or found["backtick"]:
        return _Value(kept, None)
    return _Value(found["bare"] or "", _IN_NO_QUOTES)


class _Expansion(NamedTuple):
    """How the values of one file are read: as dotenv does, and dotenv-expand after it."""

    file: str
    values: Mapping[str, _Value]
    environ: Mapping[str, str]

    def value(self, variable: str, *referring: str) -> str:
        """A variable's value with its references replaced, `referring` to it being these.

        Raises ConfigError for a reference that has two readings, or none.
        """
        text, expands = self.values[variable]
        if expands is None:
            return text
        return re.sub(expands, lambda found: self._replacement(found, variable, *referring), text)

    def _replacement(self, found: re.Match[str], variable: str, *referring: str) -> str:
        if escaped := found["escaped"]:
            return {"n": "\n", "r": "\r"}.get(escaped, escaped)
        if plain := found["plain"]:
            # Where nothing has this name, it is a part of a password rather than a reference.
            if plain not in self.environ and plain not in self.values:
                return found[0]
            raise self._error(variable, "may be meant literally")
        name = found["braced"]
        if value := self.environ.get(name):
            return value
        if name not in self.values or name in (variable, *referring):
            raise self._error(variable, "refers to no variable of that file or of the process")
        return self.value(name, variable, *referring)

    def _error(self, variable: str, reason: str) -> ConfigError:
        return ConfigError(
            f"{variable} in {self.file} has a $ that {reason}",
            next_step="Write ${NAME} for the value of another variable, and \\$ for a literal $.",
        )
