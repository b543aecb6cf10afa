"""Whatever goes wrong between us and the API server has the promised outcome; the shipped policy is what is called."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from error_classes import injects
from gateway_worlds import ISTIO, POOL, Edge, edge, http_route, pool_of, ref, virtual_service
from ruamel.yaml import YAML

from forecastle.errors import CloudUnavailable, Conflict, Denied, NotFound, QuotaExceeded, Unsupported
from forecastle.testing.fake_kubernetes_requests import Call, Fault, Request
from forecastle.testing.fake_kubernetes_store import check_schema

RUNS = 1000
RESET = Fault()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Edge]:
    with edge(tmp_path) as found:
        yield found


def on(verb: str, fault: Fault, times: int = 1) -> Callable[[Request], Fault | None]:
    """The fault for the first requests of a verb."""
    left = [fault] * times
    return lambda request: left.pop() if left and request.call.verb == verb else None


REFUSALS: list[tuple[Fault, type[Exception]]] = [
    (Fault(401), Denied),
    (Fault(403), Denied),
    (Fault(403, message="exceeded quota: team"), QuotaExceeded),
    (Fault(404), NotFound),
    (Fault(422), Unsupported),
    (Fault(429, headers={"Retry-After": "7"}), CloudUnavailable),
]


@pytest.mark.parametrize("verb", ["get", "patch"])
@pytest.mark.parametrize(("fault", "error"), REFUSALS, ids=lambda value: str(getattr(value, "status", "")))
def test_a_refusal_is_typed_and_has_no_effect(here: Edge, verb: str, fault: Fault, error: type[Exception]) -> None:
    action = here.action(30)
    here.cluster.faults = on(verb, fault)
    with pytest.raises(error) as caught:
        here.cloud.apply(action, POOL, token=action.id)
    assert here.weights() == [100, 0]
    assert not getattr(caught.value, "ambiguous", False)
    assert getattr(caught.value, "retry_after", 7.0) == 7.0
    assert not here.cloud.apply(action, POOL, token=action.id).already


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("fault", [Fault(500), Fault(503), RESET], ids=lambda f: str(f.status or "reset"))
def test_an_unheard_answer_to_a_write_is_ambiguous_and_the_token_settles_it(here: Edge, fault: Fault, after: bool) -> None:
    action = here.action(30)
    here.cluster.faults = on("patch", Fault(fault.status, after=after))
    with pytest.raises(CloudUnavailable) as caught:
        here.cloud.apply(action, POOL, token=action.id)
    assert caught.value.ambiguous
    assert here.weights() == ([30, 70] if after else [100, 0])
    assert here.connect().apply(action, POOL, token=action.id).already == after
    assert here.weights() == [30, 70]


@pytest.mark.parametrize(("verb", "ambiguous"), [("get", False), ("patch", True)])
@injects("timeout")
def test_every_request_has_a_timeout(here: Edge, verb: str, ambiguous: bool) -> None:
    action = here.action(30)
    here.cluster.faults = on(verb, Fault(hang=True))
    with pytest.raises(CloudUnavailable, match="ReadTimeoutError") as caught:
        here.connect(timeout_s=0.1).apply(action, POOL, token=action.id)
    assert caught.value.ambiguous == ambiguous


@injects("conflict")
def test_a_moved_object_is_read_again_and_a_moved_state_is_a_conflict(here: Edge) -> None:
    action = here.action(30)
    here.cluster.faults = on("patch", Fault(409), times=2)
    assert not here.cloud.apply(action, POOL, token=action.id).already
    again = here.action(50)
    here.cluster.faults = on("patch", Fault(409), times=3)
    with pytest.raises(Conflict):
        here.cloud.apply(again, POOL, token=again.id)
    meddled: list[Request] = []

    def meddling(request: Request) -> None:
        if not meddled and request.call.verb == "patch":
            meddled.append(request)
            spec = here.found()["spec"]
            spec["rules"][0]["backendRefs"][0]["weight"] = 31
            here.cluster.change("HTTPRoute", "shop", "web", {"spec": {"rules": spec["rules"]}})

    here.cluster.faults = meddling
    with pytest.raises(Conflict, match="expected 30%-"):
        here.cloud.apply(again, POOL, token=again.id)
    assert here.weights() == [31, 70]


def test_over_hundreds_of_seeded_runs_no_action_has_a_second_effect(here: Edge) -> None:
    """One request in three is lost before or after its effect; between the tries somebody else may undo it."""
    happened, undone = 0, 0
    for seed in range(RUNS):
        rng = random.Random(seed)
        here.cluster.faults = lambda _: None
        put(here, [100, 0])
        action = here.action(30)
        here.cluster.store.history.clear()
        here.cluster.faults = lambda _, rng=rng: faulty(rng)
        for _ in range(4):
            try:
                here.cloud.apply(action, POOL, token=action.id)
            except CloudUnavailable:
                if here.weights() == [30, 70] and rng.random() < 0.5:
                    put(here, [100, 0])
                    undone += 1
                continue
            break
        effects = sum(weights == [30, 70] for weights in told(here))
        assert effects <= 1, seed
        happened += effects
    assert happened > RUNS // 2
    assert undone > RUNS // 50


def faulty(rng: random.Random) -> Fault | None:
    return Fault(rng.choice((0, 500, 503)), after=rng.random() < 0.5) if rng.random() < 1 / 3 else None


def put(here: Edge, weights: list[int]) -> None:
    """Somebody else sets the weights."""
    rules = here.found()["spec"]["rules"]
    for each, weight in zip(rules[0]["backendRefs"], weights, strict=True):
        each["weight"] = weight
    here.cluster.change("HTTPRoute", "shop", "web", {"spec": {"rules": rules}})


def told(here: Edge) -> list[list[int]]:
    """The weights after each change of the route, in order."""
    events = [event.found["spec"]["rules"][0]["backendRefs"] for event in here.cluster.store.history]
    return [[each["weight"] for each in refs] for refs in events]


# --- the policy ---


def roles() -> list[dict[str, Any]]:
    text = (files("forecastle.clouds") / "policies" / "gateway.yaml").read_text()
    return list(YAML(typ="safe", pure=True).load_all(text))


def rules() -> list[dict[str, Any]]:
    return [rule for role in roles() for rule in role["rules"]]


def test_the_calls_of_every_kind_of_route_are_the_policy(tmp_path: Path) -> None:
    called: set[Call] = set()
    for name, pool, route in (
        ("http", POOL, http_route()),
        ("grpc", pool_of(kind="GRPCRoute"), http_route([ref("web-fra", 1), ref("web-ams", 1)], kind="GRPCRoute")),
        ("istio", ISTIO, virtual_service()),
    ):
        (tmp_path / name).mkdir()
        with edge(tmp_path / name, route, rules=rules()) as here:
            assert not here.shift(30, pool=pool).already
            called |= set(here.cluster.calls)
    granted = {Call(v, g, r) for rule in rules() for v in rule["verbs"] for g in rule["apiGroups"] for r in rule["resources"]}
    assert called == granted


def test_the_policy_is_valid() -> None:
    for role in roles():
        check_schema(role)
        assert role["kind"] == "ClusterRole"


@pytest.mark.parametrize("verb", ["get", "patch"])
def test_a_missing_right_is_denied_and_says_which(tmp_path: Path, verb: str) -> None:
    left = [{**rule, "verbs": [each for each in rule["verbs"] if each != verb]} for rule in rules()]
    with edge(tmp_path, rules=left) as here, pytest.raises(Denied, match=f'cannot {verb} resource "httproutes"'):
        here.shift(30)
