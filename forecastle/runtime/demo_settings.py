"""How the demo configures the engine: the fleet that is in the wheel, and one file with what this run alone decides.

The file is written into the run's folder, so that ``forecastle plan``, ``explain`` and ``check`` can be pointed at it
afterwards: the demo has no private way into the engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from forecastle.runtime.config import load
from forecastle.settings import Settings

WORKER = "demo"
TOPIC = "demo.metrics"
STEP_MS = 60_000
LOOK_BACK = 2 * 1440
CLOUDS = ("aws", "gcp", "azure", "edge")
FLEET = Path(str(files("forecastle.runtime") / "demo_fleet.yaml"))


def configuration(out: Path, run: Mapping[str, Mapping[str, Any]], *, fleet: Path = FLEET, seed: int = 0) -> tuple[Path, ...]:
    """Write ``out/demo.yaml``, with ``run`` on top of what every demo needs. Returns the files to load, in order."""
    sections: dict[str, dict[str, Any]] = {
        "intake": {"topics": [TOPIC], "codecs": {TOPIC: "json"}, "max_poll_records": 2000},
        "window": {"step_s": STEP_MS // 1000, "look_back": LOOK_BACK, "lateness_s": 0},
        "predict": {"model": "", "season": 1440, "horizon": 30, "cache": str(out / "models")},
        "detect": {"model": "", "look_back": 360, "budget": 0.02, "min_effect": 0.25},
        "decide": {"heal_settle_s": 7200},
        "guards": {"stabilization_down_s": 300, "cooldown_down_s": 300, "step_down_fraction": 0.25},
        "act": {"verify_s": 0},
        "ledger": {"url": f"sqlite:///{out / 'ledger.db'}", "kill_file": str(out / "KILL")},
        "runtime": {"worker": WORKER, "clock": "event", "health": str(out / "health.json")},
        "clouds": {name: _cloud(out, name, seed) for name in CLOUDS},
    }
    for section, values in run.items():
        sections.setdefault(section, {}).update(values)
    path = out / "demo.yaml"
    path.write_text(json.dumps(sections, indent=1), "utf-8")
    return fleet, path


def settings(paths: tuple[Path, ...]) -> Settings:
    """The settings of these files alone: a demo listens to nobody's environment."""
    return load(paths, environment={})


def sim_path(out: Path) -> Path:
    """The sim cloud's file."""
    return out / "sim.db"


def _cloud(out: Path, name: str, seed: int) -> dict[str, Any]:
    options = {"path": str(sim_path(out)), "provider": name, "seed": seed}
    return {"adapter": "forecastle.clouds.sim:open_cloud", "options": options}
