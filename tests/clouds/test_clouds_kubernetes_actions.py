"""What each kind of action does to a cluster, seen in the cluster's own objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from error_classes import injects
from kubernetes_worlds import CLONE_SET, POOL, Shop, budget, hpa, node, pool_of, scaled_object, shop, template, workload

from forecastle.clouds.kubernetes import KubernetesCloud
from forecastle.clouds.kubernetes_levers import Lever, Sight
from forecastle.clouds.kubernetes_objects import Target
from forecastle.errors import CloudUnavailable, ConfigError, Conflict, Denied, NotFound, QuotaExceeded, Unsupported
from forecastle.testing.fake_kubernetes import FakeKubernetes, kubeconfig
from forecastle.types import Kind


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Shop]:
    with shop(tmp_path) as found:
        yield found


def deploy(here: Shop, image: str, kind: str = "Deployment") -> None:
    here.cluster.change(kind, "shop", "web", {"spec": {"template": template(image)}})
    here.wait(200)


# --- what is seen ---


def test_observe_tells_replicas_ready_release_and_nobody_sick(here: Shop) -> None:
    seen = here.seen()
    assert (seen.pool, seen.replicas, seen.ready, seen.release, seen.unhealthy) == ("web-here", 3, 3, "shop/web:1", ())
    assert seen.at == here.clock.now()


def test_new_replicas_are_asked_for_at_once_and_ready_when_they_started(here: Shop) -> None:
    here.do(Kind.SCALE, 5)
    assert (here.seen().replicas, here.seen().ready) == (5, 3)
    here.wait(31)
    assert (here.seen().replicas, here.seen().ready) == (5, 5)


def test_the_version_outlives_status_updates_and_not_a_deployment_by_others(here: Shop) -> None:
    first = here.seen().version
    here.cluster.controllers.sick.add(here.names()[0])
    assert here.seen().version == first
    assert here.seen().ready == 2
    deploy(here, "shop/web:2")
    assert here.seen().version != first


def test_a_broken_pod_is_unhealthy_and_one_that_starts_is_not(here: Shop) -> None:
    sick = here.names()[1]
    here.cluster.controllers.sick.add(sick)
    assert here.seen().unhealthy == (sick,)
    here.do(Kind.SCALE, 4)
    assert here.seen().unhealthy == (sick,)


def test_a_pod_that_is_not_ready_for_long_is_unhealthy(here: Shop) -> None:
    here.cluster.controllers.startup_ms = 3_600_000
    here.do(Kind.SCALE, 4)
    here.wait(59)
    assert here.seen().unhealthy == ()
    here.wait(3)
    assert here.seen().unhealthy == (here.names()[-1],)


def test_a_pod_that_no_node_has_room_for_is_not_unhealthy(here: Shop) -> None:
    for name in ("n1", "n2"):
        here.cluster.change("Node", "", name, {"spec": {"unschedulable": True}})
    here.do(Kind.SCALE, 4)
    here.wait(600)
    assert (here.seen().ready, here.seen().unhealthy) == (3, ())


def test_more_pods_than_a_page_are_all_counted(here: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecastle.clouds.kubernetes_api.PAGE", 2)
    assert here.seen().ready == 3


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"namespace": "shop", "name": "web", "region": "x"}, "target has no 'region'"),
        ({"name": "web"}, "target.namespace is ''; write"),
        ({"namespace": "shop", "name": "Web/../x"}, "target.name is 'Web/../x'"),
        ({"namespace": "shop", "name": "web", "scale": "min"}, "replicas, hpa-min, keda-min, keda-pause"),
        ({"namespace": "shop", "name": "web", "kind": "Widget"}, "give target.api"),
        ({"namespace": "shop", "name": "web", "context": "nowhere"}, "kubectl config get-contexts"),
        ({"namespace": "shop", "name": "web", "context": "in-cluster"}, "Service host/port is not set"),
    ],
)
def test_a_wrong_target_is_a_config_error_with_its_fix(here: Shop, target: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        here.cloud.observe(replace(POOL, target=target))


def test_a_senseless_timeout_is_refused(here: Shop) -> None:
    with pytest.raises(ConfigError, match="timeout_s is 0"):
        here.connect(timeout_s=0)


# --- scale ---


@pytest.mark.parametrize("desired", [-1, "3", 2.5])
def test_scale_to_no_number_is_unsupported(here: Shop, desired: Any) -> None:
    with pytest.raises(Unsupported, match="whole number"):
        here.do(Kind.SCALE, desired)


def test_scale_is_one_patch_that_carries_the_token(here: Shop) -> None:
    action = here.action(Kind.SCALE, 4)
    before = len(here.cluster.calls)
    here.cloud.apply(action, POOL, token=action.id)
    writes = [call for call in here.cluster.calls[before:] if call.verb not in {"get", "list"}]
    assert [(call.verb, call.resource) for call in writes] == [("patch", "deployments")]
    found = here.found()
    assert found["spec"]["replicas"] == 4
    assert found["metadata"]["annotations"]["forecastle.dev/last-actions"] == action.id


def test_only_so_many_tokens_are_kept(here: Shop) -> None:
    for i in range(40):
        here.do(Kind.SCALE, 4 + i % 2)
    kept = here.found()["metadata"]["annotations"]["forecastle.dev/last-actions"].split()
    assert len(kept) == 32


def test_a_token_of_any_shape_is_remembered(here: Shop) -> None:
    here.cloud.apply(here.action(Kind.SCALE, 4), POOL, token="spaces and @ signs")
    here.do(Kind.SCALE, 3)
    assert here.cloud.apply(here.action(Kind.SCALE, 4), POOL, token="spaces and @ signs").already
    assert here.seen().replicas == 3


def test_another_resource_with_scale_is_claimed_then_scaled(tmp_path: Path) -> None:
    with shop(tmp_path, workload("CloneSet")) as here:
        here.do(Kind.SCALE, 5, pool=CLONE_SET)
        writes = [(c.verb, c.resource) for c in here.cluster.calls if c.verb not in {"get", "list"}]
        assert writes == [("patch", "clonesets"), ("update", "clonesets/scale")]
        assert here.found("CloneSet")["spec"]["replicas"] == 5
        for kind in (Kind.RESTART, Kind.ROLLBACK):
            with pytest.raises(Unsupported, match=r"has no spec\.template"):
                here.do(kind, "x", pool=CLONE_SET)


def test_a_scale_without_a_selector_says_what_its_definition_lacks() -> None:
    target = Target.of(CLONE_SET)
    found = Sight(target, {}, Lever(target.path(), {}, "replicas", 1, scale={"spec": {"replicas": 1}, "status": {}}))
    with pytest.raises(Unsupported, match="labelSelectorPath"):
        assert found.selector


def test_a_claimed_scale_that_others_overtook_is_a_conflict(tmp_path: Path) -> None:
    with shop(tmp_path, workload("CloneSet")) as here:
        action = here.action(Kind.SCALE, 5, pool=CLONE_SET)
        here.cluster.faults = once("update", "clonesets/scale")
        with pytest.raises(CloudUnavailable):
            here.cloud.apply(action, CLONE_SET, token=action.id)
        here.cluster.change("CloneSet", "shop", "web", {"spec": {"replicas": 7}})
        with pytest.raises(Conflict, match="its spec changed since"):
            here.cloud.apply(action, CLONE_SET, token=action.id)
        assert here.found("CloneSet")["spec"]["replicas"] == 7


def once(verb: str, resource: str) -> Any:
    """A fault for the first such request, before its effect."""
    from forecastle.testing.fake_kubernetes_requests import Fault

    left = [Fault(status=500)]
    return lambda request: left.pop() if left and (request.call.verb, request.call.resource) == (verb, resource) else None


# --- autoscalers ---


def test_an_hpa_is_not_fought(tmp_path: Path) -> None:
    with shop(tmp_path, workload(), hpa()) as here:
        with pytest.raises(Denied, match=r"HorizontalPodAutoscaler web decides .* hpa-min"):
            here.do(Kind.SCALE, 5)
        assert here.found()["spec"]["replicas"] == 3


def test_the_floor_of_an_hpa_is_raised_and_its_ceiling_kept(tmp_path: Path) -> None:
    pool = pool_of(scale="hpa-min")
    with shop(tmp_path, workload(), hpa(2, 6)) as here:
        assert here.seen(pool).replicas == 2
        here.do(Kind.SCALE, 5, pool=pool)
        assert here.found("HorizontalPodAutoscaler")["spec"]["minReplicas"] == 5
        assert here.found()["spec"]["replicas"] == 5
        with pytest.raises(QuotaExceeded, match="allows 6 at most"):
            here.do(Kind.SCALE, 7, pool=pool)
        with pytest.raises(Unsupported, match="must be 1 to 6"):
            here.do(Kind.SCALE, 0, pool=pool)


@pytest.mark.parametrize("scale", ["hpa-min", "keda-min", "keda-pause"])
def test_an_autoscaler_that_is_not_there_is_not_found(here: Shop, scale: str) -> None:
    with pytest.raises(NotFound, match="create one"):
        here.seen(pool_of(scale=scale))


def test_keda_is_asked_where_it_owns_the_workload(tmp_path: Path) -> None:
    with shop(tmp_path, workload(), scaled_object(2)) as here:
        here.do(Kind.SCALE, 5)
        assert here.found("ScaledObject")["spec"]["minReplicaCount"] == 5
        assert here.found()["spec"]["replicas"] == 5
        assert not any(call.verb == "patch" and call.resource == "deployments" for call in here.cluster.calls)
        with pytest.raises(QuotaExceeded, match="allows 10 at most"):
            here.do(Kind.SCALE, 11)


def test_keda_is_paused_at_a_count(tmp_path: Path) -> None:
    pool = pool_of(scale="keda-pause")
    with shop(tmp_path, workload(), scaled_object(2)) as here:
        assert here.seen(pool).replicas == 3
        here.do(Kind.SCALE, 1, pool=pool)
        assert here.found("ScaledObject")["metadata"]["annotations"]["autoscaling.keda.sh/paused-replicas"] == "1"
        assert here.found()["spec"]["replicas"] == 1
        assert here.seen(pool).replicas == 1


# --- restart and rollback ---


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Rollout"])
@pytest.mark.parametrize("how", [Kind.RESTART, Kind.REPLACE])
def test_restart_starts_every_pod_anew(tmp_path: Path, kind: str, how: Kind) -> None:
    pool = pool_of(kind)
    with shop(tmp_path, workload(kind)) as here:
        before = {pod["metadata"]["uid"] for pod in here.pods()}
        here.do(how, str(here.clock.now()), pool=pool)
        for _ in range(8):
            here.wait()
            here.seen(pool)
        after = {pod["metadata"]["uid"] for pod in here.pods()}
        assert len(after) == 3
        assert not before & after
        assert here.seen(pool).ready == 3


def test_an_older_generation_than_the_last_is_already_so(here: Shop) -> None:
    here.do(Kind.RESTART, "2000")
    assert here.do(Kind.RESTART, "1000").already
    assert not here.do(Kind.RESTART, "3000").already


def test_a_rollout_is_restarted_without_a_new_revision(tmp_path: Path) -> None:
    with shop(tmp_path, workload("Rollout")) as here:
        here.do(Kind.RESTART, str(here.clock.now()), pool=pool_of("Rollout"))
        here.wait()
        assert len(here.cluster.every("ReplicaSet")) == 1


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Rollout"])
def test_rollback_brings_back_the_whole_template(tmp_path: Path, kind: str) -> None:
    pool = pool_of(kind)
    with shop(tmp_path, workload(kind)) as here:
        first = here.found(kind)["spec"]["template"]
        later = template("shop/web:2")
        later["spec"] |= {"priorityClassName": "high", "terminationGracePeriodSeconds": 5}
        here.cluster.change(kind, "shop", "web", {"spec": {"template": later}})
        here.wait(200)
        assert here.seen(pool).release == "shop/web:2"
        here.do(Kind.ROLLBACK, "shop/web:1", pool=pool)
        assert here.found(kind)["spec"]["template"] == first
        assert here.seen(pool).release == "shop/web:1"
        assert here.do(Kind.ROLLBACK, "shop/web:1", pool=pool).already


def test_a_release_that_never_ran_is_not_found(here: Shop) -> None:
    with pytest.raises(NotFound, match=r"no revision of Deployment shop/web is kept that ran 'shop/web:9'"):
        here.do(Kind.ROLLBACK, "shop/web:9")


# --- pods ---


@pytest.mark.parametrize("kind", [Kind.RESTART, Kind.REPLACE])
def test_one_pod_is_replaced_once(here: Shop, kind: Kind) -> None:
    name = here.names()[0]
    action = here.action(kind, str(here.clock.now()), replica=name)
    assert not here.cloud.apply(action, POOL, token=action.id).already
    assert name not in here.names()
    assert len(here.names()) == 3
    assert here.seen().version != action.expected
    assert here.connect().apply(action, POOL, token=action.id).already
    assert len(here.names()) == 3


def test_a_pod_younger_than_the_generation_is_already_so(here: Shop) -> None:
    version = here.version()
    assert here.do(Kind.REPLACE, "1000", replica=here.names()[0]).already
    assert here.version() == version


def test_a_pod_of_somebody_else_is_not_found(here: Shop) -> None:
    here.cluster.add(pod("other", {"app": "other"}))
    with pytest.raises(NotFound, match="has no pod 'other'"):
        here.do(Kind.REPLACE, "1", replica="other")


def test_quarantine_takes_the_pod_out_and_lets_it_run(here: Shop) -> None:
    name = here.names()[0]
    action = here.action(Kind.QUARANTINE, "it lies", replica=name)
    assert not here.cloud.apply(action, POOL, token=action.id).already
    found = here.found("Pod", name)
    assert found["metadata"]["labels"].get("app") is None
    assert found["metadata"]["annotations"]["forecastle.dev/labels-before-quarantine"] == "app=web"
    assert "deletionTimestamp" not in found["metadata"]
    here.wait()
    assert (here.seen().ready, len(here.names())) == (3, 4)
    assert here.connect().apply(action, POOL, token=action.id).already


def test_quarantine_is_for_one_pod_that_can_be_succeeded(here: Shop, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="name the pod"):
        here.do(Kind.QUARANTINE, "all")
    (tmp_path / "stateful").mkdir()
    with shop(tmp_path / "stateful", workload("StatefulSet")) as other:
        version = other.version()
        with pytest.raises(Unsupported, match="REPLACE it instead"):
            other.do(Kind.QUARANTINE, "it", replica="web-0", pool=pool_of("StatefulSet"))
        assert other.version() == version


# --- nodes ---


def pod(name: str, labels: dict[str, str] | None = None, *, owner: str = "", node_name: str = "n1") -> dict[str, Any]:
    owners = [{"apiVersion": "apps/v1", "kind": owner, "name": "x", "uid": "x", "controller": True}] if owner else []
    metadata = {"name": name, "namespace": "shop", "labels": labels or {}, "ownerReferences": owners}
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    spec = {**template()["spec"], "nodeName": node_name}
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


def node_with(here: Shop, name: str) -> str:
    return str(here.found("Pod", name)["spec"]["nodeName"])


def test_cordon_and_back(here: Shop) -> None:
    name = here.names()[0]
    at = node_with(here, name)
    assert not here.do(Kind.CORDON, "bad disk", replica=name).already
    assert here.found("Node", at)["spec"]["unschedulable"] is True
    assert here.do(Kind.CORDON, "bad disk", replica=f"node/{at}").already
    assert not here.do(Kind.DRAIN, 100, replica=f"node/{at}").already
    assert "unschedulable" not in here.found("Node", at)["spec"]
    assert here.do(Kind.DRAIN, "100", replica=f"node/{at}").already


def test_drain_moves_what_moves(here: Shop) -> None:
    name = here.names()[0]
    at = node_with(here, name)
    here.cluster.add(pod("daemon", owner="DaemonSet", node_name=at), pod("done", node_name=at))
    with here.cluster.inside() as store:
        done = next(o for key, o in store.objects.items() if key.name == "done")
        done["status"]["phase"] = "Succeeded"
    assert not here.do(Kind.DRAIN, 0, replica=name).already
    left = [p["metadata"]["name"] for p in here.pods() if p["spec"].get("nodeName") == at]
    assert left == ["daemon", "done"]
    here.wait()
    assert here.seen().ready == 3
    assert here.do(Kind.DRAIN, 0, replica=f"node/{at}").already


@injects("partial")
def test_drain_waits_for_the_disruption_budget_and_goes_on_with_the_same_token(tmp_path: Path) -> None:
    with shop(tmp_path, workload(replicas=4), budget(3)) as here:
        at = node_with(here, here.names()[0])
        action = here.action(Kind.DRAIN, 0, replica=f"node/{at}")
        with pytest.raises(CloudUnavailable, match="1 of 2 pods evicted") as caught:
            here.cloud.apply(action, POOL, token=action.id)
        assert (caught.value.retry_after, caught.value.ambiguous) == (10.0, False)
        assert here.found("Node", at)["spec"]["unschedulable"] is True
        here.wait()
        assert not here.connect().apply(action, POOL, token=action.id).already
        here.wait()
        assert here.cloud.apply(action, POOL, token=action.id).already
        assert all(p["spec"]["nodeName"] != at for p in here.pods())


def test_a_drain_that_was_undone_by_hand_is_not_done_again(here: Shop) -> None:
    at = node_with(here, here.names()[0])
    action = here.action(Kind.DRAIN, 0, replica=f"node/{at}")
    here.cloud.apply(action, POOL, token=action.id)
    here.cluster.change("Node", "", at, {"spec": {"unschedulable": None}})
    here.wait()
    version = here.version()
    assert here.cloud.apply(action, POOL, token=action.id).already
    assert here.version() == version
    assert "unschedulable" not in here.found("Node", at)["spec"]


def test_a_pod_without_a_controller_forbids_the_drain_before_anything_happens(here: Shop) -> None:
    here.cluster.add(pod("alone"))
    version = here.version()
    with pytest.raises(Denied, match="shop/alone has no controller"):
        here.do(Kind.DRAIN, 0, replica="node/n1")
    assert here.version() == version


@pytest.mark.parametrize(
    ("kind", "desired", "replica", "words"),
    [
        (Kind.DRAIN, 50, "node/n1", "no weights"),
        (Kind.DRAIN, 0, "", "name a pod or 'node/<name>'"),
        (Kind.CORDON, "why", "", "name a pod or 'node/<name>'"),
        (Kind.SHIFT, 0, "", "not a thing to do"),
        (Kind.NOTIFY, "hello", "", "not a thing to do"),
    ],
)
def test_what_a_node_cannot_do_is_unsupported(here: Shop, kind: Kind, desired: Any, replica: str, words: str) -> None:
    version = here.version()
    with pytest.raises(Unsupported, match=words):
        here.do(kind, desired, replica=replica)
    assert here.version() == version


def test_rollback_of_one_pod_is_unsupported(here: Shop) -> None:
    with pytest.raises(Unsupported, match="roll the pool back"):
        here.do(Kind.ROLLBACK, "shop/web:1", replica=here.names()[0])


# --- dry-run, clusters, watch ---


@pytest.mark.parametrize("kind", sorted(KubernetesCloud.capabilities))
def test_server_side_dry_run_keeps_nothing(here: Shop, kind: Kind) -> None:
    deploy(here, "shop/web:2")
    cloud = here.connect(dry_run=True)
    whole = {Kind.SCALE: 5, Kind.ROLLBACK: "shop/web:1"}
    single = {Kind.DRAIN: 0, Kind.RESTART: str(here.clock.now()), Kind.REPLACE: str(here.clock.now())}
    replica = "" if kind in whole else here.names()[0]
    version = here.version()
    action = here.action(kind, whole.get(kind, single.get(kind, "why")), replica=replica)
    receipt = cloud.apply(action, POOL, token=action.id)
    assert (receipt.dry_run, receipt.already) == (True, False)
    assert here.version() == version


def test_server_side_dry_run_still_hears_a_no(here: Shop) -> None:
    pool = pool_of(scale="hpa-min")
    here.cluster.add(hpa(2, 6))
    with pytest.raises(Unsupported, match="must be 1 to 6"):
        here.connect(dry_run=True).apply(here.action(Kind.SCALE, 0, pool=pool), pool, token="t")


def test_clusters_are_told_apart_by_context(here: Shop, tmp_path: Path) -> None:
    with FakeKubernetes(here.clock) as other:
        other.add(node("m1"), workload(replicas=7))
        both = kubeconfig(tmp_path / "both", {"here": here.cluster, "there": other})
        cloud = here.connect(kubeconfig=both)
        assert cloud.observe(pool_of(context="here")).replicas == 3
        assert cloud.observe(pool_of(context="there")).replicas == 7
        assert cloud.observe(pool_of(context="")).replicas == 3


def test_a_watch_tells_every_change_and_ends(here: Shop) -> None:
    seen = here.cloud.watch(POOL, timeout_s=1)
    assert next(seen).replicas == 3
    here.cluster.change("Deployment", "shop", "web", {"spec": {"replicas": 6}})
    assert next(seen).replicas == 6
    assert [observed.replicas for observed in seen] in ([], [6], [6, 6], [6, 6, 6])


def test_a_watch_that_is_too_old_reads_everything_again(here: Shop) -> None:
    seen = here.cloud.watch(POOL, timeout_s=1)
    assert next(seen).replicas == 3
    here.cluster.change("Deployment", "shop", "web", {"spec": {"replicas": 6}})
    here.cluster.store.compact()
    assert next(seen).replicas == 6
    lists = sum(call.resource == "deployments" and call.verb == "get" for call in here.cluster.calls)
    assert lists >= 2
    seen.close()
