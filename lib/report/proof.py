"""A proof as text and as a JSON document. Pure."""

from typing import Any

from lib.proof import Proof
from lib.report.drift import difference_text


def proof_text(proof: Proof) -> str:
    """What agrees, what differs, and what was not compared."""
    compared = proof.comparison.compared
    objects = f"{compared} {'object' if compared == 1 else 'objects'}"
    differences = proof.comparison.differences
    if differences:
        head = f"❌ History and schema do not agree: {len(differences)} of {objects} differ"
        shown = (difference_text(one, "the files make:", "there is:      ") for one in differences)
        lines = [head, *shown]
    else:
        lines = [f"✅ History and schema agree: {objects}"]
    return "\n".join([*lines, *_not_compared(proof)])


def proof_dict(proof: Proof) -> dict[str, Any]:
    """The same as a document."""
    comparison = proof.comparison
    return {
        "agrees": not comparison.differences,
        "applied": proof.applied,
        "compared": comparison.compared,
        "differences": [
            {"object": one.name, "made": one.was, "is": one.now} for one in comparison.differences
        ],
        "notCompared": dict(comparison.not_compared),
        "postgres": proof.postgres,
        "madeBy": proof.made_by,
    }


def _not_compared(proof: Proof) -> list[str]:
    counts = proof.comparison.not_compared
    if not counts:
        return []
    kinds = ", ".join(f"{kind} ({count})" for kind, count in sorted(counts.items()))
    return [
        f"   Not compared, since PostgreSQL {proof.postgres} and {proof.made_by} print them "
        f"differently: {kinds}",
        f"   To compare all, use a server of version {proof.postgres}: --scratch URL, or "
        "POSTGRES_BIN",
    ]
