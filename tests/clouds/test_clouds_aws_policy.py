"""The shipped IAM policy allows exactly the calls that the adapter makes."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
from aws_front import REGION
from aws_worlds import START, World, world

from forecastle.clouds.aws_spot import spot_prices
from forecastle.errors import CloudUnavailable
from forecastle.types import Kind

POLICY: dict[str, Any] = json.loads((files("forecastle.clouds") / "policies" / "aws.json").read_text())
LIMITED = {"aws:ResourceTag/forecastle:managed", "ssm:resourceTag/forecastle:managed"}


def act_in_every_way(aws: World) -> None:
    """Each kind of action on each kind of pool, and an answer that never came."""
    pool = aws.group()
    one, two, three, *_ = sorted(aws.members(pool))
    aws.do(Kind.SCALE, 5, pool)
    aws.do(Kind.REPLACE, "1", pool, replica=one)
    aws.do(Kind.QUARANTINE, "sick", pool, replica=two)
    aws.do(Kind.DRAIN, 0, pool, replica=three)
    aws.do(Kind.DRAIN, 100, pool, replica=three)
    aws.do(Kind.RESTART, "1", pool)
    aws.settle()
    action = aws.action(Kind.RESTART, "2", pool, replica=three)
    aws.front.fault = lambda operation, body: "unanswered" if operation == "SendCommand" else ""
    with pytest.raises(CloudUnavailable):
        aws.cloud.apply(action, pool, token=action.id)
    assert aws.cloud.apply(action, pool, token=action.id).already
    service = aws.service()
    host = aws.host(service).rpartition("/")[2]
    aws.do(Kind.SCALE, 5, service)
    aws.do(Kind.REPLACE, "1", service, replica=aws.task(service))
    aws.do(Kind.DRAIN, 0, service, replica=f"container-instance/{host}")
    aws.do(Kind.SCALE, 5, aws.nodegroup())
    spot_prices(REGION, ["t3.micro"], since=START, until=START + 1, endpoint_url=aws.front.url)


def test_the_policy_allows_what_is_called_and_nothing_more() -> None:
    with world() as aws:
        act_in_every_way(aws)
        called = {f"{service}:{operation}" for service, operation, _ in aws.front.delivered}
    assert called == {action for statement in POLICY["Statement"] for action in statement["Action"]}


def test_nothing_is_written_that_is_not_tagged_managed() -> None:
    for statement in POLICY["Statement"]:
        writes = [a for a in statement["Action"] if not a.split(":")[1].startswith(("Describe", "List"))]
        tags = set(statement.get("Condition", {}).get("StringEquals", {}))
        assert not writes or tags & LIMITED or statement["Resource"] == ["arn:aws:ssm:*::document/AWS-RunShellScript"]


def test_nothing_is_deleted_created_or_passed_on() -> None:
    every = [action for statement in POLICY["Statement"] for action in statement["Action"]]
    verbs = {action.split(":")[1] for action in every} - {"CreateOrUpdateTags"}
    assert not [verb for verb in verbs if "*" in verb or verb.startswith(("Delete", "Create", "Run", "Pass", "Put"))]
    assert [verb for verb in verbs if "Terminate" in verb] == ["TerminateInstanceInAutoScalingGroup"]
