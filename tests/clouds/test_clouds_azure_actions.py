"""What each kind of action asks Azure for, and what it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from azure_worlds import POOL, START, World, world

from forecastle.clouds.aws_claims import spelled
from forecastle.clouds.azure import open_cloud
from forecastle.clouds.azure_resource import TAG
from forecastle.errors import ConfigError, Conflict, Denied, NotFound, QuotaExceeded, Unsupported
from forecastle.runtime.clocks import EventClock
from forecastle.testing.fake_azure import SUBSCRIPTION, FakeCredential
from forecastle.types import Action, Kind, Pool


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with world() as here:
        yield here


@pytest.fixture
def azure(shared: World) -> World:
    shared.azure.calls.clear()
    return shared


def told(azure: World) -> list[str]:
    """The last words of the requests with an effect."""
    return [action.split("virtualMachineScaleSets/")[-1] for action, _ in azure.azure.effects()]


# --- scale sets ---


def test_capacity_and_token_are_one_write_that_keeps_every_other_tag(azure: World) -> None:
    pool = azure.scale_set(4, team="web")
    action = azure.action(Kind.SCALE, 6, pool)
    azure.cloud.apply(action, pool, token=action.id)
    ((_, body),) = azure.azure.effects()
    assert body["sku"] == {"name": "Standard_D2s_v5", "tier": "Standard", "capacity": 6}
    assert body["tags"]["team"] == "web"
    assert spelled(action.id) in body["tags"][TAG]
    assert set(body) == {"sku", "tags"}
    assert len(azure.instances(pool)) == 6


def test_every_page_of_instances_is_counted(azure: World) -> None:
    assert azure.cloud.observe(azure.scale_set(8)).ready == 8
    assert azure.cloud.observe(azure.node_pool(8)).ready == 8


def test_a_size_that_is_none_is_refused(azure: World) -> None:
    pool = azure.scale_set()
    with pytest.raises(Unsupported, match="whole number"):
        azure.do(Kind.SCALE, "many", pool)
    with pytest.raises(QuotaExceeded, match="9 allowed at most"):
        azure.do(Kind.SCALE, 10, pool)
    assert told(azure) == []


def test_an_instance_is_restarted_once_under_its_generation(azure: World) -> None:
    pool = azure.scale_set()
    one, before = min(azure.instances(pool)), azure.cloud.observe(pool)
    assert not azure.do(Kind.RESTART, "7", pool, replica=one).already
    after = azure.cloud.observe(pool)
    assert (after.replicas, after.version == before.version) == (4, False)
    assert azure.do(Kind.RESTART, "7", pool, replica=one).already
    assert told(azure) == ["virtualMachines/restart/action"]


def test_an_instance_is_replaced_without_one_less(azure: World) -> None:
    pool = azure.scale_set(3)
    victim, before = min(azure.instances(pool)), set(azure.instances(pool))
    action = azure.action(Kind.REPLACE, "7", pool, replica=victim)
    assert not azure.cloud.apply(action, pool, token=action.id).already
    after = set(azure.instances(pool))
    assert (len(after), before - after) == (3, {victim})
    assert azure.azure.effects()[0][1]["sku"]["capacity"] == 4, "another one comes first"
    assert told(azure) == ["write", "virtualMachines/delete"]
    assert azure.cloud.apply(action, pool, token=action.id).already
    with pytest.raises(NotFound, match="no such replica"):
        azure.do(Kind.REPLACE, "8", pool, replica=victim)


def test_at_the_quota_an_instance_is_only_replaced_in_place(azure: World) -> None:
    pool = replace(azure.scale_set(3), quota=3)
    one = min(azure.instances(pool))
    with pytest.raises(QuotaExceeded, match="`reimage`"):
        azure.do(Kind.REPLACE, "7", pool, replica=one)
    azure.do(Kind.REPLACE, "7", pool, replica=one, cloud=azure.connect(reimage=True))
    assert told(azure) == ["virtualMachines/reimage/action"]
    assert len(azure.instances(pool)) == 3


def test_quarantine_deallocates_an_instance_and_another_comes(azure: World) -> None:
    pool = azure.scale_set(3)
    sick = min(azure.instances(pool))
    assert not azure.do(Kind.QUARANTINE, "disk full", pool, replica=sick).already
    seen = azure.cloud.observe(pool)
    assert (seen.replicas, seen.ready, len(azure.instances(pool))) == (3, 3, 4)
    assert azure.do(Kind.QUARANTINE, "disk full", pool, replica=sick).already
    azure.do(Kind.SCALE, 5, pool)
    assert (azure.cloud.observe(pool).replicas, len(azure.instances(pool))) == (5, 6)


def test_drain_takes_an_instance_out_of_service_and_back(azure: World) -> None:
    pool = azure.scale_set(3)
    one = min(azure.instances(pool))
    assert not azure.do(Kind.DRAIN, 0, pool, replica=one).already
    assert azure.cloud.observe(pool).replicas == 2
    assert azure.do(Kind.DRAIN, 0, pool, replica=one).already
    assert not azure.do(Kind.DRAIN, 100, pool, replica=one).already
    assert azure.cloud.observe(pool).ready == 3
    with pytest.raises(Unsupported, match="0 or 100"):
        azure.do(Kind.DRAIN, 50, pool, replica=one)


def test_a_set_rolls_back_to_an_image_that_ran_before(azure: World) -> None:
    pool, gallery = azure.scale_set(), f"/subscriptions/{SUBSCRIPTION}/resourceGroups/i/providers/Microsoft.Compute/images/web"
    assert azure.cloud.observe(pool).release == "Canonical:ubuntu:24:1.0"
    for release in (
        gallery,
        "/sharedGalleries/g/images/w/versions/2",
        "/CommunityGalleries/g/images/w/versions/2",
        "a:b:c:d",
    ):
        assert not azure.do(Kind.ROLLBACK, release, pool).already
        assert azure.cloud.observe(pool).release == release
        assert azure.do(Kind.ROLLBACK, release, pool).already
    assert told(azure) == ["write"] * 4
    for nonsense in ("yesterday's", "a:b:c", "a::c:d"):
        with pytest.raises(Unsupported, match="is no image"):
            azure.do(Kind.ROLLBACK, nonsense, pool)


@pytest.mark.parametrize("mode", ["Manual", "Automatic"])
def test_a_set_that_would_not_roll_is_not_rolled_back(mode: str, azure: World) -> None:
    with pytest.raises(Unsupported, match="to Rolling"):
        azure.do(Kind.ROLLBACK, "a:b:c:d", azure.scale_set(mode=mode))


@pytest.mark.parametrize("kind", [Kind.RESTART, Kind.REPLACE, Kind.DRAIN, Kind.QUARANTINE])
def test_a_whole_set_is_not_taken_down_at_once(kind: Kind, azure: World) -> None:
    with pytest.raises(Unsupported, match="name one as the replica"):
        azure.do(kind, "0", azure.scale_set())
    assert told(azure) == []


def test_flexible_orchestration_is_only_scaled(azure: World) -> None:
    pool = azure.scale_set(orchestration="Flexible")
    assert not azure.do(Kind.SCALE, 5, pool).already
    with pytest.raises(Unsupported, match="flexible"):
        azure.do(Kind.RESTART, "7", pool, replica=min(azure.instances(pool)))
    with pytest.raises(Unsupported, match="leave the replica out"):
        azure.do(Kind.ROLLBACK, "a:b:c:d", pool, replica=min(azure.instances(pool)))


@pytest.mark.parametrize(
    ("state", "power", "health", "sick", "ready"),
    [
        ("Succeeded", "running", "", False, 3),
        ("Succeeded", "running", "healthy", False, 3),
        ("Succeeded", "running", "unknown", False, 2),
        ("Succeeded", "running", "unhealthy", True, 2),
        ("Failed", "running", "", True, 2),
        ("Creating", "starting", "", False, 2),
        ("Succeeded", "stopped", "", False, 2),
    ],
)
def test_readiness_is_what_the_instance_view_says(
    state: str, power: str, health: str, sick: bool, ready: int, azure: World
) -> None:
    pool = azure.scale_set(3)
    one = min(azure.instances(pool))
    view = {"statuses": [{"code": f"PowerState/{power}"}]}
    if health:
        view |= {"vmHealth": {"status": {"code": f"HealthState/{health}"}}}
    azure.instances(pool)[one]["properties"] = {"provisioningState": state, "instanceView": view}
    seen = azure.cloud.observe(pool)
    assert (seen.replicas, seen.ready, seen.unhealthy) == (3, ready, (one,) if sick else ())


def test_a_set_without_an_etag_is_not_written_blindly(azure: World) -> None:
    pool = azure.scale_set()
    action = azure.action(Kind.SCALE, 5, pool)
    del azure.model(pool)["etag"]
    with pytest.raises(Unsupported, match="no etag"):
        azure.cloud.apply(action, pool, token=action.id)
    assert told(azure) == []


# --- the others ---


def test_an_app_is_scaled_by_its_floor_and_every_write_is_a_revision_of_the_token(azure: World) -> None:
    pool = azure.app(4, most=8)
    action = azure.action(Kind.SCALE, 6, pool)
    azure.cloud.apply(action, pool, token=action.id)
    template = azure.azure.effects()[0][1]["properties"]["template"]
    assert template == {"revisionSuffix": f"f{spelled(action.id)}", "scale": {"minReplicas": 6}}
    assert azure.model(pool)["properties"]["template"]["scale"] == {"minReplicas": 6, "maxReplicas": 8}
    with pytest.raises(QuotaExceeded, match="8 allowed"):
        azure.do(Kind.SCALE, 9, pool)


def test_an_app_rolls_back_to_images_that_ran_and_keeps_all_else(azure: World) -> None:
    pool = azure.app(images=("web:2", "proxy:2"))
    assert azure.cloud.observe(pool).release == "web:2,proxy:2"
    assert not azure.do(Kind.ROLLBACK, "web:1,proxy:1", pool).already
    assert azure.cloud.observe(pool).release == "web:1,proxy:1"
    assert azure.model(pool)["properties"]["template"]["containers"][1]["env"] == [{"name": "A", "value": "b"}]
    with pytest.raises(Unsupported, match="number of containers"):
        azure.do(Kind.ROLLBACK, "web:1", pool)


def test_what_an_app_cannot_do_is_refused(azure: World) -> None:
    for kind, replica in ((Kind.DRAIN, ""), (Kind.QUARANTINE, ""), (Kind.RESTART, "one")):
        with pytest.raises(Unsupported, match="container app"):
            azure.do(kind, "0", azure.app(), replica=replica)
    with pytest.raises(Unsupported, match="Single"):
        azure.do(Kind.SCALE, 5, azure.app(mode="Multiple"))


def test_a_node_pool_is_written_back_as_it_was_but_for_its_count(azure: World) -> None:
    pool = azure.node_pool(3)
    azure.do(Kind.SCALE, 5, pool)
    body = azure.azure.effects()[0][1]["properties"]
    assert body["count"] == 5
    assert set(body) == {"count", "vmSize", "mode", "enableAutoScaling", "powerState", "tags"}
    with pytest.raises(Unsupported, match="enableAutoScaling"):
        azure.do(Kind.SCALE, 5, azure.node_pool(autoscaled=True))
    for kind in (Kind.RESTART, Kind.REPLACE, Kind.DRAIN, Kind.ROLLBACK, Kind.QUARANTINE):
        with pytest.raises(Unsupported, match="kubernetes adapter"):
            azure.do(kind, "0", pool)


def test_a_stopped_node_pool_has_no_ready_nodes(azure: World) -> None:
    pool = azure.node_pool(3)
    azure.model(pool)["properties"]["powerState"]["code"] = "Stopped"
    assert (azure.cloud.observe(pool).replicas, azure.cloud.observe(pool).ready) == (3, 0)


# --- all ---


def test_somebody_in_between_is_seen_and_judged_again(azure: World) -> None:
    """The write is refused by its etag; what is found then is as expected, so it goes on."""
    pool = azure.scale_set()
    action, struck = azure.action(Kind.SCALE, 6, pool), []

    def meddle(asked: str, body: dict[str, object]) -> str:
        if asked.endswith("virtualMachines/read") and not struck:
            struck.append(asked)
            azure.model(pool)["etag"] = '"somebody else"'
        return ""

    azure.azure.fault = meddle
    assert not azure.cloud.apply(action, pool, token=action.id).already
    azure.azure.fault = lambda asked, body: ""
    assert (len(told(azure)), azure.cloud.observe(pool).replicas) == (1, 6)


def test_somebody_who_never_stops_is_a_conflict(azure: World) -> None:
    pool = azure.scale_set()
    action = azure.action(Kind.SCALE, 6, pool)
    azure.azure.fault = lambda asked, body: "412 PreconditionFailed" if asked.endswith("/write") else ""
    with pytest.raises(Conflict, match="keeps changing it"):
        azure.cloud.apply(action, pool, token=action.id)
    azure.azure.fault = lambda asked, body: ""
    assert told(azure) == []


def test_preview_tells_the_release_that_runs(azure: World) -> None:
    pool = azure.scale_set()
    seen = azure.cloud.observe(pool)
    change = azure.cloud.preview(Action(Kind.ROLLBACK, "shop", pool.name, "a:b:c:d", seen.version, 1, 2), seen)
    assert (change.before, change.after, change.noop) == ("Canonical:ubuntu:24:1.0", "a:b:c:d", False)


@pytest.mark.parametrize(
    "target",
    [{}, {"vmss": "name"}, {"containerapp": "a/b/c"}, {"nodepool": "g/c"}, {"vm": "g/x"}, {"vmss": "g/a", "nodepool": "g/c/n"}],
    ids=str,
)
def test_a_target_that_is_none_is_told_how_to_write_one(target: dict[str, str], azure: World) -> None:
    with pytest.raises(ConfigError, match="nodepool: GROUP/CLUSTER/NAME"):
        azure.cloud.observe(replace(POOL, target=target))


@pytest.mark.parametrize("option", [{"connect_timeout_s": 0}, {"read_timeout_s": -1}, {"wait_s": -1}, {"subscription": ""}])
def test_a_senseless_option_is_refused(option: dict[str, float]) -> None:
    options = {"subscription": SUBSCRIPTION, "credential": FakeCredential(), **option}
    with pytest.raises(ConfigError, match="azure cloud: timeouts"):
        open_cloud(clock=EventClock(START), **options)


def test_a_process_without_credentials_is_denied(azure: World) -> None:
    class Nobody:
        def get_token(self, *scopes: str, **options: object) -> object:
            from azure.core.exceptions import ClientAuthenticationError

            raise ClientAuthenticationError("no credential of the chain worked")

    with pytest.raises(Denied, match="az login"):
        azure.connect(credential=Nobody()).observe(azure.scale_set())


def test_every_pool_is_another(azure: World) -> None:
    pools: list[Pool] = [azure.scale_set(2), azure.scale_set(3), azure.app(4), azure.node_pool(5)]
    assert [azure.cloud.observe(pool).replicas for pool in pools] == [2, 3, 4, 5]
