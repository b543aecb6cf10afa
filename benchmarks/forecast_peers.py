"""Forecasters of other packages on the benchmark's origins: statsforecast, neuralforecast and fracast, as they come.

They are no dependencies of ours: ``pip install -c constraints.txt -e '.[bench]'``. Each takes a panel, the columns of its
training span, the origins and the horizon, and returns quantiles 0.1 ... 0.9 as float64[n, o, h, 9]. None sees a column after
an origin.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable

import numpy as np
import pandas as pd

from forecastle.predict.batch.panel import QUANTILES, Panel

Forecast = Callable[[Panel, int, np.ndarray, int], np.ndarray]
_LEVELS = [20, 40, 60, 80]
_COLUMNS = [*(f"-lo-{level}" for level in _LEVELS[::-1]), "", *(f"-hi-{level}" for level in _LEVELS)]
_ETS_PAST = 2000
_MSTL_DAYS = 7
_FRACAST_PAST = 2048
_NHITS = {"max_steps": 1000, "inputs": 5, "windows": 256}


def auto_ets(panel: Panel, train: int, origins: np.ndarray, horizon: int) -> np.ndarray:  # noqa: ARG001 - fitted at each origin
    """Statsforecast's AutoETS without season (it has none beyond 24 steps), fitted to the newest 2,000 points."""
    from statsforecast.models import AutoETS

    return _statsforecast(AutoETS(season_length=1), _cut(panel, origins, _ETS_PAST), len(origins), horizon)


def mstl(panel: Panel, train: int, origins: np.ndarray, horizon: int) -> np.ndarray:  # noqa: ARG001 - fitted at each origin
    """Statsforecast's MSTL with a daily season and AutoETS on the trend, fitted to the newest week."""
    from statsforecast.models import MSTL

    return _statsforecast(MSTL(season_length=panel.day), _cut(panel, origins, _MSTL_DAYS * panel.day), len(origins), horizon)


def nhits(panel: Panel, train: int, origins: np.ndarray, horizon: int) -> np.ndarray:
    """Neuralforecast's NHITS with a multi-quantile loss: one model of all series of the training span.

    Its defaults, but for batches of 256 windows, not 1,024, which take a quarter of the time.
    """
    from neuralforecast import NeuralForecast
    from neuralforecast.losses.pytorch import MQLoss
    from neuralforecast.models import NHITS

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    size = _NHITS["inputs"] * horizon
    model = NHITS(
        h=horizon, input_size=size, max_steps=_NHITS["max_steps"], windows_batch_size=_NHITS["windows"],
        loss=MQLoss(quantiles=list(QUANTILES)), scaler_type="robust", random_seed=0,
        enable_progress_bar=False, logger=False, enable_checkpointing=False,
    )  # fmt: skip
    fitted = NeuralForecast(models=[model], freq=1)
    past = enumerate(panel.filled[:, :train])
    fitted.fit(_long({(k, 0): row[int(np.isfinite(row).argmax()) :] for k, row in past}))
    found = fitted.predict(df=_long(_cut(panel, origins, size)))
    columns = [name for name in found.columns if name.startswith("NHITS")]
    rows = found.sort_values(["unique_id", "ds"])[columns].to_numpy(float)
    return np.sort(rows, axis=1).reshape(-1, len(origins), horizon, len(QUANTILES))


def fracast(panel: Panel, train: int, origins: np.ndarray, horizon: int) -> np.ndarray:  # noqa: ARG001 - trained on other data
    """Fracast's bundled weights, zero-shot, from the newest 2,048 points."""
    from fracast import FracastModel

    model = FracastModel.from_pretrained(device="cpu")
    found = []
    for origin in origins:
        rows = np.stack(list(_cut(panel, np.array([origin]), _FRACAST_PAST).values())).astype(np.float32)
        parts = np.array_split(rows, -(-len(rows) // 64))
        found.append(np.concatenate([np.asarray(model.forecast_batch(part, horizon=horizon)) for part in parts]))
    return np.stack(found, axis=1).astype(float)


def installed() -> tuple[list[tuple[Forecast, bool]], list[str]]:
    """The peers that can run, with whether each is fast enough for all series of a set; and the packages that are missing."""
    peers = {
        "statsforecast": [(auto_ets, False), (mstl, False)],
        "neuralforecast": [(nhits, True)],
        "fracast": [(fracast, True)],
    }
    there = [package for package in peers if importlib.util.find_spec(package)]
    return [entry for package in there for entry in peers[package]], [package for package in peers if package not in there]


def _cut(panel: Panel, origins: np.ndarray, most: int) -> dict[tuple[int, int], np.ndarray]:
    """The newest ``most`` values of each series at each origin; a series that begins later is led by its first value."""
    out = {}
    for k, values in enumerate(panel.filled):
        first = int(np.isfinite(values).argmax())
        for o, origin in enumerate(origins.tolist()):
            recent = values[max(origin + 1 - most, 0) : origin + 1]
            out[k, o] = np.where(np.isfinite(recent), recent, values[first] if first <= origin else 0.0)
    return out


def _long(parts: dict[tuple[int, int], np.ndarray]) -> pd.DataFrame:
    """The form both Nixtla packages read; ids sort as the parts do."""
    ids = np.repeat([f"{k:04d}-{o:03d}" for k, o in parts], [len(part) for part in parts.values()])
    at = np.concatenate([np.arange(len(part)) for part in parts.values()])
    return pd.DataFrame({"unique_id": ids, "ds": at, "y": np.concatenate(list(parts.values())).astype(np.float64)})


def _statsforecast(model: object, parts: dict[tuple[int, int], np.ndarray], origins: int, horizon: int) -> np.ndarray:
    from statsforecast import StatsForecast
    from statsforecast.models import Naive

    engine = StatsForecast(models=[model], freq=1, n_jobs=1, fallback_model=Naive())
    found = engine.forecast(df=_long(parts), h=horizon, level=_LEVELS).sort_values(["unique_id", "ds"])
    rows = found[[f"{model}{column}" for column in _COLUMNS]].to_numpy(float)
    return rows.reshape(-1, origins, horizon, len(QUANTILES))
