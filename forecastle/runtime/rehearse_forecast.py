"""Which forecast a what-if plays: the one that the configuration names, or what stands for it, and why.

A configuration that names a model is played with that model where its cache holds it, through the same `Predictor` as in
production: gate, calibration and all. Where it does not, trees learned from the first part of the history stand for the
model (`forecastle.rehearsal.quantiles`); where that part is too short, or no model is named, it is the seasonal stand-in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from forecastle.errors import ConfigError, ModelRefused
from forecastle.predict.artifacts import cached, pointed
from forecastle.predict.engine import STAND_IN, Predictor
from forecastle.predict.known import Almanac
from forecastle.predict.naive import BLOCK, QUANTILES, naive
from forecastle.predict.onnx import OnnxForecaster
from forecastle.rehearsal.quantiles import Ahead, Plain, learn_ahead
from forecastle.rehearsal.trace import STEP_S, Demand
from forecastle.runtime.inventory import almanac
from forecastle.settings import PredictSettings, Settings
from forecastle.types import Floats, Floats32, Forecasts, Ints, Mask, Windows

LEARNED = "learned from the history"


class Source(Protocol):
    """Where forecasts come from. ``warm`` ticks before the first are to be asked for as well, in order."""

    name: str
    warm: int

    def forecasts(self, windows: Sequence[Windows]) -> list[Forecasts]:
        """One a window of the one series, in order of time."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be known about what was played, in words."""


class StandIn:
    """The seasonal stand-in; ``why`` when it was not what the configuration names."""

    name, warm = STAND_IN, 0

    def __init__(self, settings: PredictSettings, why: str = "") -> None:
        self._settings, self.notes = settings, (why,) if why else ()

    def forecasts(self, windows: Sequence[Windows]) -> list[Forecasts]:
        """A batch over all windows."""
        values, mask = (np.concatenate([getattr(one, part) for one in windows]) for part in ("values", "mask"))
        ahead = naive(values, mask, season=self._settings.season, horizon=self._settings.horizon)
        return [_told(one, ahead[k : k + 1], self.name) for k, one in enumerate(windows)]


class Learned:
    """Trees that learned ``ahead`` from the steps of ``demand`` before the first tick; ``why`` they stand for the model."""

    name, warm = LEARNED, 0

    def __init__(self, ahead: Ahead, demand: Demand, why: str) -> None:
        self.ahead, self._begin = ahead, int(demand.at[0])
        self.notes = (why,)

    def forecasts(self, windows: Sequence[Windows]) -> list[Forecasts]:
        """A batch over all windows."""
        ticks = np.array([(one.end - self._begin) // (STEP_S * 1000) for one in windows])
        ahead = self.ahead.at(ticks)
        return [_told(one, ahead[k : k + 1], self.name) for k, one in enumerate(windows)]


class Model:
    """The cached model as in production, but never given up for being slow, as the machine here is another one."""

    def __init__(self, settings: PredictSettings, step_ms: int, name: str, known: Almanac) -> None:
        patient = settings.model_copy(update={"timeout_s": 600.0})
        self._predictor = Predictor(patient, step_ms, clock=lambda: 0.0, almanac=known)
        self.name, self.warm = name, settings.coverage_window
        self._asked = self._refused = 0

    def forecasts(self, windows: Sequence[Windows]) -> list[Forecasts]:
        """Tick by tick: calibration learns from each what became of earlier forecasts."""
        told = [self._predictor.forecast(one) for one in windows]
        self._asked += len(told)
        self._refused += sum(bool(one.fallback.any()) for one in told)
        return told

    @property
    def notes(self) -> tuple[str, ...]:
        """How often the stand-in had to answer."""
        if not self._refused:
            return ()
        return (f"in {100 * self._refused / self._asked:.1f} % of the ticks the seasonal stand-in answered for the model",)


Lessons = dict[tuple[int, ...], Ahead]
"""What was learned, by the settings that it depends on, for the next configuration."""


def source_of(settings: Settings, demand: Demand, learned: Lessons) -> Source:
    """What is played for ``settings`` on ``demand``; ``learned`` is read and added to."""
    predict, step_ms = settings.predict, round(settings.window.step_s * 1000)
    if not predict.model:
        return StandIn(predict)
    try:
        known = almanac(settings)
        return Model(predict, step_ms, _name(predict, step_ms, known), known)
    except (ModelRefused, ConfigError, OSError) as error:
        why = str(error)
    key = step_ms // (STEP_S * 1000), predict.horizon, predict.season, settings.window.look_back
    try:
        if key not in learned:
            learned[key] = learn_ahead(demand, key[0], key[1], QUANTILES, _plain(settings, demand, key[0]))
    except ConfigError as error:
        return StandIn(predict, f"{why}; nor could a forecast be {LEARNED}: {error}; the seasonal stand-in was played")
    return Learned(learned[key], demand, f"{why}; a forecast {LEARNED}'s first part was played instead")


def _plain(settings: Settings, demand: Demand, step: int) -> Plain:
    """The stand-in's median, a batch at a time."""
    predict, look_back, offset = settings.predict, settings.window.look_back, demand.first % step
    rows, seen = (sliding(part, look_back) for part in slots(demand, step, offset))

    def plain(ticks: Ints) -> Floats:
        out = np.empty((len(ticks), predict.horizon))
        for begin in range(0, len(ticks), BLOCK):
            some = ticks[begin : begin + BLOCK] // step
            answer = naive(rows[some], seen[some], season=predict.season, horizon=predict.horizon, quantiles=(0.5,))
            out[begin : begin + BLOCK] = np.maximum(answer[:, :, 0], 0.0)
        return out

    return plain


def _name(predict: PredictSettings, step_ms: int, known: Almanac) -> str:
    """The cached model's name and digest. Raises ModelRefused or ConfigError when there is none that can serve."""
    cache = Path(predict.cache)
    target = pointed(cache, predict.model, predict.alias)
    if target is None:
        raise ModelRefused(f"predict.model names '{predict.model}', but {cache} holds no {predict.alias} of it")
    artifact = cached(cache, predict.model, *target)
    served = OnnxForecaster(artifact, step_ms=step_ms, horizon=predict.horizon, quantiles=QUANTILES, almanac=known)
    return served.name


def _told(window: Windows, values: np.ndarray, name: str) -> Forecasts:
    return Forecasts(window.keys, window.end, window.step_ms, QUANTILES, values, name, np.array([name == STAND_IN]))


def slots(demand: Demand, step: int, offset: int) -> tuple[Floats32, Mask]:
    """Means of the known demand over ``step`` steps; slot j ends where step ``offset + j * step`` begins."""
    value = np.concatenate([np.zeros(step - offset), np.where(demand.known, demand.value, 0.0)])
    known = np.concatenate([np.zeros(step - offset), demand.known])
    whole = len(value) // step * step
    total, count = value[:whole].reshape(-1, step).sum(axis=1), known[:whole].reshape(-1, step).sum(axis=1)
    return (total / np.maximum(count, 1)).astype(np.float32), count > 0


def sliding(x: np.ndarray, length: int) -> np.ndarray:
    """Row j holds the ``length`` slots up to and with slot j; before the first there is nothing."""
    padded = np.concatenate([np.zeros(length - 1, x.dtype), x])
    return np.lib.stride_tricks.sliding_window_view(padded, length)
