"""What AWS can answer, or not answer, and what the caller is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aws_front import REGION
from aws_worlds import POOL, START, World, world
from botocore.exceptions import ClientError
from error_classes import injects

from forecastle.clouds.aws import open_cloud
from forecastle.clouds.aws_claims import TAG, Claims
from forecastle.clouds.aws_errors import translated
from forecastle.errors import CloudUnavailable, Conflict, Denied, ForecastleError, NotFound, Permanent, QuotaExceeded
from forecastle.runtime.clocks import EventClock
from forecastle.types import Kind, Pool

ANSWERS: list[tuple[str, type[ForecastleError], bool]] = [
    ("400 Throttling Rate exceeded", CloudUnavailable, False),
    ("400 ThrottlingException", CloudUnavailable, False),
    ("400 ResourceContention a pending update", CloudUnavailable, False),
    ("503 ServiceUnavailable", CloudUnavailable, True),
    ("500 InternalFailure", CloudUnavailable, True),
    ("500 ServerException", CloudUnavailable, True),
    ("403 AccessDenied", Denied, False),
    ("400 AccessDeniedException", Denied, False),
    ("403 ExpiredToken", Denied, False),
    ("400 ResourceNotFoundException", NotFound, False),
    ("400 ServiceNotFoundException", NotFound, False),
    ("400 ValidationError AutoScalingGroup name not found - x", NotFound, False),
    ("400 LimitExceeded", QuotaExceeded, False),
    ("400 LimitExceededException", QuotaExceeded, False),
    ("400 ResourceLimitExceeded", QuotaExceeded, False),
    ("409 ResourceInUseException", Conflict, False),
    ("400 ScalingActivityInProgress", Conflict, False),
    ("400 ValidationError New SetDesiredCapacity value 9 is above max value 8", Conflict, False),
    ("400 ValidationError no sense in that", Permanent, False),
]
ONE_OF_EACH = ["group", "service", "nodegroup"]


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with world() as here:
        yield here


@pytest.fixture
def aws(shared: World) -> Iterator[World]:
    shared.front.delivered.clear()
    yield shared
    shared.front.fault = lambda operation, body: ""


def failing(aws: World, what: str, *only: str) -> None:
    """From now on the requests named fail as told; by default whatever has an effect."""
    effects = {"SetDesiredCapacity", "UpdateService", "UpdateNodegroupConfig", "UpdateContainerInstancesState"}
    aws.front.fault = lambda operation, _: what if operation in (only or effects) else ""


@pytest.mark.parametrize("pool", ONE_OF_EACH)
@pytest.mark.parametrize(("answer", "error", "ambiguous"), ANSWERS, ids=lambda v: v if isinstance(v, str) else "")
def test_every_refusal_of_an_effect_has_its_meaning(
    answer: str, error: type[ForecastleError], ambiguous: bool, pool: str, aws: World
) -> None:
    target = kept(aws, pool)
    before = aws.cloud.observe(target)
    failing(aws, answer)
    with pytest.raises(error) as caught:
        aws.do(Kind.SCALE, 3 if before.replicas != 3 else 4, target)
    assert type(caught.value) is error
    assert answer.split(" ")[1] in str(caught.value)
    if isinstance(caught.value, CloudUnavailable):
        assert (caught.value.ambiguous, caught.value.retry_after) == (ambiguous, 7.0)
    after = aws.cloud.observe(target)
    assert (after.replicas, after.version) == (before.replicas, before.version), "an open claim is no change"
    assert aws.front.effects() == []


def kept(aws: World, kind: str) -> Pool:
    """One pool of a kind for the whole module: nothing that is refused changes it."""
    pools: dict[str, Pool] = aws.__dict__.setdefault("pools", {})
    if kind not in pools:
        pools[kind] = getattr(aws, kind)()
    return pools[kind]


@pytest.mark.parametrize("pool", ONE_OF_EACH)
@pytest.mark.parametrize("fault", ["unanswered", "after 500 InternalFailure"])
def test_an_effect_that_was_not_answered_is_found_by_another_process(fault: str, pool: str, aws: World) -> None:
    target = getattr(aws, pool)()
    action = aws.action(Kind.SCALE, 6, target)
    failing(aws, fault)
    with pytest.raises(CloudUnavailable) as caught:
        aws.cloud.apply(action, target, token=action.id)
    assert caught.value.ambiguous
    failing(aws, "")
    receipt = aws.connect().apply(action, target, token=action.id)
    assert receipt.already
    assert len(aws.front.effects()) == 1
    back = aws.action(Kind.SCALE, 4, target)
    aws.cloud.apply(back, target, token=back.id)
    assert aws.cloud.apply(action, target, token=action.id).already
    assert aws.cloud.observe(target).replicas == 4


@pytest.mark.parametrize("pool", ONE_OF_EACH)
def test_an_effect_that_never_arrived_is_asked_for_again(pool: str, aws: World) -> None:
    target = getattr(aws, pool)()
    action = aws.action(Kind.SCALE, 6, target)
    failing(aws, "lost")
    with pytest.raises(CloudUnavailable) as caught:
        aws.cloud.apply(action, target, token=action.id)
    assert caught.value.ambiguous
    failing(aws, "")
    assert not aws.connect().apply(action, target, token=action.id).already
    assert (len(aws.front.effects()), aws.cloud.observe(target).replicas) == (1, 6)


def test_a_claim_overtaken_by_another_action_is_used_up(aws: World) -> None:
    target = aws.group()
    action = aws.action(Kind.SCALE, 6, target)
    failing(aws, "lost")
    with pytest.raises(CloudUnavailable):
        aws.cloud.apply(action, target, token=action.id)
    failing(aws, "")
    aws.do(Kind.SCALE, 5, target)
    aws.do(Kind.SCALE, 4, target)
    assert aws.cloud.apply(action, target, token=action.id).already
    assert aws.cloud.observe(target).replicas == 4


def test_a_change_after_the_claim_is_a_conflict(aws: World) -> None:
    target = aws.group()
    action = aws.action(Kind.SCALE, 6, target)
    failing(aws, "lost")
    with pytest.raises(CloudUnavailable):
        aws.cloud.apply(action, target, token=action.id)
    failing(aws, "")
    aws.api("autoscaling").set_desired_capacity(AutoScalingGroupName=target.target["asg"], DesiredCapacity=5)
    with pytest.raises(Conflict, match="expected 4, found 5"):
        aws.cloud.apply(action, target, token=action.id)
    assert aws.front.effects() == []


def test_a_change_between_claim_and_effect_is_a_conflict(aws: World) -> None:
    target = aws.group()
    action, groups = aws.action(Kind.SCALE, 6, target), aws.api("autoscaling")

    def intrude(operation: str, _: str) -> str:
        if operation == "CreateOrUpdateTags":
            groups.set_desired_capacity(AutoScalingGroupName=target.target["asg"], DesiredCapacity=5)
        return ""

    aws.front.fault = intrude
    with pytest.raises(Conflict, match="expected 4, found 5"):
        aws.cloud.apply(action, target, token=action.id)
    assert aws.front.effects() == []


@pytest.mark.parametrize(("stranger", "error"), [(True, Conflict), (False, CloudUnavailable)])
def test_a_claim_that_cannot_be_read_back_has_no_effect(stranger: bool, error: type[ForecastleError], aws: World) -> None:
    """Another process wrote its own over ours, or AWS does not show ours yet."""
    target = aws.group()
    aws.do(Kind.SCALE, 5, target)
    action, groups, looks = aws.action(Kind.SCALE, 6, target), aws.api("autoscaling"), []
    before = groups.describe_tags(Filters=[{"Name": "key", "Values": [TAG]}])["Tags"]
    value = next(t["Value"] for t in before if t["ResourceId"] == target.target["asg"])
    tag = {"ResourceId": target.target["asg"], "ResourceType": "auto-scaling-group", "Key": TAG, "PropagateAtLaunch": False}

    def overwrite(operation: str, _: str) -> str:
        if operation == "DescribeAutoScalingGroups" and looks.append(operation) is None and len(looks) == 2:
            theirs = str(Claims.of(f"{'9' * 16}.sca.5.7- {value}")) if stranger else value
            groups.create_or_update_tags(Tags=[{**tag, "Value": theirs}])
        return ""

    aws.front.fault = overwrite
    with pytest.raises(error) as caught:
        aws.cloud.apply(action, target, token=action.id)
    assert not getattr(caught.value, "ambiguous", False)
    assert len(aws.front.effects()) == 1, "the one before"


@pytest.mark.parametrize("pool", ONE_OF_EACH)
@pytest.mark.parametrize("fault", ["lost", "unanswered", "500 InternalFailure"])
def test_a_claim_without_an_answer_is_not_ambiguous(fault: str, pool: str, aws: World) -> None:
    target = getattr(aws, pool)()
    action = aws.action(Kind.SCALE, 6, target)
    failing(aws, fault, "CreateOrUpdateTags", "TagResource")
    with pytest.raises(CloudUnavailable) as caught:
        aws.cloud.apply(action, target, token=action.id)
    assert not caught.value.ambiguous
    failing(aws, "")
    assert not aws.cloud.apply(action, target, token=action.id).already
    assert len(aws.front.effects()) == 1


def test_an_effect_counts_although_its_claim_could_not_be_settled(aws: World) -> None:
    target = aws.group()
    action, done = aws.action(Kind.SCALE, 6, target), []

    def unsettled(operation: str, _: str) -> str:
        done.append(operation)
        return "lost" if operation == "CreateOrUpdateTags" and "SetDesiredCapacity" in done else ""

    aws.front.fault = unsettled
    assert not aws.cloud.apply(action, target, token=action.id).already
    aws.front.fault = lambda operation, body: ""
    assert aws.connect().apply(action, target, token=action.id).already
    assert len(aws.front.effects()) == 1


def test_a_read_is_tried_again_and_a_write_is_not(aws: World) -> None:
    target, asked = aws.group(), []

    def once(operation: str, _: str) -> str:
        asked.append(operation)
        return "400 Throttling" if asked.count(operation) == 1 else ""

    aws.front.fault = once
    assert aws.cloud.observe(target).replicas == 4
    assert asked.count("DescribeAutoScalingGroups") == 2
    asked.clear()
    with pytest.raises(CloudUnavailable):
        aws.do(Kind.SCALE, 6, target)
    assert asked.count("CreateOrUpdateTags") == 1


@injects("timeout")
def test_a_slow_effect_is_ambiguous_and_a_slow_read_is_not(aws: World) -> None:
    target = aws.group()
    hasty = aws.connect(read_timeout_s=0.5, read_attempts=1)
    action = aws.action(Kind.SCALE, 6, target)
    failing(aws, "slow")
    with pytest.raises(CloudUnavailable, match="timeout") as caught:
        hasty.apply(action, target, token=action.id)
    assert caught.value.ambiguous
    failing(aws, "slow", "DescribeAutoScalingGroups")
    with pytest.raises(CloudUnavailable) as caught:
        hasty.observe(target)
    assert not caught.value.ambiguous


def test_nobody_there_is_not_ambiguous() -> None:
    cloud = open_cloud(clock=EventClock(START), region=REGION, endpoint_url="http://127.0.0.1:9", read_attempts=1)
    with world(), pytest.raises(CloudUnavailable, match="connect") as caught:
        cloud.observe(Pool("p", "w", "s", "aws", 0.1, target={"asg": "g"}))
    assert not caught.value.ambiguous
    cloud.close()


def test_no_credentials_is_denied_with_the_fix(aws: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(Denied, match="AWS_PROFILE"):
        aws.connect().observe(kept(aws, "group"))


@injects("partial")
def test_a_partial_success_is_none(aws: World) -> None:
    pool = aws.service()
    replica = f"container-instance/{aws.host(pool).rpartition('/')[2]}"
    failing(aws, "partial")
    with pytest.raises(NotFound, match="MISSING"):
        aws.do(Kind.DRAIN, 0, pool, replica=replica)
    failing(aws, "")
    assert not aws.do(Kind.DRAIN, 0, pool, replica=replica).already


@pytest.mark.parametrize("header", ["soon", ""])
def test_a_senseless_retry_after_is_a_second(header: str) -> None:
    answer = {"Error": {"Code": "Throttling"}, "ResponseMetadata": {"HTTPHeaders": {"retry-after": header}}}
    error = translated(ClientError(answer, "DescribeServices"), "aws", effect=True)
    assert isinstance(error, CloudUnavailable)
    assert error.retry_after == 1.0


def test_gone_is_not_found_for_every_kind(aws: World) -> None:
    for target in ({"asg": "nobody"}, {"ecs": "nobody/web"}, {"nodegroup": "nobody/workers"}):
        with pytest.raises(NotFound):
            aws.cloud.observe(Pool(POOL.name, POOL.workload, POOL.site, "aws", 0.1, target=target))
    pool = aws.service()
    cluster, name = pool.target["ecs"].split("/")
    aws.api("ecs").delete_service(cluster=cluster, service=name, force=True)
    with pytest.raises(NotFound, match="correct the pool"):
        aws.cloud.observe(pool)
