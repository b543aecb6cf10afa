"""What each kind of action asks Google Cloud for, and what it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

import pytest
from gcp_worlds import REGION, START, ZONE, World, world

from forecastle.clouds.gcp import open_cloud
from forecastle.clouds.gcp_claims import ANNOTATION, KEPT, LABEL, LABELS, Mark, SizeClaim, size_claims, with_claim
from forecastle.errors import ConfigError, Conflict, NotFound, QuotaExceeded, Unsupported
from forecastle.runtime.clocks import EventClock
from forecastle.types import Action, Kind, Pool


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with world() as here:
        yield here


@pytest.fixture
def gcp(shared: World) -> World:
    shared.gcp.done.clear()
    shared.gcp.settle()
    return shared


# --- managed instance groups ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["group", "regional"])
def test_a_group_is_told_its_size_once(kind: str, gcp: World) -> None:
    pool = getattr(gcp, kind)()
    action = gcp.action(Kind.SCALE, 7, pool)
    assert not gcp.cloud.apply(action, pool, token=action.id).already
    seen = gcp.cloud.observe(pool)
    assert (seen.replicas, seen.ready) == (7, 4), "three are still being created"
    gcp.gcp.settle()
    assert gcp.cloud.observe(pool).ready == 7, "all pages of instances are read"
    assert gcp.effects() == ["resize"]
    asked = next(call for call in gcp.gcp.done if call.method.endswith("resize")).query
    assert UUID(asked["requestId"]).version == 4
    assert Mark.requested(asked["requestId"]) == Mark.of(action, action.id)


def test_a_size_beyond_the_quota_or_without_sense_is_not_asked_for(gcp: World) -> None:
    pool = gcp.group()
    with pytest.raises(QuotaExceeded, match="9 allowed at most"):
        gcp.do(Kind.SCALE, 10, pool)
    with pytest.raises(Unsupported, match="whole number"):
        gcp.do(Kind.SCALE, "many", pool)
    with pytest.raises(Unsupported, match="for the pool"):
        gcp.do(Kind.SCALE, 3, pool, replica=min(gcp.instances(pool)))
    assert gcp.effects() == []


@pytest.mark.parametrize("kind", ["group", "regional"])
def test_one_instance_is_recreated_once_for_a_generation(kind: str, gcp: World) -> None:
    pool = getattr(gcp, kind)()
    one = min(gcp.instances(pool))
    before = gcp.instances(pool)[one]["id"]
    assert not gcp.do(Kind.REPLACE, "7", pool, replica=one).already
    after = gcp.instances(pool)
    assert (len(after), after[one]["id"] != before, after[one]["currentAction"]) == (4, True, "RECREATING")
    assert gcp.cloud.observe(pool).ready == 3
    again = gcp.do(Kind.REPLACE, "7", pool, replica=one)
    assert (again.already, "asked for before" in again.detail) == (True, True)
    assert not gcp.do(Kind.REPLACE, "8", pool, replica=one).already
    assert gcp.effects() == ["recreateInstances"] * 2


@pytest.mark.parametrize("kind", ["group", "regional"])
def test_one_instance_is_reset_once_for_a_generation(kind: str, gcp: World) -> None:
    pool = getattr(gcp, kind)()
    one, two, *_ = sorted(gcp.instances(pool))
    gcp.gcp.compute.resets.clear()
    assert not gcp.do(Kind.RESTART, "7", pool, replica=one).already
    assert gcp.do(Kind.RESTART, "7", pool, replica=one).already
    assert not gcp.do(Kind.RESTART, "7", pool, replica=two).already
    assert [url.rpartition("/")[2] for url in gcp.gcp.compute.resets] == [one, two]


def test_an_instance_in_quarantine_is_left_alone_and_no_member_any_more(gcp: World) -> None:
    pool = gcp.group()
    sick = min(gcp.instances(pool))
    action = gcp.action(Kind.QUARANTINE, "disk full", pool, replica=sick)
    assert not gcp.cloud.apply(action, pool, token=action.id).already
    assert sick not in gcp.instances(pool)
    assert gcp.cloud.observe(pool).replicas == 3
    assert gcp.cloud.apply(action, pool, token=action.id).already
    with pytest.raises(NotFound, match="no such instance"):
        gcp.do(Kind.QUARANTINE, "disk full", pool, replica=sick)
    with pytest.raises(Unsupported, match="name the instance"):
        gcp.do(Kind.QUARANTINE, "disk full", pool)
    assert gcp.effects() == ["abandonInstances"]


@pytest.mark.parametrize(("kind", "minimal"), [(Kind.RESTART, "RESTART"), (Kind.REPLACE, "REPLACE")])
def test_a_group_is_rolled_by_one_patch_on_its_fingerprint(kind: Kind, minimal: str, gcp: World) -> None:
    pool = gcp.group()
    before = gcp.cloud.observe(pool)
    action = gcp.action(kind, "7", pool)
    assert not gcp.cloud.apply(action, pool, token=action.id).already
    body = next(call for call in gcp.gcp.done if call.method.endswith("patch")).body
    assert body["fingerprint"] == "AAA="
    assert body["updatePolicy"]["minimalAction"] == minimal
    assert str(Mark.of(action, action.id)) in body["versions"][0]["name"]
    assert gcp.cloud.observe(pool).version != before.version
    gcp.gcp.compute.operations.clear()
    assert gcp.cloud.apply(action, pool, token=action.id).already, "the version's name outlives the operation"
    assert gcp.do(kind, "7", pool).already


def test_a_canary_keeps_its_shares_when_restarted(gcp: World) -> None:
    pool = gcp.group()
    group = gcp.gcp.compute.groups[f"zones/{ZONE}", pool.target["mig"]]
    stable = group.body["versions"][0]["instanceTemplate"]
    group.body["versions"] = [
        {"instanceTemplate": stable.replace("web-1", "web-2"), "name": "canary", "targetSize": {"fixed": 1, "calculated": 1}},
        {"instanceTemplate": stable, "name": "stable"},
    ]
    assert gcp.cloud.observe(pool).release == "web-1"
    gcp.do(Kind.RESTART, "7", pool)
    versions = group.body["versions"]
    assert [v["instanceTemplate"].rpartition("/")[2] for v in versions] == ["web-2", "web-1"]
    assert versions[0]["targetSize"] == {"fixed": 1}, "what the server calculates is not sent back"
    assert versions[0]["name"] != versions[1]["name"]


def test_a_group_rolls_back_to_another_template_of_the_same_place(gcp: World) -> None:
    pool = gcp.group()
    assert gcp.cloud.observe(pool).release == "web-1"
    assert not gcp.do(Kind.ROLLBACK, "web-2", pool).already
    assert gcp.cloud.observe(pool).release == "web-2"
    assert gcp.do(Kind.ROLLBACK, "web-2", pool).already
    assert not gcp.do(Kind.ROLLBACK, "web-1", pool).already, "and forward again"
    with pytest.raises(NotFound, match="web-9"):
        gcp.do(Kind.ROLLBACK, "web-9", pool)
    with pytest.raises(Unsupported, match="for the pool"):
        gcp.do(Kind.ROLLBACK, "web-2", pool, replica=min(gcp.instances(pool)))
    assert gcp.effects() == ["patch"] * 2


def test_a_patch_on_an_old_fingerprint_is_judged_again(gcp: World) -> None:
    pool = gcp.group()
    group = gcp.gcp.compute.groups[f"zones/{ZONE}", pool.target["mig"]]
    seen, changes = gcp.action(Kind.RESTART, "7", pool), []

    def intrude(method: str) -> str:
        if method.endswith("patch") and len(changes) < 2:
            changes.append(method)
            group.body["fingerprint"] = f"BB{len(changes)}="
        return ""

    gcp.gcp.fault = intrude
    assert not gcp.cloud.apply(seen, pool, token=seen.id).already
    assert (len(changes), gcp.effects()) == (2, ["patch"])
    changes[:] = []
    gcp.gcp.fault = lambda method: f"412 conditionNotMet {method}" if method.endswith("patch") else ""
    with pytest.raises(Conflict, match="keeps changing"):
        gcp.do(Kind.RESTART, "8", pool)
    gcp.gcp.fault = lambda _: ""


def test_instances_that_fail_their_health_check_are_told(gcp: World) -> None:
    pool = gcp.group()
    sick, unsure, *_ = sorted(gcp.instances(pool))
    gcp.instances(pool)[sick]["instanceHealth"] = [{"detailedHealthState": "UNHEALTHY"}]
    gcp.instances(pool)[unsure]["instanceHealth"] = [{"detailedHealthState": "UNKNOWN"}]
    seen = gcp.cloud.observe(pool)
    assert (seen.unhealthy, seen.replicas, seen.ready) == ((sick,), 4, 2)


# --- Cloud Run ------------------------------------------------------------------------------------------------------


def test_the_floor_of_a_service_is_moved_with_its_token(gcp: World) -> None:
    pool = gcp.service()
    action = gcp.action(Kind.SCALE, 6, pool)
    assert not gcp.cloud.apply(action, pool, token=action.id).already
    call = next(call for call in gcp.gcp.done if call.method.endswith("patch"))
    assert call.query["updateMask"] == "annotations,scaling.minInstanceCount"
    assert call.body["annotations"] == {"team": "shop", ANNOTATION: str(Mark.of(action, action.id))}
    assert call.body["etag"] == '"1"'
    assert gcp.cloud.observe(pool).replicas == 6


def test_a_service_makes_a_new_revision_and_goes_back(gcp: World) -> None:
    pool = gcp.service()
    first = gcp.cloud.observe(pool).release
    assert not gcp.do(Kind.RESTART, "7", pool).already
    second = gcp.cloud.observe(pool).release
    assert (first, second) == (f"{pool.target['run']}-00001", f"{pool.target['run']}-00002")
    assert not gcp.do(Kind.ROLLBACK, first, pool).already
    assert gcp.cloud.observe(pool).release == first
    assert gcp.do(Kind.ROLLBACK, first, pool).already


def test_a_service_has_no_instances_to_name_and_limits_of_its_own(gcp: World) -> None:
    pool = gcp.service()
    service = gcp.gcp.run.services[f"projects/shop/locations/{REGION}/services/{pool.target['run']}"]
    for kind, replica in ((Kind.REPLACE, "x"), (Kind.QUARANTINE, "")):
        with pytest.raises(Unsupported, match="Cloud Run"):
            gcp.do(kind, "7", pool, replica=replica)
    service["template"]["scaling"] = {"maxInstanceCount": 5}
    with pytest.raises(QuotaExceeded, match="5 allowed"):
        gcp.do(Kind.SCALE, 6, pool)
    service["scaling"]["scalingMode"] = "MANUAL"
    with pytest.raises(Unsupported, match="AUTOMATIC"):
        gcp.do(Kind.SCALE, 5, pool)
    service["terminalCondition"]["state"] = "CONDITION_FAILED"
    assert gcp.cloud.observe(pool).ready == 0
    assert gcp.effects() == []


def test_marks_in_the_annotation_are_bounded(gcp: World) -> None:
    pool = gcp.service()
    service = gcp.gcp.run.services[f"projects/shop/locations/{REGION}/services/{pool.target['run']}"]
    service["annotations"][ANNOTATION] = " ".join(str(Mark(f"{i:015x}", "0" * 15)) for i in range(KEPT))
    gcp.do(Kind.SCALE, 5, pool)
    kept = Mark.read(service["annotations"][ANNOTATION])
    assert (len(kept), kept[1].token, kept[-1].token) == (KEPT, f"{0:015x}", f"{KEPT - 2:015x}")


# --- GKE ------------------------------------------------------------------------------------------------------------


def test_a_node_pool_is_claimed_and_then_told_its_size(gcp: World) -> None:
    pool = gcp.nodepool(2, zones=("europe-west3-a", "europe-west3-b"))
    assert gcp.cloud.observe(pool).replicas == 4
    action = gcp.action(Kind.SCALE, 6, pool)
    assert not gcp.cloud.apply(action, pool, token=action.id).already
    written = [call for call in gcp.gcp.done if call.method.endswith(("nodePools.update", "setSize"))]
    claim = str(SizeClaim(action.id[:15], 4, 6))
    assert written[0].body["resourceLabels"]["labels"] == {"team": "shop", f"{LABEL}0": claim}
    assert written[1].body == {"nodeCount": 3}, "in each zone"
    assert (gcp.cloud.observe(pool).replicas, gcp.cloud.observe(pool).ready) == (6, 4)
    with pytest.raises(Unsupported, match="2 zones"):
        gcp.do(Kind.SCALE, 7, pool)


def test_the_cluster_autoscaler_has_limits_for_each_zone_or_in_all(gcp: World) -> None:
    pool = gcp.nodepool(2, zones=("europe-west3-a", "europe-west3-b"))
    name = f"projects/shop/locations/{REGION}/clusters/{pool.target['cluster']}/nodePools/workers"
    body = gcp.gcp.kubernetes.pools[name]
    body["autoscaling"] = {"enabled": True, "minNodeCount": 1, "maxNodeCount": 3}
    with pytest.raises(QuotaExceeded, match="6 allowed"):
        gcp.do(Kind.SCALE, 8, pool)
    with pytest.raises(QuotaExceeded, match="keeps 2 at least"):
        gcp.do(Kind.SCALE, 0, pool)
    body["autoscaling"] = {"enabled": True, "totalMinNodeCount": 3, "totalMaxNodeCount": 5}
    with pytest.raises(QuotaExceeded, match="5 allowed"):
        gcp.do(Kind.SCALE, 6, pool)
    body["autoscaling"]["enabled"] = False
    assert not gcp.do(Kind.SCALE, 6, pool).already


def test_nodes_are_the_kubernetes_adapters(gcp: World) -> None:
    pool = gcp.nodepool()
    for kind in (Kind.RESTART, Kind.REPLACE, Kind.ROLLBACK, Kind.QUARANTINE):
        with pytest.raises(Unsupported, match="kubernetes adapter"):
            gcp.do(kind, "0", pool, replica="node")
    body = gcp.gcp.kubernetes.pools[f"projects/shop/locations/{REGION}/clusters/{pool.target['cluster']}/nodePools/workers"]
    body["instanceGroupUrls"] = ["elsewhere"]
    with pytest.raises(Unsupported, match="elsewhere"):
        gcp.cloud.observe(pool)


# --- settings and marks ---------------------------------------------------------------------------------------------


def test_preview_tells_the_release_that_runs(gcp: World) -> None:
    pool = gcp.group()
    seen = gcp.cloud.observe(pool)
    change = gcp.cloud.preview(gcp.action(Kind.ROLLBACK, "web-2", pool), seen)
    assert (change.before, change.after, change.noop) == ("web-1", "web-2", False)
    assert gcp.cloud.preview(gcp.action(Kind.ROLLBACK, "web-1", pool), seen).noop


@pytest.mark.parametrize(
    "target",
    [
        {},
        {"mig": "a"},
        {"mig": "a", "zone": ""},
        {"mig": "a", "zone": "b", "region": "c"},
        {"run": "a", "zone": "b"},
        {"vm": "x"},
    ],
    ids=str,
)
def test_a_target_that_is_none_is_told_how_to_write_one(target: dict[str, str], gcp: World) -> None:
    with pytest.raises(ConfigError, match="nodepool: NAME"):
        gcp.cloud.observe(Pool("p", "w", "s", "gcp", 0.1, target=target))


@pytest.mark.parametrize("option", [{"project": ""}, {"timeout_s": 0}, {"operation_timeout_s": -1}, {"read_attempts": 0}])
def test_a_senseless_option_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="name the project"):
        open_cloud(**{"clock": EventClock(START), "project": "shop", **option})


def test_a_mark_survives_a_request_id_and_a_name() -> None:
    action = Action(Kind.REPLACE, "shop", "p", "7", "v", 1, 2, "one")
    for token in ("0123456789abcdef" * 2, "whatever else"):
        mark = Mark.of(action, token)
        assert Mark.requested(mark.request_id) == mark
        assert Mark.read(f"stable forecastle-0-{mark} {'f' * 30}") == (mark,)
    assert Mark.requested("") is None
    assert Mark.requested("d0d7d7a8-51f2-4a9d-8a3c-0b9f5d5d4a11") is None, "a request id of somebody else"


def test_only_a_generation_is_recognised_by_what_it_asks_for() -> None:
    one, same = Mark("a" * 15, "c" * 15), Mark("b" * 15, "c" * 15)
    assert one.says(same, Kind.RESTART)
    assert not one.says(same, Kind.SCALE)
    assert one.says(Mark("a" * 15, "d" * 15), Kind.SCALE)


def test_claims_fit_into_labels_and_leave_the_others() -> None:
    labels = {"team": "shop", f"{LABEL}9": "an old one of ours", f"{LABEL}0": "not--ours"}
    for i in range(3 * LABELS):
        labels = with_claim(labels, SizeClaim(f"{i:015x}", 1000 + i, 1001 + i))
    claims = size_claims(labels)
    assert [claim.before for claim in claims] == [1000 + i for i in range(3 * LABELS)][::-1][: 2 * LABELS]
    assert max(map(len, labels.values())) <= 63
    assert set(labels) == {"team", *(f"{LABEL}{i}" for i in range(LABELS))}
    assert with_claim(labels, claims[2]) != labels
    assert len(size_claims(with_claim(labels, claims[2]))) == 2 * LABELS


def test_a_pool_elsewhere_is_not_found(gcp: World) -> None:
    pool = gcp.group()
    with pytest.raises(NotFound, match="was not found"):
        gcp.cloud.observe(replace(pool, target={"mig": pool.target["mig"], "region": REGION}))
