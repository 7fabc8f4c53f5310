"""Comparing what files make with what is there: without a database."""

from lib.comparison import compare, kind_of, prints_alike
from lib.drift import Difference, Schema

OBJECTS = {
    "schema public": "",
    "table public.a": "",
    "column public.a.id": "integer",
    "view public.v": " SELECT id FROM public.a;",
    "owner of public.a": "app",
    "comment on public.a": "ours",
}
# Another tool's history, with everything that hangs on one.
FOREIGN = {
    "schema drizzle": "",
    "owner of drizzle": "app",
    "table drizzle.__drizzle_migrations": "",
    "column drizzle.__drizzle_migrations.id": "integer",
    "constraint drizzle.__drizzle_migrations.pk": "PRIMARY KEY (id)",
    "index drizzle.by_time": "CREATE INDEX by_time ON drizzle.__drizzle_migrations USING btree (t)",
    "sequence drizzle.__drizzle_migrations_id_seq": "integer START 1",
}


def schema(postgres: int = 18) -> Schema:
    return Schema(postgres, OBJECTS)


def test_the_same_objects_agree_and_are_counted() -> None:
    assert compare(schema(), schema()) == (4, (), {})


def test_what_differs_is_named_as_made_and_as_found() -> None:
    found = Schema(18, {**OBJECTS, "column public.a.id": "bigint", "table public.b": ""})
    assert compare(schema(), found).differences == (
        Difference("column public.a.id", "integer", "bigint"),
        Difference("table public.b", None, ""),
    )


def test_strict_kinds_count_only_where_they_are_asked_for() -> None:
    objects = {**OBJECTS, "owner of public.a": "me", "comment on public.a": "mine"}
    found = Schema(18, objects)
    assert compare(schema(), found).differences == ()
    (difference,) = compare(schema(), found, strict=["comment on"]).differences
    assert difference.name == "comment on public.a"


def test_a_table_is_left_out_with_all_that_hangs_on_it_and_its_schema() -> None:
    found = Schema(18, OBJECTS | FOREIGN)
    assert len(compare(schema(), found).differences) == 6
    left_out = compare(schema(), found, without_tables=["drizzle.__drizzle_migrations"])
    assert left_out == (4, (), {})


def test_the_schema_of_a_left_out_table_counts_if_more_is_in_it() -> None:
    found = Schema(18, OBJECTS | FOREIGN | {"table drizzle.ours": ""})
    names = [
        one.name
        for one in compare(
            schema(), found, without_tables=["drizzle.__drizzle_migrations"]
        ).differences
    ]
    assert names == ["schema drizzle", "table drizzle.ours"]


def test_a_table_whose_name_begins_alike_is_not_left_out() -> None:
    found = Schema(18, {**OBJECTS, "table public.a_seqs": "", "column public.ab.id": "integer"})
    names = [one.name for one in compare(schema(), found, without_tables=["public.a"]).differences]
    assert names == ["column public.ab.id", "table public.a_seqs"]


def test_across_versions_views_are_neither_equal_nor_different() -> None:
    found = Schema(14, {**OBJECTS, "view public.v": " SELECT a.id FROM public.a;"})
    assert compare(schema(), found) == (3, (), {"view": 1})
    assert compare(schema(16), found._replace(postgres=17)).not_compared == {}


def test_of_versions_that_nobody_has_tried_nothing_is_said() -> None:
    kinds = {"schema": 1, "table": 1, "column": 1, "view": 1}
    assert compare(schema(18), schema(19)) == (0, (), kinds)
    assert prints_alike("table", schema(19), schema(19))


def test_the_kind_of_a_name_may_be_two_words() -> None:
    assert kind_of("materialized view public.sums") == "materialized view"
    assert kind_of("view public.v") == "view"
    assert kind_of("owner of public.a") == "owner of"
