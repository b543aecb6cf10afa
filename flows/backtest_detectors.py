"""A detector and its peers over a history's tail: what they find, how soon, and how often they alarm for nothing.

The peers are the built-in detectors, which watch when no model does, a z-score and chance, which is what a score is worth that
knows nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows import alarms
from flows.alarms import LABELLED, Event, Finds, Heard
from flows.champion import champion
from flows.history import History, read_history
from flows.incidents import IncidentSpan, read_incidents
from forecastle.detect.injections import KINDS
from forecastle.outlets.page import Page
from forecastle.runtime.workshop import registry
from forecastle.settings import Settings
from forecastle.types import Mask

BUILT_IN, Z_SCORE, CHANCE = "built-in", "z-score", "chance"
SHOWN = 50


@dataclass(frozen=True, slots=True)
class Watched:
    """Detectors over the t columns from ``first`` on. ``heard`` is of the history as it was.

    ``alarms`` bool[n, t] of each are those that tell of no confirmed incident, ``real`` what it finds of these, ``made`` of
    anomalies made up in the history, by kind and of ``all``.
    """

    history: History
    first: int
    budget: float
    heard: Mapping[str, Heard]
    alarms: Mapping[str, Mask]
    real: Mapping[str, Finds]
    made: Mapping[str, Mapping[str, Finds]]

    def rate(self, model: str, row: int | slice = slice(None)) -> float | None:
        """False alarms per series and day; None where nothing was measured."""
        days = alarms.days(self.history, self.first, row)
        return float(self.alarms[model][row].sum()) / days if days else None


def watched(settings: Settings, file: str, labels: str, tail: float) -> Watched:
    """The champion, when there is one, and its peers. Raises ConfigError when the history is too short."""
    history, step_ms = read_history(settings, file), round(settings.window.step_s * 1000)
    first, watches = alarms.tail_of(settings, history, tail), {}
    if settings.predict.registry and settings.detect.model:
        found = champion(settings, registry(settings), settings.detect.model)
        if found is not None:
            watches[f"{found.name} {found.version}"] = alarms.served(settings, found)
    watches |= {BUILT_IN: alarms.served(settings, None), Z_SCORE: alarms.z_score(settings), CHANCE: alarms.chance(settings)}
    labelled = alarms.confirmed(history, first, labels_of(settings, labels))
    changed, events = alarms.made_up(alarms.sampled(history), first)
    heard = {name: watch(history, first) for name, watch in watches.items()}
    made = {name: watch(changed, first) for name, watch in watches.items()}
    return Watched(
        history,
        first,
        settings.detect.budget,
        heard,
        {name: alarms.alarms(settings, one, labelled, step_ms) for name, one in heard.items()},
        {name: alarms.finds(one, labelled, step_ms) for name, one in heard.items()},
        {name: _by_kind(one, events, step_ms) for name, one in made.items()},
    )


def _by_kind(heard: Heard, events: tuple[Event, ...], step_ms: int) -> dict[str, Finds]:
    told = {"all": alarms.finds(heard, events, step_ms)}
    for kind in KINDS:
        own, others = ([one for one in events if (one.kind == kind) is same] for same in (True, False))
        told[kind] = alarms.finds(heard, own, step_ms, others)
    return told


def labels_of(settings: Settings, where: str) -> tuple[IncidentSpan, ...]:
    """Incidents that people confirmed: those of a file (see `flows.incidents`), or of their words in the ``ledger``."""
    if where != "ledger":
        return read_incidents(Path(where)) if where else ()
    from forecastle.ledger.store import SqlLedger
    from forecastle.runtime.clocks import WallClock
    from forecastle.runtime.feedback import write_labels

    ledger = SqlLedger(settings.ledger, WallClock())
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "labels.jsonl"
            write_labels(ledger, path)
            return read_incidents(path)
    finally:
        ledger.close()


def metrics(result: Watched) -> dict[str, Any]:
    """The numbers by model, by kind of event and by series; None where there was nothing to measure."""
    kinds = [(kind, {model: told[kind] for model, told in result.made.items()}) for kind in KINDS]
    rows = [(kind, told) for kind, told in [(LABELLED, result.real), *kinds] if any(one.events for one in told.values())]
    return {
        "series": len(result.history.keys),
        "slots": result.history.values.shape[1] - result.first,
        "budget": result.budget,
        "models": {model: {**asdict(told["all"]), "false_alarms": result.rate(model)} for model, told in result.made.items()},
        "kinds": [{"kind": kind, "models": {model: asdict(one) for model, one in told.items()}} for kind, told in rows],
        "per_series": [
            {"series": str(key), "models": {model: {"false_alarms": result.rate(model, row)} for model in result.alarms}}
            for row, key in enumerate(result.history.keys)
        ],
    }


def report(result: Watched, told: Mapping[str, Any]) -> Page:
    """What is found overall and by kind, and which series alarm most; ``told``: `metrics`."""
    models = list(told["models"])
    page = Page("Backtest of detectors", f"{told['series']} series over {told['slots']} slots, judged one after the other")
    page.figures({f"VUS-PR, {model}": one["vus_pr"] for model, one in told["models"].items() if one["vus_pr"] is not None})
    page.text(
        f"VUS-PR, events found and delay are of anomalies made up in the tail; chance shows what a score is worth that knows "
        f"nothing. False alarms are per series and day, on the tail as it was; detect.budget is {told['budget']:g}."
    )
    page.heading("Detectors")
    columns = ["vus_pr", "events", "found", "delay_s", "false_alarms"]
    names = ["VUS-PR", "events", "share found", "delay, s", "false alarms"]
    page.table(["model", *names], [[model, *(one[c] for c in columns)] for model, one in told["models"].items()])
    for column, name in zip(columns[:1] + columns[2:4], names[:1] + names[2:4], strict=True):
        page.heading(f"{name} by kind of event")
        rows = [
            [row["kind"], row["models"][models[0]]["events"], *(one[column] for one in row["models"].values())]
            for row in told["kinds"]
        ]
        page.table(["kind", "events", *models], rows)
    page.heading("False alarms by series")
    first = models[0]
    worst = sorted(told["per_series"], key=lambda row: -(row["models"][first]["false_alarms"] or 0.0))
    page.text("" if len(worst) <= SHOWN else f"The worst {SHOWN} of {len(worst)}; metrics.json has them all.")
    cells = [[row["series"], *(one["false_alarms"] for one in row["models"].values())] for row in worst[:SHOWN]]
    page.table(["series", *models], cells)
    _noisiest(page, result, first)
    return page


def _noisiest(page: Page, result: Watched, model: str) -> None:
    history, row = result.history, int(np.argmax(result.alarms[model].sum(axis=1)))
    slots = history.values.shape[1] - result.first
    end = history.end - history.step_ms * np.arange(slots - 1, -1, -1, dtype=np.int64)
    measured = history.values[row, result.first :].astype(np.float64)
    page.heading("The series that alarms most")
    page.plot(str(history.keys[row]), end.tolist(), {"measured": measured})
    alarm = np.flatnonzero(result.alarms[model][row]).tolist()[:SHOWN]
    page.table(["alarm at (ms)", "measured"], [[int(end[i]), float(measured[i])] for i in alarm])
    page.plot(f"Score of {model}", end.tolist(), {"score": result.heard[model].score[row]})
