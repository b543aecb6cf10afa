"""Every kind of route keeps every promise of the cloud plug."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gateway_worlds import ISTIO, POOL, edge, http_route, pool_of, ref, to, virtual_service

from forecastle.testing.check_cloud import Check, checks
from forecastle.types import Pool

THREE = [ref("web-fra", 100), ref("web-ams", 0), ref("web-lon", 0)]
WAYS: dict[str, tuple[Pool, dict[str, Any]]] = {
    "http route": (POOL, http_route()),
    "grpc route": (pool_of(kind="GRPCRoute"), http_route(kind="GRPCRoute")),
    "three backends, two rules": (POOL, http_route(THREE, THREE)),
    "istio": (ISTIO, virtual_service()),
    "istio, three": (ISTIO, virtual_service([to("fra", 100), to("ams", 0), to("lon", 0)])),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("check", checks(), ids=str)
def test_a_route_keeps_its_promises(check: Check, way: str, tmp_path: Path) -> None:
    pool, route = WAYS[way]
    with edge(tmp_path, route) as here:
        check(here.connect, pool, absent=replace(pool, name="nobody", target={**pool.target, "name": "nobody"}))


@pytest.mark.parametrize("check", checks(), ids=str)
def test_one_rule_of_a_route_keeps_its_promises(check: Check, tmp_path: Path) -> None:
    pool, route = pool_of(rule="r1"), http_route([ref("web-fra")], [ref("web-fra", 7), ref("web-ams", 0)])
    with edge(tmp_path, route) as here:
        check(here.connect, pool, absent=replace(pool, name="nobody", target={**pool.target, "rule": "r7"}))
        assert here.weights(0) == [None]
