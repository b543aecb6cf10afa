"""Windows to forecasts, whatever happens: the registered model while it behaves, the stand-in otherwise.

Serving never stops for a model. What cannot be loaded, is slow or answers nonsense is replaced, row by row where it can be, by
`naive`, and the forecasts say so. Then everyone's quantiles are calibrated by what was forecast lately and what came.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from forecastle.predict.calibrate import Calibrator
from forecastle.predict.drift import Drifts
from forecastle.predict.gate import Bounds, Strikes, bounds, judge, tidy
from forecastle.predict.known import Almanac
from forecastle.predict.naive import QUANTILES, naive
from forecastle.predict.onnx import OnnxForecaster
from forecastle.predict.shelf import Shelf
from forecastle.settings import PredictSettings
from forecastle.types import Floats32, Forecasts, Mask, Windows

STAND_IN = "seasonal-naive"


class Predictor:
    """Implements `forecastle.ports.Forecaster`. ``step_ms`` is the tick's step, which a model must have been made for.

    ``clock`` gives seconds for the pace of looks at the pointer. ``almanac`` tells a model that asks for it what the
    configuration knows beforehand; without one such a model is refused. Raises ConfigError when the model's name cannot be a
    file's.
    """

    quantiles: tuple[float, ...] = QUANTILES

    def __init__(
        self,
        settings: PredictSettings,
        step_ms: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        almanac: Almanac | None = None,
    ) -> None:
        self.settings = settings
        self.name = STAND_IN
        self.look_back = 1
        self.horizon = settings.horizon
        self._shelf = Shelf(settings, step_ms, self.quantiles, clock, almanac) if settings.model else None
        self._strikes = Strikes(settings.strikes)
        self._runner = _Runner(settings.timeout_s)
        self._calibrator = Calibrator(self.quantiles, self.horizon, settings.coverage_window, step_ms)
        self._drifts = Drifts(settings, step_ms)

    def forecast(self, windows: Windows) -> Forecasts:
        """Quantiles float32[n, horizon, q] for every row; never raises for a model's fault.

        Called once a tick, in order: calibration learns from the window what became of earlier forecasts.
        """
        model = self._serving()
        limits = bounds(windows)
        values, fallback, notes = self._answer(model, windows, limits)
        scored = ~fallback if model is not None else np.ones(len(windows), np.bool_)
        due = self._calibrator.observe(windows)
        drift = self._drifts.observe(windows, due) if model is not None else ()
        values = tidy(self._calibrator.stretch(values, windows, scored), limits, self.settings.max_ratio)
        return Forecasts(
            windows.keys,
            windows.end,
            windows.step_ms,
            self.quantiles,
            values,
            STAND_IN if model is None else model.name,
            fallback,
            notes,
            drift,
            () if model is None else model.known,
        )

    def _serving(self) -> OnnxForecaster | None:
        """The model of this tick; another one than before starts without strikes and without scores."""
        if self._shelf is None:
            return None
        self._shelf.look()
        model = self._shelf.serving
        name = STAND_IN if model is None else model.name
        if name != self.name:
            self.name, self.look_back = name, 1 if model is None else model.look_back
            self._strikes.count = 0
            self._calibrator.reset()
            self._drifts.reset(name)
        return model

    def _answer(self, model: OnnxForecaster | None, windows: Windows, limits: Bounds) -> tuple[Floats32, Mask, tuple[str, ...]]:
        """Raw quantiles in order and within bounds, which rows the stand-in answered, and why."""
        values, notes = None, []
        refused = np.ones(len(windows), np.bool_)
        if model is not None and len(windows):
            values, refused, why = self._ask(model, windows, limits)
            notes += [why] if why else []
        if self._shelf is not None and self._shelf.note:
            notes.append(self._shelf.note)
        if values is None:
            values = np.zeros((len(windows), self.horizon, len(self.quantiles)), np.float32)
        if refused.any():
            rows = np.flatnonzero(refused)
            part, mask = (
                (windows.values, windows.mask) if len(rows) == len(windows) else (windows.values[rows], windows.mask[rows])
            )
            values[rows] = naive(part, mask, season=self.settings.season, horizon=self.horizon, quantiles=self.quantiles)
        return tidy(values, limits, self.settings.max_ratio), refused, tuple(notes)

    def _ask(self, model: OnnxForecaster, windows: Windows, limits: Bounds) -> tuple[Floats32 | None, Mask, str]:
        """The model's answer if there is one, the rows that it must not be believed about, and why.

        Being slow is no strike: a busy machine would drop every model.
        """
        everyone = np.ones(len(windows), np.bool_)
        judged = int(np.count_nonzero(~limits.blank))
        answer: Floats32 | None = None
        try:
            said = self._runner.run(model, windows)
        except TimeoutError as slow:
            return None, everyone, f"{model.name}: {slow}; seasonal naive answers instead"
        except Exception as error:  # noqa: BLE001 - whatever the runtime raises, the stand-in answers
            refused, count, why = everyone, len(windows), f"{type(error).__name__}: {error}"
        else:
            refused, reasons = judge(said, limits, self.settings.max_ratio)
            count, why = int(np.count_nonzero(refused)), ", ".join(f"{n} {reason}" for reason, n in reasons.items())
            refused |= limits.blank
            said[refused] = 0.0
            answer = said
        if self._strikes.tell(count, judged) and self._shelf is not None:
            self._shelf.drop(f"{self._strikes.count} bad batches in a row, the last: {why}")
            refused = everyone
        return answer, refused, f"{model.name}: {why}; seasonal naive answers instead" if why else ""


class _Runner:
    """Runs a model in a thread of its own, so that a slow one costs ``timeout_s`` and not the tick."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._thread: threading.Thread | None = None

    def run(self, model: OnnxForecaster, windows: Windows) -> Floats32:
        """Its answer. Raises TimeoutError when it is slow or an earlier batch still runs, and what the model raises."""
        if self._thread is not None and self._thread.is_alive():
            raise TimeoutError("an earlier batch still runs")
        given_up = threading.Event()
        answers: list[Floats32 | Exception] = []

        def work() -> None:
            try:
                answers.append(model.infer(windows, given_up))
            except Exception as error:  # noqa: BLE001 - raised again where it can be handled
                answers.append(error)

        self._thread = threading.Thread(target=work, name="forecast", daemon=True)
        self._thread.start()
        self._thread.join(self._timeout_s)
        if not answers:
            given_up.set()
            raise TimeoutError(f"took more than {self._timeout_s:g} s")
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]
