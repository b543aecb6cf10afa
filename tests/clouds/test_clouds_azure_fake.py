"""The fake Azure refuses what Azure would refuse, so that passing its tests means something."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from forecastle.testing.fake_azure import BEARER, SUBSCRIPTION, FakeAzure
from forecastle.testing.fake_azure_schemas import APPS, COMPUTE

KEY = {"Authorization": f"Bearer {BEARER}"}


@pytest.fixture
def azure() -> Iterator[FakeAzure]:
    with FakeAzure() as here:
        yield here


def ask(azure: FakeAzure, method: str, path: str, api: str = COMPUTE, **options: Any) -> requests.Response:
    options.setdefault("headers", KEY)
    return requests.request(method, f"{azure.url}{path}", params={"api-version": api}, timeout=60, **options)


def code(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_request_needs_a_token_a_version_and_a_known_path(azure: FakeAzure) -> None:
    path = azure.scale_set("web", capacity=2)
    assert code(ask(azure, "GET", path, headers={})) == (401, "AuthenticationFailed")
    assert code(ask(azure, "GET", path, "2019-01-01")) == (400, "InvalidApiVersionParameter")
    assert code(ask(azure, "DELETE", path)) == (400, "InvalidResourceType")
    assert code(ask(azure, "GET", path.replace("web", "none"))) == (404, "ResourceNotFound")
    assert code(ask(azure, "GET", path.replace(SUBSCRIPTION, SUBSCRIPTION[::-1]))) == (404, "SubscriptionNotFound")
    assert len(azure.violations) == 2
    assert azure.calls == []


@pytest.mark.parametrize(
    "body",
    [
        {"capacity": 3},
        {"sku": {"capacity": "3"}},
        {"sku": {"capacity": -1}},
        {"sku": {"name": "x"}},
        {"tags": {"a/b": "c"}},
        {"tags": {"a": "c" * 257}},
        {"tags": {str(i): "" for i in range(51)}},
        {"properties": {"virtualMachineProfile": {"storageProfile": {"imageReference": {"id": "web"}}}}},
    ],
    ids=str,
)
def test_a_body_that_the_api_does_not_know_changes_nothing(body: dict[str, Any], azure: FakeAzure) -> None:
    path = azure.scale_set("web", capacity=2)
    before = ask(azure, "GET", path).json()
    assert code(ask(azure, "PATCH", path, json=body)) == (400, "InvalidRequestContent")
    assert ask(azure, "GET", path).json() == before
    assert len(azure.violations) == 1


def test_a_body_is_json_and_is_there(azure: FakeAzure) -> None:
    path = azure.scale_set("web", capacity=2)
    assert code(ask(azure, "PATCH", path)) == (400, "MissingRequestBody")
    assert code(ask(azure, "PATCH", path, data="tags=", headers={**KEY, "Content-Type": "text/plain"})) == (
        415,
        "UnsupportedMediaType",
    )


def test_an_etag_holds_until_the_next_write(azure: FakeAzure) -> None:
    path = azure.scale_set("web", capacity=2)
    etag = ask(azure, "GET", path).json()["etag"]
    held = {**KEY, "If-Match": etag}
    assert ask(azure, "PATCH", path, json={"sku": {"capacity": 3}}, headers=held).json()["sku"]["capacity"] == 3
    assert code(ask(azure, "PATCH", path, json={"sku": {"capacity": 4}}, headers=held)) == (412, "PreconditionFailed")
    assert ask(azure, "GET", path).json()["sku"]["capacity"] == 3


def test_an_operation_is_followed_by_its_address(azure: FakeAzure) -> None:
    path = azure.scale_set("web", capacity=2)
    azure.estate.polls = 2
    answer = ask(azure, "PATCH", path, json={"sku": {"capacity": 3}})
    where = answer.headers["Azure-AsyncOperation"]
    states = [requests.get(where, headers=KEY, timeout=60).json()["status"] for _ in range(4)]
    assert states == ["InProgress", "InProgress", "Succeeded", "Succeeded"]
    azure.estate.ends = "AllocationFailed"
    where = ask(azure, "PATCH", path, json={"sku": {"capacity": 4}}).headers["Location"]
    ends = [requests.get(where, headers=KEY, timeout=60).json() for _ in range(3)]
    assert (ends[-1]["status"], ends[-1]["error"]["code"]) == ("Failed", "AllocationFailed")
    assert code(requests.get(where.replace("/operations/", "/operations/0"), headers=KEY, timeout=60)) == (404, "NotFound")


def test_deleting_an_instance_takes_its_capacity_along(azure: FakeAzure) -> None:
    path = azure.scale_set("web", capacity=2)
    one = min(azure.estate.instances[path.lower()])
    assert ask(azure, "DELETE", f"{path}/virtualMachines/{one}").status_code == 202
    assert ask(azure, "GET", path).json()["sku"]["capacity"] == 1
    assert code(ask(azure, "POST", f"{path}/virtualMachines/{one}/restart")) == (404, "InstanceIdNotFound")


def test_an_app_is_merged_and_a_revision_has_a_name_of_its_own(azure: FakeAzure) -> None:
    path = azure.app("web", least=2, most=5)
    body = {"properties": {"template": {"revisionSuffix": "a1", "scale": {"minReplicas": 3}}}}
    assert ask(azure, "PATCH", path, APPS, json=body).json()["properties"]["template"]["scale"] == {
        "minReplicas": 3,
        "maxReplicas": 5,
    }
    assert code(ask(azure, "PATCH", path, APPS, json=body)) == (400, "ContainerAppInvalidRevisionSuffix")
    body["properties"]["template"] = {"revisionSuffix": "a2", "scale": {"minReplicas": 6}}
    assert code(ask(azure, "PATCH", path, APPS, json=body)) == (400, "ContainerAppInvalidScaleSpec")


@pytest.mark.parametrize(("fault", "done"), [("lost", 0), ("unanswered", 1), ("after 503 Busy", 1), ("503 Busy words", 0)])
def test_a_fault_is_before_or_after_the_effect(fault: str, done: int, azure: FakeAzure) -> None:
    path = azure.scale_set("web", capacity=2)
    azure.fault = lambda action, body: fault
    if "Busy" in fault:
        answer = ask(azure, "PATCH", path, json={"sku": {"capacity": 3}})
        assert (code(answer), answer.headers["Retry-After"]) == ((503, "Busy"), "7")
    else:
        with pytest.raises(requests.ConnectionError):
            ask(azure, "PATCH", path, json={"sku": {"capacity": 3}})
    assert len(azure.effects()) == done
