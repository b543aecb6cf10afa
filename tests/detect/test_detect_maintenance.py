from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).parent))
from detect_worlds import START, STEP, daily, keys, windows

from forecastle.detect.engine import Detection
from forecastle.detect.maintenance import Maintenance
from forecastle.runtime.inventory import contradictions, maintenance
from forecastle.settings import DetectSettings, MaintenanceSettings, Settings
from forecastle.types import AnomalyKind, Forecasts

N, SLOTS, TICKS = 6, 2400, 140
FROM, LASTS = 30, 40
"""Ticks of a play after which the work begins, and how many it takes."""


def local(ms):
    return datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=None)


def work(begin=FROM, lasts=LASTS, **more):
    """Work from tick ``begin`` of a play on."""
    first = START + begin * STEP
    once = {"start": local(first), "end": local(first + lasts * STEP), "zone": "UTC"}
    return MaintenanceSettings(name="move", once=once, **more)


def settings(*works, **more):
    return DetectSettings(maintenance=works, **more)


def world(seed=1):
    return daily(N, SLOTS + TICKS, seed=seed), np.ones((N, SLOTS + TICKS), bool)


def played(engine, values, mask, ticks=range(TICKS)):
    """Anomalies by tick; the newest slot of tick k ends at START + k steps."""
    out = {}
    for k in ticks:
        then = slice(k, k + SLOTS)
        shown = windows(values[:, then].copy(), mask[:, then].copy(), names=keys(N), end=START + k * STEP)
        out[k] = engine.detect(shown, None)
    return out


def during(tick):
    """The slot that is newest at ``tick``."""
    return SLOTS - 1 + tick


def told(out, row, ticks=range(TICKS)):
    return {a.kind for k in ticks for a in out.get(k, ()) if a.key == keys(N)[row]}


@pytest.fixture(scope="module")
def troubled():
    """Rows 0 to 3: a spike, another level, noise and silence, all while the work lasts; row 4: a spike after it."""
    values, mask = world()
    begin, end = during(FROM + 2), during(FROM + LASTS)
    values[0, begin : begin + 2] += 90
    values[1, begin:end] += 60
    values[2, begin:end] += np.random.default_rng(0).normal(0, 20, end - begin)
    mask[3, begin:end] = False
    values[4, during(FROM + LASTS + 20)] += 90
    return values, mask


def test_nothing_is_told_of_what_is_under_maintenance_and_nothing_of_it_stays(troubled):
    plain = played(Detection(DetectSettings(), STEP), *troubled)
    assert all(told(plain, row) for row in range(5))
    hidden = played(Detection(settings(work()), STEP), *troubled)
    assert [sorted(told(hidden, row)) for row in range(5)] == [[], [], [], [], [AnomalyKind.SPIKE]]


@pytest.mark.parametrize(
    ("filters", "covers"),
    [
        ({"workloads": ["w0"]}, {0, 1}),
        ({"sites": ["s1"]}, {1, 3}),
        ({"workloads": ["w1"], "sites": ["s0"]}, {2}),
        ({}, {0, 1, 2, 3}),
    ],
)
def test_only_the_series_it_names_are_covered(troubled, filters, covers):
    plain = played(Detection(DetectSettings(), STEP), *troubled, range(FROM, FROM + LASTS + 25))
    hidden = played(Detection(settings(work(**filters)), STEP), *troubled, range(FROM, FROM + LASTS + 25))
    for row in range(5):
        assert told(hidden, row) == (set() if row in covers else told(plain, row)), row


def test_a_level_that_the_work_left_behind_is_no_news_but_one_long_after_it_is():
    values, mask = world(2)
    values[0, during(FROM + 3) :] += 60
    values[1, during(FROM + LASTS + 50) :] += 60
    hidden = played(Detection(settings(work()), STEP), values, mask)
    assert told(hidden, 0) == set()
    assert AnomalyKind.LEVEL_SHIFT in told(hidden, 1)
    assert AnomalyKind.LEVEL_SHIFT in told(played(Detection(DetectSettings(), STEP), values, mask), 0)


