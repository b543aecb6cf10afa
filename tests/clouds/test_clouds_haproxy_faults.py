"""What goes wrong between the adapter and HAProxy: a typed error each time, and never a second effect."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from error_classes import injects
from haproxy_faults import AFTER, BEFORE, HALF, HANG, PASS, LossySocket
from haproxy_worlds import FRA, Balancer, balancer

from forecastle.errors import CloudUnavailable, ConfigError, Conflict, Denied, Unsupported
from forecastle.types import Action, Kind

RUNS = 1000


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    with balancer(tmp_path_factory.mktemp("haproxy")) as made:
        yield made


@pytest.fixture
def here(running: Balancer) -> Balancer:
    for pool in ("fra1", "fra2", "ams1", "ams2"):
        running.say(f"set server web/{pool} state ready; set server web/{pool} weight 100")
    return running


@pytest.fixture
def lossy(here: Balancer, tmp_path: Path) -> Iterator[LossySocket]:
    made = LossySocket(tmp_path / "lossy.sock", here.admin)
    yield made
    made.close()


def claims(line: str) -> bool:
    return "set var" in line and "set server" not in line


def effects(line: str) -> bool:
    return "set server" in line


@pytest.mark.parametrize("what", [BEFORE, AFTER, HANG])
@injects("timeout")
def test_a_lost_effect_is_ambiguous_and_the_token_settles_it(here: Balancer, lossy: LossySocket, what: str) -> None:
    cloud, action = here.connect(socket=lossy.path, timeout_s=0.2), here.action(Kind.SHIFT, 40)
    lossy.plan = lambda line: what if effects(line) else PASS
    with pytest.raises(CloudUnavailable) as caught:
        cloud.apply(action, FRA, token=action.id)
    assert caught.value.ambiguous
    lossy.plan = lambda _: PASS
    assert here.weight("fra2") == f"{100 if what == BEFORE else 40} (initial 100)"
    assert here.connect(socket=lossy.path).apply(action, FRA, token=action.id).already == (what != BEFORE)
    assert here.weight("fra2") == "40 (initial 100)"
    assert len(lossy.effects()) == 1


@pytest.mark.parametrize("what", [BEFORE, AFTER, HANG])
def test_a_lost_claim_is_not_ambiguous(here: Balancer, lossy: LossySocket, what: str) -> None:
    cloud, action = here.connect(socket=lossy.path, timeout_s=0.2), here.action(Kind.DRAIN, 0)
    lossy.plan = lambda line: what if claims(line) else PASS
    with pytest.raises(CloudUnavailable) as caught:
        cloud.apply(action, FRA, token=action.id)
    assert not caught.value.ambiguous
    lossy.plan = lambda _: PASS
    assert not here.connect().apply(action, FRA, token=action.id).already
    assert here.seen().ready == 0


@pytest.mark.parametrize("what", [BEFORE, AFTER, HALF, HANG])
def test_a_lost_or_cut_answer_to_a_question_is_not_ambiguous(here: Balancer, lossy: LossySocket, what: str) -> None:
    lossy.plan = lambda _: what
    with pytest.raises(CloudUnavailable) as caught:
        here.connect(socket=lossy.path, timeout_s=0.2).observe(FRA)
    assert not caught.value.ambiguous


def test_an_effect_that_happened_and_was_undone_by_hand_is_not_repeated(here: Balancer, lossy: LossySocket) -> None:
    action = here.action(Kind.SHIFT, 40)
    lossy.plan = lambda line: AFTER if effects(line) else PASS
    with pytest.raises(CloudUnavailable):
        here.connect(socket=lossy.path).apply(action, FRA, token=action.id)
    here.say("set server web/fra1 weight 100; set server web/fra2 weight 100")
    assert here.connect().apply(action, FRA, token=action.id).already
    assert here.weight("fra1") == "100 (initial 100)"


@injects("conflict")
def test_a_change_by_hand_between_claim_and_effect_is_a_conflict(here: Balancer, lossy: LossySocket) -> None:
    action = here.action(Kind.SHIFT, 40)

    def meanwhile(line: str) -> str:
        if claims(line):
            here.say("set server web/fra1 weight 70")
        return PASS

    lossy.plan = meanwhile
    with pytest.raises(Conflict, match="observe and plan again"):
        here.connect(socket=lossy.path).apply(action, FRA, token=action.id)
    assert not lossy.effects()


def test_of_two_at_the_same_moment_the_earlier_claim_gives_way(here: Balancer, lossy: LossySocket) -> None:
    earlier, later = here.action(Kind.SHIFT, 40), here.action(Kind.SHIFT, 10)
    begun: list[str] = []

    def meanwhile(line: str) -> str:
        if begun and "show servers" in line and len(begun) == 1:
            begun.append(line)
            here.connect().apply(later, FRA, token=later.id)
        if claims(line):
            begun.append(line)
        return PASS

    lossy.plan = meanwhile
    with pytest.raises(Conflict, match="in the same moment"):
        here.connect(socket=lossy.path).apply(earlier, FRA, token=earlier.id)
    assert here.weight("fra1") == "10 (initial 100)"


def test_over_a_thousand_seeded_runs_no_action_has_a_second_effect(here: Balancer, lossy: LossySocket) -> None:
    """Every line is lost before or after with one in five; the executor tries again under the same token."""
    for seed in range(RUNS):
        dice = random.Random(seed)
        lossy.plan = lambda _: PASS
        lossy.passed.clear()
        action = here.action(Kind.SHIFT, (seed * 7) % 90 + 5)
        lossy.plan = lambda _, dice=dice: dice.choice((PASS,) * 8 + (BEFORE, AFTER))
        settled = tried(here, lossy, action)
        assert len(lossy.effects()) <= 1, seed
        if settled:
            assert here.weight("fra1") == here.weight("fra2") == f"{action.desired} (initial 100)", seed


def tried(here: Balancer, lossy: LossySocket, action: Action) -> bool:
    for _ in range(6):
        try:
            here.connect(socket=lossy.path).apply(action, FRA, token=action.id)
        except CloudUnavailable:
            continue
        return True
    return False


def test_nobody_there_is_unavailable_and_nothing_happened(here: Balancer, tmp_path: Path) -> None:
    action = here.action(Kind.SHIFT, 40)
    for address in (str(tmp_path / "none.sock"), "127.0.0.1:1"):
        with pytest.raises(CloudUnavailable, match="is it running") as caught:
            here.connect(socket=address).apply(action, FRA, token=action.id)
        assert not caught.value.ambiguous


@injects("permission")
def test_a_socket_that_only_reads_is_denied_before_any_effect(tmp_path: Path) -> None:
    with balancer(tmp_path, level="operator") as other:
        action = other.action(Kind.SHIFT, 40)
        with pytest.raises(Denied, match="level admin"):
            other.connect().apply(action, FRA, token=action.id)
        assert other.weight("fra1") == "100 (initial 100)"


def test_haproxy_stopped_is_unavailable_and_a_restart_forgets_what_it_forgot_of_the_weights(tmp_path: Path) -> None:
    """Its memory of our actions lives as long as its memory of the weights."""
    with balancer(tmp_path) as other:
        action = other.action(Kind.SHIFT, 40)
        other.connect().apply(action, FRA, token=action.id)
        other.process.kill()
        other.process.wait()
        with pytest.raises(CloudUnavailable):
            other.connect().observe(FRA)
        other.start()
        assert other.weight("fra1") == "100 (initial 100)"
        assert not other.connect().apply(action, FRA, token=action.id).already
        assert other.weight("fra1") == "40 (initial 100)"


def test_what_is_refused_by_haproxy_says_which_version_is_needed(here: Balancer) -> None:
    from forecastle.clouds.haproxy_socket import RuntimeSocket

    with pytest.raises(Unsupported, match=r"2\.4"):
        RuntimeSocket(here.admin, 3).write("no such command")


def test_more_servers_than_one_line_of_commands_holds_are_unsupported_before_any_request(tmp_path: Path) -> None:
    from forecastle.clouds.haproxy_socket import RuntimeSocket

    with pytest.raises(Unsupported, match="fewer servers"):
        RuntimeSocket(str(tmp_path / "none.sock"), 3).write(*["set server web/fra1 weight 1"] * 1000)


@pytest.mark.parametrize("address", ["", "admin.sock", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999"])
def test_a_wrong_address_says_what_to_write(here: Balancer, address: str) -> None:
    with pytest.raises(ConfigError, match="write a path like"):
        here.connect(socket=address)


def test_the_test_socket_closes(tmp_path: Path) -> None:
    lossy = LossySocket(tmp_path / "x.sock", "nowhere")
    lossy.close()
    with socket.socket(socket.AF_UNIX) as late, pytest.raises(OSError, match="refused"):
        late.connect(lossy.path)
