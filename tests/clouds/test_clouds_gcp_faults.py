"""What Google Cloud can answer, or not answer, and what the caller is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from error_classes import injects
from gcp_worlds import EFFECTS, World, world

from forecastle.clouds import gcp_client
from forecastle.errors import CloudUnavailable, Conflict, Denied, ForecastleError, NotFound, Permanent, QuotaExceeded
from forecastle.types import Kind

ANSWERS: list[tuple[str, type[ForecastleError], bool]] = [
    ("429 rateLimitExceeded", CloudUnavailable, False),
    ("403 rateLimitExceeded", CloudUnavailable, False),
    ("403 userRateLimitExceeded", CloudUnavailable, False),
    ("500 internalError", CloudUnavailable, True),
    ("502 badGateway", CloudUnavailable, True),
    ("503 backendError", CloudUnavailable, True),
    ("408 requestTimeout", CloudUnavailable, True),
    ("401 authError", Denied, False),
    ("403 forbidden", Denied, False),
    ("404 notFound", NotFound, False),
    ("410 gone", NotFound, False),
    ("409 resourceInUse", Conflict, False),
    ("400 resourceNotReady", Conflict, False),
    ("400 failedPrecondition", Conflict, False),
    ("412 conditionNotMet", Conflict, False),
    ("403 quotaExceeded", QuotaExceeded, False),
    ("403 limitExceeded", QuotaExceeded, False),
    ("400 invalid no sense in that", Permanent, False),
]
ENDS: list[tuple[str, type[ForecastleError]]] = [
    ("QUOTA_EXCEEDED", QuotaExceeded),
    ("ZONE_RESOURCE_POOL_EXHAUSTED", QuotaExceeded),
    ("IP_SPACE_EXHAUSTED", QuotaExceeded),
    ("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", Conflict),
    ("RESOURCE_NOT_FOUND", NotFound),
    ("PERMISSIONS_ERROR", Denied),
    ("SOMETHING_ELSE", Permanent),
]
ONE_OF_EACH = ["group", "regional", "service", "nodepool"]


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch, world() as here:
        patch.setattr(gcp_client, "_FIRST_WAIT_S", 0.001)
        yield here


@pytest.fixture
def gcp(shared: World) -> Iterator[World]:
    shared.gcp.done.clear()
    yield shared
    shared.gcp.fault = lambda _: ""
    shared.gcp.compute.failing, shared.gcp.compute.patience = None, 1
    shared.gcp.settle()


def failing(gcp: World, what: str, *only: str) -> None:
    """From now on the requests of those methods fail as told; by default the effects."""
    gcp.gcp.fault = lambda method: what if method.endswith(only or EFFECTS) else ""


@pytest.mark.parametrize("kind", ONE_OF_EACH)
@pytest.mark.parametrize(("answer", "error", "ambiguous"), ANSWERS, ids=lambda v: v if isinstance(v, str) else "")
def test_every_refusal_of_an_effect_has_its_meaning(
    answer: str, error: type[ForecastleError], ambiguous: bool, kind: str, gcp: World
) -> None:
    pool = getattr(gcp, kind)()
    before = gcp.cloud.observe(pool)
    failing(gcp, answer)
    with pytest.raises(error) as caught:
        gcp.do(Kind.SCALE, 6, pool)
    assert type(caught.value) is error
    if isinstance(caught.value, CloudUnavailable):
        assert (caught.value.ambiguous, caught.value.retry_after) == (ambiguous, 7.0)
    failing(gcp, "")
    gcp.gcp.settle()
    after = gcp.cloud.observe(pool)
    assert (after.replicas, after.ready) == (before.replicas, before.ready)
    assert gcp.effects() == []


@pytest.mark.parametrize("kind", ONE_OF_EACH)
@pytest.mark.parametrize("fault", ["unanswered", "after 503 backendError"])
def test_an_effect_that_was_not_answered_is_found_by_another_process(fault: str, kind: str, gcp: World) -> None:
    pool = getattr(gcp, kind)()
    action = gcp.action(Kind.SCALE, 6, pool)
    failing(gcp, fault)
    with pytest.raises(CloudUnavailable) as caught:
        gcp.cloud.apply(action, pool, token=action.id)
    assert caught.value.ambiguous
    failing(gcp, "")
    gcp.gcp.settle()
    assert gcp.connect().apply(action, pool, token=action.id).already
    assert len(gcp.effects()) == 1
    gcp.do(Kind.SCALE, 4, pool)
    gcp.gcp.settle()
    assert gcp.cloud.apply(action, pool, token=action.id).already
    assert gcp.cloud.observe(pool).replicas == 4


@pytest.mark.parametrize("kind", ONE_OF_EACH)
def test_an_effect_that_never_arrived_is_asked_for_again(kind: str, gcp: World) -> None:
    pool = getattr(gcp, kind)()
    action = gcp.action(Kind.SCALE, 6, pool)
    failing(gcp, "lost")
    with pytest.raises(CloudUnavailable) as caught:
        gcp.cloud.apply(action, pool, token=action.id)
    assert caught.value.ambiguous
    failing(gcp, "")
    gcp.gcp.settle()
    assert not gcp.connect().apply(action, pool, token=action.id).already
    assert (len(gcp.effects()), gcp.cloud.observe(pool).replicas) == (1, 6)


@pytest.mark.parametrize("kind", ["group", "regional"])
@pytest.mark.parametrize(("end", "error"), ENDS)
@injects("partial")
def test_an_operation_that_fails_says_why_and_had_no_effect(
    end: str, error: type[ForecastleError], kind: str, gcp: World
) -> None:
    pool = getattr(gcp, kind)()
    gcp.gcp.compute.failing = {"errors": [{"code": end, "message": "in words"}]}
    action = gcp.action(Kind.SCALE, 6, pool)
    for _ in range(2):
        with pytest.raises(error, match=f"{end}.*in words") as caught:
            gcp.cloud.apply(action, pool, token=action.id)
        assert type(caught.value) is error
    assert len(gcp.effects()) == 1, "the token is used: the operation is found, not told again"
    assert gcp.cloud.observe(pool).replicas == 4


def test_an_operation_that_goes_on_is_ambiguous_and_found_again(gcp: World) -> None:
    pool = gcp.group()
    gcp.gcp.compute.patience = 10**6
    action = gcp.action(Kind.SCALE, 6, pool)
    with pytest.raises(CloudUnavailable, match="still under way") as caught:
        gcp.connect(operation_timeout_s=0.01).apply(action, pool, token=action.id)
    assert caught.value.ambiguous
    for operation in gcp.gcp.compute.operations:
        operation["left"] = 0
    assert gcp.cloud.apply(action, pool, token=action.id).already
    assert len(gcp.effects()) == 1


@pytest.mark.parametrize("kind", ONE_OF_EACH)
@pytest.mark.parametrize("fault", ["lost", "503 backendError", "403 forbidden", "404 notFound"])
def test_an_operation_that_cannot_be_asked_about_may_have_happened(fault: str, kind: str, gcp: World) -> None:
    pool = getattr(gcp, kind)()
    if kind == "nodepool":  # its claim is an operation of its own, told before the effect
        gcp.gcp.kubernetes.patience = 0
    action = gcp.action(Kind.SCALE, 6, pool)
    gcp.gcp.kubernetes.patience = 1
    failing(gcp, fault, "perations.get")
    with pytest.raises(CloudUnavailable, match="operation cannot be read") as caught:
        gcp.cloud.apply(action, pool, token=action.id)
    assert caught.value.ambiguous == (kind != "nodepool"), "a claim changes nothing that anybody uses"
    failing(gcp, "")
    gcp.gcp.settle()
    gcp.cloud.apply(action, pool, token=action.id)
    assert (len(gcp.effects()), gcp.cloud.observe(pool).replicas) == (1, 6)


@pytest.mark.parametrize("kind", ONE_OF_EACH)
@pytest.mark.parametrize("fault", ["lost", "500 internalError", "429 rateLimitExceeded"])
def test_a_reading_that_fails_is_never_ambiguous(fault: str, kind: str, gcp: World) -> None:
    pool = getattr(gcp, kind)()
    failing(gcp, fault, ".get", "listManagedInstances")
    with pytest.raises(CloudUnavailable) as caught:
        gcp.cloud.observe(pool)
    assert not caught.value.ambiguous


@pytest.mark.parametrize("fault", ["503 backendError", "429 rateLimitExceeded"])
def test_a_reading_is_tried_again_and_an_effect_is_not(fault: str, gcp: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    pool, asked, cloud = gcp.group(), [], gcp.connect(read_attempts=3)
    action = gcp.action(Kind.SCALE, 6, pool)

    def twice(method: str) -> str:
        asked.append(method.rpartition(".")[2])
        return fault if asked.count(asked[-1]) <= 2 and asked[-1] in {"get", "resize"} else ""

    gcp.gcp.fault = twice
    with pytest.raises(CloudUnavailable):
        cloud.apply(action, pool, token=action.id)
    assert (asked.count("get"), asked.count("resize")) == (3, 1)


@pytest.mark.parametrize("kind", ["service", "group"])
def test_a_write_on_an_old_state_is_judged_three_times(kind: str, gcp: World) -> None:
    pool, asked = getattr(gcp, kind)(), []
    action = gcp.action(Kind.RESTART, "7", pool)

    def stale(method: str) -> str:
        if not method.endswith("patch"):
            return ""
        asked.append(method)
        return "409 aborted" if kind == "service" else "412 conditionNotMet"

    gcp.gcp.fault = stale
    with pytest.raises(Conflict, match="somebody else keeps changing it"):
        gcp.cloud.apply(action, pool, token=action.id)
    assert len(asked) == 3
    assert gcp.effects() == []


def test_nobody_there_is_not_ambiguous(gcp: World) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(CloudUnavailable) as caught:
        gcp.connect(endpoint_url=url).observe(gcp.group())
    assert not caught.value.ambiguous


def test_an_answer_that_never_comes_is_unavailable(gcp: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        cloud = gcp.connect(endpoint_url=f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.2)
        with pytest.raises(CloudUnavailable, match="timed out"):
            cloud.observe(gcp.service())


@pytest.mark.parametrize("kind", ["group", "service"])
@pytest.mark.parametrize("fault", ["slow"])
def test_an_effect_whose_answer_comes_too_late_is_ambiguous(fault: str, kind: str, gcp: World) -> None:
    pool = getattr(gcp, kind)()
    action = gcp.action(Kind.SCALE, 6, pool)
    hasty = gcp.connect(timeout_s=0.3)
    hasty.observe(pool)
    failing(gcp, fault)
    with pytest.raises(CloudUnavailable, match="timed out") as caught:
        hasty.apply(action, pool, token=action.id)
    assert caught.value.ambiguous
    failing(gcp, "")
    gcp.gcp.settle()
    assert gcp.cloud.apply(action, pool, token=action.id).already
    assert (len(gcp.effects()), gcp.cloud.observe(pool).replicas) == (1, 6)


def test_without_credentials_it_says_how_to_get_some(gcp: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from google.auth.exceptions import DefaultCredentialsError

    def none(**_: Any) -> None:
        raise DefaultCredentialsError("none found")

    monkeypatch.setattr("google.auth.default", none)
    with pytest.raises(Denied, match="GOOGLE_APPLICATION_CREDENTIALS"):
        gcp.connect(endpoint_url="").observe(gcp.group())
