"""The backtest's numbers are what they say, and the flow writes them beside a page."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).parents[1] / "predict"))
import tiny_models

from flows import rolling
from flows.backtest import Rolled, backtest, cohorts, report, rolled
from flows.history import History
from forecastle.errors import ConfigError
from forecastle.predict.naive import QUANTILES
from forecastle.predict.registry import DirectoryRegistry
from forecastle.settings import Settings
from forecastle.types import SeriesKey, Windows

pytestmark = pytest.mark.usefixtures("prefect_server")
STEP = 60_000
PEERS = ("seasonal naive", "last value", "ETS or Theta")
END = 1_767_225_600_000


def history(values: np.ndarray, names: tuple[str, ...] = ("shop", "api")) -> History:
    return History(tuple(SeriesKey(n, "load") for n in names[: len(values)]), values.astype(np.float32), END, STEP)


def waves(slots: int = 400, season: int = 60) -> np.ndarray:
    at = np.arange(slots)
    noise = np.random.default_rng(0).normal(0, 1, (2, slots))
    return np.array([[100.0], [1000.0]]) * (1 + 0.3 * np.sin(2 * np.pi * at / season)) + noise * [[2], [20]]


def write(path: Path, values: np.ndarray) -> str:
    """A history file in the form that samples are published from."""
    n, slots = values.shape
    at = END - STEP * np.arange(slots - 1, -1, -1)
    columns = {
        "workload": np.repeat(["shop", "api"][:n], slots),
        "metric": ["load"] * (n * slots),
        "timestamp": np.tile(at, n),
        "value": values.ravel(),
    }
    parquet.write_table(pa.table(columns), path)
    return str(path)


def settings(folder: Path, **predict: Any) -> dict[str, Any]:
    return {
        "predict": {"registry": str(folder / "registry"), "cache": str(folder / "cache"), "season": 60, **predict},
        "window": {"look_back": 200},
    }


def constant(level: float, spread: float = 1.0) -> rolling.Answer:
    offsets = spread * (np.array(QUANTILES) - 0.5)
    return lambda w: np.broadcast_to(level + offsets, (len(w), 5, len(QUANTILES))).astype(np.float32)


def test_windows_end_where_they_say_and_hold_nothing_later() -> None:
    told = history(np.arange(40.0).reshape(2, 20))
    seen = rolling.windows(told, 12, 8)
    assert seen.values.tolist() == [list(range(5, 13)), list(range(25, 33))]
    assert seen.end == END - 7 * STEP
    early = rolling.windows(told, 2, 5)
    assert early.mask.tolist() == [[False, False, True, True, True]] * 2
    assert rolling.windows(told, 19, 3).end == END


def test_origins_lie_in_the_tail_and_leave_room_for_the_horizon() -> None:
    told = history(np.zeros((1, 100)))
    at = rolling.origins(told, 5, tail=0.2, count=4)
    assert at.tolist() == [79, 84, 89, 94]
    assert rolling.origins(told, 5, tail=0.2, count=100).tolist() == list(range(79, 95))
    assert rolling.actuals(history(np.arange(100.0)[None]), at, 5)[-1, 0].tolist() == [95, 96, 97, 98, 99]
    with pytest.raises(ConfigError, match="horizon of 30"):
        rolling.origins(told, 30, tail=0.2, count=4)


def test_a_perfect_forecast_costs_nothing_and_a_constant_error_what_it_is() -> None:
    actual = np.full((3, 2, 5), 10.0, np.float32)
    size = np.array([2.0, 4.0])
    levels = QUANTILES
    perfect = np.full((3, 2, 5, len(levels)), 10.0, np.float32)
    assert rolling.score(perfect, actual, size, levels).metrics() == {"crps": 0.0, "mase": 0.0, "wql": 0.0}
    high = rolling.score(perfect + 2, actual, size, levels)
    assert high.mase == pytest.approx((2 / 2 + 2 / 4) / 2)
    assert high.coverage == (1.0,) * len(levels)
    assert high.pinball[5] == pytest.approx(0.5 * high.mase)
    low = rolling.score(perfect - 2, actual, size, levels)
    assert low.coverage == (0.0,) * len(levels)
    assert low.crps == pytest.approx(high.crps), "the levels are symmetric"
    assert low.wql == pytest.approx(2 / 10, rel=0.05), "the CRPS of a point is its absolute error"


def test_the_crps_of_a_normal_distribution_is_the_known_one() -> None:
    from scipy.special import ndtri

    rng = np.random.default_rng(0)
    actual = rng.normal(0, 1, (200, 10, 5)).astype(np.float32)
    forecast = np.broadcast_to(ndtri(QUANTILES), (*actual.shape, len(QUANTILES))).astype(np.float32)
    found = rolling.score(forecast, actual, np.ones(10), QUANTILES)
    assert found.crps == pytest.approx(0.5642, rel=0.03), "1 / sqrt(pi)"
    assert np.abs(np.array(found.coverage) - QUANTILES).max() < 0.02


def test_what_is_unknown_is_not_judged() -> None:
    actual = np.full((2, 1, 5), 10.0, np.float32)
    forecast = np.full((2, 1, 5, len(QUANTILES)), 10.0, np.float32)
    actual[1], forecast[1] = np.nan, 1e6
    assert rolling.score(forecast, actual, np.ones(1), QUANTILES).crps == 0.0
    with pytest.raises(ConfigError, match="longer history"):
        rolling.score(forecast, np.full_like(actual, np.nan), np.ones(1), QUANTILES)


def test_the_scale_is_the_error_of_repeating_the_season() -> None:
    season = np.tile([0.0, 10.0, 0.0, 20.0], 10)[None]
    told = history(season + np.arange(40) // 4)
    assert rolling.scale(told, 39, 4) == pytest.approx([1.0])
    assert rolling.scale(told, 39, 1000)[0] > 5, "without a season before, the change over one step"
    assert rolling.scale(history(np.zeros((1, 40))), 39, 4).tolist() == [1.0]
    later = season.copy()
    later[:, 30:] = 1e9
    assert rolling.scale(history(later), 29, 4) == rolling.scale(history(season), 29, 4), "what comes later is not known"


def test_change_is_relative_to_the_size_of_a_series() -> None:
    before = np.full((4, 2, 5, 11), 10.0, np.float32)
    before[:, 1] = 1000.0
    assert rolling.change(before, before, np.ones(2)) == 0.0
    assert rolling.change(before, before * 1.2, np.ones(2)) == pytest.approx(0.2, rel=1e-3)
    assert rolling.change(before * 0, before * 0 + 1, np.full(2, 4.0)) == pytest.approx(0.25)


def test_errors_of_series_average_to_the_errors_of_all() -> None:
    rng = np.random.default_rng(1)
    actual = rng.normal(10, 2, (6, 3, 5)).astype(np.float32)
    actual[:, 2], actual[:3, 1] = np.nan, np.nan
    forecast = np.sort(rng.normal(10, 2, (6, 3, 5, len(QUANTILES))), axis=-1).astype(np.float32)
    size = np.array([1.0, 2.0, 3.0])
    whole, each = rolling.score(forecast, actual, size, QUANTILES), rolling.by_series(forecast, actual, size, QUANTILES)
    assert np.isnan([each.crps[2], each.mase[2], each.cover_90[2]]).all()
    assert whole.crps == pytest.approx((2 * each.crps[0] + each.crps[1]) / 3)
    assert whole.mase == pytest.approx((2 * each.mase[0] + each.mase[1]) / 3)
    alone = rolling.score(forecast[:, 1:2], actual[:, 1:2], size[1:2], QUANTILES)
    assert each.crps[1] == pytest.approx(alone.crps)
    inside = (forecast[:, 0, :, 1] <= actual[:, 0]) & (actual[:, 0] <= forecast[:, 0, :, -2])
    assert each.cover_90[0] == pytest.approx(inside.mean())
    assert each.of(np.array([0, 2]))["crps"] == pytest.approx(each.crps[0]), "what nothing came of does not count"
    assert each.of(np.array([2])) == {"crps": None, "mase": None, "cover_90": None}


def judged(values: np.ndarray, **answers: rolling.Answer) -> Rolled:
    known = Settings.model_validate({"predict": {"season": 60, "horizon": 5}, "window": {"look_back": 50}})
    names = tuple(f"w{i}" for i in range(len(values)))
    return rolled(known, history(values, names), answers, tail=0.2, count=10)


def test_cohorts_are_means_over_their_series_and_sizes_are_thirds() -> None:
    values = np.random.default_rng(0).normal(0, 1, (7, 300)) + 10.0 ** np.arange(7)[::-1, None]
    result = judged(values, flat=constant(0.0))
    rows = {(row["by"], row["cohort"]): row for row in cohorts(result)}
    assert [rows["size", name]["series"] for name in ("small", "medium", "large")] == [3, 2, 2]
    large = rows["size", "large"]["models"]["flat"]["mase"]
    assert large == pytest.approx(result.series["flat"].mase[:2].mean()), "the first two are the largest"
    assert rows["metric", "load"]["series"] == 7
    assert rows["workload", "w3"]["models"]["flat"]["crps"] == pytest.approx(result.series["flat"].crps[3])


def test_the_hardest_series_is_hard_for_its_size() -> None:
    """The large one errs by more and is forecast far better than the small one, whose noise the answer does not know."""
    rng = np.random.default_rng(0)
    large, small = 1e6 + 1e4 * rng.normal(0, 1, 300), np.concatenate([rng.normal(0, 1, 240), rng.normal(50, 1, 60)])
    offsets = np.array(QUANTILES) - 0.5

    def answer(windows: Windows) -> np.ndarray:
        level = np.array([1e6, 0.0])[:, None, None]
        return np.broadcast_to(level + offsets, (2, 5, len(QUANTILES))).astype(np.float32)

    text = report(judged(np.array([large, small]), known=answer)).html()
    assert "w1:load</figcaption>" in text
    assert "w0:load</figcaption>" not in text


def test_the_page_has_the_worst_series_first_and_does_not_grow_with_the_fleet() -> None:
    values = np.random.default_rng(0).normal(0, 1, (60, 200))
    values[7, 160:] += 1000
    text = report(judged(values, zero=constant(0.0))).html()
    assert "The worst 50 of 60" in text
    rows = re.findall(r"<td>(w\d+:load)</td>", text)
    assert (len(rows), rows[0]) == (50, "w7:load")


def test_the_flow_judges_the_champion_beside_the_stand_in(tmp_path: Path) -> None:
    store = DirectoryRegistry(tmp_path / "registry")
    for lift in (0.0, 0.5):
        manifest = tiny_models.forecaster(tmp_path / "new.onnx", lift=lift)
        version = store.publish("forecaster", tmp_path / "new.onnx", manifest, {})
    store.promote("forecaster", "1", "champion")
    file = write(tmp_path / "history.parquet", waves())
    metrics = asyncio.run(backtest(settings=settings(tmp_path), history=file, out=str(tmp_path / "out"), count=20))
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert list(metrics["models"]) == ["forecaster 1", *PEERS], version
    champion, stand_in, last, smoothing = metrics["models"].values()
    assert champion["mase"] == pytest.approx(last["mase"]), "the tiny model's median is the last value"
    assert smoothing["crps"] < last["crps"], "which has no spread"
    assert champion["crps"] > 2 * stand_in["crps"] > 0, "the last value misses the wave that the season knows"
    assert len(champion["coverage"]) == len(QUANTILES) == len(champion["pinball"])
    assert len(champion["mase_by_step"]) == 30
    assert champion["mase_by_step"][0] < champion["mase_by_step"][20]
    assert stand_in["coverage"] == sorted(stand_in["coverage"])
    assert (metrics["series"], metrics["origins"]) == (2, 20)
    assert [row["series"] for row in metrics["per_series"]] == ["api:load", "shop:load"]
    of = [row["models"]["forecaster 1"] for row in metrics["per_series"]]
    assert np.mean([one["crps"] for one in of]) == pytest.approx(champion["crps"], rel=1e-3), "nothing is missing"
    assert 0 < of[0]["cover_90"] < 1
    assert {(row["by"], row["cohort"], row["series"]) for row in metrics["cohorts"]} == {
        ("metric", "load", 2), ("workload", "api", 1), ("workload", "shop", 1), ("size", "small", 1), ("size", "medium", 1)
    }  # fmt: skip
    page = (tmp_path / "out" / "report.html").read_text()
    for told in ("forecaster 1", "Calibration", "Errors by workload", "Errors by size", "<td>api:load</td>", *PEERS):
        assert told in page
    store.promote("forecaster", "2", "champion")
    worse = asyncio.run(backtest(settings=settings(tmp_path), history=file, out=str(tmp_path / "out2"), count=20))
    assert worse["models"]["forecaster 2"]["crps"] > champion["crps"], "the alias decides which version is rolled"


@pytest.mark.parametrize("registered", [True, False])
def test_without_a_champion_the_stand_in_is_judged_alone(tmp_path: Path, registered: bool) -> None:
    file = write(tmp_path / "history.parquet", waves())
    known = settings(tmp_path) if registered else settings(tmp_path, registry="")
    metrics = asyncio.run(backtest(settings=known, history=file, out=str(tmp_path / "out"), count=5))
    assert list(metrics["models"]) == list(PEERS)


def test_a_history_that_is_too_short_says_what_is_needed(tmp_path: Path) -> None:
    file = write(tmp_path / "history.parquet", waves(slots=100))
    with pytest.raises(ConfigError, match="must hold more than the horizon of 30"):
        asyncio.run(backtest(settings=settings(tmp_path), history=file, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_none_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.parquet"):
        asyncio.run(backtest(settings=settings(tmp_path), history=str(tmp_path / "nowhere.parquet"), out=str(tmp_path)))
