"""What each kind of action asks AWS for, and what it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from aws_front import REGION
from aws_worlds import START, World, world

from forecastle.clouds.aws import open_cloud
from forecastle.clouds.aws_claims import KEPT, TAG, Claim, Claims, abridged, spelled
from forecastle.clouds.aws_spot import spot_prices
from forecastle.errors import ConfigError, Conflict, NotFound, QuotaExceeded, Unsupported
from forecastle.runtime.clocks import EventClock
from forecastle.types import Kind, Pool


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with world() as here:
        yield here


@pytest.fixture
def aws(shared: World) -> World:
    shared.front.delivered.clear()
    return shared


def operations(aws: World) -> list[str]:
    """The effects AWS received."""
    return [operation for operation, _ in aws.front.effects()]


def test_a_group_is_told_what_aws_would_accept_silently_or_not_at_all(aws: World) -> None:
    pool = aws.group(desired=4, least=2, most=6)
    with pytest.raises(QuotaExceeded, match="6 allowed at most"):
        aws.do(Kind.SCALE, 7, pool)
    with pytest.raises(QuotaExceeded, match="keeps 2 at least"):
        aws.do(Kind.SCALE, 1, pool)
    with pytest.raises(Unsupported, match="whole number"):
        aws.do(Kind.SCALE, "many", pool)
    assert operations(aws) == []
    assert aws.cloud.observe(pool).replicas == 4


def test_one_instance_is_replaced_without_one_less(aws: World) -> None:
    pool = aws.group(desired=3)
    before = aws.members(pool)
    victim = min(before)
    action = aws.action(Kind.REPLACE, "7", pool, replica=victim)
    assert not aws.cloud.apply(action, pool, token=action.id).already
    after = aws.members(pool)
    assert victim not in after
    assert len(after) == 3
    assert aws.cloud.apply(action, pool, token=action.id).already
    with pytest.raises(NotFound, match="no such replica"):
        aws.do(Kind.REPLACE, "8", pool, replica=victim)
    assert operations(aws) == ["TerminateInstanceInAutoScalingGroup"]
    assert "ShouldDecrementDesiredCapacity=false" in aws.front.effects()[0][1]


def test_one_instance_is_restarted_by_ssm_under_its_token(aws: World) -> None:
    pool = aws.group(desired=2)
    one = min(aws.members(pool))
    action = aws.action(Kind.RESTART, "7", pool, replica=one)
    seen = aws.cloud.observe(pool)
    assert not aws.cloud.apply(action, pool, token=action.id).already
    assert aws.cloud.observe(pool).version != seen.version
    commands = aws.api("ssm").list_commands(InstanceId=one)["Commands"]
    assert [(c["Comment"], c["Parameters"]) for c in commands] == [
        (f"forecastle {action.id[:16]}", {"commands": ["systemctl reboot"]})
    ]
    again = aws.action(Kind.RESTART, "7", pool, replica=one)
    assert aws.cloud.apply(again, pool, token=again.id).already


def test_quarantine_takes_an_instance_aside_and_another_comes(aws: World) -> None:
    pool = aws.group(desired=3)
    sick = min(aws.members(pool))
    assert not aws.do(Kind.QUARANTINE, "disk full", pool, replica=sick).already
    seen, members = aws.cloud.observe(pool), aws.members(pool)
    assert members[sick] == "Standby"
    assert (seen.replicas, seen.ready, len(members)) == (3, 3, 4)
    assert aws.do(Kind.QUARANTINE, "disk full", pool, replica=sick).already
    with pytest.raises(Unsupported, match="name the instance"):
        aws.do(Kind.QUARANTINE, "disk full", pool)


def test_drain_takes_an_instance_out_of_service_and_back(aws: World) -> None:
    pool = aws.group(desired=3)
    one = min(aws.members(pool))
    assert not aws.do(Kind.DRAIN, 0, pool, replica=one).already
    assert (aws.members(pool)[one], aws.cloud.observe(pool).replicas) == ("Standby", 2)
    assert aws.do(Kind.DRAIN, 0, pool, replica=one).already
    assert not aws.do(Kind.DRAIN, 100, pool, replica=one).already
    assert (aws.members(pool)[one], aws.cloud.observe(pool).replicas) == ("InService", 3)
    with pytest.raises(Unsupported, match="0 or 100"):
        aws.do(Kind.DRAIN, 50, pool, replica=one)


def test_a_group_rolls_back_to_a_version_of_its_launch_template(aws: World) -> None:
    pool = aws.group()
    assert aws.cloud.observe(pool).release == "1"
    assert not aws.do(Kind.ROLLBACK, "2", pool).already
    assert aws.cloud.observe(pool).release == "2", "what it is rolling to"
    assert aws.do(Kind.ROLLBACK, "2", pool).already
    with pytest.raises(Conflict, match="InstanceRefreshInProgress"):
        aws.do(Kind.RESTART, "7", pool)
    aws.settle()
    assert aws.cloud.observe(pool).release == "2"
    assert not aws.do(Kind.ROLLBACK, "1", pool).already


def test_an_abandoned_rollback_is_not_the_release(aws: World) -> None:
    pool = aws.group()
    aws.do(Kind.ROLLBACK, "2", pool)
    aws.front.refreshes[pool.target["asg"]][0]["Status"] = "Failed"
    assert aws.cloud.observe(pool).release == "1"


def test_a_group_of_mixed_instances_keeps_its_mix(aws: World) -> None:
    """Told to roll to a template alone, AWS would take it for the whole configuration."""
    plain = aws.group()
    name, groups = f"{plain.target['asg']}-mixed", aws.api("autoscaling")
    template = {"LaunchTemplateSpecification": {"LaunchTemplateName": plain.target["asg"], "Version": "1"}}
    mixed = {"LaunchTemplate": {**template, "Overrides": [{"InstanceType": "t3.large"}]}}
    size = {"MinSize": 1, "MaxSize": 4, "DesiredCapacity": 2, "AvailabilityZones": [f"{REGION}a"]}
    groups.create_auto_scaling_group(AutoScalingGroupName=name, MixedInstancesPolicy=mixed, **size)
    pool = replace(plain, target={"asg": name})
    assert aws.cloud.observe(pool).release == "1"
    with pytest.raises(Unsupported, match="launch template of its own"):
        aws.do(Kind.ROLLBACK, "2", pool)
    assert operations(aws) == []


def test_a_sick_instance_is_told(aws: World) -> None:
    pool = aws.group(desired=3)
    one = min(aws.members(pool))
    aws.api("autoscaling").set_instance_health(InstanceId=one, HealthStatus="Unhealthy")
    seen = aws.cloud.observe(pool)
    assert (seen.unhealthy, seen.replicas, seen.ready) == ((one,), 3, 2)


def test_a_service_is_deployed_anew_and_goes_back(aws: World) -> None:
    pool = aws.service()
    family = pool.target["ecs"].split("/")[0]
    assert aws.cloud.observe(pool).release == f"{family}:1"
    assert not aws.do(Kind.ROLLBACK, f"{family}:2", pool).already
    assert aws.cloud.observe(pool).release == f"{family}:2"
    assert aws.do(Kind.ROLLBACK, f"{family}:2", pool).already
    assert not aws.do(Kind.RESTART, "7", pool).already
    bodies = [body for _, body in aws.front.effects()]
    assert ["taskDefinition" in body for body in bodies] == [True, False]
    assert '"forceNewDeployment": true' in bodies[1]


def test_a_task_of_the_service_is_replaced_and_no_other(aws: World) -> None:
    pool = aws.service()
    aws.host(pool)
    ours, theirs = aws.task(pool), aws.task(pool, "service:another")
    with pytest.raises(NotFound):
        aws.do(Kind.REPLACE, "7", pool, replica=theirs)
    with pytest.raises(NotFound):
        aws.do(Kind.REPLACE, "7", pool, replica="0" * 32)
    assert not aws.do(Kind.REPLACE, "7", pool, replica=ours).already
    assert operations(aws) == ["StopTask"]
    assert "forecastle " in aws.front.effects()[0][1]


def test_a_container_instance_drains_and_comes_back(aws: World) -> None:
    pool = aws.service()
    host = aws.host(pool)
    replica = f"container-instance/{host.rpartition('/')[2]}"
    assert not aws.do(Kind.DRAIN, 0, pool, replica=replica).already
    assert aws.do(Kind.DRAIN, 0, pool, replica=replica).already
    assert not aws.do(Kind.DRAIN, 100, pool, replica=replica).already
    for kind, name in ((Kind.DRAIN, ""), (Kind.RESTART, replica), (Kind.QUARANTINE, ""), (Kind.ROLLBACK, "a-task")):
        with pytest.raises(Unsupported):
            aws.do(kind, "0", pool, replica=name)
    assert operations(aws) == ["UpdateContainerInstancesState"] * 2


def test_a_daemon_service_has_no_count_to_ask_for(aws: World) -> None:
    with pytest.raises(Unsupported, match="every container instance"):
        aws.do(Kind.SCALE, 3, aws.service(strategy="DAEMON"))


def test_a_node_group_is_scaled_under_a_token_that_eks_knows(aws: World) -> None:
    pool = aws.nodegroup(desired=3, most=5)
    action = aws.action(Kind.SCALE, 5, pool)
    aws.cloud.apply(action, pool, token=action.id)
    assert action.id in aws.front.effects()[0][1]
    with pytest.raises(QuotaExceeded, match="5 allowed"):
        aws.do(Kind.SCALE, 6, pool)


def test_a_node_is_restarted_or_replaced_alone(aws: World) -> None:
    pool = aws.nodegroup(desired=3)
    one, two, _ = sorted(aws.members(pool))
    assert not aws.do(Kind.RESTART, "7", pool, replica=one).already
    assert not aws.do(Kind.REPLACE, "7", pool, replica=two).already
    assert two not in aws.members(pool)
    assert operations(aws) == ["SendCommand", "TerminateInstanceInAutoScalingGroup"]
    for kind in (Kind.RESTART, Kind.REPLACE, Kind.DRAIN, Kind.ROLLBACK, Kind.QUARANTINE):
        with pytest.raises(Unsupported, match="kubernetes adapter"):
            aws.do(kind, "0", pool)


def test_preview_tells_the_release_that_runs(aws: World) -> None:
    pool = aws.group()
    seen = aws.cloud.observe(pool)
    change = aws.cloud.preview(aws.action(Kind.ROLLBACK, "2", pool), seen)
    assert (change.before, change.after, change.noop) == ("1", "2", False)
    assert aws.cloud.preview(aws.action(Kind.ROLLBACK, "1", pool), seen).noop


@pytest.mark.parametrize(
    "target", [{}, {"asg": ""}, {"ecs": "web"}, {"nodegroup": "a/b/c"}, {"vm": "x"}, {"asg": "a", "ecs": "b/c"}], ids=str
)
def test_a_target_that_is_none_is_told_how_to_write_one(target: dict[str, str], aws: World) -> None:
    with pytest.raises(ConfigError, match="ecs: CLUSTER/SERVICE"):
        aws.cloud.observe(Pool("p", "w", "s", "aws", 0.1, target=target))


@pytest.mark.parametrize("option", [{"connect_timeout_s": 0}, {"read_attempts": 0}, {"healthy_percent": 101}])
def test_a_senseless_option_is_refused(option: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="healthy_percent 0 to 100"):
        open_cloud(clock=EventClock(START), region=REGION, **option)


def test_an_unknown_profile_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match="nobody"):
        open_cloud(clock=EventClock(START), region=REGION, profile="nobody")


def test_spot_prices_are_read_per_zone_and_type(aws: World) -> None:
    found = spot_prices(REGION, ["t3.micro"], since=START, until=START + 3_600_000, endpoint_url=aws.front.url)
    assert {(p.zone[:-1], p.instance_type) for p in found} == {(REGION, "t3.micro")}
    assert all(p.price > 0 and p.at > 0 for p in found)
    assert [p.at for p in found] == sorted(p.at for p in found)


# --- claims ---------------------------------------------------------------------------------------------------------


def test_claims_survive_their_tag_and_strangers_in_it() -> None:
    every = Claims((Claim("0" * 16, "scale", "3", "4"), Claim("f" * 16, "restart", "0a1b2c3d", "9f8e7d6c", done=True)))
    assert Claims.of(str(every)) == every
    assert Claims.of(f"hello {every} . x.y.z") == every
    assert Claims.of("").newest == ""


def test_a_full_tag_has_room_for_every_claim_kept() -> None:
    longest = Claim("f" * 16, abridged(Kind.QUARANTINE), "0" * 8, "0" * 8)
    claims = Claims()
    for i in range(2 * KEPT):
        claims = claims.plus(replace(longest, token=spelled(str(i))))
    assert len(claims.every) == KEPT
    assert len(str(claims)) <= 256
    assert claims.newest == spelled(str(2 * KEPT - 1))


def test_no_two_kinds_are_abridged_alike() -> None:
    assert len({abridged(kind) for kind in Kind}) == len(Kind)


def test_only_the_claimed_token_is_settled() -> None:
    claims = Claims().plus(Claim(spelled("a"), "scale", "1", "2")).plus(Claim(spelled("b"), "scale", "2", "1"))
    assert [c.done for c in claims.settled("a").every] == [False, True]
    assert (claims.last, claims.settled("a").last) == ("", spelled("a"))


def test_the_tag_is_not_given_to_instances(aws: World) -> None:
    pool = aws.group()
    aws.do(Kind.SCALE, 5, pool)
    tags = aws.api("autoscaling").describe_tags(Filters=[{"Name": "auto-scaling-group", "Values": [pool.target["asg"]]}])[
        "Tags"
    ]
    assert [(tag["Key"], tag["PropagateAtLaunch"]) for tag in tags] == [(TAG, False)]
