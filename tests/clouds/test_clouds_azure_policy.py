"""The shipped custom role allows exactly the requests that the adapter makes."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
from azure_worlds import World, world

from forecastle.errors import Conflict
from forecastle.types import Kind

ROLE: dict[str, Any] = json.loads((files("forecastle.clouds") / "policies" / "azure.json").read_text())


def act_in_every_way(azure: World) -> None:
    """Each kind of action on each kind of pool."""
    pool = azure.scale_set()
    one, two, three, four = sorted(azure.instances(pool))
    azure.do(Kind.SCALE, 5, pool)
    azure.do(Kind.ROLLBACK, "Canonical:ubuntu:24:0.9", pool)
    azure.do(Kind.RESTART, "1", pool, replica=one)
    azure.do(Kind.REPLACE, "1", pool, replica=two)
    azure.do(Kind.REPLACE, "1", pool, replica=one, cloud=azure.connect(reimage=True))
    azure.do(Kind.QUARANTINE, "sick", pool, replica=three)
    azure.do(Kind.DRAIN, 0, pool, replica=four)
    azure.do(Kind.DRAIN, 100, pool, replica=four)
    app = azure.app()
    azure.do(Kind.SCALE, 5, app)
    azure.do(Kind.RESTART, "1", app)
    azure.do(Kind.ROLLBACK, "web:0", app)
    azure.do(Kind.SCALE, 5, azure.node_pool())


def test_the_role_allows_what_is_called_and_nothing_more() -> None:
    with world() as azure:
        act_in_every_way(azure)
        called = {action for action, _ in azure.azure.calls}
    assert called == set(ROLE["Actions"])
    assert len(ROLE["Actions"]) == len(called)


def test_nothing_is_deleted_but_an_instance() -> None:
    assert not [action for action in ROLE["Actions"] if "*" in action]
    deletes = [action for action in ROLE["Actions"] if "delete" in action.lower()]
    assert deletes == ["Microsoft.Compute/virtualMachineScaleSets/virtualMachines/delete"]
    assert not ROLE["DataActions"]


def test_a_resource_provider_is_not_registered_on_the_way() -> None:
    """The SDK would, by itself, when Azure says that a subscription lacks it."""
    with world() as azure:
        pool = azure.scale_set()
        azure.azure.fault = lambda action, _: "409 MissingSubscriptionRegistration" if action.endswith("/write") else ""
        with pytest.raises(Conflict, match="MissingSubscriptionRegistration"):
            azure.do(Kind.SCALE, 5, pool)
        assert not [action for action, _ in azure.azure.calls if action not in ROLE["Actions"]]
