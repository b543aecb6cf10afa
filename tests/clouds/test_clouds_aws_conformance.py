"""Whatever runs a pool on AWS keeps every promise of the cloud plug."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aws_worlds import World, world

from forecastle.testing.check_cloud import Check, checks


@pytest.fixture(scope="module")
def aws() -> Iterator[World]:
    with world() as here:
        yield here


@pytest.mark.parametrize("check", checks(), ids=str)
def test_an_auto_scaling_group_keeps_its_promises(check: Check, aws: World) -> None:
    check(aws.connect, aws.group(), settle=aws.settle)


@pytest.mark.parametrize("check", checks(), ids=str)
def test_an_ecs_service_keeps_its_promises(check: Check, aws: World) -> None:
    check(aws.connect, aws.service(), settle=aws.settle)


@pytest.mark.parametrize("check", [c for c in checks() if c.name != "generation_once"], ids=str)
def test_an_eks_node_group_keeps_its_promises(check: Check, aws: World) -> None:
    """All but the restart of a whole group, which EKS has no request for."""
    check(aws.connect, aws.nodegroup(), settle=aws.settle)
