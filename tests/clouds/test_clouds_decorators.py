"""The layers over adapters: each keeps the cloud's contract and does the one thing it is for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layer_worlds import POOL, START, Scripted, Time, scale

from forecastle.clouds.breaker import Breaker, CircuitOpen, State, Tripping
from forecastle.clouds.dry_run import DryRun
from forecastle.clouds.layer import Layer, layers
from forecastle.clouds.meter import BOUNDS_S, Metered
from forecastle.clouds.rate import Crowded, RateLimited, TokenBucket
from forecastle.clouds.sim import open_cloud
from forecastle.errors import CloudUnavailable, Conflict, NotFound, QuotaExceeded, Transient, Unsupported
from forecastle.ports import Cloud
from forecastle.runtime.clocks import EventClock
from forecastle.testing.check_cloud import BrokenPromise, Check, check_cloud, checks
from forecastle.types import Action, Kind

DOWN = CloudUnavailable("500")
TRIPPING = Tripping(share=0.5, calls=4, window_s=60.0, open_s=30.0)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def provider(time: Time) -> Scripted:
    return Scripted(time)


def limited(cloud: Cloud, time: Time, rate: float = 2.0, burst: int = 1, longest: float = 10.0) -> RateLimited:
    return RateLimited(cloud, TokenBucket(rate, burst, time.monotonic), longest_wait_s=longest, sleep=time.sleep)


LAYERS: dict[str, Callable[[Cloud], Cloud]] = {
    "layer": Layer,
    "metered": lambda cloud: Metered(cloud, Time().monotonic),
    "rate": lambda cloud: limited(cloud, Time()),
    "breaker": lambda cloud: Breaker(cloud, TRIPPING, Time().monotonic),
    "all": lambda cloud: Breaker(limited(Metered(cloud, Time().monotonic), Time()), TRIPPING, Time().monotonic),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_keeps_every_promise_of_a_cloud(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / "sim.db")
    kept = check_cloud(lambda: LAYERS[name](open_cloud(clock=EventClock(START), path=path)), POOL, creates=True)
    assert kept == tuple(check.name for check in checks())


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_what_is_below_it_to_whoever_asks(name: str, provider: Scripted) -> None:
    cloud = LAYERS[name](provider)
    assert (cloud.name, cloud.capabilities) == (provider.name, provider.capabilities)
    assert cloud.preview(scale(), cloud.observe(POOL)).after == "5"
    assert not cloud.apply(scale(), POOL, token="t1").already
    cloud.close()
    assert (provider.asked, provider.closed) == (["observe", "apply t1"], 1)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "error", [Conflict("changed"), NotFound("gone"), CloudUnavailable("?", ambiguous=True), KeyError("bug")]
)
def test_a_layer_passes_errors_on_as_they_are(name: str, error: Exception, provider: Scripted) -> None:
    provider.script.append(error)
    with pytest.raises(type(error)) as found:
        LAYERS[name](provider).apply(scale(), POOL, token="t1")
    assert found.value is error


def test_layers_are_found_from_outside_in(provider: Scripted) -> None:
    assert [type(one) for one in layers(LAYERS["all"](provider))] == [Breaker, RateLimited, Metered]
    assert list(layers(provider)) == []


# --- dry run ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def dry(provider: Scripted) -> DryRun:
    return DryRun(provider)


EFFECTS = {"effect_visible", "used_token", "used_token_everywhere", "already_true", "generation_once"}


@pytest.mark.parametrize("check", checks(), ids=str)
def test_a_dry_run_breaks_the_promises_of_effects_and_no_other(check: Check, tmp_path: Path) -> None:
    path = str(tmp_path / "sim.db")

    def run() -> None:
        check(lambda: DryRun(open_cloud(clock=EventClock(START), path=path)), POOL, creates=True)

    if check.name in EFFECTS:
        with pytest.raises(BrokenPromise):
            run()
    else:
        run()


def test_a_dry_run_tells_what_would_happen_and_has_nothing_applied(dry: DryRun, provider: Scripted) -> None:
    receipt = dry.apply(scale(), POOL, token="t1")
    assert (receipt.dry_run, receipt.already, receipt.detail) == (True, False, "dry run: scale shop-fra 3 -> 5")
    assert provider.asked == ["observe"]
    again = dry.apply(scale(desired=3), POOL, token="t2")
    assert (again.dry_run, again.already) == (True, True)


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (scale(expected=4), Conflict),
        (scale(desired=21), QuotaExceeded),
        (Action(Kind.SHIFT, "shop", POOL.name, 50, "v3", START, START), Unsupported),
        (Action(Kind.RESTART, "shop", POOL.name, "g1", "v9", START, START), Conflict),
    ],
)
def test_a_dry_run_refuses_what_an_adapter_would_refuse(dry: DryRun, action: Action, error: type[Exception]) -> None:
    with pytest.raises(error):
        dry.apply(action, POOL, token="t1")


def test_a_dry_run_of_a_pool_that_is_not_there_says_so(dry: DryRun, provider: Scripted) -> None:
    provider.script.append(NotFound("no such pool"))
    with pytest.raises(NotFound):
        dry.apply(scale(), POOL, token="t1")


# --- figures ----------------------------------------------------------------------------------------------------------


def test_calls_are_counted_by_operation_and_result(provider: Scripted, time: Time) -> None:
    cloud = Metered(provider, time.monotonic)
    provider.script.extend([None, DOWN, Conflict("x"), None, None])
    for ask in (cloud.apply, cloud.observe, cloud.observe, cloud.observe, cloud.apply):
        with suppress(CloudUnavailable, Conflict):
            ask(scale(), POOL, token="t") if ask == cloud.apply else ask(POOL)
    assert cloud.figures.calls == {
        ("apply", "ok"): 2,
        ("observe", "CloudUnavailable"): 1,
        ("observe", "Conflict"): 1,
        ("observe", "ok"): 1,
    }


@pytest.mark.parametrize(("took", "bucket"), [(0.0, 0), (0.005, 0), (0.006, 1), (1.0, 7), (10.0, 10), (11.0, 11)])
def test_an_answer_is_timed_in_the_bucket_that_its_seconds_belong_to(
    provider: Scripted, time: Time, took: float, bucket: int
) -> None:
    cloud, provider.took = Metered(provider, time.monotonic), took
    cloud.observe(POOL)
    (found,) = cloud.figures.latency.values()
    assert [i for i, n in enumerate(found.buckets) if n] == [bucket]
    assert len(found.buckets) == len(BOUNDS_S) + 1
    assert found.total_s == pytest.approx(took)


def test_failures_are_timed_too_and_figures_do_not_change_afterwards(provider: Scripted, time: Time) -> None:
    cloud, provider.took = Metered(provider, time.monotonic), 3.0
    provider.script.append(DOWN)
    with pytest.raises(CloudUnavailable):
        cloud.apply(scale(), POOL, token="t")
    before = cloud.figures
    cloud.apply(scale(), POOL, token="t")
    assert before.latency["apply"].total_s == 3.0
    assert cloud.figures.latency["apply"].total_s == 6.0
    assert sum(before.calls.values()) == 1


def test_figures_of_several_threads_lose_nothing(provider: Scripted, time: Time) -> None:
    cloud = Metered(provider, time.monotonic)
    threads = [threading.Thread(target=lambda: [cloud.observe(POOL) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cloud.figures.calls == {("observe", "ok"): 800}
    assert sum(cloud.figures.latency["observe"].buckets) == 800


# --- rate -------------------------------------------------------------------------------------------------------------


def test_a_burst_passes_and_the_rest_waits_for_its_tokens(provider: Scripted, time: Time) -> None:
    cloud = limited(provider, time, rate=2.0, burst=3)
    for _ in range(5):
        cloud.observe(POOL)
    assert time.sleeps == [0.5, 0.5]
    time.at += 100.0
    for _ in range(4):
        cloud.observe(POOL)
    assert time.sleeps == [0.5, 0.5, 0.5], "rest fills the bucket to its burst, not beyond"


def test_who_would_wait_too_long_is_told_when_to_come_again(provider: Scripted, time: Time) -> None:
    cloud = limited(provider, time, rate=0.1, burst=1, longest=5.0)
    cloud.observe(POOL)
    with pytest.raises(Crowded) as found:
        cloud.apply(scale(), POOL, token="t")
    assert (found.value.retry_after, found.value.ambiguous) == (10.0, False)
    assert provider.asked == ["observe"], "the provider was not asked"
    time.at += 10.0
    cloud.apply(scale(), POOL, token="t")
    assert time.sleeps == [], "a refusal took no token"


def test_adapters_of_one_account_share_its_rate(provider: Scripted, time: Time) -> None:
    bucket = TokenBucket(1.0, 1, time.monotonic)
    one, other = (RateLimited(provider, bucket, longest_wait_s=5.0, sleep=time.sleep) for _ in range(2))
    one.observe(POOL)
    other.observe(POOL)
    assert time.sleeps == [1.0]


def test_those_who_wait_together_are_served_one_after_the_other(time: Time) -> None:
    bucket = TokenBucket(2.0, 1, time.monotonic)
    assert [bucket.reserve(60.0) for _ in range(4)] == [0.0, 0.5, 1.0, 1.5]


@given(
    rate=st.floats(0.1, 50.0),
    burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60),
)
def test_no_window_ever_sees_more_than_burst_plus_rate(rate: float, burst: int, gaps: list[float]) -> None:
    time = Time()
    bucket, starts = TokenBucket(rate, burst, time.monotonic), []
    for gap in gaps:
        time.at += gap
        starts.append(time.at + bucket.reserve(1e9))
    assert starts == sorted(starts), "in the order of asking"
    for i, first in enumerate(starts):
        for j in range(i, len(starts)):
            assert j - i + 1 <= burst + rate * (starts[j] - first) + 1e-6


@given(steps=st.lists(st.floats(-5.0, 5.0), max_size=30))
def test_a_clock_that_steps_back_makes_no_tokens(steps: list[float]) -> None:
    time, furthest, granted = Time(), 0.0, 0
    bucket = TokenBucket(1.0, 2, time.monotonic)
    for step in steps:
        time.at += step
        furthest = max(furthest, time.at)
        try:
            bucket.reserve(0.0)
        except Crowded:
            continue
        granted += 1
    assert granted <= 2 + furthest + 1e-6


# --- breaker ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def breaker(provider: Scripted, time: Time) -> Breaker:
    return Breaker(provider, TRIPPING, time.monotonic)


def fail(breaker: Breaker, provider: Scripted, n: int, error: Exception = DOWN) -> None:
    for _ in range(n):
        provider.script.append(error)
        with pytest.raises(type(error)):
            breaker.observe(POOL)


@pytest.fixture
def opened(breaker: Breaker, provider: Scripted) -> Breaker:
    fail(breaker, provider, TRIPPING.calls)
    provider.asked.clear()
    return breaker


def test_a_failing_provider_is_left_alone_and_the_caller_told_at_once_for_how_long(
    opened: Breaker, provider: Scripted, time: Time
) -> None:
    time.at += 10.0
    for ask in (lambda: opened.observe(POOL), lambda: opened.apply(scale(), POOL, token="t")):
        with pytest.raises(CircuitOpen) as found:
            ask()
        assert (found.value.retry_after, found.value.ambiguous) == (20.0, False)
        assert isinstance(found.value, CloudUnavailable)
    assert (provider.asked, opened.state, opened.opened) == ([], State.OPEN, 1)


def test_few_failures_mean_nothing_yet(breaker: Breaker, provider: Scripted) -> None:
    fail(breaker, provider, TRIPPING.calls - 1)
    assert breaker.state is State.CLOSED


def test_it_opens_by_the_share_of_failures(breaker: Breaker, provider: Scripted) -> None:
    for _ in range(5):
        breaker.observe(POOL)
    fail(breaker, provider, 4)
    assert breaker.state is State.CLOSED, "4 of 9"
    fail(breaker, provider, 1)
    assert breaker.state is State.OPEN, "5 of 10"


def test_old_failures_are_forgotten(breaker: Breaker, provider: Scripted, time: Time) -> None:
    fail(breaker, provider, 3)
    time.at += TRIPPING.window_s
    fail(breaker, provider, 3)
    assert breaker.state is State.CLOSED
    time.at += TRIPPING.window_s - 1
    fail(breaker, provider, 1)
    assert breaker.state is State.OPEN, "the last three are remembered"


@pytest.mark.parametrize("error", [Conflict("x"), NotFound("x"), QuotaExceeded("x"), Unsupported("x")])
def test_a_refusal_is_an_answer(breaker: Breaker, provider: Scripted, error: Exception) -> None:
    fail(breaker, provider, 20, error)
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("error", [Transient("x"), TimeoutError("socket"), KeyError("bug")])
def test_what_is_no_answer_is_a_failure(breaker: Breaker, provider: Scripted, error: Exception) -> None:
    fail(breaker, provider, 4, error)
    assert breaker.state is State.OPEN


def test_our_own_rate_limit_says_nothing_about_the_provider(provider: Scripted, time: Time) -> None:
    breaker = Breaker(limited(provider, time, rate=0.01, longest=0.0), TRIPPING, time.monotonic)
    breaker.observe(POOL)
    for _ in range(20):
        with pytest.raises(Crowded):
            breaker.observe(POOL)
    assert breaker.state is State.CLOSED


def test_one_good_answer_closes_it(opened: Breaker, provider: Scripted, time: Time) -> None:
    time.at += TRIPPING.open_s
    assert opened.state is State.HALF_OPEN
    opened.observe(POOL)
    assert opened.state is State.CLOSED
    fail(opened, provider, TRIPPING.calls - 1)
    assert opened.state is State.CLOSED, "what was before does not count any more"


@pytest.mark.parametrize("error", [DOWN, KeyError("bug")])
def test_one_failure_opens_it_again_for_the_whole_time(
    opened: Breaker, provider: Scripted, time: Time, error: Exception
) -> None:
    time.at += TRIPPING.open_s
    fail(opened, provider, 1, error)
    assert (opened.state, opened.opened) == (State.OPEN, 2)
    time.at += TRIPPING.open_s - 1
    with pytest.raises(CircuitOpen) as found:
        opened.observe(POOL)
    assert found.value.retry_after == pytest.approx(1.0)


@pytest.mark.parametrize("error", [Conflict("changed"), NotFound("gone")])
def test_a_refusal_of_the_trial_closes_it_too(opened: Breaker, provider: Scripted, time: Time, error: Exception) -> None:
    time.at += TRIPPING.open_s
    fail(opened, provider, 1, error)
    assert opened.state is State.CLOSED


@pytest.mark.parametrize("error", [Crowded("full"), KeyboardInterrupt()])
def test_a_trial_that_was_not_made_leaves_it_half_open(
    opened: Breaker, provider: Scripted, time: Time, error: BaseException
) -> None:
    time.at += TRIPPING.open_s
    provider.script.append(error)
    with pytest.raises(type(error)):
        opened.observe(POOL)
    assert opened.state is State.HALF_OPEN
    opened.observe(POOL)
    assert opened.state is State.CLOSED


def test_only_one_call_is_the_trial(opened: Breaker, provider: Scripted, time: Time) -> None:
    time.at += TRIPPING.open_s
    seen: list[float] = []

    def meanwhile() -> None:
        with pytest.raises(CircuitOpen) as found:
            opened.apply(scale(), POOL, token="t")
        seen.append(found.value.retry_after)

    provider.during = meanwhile
    opened.observe(POOL)
    assert (provider.asked, seen) == (["observe"], [TRIPPING.open_s])


def test_an_answer_that_comes_after_the_opening_changes_nothing(breaker: Breaker, provider: Scripted) -> None:
    def others_fail() -> None:
        provider.during = lambda: None
        provider.script.appendleft(None)  # this call succeeds in the end
        for _ in range(TRIPPING.calls):
            provider.script.appendleft(DOWN)
            with pytest.raises(CloudUnavailable):
                breaker.observe(POOL)

    provider.during = others_fail
    breaker.observe(POOL)
    assert (breaker.state, breaker.opened) == (State.OPEN, 1)


@given(st.lists(st.tuples(st.sampled_from(["ok", "down", "no"]), st.floats(0.0, 40.0)), max_size=60))
def test_the_breaker_agrees_with_its_definition(story: list[tuple[str, float]]) -> None:
    time = Time()
    provider = Scripted(time)
    breaker = Breaker(provider, TRIPPING, time.monotonic)
    recent: list[tuple[float, bool]] = []
    until: float | None = None
    for what, gap in story:
        time.at += gap
        provider.script.append({"ok": None, "down": DOWN, "no": Conflict("x")}[what])
        asked = len(provider.asked)
        with suppress(CloudUnavailable, Conflict):
            breaker.observe(POOL)
        blocked = until is not None and time.at < until
        assert (len(provider.asked) == asked) is blocked
        if blocked:
            provider.script.clear()
            continue
        failed = what == "down"
        if until is not None:
            recent, until = [], time.at + TRIPPING.open_s if failed else None
            continue
        recent = [(at, bad) for at, bad in [*recent, (time.at, failed)] if at > time.at - TRIPPING.window_s]
        bad = sum(one for _, one in recent)
        if failed and len(recent) >= TRIPPING.calls and bad >= TRIPPING.share * len(recent):
            recent, until = [], time.at + TRIPPING.open_s
