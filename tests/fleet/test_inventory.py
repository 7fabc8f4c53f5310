"""The inventory: what its lines say, and what is refused by line."""

import json

import pytest

from lib.errors import ConfigError
from lib.fleet.inventory import Tenant, chunks, read_inventory
from tests.kit import CANARY

ACME = {"tenant": "acme", "url": "postgresql://c1.example:5432/acme"}


def lines(*rows: object) -> str:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


def problems(*rows: object) -> list[str]:
    """What is wrong with these lines, one problem each."""
    with pytest.raises(ConfigError) as refused:
        read_inventory(lines(*rows))
    assert CANARY not in refused.value.message + refused.value.next_step
    return [line.strip() for line in refused.value.message.splitlines()[1:]]


def test_a_line_says_where_a_tenants_database_is() -> None:
    [tenant] = read_inventory(lines(ACME | {"secret": "ssm:/c1", "wave": 0})).tenants
    assert tenant == Tenant(
        "acme", ACME["url"], "ssm:/c1", wave=0, cluster="c1.example", servers=("c1.example   ",)
    )
    assert tenant.line == ACME | {"secret": "ssm:/c1"}


def test_without_a_wave_and_a_cluster_it_is_the_second_wave_and_the_host() -> None:
    pooled = ACME | {"url": "postgresql://ep-x-1-pooler.eu.neon.tech/acme"}
    [tenant] = read_inventory(lines(pooled)).tenants
    assert (tenant.wave, tenant.cluster, tenant.secret) == (1, "ep-x-1.eu.neon.tech", "")
    [tenant] = read_inventory(lines({"tenant": "a", "url": "secretsmanager:a#url"})).tenants
    assert (tenant.cluster, tenant.servers) == ("unknown", ())


def test_the_waves_are_in_order_and_each_has_its_clusters() -> None:
    rows = [
        {
            "tenant": f"t{number}",
            "url": f"postgresql://h/{number}",
            "cluster": cluster,
            "wave": wave,
        }
        for number, (cluster, wave) in enumerate([("b", 2), ("a", 0), ("a", 2), ("b", 2)])
    ]
    waves = read_inventory(lines(*rows)).waves
    assert [(wave.number, wave.databases) for wave in waves] == [(0, 1), (2, 3)]
    found = {name: [one.name for one in all_] for name, all_ in waves[1].clusters.items()}
    assert found == {"b": ["t0", "t3"], "a": ["t2"]}
    assert [len(chunk) for chunk in chunks(waves[1].clusters["b"] * 5, 4)] == [4, 4, 2]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("nope", "not a JSON object"),
        ("[]", "not a JSON object"),
        (ACME | {"urll": "x"}, "unknown key urll; the keys are"),
        ({"tenant": "acme"}, "url is missing"),
        ({"url": ACME["url"]}, "tenant is missing"),
        (ACME | {"tenant": 5}, "tenant must be text"),
        (ACME | {"tenant": " "}, "tenant must be text"),
        (ACME | {"tenant": "a\nb"}, "tenant must be text"),
        (ACME | {"tenant": "a" * 201}, "tenant must be text"),
        (ACME | {"cluster": ""}, "cluster must be text"),
        (ACME | {"url": "https://x"}, "url is not a valid Postgres URL"),
        (ACME | {"url": f"postgresql://u:{CANARY}@h/x"}, "url contains a password"),
        (ACME | {"url": f"postgresql://h/x?password={CANARY}"}, "url contains a password"),
        (ACME | {"url": "postgresql://u:acme@h/acme"}, "url contains a password"),
        (ACME | {"url": f"postgresql://h/x?sslpassword={CANARY}"}, "url contains a password"),
        (ACME | {"url": "postgresql:///x"}, "url must name a host and a database"),
        (ACME | {"url": "postgresql://h"}, "url must name a host and a database"),
        (ACME | {"secret": CANARY}, "secret must be a reference"),
        (ACME | {"secret": "ssm:"}, "secret must be a reference"),
        ({"tenant": "a", "url": "ssm:/a", "secret": "ssm:/b"}, "url is a reference, so secret"),
        (ACME | {"wave": "1"}, "wave must be a whole number"),
        (ACME | {"wave": True}, "wave must be a whole number"),
        (ACME | {"wave": -1}, "wave must be a whole number"),
        (ACME | {"wave": 1000}, "wave must be a whole number"),
        (ACME | {"schema": "public"}, "the schema is none of a tenant's own"),
        (ACME | {"schema": 5}, "schema must be text"),
    ],
)
def test_a_line_that_is_wrong_is_refused_by_its_number(row: object, problem: str) -> None:
    [found] = problems({"tenant": "first", "url": "postgresql://h/first"}, "", row)
    assert found.startswith(f"line 3: {problem}")


def test_the_longest_name_and_the_last_wave_are_allowed() -> None:
    [tenant] = read_inventory(lines(ACME | {"tenant": "a" * 200, "wave": 999})).tenants
    assert (len(tenant.name), tenant.wave) == (200, 999)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_inventory_is_never_all_current(text: str) -> None:
    assert problems(text) == ["it is empty"]


def test_a_tenant_or_a_database_that_is_there_twice_is_refused() -> None:
    again = {"tenant": "other", "url": "postgresql://C1.example/acme?application_name=x"}
    assert problems(ACME, ACME | {"url": "postgresql://h/x"}, again) == [
        "line 2: tenant acme is on line 1 too",
        "line 3: the same database as on line 1",
    ]
    reference = {"tenant": "a", "url": "ssm:/a"}
    assert problems(reference, reference | {"tenant": "b"}) == [
        "line 2: the same database as on line 1"
    ]


def test_tenants_of_one_database_differ_by_their_schema() -> None:
    pair = [ACME | {"tenant": name, "schema": name} for name in ("a", "b")]
    found = read_inventory(lines(*pair)).tenants
    assert [tenant.schema for tenant in found] == ["a", "b"]
    assert found[0].line == pair[0]
    assert problems(pair[0], pair[1] | {"schema": "a"}) == [
        "line 2: the same database as on line 1"
    ]


def test_all_problems_are_named_at_once_and_the_rest_is_counted() -> None:
    found = problems(*["nope"] * 25)
    assert found[0] == "line 1: not a JSON object"
    assert found[-1] == "and 5 more"
    assert len(found) == 21
    assert len(problems(*["nope"] * 20)) == 20


def test_a_fleet_is_on_this_machine_only_if_all_its_databases_are() -> None:
    here = {"tenant": "here", "url": "postgresql://127.0.0.1/here"}
    assert read_inventory(lines(here)).is_on_this_machine
    for other in (ACME, {"tenant": "stored", "url": "ssm:/stored"}):
        assert not read_inventory(lines(here, other)).is_on_this_machine


def test_a_store_is_needed_for_a_secret_and_for_a_url_that_is_a_reference() -> None:
    assert not read_inventory(lines(ACME)).has_references
    for row in (ACME | {"secret": "ssm:/c1"}, {"tenant": "acme", "url": "ssm:/acme"}):
        assert read_inventory(lines(row)).has_references