def test_the_work_is_not_learned():
    """A wild hour under maintenance does not make the same hour usual later."""
    values, mask = world(3)
    rng = np.random.default_rng(4)
    values[0, during(FROM + 1) : during(FROM + LASTS)] += rng.choice([-80, 80], LASTS - 1)
    values[0, during(FROM + LASTS + 30)] += 60
    after = range(FROM + LASTS + 31)
    assert told(played(Detection(DetectSettings(), STEP), values, mask, after), 0, [FROM + LASTS + 30]) == set()
    assert told(played(Detection(settings(work()), STEP), values, mask, after), 0, [FROM + LASTS + 30]) == {AnomalyKind.SPIKE}


def test_who_does_not_come_back_is_told_a_few_slots_after_the_work():
    values, mask = world()
    mask[0, during(FROM + 5) :] = False
    hidden = played(Detection(settings(work()), STEP), values, mask)
    first = min(k for k, found in hidden.items() if found)
    assert told(hidden, 0) == {AnomalyKind.DROPOUT}
    assert FROM + LASTS + 2 <= first <= FROM + LASTS + 4


def test_a_long_work_does_not_blind_the_hours_after_it():
    values, mask = world()
    values[:, during(TICKS - 1)] += 90
    mask[0, during(TICKS - 1) - 4 :] = False
    long = settings(work(TICKS - 80 - 400, 400))
    (last,) = played(Detection(long, STEP), values, mask, [TICKS - 1]).values()
    assert {a.key for a in last} == set(keys(N))
    assert last[0].kind is AnomalyKind.DROPOUT


@pytest.mark.parametrize("lasts", [15, 300])
def test_an_ordinary_fleet_is_quiet_after_a_work(lasts):
    values = daily(N, SLOTS + lasts + 120, seed=5, noise=3.0)
    hidden = played(Detection(settings(work(0, lasts)), STEP), values, np.ones(values.shape, bool), range(lasts, lasts + 120))
    assert not any(hidden.values())


def test_a_silent_series_under_maintenance_is_no_lost_workload():
    values, mask = world()
    mask[[0, 2, 4], during(FROM + 2) :] = False
    plain = played(Detection(DetectSettings(), STEP), values, mask, [FROM + 10])[FROM + 10]
    assert {a.evidence["site_lost"] for a in plain} == {1.0}
    hidden = played(Detection(settings(work(workloads=["w1", "w2"])), STEP), values, mask, [FROM + 10])[FROM + 10]
    assert {a.key: round(a.evidence["site_lost"], 2) for a in hidden} == {keys(N)[0]: 0.33}


def test_forecasts_made_from_the_work_are_not_held_against_what_follows():
    values, _ = world()
    ticks = range(TICKS - 75, TICKS)
    quantiles = (0.1, 0.5, 0.9)

    def fooled(engine):
        out = {}
        for k in ticks:
            shown = windows(values[:, k : k + SLOTS].copy(), names=keys(N), end=START + k * STEP)
            wrong = 60.0 if TICKS - 8 <= k < TICKS - 3 else 0.0
            middle = shown.values[:, -1] + wrong + np.random.default_rng(k).normal(0, 4, N)
            first = np.stack([middle - 5, middle, middle + 5], axis=1)[:, None].astype(np.float32)
            ahead = Forecasts(keys(N), shown.end - STEP, STEP, quantiles, first, "m", np.zeros(N, bool))
            out[k] = engine.detect(shown, ahead)
        return out

    assert any(fooled(Detection(DetectSettings(), STEP)).values())
    assert not any(fooled(Detection(settings(work(TICKS - 18, 10)), STEP)).values())


def test_a_worker_that_starts_over_says_the_same(troubled):
    long = played(Detection(settings(work()), STEP), *troubled)
    for begin in (FROM - 5, FROM + 10, FROM + LASTS, FROM + LASTS + 15):
        short = played(Detection(settings(work()), STEP), *troubled, range(begin, TICKS))
        assert short == {k: long[k] for k in range(begin, TICKS)}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_calm_pass_over_nobody_who_would_be_told_after_it(seed):
    class Everybody(Detection):
        def _near(self, windows, rows, lenience):
            return np.ones(len(rows), bool)

    rng = np.random.default_rng(seed)
    values, mask = world(seed + 10)
    for row in range(N):
        at, size = during(int(rng.integers(FROM - 10, TICKS - 10))), 20 + 20 * row
        values[row, at : at + int(rng.integers(1, 60))] += size
    mask &= rng.random(mask.shape) > 0.01
    some, every = (played(make(settings(work(workloads=["w0", "w1"])), STEP), values, mask) for make in (Detection, Everybody))
    assert some == every
    assert any(some.values())


