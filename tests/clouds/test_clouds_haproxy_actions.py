"""What each kind of action does to real servers of HAProxy, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from error_classes import injects
from haproxy_worlds import AMS, FRA, Balancer, balancer

from forecastle.clouds.haproxy_servers import REMEMBERED, Target
from forecastle.errors import ConfigError, Conflict, Denied, NotFound, Unsupported
from forecastle.types import Kind, Pool

ONE = Pool("one", "shop", "fra", "haproxy", 0.1, target={"backend": "one"})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    with balancer(tmp_path_factory.mktemp("haproxy")) as made:
        yield made


@pytest.fixture
def here(running: Balancer) -> Balancer:
    for server in ("fra1", "fra2", "ams1", "ams2"):
        running.say(f"set server web/{server} state ready; set server web/{server} weight 100")
    return running


def states(here: Balancer) -> dict[str, tuple[str, str]]:
    """By server: its administrative state, its weight."""
    rows = [line.split() for line in here.say("show servers state web").splitlines()]
    return {row[3]: (row[6], row[7]) for row in rows if len(row) > 9 and row[1] == "web"}


def test_a_shift_sets_the_weight_of_every_server_of_the_pool_and_of_no_other(here: Balancer) -> None:
    here.do(Kind.SHIFT, 30)
    assert states(here) == {"fra1": ("0", "30"), "fra2": ("0", "30"), "ams1": ("0", "100"), "ams2": ("0", "100")}
    assert here.seen().version.startswith("30%-ready-")
    assert here.seen(AMS).version.startswith("100%-ready-")


def test_one_server_can_be_shifted(here: Balancer) -> None:
    here.do(Kind.SHIFT, "0", replica="fra2")
    assert here.weight("fra1") == "100 (initial 100)"
    assert here.weight("fra2") == "0 (initial 100)"
    assert here.seen().version.startswith("50%-ready-")


def test_a_drain_takes_no_new_traffic_and_is_taken_back(here: Balancer) -> None:
    assert here.seen().ready == 2
    here.do(Kind.DRAIN, 0, replica="fra1")
    assert states(here)["fra1"] == ("8", "100")
    assert (here.seen().replicas, here.seen().ready, here.seen().unhealthy) == (2, 1, ())
    assert here.seen().version.startswith("100%-mixed-")
    here.do(Kind.DRAIN, 100)
    assert states(here)["fra1"] == ("0", "100")


def test_a_cordon_is_maintenance_and_a_drain_of_100_ends_it(here: Balancer) -> None:
    here.do(Kind.CORDON, "disk errors", replica="fra2")
    assert states(here)["fra2"][0] == "1"
    assert (here.seen().ready, here.seen().unhealthy) == (1, ())
    here.do(Kind.DRAIN, 100, replica="fra2")
    assert here.seen().ready == 2


def test_a_drain_keeps_the_weight_it_found(here: Balancer) -> None:
    here.do(Kind.SHIFT, 20)
    here.do(Kind.DRAIN, 0)
    here.do(Kind.DRAIN, 100)
    assert states(here)["fra1"] == ("0", "20")


def test_what_is_so_already_is_not_done_again(here: Balancer) -> None:
    here.do(Kind.DRAIN, 0)
    assert here.do(Kind.DRAIN, "0").already
    here.do(Kind.CORDON, "why")
    assert here.do(Kind.CORDON, "another reason").already
    here.do(Kind.DRAIN, 100)
    assert here.do(Kind.SHIFT, 100).already


def test_servers_with_other_weights_keep_their_proportion_to_one_another(here: Balancer) -> None:
    here.say("set server web/fra2 weight 50")
    assert here.seen().version.startswith("75%-ready-")
    here.do(Kind.SHIFT, 10)
    assert states(here)["fra1"][1] == states(here)["fra2"][1] == "10"


def test_a_ramp_moves_so_many_points_each_time_it_is_asked(here: Balancer) -> None:
    assert here.do(Kind.SHIFT, 5, ramp=40).detail == "shift to 60%"
    here.do(Kind.SHIFT, 5, ramp=40)
    assert here.do(Kind.SHIFT, 5, ramp=40).detail == "shift to 5%"
    assert here.do(Kind.SHIFT, 5, ramp=40).already
    here.do(Kind.SHIFT, 100, ramp=40)
    assert here.weight("fra1") == "45 (initial 100)"


def test_a_step_of_a_ramp_is_not_taken_twice_under_one_token(here: Balancer) -> None:
    action = here.action(Kind.SHIFT, 5)
    for already in (False, True, True):
        assert here.connect(ramp=40).apply(action, FRA, token=action.id).already == already
    assert here.weight("fra1") == "60 (initial 100)"


@pytest.mark.parametrize(("kind", "desired"), [(Kind.SHIFT, 0), (Kind.DRAIN, 0), (Kind.CORDON, "why")])
def test_the_last_that_serves_is_not_taken_away(here: Balancer, kind: Kind, desired: int | str) -> None:
    here.do(Kind.CORDON, "a site is lost", pool=AMS)
    before = states(here)
    with pytest.raises(Denied, match="no server of backend 'web' would be left"):
        here.do(kind, desired)
    assert states(here) == before
    assert not here.do(kind, desired, replica="fra1").already


def test_an_action_that_presumes_another_state_is_a_conflict(here: Balancer) -> None:
    action = here.action(Kind.SHIFT, 30)
    here.say("set server web/fra1 weight 99")
    with pytest.raises(Conflict, match="observe and plan again"):
        here.connect().apply(action, FRA, token=action.id)
    assert here.weight("fra2") == "100 (initial 100)"


def test_a_state_that_came_back_under_another_action_is_another_version(here: Balancer) -> None:
    before = here.seen().version
    here.do(Kind.SHIFT, 50)
    here.do(Kind.SHIFT, 100)
    assert here.seen().version != before


def test_the_newest_tokens_are_remembered(here: Balancer) -> None:
    first = here.action(Kind.SHIFT, 99)
    here.connect().apply(first, FRA, token=first.id)
    for percent in range(1, REMEMBERED):
        here.do(Kind.SHIFT, percent)
    assert here.connect().apply(first, FRA, token=first.id).already
    here.do(Kind.SHIFT, 50)
    with pytest.raises(Conflict):
        here.connect().apply(first, FRA, token=first.id)


def test_preview_tells_before_and_after(here: Balancer) -> None:
    cloud, seen = here.connect(), here.seen()
    told = [(Kind.SHIFT, 30), (Kind.SHIFT, 100), (Kind.DRAIN, 0), (Kind.DRAIN, 100), (Kind.CORDON, "why")]
    changes = [cloud.preview(here.action(kind, desired), seen) for kind, desired in told]
    words = [(change.before, change.after, change.noop) for change in changes]
    assert words == [
        ("100", "30", False),
        ("100", "100", True),
        ("ready", "drain", False),
        ("ready", "ready", True),
        ("ready", "maint", False),
    ]


def test_sessions_are_those_of_the_pool(here: Balancer) -> None:
    assert here.connect().sessions(FRA) == {"fra1": 0, "fra2": 0}


@pytest.mark.parametrize("desired", [-1, 101, "half", "", "50%"])
def test_a_weight_that_is_no_percent_is_unsupported(here: Balancer, desired: int | str) -> None:
    with pytest.raises(Unsupported, match="ask for whole percent"):
        here.do(Kind.SHIFT, desired)


def test_a_drain_in_between_is_unsupported_and_names_the_shift(here: Balancer) -> None:
    with pytest.raises(Unsupported, match="is a SHIFT"):
        here.do(Kind.DRAIN, 50)


def test_a_weight_that_haproxy_would_round_is_unsupported_and_says_what_to_write(here: Balancer) -> None:
    with pytest.raises(Unsupported, match="write `weight 100`"):
        here.do(Kind.SHIFT, 30, pool=ONE)
    assert not here.do(Kind.SHIFT, 60, pool=ONE).already
    assert here.say("get weight one/odd").strip() == "3 (initial 5)"


@injects("not found")
def test_what_is_not_there_is_not_found(here: Balancer) -> None:
    with pytest.raises(NotFound, match="no backend 'nope'"):
        here.seen(replace(FRA, target={"backend": "nope"}))
    with pytest.raises(NotFound, match="no server lon"):
        here.seen(replace(FRA, target={"backend": "web", "servers": "lon*"}))
    with pytest.raises(NotFound, match="no such server in this pool"):
        here.do(Kind.DRAIN, 0, replica="ams1")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({}, "target.backend is ''"),
        ({"backend": "web; shutdown sessions"}, "write a backend's name"),
        ({"backend": "web", "servers": ""}, "write names or patterns"),
        ({"backend": "web", "servers": "fra1; disable frontend shop"}, "write names or patterns"),
        ({"backend": "web", "server": "fra1"}, "has no 'server'"),
    ],
)
def test_a_wrong_target_says_what_to_write(target: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Target.of(replace(FRA, target=target))


@pytest.mark.parametrize(
    ("options", "words"), [({"ramp": 0}, "1 to 100"), ({"ramp": 101}, "1 to 100"), ({"timeout_s": 0}, "above 0")]
)
def test_a_wrong_option_says_what_to_write(here: Balancer, options: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        here.connect(**options)


def test_a_token_cannot_say_anything_to_haproxy(here: Balancer) -> None:
    action = here.action(Kind.SHIFT, 30)
    token = "x); set server web/ams1 weight 1; str("
    assert not here.connect().apply(action, FRA, token=token).already
    assert here.connect().apply(action, FRA, token=token).already
    assert here.weight("ams1") == "100 (initial 100)"
