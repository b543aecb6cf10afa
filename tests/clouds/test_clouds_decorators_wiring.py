"""From `clouds.<name>` in the configuration to brakes around its adapter, and from them to `/metrics`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from layer_worlds import POOL, START, Scripted, Time, scale
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from forecastle.clouds.breaker import Breaker, CircuitOpen
from forecastle.clouds.dry_run import DryRun
from forecastle.clouds.layer import layers
from forecastle.clouds.meter import BOUNDS_S, Metered
from forecastle.clouds.rate import Crowded, RateLimited
from forecastle.errors import CloudUnavailable, ConfigError
from forecastle.outlets.cloud_metrics import CloudReport, cloud_families
from forecastle.ports import Cloud
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.cloud_reports import reports
from forecastle.runtime.providers import clouds
from forecastle.settings import ActSettings, CloudSettings, Settings

SIM = "forecastle.clouds.sim:open_cloud"


class Opening:
    """Opens `CloudSettings` of the sim; ``sleeps`` are what its rates asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.time = folder, EventClock(START), Time()
        self.opened: list[Cloud] = []

    def __call__(self, **chosen: dict[str, Any]) -> dict[str, Cloud]:
        made = {
            name: CloudSettings(adapter=SIM, options={"path": str(self.folder / f"{name}.db")} | one.pop("options", {}), **one)
            for name, one in chosen.items()
        }
        found = clouds(Settings(clouds=made, act=ActSettings(timeout_s=3.0)), self.clock, sleep=self.time.sleep)
        self.opened += found.values()
        return found


@pytest.fixture
def opening(tmp_path: Path) -> Any:
    opening = Opening(tmp_path)
    yield opening
    for cloud in opening.opened:
        cloud.close()


def kinds(cloud: Cloud) -> list[type[object]]:
    return [type(one) for one in layers(cloud)]


def test_an_adapter_without_a_word_is_counted_and_has_a_breaker(opening: Opening) -> None:
    assert kinds(opening(sim={})["sim"]) == [Breaker, Metered]


def test_every_brake_has_its_place(opening: Opening) -> None:
    every = opening(sim={"dry_run": True, "rate_per_s": 5.0})["sim"]
    assert kinds(every) == [DryRun, Breaker, RateLimited, Metered]
    assert kinds(opening(bare={"breaker_share": None})["bare"]) == [Metered]


def test_a_dry_run_leaves_the_provider_as_it_was(opening: Opening) -> None:
    cloud = opening(sim={"dry_run": True})["sim"]
    assert cloud.apply(scale(), POOL, token="t").dry_run
    assert cloud.observe(POOL).replicas == 3


def test_the_rate_holds_and_gives_up_after_the_time_of_a_call(opening: Opening) -> None:
    cloud = opening(sim={"rate_per_s": 0.5, "burst": 1})["sim"]
    cloud.observe(POOL)
    cloud.observe(POOL)
    assert opening.time.sleeps == [2.0]
    with pytest.raises(Crowded):
        cloud.observe(POOL)


def test_one_account_has_one_rate(opening: Opening) -> None:
    found = opening(
        fra={"account": "acme", "rate_per_s": 1.0, "burst": 1},
        ams={"account": "acme", "rate_per_s": 1.0, "burst": 1},
        own={"rate_per_s": 1.0, "burst": 1},
        free={"account": "acme"},
    )
    for name in ("fra", "own", "ams", "free"):
        found[name].observe(POOL)
    assert opening.time.sleeps == [1.0, 2.0], "own waits for nobody; free is of the account and named no rate itself"


@pytest.mark.parametrize("other", [{"rate_per_s": 2.0}, {"rate_per_s": 1.0, "burst": 3}])
def test_two_rates_for_one_account_are_refused_with_their_names(opening: Opening, other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"clouds\.ams: .* of account 'acme' differ from those in clouds\.fra"):
        opening(fra={"account": "acme", "rate_per_s": 1.0}, ams={"account": "acme", **other})


def test_the_breaker_opens_as_configured(opening: Opening) -> None:
    chosen = {"breaker_calls": 3, "breaker_share": 1.0, "breaker_open_s": 7.0, "options": {"throttle": 1.0}}
    cloud = opening(sim=chosen)["sim"]
    for _ in range(3):
        with pytest.raises(CloudUnavailable, match="too many requests"):
            cloud.observe(POOL)
    with pytest.raises(CircuitOpen) as found:
        cloud.observe(POOL)
    assert found.value.retry_after == 7.0
    opening.clock.advance(START + 7_000)
    with pytest.raises(CloudUnavailable, match="too many requests"):
        cloud.observe(POOL)


@pytest.mark.parametrize("wrong", [{"rate_per_s": 0}, {"burst": 0}, {"breaker_share": 0}, {"breaker_share": 1.1}])
def test_senseless_numbers_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CloudSettings(adapter=SIM, **wrong)


# --- at /metrics --------------------------------------------------------------------------------------------------------


class Shown(Collector):
    def __init__(self, read: Callable[[], dict[str, CloudReport]]) -> None:
        self.read = read

    def collect(self) -> Any:
        return cloud_families(self.read())


def page(found: dict[str, CloudReport]) -> list[str]:
    registry = CollectorRegistry()
    registry.register(Shown(lambda: found))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_what_the_layers_know_is_at_metrics(opening: Opening) -> None:
    cloud = opening(sim={"breaker_calls": 2, "options": {"throttle": 1.0, "retry_after": 0.0}})["sim"]
    for _ in range(3):
        with pytest.raises(CloudUnavailable):
            cloud.observe(POOL)
    lines = page(reports({"sim": cloud}))
    assert 'forecastle_cloud_calls_total{cloud="sim",operation="observe",result="CloudUnavailable"} 2.0' in lines
    assert 'forecastle_cloud_call_seconds_count{cloud="sim",operation="observe"} 2.0' in lines
    assert 'forecastle_cloud_breaker_state{cloud="sim",state="open"} 1.0' in lines
    assert 'forecastle_cloud_breaker_state{cloud="sim",state="closed"} 0.0' in lines
    assert 'forecastle_cloud_breaker_opened_total{cloud="sim"} 1.0' in lines


def test_buckets_are_cumulative_and_end_with_all_calls() -> None:
    time = Time()
    provider = Scripted(time)
    cloud = Metered(provider, time.monotonic)
    for seconds in (0.001, 0.2, 0.2, 99.0):
        provider.took = seconds
        cloud.observe(POOL)
    lines = page(reports({"aws": cloud}))
    counts = [float(line.rsplit(" ", 1)[1]) for line in lines if "_bucket" in line]
    assert counts == [1.0] * 5 + [3.0] * 6 + [4.0]
    assert 'forecastle_cloud_call_seconds_bucket{cloud="aws",le="+Inf",operation="observe"} 4.0' in lines
    assert len(counts) == len(BOUNDS_S) + 1


def test_an_adapter_without_layers_has_nothing_to_report() -> None:
    assert page(reports({"mine": Scripted(Time())})) == []
