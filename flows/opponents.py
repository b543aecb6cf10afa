"""Two models of one kind as a worker would serve them, and what speaks against the first where both see the same slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.special import pdtrc

from flows import alarms, rolling
from flows.capacity import capacity_reasons, recommended
from flows.champion import admitted
from flows.findings import Findings, compared
from flows.history import History
from forecastle.detect.trial import attempt
from forecastle.errors import ModelRefused
from forecastle.ports import Artifact
from forecastle.predict.naive import QUANTILES
from forecastle.settings import Settings
from forecastle.types import Floats, Floats32, SeriesKey, Windows
from models.tail import detector_metrics

MAX_CHANGE = 0.5
"""95th percentile of the relative difference between the two models' quantiles on the same windows.

Of detectors the share of their alarms that the other does not raise.
"""
ORIGINS, SHOWN = 24, 5
MOST_SLOTS = 1440
"""Newest slots of a tail on which detectors, which see every one of them, are compared; a day of minutes."""
CHANCE, FEW = 0.01, 10
"""Probability below which more alarms than allowed are no chance; alarms from which their disagreement is judged."""


class Opponents(Protocol):
    """A candidate and the champion. To compare them takes more than ``least`` slots."""

    @property
    def least(self) -> int:
        """See above."""

    def on(self, history: History, *, tail: float, where: str, found: Findings | None = None) -> Findings:
        """On the last ``tail`` of a history; ``found`` is what is known of their errors already.

        Raises ConfigError when the tail is too short.
        """

    def without(self, found: Findings, why: str) -> Findings:
        """``found`` and what else can be told when there is no history to compare them on, which is ``why``."""


def opponents(settings: Settings, candidate: Artifact, present: Artifact | None, limit: float = MAX_CHANGE) -> Opponents | None:
    """Both as a worker would serve them; None when nothing that may serve holds the place.

    Raises ModelRefused when the candidate may not serve.
    """
    if candidate.manifest.get("kind") == "detector":
        attempt(candidate)
        challenger = alarms.served(settings, candidate)
        try:
            if present is None:
                return None
            return Detectors(settings, (candidate, present), (challenger, alarms.served(settings, present)), limit)
        except ModelRefused:
            return None
    answer = admitted(settings, candidate).infer
    try:
        return Forecasters(settings, (answer, admitted(settings, present).infer), limit) if present else None
    except ModelRefused:
        return None


@dataclass(frozen=True, slots=True)
class Forecasters:
    """Implements `Opponents` of the two ``answers``; their quantiles may differ by ``limit``, see `MAX_CHANGE`."""

    settings: Settings
    answers: tuple[rolling.Answer, rolling.Answer]
    limit: float

    @property
    def least(self) -> int:
        """The horizon."""
        return self.settings.predict.horizon

    def on(self, history: History, *, tail: float, where: str, found: Findings | None = None) -> Findings:
        """Errors by a margin, and bounds on the change of quantiles and of the capacity that they ask for."""
        settings, horizon = self.settings, self.settings.predict.horizon
        at = rolling.origins(history, horizon, tail=tail, count=ORIGINS)
        actual, size = rolling.actuals(history, at, horizon), rolling.scale(history, int(at[0]), settings.predict.season)
        said = [rolling.roll(history, at, answer, settings.window.look_back) for answer in self.answers]
        mine, theirs = (rolling.score(one[:, :, :horizon], actual, size, QUANTILES).metrics() for one in said)
        known = compared(mine, theirs, where, settings.train.margin) if found is None else found
        bounded = self._bounded(known, said[1], said[0], size)
        ordered = [recommended(settings, history.keys, one, QUANTILES) for one in said]
        strange = capacity_reasons(ordered[1], ordered[0], settings.train.max_capacity_change)
        unseen = _unseen(settings, ordered[0])
        return replace(bounded, reasons=bounded.reasons + tuple(f"{where} {one}" for one in strange), notes=unseen)

    def without(self, found: Findings, why: str) -> Findings:
        """Bounds the change on made-up demand."""
        windows = _ordinary(self.settings)
        size = np.maximum(np.nanstd(windows.values, axis=1), 1e-9).astype(np.float64)
        challenger, holder = self.answers
        bounded = self._bounded(found, holder(windows)[None], challenger(windows)[None], size)
        return replace(bounded, notes=(_unchecked(why),) if self.settings.fleet.workloads else _unseen(self.settings, {}))

    def _bounded(self, found: Findings, before: Floats32, after: Floats32, size: Floats) -> Findings:
        change, limit = rolling.change(before, after, size), self.limit
        reasons = found.reasons
        if not change <= limit:
            reasons += (
                f"its quantiles differ from the champion's by {change:.0%}, more than {limit:.0%}, on the same windows",
            )
        return replace(found, reasons=reasons, change=change)


@dataclass(frozen=True, slots=True)
class Detectors:
    """Implements `Opponents` of two ``models``, which ``watch`` as a worker would; a share ``limit`` of alarms may differ."""

    settings: Settings
    models: tuple[Artifact, Artifact]
    watch: tuple[alarms.Watch, alarms.Watch]
    limit: float

    @property
    def least(self) -> int:
        """What made-up anomalies need."""
        return alarms.LEAST_SLOTS

    def on(self, history: History, *, tail: float, where: str, found: Findings | None = None) -> Findings:
        """Anomalies missed by a margin, and bounds on the change of alarms: how many, and which."""
        settings, some = self.settings, alarms.sampled(history)
        share = min(tail, MOST_SLOTS / some.values.shape[1])
        first, step_ms = alarms.tail_of(settings, some, share), some.step_ms
        changed, events = alarms.made_up(some, first)
        made = [watch(changed, first) for watch in self.watch]
        told = [alarms.alarms(settings, watch(some, first), (), step_ms) for watch in self.watch]
        mine, theirs = (self._errors(i, some, first, alarms.finds(made[i], events, step_ms)) for i in (0, 1))
        known = compared(mine, theirs, where, settings.train.margin) if found is None else found
        days, counts = alarms.days(some, first), [int(one.sum()) for one in told]
        own = alarms.finds(replace(made[0], fired=made[0].own), events, step_ms)
        reasons = [*known.reasons, *self._silent(own, where), *self._louder(counts, days, where)]
        agreed = alarms.agreement(*told)
        change = None if agreed is None else 1 - agreed
        if change is not None and sum(counts) >= FEW and change > self.limit:
            reasons.append(f"{where} {change:.0%} of both models' alarms are of one alone, more than {self.limit:.0%}")
        rates = {"alarms": (counts[0] / days, counts[1] / days)} if days else {}
        return Findings(tuple(reasons), {**known.errors, **rates}, change)

    def without(self, found: Findings, why: str) -> Findings:
        """Says that alarms were not looked at."""
        return replace(found, notes=(f"the change of alarms was not checked: {why}",))

    def _errors(self, of: int, history: History, first: int, finds: alarms.Finds) -> dict[str, float]:
        model, slots = self.models[of], history.values.shape[1] - first
        errors = detector_metrics(model.path, model.manifest, history.keys, history.values, slots)
        known = {name: error for name, error in errors.items() if np.isfinite(error)}
        return known if finds.vus_pr is None else {"missed": 1 - finds.vus_pr, **known}

    def _silent(self, own: alarms.Finds, where: str) -> list[str]:
        if own.found:
            return []
        return [f"{where} it tells of none of {own.events} anomalies made up there; the built-in detectors need no such model"]

    def _louder(self, counts: list[int], days: float, where: str) -> list[str]:
        """By more than chance above what is allowed over the champion's alarms, or over the budget when it has fewer."""
        limit, budget = self.settings.train.max_alarm_change, self.settings.detect.budget
        allowed = (1 + limit) * max(counts[1], budget * days)
        if pdtrc(counts[0] - 1, allowed) >= CHANCE or counts[0] <= allowed:
            return []
        mine, theirs = (count / days for count in counts)
        told = f"{where} it raises {mine:.3g} alarms per series and day, the champion {theirs:.3g}"
        return [f"{told}; at most {1 + limit:.3g} times the champion's or detect.budget ({budget:g})"]


