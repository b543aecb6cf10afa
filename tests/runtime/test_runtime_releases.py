"""Releases: recorded once as clouds tell them, heard by later ticks, and named by the incidents that follow a change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from forecastle.detect.incidents import IncidentBook
from forecastle.detect.rollouts import SHORTLY_MS, Rollout, suspect
from forecastle.errors import StoreUnavailable
from forecastle.ledger.store import SqlLedger
from forecastle.runtime.clocks import EventClock
from forecastle.runtime.loop import Closed, Turned
from forecastle.runtime.releases import RELEASE, Rollouts, release_keeper
from forecastle.settings import DetectSettings, LedgerSettings
from forecastle.types import Anomaly, AnomalyKind, Fleet, Forecasts, Observed, Pool, SeriesKey, Situation, Windows

STEP = 60_000
START = 1_760_000_040_000 // STEP * STEP
POOLS = {f"shop-{site}": Pool(f"shop-{site}", "shop", site, "sim", 1.0) for site in ("eu", "us")}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqlLedger]:
    opened = SqlLedger(LedgerSettings(url=f"sqlite:///{tmp_path}/ledger.db", kill_file=""), EventClock(START))
    yield opened
    opened.verify()
    opened.close()


def turned(minute: int, rebuilt: bool = False, **releases: str) -> Turned:
    at, empty, none = START + minute * STEP, np.zeros((0, 1), np.float32), np.zeros(0, bool)
    windows = Windows((), at, STEP, empty, empty.astype(bool), none, none)
    forecasts = Forecasts((), at, STEP, (0.5,), np.zeros((0, 1, 1), np.float32), "none", none)
    observed = {f"shop-{site}": Observed(f"shop-{site}", 3, 3, at, "v", release) for site, release in releases.items()}
    situation = Situation(at, windows, forecasts, (), Fleet(at, observed))
    return Turned(Closed(at, windows, forecasts, (), ()), situation, rebuilt=rebuilt)


def recorded(ledger: SqlLedger) -> list[tuple[str, str, str]]:
    found = reversed(ledger.history(kinds=[RELEASE]))
    return [(e.body["pool"], e.body["before"], e.body["release"]) for e in found]


def test_a_release_is_recorded_when_it_is_first_seen_and_when_it_changes(ledger: SqlLedger) -> None:
    keep = release_keeper(ledger)
    for minute, release in enumerate(("r1", "r1", "r2", "r2", "", "r2")):
        keep(turned(minute, eu=release, us="r1"))
    assert recorded(ledger) == [("shop-eu", "", "r1"), ("shop-us", "", "r1"), ("shop-eu", "r1", "r2")]


def test_a_worker_that_starts_again_or_takes_over_records_changes_alone(ledger: SqlLedger) -> None:
    release_keeper(ledger)(turned(0, eu="r1"))
    first, second = release_keeper(ledger), release_keeper(ledger)
    first(turned(1, eu="r9", rebuilt=True))
    for keep in (first, second, first):
        keep(turned(2, eu="r2"))
    assert recorded(ledger) == [("shop-eu", "", "r1"), ("shop-eu", "r1", "r2")]


def test_a_store_that_was_down_is_told_later(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = release_keeper(ledger)
    keep(turned(0, eu="r1"))

    def down(**_: object) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "writing", down)
        keep(turned(1, eu="r2"))
    keep(turned(2, eu="r2"))
    assert recorded(ledger)[1:] == [("shop-eu", "r1", "r2")]


def test_later_ticks_hear_it_and_a_replay_hears_the_same(ledger: SqlLedger) -> None:
    keep, live = release_keeper(ledger), Rollouts(ledger, POOLS)
    heard = []
    for minute, release in enumerate(("r1", "r2", "r2", "r3")):
        heard.append(live.before(START + minute * STEP))
        keep(turned(minute, eu=release))
    heard.append(live.before(START + 4 * STEP))
    one = Rollout(START + STEP, "shop", "eu", "r2", "r1")
    assert heard == [(), (), (one,), (one,), (one, Rollout(START + 3 * STEP, "shop", "eu", "r3", "r2"))]
    again = Rollouts(ledger, POOLS)
    assert [again.before(START + minute * STEP) for minute in range(5)] == heard
    assert again.before(START + 2 * STEP) == (one,), "an earlier tick hears what it heard"
    assert Rollouts(ledger, {}).before(START + 9 * STEP) == (), "a pool that is no more is nobody's"


def anomaly(workload: str = "shop", minute: int = 1, site: str = "eu") -> Anomaly:
    labels = (("site", site),) if site else ()
    return Anomaly(SeriesKey(workload, "latency", labels), START + minute * STEP, 2.0, 1.5, AnomalyKind.SPIKE)


def cause(ledger: SqlLedger, found: Anomaly) -> str:
    (incident,) = IncidentBook(DetectSettings(), {}, Rollouts(ledger, POOLS).before).update([found], found.at)
    return incident.cause


def test_an_incident_names_the_change_before_it(ledger: SqlLedger) -> None:
    keep = release_keeper(ledger)
    keep(turned(-1, eu="r1", us="r1"))
    keep(turned(0, eu="r2", us="r1"))
    said = "latency spike; release r2 since 08:54 UTC, r1 before"
    assert cause(ledger, anomaly()) == said
    assert cause(ledger, anomaly(site="")) == said
    assert cause(ledger, anomaly(site="us")) == cause(ledger, anomaly("cart")) == "latency spike"


def test_what_is_seen_in_the_tick_it_opens_is_said_one_later(ledger: SqlLedger) -> None:
    keep, book = release_keeper(ledger), IncidentBook(DetectSettings(), {}, Rollouts(ledger, POOLS).before)
    keep(turned(0, eu="r1"))
    (first,) = book.update([anomaly()], START + STEP)
    keep(turned(1, eu="r2"))
    (second,) = book.update([], START + 2 * STEP)
    keep(turned(2, eu="r3"))
    (third,) = book.update([], START + 3 * STEP)
    assert "release" not in first.cause
    assert second.cause.endswith("; release r2 since 08:55 UTC, r1 before")
    assert third.cause == second.cause, "what came after it opened is no cause"


@pytest.mark.parametrize(("since", "said"), [(-1, False), (0, True), (SHORTLY_MS, True), (SHORTLY_MS + 1, False)])
def test_only_the_hour_before_counts(since: int, said: bool) -> None:
    one = Rollout(START - since, "shop", "eu", "r2", "r1")
    assert suspect([one], "shop", "eu", START) == (one if said else None)


def test_the_newest_change_is_named() -> None:
    old, new = (Rollout(START - back, "shop", "eu", name, "r1") for back, name in ((STEP, "r2"), (0, "r3")))
    assert suspect([new, old], "shop", "eu", START) == suspect([old, new], "shop", "", START) == new


def test_long_names_are_cut() -> None:
    assert len(str(Rollout(START, "shop", "eu", "x" * 500, "y" * 500))) < 200
