"""The table of hazards is the page of the documentation."""

from lib.hazards.table import HAZARDS, Level
from tests.conftest import ROOT
from tests.hazards.test_recipes import recipe_cases

# The page shows each sentence about a table `orders`.
SUBJECTS = {
    "required-column": "orders.total has NOT NULL and no default: adding it fails if orders has "
    "rows",
    "narrower-type": "orders.note was text and is character varying(20)",
    "new-rule-on-old-writes": "orders_total_positive",
    "view-columns": "total",
    "enum-value-removed": "'paid' of order_state",
    "function-signature": "order_total(integer) is gone",
    "trigger-disabled": "orders_touched",
    "privileges": "app loses SELECT on orders",
    "extension": "citext is gone",
    "replica-identity": "the columns of orders_pkey before, nothing from now on",
    "drop-locks-referenced": "order_lines",
    "many-tables-locked": "customers",
    "index-replaced": "orders_total_idx",
    "cic-corruption": "orders_total_idx",
    "lock-timeout": "none",
    "index-blocks-writes": "orders_total_idx",
    "constraint-builds-index": "orders_number_key",
    "exclusion": "orders_no_overlap",
    "index-rebuilt": "orders_name_idx",
    "index-drop": "orders_total_idx",
    "detach-locks-parent": "orders_2020",
    "partition-locks-parent": "orders_2020",
    "backfill-under-lock": "customers",
    "work-under-lock": "customers",
    "rename": "orders is purchases now",
    "security": "it is switched off",
    "fk-without-index": "orders_customer_fkey",
    "type-change": "orders.note was varchar(20) and is text",
    "query-breaks": 'SELECT notes FROM orders (calls a minute: 340) fails: column "notes" does not '
    "exist (SQLSTATE 42703)",
    "result-shape": "SELECT * FROM orders (calls a minute: 40) returns also paid",
    "accepts-nothing": "drop-column",
    "type": "orders.data is json: use jsonb",
}


def page_rows() -> list[str]:
    """The rows of docs/hazards.md, from the code's table."""
    return [
        f"| `{one.name}` | {level_in_words(one.level, one.weight)} "
        f"| {one.sentence.format(**words)} "
        f"| {f'{one.remedy} {one.otherwise}'.strip().format(**words)} |"
        for one in HAZARDS.values()
        for words in [words_of(one.name)]
    ]


def words_of(name: str) -> dict[str, str]:
    subject = SUBJECTS.get(name, "orders.total")
    return {"table": "orders", "what": "read or write", "subject": subject}


def level_in_words(level: Level, weight: int) -> str:
    return f"by size, weight {weight}" if weight else level.name.lower()


def test_the_page_of_the_hazards_is_the_code_s_table() -> None:
    page = (ROOT / "docs" / "hazards.md").read_text().splitlines()
    assert [line for line in page if line.startswith("| `")] == page_rows()


def test_what_can_fail_has_a_recipe_or_says_that_there_is_none() -> None:
    told = {one.name for one in HAZARDS.values() if one.remedy.startswith("No recipe")}
    tried = {name for name, _ in recipe_cases()}
    assert {one.name for one in HAZARDS.values() if one.can_fail} == {
        name for name in tried | told if HAZARDS[name].can_fail
    }
    assert not tried & told
