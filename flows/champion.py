"""Forecasters from the registry as the worker would serve them, for the flows that judge them."""

from __future__ import annotations

from pathlib import Path

from forecastle.errors import NotFound
from forecastle.ports import Artifact, Registry
from forecastle.predict.naive import QUANTILES, naive
from forecastle.predict.onnx import OnnxForecaster
from forecastle.runtime.inventory import almanac
from forecastle.settings import Settings
from forecastle.types import Floats32, Windows


def admitted(settings: Settings, artifact: Artifact) -> OnnxForecaster:
    """The forecaster after the worker's own admission. Raises ModelRefused."""
    step_ms, horizon = round(settings.window.step_s * 1000), settings.predict.horizon
    return OnnxForecaster(artifact, step_ms=step_ms, horizon=horizon, quantiles=QUANTILES, almanac=almanac(settings))


def champion(settings: Settings, registry: Registry, name: str) -> Artifact | None:
    """What the alias points at, pulled to the cache; None when it points nowhere."""
    try:
        version = registry.resolve(name, settings.predict.alias)
    except NotFound:
        return None
    return registry.pull(name, version, Path(settings.predict.cache))


def stand_in(settings: Settings, windows: Windows) -> Floats32:
    """The seasonal-naive quantiles that serve when no model does."""
    return naive(windows.values, windows.mask, season=settings.predict.season, horizon=settings.predict.horizon)
