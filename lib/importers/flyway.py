"""Flyway: `V<version>__<description>.sql` in any folder below, in the order of their versions.

Facts from flyway/flyway: flyway-core, below org/flywaydb/core: internal/resource/
ResourceNameParser.java, api/MigrationVersion.java, api/callback/Event.java,
internal/resolver/ChecksumCalculator.java, internal/sqlscript/SqlScriptMetadata.java,
internal/parser/PlaceholderReplacingReader.java.
"""

import re
from pathlib import Path
from zlib import crc32

from lib.importers.layout import (
    Layout,
    NotConvertible,
    Obstacle,
    SourceFile,
    files_below,
    read_text,
    text_if_readable,
    with_one_file_a_key,
)

_VERSIONED = re.compile(
    r"(?P<kind>[VB])(?P<version>[0-9]+(?:[._][0-9]+)*)__(?P<rest>.*)\.(?P<suffix>[a-z0-9]+)"
)
_REPEATABLE = re.compile(r"R__(?P<rest>.*)\.(?:sql|java|kt|class|sh|bash|cmd|bat|ps1|py)")
_CALLBACK = re.compile(r"(?:before|after)[A-Z][A-Za-z]*(?:__.*)?\.(?:sql|sh|bash|cmd|bat|ps1|py)")
_CODE = ("java", "kt", "groovy", "class", "sh", "bash", "cmd", "bat", "ps1", "py")
_PLACEHOLDER = re.compile(r"\$\{[^}]*\}")
_SETTING = re.compile(r"(?m)^[ \t]*([A-Za-z.]+)[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?$")
_SETTINGS = ("executeInTransaction", "placeholderReplacement", "encoding")


def recognises(directory: Path) -> bool:
    """Whether there is a versioned migration of Flyway's."""
    names = [path.name for path in files_below(directory)]
    return any(_VERSIONED.fullmatch(name) and _key(name) for name in names)


def read(directory: Path) -> Layout:
    """Its migrations; those that undo one are left out."""
    files = list[SourceFile | Obstacle]()
    for path in sorted(files_below(directory), key=_order):
        relative = path.relative_to(directory).as_posix()
        try:
            if key := _key(path.name):
                files.append(_file(path, relative, key))
        except NotConvertible as reason:
            files.append(Obstacle(relative, key, str(reason)))
    return Layout(with_one_file_a_key(files))


def _order(path: Path) -> tuple[bool, list[int], str]:
    """By version; what has none comes last."""
    found = _VERSIONED.fullmatch(path.name)
    parts = _version(found).split(".") if found else []
    return not found, [int(part) for part in parts], path.as_posix()


def _key(name: str) -> str:
    """What Flyway's history calls a file; empty for a file that is none of a migration."""
    if found := _VERSIONED.fullmatch(name):
        is_migration = found["suffix"] in ("sql", *_CODE)
        return ("" if found["kind"] == "V" else "B") + _version(found) if is_migration else ""
    if found := _REPEATABLE.fullmatch(name):
        return f"R__{found['rest']}"
    return name if _CALLBACK.fullmatch(name) else ""


def _version(found: re.Match[str]) -> str:
    """The version without zeros that mean nothing: 1.0 is 1."""
    parts = [str(int(part)) for part in re.split("[._]", found["version"])]
    while len(parts) > 1 and parts[-1] == "0":
        parts.pop()
    return ".".join(parts)


def _file(path: Path, relative: str, key: str) -> SourceFile:
    found = _VERSIONED.fullmatch(path.name)
    if not found:
        raise NotConvertible(_runs_more_than_once(path.name))
    if found["suffix"] in _CODE:
        raise NotConvertible("it is code, and not SQL")
    if found["kind"] == "B":
        raise NotConvertible(
            f"it stands for all migrations up to {_version(found)}; where these are here, leave "
            "it out"
        )
    settings = _settings(path)
    text = read_text(path)
    if settings.get("placeholderReplacement") != "false":
        _require_no_placeholder(text, path.name)
    return SourceFile(
        relative,
        key=key,
        description=found["rest"],
        sql=text,
        number=int(key) if key.isdigit() else None,
        no_transaction=settings.get("executeInTransaction") == "false",
        checksums=(_checksum(text),),
    )


def _runs_more_than_once(name: str) -> str:
    if _CALLBACK.fullmatch(name):
        return "it is a callback, which runs beside every run of Flyway"
    return (
        "it is repeatable, and runs again whenever it is changed; make a migration of its last "
        "text, after the import"
    )


def _settings(path: Path) -> dict[str, str]:
    """Those of the file `NAME.conf` beside it. Raises NotConvertible for what is not known here."""
    beside = path.with_name(f"{path.name}.conf")
    text = text_if_readable(beside) if beside.is_file() else ""
    settings = {name: value.lower() for name, value in _SETTING.findall(text)}
    if unknown := sorted(settings.keys() - set(_SETTINGS)):
        raise NotConvertible(f"{beside.name} sets {', '.join(unknown)}")
    if settings.get("encoding", "utf-8") not in ("utf-8", "utf8"):
        raise NotConvertible(f"{beside.name} gives it an encoding; save it as UTF-8")
    return settings


def _require_no_placeholder(text: str, name: str) -> None:
    if found := _PLACEHOLDER.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise NotConvertible(
            f"line {line}: Flyway replaces {found[0]}; write the value, or, if it is meant as it "
            f"is, placeholderReplacement=false into {name}.conf"
        )


def _checksum(text: str) -> str:
    """CRC-32 of the lines without their ends, as a signed integer."""
    crc = crc32(re.sub("[\r\n]", "", text).encode())
    return str(crc - 2**32 if crc >= 2**31 else crc)
