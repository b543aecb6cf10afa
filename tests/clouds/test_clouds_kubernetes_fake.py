"""The fake API server is as strict as the real one: asked by the official client alone, without the adapter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from kubernetes_worlds import Shop, budget, hpa, shop, workload

from forecastle.testing.fake_kubernetes import merged
from forecastle.testing.fake_kubernetes_selectors import matches_fields, matches_labels
from forecastle.testing.fake_kubernetes_store import Refused


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Shop]:
    with shop(tmp_path, workload(), hpa(1), budget(3)) as found:
        yield found


@pytest.fixture
def api(here: Shop) -> Iterator[client.ApiClient]:
    settings = client.Configuration()
    config.load_kube_config(here.config, client_configuration=settings)
    settings.retries = False
    with client.ApiClient(settings) as found:
        yield found


def patch(api: client.ApiClient, body: dict[str, Any], **options: Any) -> Any:
    options.setdefault("_content_type", "application/merge-patch+json")
    return client.AppsV1Api(api).patch_namespaced_deployment("web", "shop", body, **options)


def refused(code: int, call: Any) -> ApiException:
    with pytest.raises(ApiException) as caught:
        call()
    assert caught.value.status == code
    return caught.value


def test_typed_models_of_the_client_understand_every_answer(api: client.ApiClient) -> None:
    found = client.AppsV1Api(api).read_namespaced_deployment("web", "shop")
    assert (found.spec.replicas, found.status.ready_replicas) == (3, 3)
    pods = client.CoreV1Api(api).list_namespaced_pod("shop", label_selector="app=web")
    assert [pod.status.conditions[0].type for pod in pods.items] == ["Ready"] * 3
    scale = client.AppsV1Api(api).read_namespaced_deployment_scale("web", "shop")
    assert (scale.spec.replicas, scale.status.selector) == (3, "app=web")


def test_an_old_resource_version_is_a_conflict_and_none_is_none(api: client.ApiClient) -> None:
    old = client.AppsV1Api(api).read_namespaced_deployment("web", "shop").metadata.resource_version
    patch(api, {"metadata": {"resourceVersion": old}, "spec": {"replicas": 4}})
    error = refused(409, lambda: patch(api, {"metadata": {"resourceVersion": old}, "spec": {"replicas": 5}}))
    assert "the object has been modified" in str(error.body)
    assert patch(api, {"spec": {"replicas": 5}}).spec.replicas == 5


def test_a_write_that_changes_nothing_makes_no_version(here: Shop, api: client.ApiClient) -> None:
    version = here.version()
    patch(api, {"spec": {"replicas": 3}})
    assert here.version() == version


def test_dry_run_answers_with_the_result_and_keeps_none(here: Shop, api: client.ApiClient) -> None:
    version = here.version()
    assert patch(api, {"spec": {"replicas": 9}}, dry_run="All").spec.replicas == 9
    name = here.names()[0]
    client.CoreV1Api(api).delete_namespaced_pod(name, "shop", dry_run="All")
    assert here.version() == version


def test_generations_follow_each_kinds_rule(tmp_path: Path) -> None:
    note, spec = {"metadata": {"annotations": {"a": "b"}}}, {"spec": {"replicas": 4}}
    for kind, grows in (("Deployment", 1), ("StatefulSet", 0), ("CloneSet", 0)):
        folder = tmp_path / kind
        folder.mkdir()
        with shop(folder, workload(kind)) as here:
            first = here.found(kind)["metadata"]["generation"]
            here.cluster.change(kind, "shop", "web", note)
            assert here.found(kind)["metadata"]["generation"] == first + grows
            here.cluster.change(kind, "shop", "web", spec)
            found = here.found(kind)
            assert found["metadata"]["generation"] == first + grows + 1
            assert found["status"]["observedGeneration"] == found["metadata"]["generation"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"spec": {"replicas": "4"}}, "is not of type"),
        ({"spec": {"replcas": 4}}, "replcas"),
        ({"spec": {"replicas": -1}}, "greater than or equal to 0"),
        ({"spec": {"selector": {"matchLabels": {"app": "other"}}}}, "immutable"),
        ({"spec": {"template": {"metadata": {"labels": {"app": "other"}}}}}, "selector"),
        ({"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}}, "name"),
    ],
)
def test_nonsense_is_refused(here: Shop, api: client.ApiClient, body: dict[str, Any], words: str) -> None:
    version = here.version()
    assert words in str(refused(422, lambda: patch(api, body)).body)
    assert here.version() == version


def test_what_the_server_owns_cannot_be_written(here: Shop, api: client.ApiClient) -> None:
    before = here.found()["metadata"]
    after = patch(api, {"metadata": {"uid": "mine", "generation": 77}, "status": {"readyReplicas": 99}})
    assert (after.metadata.uid, after.metadata.generation) == (before["uid"], before["generation"])
    assert after.status.ready_replicas == 3


def test_a_patch_of_another_type_is_refused(api: client.ApiClient) -> None:
    refused(415, lambda: patch(api, {}, _content_type="application/strategic-merge-patch+json"))


def test_a_resource_that_is_not_served_is_not_found(api: client.ApiClient) -> None:
    refused(404, lambda: client.CoreV1Api(api).list_namespaced_secret("shop"))
    refused(404, lambda: client.AppsV1Api(api).read_namespaced_deployment("nobody", "shop"))


def test_the_scale_subresource_is_conditional_and_validated(here: Shop, api: client.ApiClient) -> None:
    apps = client.AppsV1Api(api)
    scale = apps.read_namespaced_deployment_scale("web", "shop")
    scale.spec.replicas = 5
    assert apps.replace_namespaced_deployment_scale("web", "shop", scale).spec.replicas == 5
    refused(409, lambda: apps.replace_namespaced_deployment_scale("web", "shop", scale))
    assert here.found()["spec"]["replicas"] == 5


def test_a_deletion_is_conditional_and_takes_its_grace(here: Shop, api: client.ApiClient) -> None:
    core, name = client.CoreV1Api(api), here.names()[0]
    for wrong in (client.V1Preconditions(uid="other"), client.V1Preconditions(resource_version="1")):
        body = client.V1DeleteOptions(preconditions=wrong)
        refused(409, lambda body=body: core.delete_namespaced_pod(name, "shop", body=body))
    core.delete_namespaced_pod(name, "shop")
    assert "deletionTimestamp" in here.found("Pod", name)["metadata"]
    here.wait(31)
    refused(404, lambda: core.read_namespaced_pod(name, "shop"))


def test_an_eviction_honours_the_disruption_budget(here: Shop, api: client.ApiClient) -> None:
    core, name = client.CoreV1Api(api), here.names()[0]
    body = client.V1Eviction(
        api_version="policy/v1", kind="Eviction", metadata=client.V1ObjectMeta(name=name, namespace="shop")
    )
    error = refused(429, lambda: core.create_namespaced_pod_eviction(name, "shop", body))
    assert "disruption budget" in str(error.body)
    assert error.headers["Retry-After"] == "10"
    here.cluster.change("PodDisruptionBudget", "shop", "web", {"spec": {"minAvailable": 2}})
    core.create_namespaced_pod_eviction(name, "shop", body)
    assert name not in here.names()


def test_pages_cover_everything_once(here: Shop, api: client.ApiClient) -> None:
    core, names, more = client.CoreV1Api(api), [], ""
    while True:
        page = core.list_namespaced_pod("shop", limit=2, _continue=more or None)
        names += [pod.metadata.name for pod in page.items]
        more = page.metadata._continue
        if not more:
            break
    assert sorted(names) == sorted(here.names())
    assert len(names) == 3


def test_a_watch_goes_on_from_a_version_and_is_gone_when_that_is_forgotten(here: Shop, api: client.ApiClient) -> None:
    apps = client.AppsV1Api(api)
    since = apps.list_namespaced_deployment("shop").metadata.resource_version
    here.cluster.change("Deployment", "shop", "web", {"spec": {"replicas": 5}})
    stream = watch.Watch().stream(apps.list_namespaced_deployment, "shop", resource_version=since, timeout_seconds=1)
    event = next(stream)
    assert (event["type"], event["object"].spec.replicas) == ("MODIFIED", 5)
    stream.close()
    here.cluster.store.compact()
    with pytest.raises(ApiException) as caught:
        next(watch.Watch().stream(apps.list_namespaced_deployment, "shop", resource_version=since, timeout_seconds=1))
    assert caught.value.status == 410


def test_an_hpa_keeps_its_floor_and_its_bounds(here: Shop, api: client.ApiClient) -> None:
    scaling = client.AutoscalingV2Api(api)

    def floor(n: int) -> Any:
        body = {"spec": {"minReplicas": n}}
        kind = "application/merge-patch+json"
        return scaling.patch_namespaced_horizontal_pod_autoscaler("web", "shop", body, _content_type=kind)

    floor(5)
    assert here.found()["spec"]["replicas"] == 5
    for wrong in (0, 11):
        refused(422, lambda wrong=wrong: floor(wrong))


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier", True),
        ("app!=web", False),
        ("app in (api,web)", True),
        ("app notin (api,web)", False),
        ("app in (api,db),tier", False),
        ("!tier", False),
        ("!other,app", True),
        ("app=api", False),
    ],
)
def test_label_selectors(selector: str, matches: bool) -> None:
    found = {"metadata": {"labels": {"app": "web", "tier": "front"}}}
    assert matches_labels(found, selector) == matches


def test_a_selector_that_cannot_be_read_is_refused() -> None:
    found: dict[str, Any] = {"metadata": {"labels": {}}, "spec": {"nodeName": "n1"}}
    with pytest.raises(Refused, match="unable to parse"):
        matches_labels(found, "a b c")
    with pytest.raises(Refused, match="field label not supported"):
        matches_fields(found, "spec.replicas=3")
    assert matches_fields(found, "spec.nodeName=n1")
    assert not matches_fields(found, "spec.nodeName=n2")


def test_merge_patches_are_those_of_rfc_7396() -> None:
    assert merged({"a": "b"}, {"a": None, "c": {"d": 1}}) == {"c": {"d": 1}}
    assert merged({"a": [{"b": 1}]}, {"a": [1]}) == {"a": [1]}
    assert merged({}, {"a": {"b": {"c": None}}}) == {"a": {"b": {}}}
    assert merged("x", {"a": 1}) == {"a": 1}