def _unseen(settings: Settings, ordered: Mapping[str, float]) -> tuple[str, ...]:
    """A note when some workload's capacity could not be compared."""
    names = [load.name for load in settings.fleet.workloads if load.name not in ordered]
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return (_unchecked(f"the history holds no demand of {', '.join(names[:SHOWN])}{more}"),)
    return () if ordered else (_unchecked("the settings name no workloads"),)


def _unchecked(why: str) -> str:
    return f"the change of recommended capacity was not checked: {why}"


def _ordinary(settings: Settings) -> Windows:
    """Made-up demand of 64 series: a daily wave of many sizes with noise, the same each time."""
    rng, look_back, step_ms = np.random.default_rng(0), settings.window.look_back, round(settings.window.step_s * 1000)
    phase = 2 * np.pi * (np.arange(look_back) / settings.predict.season + rng.random((64, 1)))
    values = np.geomspace(1, 1e4, 64)[:, None] * (1 + 0.5 * np.sin(phase)) * rng.lognormal(0, 0.05, (64, look_back))
    keys = tuple(SeriesKey(f"w{i}", "demand") for i in range(64))
    flags = np.zeros(64, np.bool_)
    return Windows(keys, 0, step_ms, values.astype(np.float32), np.ones(values.shape, np.bool_), flags, flags)
