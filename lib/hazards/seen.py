"""A hazard as the rules see it, before its level is known. Pure."""

from __future__ import annotations

from typing import NamedTuple

from lib.hazards.findings import Circumstances
from lib.hazards.recipes import Files
from lib.observation import TABLES, FileObservation


class Seen(NamedTuple):
    """A hazard as a rule sees it."""

    name: str
    line: int
    relation: int
    subject: str = ""
    what: str = ""
    recipe: Files = ()
    weight: int = 0
    """If it is not the hazard's."""


def existed(file: FileObservation, given: Circumstances, oid: int) -> bool:
    """Whether it is a table that other sessions knew before."""
    relation = file.start.relations.get(oid)
    return bool(
        relation
        and (relation.kind in TABLES or relation.kind == "v")
        and (given.known is None or oid in given.known.relations)
    )
