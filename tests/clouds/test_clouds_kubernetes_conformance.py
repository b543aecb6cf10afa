"""Every kind of workload, and every way to ask for replicas, keeps every promise of the cloud plug."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubernetes_worlds import CLONE_SET, absent, hpa, pool_of, scaled_object, shop, workload

from forecastle.testing.check_cloud import Check, checks
from forecastle.types import Pool

WAYS: dict[str, tuple[Pool, list[dict[str, Any]]]] = {
    "deployment": (pool_of(), [workload()]),
    "stateful set": (pool_of("StatefulSet"), [workload("StatefulSet")]),
    "rollout": (pool_of("Rollout"), [workload("Rollout")]),
    "hpa floor": (pool_of(scale="hpa-min"), [workload(), hpa()]),
    "keda found": (pool_of(), [workload(), scaled_object()]),
    "keda floor": (pool_of(scale="keda-min"), [workload(), scaled_object()]),
    "keda pause": (pool_of(scale="keda-pause"), [workload(), scaled_object()]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("check", checks(), ids=str)
def test_kubernetes_keeps_its_promises(check: Check, way: str, tmp_path: Path) -> None:
    pool, objects = WAYS[way]
    with shop(tmp_path, *objects) as here:
        check(here.connect, pool, absent=absent(pool), settle=here.wait)


@pytest.mark.parametrize("check", [c for c in checks() if c.name not in {"generation_once", "expected_conflict"}], ids=str)
def test_any_other_resource_with_scale_keeps_those_of_scale(check: Check, tmp_path: Path) -> None:
    """The two left out ask for restarts as well, and how such a kind restarts is not known."""
    with shop(tmp_path, workload("CloneSet")) as here:
        check(here.connect, CLONE_SET, absent=absent(CLONE_SET), settle=here.wait)
