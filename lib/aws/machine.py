"""The engine of a fleet on AWS: the state machine of infra/fleet.asl.json.

It is started once for a run, under the run's name, and reads from its bucket what to do. What came
of it is in the bucket, too: a run can be left alone, and reported on from anywhere.
"""

import json
import re
from collections.abc import Iterator
from threading import Event
from typing import Any

from lib.aws.calls import CallFailed, calling, client
from lib.aws.execution import Execution, chunk_files, execution_input, records_of
from lib.aws.map_results import result_files
from lib.errors import ConfigError, Interrupted, LockBusy
from lib.fleet.journal import Journal
from lib.fleet.order import Order
from lib.fleet.report import Ending, Entries

FOLDERS = {"migrate": "migrate", "status": "look"}
"""Where the results of each action are, below the folder of the run."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
"""Between two questions whether the run goes on, in seconds."""
_ARN = re.compile(r"arn:[\w-]+:states:(?P<region>[\w-]+):\d+:stateMachine:[\w-]+")
_BUCKET = re.compile(r'"Bucket": ?"([^"$]+)"')
_UNKNOWN = 6  # exit code
_WHERE_THE_ARN_IS = """\
The stack of template-fleet.yaml has it among its outputs:
  aws cloudformation describe-stacks --stack-name onward-fleet --query "Stacks[0].Outputs"
"""


class Machine:
    """Carries an order out on AWS."""

    def __init__(self, arn: str, *, stop: Event) -> None:
        """`stop` ends the waiting, and not the run. Raises ConfigError."""
        found = _ARN.fullmatch(arn)
        if not found:
            raise ConfigError(
                f"--machine is {arn!r}; expected arn:aws:states:REGION:ACCOUNT:stateMachine:NAME",
                next_step=_WHERE_THE_ARN_IS,
            )
        self._arn, self._stop = arn, stop
        self._states = client("stepfunctions", found["region"])
        self._store = client("s3", found["region"])
        self._bucket = self._find_bucket()

    def check(self, order: Order) -> None:
        """Raise ConfigError if it could not take the order, LockBusy if it has another one.

        Two runs at a time would do no harm, but wait for each other's locks. Reads only.
        """
        execution_input(order)
        list(chunk_files(order))
        with calling(f"list the executions of {self._arn}"):
            found = self._states.list_executions(
                stateMachineArn=self._arn, statusFilter="RUNNING", maxResults=1
            )["executions"]
        if found:
            name = found[0]["name"]
            raise LockBusy(f"the run {name} of this fleet goes on", next_step=self._commands(name))

    def __call__(self, order: Order, journal: Journal) -> Ending:
        """Start the run, wait for its end, and write into the journal what became of each tenant.

        Raises ConfigError and CallFailed; Interrupted, and the run goes on.
        """
        self._start(order)
        self._wait(order.run)
        entries = self.entries(order.run)
        for record in entries.records:
            journal.add(record)
        if entries.ending is None:
            raise self._lost(order.run)
        return entries.ending

    def entries(self, run: str) -> Entries:
        """What is known of a run, also while it goes on. Raises ConfigError. Reads only."""
        execution = self._execution(run)
        places = {
            tenant["tenant"]: (wave, cluster)
            for wave, cluster, key in execution.keys
            for chunk in self._read(key)
            for tenant in chunk["tenants"]
        }
        records = list(records_of(execution, places, self._results(run)))
        return Entries(execution.header, records, execution.ending, execution.running)

    def _start(self, order: Order) -> None:
        for key, content in chunk_files(order):
            with calling(f"write s3://{self._bucket}/{key}"):
                self._store.put_object(Bucket=self._bucket, Key=key, Body=content.encode())
        text = execution_input(order)
        with calling(f"start {self._arn}"):
            self._states.start_execution(stateMachineArn=self._arn, name=order.run, input=text)

    def _find_bucket(self) -> str:
        with calling(f"read {self._arn}"):
            found = self._states.describe_state_machine(stateMachineArn=self._arn)
        bucket = _BUCKET.search(found["definition"])
        if not bucket:
            raise ConfigError(f"{self._arn} is not the state machine of infra/fleet.asl.json")
        return bucket[1]

    def _wait(self, run: str) -> None:
        pause = FIRST_PAUSE
        while self._execution(run).running:
            if self._stop.wait(pause):
                message = f"interrupted, but the run {run} goes on"
                raise Interrupted(message, exit_code=130, next_step=self._commands(run))
            pause = min(1.5 * pause, LONGEST_PAUSE)

    def _execution(self, run: str) -> Execution:
        with calling(f"follow the run {run}", next_step=self._commands(run)):
            arn = self._execution_arn(run)
            return Execution(self._states.describe_execution(executionArn=arn))

    def _execution_arn(self, run: str) -> str:
        return f"{self._arn.replace(':stateMachine:', ':execution:')}:{run}"

    def _results(self, run: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each chunk that is done, with what was done to it."""
        for action, folder in FOLDERS.items():
            for manifest in self._manifests(f"{run}/{folder}/"):
                for key in result_files(self._read(manifest)):
                    yield from ((action, chunk) for chunk in self._read(key))

    def _manifests(self, prefix: str) -> Iterator[str]:
        with calling(f"list s3://{self._bucket}/{prefix}"):
            pages = self._store.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                keys = [found["Key"] for found in page.get("Contents", ())]
                yield from (key for key in keys if key.endswith("/manifest.json"))

    def _read(self, key: str) -> Any:
        with calling(f"read s3://{self._bucket}/{key}"):
            return json.loads(self._store.get_object(Bucket=self._bucket, Key=key)["Body"].read())

    def _lost(self, run: str) -> CallFailed:
        return CallFailed(
            f"the run {run} did not come to its end: {self._execution(run).reason}",
            _UNKNOWN,
            next_step=f"{self._report_command(run)}\nThe same command again is safe.",
        )

    def _commands(self, run: str) -> str:
        return (
            f"{self._report_command(run)}\nTo stop it:\n"
            f"  aws stepfunctions stop-execution --execution-arn {self._execution_arn(run)}"
        )

    def _report_command(self, run: str) -> str:
        return f"To see what it has done:\n  scripts/fleet.py report {run} --machine {self._arn}"
