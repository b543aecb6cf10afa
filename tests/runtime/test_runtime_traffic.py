"""Load balancers' shares in the configuration: no capacity, named once, and only of adapters that can take traffic away."""

from __future__ import annotations

from typing import Any

import pytest

from forecastle.runtime.inventory import check, contradictions, holdable, inventory
from forecastle.settings import Settings

HAPROXY, GATEWAY = "forecastle.clouds.haproxy:open_cloud", "forecastle.clouds.gateway:open_cloud"
SHARE = {"name": "web-fra", "site": "fra", "adapter": "balancer", "target": {"backend": "web", "servers": "fra1,fra2"}}


def settings(*shares: dict[str, Any], balancer: str = HAPROXY, pool: str = "sim", **more: Any) -> Settings:
    load = {
        "name": "shop",
        "demands": [{"metric": "rps", "per_replica": 10}],
        "pools": [{"name": "shop-fra", "site": "fra", "unit_price": 0.1, "adapter": pool}],
        "traffic": list(shares or (SHARE,)),
    }
    sites = [{"name": "fra", "provider": "aws", "region": "eu", "zone": "a"}]
    clouds = {
        "sim": {"adapter": "forecastle.clouds.sim:open_cloud", "options": {"path": "sim.db"}},
        "balancer": {"adapter": balancer, "options": {"socket": "s"}},
    }
    return Settings.model_validate({"clouds": clouds, "fleet": {"sites": sites, "workloads": [load]}} | more)


def test_a_share_is_a_pool_that_holds_nothing_and_costs_nothing() -> None:
    stock = inventory(settings())
    share, load = stock.pools["web-fra"], stock.workloads["shop"]
    assert (load.pools, load.traffic) == (("shop-fra",), ("web-fra",))
    assert (share.workload, share.site, share.adapter, share.traffic) == ("shop", "fra", "balancer", True)
    assert (share.max, share.quota, share.cost(5)) == (0, 0, 0.0)
    assert share.target == SHARE["target"]
    assert not stock.pools["shop-fra"].traffic
    assert stock.domain("web-fra") == "aws/eu/a"


@pytest.mark.parametrize("balancer", [HAPROXY, GATEWAY])
def test_what_only_takes_traffic_need_not_scale(balancer: str) -> None:
    assert check(settings(balancer=balancer)) == []


def test_a_share_can_be_held() -> None:
    assert holdable(settings(), "web-fra") == "web-fra"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"site": "nowhere"}, "pool web-fra: site 'nowhere' is not in fleet.sites"),
        ({"adapter": "moon"}, "pool web-fra: adapter 'moon' is not in clouds; add clouds.moon.adapter"),
        ({"name": "shop-fra"}, "pools: 'shop-fra' is defined 2 times"),
        ({"target": {"backend": "web", "servers": "fra*"}}, "traffic web-fra: target.servers is empty or a pattern"),
        ({"target": {"backend": " "}}, "traffic web-fra: target.backend is empty or a pattern"),
    ],
)
def test_what_is_wrong_with_a_share_is_said(change: dict[str, Any], says: str) -> None:
    assert any(line.startswith(says) for line in contradictions(settings(SHARE | change)))


def test_an_adapter_that_cannot_take_traffic_away_is_refused() -> None:
    found = check(settings(balancer="forecastle.clouds.terraform:open_cloud"))
    assert found == ["clouds.balancer: can neither drain nor shift, which `traffic` asks for"]


def test_a_load_balancer_is_no_place_for_replicas() -> None:
    found = check(settings(pool="balancer"))
    assert found == ["clouds.balancer: lacks scale, which the playbooks ask for"]


def test_what_nobody_uses_is_checked_as_ever() -> None:
    unused = {"name": "x", "action": "restart"}
    found = check(settings(playbooks=[unused]))
    assert found == [], "the simulated cloud restarts, and a load balancer is not asked to"
