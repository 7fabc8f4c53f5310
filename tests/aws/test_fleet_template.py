"""What template-fleet.yaml makes, and its state machine, read as they are written."""

import json
from collections.abc import Iterator
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.aws.test_template import Tagged
from tests.conftest import ROOT


def fleet() -> dict[str, Any]:
    """The properties of each resource by its name."""
    document = yaml.load((ROOT / "template-fleet.yaml").read_text(), Tagged)
    resources = document["Resources"]
    return {name: resource["Properties"] for name, resource in resources.items()}


def statements(found: Any) -> Iterator[dict[str, Any]]:
    """The statements of all policies in it."""
    if isinstance(found, dict):
        if found.get("Effect") == "Allow":
            yield found
        found = list(found.values())
    if isinstance(found, list):
        for one in found:
            yield from statements(one)


def test_the_fleet_s_function_knows_no_database_and_no_url_leads_to_it() -> None:
    function = fleet()["Function"]
    variables = {"MIGRATION_ENV": {"!Ref": "Environment"}, "MIGRATION_FLEET": "1"}
    assert function["Environment"]["Variables"] == variables
    assert not {"FunctionUrlConfig", "Events"} & set(function)


def test_no_permission_of_the_fleet_s_is_for_all_there_is() -> None:
    for statement in statements(fleet()):
        assert not [one for one in actions(statement) if "*" in one]
        resources = statement["Resource"]
        for one in resources if isinstance(resources, list) else [resources]:
            arn = one.get("!Sub", "") if isinstance(one, dict) else one
            assert not arn.startswith("arn:") or arn.partition("}:${AWS::AccountId}:")[2], arn
            assert arn != "*"
    invoked = [one for one in statements(fleet()) if "lambda:InvokeFunction" in actions(one)]
    assert [one["Resource"] for one in invoked] == [{"!GetAtt": "Function.Arn"}]


def actions(statement: dict[str, Any]) -> list[str]:
    found = statement["Action"]
    return found if isinstance(found, list) else [found]


def machine(found: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """All states by name, those in a Map too."""
    if isinstance(found, dict):
        yield from found.get("States", {}).items()
        for one in found.values():
            yield from machine(one)


def test_the_machine_tolerates_what_no_local_engine_counts() -> None:
    """A Distributed Map that is too tolerant goes on; a look that is not ends early."""
    states = dict(machine(json.loads((ROOT / "infra" / "fleet.asl.json").read_text())))
    tolerated = {
        name: {key: value for key, value in state.items() if key.startswith("Tolerated")}
        for name, state in states.items()
        if state["Type"] == "Map" and state["ItemProcessor"]["ProcessorConfig"]["Mode"] != "INLINE"
    }
    assert tolerated == {
        "Migrate": {"ToleratedFailureCountPath": "$.cluster.tolerated"},
        "Look": {"ToleratedFailurePercentagePath": "$.any"},
    }
    assert states["Each cluster"]["ItemSelector"]["any"] == 100
    assert states["Migrate"]["Catch"][0]["ErrorEquals"] == ["States.ALL"]
    assert states["Migrate"]["Catch"][0]["Next"] == states["Migrate"]["Next"] == "Look"
    assert "Catch" not in states["Look"]


def test_the_machine_calls_a_function_again_only_where_it_may_help() -> None:
    states = dict(machine(json.loads((ROOT / "infra" / "fleet.asl.json").read_text())))
    for name in ("Migrate a chunk", "Look at a chunk"):
        again = {one for retry in states[name]["Retry"] for one in retry["ErrorEquals"]}
        assert again == {
            "TenantsBusy",
            "Lambda.TooManyRequestsException",
            "Lambda.ServiceException",
            "Lambda.AWSLambdaException",
            "Lambda.SdkClientException",
        }