def test_slots_that_meet_the_work_are_covered():
    shown = windows(np.zeros((N, 10), np.float32), end=START)
    mine = work(-5, 2, workloads=["w0"])
    covered = Maintenance([mine]).covered(shown)
    assert covered.any(axis=1).tolist() == [True, True, False, False, False, False]
    assert np.flatnonzero(covered[0]).tolist() == [5, 6], "the slots that end 4 and 3 steps ago"
    part = mine.model_copy(update={"once": mine.once.model_copy(update={"end": local(START - 3 * STEP + 1000)})})
    assert np.flatnonzero(Maintenance([part]).covered(shown)[0]).tolist() == [5, 6, 7]
    assert Maintenance([work(1)]).covered(shown) is None
    assert Maintenance([work(-90, 20)]).covered(shown) is None
    assert Maintenance([]).covered(shown) is None


@pytest.mark.parametrize(
    ("day", "first", "slots"),
    [("2026-03-22", 0, 180), ("2026-03-29", 0, 120), ("2026-04-04", 1380, 60), ("2026-04-05", 0, 120)],
)
def test_a_weekly_work_comes_every_week_by_local_time(day, first, slots):
    """Sundays 1:00 to 4:00 in Berlin: 0:00 to 3:00 UTC, an hour less when summer time begins, then from 23:00 UTC."""
    end = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000) + 1440 * STEP
    weekly = {"zone": "Europe/Berlin", "days": ["sun"], "start": "01:00", "end": "04:00"}
    works = Maintenance([MaintenanceSettings(name="patches", weekly=weekly)])
    covered = works.covered(windows(np.zeros((N, 1440), np.float32), end=end))
    assert np.flatnonzero(covered[0]).tolist() == list(range(first, first + slots))


def test_it_is_logged_when_it_begins_and_when_it_is_over(caplog):
    values, mask = world()
    with caplog.at_level(logging.INFO, "forecastle.detect.maintenance"):
        played(Detection(settings(work(5, 3)), STEP), values, mask, range(12))
    assert [record.getMessage() for record in caplog.records] == ["maintenance: move", "maintenance: over"]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {
            "once": {"start": "2026-01-01", "end": "2026-01-02", "zone": "UTC"},
            "weekly": {"zone": "UTC", "start": "01:00", "end": "02:00"},
        },
    ],
)
def test_it_needs_one_time(given):
    with pytest.raises(ValidationError, match="one of once and weekly"):
        MaintenanceSettings(name="move", **given)


def test_what_nobody_can_mean_is_refused_with_the_fix():
    once = {"start": "2026-01-02T00:00", "end": "2026-01-01T00:00", "zone": "UTC"}
    weekly = {"start": "01:00", "end": "02:00", "zone": "Mars"}
    given = Settings.model_validate({"detect": {"maintenance": [{"name": "a", "once": once}, {"name": "b", "weekly": weekly}]}})
    assert list(contradictions(given)) == [
        "detect.maintenance a: ends at 2026-01-01T00:00, not after its start; exchange them",
        "detect.maintenance b: zone 'Mars' is no IANA time zone; write one such as Europe/Berlin",
    ]


def test_the_check_shows_what_is_declared():
    weekly = {"zone": "Europe/Berlin", "days": ["sat", "sun"], "start": "02:00", "end": "05:00"}
    works = [work(0, 60, workloads=["db", "cart"]), MaintenanceSettings(name="patches", weekly=weekly, sites=["eu-1"])]
    assert list(maintenance(Settings(detect=settings(*works)))) == [
        "maintenance move: 2023-11-14T22:13 to 2023-11-14T23:13 UTC, cart, db",
        "maintenance patches: sat, sun 02:00 to 05:00 Europe/Berlin, all workloads at eu-1",
    ]
