"""What a Distributed Map leaves behind, in the form that AWS documents: a manifest, and an array
for each kind of end, whose objects have what went in and what came out as JSON in text.
"""

import json
from typing import Any

ARN = "arn:aws:states:eu-west-1:123456789012:stateMachine:onward-fleet"
MAP_RUN = "2b9e8a3c-1b2f-3f5a-9d0e-6f7c8b9a0d1e"


def manifest(folder: str, *statuses: str) -> dict[str, Any]:
    """The manifest, with one file for each of these kinds of end."""
    files = {
        status: [{"Key": f"{folder}/{MAP_RUN}/{status}_0.json", "Size": 1234}]
        if status in statuses
        else []
        for status in ("FAILED", "PENDING", "SUCCEEDED")
    }
    return {
        "DestinationBucket": "onward-fleet-runs-1a2b3c4d",
        "MapRunArn": f"{ARN.replace('stateMachine', 'mapRun')}/migrate:{MAP_RUN}",
        "ResultFiles": files,
    }


def succeeded(*outcomes: dict[str, Any]) -> dict[str, Any]:
    """A chunk whose function has returned."""
    names = [outcome["tenant"] for outcome in outcomes]
    output = {"Output": json.dumps({"tenants": outcomes}), "OutputDetails": {"Included": True}}
    return {**_chunk(names), **output, "Status": "SUCCEEDED"}


def failed(names: list[str], error: str, message: str) -> dict[str, Any]:
    """A chunk whose function has raised."""
    cause = {
        "errorMessage": message,
        "errorType": error,
        "requestId": "4f2f7a4e-8f3b-4a43-9d6e-1d0a6d0a1b2c",
        "stackTrace": ['  File "/var/task/lib/aws/fleet.py", line 60, in work\n'],
    }
    return {**_chunk(names), "Error": error, "Cause": json.dumps(cause), "Status": "FAILED"}


def unwell(names: list[str], error: str, *outcomes: dict[str, Any]) -> dict[str, Any]:
    """A chunk whose function has raised the list of those that are not fine."""
    return failed(names, error, json.dumps(outcomes))


def _chunk(names: list[str]) -> dict[str, Any]:
    tenants = [{"tenant": name, "url": f"postgresql://c1.example/{name}"} for name in names]
    event = {"environment": "production", "head": "002-two", "tenants": tenants}
    return {
        "ExecutionArn": f"{ARN.replace('stateMachine', 'execution')}/migrate:{MAP_RUN}",
        "Input": json.dumps(event),
        "InputDetails": {"Included": True},
        "Name": MAP_RUN,
        "RedriveCount": 0,
        "RedriveStatus": "NOT_REDRIVABLE",
        "RedriveStatusReason": "Execution is SUCCEEDED and cannot be redriven",
        "StartDate": "2026-11-26T20:30:01.123Z",
        "StateMachineArn": f"{ARN}/migrate",
        "StopDate": "2026-11-26T20:30:02.623Z",
    }
