"""What a site's agent does with orders: genuine, forged, replayed, late, cut off; and what control makes of its answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edge_worlds import HOUR, KEY, OTHER, POOL, START, Edge
from error_classes import injects
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forecastle.clouds.dry_run import DryRun
from forecastle.clouds.edge_messages import LARGEST, Answer, Order, Sight, Signer
from forecastle.clouds.edge_sequence import Sequence
from forecastle.errors import (
    CloudUnavailable,
    ConfigError,
    Conflict,
    Denied,
    ForecastleError,
    Malformed,
    NotFound,
    QuotaExceeded,
    Unsupported,
)
from forecastle.runtime.agent_book import MOST_REFUSED
from forecastle.types import Action, Kind, Pool, Receipt, Status


@pytest.fixture
def edge(tmp_path: Path) -> Edge:
    return Edge(tmp_path)


class Dying:
    """A cloud whose caller is killed: before its effect, or after it and before the answer."""

    def __init__(self, inner: Any, *, after: bool) -> None:
        self.inner, self.after = inner, after
        self.capabilities, self.name = inner.capabilities, inner.name

    def observe(self, pool: Pool) -> Any:
        return self.inner.observe(pool)

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        if self.after:
            self.inner.apply(action, pool, token=token)
        raise KeyboardInterrupt


class Vanished(Dying):
    """A cloud from which a pool was removed."""

    def observe(self, pool: Pool) -> Any:
        if pool.name == "gone-ams":
            raise NotFound(pool.name)
        return self.inner.observe(pool)


# --- the way there and back -----------------------------------------------------------------------------------------------


def test_an_order_is_carried_out_and_answered(edge: Edge) -> None:
    receipt = edge.do(5)
    assert (receipt.already, edge.replicas()) == (False, 5)
    (answer,) = edge.told(Answer)
    assert (answer.status, answer.before.replicas, answer.after.replicas) == (Status.APPLIED, 1, 5)


def test_what_is_observed_after_an_answer_is_what_it_tells(edge: Edge) -> None:
    edge.do(5)
    edge.alive = False
    assert edge.cloud.observe(POOL).replicas == 5


def test_a_later_sight_wins_over_an_answer(edge: Edge) -> None:
    edge.do(5)
    edge.local.apply(edge.action(2), POOL, token="by hand")
    edge.wait(10)
    assert edge.cloud.observe(POOL).replicas == 2


def test_what_the_site_refuses_is_raised_here(edge: Edge) -> None:
    edge.cloud.observe(POOL)
    action = edge.action(5, expected=7)
    with pytest.raises(Conflict, match="site 'ams': Conflict: shop-ams: expected 7, found 1"):
        edge.cloud.apply(action, POOL, token=action.id)
    assert edge.replicas() == 1


def test_a_used_token_changes_nothing_for_another_control_either(edge: Edge) -> None:
    action = edge.action(5)
    edge.cloud.observe(POOL)
    edge.cloud.apply(action, POOL, token="t")
    edge.do(2)
    for cloud in (edge.cloud, edge.control()):
        cloud.observe(POOL)
        assert cloud.apply(action, POOL, token="t").already
    assert edge.replicas() == 2


def test_a_control_that_lost_the_answer_hears_it_again(edge: Edge) -> None:
    action = edge.action(5)
    edge.cloud.observe(POOL)
    edge.cloud.apply(action, POOL, token="t")
    edge.reports.log.clear()
    fresh = edge.control()
    edge.wait(10)
    fresh.observe(POOL)
    assert fresh.apply(action, POOL, token="t").already
    assert len(edge.orders.log) == 2


def test_what_is_not_allowed_is_refused_before_it_is_sent(edge: Edge) -> None:
    edge.cloud.observe(POOL)
    with pytest.raises(Unsupported, match="may not restart"):
        edge.cloud.apply(edge.action("g1", kind=Kind.RESTART), POOL, token="t")
    with pytest.raises(QuotaExceeded):
        edge.cloud.apply(edge.action(13), POOL, token="t")
    late = edge.action(5, life_s=1)
    edge.wait(1)
    with pytest.raises(Conflict, match="deadline"):
        edge.cloud.apply(late, POOL, token="t")
    assert edge.orders.log == []


# --- what the agent does not believe --------------------------------------------------------------------------------------


def test_a_forged_order_is_refused_and_told(edge: Edge) -> None:
    edge.deliver(edge.order(key=OTHER))
    assert (edge.replicas(), edge.refused(), edge.told(Answer)) == (1, ["bad_signature"], [])


def test_a_key_that_nobody_knows(edge: Edge) -> None:
    edge.deliver(edge.order(key_id="k9"))
    assert edge.refused() == ["unknown_key"]


@pytest.mark.parametrize("field", ["body", "signature", "key", "kind"])
def test_a_bent_order_is_refused(edge: Edge, field: str) -> None:
    bent = json.loads(edge.order())
    bent[field] = bent[field].replace("3", "4") if field == "body" else bent[field][::-1]
    edge.deliver(json.dumps(bent).encode())
    assert edge.replicas() == 1
    assert edge.refused() == [{"kind": "wrong_kind", "key": "unknown_key"}.get(field, "bad_signature")]


@pytest.mark.parametrize("value", [b"", b"\xff\xfe", b"[]", b"{}", b"null", b'{"kind":"order"}', b"[" * 100_000], ids=repr)
def test_what_is_no_order_is_refused(edge: Edge, value: bytes) -> None:
    edge.deliver(value, edge.order())
    assert (edge.refused(), edge.replicas()) == (["not_json"], 3)


def test_a_signed_order_that_makes_no_sense(edge: Edge) -> None:
    edge.deliver(edge.order(True))
    assert (edge.refused(), edge.replicas()) == (["bad_body"], 1)


def test_a_huge_record_is_not_read(edge: Edge) -> None:
    edge.deliver(b" " * (LARGEST + 1))
    assert edge.refused() == ["too_large"]


def test_an_answer_sent_back_is_no_order(edge: Edge) -> None:
    edge.do(5)
    edge.deliver(edge.reports.log[-1][1])
    assert edge.refused() == ["wrong_kind"]


def test_an_order_for_another_site_under_our_name(edge: Edge) -> None:
    edge.deliver(edge.order(site="fra"))
    assert (edge.refused(), edge.replicas()) == (["other_site"], 1)


def test_a_replayed_order_is_refused(edge: Edge) -> None:
    order = edge.order(5)
    edge.deliver(order)
    edge.do(2)
    edge.deliver(order)
    assert (edge.refused(), edge.replicas()) == (["replayed"], 2)


def test_an_older_order_that_comes_after_a_newer_one_is_refused(edge: Edge) -> None:
    older = edge.order(5)
    edge.deliver(edge.order(2), older)
    assert (edge.refused(), edge.replicas()) == (["replayed"], 2)


def test_a_forged_number_does_not_keep_genuine_orders_out(edge: Edge) -> None:
    edge.deliver(edge.order(key=OTHER, sequence=2**62))
    edge.do(4)
    assert edge.replicas() == 4


def test_a_record_that_comes_twice_is_no_replay(edge: Edge) -> None:
    edge.deliver(edge.order(5))
    edge.agent.post.reader.at = 0  # type: ignore[attr-defined]
    edge.agent.turn(0.0)
    assert (edge.refused(), len(edge.told(Answer))) == ([], 1)


def test_a_topic_that_was_made_anew_is_read_from_its_beginning(edge: Edge) -> None:
    edge.deliver(edge.order(2), edge.order(key=OTHER), edge.order(key=OTHER))
    edge.orders.log.clear()
    edge.agent.post.reader.at = 0  # type: ignore[attr-defined]
    edge.deliver(edge.order(5))
    edge.deliver(edge.order(key=OTHER))
    assert (edge.replicas(), edge.agent.post.book.position(0)) == (5, 2)
    assert edge.refused() == ["bad_signature"] * 3


def test_an_expired_order_is_refused_and_answered(edge: Edge) -> None:
    order = edge.order(5)
    edge.wait(301)
    edge.deliver(order)
    (answer,) = edge.told(Answer)
    assert (answer.status, answer.reason, edge.replicas()) == (Status.REFUSED, "expired", 1)


def test_the_last_moment_is_too_late(edge: Edge) -> None:
    order = edge.order(5)
    edge.wait(300)
    edge.deliver(order)
    assert edge.replicas() == 1


def test_a_clock_that_was_set_back_revives_nothing(edge: Edge) -> None:
    late = edge.order(5, sequence=START * 2)
    edge.wait(HOUR / 1000)
    edge.deliver(edge.order(2, sequence=START))
    edge.start(clock=type(edge.clock)(START))  # an hour ago, by its own clock
    edge.deliver(late)
    assert (edge.told(Answer)[-1].reason, edge.replicas()) == ("expired", 2)


@pytest.mark.parametrize("desired", [0, 13, 21, -1, "4"], ids=repr)
def test_the_site_has_limits_of_its_own(edge: Edge, desired: Any) -> None:
    edge.deliver(edge.order(desired))
    assert (edge.told(Answer)[-1].reason, edge.replicas()) == ("out_of_bounds", 1)


def test_kinds_that_the_site_does_not_allow(edge: Edge) -> None:
    bent = edge.control(kinds=frozenset(Kind))
    bent.observe(POOL)
    action = edge.action("g1", kind=Kind.RESTART)
    with pytest.raises(Unsupported, match="unsupported: restart is not allowed here"):
        bent.apply(action, POOL, token="t")


def test_a_pool_that_the_site_does_not_have(edge: Edge) -> None:
    edge.cloud.observe(POOL)
    action = replace(edge.action(4), pool="elsewhere")
    with pytest.raises(NotFound, match="unknown_pool"):
        edge.cloud.apply(action, replace(POOL, name="elsewhere"), token="t")
    with pytest.raises(NotFound, match="add it to `fleet` there"):
        edge.cloud.observe(replace(POOL, name="elsewhere"))


def test_a_flood_of_forgeries_does_not_fill_the_memory(edge: Edge) -> None:
    edge.reports.down = True
    edge.deliver(*[edge.order(key=OTHER)] * (MOST_REFUSED + 20), edge.order(4))
    assert edge.replicas() == 4
    edge.reports.down = False
    edge.agent.turn(0.0)
    assert len(edge.refused()) == MOST_REFUSED
    assert len(edge.told(Answer)) == 1


def test_keys_are_changed_over(edge: Edge) -> None:
    edge.start(signer=Signer({"k1": KEY, "k2": OTHER}, "k1"))
    edge.deliver(edge.order(4))
    edge.deliver(edge.order(6, key=OTHER, key_id="k2"))
    assert (edge.refused(), edge.replicas()) == ([], 6)
    edge.start(signer=Signer({"k2": OTHER}, "k2"))
    edge.deliver(edge.order(8))
    assert edge.replicas() == 6


# --- crashes and trouble at the site --------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_in_the_effect_makes_it_happen_once(edge: Edge, after: bool) -> None:
    edge.start(clouds={"local": Dying(edge.local, after=after)})
    edge.orders.log.append(("ams", edge.order(5)))
    with pytest.raises(KeyboardInterrupt):
        edge.agent.turn(0.0)
    edge.start().turn(0.0)
    (answer,) = edge.told(Answer)
    assert (answer.status, answer.before.replicas) == (Status.ALREADY if after else Status.APPLIED, 1)
    assert edge.replicas() == 5


@pytest.mark.parametrize("after", [False, True])
def test_after_a_crash_an_expired_order_is_only_looked_at(edge: Edge, after: bool) -> None:
    edge.start(clouds={"local": Dying(edge.local, after=after)})
    edge.orders.log.append(("ams", edge.order(5)))
    with pytest.raises(KeyboardInterrupt):
        edge.agent.turn(0.0)
    edge.wait(301)
    edge.start().turn(0.0)
    (answer,) = edge.told(Answer)
    assert (answer.status, edge.replicas()) == ((Status.APPLIED, 5) if after else (Status.UNVERIFIED, 1))


@injects("throttle")
def test_a_cloud_that_throttles_is_asked_again_until_the_order_expires(tmp_path: Path) -> None:
    edge = Edge(tmp_path)
    edge.local = type(edge.local)(clock=edge.clock, path=str(tmp_path / "sim.db"), throttle=1.0, retry_after=30.0)
    edge.start()
    order = edge_order(edge)
    edge.deliver(order)
    assert edge.told(Answer) == []
    edge.wait(301)
    edge.agent.turn(0.0)
    (answer,) = edge.told(Answer)
    assert (answer.status, answer.reason) == (Status.UNVERIFIED, "expired")


def edge_order(edge: Edge) -> bytes:
    """An order made without asking the cloud."""
    now = edge.clock.now()
    action = Action(Kind.SCALE, "shop", POOL.name, 5, 1, now, now + 300_000)
    return Signer({"k1": KEY}, "k1").seal(Order("ams", now, action.id, now, action.deadline, action))


def test_a_lost_answer_of_the_cloud_is_asked_for_again(tmp_path: Path) -> None:
    edge = Edge(tmp_path, faults={"ambiguous": 1.0})
    edge.deliver(edge.order(5))
    edge.agent.turn(0.0)
    (answer,) = edge.told(Answer)
    assert (answer.status, answer.after.replicas, edge.replicas()) == (Status.ALREADY, 5, 5)


def test_a_newer_order_for_the_pool_ends_an_open_one(tmp_path: Path) -> None:
    edge = Edge(tmp_path)
    edge.start(clouds={"local": Dying(edge.local, after=False)})
    edge.orders.log.append(("ams", edge.order(5)))
    with pytest.raises(KeyboardInterrupt):
        edge.agent.turn(0.0)
    edge.start(clouds={"local": edge.local})
    edge.deliver(edge.order(2))
    first, second = edge.told(Answer)
    assert (first.status, first.reason, second.status, edge.replicas()) == (Status.UNVERIFIED, "superseded", Status.APPLIED, 2)


def test_a_bug_in_an_adapter_leaves_the_other_pools_alone(edge: Edge) -> None:
    class Broken(Dying):
        def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
            raise ZeroDivisionError

    other = replace(POOL, name="search-ams", adapter="broken")
    edge.start(
        pools={POOL.name: POOL, other.name: other}, clouds={"local": edge.local, "broken": Broken(edge.local, after=True)}
    )
    first = edge.action(5)
    broken = edge.order(5, action=replace(first, pool=other.name))
    edge.deliver(broken, edge.order(4))
    assert [answer.status for answer in edge.told(Answer)] == [Status.APPLIED]
    edge.wait(301)
    edge.agent.turn(0.0)
    assert edge.told(Answer)[-1].reason == "expired"


def test_a_dry_run_at_the_site_changes_nothing_and_says_so(edge: Edge) -> None:
    edge.start(clouds={"local": DryRun(edge.local)})
    receipt = edge.do(5)
    assert (receipt.dry_run, receipt.already, edge.replicas()) == (True, False, 1)
    assert edge.told(Answer)[-1].status is Status.DRY_RUN


def test_a_pool_that_is_gone_at_the_site_is_gone_here(edge: Edge) -> None:
    edge.cloud.observe(POOL)
    gone = replace(POOL, name="gone-ams")
    edge.start(pools={POOL.name: POOL, "gone-ams": gone}, clouds={"local": Vanished(edge.local, after=False)})
    edge.wait(10)
    with pytest.raises(NotFound):
        edge.cloud.observe(gone)
    assert edge.cloud.observe(POOL).replicas == 1


def test_a_pool_that_was_taken_out_of_the_configuration(edge: Edge) -> None:
    edge.start(clouds={"local": Dying(edge.local, after=False)})
    edge.orders.log.append(("ams", edge.order(5)))
    with pytest.raises(KeyboardInterrupt):
        edge.agent.turn(0.0)
    edge.start(pools={}).turn(0.0)
    (answer,) = edge.told(Answer)
    assert (answer.status, answer.error) == (Status.FAILED, "NotFound")


# --- the link is down -----------------------------------------------------------------------------------------------------


def test_a_day_without_the_link(edge: Edge) -> None:
    edge.do(5)
    late = edge.order(9)
    edge.orders.down = edge.reports.down = True
    edge.orders.log.append(("ams", late))
    for _ in range(24):
        edge.wait(HOUR / 1000)
        edge.agent.turn(0.0)
        with pytest.raises(CloudUnavailable, match="last reported"):
            edge.cloud.observe(POOL)
    assert edge.agent.link == "no connection"
    assert len(edge.agent.post.book.letters()) == 1  # one sight, however long it takes
    edge.orders.down = edge.reports.down = False
    edge.agent.turn(0.0)
    assert edge.told(Answer)[-1].reason == "expired"
    assert (edge.cloud.observe(POOL).replicas, edge.replicas()) == (5, 5)


def test_answers_wait_for_the_link_in_their_order(edge: Edge) -> None:
    edge.reports.down = True
    for desired in (2, 4, 6):
        edge.deliver(edge.order(desired))
    edge.start().turn(0.0)  # the queue outlives the process
    assert edge.reports.log == []
    edge.reports.down = False
    edge.agent.turn(0.0)
    assert [answer.after.replicas for answer in edge.told(Answer)] == [2, 4, 6]


@injects("timeout")
def test_without_an_answer_it_may_have_happened(edge: Edge) -> None:
    action = edge.action(5)
    edge.cloud.observe(POOL)
    edge.alive = False
    with pytest.raises(CloudUnavailable, match="has not answered order") as found:
        edge.cloud.apply(action, POOL, token="t")
    assert found.value.ambiguous
    edge.alive = True
    assert edge.cloud.apply(action, POOL, token="t").already
    assert (len(edge.orders.log), edge.replicas()) == (1, 5)


def test_an_order_that_could_not_be_sent_is_ambiguous(edge: Edge) -> None:
    edge.cloud.observe(POOL)
    edge.orders.down, edge.alive = True, False
    with pytest.raises(CloudUnavailable, match="no connection") as found:
        edge.cloud.apply(edge.action(5), POOL, token="t")
    assert found.value.ambiguous


def test_a_site_that_was_never_heard_of_gets_no_orders(edge: Edge) -> None:
    edge.alive = False
    for attempt in (lambda: edge.cloud.observe(POOL), lambda: edge.cloud.apply(edge.action(5), POOL, token="t")):
        with pytest.raises(CloudUnavailable, match="has not reported yet") as found:
            attempt()
        assert not found.value.ambiguous
    assert edge.orders.log == []


@pytest.mark.parametrize(("seconds", "fresh"), [(0, True), (120, True), (121, False), (86_400, False)])
def test_how_old_a_report_may_be(edge: Edge, seconds: float, fresh: bool) -> None:
    edge.cloud.observe(POOL)
    edge.alive = False
    edge.wait(seconds)
    assert edge.cloud.age_s() == seconds
    if fresh:
        assert edge.cloud.observe(POOL).at == START
    else:
        with pytest.raises(CloudUnavailable, match=f"last reported {seconds} s ago"):
            edge.cloud.observe(POOL)


def test_reports_from_the_future_are_not_believed(edge: Edge) -> None:
    sight = Sight("ams", 1, START + 61_000, {POOL.name: edge.local.observe(POOL)})
    edge.alive = False
    edge.reports.log.append(("ams", Signer({"k1": KEY}, "k1").seal(sight)))
    with pytest.raises(CloudUnavailable, match="61 s in the future: a clock is wrong"):
        edge.cloud.observe(POOL)


def test_forged_reports_are_counted_and_not_believed(edge: Edge) -> None:
    edge.cloud.observe(POOL)
    edge.alive = False
    seen = replace(edge.local.observe(POOL), replicas=9)
    for site, key in (("ams", OTHER), ("fra", KEY)):
        edge.reports.log.append(("ams", Signer({"k1": key}, "k1").seal(Sight(site, 99, START, {POOL.name: seen}))))
    assert edge.cloud.observe(POOL).replicas == 1
    assert dict(edge.cloud.rejected) == {"bad_signature": 1, "other_site": 1}


def test_what_the_site_refused_is_known_and_logged_here(edge: Edge, caplog: pytest.LogCaptureFixture) -> None:
    edge.deliver(edge.order(key=OTHER))
    edge.cloud.observe(POOL)
    assert [(refused.reason, refused.where) for refused in edge.cloud.refusals] == [("bad_signature", "0/0")]
    assert "site 'ams' refused a record at 0/0: bad_signature" in caplog.text


def test_a_flood_of_forged_reports_is_logged_once(edge: Edge, caplog: pytest.LogCaptureFixture) -> None:
    edge.reports.log += [("ams", b"junk")] * 50
    edge.cloud.observe(POOL)
    assert (edge.cloud.rejected["not_json"], caplog.text.count("not believed")) == (50, 1)


def test_an_old_report_does_not_replace_a_newer_one(edge: Edge) -> None:
    edge.do(5)
    edge.wait(10)
    edge.cloud.observe(POOL)
    edge.alive = False
    edge.reports.log.append(edge.reports.log[0])
    assert edge.cloud.observe(POOL).replicas == 5


def test_a_pool_that_cannot_be_observed_there_is_unknown_here(edge: Edge) -> None:
    edge.local = type(edge.local)(clock=edge.clock, path=str(edge.folder / "sim.db"), throttle=1.0)
    edge.start()
    with pytest.raises(CloudUnavailable, match="cannot observe 'shop-ams': CloudUnavailable: too many requests"):
        edge.cloud.observe(POOL)


# --- keys, numbers and properties -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keys", "key_id", "words"), [({}, "k1", "no key 'k1'"), ({"k1": b"short"}, "k1", "openssl rand")])
def test_a_key_that_will_not_do(keys: dict[str, bytes], key_id: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as found:
        Signer(keys, key_id)
    assert "short" not in str(found.value).replace("less", "")


def test_numbers_only_grow(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "sequence")
    assert [Sequence(path).next(now) for now in (100, 50, 50, 103, 103)] == [100, 101, 102, 103, 104]
    (tmp_path / "deep" / "sequence").unlink()
    assert Sequence(path).next(200) == 200


def test_a_file_of_somebody_else_is_not_a_number(tmp_path: Path) -> None:
    (tmp_path / "sequence").write_text("hello")
    with pytest.raises(ConfigError, match="a file of its own"):
        Sequence(str(tmp_path / "sequence")).next(1)
    assert (tmp_path / "sequence").read_text() == "hello"


SIGNER = Signer({"k1": KEY}, "k1")
SEALED = SIGNER.seal(Order("ams", 1, "t", 1, 2, Action(Kind.SCALE, "shop", POOL.name, 5, 1, 1, 2)))


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(where: int, by: int) -> None:
    bent = bytearray(SEALED)
    bent[where] ^= by
    with pytest.raises(Malformed) as found:
        SIGNER.open(bytes(bent), Order)
    assert found.value.reason in {"not_json", "wrong_kind", "unknown_key", "bad_signature"}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["order", "replay", "forged", "crash", "late", "down", "up"]), max_size=12))
def test_whatever_happens_each_order_has_one_effect_at_most(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    edge, wanted = Edge(tmp_path_factory.mktemp("edge")), 1
    sent: list[bytes] = []
    for step in steps:
        if step in {"order", "forged", "late"}:
            desired = wanted % 12 + 1
            order = edge.order(desired, key=OTHER if step == "forged" else KEY)
            edge.wait(301 if step == "late" else 0)
            wanted = desired if step == "order" else wanted
            sent.append(order)
            edge.deliver(order)
        elif step == "replay" and sent:
            edge.deliver(sent[0])
        elif step == "crash":
            edge.start()
        elif step in {"down", "up"}:
            edge.reports.down = step == "down"
        assert edge.replicas() == wanted
    edge.reports.down = False
    edge.agent.turn(0.0)
    answers = [answer.token for answer in edge.told(Answer)]
    assert len(answers) == len(set(answers)) == steps.count("order") + steps.count("late")


class Refusing(Dying):
    """A cloud that raises ``error`` once, before its effect or after."""

    error: ForecastleError | None = None

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        receipt = self.inner.apply(action, pool, token=token) if self.after or self.error is None else None
        error, self.error = self.error, None
        if error is not None:
            raise error
        assert receipt is not None
        return receipt


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (Conflict("expected 1, found 2"), Conflict),
        (NotFound("no such group"), NotFound),
        (Denied("no rights"), Denied),
        (QuotaExceeded("8 of 8 cores"), QuotaExceeded),
    ],
)
def test_what_the_site_s_cloud_refuses_is_raised_here(edge: Edge, said: ForecastleError, error: type[ForecastleError]) -> None:
    local = Refusing(edge.local, after=False)
    edge.start(clouds={"local": local})
    edge.cloud.observe(POOL)
    local.error = said
    action = edge.action(5)
    for _ in range(2):
        with pytest.raises(error, match=str(said)) as caught:
            edge.cloud.apply(action, POOL, token=action.id)
        assert type(caught.value) is error
    assert (edge.replicas(), len(edge.orders.log)) == (1, 1), "the answer is known: nothing was ordered again"


@injects("5xx")
@pytest.mark.parametrize("after", [False, True])
def test_a_cloud_of_the_site_that_fails_for_a_moment_is_asked_again_there(edge: Edge, after: bool) -> None:
    local = Refusing(edge.local, after=after)
    edge.start(clouds={"local": local})
    edge.cloud.observe(POOL)
    local.error = CloudUnavailable("503", ambiguous=True, retry_after=0.0)
    receipt = edge.do(5)
    assert (receipt.already, edge.replicas(), len(edge.orders.log)) == (after, 5, 1)


@injects("partial")
def test_an_order_that_was_begun_and_not_ended_may_have_happened(edge: Edge) -> None:
    """Killed in the effect, and back after the order's time: the site only looks, and does not know."""
    edge.start(clouds={"local": Dying(edge.local, after=False)})
    edge.cloud.observe(POOL)
    action = edge.action(5)
    with pytest.raises(KeyboardInterrupt):
        edge.cloud.apply(action, POOL, token=action.id)
    edge.wait(301)
    edge.start(clouds={"local": edge.local})
    edge.agent.turn(0.0)
    with pytest.raises(CloudUnavailable, match="expired") as caught:
        edge.cloud.apply(action, POOL, token=action.id)
    assert caught.value.ambiguous
    assert edge.replicas() == 1


def test_denied_is_what_an_unknown_error_becomes(edge: Edge) -> None:
    edge.cloud.observe(POOL)
    edge.alive = False
    answer = Answer("ams", 99, "t", START, Status.FAILED, error="Surprise", detail="odd")
    edge.reports.log.append(("ams", SIGNER.seal(answer)))
    with pytest.raises(Denied, match="site 'ams': Surprise: odd"):
        edge.cloud.apply(edge.action(5), POOL, token="t")
