"""Whatever runs a pool on Google Cloud keeps every promise of the cloud plug."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gcp_worlds import World, world

from forecastle.testing.check_cloud import Check, checks


@pytest.fixture(scope="module")
def gcp() -> Iterator[World]:
    with world() as here:
        yield here


@pytest.mark.parametrize("check", checks(), ids=str)
@pytest.mark.parametrize("kind", ["group", "regional", "service"])
def test_a_group_and_a_service_keep_their_promises(kind: str, check: Check, gcp: World) -> None:
    check(gcp.connect, getattr(gcp, kind)(), settle=gcp.gcp.settle)


@pytest.mark.parametrize("check", [c for c in checks() if c.name != "generation_once"], ids=str)
def test_a_node_pool_keeps_its_promises(check: Check, gcp: World) -> None:
    """All but the restart of all nodes, which is the Kubernetes adapter's."""
    check(gcp.connect, gcp.nodepool(), settle=gcp.gcp.settle)
