"""From the registry to the disk of the machine that serves: the worker itself never waits for a registry.

The pointer moves only to a model that may serve, so that the last good one stays through an outage, a bad release and a
restart.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from forecastle.errors import ModelRefused, NotFound, Transient
from forecastle.ports import Artifact
from forecastle.predict.artifacts import point, pointed
from forecastle.predict.dropped import settle_dropped, told_dropped
from forecastle.predict.known import Almanac
from forecastle.predict.naive import QUANTILES
from forecastle.predict.onnx import OnnxForecaster
from forecastle.predict.registry import DirectoryRegistry, MlflowRegistry, open_registry
from forecastle.predict.trial import external
from forecastle.settings import Settings

log = logging.getLogger(__name__)
Admit = Callable[[Artifact], None]
Registry: TypeAlias = DirectoryRegistry | MlflowRegistry


class Puller:
    """Keeps the cache's pointers where the registry's alias points, for the forecaster and the detector of the settings.

    ``refused`` maps a model to why its newest version does not serve; ``served`` to the version that does.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.cache, self.alias = Path(settings.predict.cache), settings.predict.alias
        self.registry = registry
        self.served: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self._seen: dict[str, str] = {}
        step_ms, horizon = int(settings.window.step_s * 1000), settings.predict.horizon
        almanac = Almanac((), step_ms)  # for admission; the worker has the fleet's

        def forecaster(artifact: Artifact) -> None:
            OnnxForecaster(artifact, step_ms=step_ms, horizon=horizon, quantiles=QUANTILES, almanac=almanac)

        admits: list[tuple[str, Admit]] = [(settings.predict.model, forecaster), (settings.detect.model, _detector)]
        self._admits = {name: admit for name, admit in admits if name}

    def look(self) -> None:
        """Follow every alias that moved; one model's refusal holds up no other. Raises RegistryUnavailable."""
        for name, admit in self._admits.items():
            try:
                self._take_back(name)
                version = self.registry.resolve(name, self.alias)
                if self._seen.get(name) != version:
                    self._follow(name, version, admit)
            except NotFound as error:
                log.debug("%s", error)
            except ModelRefused as error:
                self.refused[name], self._seen[name] = str(error), version
                log.warning("refused, %s@%s stays: %s", name, self.served.get(name, "nothing"), error)

    def _take_back(self, name: str) -> None:
        """Point the alias back when it points at what a worker has dropped; once, whatever a person does afterwards."""
        dropped = told_dropped(self.cache, name, self.alias)
        if dropped is None:
            return
        now = _readable(self.cache, name, self.alias)
        if now is not None and now[1] == dropped.sha256 and self.registry.resolve(name, self.alias) == now[0]:
            try:
                before, after = self.registry.rollback(name, self.alias)
            except NotFound as error:
                log.warning("%s %s was dropped (%s) and stays the %s: %s", name, now[0], dropped.why, self.alias, error)
            except Transient as error:
                log.warning("%s %s was dropped (%s) and is not rolled back yet: %s", name, now[0], dropped.why, error)
                return
            else:
                log.warning("%s@%s: %s -> %s, rolled back: %s", name, self.alias, before, after, dropped.why)
        settle_dropped(self.cache, name, self.alias)

    def _follow(self, name: str, version: str, admit: Admit) -> None:
        now = _readable(self.cache, name, self.alias)
        if now is not None:
            self.served[name] = now[0]
        artifact = self.registry.pull(name, version, self.cache)
        if now != (version, artifact.sha256):
            if now is None or now[1] != artifact.sha256:
                admit(artifact)
            point(self.cache, name, self.alias, artifact)
            log.info("%s@%s: %s -> %s", name, self.alias, now[0] if now else "none", version)
        self.served[name] = self._seen[name] = version
        self.refused.pop(name, None)


def pull_once(settings: Settings, registry: Registry | None = None) -> dict[str, str]:
    """Pull what the alias points at now. Returns the version that serves of each model that has one.

    Raises ModelRefused when a newest version may not serve (the last good one stays), RegistryUnavailable or ConfigError.
    """
    puller = Puller(settings, registry or open_registry(settings.predict.registry))
    puller.look()
    if puller.refused:
        raise ModelRefused("\n".join(puller.refused.values()))
    return puller.served


def watch(settings: Settings, stop: threading.Event, registry: Registry | None = None) -> Puller:
    """Look every ``predict.poll_s`` until ``stop``; an outage is waited out. Returns the puller as it was left."""
    puller = Puller(settings, registry or open_registry(settings.predict.registry))
    while not stop.is_set():
        try:
            puller.look()
        except (Transient, OSError) as error:
            log.warning("serving the last good models: %s", error)
        stop.wait(settings.predict.poll_s)
    return puller


def _detector(artifact: Artifact) -> None:
    """What can be said of a detector without its room; the worker tries it before it serves."""
    kind = artifact.manifest.get("kind")
    if kind != "detector":
        raise ModelRefused(f"{artifact.path.parent}: its manifest says kind {kind!r}; name a detector in detect.model")
    try:
        elsewhere = external(artifact.path.read_bytes())
    except ValueError as error:
        raise ModelRefused(f"{artifact.path}: is no ONNX model; export it again") from error
    if elsewhere:
        raise ModelRefused(f"{artifact.path}: keeps weights in other files; export with external_data=False")


def _readable(cache: Path, name: str, alias: str) -> tuple[str, str] | None:
    try:
        return pointed(cache, name, alias)
    except ModelRefused as error:
        log.warning("%s", error)
        return None


if __name__ == "__main__":
    raise SystemExit("settings are read elsewhere; run python -m forecastle.runtime.pull")
