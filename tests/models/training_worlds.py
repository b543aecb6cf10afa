"""A forecaster small enough to train in a second, and series with an hourly cycle to train it on."""

from __future__ import annotations

from typing import Any

import numpy as np

TINY: dict[str, Any] = {
    "look_back": 120,
    "horizon": 10,
    "season": 60,
    "smooth": 2,
    "recent": 20,
    "patch": 10,
    "coarse": 10,
    "coarse_patch": 4,
    "width": 8,
    "blocks": 1,
    "hidden": 16,
    "steps": 200,
    "batch": 64,
    "learning_rate": 5e-3,
    "check_every": 25,
}
END = 28_333_334


def waves(count: int = 4, slots: int = 900, noise: float = 3.0) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    t = np.arange(slots)
    return [
        (10.0**i * (100 * (1 + 0.6 * np.sin(2 * np.pi * (t + 7 * i) / 60)) + rng.normal(0, noise, slots))).astype(np.float32)
        for i in range(count)
    ]
