"""The real forecaster and the real detectors, asked once for each history of windows, however many controllers ask.

What they answer is a function of the windows they were shown so far; a restarted controller shows them the same ones again.
A `Mind` follows its own history by digest: what was answered to it before is answered again, what is new is asked of the one
pair that has seen exactly that history, or of a new pair that is shown it first.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from forecastle.detect.engine import Detection
from forecastle.ports import Clock
from forecastle.predict.engine import Predictor
from forecastle.settings import Settings
from forecastle.types import Anomaly, Forecasts, Windows

Answer = tuple[Forecasts, tuple[Anomaly, ...]]


@dataclass
class Brain:
    """Answers by history, and the pair that gave the newest one."""

    settings: Settings
    clock: Clock
    answers: dict[bytes, Answer] = field(default_factory=dict)
    asked: int = 0

    def __post_init__(self) -> None:
        self.head = b""
        self._renew()

    def answer(self, before: bytes, now: bytes, past: list[Windows]) -> Answer:
        """What the pair says to the last of ``past``, whose digest is ``now``; ``before`` is that of the ones before it."""
        if now not in self.answers:
            if before != self.head:
                self._renew()
                for windows in past[:-1]:
                    self._ask(windows)
            self.answers[now] = self._ask(past[-1])
            self.head = now
        return self.answers[now]

    def _renew(self) -> None:
        self._predictor = Predictor(self.settings.predict, 60_000, clock=self.clock.monotonic)
        self._detection = Detection(self.settings.detect, 60_000)
        self._previous: Forecasts | None = None

    def _ask(self, windows: Windows) -> Answer:
        self.asked += 1
        forecasts = self._predictor.forecast(windows)
        anomalies = self._detection.detect(windows, self._previous)
        self._previous = forecasts
        return forecasts, anomalies


class Mind:
    """One controller's forecaster and detector."""

    name, look_back, horizon = "simulated", 24, 8
    quantiles = Predictor.quantiles

    def __init__(self, brain: Brain) -> None:
        self._brain = brain
        self._digest = b""
        self._past: list[Windows] = []

    def forecast(self, windows: Windows) -> Forecasts:
        """See `Brain`."""
        before = self._digest
        text = repr(windows.keys).encode() + windows.end.to_bytes(8, "big")
        arrays = (windows.values, windows.mask, windows.late, windows.suspect)
        self._digest = hashlib.sha256(before + text + b"".join(a.tobytes() for a in arrays)).digest()
        self._past.append(windows)
        self._answer = self._brain.answer(before, self._digest, self._past)
        return self._answer[0]

    def detect(self, windows: Windows, forecasts: Forecasts | None) -> tuple[Anomaly, ...]:
        """What was found in the windows just forecast."""
        return self._answer[1]
