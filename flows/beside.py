"""What a forecaster is told beside a history, by the same functions as in the worker: occasions, and what each series is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flows.history import History
from forecastle.predict.known import Almanac, check_columns, read_known, statics
from forecastle.types import Foreknown


def foreseen(almanac: Almanac, parameters: Mapping[str, Any], history: History) -> tuple[Foreknown, ...]:
    """What can be learned from ``history`` of the known inputs that ``parameters`` ask for. Raises ConfigError for others."""
    names = tuple(parameters.get("known", ()))
    check_columns(names, tuple(parameters.get("static", ())))
    return almanac.learned(names, history.keys, history.end, history.mask) if names else ()


def beside(
    almanac: Almanac, known: tuple[Foreknown, ...], static: Sequence[str], history: History, look_back: int
) -> dict[str, Any]:
    """``known`` float32[look_back + t, k] of each series and ``static`` float32[n, s], as far as there are any."""
    slots = history.values.shape[1] + look_back
    told = {"known": almanac.series(known, history.keys, history.end, slots)} if known else {}
    return {**told, "static": statics(history.keys, static)} if static else told


def of_manifest(almanac: Almanac, manifest: Mapping[str, Any], history: History) -> dict[str, Any]:
    """`beside` for an exported model."""
    return beside(almanac, read_known(manifest), manifest.get("static", ()), history, int(manifest["look_back"]))
