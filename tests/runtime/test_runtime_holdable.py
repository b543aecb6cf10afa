"""What a person may hold is what there is: workloads, pools, sites and failure domains, and never everything at once."""

from __future__ import annotations

import pytest

from forecastle.errors import ConfigError
from forecastle.runtime.inventory import holdable, with_policy
from forecastle.settings import Settings


def settings(**load: object) -> Settings:
    pools = [{"name": "shop-fra", "site": "fra", "unit_price": 0.1}, {"name": "shop-ams", "site": "ams", "unit_price": 0.1}]
    shop = {"name": "shop", "demands": [{"metric": "rps", "per_replica": 40}], "pools": pools, **load}
    sites = [
        {"name": "fra", "provider": "aws", "region": "eu-central-1", "zone": "a"},
        {"name": "ams", "provider": "gcp", "region": "europe-west4"},
        {"name": "empty", "provider": "gcp", "region": "nowhere"},
    ]
    return Settings.model_validate(
        {
            "clouds": {"sim": {"adapter": "json:loads"}},
            "policies": {"calm": {"lead_time_s": 600.0, "target_utilization": 0.5}},
            "fleet": {"sites": sites, "workloads": [shop]},
        }
    )


@pytest.mark.parametrize("target", ["shop", "shop-fra", "ams", "empty", "aws/eu-central-1/a", "gcp/europe-west4/"])
def test_what_there_is_can_be_held(target: str) -> None:
    assert holdable(settings(), target) == target


@pytest.mark.parametrize("target", ["", "*", "Shop", "shop ", "aws", "aws/eu-central-1", "gcp/nowhere/"])
def test_nothing_else_can_and_the_answer_lists_what_can(target: str) -> None:
    with pytest.raises(ConfigError, match="nothing that can be held") as caught:
        holdable(settings(), target)
    for known in ("shop", "shop-ams", "fra", "aws/eu-central-1/a"):
        assert known in str(caught.value)


def test_a_policy_fills_in_only_what_the_workload_leaves_open() -> None:
    (open_load,) = settings(policy="calm").fleet.workloads
    filled = with_policy(open_load, settings())
    assert (filled.lead_time_s, filled.target_utilization) == (600.0, 0.5)
    (own,) = settings(policy="calm", lead_time_s=90.0).fleet.workloads
    kept = with_policy(own, settings())
    assert (kept.lead_time_s, kept.target_utilization) == (90.0, 0.5)


def test_without_a_policy_the_workload_stays_the_very_same() -> None:
    (load,) = settings().fleet.workloads
    assert with_policy(load, settings()) is load


def test_a_policy_nobody_wrote_is_a_problem_not_a_default() -> None:
    with pytest.raises(ConfigError, match=r"policy 'calmer' is unknown, known are calm; add policies\.calmer"):
        holdable(settings(policy="calmer"), "shop")
