"""What Azure can answer, or not answer, and what the caller is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from threading import Event

import pytest
from azure_worlds import World, world
from error_classes import injects

from forecastle.clouds.aws_claims import Claims
from forecastle.clouds.azure_resource import TAG
from forecastle.errors import (
    CloudUnavailable,
    ConfigError,
    Conflict,
    Denied,
    ForecastleError,
    NotFound,
    Permanent,
    QuotaExceeded,
)
from forecastle.types import Kind, Pool

ANSWERS: list[tuple[str, type[ForecastleError], bool]] = [
    ("429 TooManyRequests slow down", CloudUnavailable, False),
    ("429 OperationNotAllowed The server rejected the request because too many requests", CloudUnavailable, False),
    ("500 InternalExecutionError", CloudUnavailable, True),
    ("503 ServerTimeout", CloudUnavailable, True),
    ("504 GatewayTimeout", CloudUnavailable, True),
    ("408 RequestTimeout", CloudUnavailable, True),
    ("401 InvalidAuthenticationToken", Denied, False),
    ("403 AuthorizationFailed", Denied, False),
    ("403 RequestDisallowedByPolicy", Denied, False),
    ("409 ScopeLocked", Denied, False),
    ("404 ResourceNotFound", NotFound, False),
    ("404 ResourceGroupNotFound", NotFound, False),
    ("409 Conflict", Conflict, False),
    ("409 OperationNotAllowed another operation is in progress", Conflict, False),
    ("409 QuotaExceeded", QuotaExceeded, False),
    ("409 OperationNotAllowed Operation results in exceeding approved Total Regional Cores quota", QuotaExceeded, False),
    ("409 SkuNotAvailable", QuotaExceeded, False),
    ("400 InvalidParameter no sense in that", Permanent, False),
]
ENDS: list[tuple[str, type[ForecastleError]]] = [
    ("AllocationFailed", QuotaExceeded),
    ("ZonalAllocationFailed", QuotaExceeded),
    ("OperationPreempted", Conflict),
    ("VMExtensionProvisioningError", Permanent),
]
ONE_OF_EACH = ["scale_set", "app", "node_pool"]


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with world() as here:
        yield here


@pytest.fixture
def azure(shared: World) -> Iterator[World]:
    shared.azure.calls.clear()
    yield shared
    shared.azure.fault = lambda action, body: ""
    shared.azure.estate.ends, shared.azure.estate.polls = "", 1


def failing(azure: World, what: str, *only: str) -> None:
    """From now on the requests whose action ends like that fail as told; by default the writes."""
    azure.azure.fault = lambda action, _: what if action.endswith(only or ("/write",)) else ""


@pytest.mark.parametrize("kind", ONE_OF_EACH)
@pytest.mark.parametrize(("answer", "error", "ambiguous"), ANSWERS, ids=lambda v: v if isinstance(v, str) else "")
def test_every_refusal_of_a_write_has_its_meaning(
    answer: str, error: type[ForecastleError], ambiguous: bool, kind: str, azure: World
) -> None:
    pool = getattr(azure, kind)()
    before = azure.cloud.observe(pool)
    failing(azure, answer)
    with pytest.raises(error) as caught:
        azure.do(Kind.SCALE, 6, pool)
    assert type(caught.value) is error
    assert answer.split(" ")[1] in str(caught.value)
    if isinstance(caught.value, CloudUnavailable):
        assert (caught.value.ambiguous, caught.value.retry_after) == (ambiguous, 7.0)
    after = azure.cloud.observe(pool)
    assert (after.replicas, after.version) == (before.replicas, before.version)
    assert azure.azure.effects() == []


@pytest.mark.parametrize("kind", ONE_OF_EACH)
@pytest.mark.parametrize("fault", ["unanswered", "after 500 InternalExecutionError"])
def test_an_effect_that_was_not_answered_is_found_by_another_process(fault: str, kind: str, azure: World) -> None:
    pool = getattr(azure, kind)()
    action = azure.action(Kind.SCALE, 6, pool)
    failing(azure, fault)
    with pytest.raises(CloudUnavailable) as caught:
        azure.cloud.apply(action, pool, token=action.id)
    assert caught.value.ambiguous
    failing(azure, "")
    assert azure.connect().apply(action, pool, token=action.id).already
    assert len(azure.azure.effects()) == 1
    azure.do(Kind.SCALE, 4, pool)
    assert azure.cloud.apply(action, pool, token=action.id).already
    assert azure.cloud.observe(pool).replicas == 4


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_an_effect_that_never_arrived_is_asked_for_again(kind: str, azure: World) -> None:
    pool = getattr(azure, kind)()
    action = azure.action(Kind.SCALE, 6, pool)
    failing(azure, "lost")
    with pytest.raises(CloudUnavailable) as caught:
        azure.cloud.apply(action, pool, token=action.id)
    assert caught.value.ambiguous
    failing(azure, "")
    assert not azure.connect().apply(action, pool, token=action.id).already
    assert (len(azure.azure.effects()), azure.cloud.observe(pool).replicas) == (1, 6)


@pytest.mark.parametrize("kind", ["scale_set", "node_pool"])
def test_a_request_that_arrives_after_its_retry_is_refused(kind: str, azure: World) -> None:
    """The etag it presumed is gone: the condition of the write, not our reading, keeps it from a second effect."""
    pool, late = getattr(azure, kind)(), []
    action = azure.action(Kind.SCALE, 6, pool)
    sent = azure.azure.carried_out
    azure.azure.carried_out = lambda request: late.append(request) or sent(request)  # type: ignore[method-assign]
    azure.cloud.apply(action, pool, token=action.id)
    azure.azure.carried_out = sent  # type: ignore[method-assign]
    azure.do(Kind.SCALE, 3, pool)
    (write,) = [request for request in late if request.route.method in {"PATCH", "PUT"}]
    assert write.etag
    with pytest.raises(Exception, match="412"):
        sent(write)
    assert azure.cloud.observe(pool).replicas == 3


def test_a_revision_that_was_made_is_not_made_again_by_a_late_request(azure: World) -> None:
    pool, late = azure.app(), []
    sent = azure.azure.carried_out
    azure.azure.carried_out = lambda request: late.append(request) or sent(request)  # type: ignore[method-assign]
    azure.do(Kind.SCALE, 6, pool)
    azure.azure.carried_out = sent  # type: ignore[method-assign]
    azure.do(Kind.SCALE, 3, pool)
    (write,) = [request for request in late if request.route.method == "PATCH"]
    with pytest.raises(Exception, match="exists already"):
        sent(write)
    assert azure.cloud.observe(pool).replicas == 3


@pytest.mark.parametrize("kind", ONE_OF_EACH)
@pytest.mark.parametrize(("end", "error"), ENDS)
@injects("partial")
def test_an_operation_that_ends_badly_says_so(end: str, error: type[ForecastleError], kind: str, azure: World) -> None:
    pool = getattr(azure, kind)()
    action = azure.action(Kind.SCALE, 6, pool)
    azure.azure.estate.ends = end
    with pytest.raises(error, match=end) as caught:
        azure.cloud.apply(action, pool, token=action.id)
    assert type(caught.value) is error
    assert azure.cloud.apply(action, pool, token=action.id).already, "the token is used"
    assert len(azure.azure.effects()) == 1


def test_an_operation_that_goes_on_is_accepted_and_left(azure: World) -> None:
    pool = azure.scale_set()
    azure.azure.estate.polls = 10**6
    action = azure.action(Kind.SCALE, 6, pool)
    assert not azure.connect(wait_s=0).apply(action, pool, token=action.id).already
    assert azure.cloud.observe(pool).replicas == 6


@pytest.mark.parametrize("kind", ONE_OF_EACH)
@pytest.mark.parametrize("fault", ["unanswered", "500 InternalError", "403 AuthorizationFailed", "404 NotFound"])
def test_an_operation_that_cannot_be_asked_about_was_accepted(fault: str, kind: str, azure: World) -> None:
    pool = getattr(azure, kind)()
    action = azure.action(Kind.SCALE, 6, pool)
    failing(azure, fault, "perations/read", "Statuses/read")
    assert not azure.cloud.apply(action, pool, token=action.id).already
    assert (len(azure.azure.effects()), azure.cloud.observe(pool).replicas) == (1, 6)


@pytest.mark.parametrize("fault", ["lost", "500 InternalError", "429 TooManyRequests"])
def test_a_reading_that_fails_is_never_ambiguous(fault: str, azure: World) -> None:
    pool = azure.scale_set()
    failing(azure, fault, "/read")
    with pytest.raises(CloudUnavailable) as caught:
        azure.cloud.observe(pool)
    assert not caught.value.ambiguous


@injects("timeout")
@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_an_effect_whose_answer_comes_too_late_is_ambiguous(kind: str, azure: World) -> None:
    pool, gone = getattr(azure, kind)(), Event()
    action = azure.action(Kind.SCALE, 6, pool)
    azure.azure.fault = lambda what, _: gone.wait(5) * "lost" if what.endswith("/write") else ""
    with pytest.raises(CloudUnavailable, match="timed out") as caught:
        azure.connect(read_timeout_s=0.3).apply(action, pool, token=action.id)
    gone.set()
    failing(azure, "")
    assert caught.value.ambiguous
    assert azure.cloud.observe(pool).replicas == 4
    assert not azure.cloud.apply(action, pool, token=action.id).already
    assert (len(azure.azure.effects()), azure.cloud.observe(pool).replicas) == (1, 6)


def test_nobody_there_is_not_ambiguous(azure: World) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(CloudUnavailable) as caught:
        azure.connect(endpoint_url=url).observe(azure.scale_set())
    assert not caught.value.ambiguous


def test_an_answer_that_is_none_is_unavailable(azure: World) -> None:
    pool = azure.app()
    with socket.create_server(("127.0.0.1", 0)) as server:
        cloud = azure.connect(endpoint_url=f"http://127.0.0.1:{server.getsockname()[1]}", read_timeout_s=0.2)
        with pytest.raises(CloudUnavailable, match="timed out"):
            cloud.observe(pool)


def test_a_wrong_address_is_a_wrong_setting_or_unavailable(azure: World) -> None:
    with pytest.raises((ConfigError, CloudUnavailable)):
        azure.connect(endpoint_url="nonsense").observe(azure.scale_set())


# --- one instance: two steps ---


STEPS = {Kind.RESTART: "restart/action", Kind.REPLACE: "virtualMachines/delete", Kind.QUARANTINE: "deallocate/action"}


def begun(azure: World, kind: Kind, fault: str, *only: str) -> tuple[Pool, str, object]:
    """An action on the first instance of a set, cut off."""
    pool = azure.scale_set(3)
    one = min(azure.instances(pool))
    action = azure.action(kind, "7", pool, replica=one)
    failing(azure, fault, *only)
    with pytest.raises(CloudUnavailable) as caught:
        azure.cloud.apply(action, pool, token=action.id)
    assert caught.value.ambiguous
    failing(azure, "")
    return pool, one, action


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("fault", ["lost", "unanswered", "500 InternalError", "after 500 InternalError"])
def test_the_second_step_is_taken_once(fault: str, kind: Kind, azure: World) -> None:
    pool, _, action = begun(azure, kind, fault, STEPS[kind])
    arrived = fault in {"unanswered", "after 500 InternalError"}
    receipt = azure.connect().apply(action, pool, token=action.id)
    assert receipt.already == arrived
    assert len([a for a, _ in azure.azure.effects() if a.endswith(STEPS[kind])]) == 1
    assert azure.cloud.apply(action, pool, token=action.id).already
    assert azure.cloud.observe(pool).replicas == 3
    assert Claims.of(azure.model(pool)["tags"][TAG]).every[0].done


@pytest.mark.parametrize("fault", ["lost", "unanswered"])
def test_the_first_step_is_taken_once(fault: str, azure: World) -> None:
    pool, one, action = begun(azure, Kind.REPLACE, fault)
    assert not azure.connect().apply(action, pool, token=action.id).already
    assert one not in azure.instances(pool)
    assert len(azure.instances(pool)) == 3
    assert len(azure.azure.effects()) == 2


def test_a_claim_overtaken_by_another_action_is_used_up(azure: World) -> None:
    pool, _, action = begun(azure, Kind.RESTART, "lost", "restart/action")
    azure.do(Kind.SCALE, 5, pool)
    assert azure.cloud.apply(action, pool, token=action.id).already
    assert [a for a, _ in azure.azure.effects() if a.endswith("restart/action")] == []


def test_a_claim_that_could_not_be_settled_says_the_same_later(azure: World) -> None:
    pool = azure.scale_set(3)
    action = azure.action(Kind.RESTART, "7", pool, replica=min(azure.instances(pool)))
    writes: list[str] = []

    def second(asked: str, body: dict[str, object]) -> str:
        writes.append(asked) if asked.endswith("virtualMachineScaleSets/write") else None
        return "403 AuthorizationFailed" if len(writes) > 1 and asked == writes[-1] else ""

    azure.azure.fault = second
    assert not azure.cloud.apply(action, pool, token=action.id).already
    failing(azure, "")
    assert azure.connect().apply(action, pool, token=action.id).already
    assert len([a for a, _ in azure.azure.effects() if a.endswith("restart/action")]) == 1
