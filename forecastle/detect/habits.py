"""What a series does every now and then is no news: what fired is judged again by all that its window holds.

The detectors see one look-back, half a day of minutes; a budget of one false alarm in ten days needs a longer memory. The few
rows that fired are therefore compared with everything before them, the season included, by the same statistics. What is
left is asked what became of it (`courses`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from forecastle.detect import courses, drifts, moves
from forecastle.detect.columns import GRAIN, Columns, columns
from forecastle.detect.courses import Course
from forecastle.detect.moves import Found, nothing
from forecastle.settings import DetectSettings
from forecastle.types import Floats, Floats32, Mask, Windows

Rows = npt.NDArray[np.intp]

ALIKE = 0.5
"""Share of a score from which an older one is the same thing. A level may have moved once before, a single slot never."""
RECENT, APART = 60, 30
"""Slots that belong to what is happening now; slots between two happenings."""
TREND = 2.0
"""How many times any older change over a look-back a trend has to rise."""
_ONSET = (0, 1, 2, 8, 10, 12, 14, 17, 20, 25, 30)
_AT_ONCE = 64
"""Rows judged at once as they were: few enough for memory, enough that calls cost nothing."""


@dataclass(frozen=True, slots=True)
class Whole:
    """Some rows by their whole windows: ``fired`` and ``stuck`` bool[n], else as of `moves`.

    Of the families, ``fired`` has at least the sudden ones: level, residual and rate.
    """

    columns: Columns
    error: Floats32
    surprise: Found
    fired: dict[str, Mask]
    stuck: Mask


@dataclass(frozen=True, slots=True)
class Memory:
    """All that the windows hold, the season included; ``covered`` are its slots under maintenance (None: none)."""

    windows: Windows
    settings: DetectSettings
    rate: float
    covered: Mask | None = None

    def judged(self, rows: Rows, lenience: Floats32) -> Whole:
        """The rows by every family but dropouts, habits taken out."""
        whole = self.sudden(rows, lenience)
        c, error = whole.columns, whole.error
        spread = moves.spread(c, error, self.rate, self.settings.min_effect).fired
        slow = {
            "flat": drifts.flat_line(c, self.rate).fired,
            "trend": ~drifting(c, self.settings.look_back),
            "variance": spread & ~habitual(moves.spreads(error), GRAIN),
        }
        return replace(whole, fired=whole.fired | slow)

    def sudden(self, rows: Rows, lenience: Floats32, agos: Sequence[int] = (0,), oldest: int = 0) -> Whole:
        """The rows by the sudden families alone, as they were each of ``agos`` slots before, one after the other.

        They remember as much as there was ``oldest`` slots before, so that the answer does not hang on who is asked together.
        """
        end, floor, season = self.windows.values.shape[1], self.settings.min_effect, self.settings.season
        width = (min(end, self.settings.look_back + season) if season else end) - oldest
        then = [slice(end - ago - width, end - ago) for ago in agos]
        values, mask = (np.concatenate([of[rows, at] for at in then]) for of in (self.windows.values, self.windows.mask))
        covered = None if self.covered is None else np.concatenate([self.covered[rows, at] for at in then])
        c = columns(replace(self.windows, values=values, mask=mask), slice(None), self.settings, width, covered)
        c.lenience[:] = np.tile(lenience, len(agos))
        error = moves.residuals(c)
        surprise, stuck = moves.surprise(c, error, self.rate, floor), drifts.released(c, self.rate)
        rate = moves.rate_of_change(c, self.rate, floor).fired & ~habitual(moves.changes(c), most=0) & ~stuck
        level = moves.level(c, self.rate, floor, None).fired
        fired = {
            "level": level & ~habitual(np.abs(moves.difference_of_means(c.coarse)), GRAIN),
            "residual": surprise.fired & ~habitual(np.abs(error) * c.seen, most=0) & ~stuck,
            "rate": rate,
        }
        return Whole(c, error, surprise, fired, stuck)

    def alarmed(self, rows: Rows, since: Rows, lenience: Floats32) -> Mask:
        """Whether what began ``since`` slots ago raised an alarm then: the same verdict on the windows as they were."""
        out = np.zeros(len(rows), bool)
        for begin in np.unique(since).tolist():
            own, agos = np.flatnonzero(since == begin), [begin - 1 - later for later in _ONSET if later < begin - 1]
            while len(own) and agos:
                some = max(_AT_ONCE // len(own), 1)
                was = self.sudden(rows[own], lenience[own], agos[:some], begin)
                nearly = was.surprise.score > courses.NEARLY * was.surprise.threshold
                alarm = (nearly & ~habitual(np.abs(was.error))) | was.fired["level"] | was.fired["rate"]
                out[own] = alarm.reshape(-1, len(own)).any(axis=0)
                own, agos = own[~out[own]], agos[some:]
        return out


def news(found: list[Found], error: Floats32, look: Columns, memory: Memory, index: Rows) -> list[Found]:
    """``found`` on the look-back ``look`` less what happened before, and with what became of it.

    Row i of ``look`` is row ``index[i]`` of the memory's windows. The fields of ``found`` are changed in place.
    """
    if look.y.shape[1] < moves.LEAST:
        return found
    by = {f.family: f for f in found}
    fired = np.stack([f.fired for f in found if f.family != "dropout"]).any(axis=0)
    fired |= courses.surprised(error, by["residual"].threshold) | courses.turned(look.coarse)
    rows = np.flatnonzero(fired & look.judged)
    if not len(rows):
        return found
    whole = memory.judged(index[rows], look.lenience[rows])
    for family, again in whole.fired.items():
        by[family].fired[rows] &= again
    _settle_levels(by["level"], rows, whole, look, memory.settings.min_effect)
    ramp = _ramps(by["level"], rows, whole)
    back, just = courses.returned(whole.columns, memory.settings.min_effect)
    moved = by["level"].fired[rows] | by["residual"].fired[rows] | by["rate"].fired[rows]
    asked = np.flatnonzero(back.fired & just & ~moved)
    moved[asked] = memory.alarmed(index[rows[asked]], back.since[asked], look.lenience[rows[asked]])
    excursion = nothing("excursion", len(fired))
    floor = np.full(len(rows), memory.settings.min_effect, np.float32)
    _put(excursion, rows, back._replace(fired=back.fired & moved & ~whole.stuck), floor, (whole, look))
    return [*found[:2], excursion, ramp, *found[2:]]


def _settle_levels(level: Found, rows: Rows, whole: Whole, look: Columns, floor: float) -> None:
    """Surprises that stayed join the levels."""
    threshold, size = courses.NEARLY * whole.surprise.threshold, np.abs(whole.error)
    stayed = courses.stayed(whole.columns, whole.error, threshold, floor)
    new = stayed.fired & ~level.fired[rows] & ~habitual(size, 1, size.shape[1] - stayed.since, stayed.score)
    _put(level, rows, stayed._replace(fired=new), threshold, (whole, look))


def _ramps(level: Found, rows: Rows, whole: Whole) -> Found:
    """Levels that were reached little by little leave the levels."""
    ramp = nothing("ramp", len(level.fired))
    slow = rows[level.fired[rows] & courses.gradual(whole.columns.y)]
    for name in ("score", "threshold", "expected", "actual", "since"):
        getattr(ramp, name)[slow] = getattr(level, name)[slow]
    ramp.fired[slow], level.fired[slow] = True, False
    return ramp


def _put(found: Found, rows: Rows, course: Course, threshold: Floats32, unit: tuple[Whole, Columns]) -> None:
    """Write a course into ``found``, from shares of the whole window's range to shares of the look-back's."""
    c, look = unit[0].columns, unit[1]
    new = course.fired
    at, centre, spread = rows[new], c.centre[new], c.spread[new]
    scale = spread / look.spread[at]
    found.fired[at], found.since[at] = True, course.since[new]
    found.score[at], found.threshold[at] = course.score[new] * scale, threshold[new] * scale
    found.expected[at] = (course.expected[new] * spread + centre - look.centre[at]) / look.spread[at]
    found.actual[at] = (course.actual[new] * spread + centre - look.centre[at]) / look.spread[at]


def habitual(
    size: Floats32, grain: int = 1, at: Rows | None = None, score: Floats | Floats32 | None = None, most: int = 1
) -> Mask:
    """Whether ``size`` float32[n, k], a slot each ``grain``, was `ALIKE` ``score`` more than ``most`` times before ``at``.

    None: the newest slot and its score. Times are `APART` slots apart; the last `RECENT` slots are now.
    """
    slots = np.arange(size.shape[1])
    end = (np.full(len(size), len(slots) - 1) if at is None else at) - RECENT // grain
    high = (size >= ALIKE * (size[:, -1] if score is None else score)[:, None]) & (slots <= end[:, None])
    last = np.maximum.accumulate(np.where(high, slots, -APART - 1), axis=1)
    begins = high.copy()
    begins[:, 1:] &= slots[1:] - last[:, :-1] > APART // grain
    return np.asarray(begins.sum(axis=1) > most)


def drifting(c: Columns, look_back: int) -> Mask:
    """Whether the change over the newest look-back is no larger than `TREND` times any that ended before it began."""
    size = drifts.block_size(look_back)
    if not size or c.y.shape[1] < look_back:
        return np.zeros(len(c.y), bool)
    means = drifts.block_means(c.coarse, size, c.y.shape[1] // size)
    change = np.abs(means[:, drifts.BLOCKS - 1 :] - means[:, : 1 - drifts.BLOCKS])
    before = change[:, : -drifts.BLOCKS].max(axis=1, initial=0.0)
    return np.asarray(TREND * before > change[:, -1])
