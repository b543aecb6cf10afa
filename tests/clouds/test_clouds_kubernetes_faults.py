"""Whatever goes wrong between us and the API server has the promised outcome, and an unheard answer no second effect.

``KUBERNETES_RUNS=1000`` makes the last of these tests a soak; each run is one action and depends on its seed alone.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from error_classes import injects
from kubernetes_worlds import CLONE_SET, POOL, Shop, hpa, pool_of, shop, template, workload

from forecastle.act.effect import tell
from forecastle.act.retry import Retry
from forecastle.clouds.kubernetes_api import Clusters, Stale
from forecastle.errors import CloudUnavailable, Conflict, Denied, NotFound, QuotaExceeded, Unsupported
from forecastle.testing.fake_kubernetes_requests import Fault, Request
from forecastle.types import Kind, Pool, Status

RUNS = int(os.environ.get("KUBERNETES_RUNS", "60"))
RESET = Fault()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Shop]:
    with shop(tmp_path) as found:
        yield found


def on(verb: str, fault: Fault, times: int = 1) -> Callable[[Request], Fault | None]:
    """The fault for the first requests of a verb."""
    left = [fault] * times
    return lambda request: left.pop() if left and request.call.verb == verb else None


# --- one error each ---

REFUSALS = [
    (Fault(404), NotFound, "404"),
    (Fault(401), Denied, "policies/kubernetes.yaml"),
    (Fault(403, message="cannot patch"), Denied, "cannot patch"),
    (Fault(403, message='pods "x" is forbidden: exceeded quota: team'), QuotaExceeded, "exceeded quota: team"),
    (Fault(422, message="spec.x is wrong"), Unsupported, "spec.x is wrong"),
    (Fault(400), Unsupported, "does not accept"),
    (Fault(429, headers={"Retry-After": "7"}), CloudUnavailable, "429"),
]


@pytest.mark.parametrize("verb", ["get", "patch"])
@pytest.mark.parametrize(("fault", "error", "words"), REFUSALS, ids=lambda value: str(getattr(value, "status", "")))
def test_a_refusal_is_typed_and_has_no_effect(here: Shop, verb: str, fault: Fault, error: type[Exception], words: str) -> None:
    action = here.action(Kind.SCALE, 4)
    here.cluster.faults = on(verb, fault)
    with pytest.raises(error, match=words) as caught:
        here.cloud.apply(action, POOL, token=action.id)
    assert here.found()["spec"]["replicas"] == 3
    assert not getattr(caught.value, "ambiguous", False)
    assert getattr(caught.value, "retry_after", 7.0) == 7.0
    assert not here.cloud.apply(action, POOL, token=action.id).already


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "fault", [Fault(500), Fault(502), Fault(503), Fault(504), RESET], ids=lambda f: str(f.status or "reset")
)
def test_an_unheard_answer_to_a_write_is_ambiguous_and_the_token_settles_it(here: Shop, fault: Fault, after: bool) -> None:
    action = here.action(Kind.SCALE, 4)
    here.cluster.faults = on("patch", Fault(fault.status, after=after))
    with pytest.raises(CloudUnavailable) as caught:
        here.cloud.apply(action, POOL, token=action.id)
    assert caught.value.ambiguous
    assert here.found()["spec"]["replicas"] == (4 if after else 3)
    assert here.connect().apply(action, POOL, token=action.id).already == after
    assert here.seen().replicas == 4


@pytest.mark.parametrize("fault", [Fault(500), Fault(503), RESET], ids=lambda f: str(f.status or "reset"))
def test_an_unheard_answer_to_a_read_is_not_ambiguous(here: Shop, fault: Fault) -> None:
    action = here.action(Kind.SCALE, 4)
    for verb in ("get", "list"):
        here.cluster.faults = on(verb, fault)
        with pytest.raises(CloudUnavailable) as caught:
            here.cloud.apply(action, POOL, token=action.id)
        assert not caught.value.ambiguous
    assert here.found()["spec"]["replicas"] == 3


def test_a_page_that_is_too_old_is_asked_for_again_by_the_caller(here: Shop) -> None:
    here.cluster.faults = on("list", Fault(410))
    with pytest.raises(CloudUnavailable, match="410"):
        here.seen()
    assert here.seen().replicas == 3


@pytest.mark.parametrize("fault", [Fault(410), Fault(503), RESET], ids=lambda f: f"{f.status}")
def test_a_watch_survives_a_fault_and_gives_up_on_the_third_in_a_row(here: Shop, fault: Fault) -> None:
    here.cluster.faults = on("watch", fault, times=2)
    assert [seen.replicas for seen in here.cloud.watch(POOL, timeout_s=1)] == [3, 3, 3]
    here.cluster.faults = on("watch", fault, times=3)
    with pytest.raises(CloudUnavailable):
        list(here.cloud.watch(POOL, timeout_s=1))


@pytest.mark.parametrize(("verb", "ambiguous"), [("get", False), ("patch", True)])
@injects("timeout")
def test_every_request_has_a_timeout(here: Shop, verb: str, ambiguous: bool) -> None:
    action = here.action(Kind.SCALE, 4)
    here.cluster.faults = on(verb, Fault(hang=True))
    with pytest.raises(CloudUnavailable, match="ReadTimeoutError") as caught:
        here.connect(timeout_s=0.1).apply(action, POOL, token=action.id)
    assert caught.value.ambiguous == ambiguous


def test_what_was_never_sent_is_not_ambiguous(here: Shop) -> None:
    here.cluster.close()
    clusters = Clusters(kubeconfig=here.config, timeout_s=1.0, dry_run=False)
    with pytest.raises(CloudUnavailable) as caught:
        clusters.patch("here", "/apis/apps/v1/namespaces/shop/deployments/web", {})
    clusters.close()
    assert not caught.value.ambiguous


def test_the_client_repeats_nothing_by_itself(here: Shop) -> None:
    action = here.action(Kind.SCALE, 4)
    for fault in (Fault(429, headers={"Retry-After": "0"}), Fault(503, headers={"Retry-After": "0"}), RESET):
        seen: list[str] = []

        def failing(request: Request, fault: Fault = fault, seen: list[str] = seen) -> Fault | None:
            seen.append(request.call.verb)
            return fault if request.call.verb == "patch" else None

        here.cluster.faults = failing
        with pytest.raises(CloudUnavailable):
            here.cloud.apply(action, POOL, token=action.id)
        assert seen.count("patch") == 1


@injects("conflict")
def test_a_moved_status_is_read_again_and_a_moved_state_is_a_conflict(here: Shop) -> None:
    action = here.action(Kind.SCALE, 4)
    here.cluster.faults = on("patch", Fault(409), times=2)
    assert not here.cloud.apply(action, POOL, token=action.id).already
    here.wait()
    again = here.action(Kind.SCALE, 5)
    here.cluster.faults = on("patch", Fault(409), times=3)
    with pytest.raises(Stale):
        here.cloud.apply(again, POOL, token=again.id)
    here.cluster.faults = meddling(here, {"spec": {"replicas": 9}})
    with pytest.raises(Conflict, match="expected 4, found 9"):
        here.cloud.apply(again, POOL, token=again.id)
    assert here.found()["spec"]["replicas"] == 9


def meddling(here: Shop, patch: dict[str, Any]) -> Callable[[Request], None]:
    """Somebody else writes between our read and our write, once."""
    left = [patch]

    def fault(request: Request) -> None:
        if left and request.call.verb == "patch":
            here.cluster.change("Deployment", "shop", "web", left.pop())

    return fault


# --- many seeds: told again and again under one token, while others undo what it did ---


class Case(NamedTuple):
    """A kind of action in a cluster: what it is asked for, how to undo it by other hands, and how to count its effects."""

    kind: Kind
    objects: list[dict[str, Any]]
    pool: Pool
    undo: Callable[[Shop], None]
    counts: Callable[[dict[str, Any], dict[str, Any]], bool]
    of: str


def _set(kind: str, **spec: Any) -> Callable[[Shop], None]:
    return lambda here: void(here.cluster.change(kind, "shop", "web", {"spec": spec}))


def void(_: object) -> None:
    """Nothing."""


def _grew(field: str) -> Callable[[dict[str, Any], dict[str, Any]], bool]:
    return lambda old, new: old["spec"].get(field, 0) < new["spec"].get(field, 0)


def _restarted(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return bool(old["spec"]["template"] != new["spec"]["template"])


def _deleted(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return "deletionTimestamp" in new["metadata"] and "deletionTimestamp" not in old["metadata"]


def _relabelled(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return "app" in old["metadata"]["labels"] and "app" not in new["metadata"]["labels"]


def _buried(here: Shop) -> None:
    """What was quarantined is looked at no more."""
    with here.cluster.inside() as store:
        for _, pod in list(store.every("Pod")):
            if "app" not in pod["metadata"]["labels"]:
                here.cluster.controllers.delete_pod(pod)


def _uncordoned(here: Shop) -> None:
    for name in ("n1", "n2"):
        here.cluster.change("Node", "", name, {"spec": {"unschedulable": None}})


def _deployed(here: Shop) -> None:
    """The release after the one that is rolled back to."""
    here.cluster.change("Deployment", "shop", "web", {"spec": {"template": template("shop/web:2")}})


def _rolled_back(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return _restarted(old, new) and new["spec"]["template"] == template("shop/web:1")


ASKED = {Kind.SCALE: 4, Kind.CORDON: "why", Kind.QUARANTINE: "why", Kind.DRAIN: 0, Kind.ROLLBACK: "shop/web:1"}
FLOOR, HPA = pool_of(scale="hpa-min"), "HorizontalPodAutoscaler"
CASES = {
    "scale": Case(Kind.SCALE, [workload()], POOL, _set("Deployment", replicas=3), _grew("replicas"), "Deployment"),
    "floor": Case(Kind.SCALE, [workload(), hpa(3)], FLOOR, _set(HPA, minReplicas=3), _grew("minReplicas"), HPA),
    "subresource": Case(
        Kind.SCALE, [workload("CloneSet")], CLONE_SET, _set("CloneSet", replicas=3), _grew("replicas"), "CloneSet"
    ),
    "restart": Case(Kind.RESTART, [workload()], POOL, void, _restarted, "Deployment"),
    "replace": Case(Kind.REPLACE, [workload()], POOL, void, _deleted, "Pod"),
    "quarantine": Case(Kind.QUARANTINE, [workload()], POOL, _buried, _relabelled, "Pod"),
    "rollback": Case(Kind.ROLLBACK, [workload()], POOL, _deployed, _rolled_back, "Deployment"),
    "cordon": Case(Kind.CORDON, [workload()], POOL, _uncordoned, _grew("unschedulable"), "Node"),
    "drain": Case(Kind.DRAIN, [workload()], POOL, _uncordoned, _grew("unschedulable"), "Node"),
}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CASES)
def test_ambiguous_failures_never_cause_a_second_effect(name: str, tmp_path: Path) -> None:
    case, happened = CASES[name], 0
    with shop(tmp_path, *case.objects) as here:
        for seed in range(RUNS):
            happened += one_run(here, case, random.Random(seed))
    assert happened > RUNS // 2, "most runs must get through, or nothing was tested"


def one_run(here: Shop, case: Case, rng: random.Random) -> int:
    """One action, told until it is answered, by two connections; the effects it had, by the cluster's own history."""
    here.cluster.faults = lambda _: None
    case.undo(here)
    here.wait()
    serving = next(pod["metadata"]["name"] for pod in here.pods() if "app" in pod["metadata"]["labels"])
    single = {Kind.REPLACE, Kind.QUARANTINE, Kind.DRAIN}
    replica = "node/n1" if case.kind is Kind.CORDON else serving if case.kind in single else ""
    desired = ASKED.get(case.kind, str(here.clock.now()))
    action = here.action(case.kind, desired, replica=replica, pool=case.pool)
    here.cluster.store.history.clear()
    before = {o["metadata"]["uid"]: o for o in here.cluster.every(case.of)}
    here.cluster.faults = lambda request: fault_of(rng)
    clouds = [here.cloud, here.opened[1] if len(here.opened) > 1 else here.connect()]
    for _ in range(4):
        answer = tell(
            rng.choice(clouds), action, case.pool, Retry(3, 60.0, void, rng.random), left_s=lambda: 600.0, forbidden=str
        )
        if effects(here, case, before):
            case.undo(here)
        if answer.receipt is not None:
            break
    had = effects(here, case, before)
    assert had <= 1, f"{action.kind} happened {had} times"
    if answer.receipt is not None and not answer.receipt.already:
        assert had == 1, "it is said to be done"
    assert answer.status in {Status.APPLIED, Status.FAILED, Status.REFUSED}
    return had


def fault_of(rng: random.Random) -> Fault | None:
    """Every third request goes wrong, before its effect or after it."""
    if rng.random() > 1 / 3:
        return None
    return Fault(rng.choice([0, 500, 503, 504]), after=rng.random() < 0.5)


def effects(here: Shop, case: Case, before: dict[str, dict[str, Any]]) -> int:
    """How often what was asked for happened, going through every state that the cluster had."""
    last, count = dict(before), 0
    with here.cluster.inside() as store:
        for event in store.history:
            uid = event.found["metadata"]["uid"]
            if event.key.served.kind != case.of:
                continue
            if event.type == "MODIFIED" and uid in last:
                count += case.counts(last[uid], event.found)
            last[uid] = event.found
    return count


def test_two_of_a_kind_are_counted_as_two(tmp_path: Path) -> None:
    """The count of the test above is not blind."""
    case = CASES["scale"]
    with shop(tmp_path, *case.objects) as here:
        before = {o["metadata"]["uid"]: o for o in here.cluster.every(case.of)}
        here.cluster.store.history.clear()
        for _ in range(2):
            here.do(Kind.SCALE, 4)
            case.undo(here)
        assert effects(here, case, before) == 2
