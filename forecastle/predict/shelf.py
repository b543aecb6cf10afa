"""Which model serves now: the one its pointer names, the last good one when that must not, none when there is none.

A look is one small file every ``poll_s``. What is refused is remembered by digest and not tried again; a missing or half
written file is. Nothing here raises for a model's fault: serving goes on with what there is, and `Shelf.note` says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from forecastle.errors import ModelRefused
from forecastle.predict.artifacts import cached, plain, pointed
from forecastle.predict.dropped import tell_dropped
from forecastle.predict.known import Almanac
from forecastle.predict.onnx import OnnxForecaster
from forecastle.settings import PredictSettings

log = logging.getLogger(__name__)


class Shelf:
    """``serving`` is the model in use, None when there is none. Raises ConfigError for a name that cannot be a file's."""

    def __init__(
        self,
        settings: PredictSettings,
        step_ms: int,
        quantiles: tuple[float, ...],
        clock: Callable[[], float],
        almanac: Almanac | None = None,
    ) -> None:
        self.serving: OnnxForecaster | None = None
        self.refused: dict[str, str] = {}
        self.note = ""
        self._name, self._alias, self._cache = plain(settings.model), plain(settings.alias), Path(settings.cache)
        self._settings, self._step_ms, self._quantiles, self._clock = settings, step_ms, quantiles, clock
        self._almanac = almanac
        self._previous: OnnxForecaster | None = None
        self._looked: float | None = None

    def look(self) -> None:
        """Follow the pointer if it has moved; at most every ``poll_s``. Loading a new model takes a second or two."""
        now = self._clock()
        if self._looked is not None and now - self._looked < self._settings.poll_s:
            return
        self._looked = now
        try:
            self.note = self._follow()
        except (ModelRefused, OSError) as error:
            self.note = str(error)

    def _follow(self) -> str:
        target = pointed(self._cache, self._name, self._alias)
        if target is None:
            if self.serving is not None:
                return ""
            return (
                f"no model: {self._cache / self._name / self._alias}.json is not there; run python -m forecastle.runtime.pull"
            )
        version, digest = target
        if digest in self.refused:
            return self.refused[digest]
        if self.serving is not None and digest == self.serving.digest:
            return ""
        fresh = self._load(version, digest)
        self._previous, self.serving = self.serving, fresh
        return ""

    def _load(self, version: str, digest: str) -> OnnxForecaster:
        if self._previous is not None and self._previous.digest == digest:
            return self._previous
        artifact = cached(self._cache, self._name, version, digest)
        try:
            return OnnxForecaster(
                artifact,
                step_ms=self._step_ms,
                horizon=self._settings.horizon,
                quantiles=self._quantiles,
                almanac=self._almanac,
            )
        except ModelRefused as error:
            self.refused[digest] = f"{self._name}@{digest[:12]} is refused: {error}"
            raise ModelRefused(self.refused[digest]) from error

    def drop(self, why: str) -> None:
        """Never serve the present model again; go back to the last good one."""
        if self.serving is None:
            return
        bad, self.serving, self._previous = self.serving, self._previous, None
        instead = self.serving.name if self.serving is not None else "seasonal naive"
        self.note = (
            f"{bad.name} was dropped ({why}); {instead} serves; "
            f"run forecastle models rollback {self._name} to move the alias {self._alias} back"
        )
        self.refused[bad.digest] = self.note
        try:
            tell_dropped(self._cache, self._name, self._alias, bad.digest, why)
        except OSError as error:
            log.warning("%s; the process that pulls models is not told: %s", self.note, error)
