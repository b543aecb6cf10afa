"""Whatever runs a pool on Azure keeps every promise of the cloud plug."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from azure_worlds import POOL, World, world

from forecastle.testing.check_cloud import Check, checks


@pytest.fixture(scope="module")
def azure() -> Iterator[World]:
    with world() as here:
        yield here


@pytest.mark.parametrize("check", [c for c in checks() if c.name != "generation_once"], ids=str)
def test_a_scale_set_keeps_its_promises(check: Check, azure: World) -> None:
    """All but the restart of a whole set, which Azure would do to every instance at once."""
    check(azure.connect, azure.scale_set())


@pytest.mark.parametrize("check", checks(), ids=str)
def test_a_container_app_keeps_its_promises(check: Check, azure: World) -> None:
    check(azure.connect, azure.app())


@pytest.mark.parametrize("check", [c for c in checks() if c.name != "generation_once"], ids=str)
def test_an_aks_node_pool_keeps_its_promises(check: Check, azure: World) -> None:
    """All but the restart of a whole pool, which is for the Kubernetes adapter."""
    absent = replace(POOL, target={"nodepool": "shop/main/none"})
    check(azure.connect, azure.node_pool(), absent=absent)
