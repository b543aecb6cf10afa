"""Detection whose learned model follows a pointer on disk: swapped between ticks, the built-in detectors alone without one.

A model is tried in a process of its own before it serves and dropped when it fails later; what was refused is remembered by
digest. Detection never stops for a model's fault.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np

from forecastle.detect.engine import RING, Detection
from forecastle.detect.foresight import ScoreRing
from forecastle.detect.onnx import OnnxScorer
from forecastle.detect.trial import attempt
from forecastle.detect.voices import Voices
from forecastle.errors import ConfigError, ModelRefused
from forecastle.ports import Artifact
from forecastle.settings import DetectSettings
from forecastle.types import Anomaly, Floats32, Forecasts, Windows

log = logging.getLogger(__name__)
Pointed = Callable[[], tuple[str, str] | None]
Fetch = Callable[[str, str], Artifact]


class SwappingDetection(Detection):
    """`Detection` with the model that ``pointed`` names by (version, sha256) and ``fetch`` loads from disk.

    It looks at most every ``poll_s``; a file that is missing is looked for again, one that may not serve is not:
    ``refused`` maps its digest to why.
    """

    def __init__(
        self,
        settings: DetectSettings,
        step_ms: int,
        pointed: Pointed,
        fetch: Fetch,
        *,
        poll_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(settings, step_ms)
        self.refused: dict[str, str] = {}
        self._pointed, self._fetch, self._poll_s, self._clock = pointed, fetch, poll_s, clock
        self._digest = ""
        self._looked: float | None = None

    def detect(self, windows: Windows, forecasts: Forecasts | None) -> tuple[Anomaly, ...]:
        """As `Detection.detect`, with the model of this tick."""
        self._look()
        return super().detect(windows, forecasts)

    def _look(self) -> None:
        now = self._clock()
        if self._looked is not None and now - self._looked < self._poll_s:
            return
        self._looked = now
        try:
            target = self._pointed()
            if target is None or target[1] == self._digest or target[1] in self.refused:
                return
            artifact = self._fetch(*target)
        except ModelRefused as error:
            log.warning("detector: %s goes on: %s", self.name, error)
            return
        self._take(artifact)

    def _take(self, artifact: Artifact) -> None:
        try:
            voices = Voices.of(artifact)
            attempt(artifact)
            scorer = OnnxScorer(artifact)
        except (ConfigError, ModelRefused) as error:
            self._refuse(artifact.sha256, str(error))
            return
        self._digest = artifact.sha256
        self._equip(_Watched(scorer, self._dropped), voices)

    def _equip(self, scorer: _Watched | None, voices: Voices) -> None:
        """Another model's scores say nothing about this one's: its thresholds start afresh."""
        self.scorer, self.voices = scorer, voices
        self.name = "built-in" if scorer is None else f"built-in+{scorer.name}"
        self._rings["model"] = ScoreRing(RING)
        log.info("detector: %s", self.name)

    def _refuse(self, digest: str, why: str) -> None:
        self.refused[digest] = why
        log.warning("detector: refused, %s goes on: %s", self.name, why)

    def _dropped(self, why: str) -> None:
        self._refuse(self._digest, why)
        self._digest = ""
        self._equip(None, Voices({}))


class _Watched:
    """A scorer that says nothing, instead of raising, when its model fails."""

    def __init__(self, scorer: OnnxScorer, failed: Callable[[str], None]) -> None:
        self.name = scorer.name
        self._scorer, self._failed = scorer, failed

    def score(self, windows: Windows) -> tuple[Floats32, Floats32]:
        try:
            return self._scorer.score(windows)
        except Exception as error:  # noqa: BLE001 - whatever ONNX Runtime raises, the built-in detectors go on
            self._failed(f"{self.name} failed on {len(windows)} series: {error}")
            return np.full(len(windows), np.nan, np.float32), np.full(len(windows), np.nan, np.float32)
