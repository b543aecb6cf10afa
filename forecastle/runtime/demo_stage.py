"""The stage of a play: settings, fleet, demand and scenario, made before anything is started."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecastle.runtime.demo_settings import LOOK_BACK, STEP_MS, configuration, settings
from forecastle.runtime.inventory import inventory
from forecastle.runtime.world_demand import DAY_MS, DemandTable, generate
from forecastle.runtime.world_scenario import Scenario, draw, with_crowds
from forecastle.settings import Settings
from forecastle.types import Inventory

FIRST_DAY = 20_411 * DAY_MS
"""A generated play begins on Wednesday 2025-11-19, 00:00 UTC; the history is what came before."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What ``forecastle demo`` was asked for. ``trace``: a real demand instead of the generated fleet's."""

    trace: Path | None = None
    naive: bool = False
    days: float = 1.0
    seed: int = 0
    out: Path = Path("out/demo")


@dataclass(frozen=True, slots=True)
class Stage:
    """``table`` holds history and play; ticks from ``first`` to ``last`` (ms) are played. ``paths`` configure the worker."""

    settings: Settings
    paths: tuple[Path, ...]
    stock: Inventory
    table: DemandTable
    scenario: Scenario
    first: int
    last: int
    seed: int
    out: Path

    @property
    def windows_from(self) -> int:
        """First tick (ms) of the history that fills the windows."""
        return max(int(self.table.at[0]), self.first - LOOK_BACK * STEP_MS)


def generated(options: DemoOptions, history_ticks: int, run: Mapping[str, Mapping[str, Any]]) -> Stage:
    """The generated fleet with ``history_ticks`` of history before the play. ``run`` configures the engine further."""
    out = fresh(options.out)
    first = FIRST_DAY + STEP_MS
    ticks = max(round(options.days * 1440), 1)
    last = first + (ticks - 1) * STEP_MS
    paths = configuration(out, {**run, "runtime": {"not_before": first}}, seed=options.seed)
    chosen = settings(paths)
    stock = inventory(chosen)
    began = first - history_ticks * STEP_MS
    table = generate(list(stock.workloads.values()), began, history_ticks + ticks, STEP_MS, options.seed)
    scenario = draw(stock, first, last, options.seed)
    crowded = with_crowds(table, scenario, options.seed)
    return Stage(chosen, paths, stock, crowded, scenario, first, last, options.seed, out)


def fresh(out: Path) -> Path:
    """An empty folder for this run; what an earlier demo left there goes. Nothing else is ever deleted."""
    if (out / "demo.yaml").exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    return out.resolve()
