"""A model that is told of occasions forecasts them; told nothing it is the model that it would be without."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from training_worlds import END, TINY, waves

from features import plan_hash
from forecastle.errors import ConfigError
from forecastle.ports import Artifact
from forecastle.predict.artifacts import sha256
from forecastle.predict.known import Almanac
from forecastle.predict.naive import QUANTILES
from forecastle.predict.onnx import OnnxForecaster
from forecastle.types import Demand, Event, Floats, Holidays, SeriesKey, Windows, Workload
from models.leave import FEATURES
from models.patch_mixer import PatchMixer, build, export, train
from models.pinball import pinball_score
from models.tail import forecaster_metrics
from models.windows import Batch, Panel, untold

HOUR = 3_600_000
LAST = int(datetime(2026, 7, 1, tzinfo=UTC).timestamp() * 1000)
SLOTS, TEST = 24 * 90, 24 * 30
TOLD: dict[str, Any] = {"known": ["holiday", "event"], "static": ["metric=rps", "label.tier=web"]}
SMALL: dict[str, Any] = {
    "step_ms": HOUR,
    "look_back": 120,
    "horizon": 12,
    "season": 24,
    "smooth": 1,
    "recent": 24,
    "patch": 8,
    "coarse": 10,
    "coarse_patch": 4,
    "width": 16,
    "blocks": 1,
    "hidden": 32,
    "steps": 200,
    "batch": 64,
    "learning_rate": 5e-3,
    "check_every": 25,
    "patience": 40,
    "drop": 0.1,
}
PLACES = (("DE", "Europe/Berlin"), ("FR", "Europe/Paris"), ("US", "America/New_York"), ("JP", "Asia/Tokyo"))


class Fleet:
    """Daily waves; public holidays halve demand, which no configuration says, and planned events do what was planned."""

    def __init__(self, count: int = 12) -> None:
        rng = np.random.default_rng(0)
        self.keys = tuple(SeriesKey(f"w{i}", "rps") for i in range(count))
        self.almanac = Almanac([self._workload(rng, i) for i in range(count)], HOUR)
        seen = np.ones((count, SLOTS - TEST), bool)
        self.learned = self.almanac.learned(("holiday", "event"), self.keys, LAST - TEST * HOUR, seen)
        told = np.stack(self.almanac.series(self.learned, self.keys, LAST, SLOTS))
        wave = 1 + 0.4 * np.sin(2 * np.pi * (np.arange(SLOTS) + rng.integers(0, 24, (count, 1))) / 24)
        demand = np.exp(rng.normal(4, 1, (count, 1))) * wave * rng.lognormal(0, 0.05, (count, SLOTS))
        self.values = (demand * np.where(told[..., 0] > 0, 0.5, 1.0) * np.exp(told[..., 1])).astype(np.float32)

    @staticmethod
    def _workload(rng: np.random.Generator, i: int) -> Workload:
        country, zone = PLACES[i % len(PLACES)]
        starts = LAST - HOUR * rng.integers(8, SLOTS - 8, 8)
        events = tuple(
            Event("sale", int(s), int(s) + HOUR * int(n), float(f))
            for s, n, f in zip(starts, rng.integers(3, 7, 8), rng.choice([1.5, 2.0, 3.0], 8), strict=True)
        )
        return Workload(f"w{i}", (Demand(SeriesKey(f"w{i}", "rps"), 1.0),), (), events=events, holidays=Holidays(country, zone))

    def trained(self, **parameters: Any) -> PatchMixer:
        """On all but the last 30 days."""
        end = LAST - TEST * HOUR
        told = self.almanac.series(self.learned, self.keys, end, SLOTS - TEST + SMALL["look_back"])
        more = {"known": told} if parameters else {}
        past = list(self.values[:, :-TEST])
        return train({**SMALL, **parameters}, past, [end // 60_000] * len(past), progress=False, **more)[0]

    def windows(self) -> Batch:
        """Every third window whose targets lie in the last 30 days."""
        told = self.almanac.series(self.learned, self.keys, LAST, SLOTS)
        shape = SMALL["look_back"], SMALL["horizon"], HOUR
        panel = Panel.of(list(self.values), [LAST // 60_000] * len(self.keys), *shape, known=told)
        ends = np.arange(panel.end - TEST, panel.end - panel.horizon + 1, 3)
        rows, columns = (one.ravel() for one in np.meshgrid(np.arange(len(self.keys)), ends, indexing="ij"))
        return panel.at(rows, columns)


def asked(model: torch.nn.Module, batch: Batch) -> Floats:
    with torch.no_grad():
        return model(**{name: torch.from_numpy(part) for name, part in batch.inputs.items()}).numpy()


def test_a_model_that_is_told_is_better_under_occasions_and_no_worse_without() -> None:
    """On 30 days that neither has seen; the same parameters, seed, data and steps."""
    fleet = Fleet()
    batch = fleet.windows()
    blind = asked(fleet.trained(), batch._replace(known=None))
    told = asked(fleet.trained(known=["holiday", "event"]), batch)
    under = batch.known[:, SMALL["look_back"] :].any(axis=2)
    scale = batch.scale[:, None]

    def loss(said: Floats, where: Any) -> float:
        return pinball_score(said / scale[..., None], np.where(where, batch.target / scale, np.nan), list(QUANTILES))

    losses = {name: (loss(blind, where), loss(told, where)) for name, where in (("under", under), ("outside", ~under))}
    assert under.mean() > 0.01
    assert losses["under"][1] < 0.5 * losses["under"][0]
    assert losses["outside"][1] <= losses["outside"][0]


def test_told_nothing_a_model_is_bit_by_bit_the_one_without_those_inputs() -> None:
    plain, more = build(TINY), build({**TINY, **TOLD})
    shared = plain.state_dict()
    assert all(torch.equal(value, more.state_dict()[name]) for name, value in shared.items())
    with torch.no_grad():
        for part in more.told.parameters():
            part.normal_()
        more.told.own.bias.zero_()
    values = torch.from_numpy(np.stack([one[:120] for one in waves()]))
    shown = values, torch.ones_like(values), torch.arange(4)
    known, static = torch.zeros(4, 130, 2), torch.zeros(4, 2)
    with torch.no_grad():
        assert torch.equal(plain(*shown), more(*shown, known, static))
        assert torch.equal(plain(*shown), more(*shown))
        assert not torch.equal(plain(*shown), more(*shown, known + 1, static))


Made = tuple[PatchMixer, Path, dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Untrained, but for what an occasion does."""
    cfg, path = {**SMALL, **TOLD}, tmp_path_factory.mktemp("told") / "model.onnx"
    module = build(cfg)
    with torch.no_grad():
        for part in (*module.told.parameters(), module.traits.weight):
            part.normal_(std=0.1)
        module.told.effect.weight.copy_(torch.tensor([[-0.5, 1.0, 0.0, 1.0]]))
    return module, path, export(module, path, cfg)


def test_the_file_answers_any_batch_like_the_model_with_what_it_is_told(made: Made) -> None:
    module, path, manifest = made
    assert manifest["inputs"] == ["values", "mask", "end_minute", "known", "static"]
    assert manifest["known"] == [{"name": name, "low": 0.0, "high": 0.0} for name in TOLD["known"]]
    assert manifest["static"] == TOLD["static"]
    told = ((), (["event"],), (TOLD["known"],), (TOLD["known"], TOLD["static"]))
    assert len({plan_hash(FEATURES, *more) for more in told}) == 4
    assert manifest["feature_hash"] == plan_hash(FEATURES, TOLD["known"], TOLD["static"])
    assert 0 <= manifest["parity"] <= 1e-4
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 256):
        values = np.stack([np.roll(waves(1)[0], i)[:120] for i in range(n)])
        known = (rng.normal(size=(n, 132, 2)) * (rng.random((n, 132, 1)) < 0.5)).astype(np.float32)
        static = (rng.random((n, 2)) < 0.5).astype(np.float32)
        feed = {"values": values, "mask": np.ones_like(values), "end_minute": np.arange(n), "known": known, "static": static}
        shown = [torch.from_numpy(part) for part in feed.values()]
        with torch.no_grad():
            wanted, blind = module(*shown).numpy(), module(*shown[:3]).numpy()
        got = session.run(["quantiles"], feed)[0]
        assert (np.abs(got - wanted).max(axis=(1, 2)) <= 1e-4 * np.abs(wanted).max(axis=(1, 2))).all()
        assert (np.diff(got, axis=2) >= 0).all()
        assert (np.abs(got - blind).max(axis=(1, 2)) > 1e-3 * np.abs(wanted).max(axis=(1, 2))).all()


def test_a_window_of_the_panel_is_told_what_the_worker_is_told() -> None:
    fleet = Fleet(3)
    batch = fleet.windows()
    served = Almanac.at(fleet.almanac, fleet.learned, fleet.keys, int(batch.end_minute[40]) * 60_000, 120, 12)
    rows = np.flatnonzero(batch.end_minute == batch.end_minute[40])
    np.testing.assert_array_equal(batch.known[rows], served[0:3])
    assert batch.known.any()


def test_known_inputs_that_are_one_object_are_kept_once_and_short_ones_end_where_the_series_does() -> None:
    one, other = np.ones((900, 2), np.float32), np.full((30, 2), 2, np.float32)
    panel = Panel.of(waves(3), [END] * 3, 120, 10, 60_000, known=[one, other, one], static=np.eye(3, dtype=np.float32))
    assert panel.known.shape == (2, 1020, 2)
    batch = panel.at(np.array([0, 1, 2]), np.array([1000, 1000, 130]))
    assert batch.known[0].min() == 1
    assert np.flatnonzero(batch.known[1, :, 0]).tolist() == list(range(110, 130))
    assert np.flatnonzero(batch.known[2, :, 1]).tolist() == list(range(110, 130))
    assert batch.static.tolist() == np.eye(3).tolist()


def test_windows_are_told_nothing_now_and_then() -> None:
    batch = Fleet(3).windows()
    batch = batch._replace(known=np.ones_like(batch.known), static=np.ones((len(batch.mask), 2), np.float32))
    told = untold(batch, np.random.default_rng(0), 0.25)
    assert 0.2 < (told.known == 0).all(axis=(1, 2)).mean() < 0.3
    np.testing.assert_array_equal((told.known == 0).all(axis=(1, 2)), (told.static == 0).all(axis=1))
    rng = np.random.default_rng(0)
    plain = batch._replace(known=None, static=None)
    assert untold(plain, rng, 0.25) is plain
    assert rng.random() == np.random.default_rng(0).random()


def test_static_columns_tell_series_apart_that_look_alike() -> None:
    """One kind doubles in the next hour and the other halves, after windows that are the same noise."""
    rng = np.random.default_rng(0)
    t, kind = np.arange(900), np.repeat([0, 1], 8)
    jump = np.where((t // 10) % 2, 1.0, np.where(kind[:, None], 2.0, 0.5))
    values = (100 * jump * rng.lognormal(0, 0.02, (16, 900))).astype(np.float32)
    cfg = {**TINY, "season": 0, "recent": 10, "look_back": 40, "steps": 150}
    losses = {}
    for static in ([], ["metric=up"]):
        more = {"static": kind[:, None].astype(np.float32)} if static else {}
        losses[len(static)] = train({**cfg, "static": static}, list(values), [END] * 16, progress=False, **more)[1][
            "held_out_pinball"
        ]
    assert losses[1] < losses[0]


def test_the_tail_of_a_model_with_known_inputs_is_measured_with_and_without_them(made: Made) -> None:
    _, path, manifest = made
    values, at = np.stack(waves()), np.arange(900)[:, None]
    busy = [((at > 850) * np.ones(2)).astype(np.float32)] * 4
    given = {"known": busy, "static": np.zeros((4, 2), np.float32)}
    told, blind = (forecaster_metrics(path, manifest, values, END, 100, **more) for more in (given, {}))
    zeros = [np.zeros((900, 2), np.float32)] * 4
    assert blind == forecaster_metrics(path, manifest, values, END, 100, known=zeros)
    assert told["tail_pinball"] > blind["tail_pinball"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"known": ["weather"]}, r"unknown known inputs \['weather'\]; there are \['holiday', 'event'\]"),
        ({"known": "holiday"}, "write a list of words"),
        ({"static": ["tier=web"]}, r"write metric=NAME or label\.NAME=VALUE"),
        ({"static": ["metric=a", "metric=a"]}, "must not name a column twice"),
        ({"known_drop": 1.5}, r"known_drop 1.5 must be a share within \[0, 1\]"),
    ],
)
def test_a_wrong_column_is_named_with_its_fix(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({**TINY, **change})


def test_the_worker_serves_what_was_exported(made: Made) -> None:
    """The same answers through admission, almanac and chunks as from the module with the panel's inputs."""
    module, path, manifest = made
    fleet = Fleet(3)
    told = {**manifest, "known": [{"name": one.name, "low": one.low, "high": one.high} for one in fleet.learned]}
    artifact = Artifact("forecaster", "1", path, sha256(path), told)
    served = OnnxForecaster(artifact, step_ms=HOUR, horizon=12, quantiles=QUANTILES, almanac=fleet.almanac)
    batch = fleet.windows()
    end = int(batch.end_minute[np.flatnonzero(batch.known.any(axis=(1, 2)))[0]])
    rows, no = np.flatnonzero(batch.end_minute == end), np.zeros(3, bool)
    windows = Windows(fleet.keys, end * 60_000, HOUR, batch.values[rows], batch.mask[rows] > 0, no, no)
    shown = Batch(*(None if part is None else part[rows] for part in batch))
    rps = np.tile(np.float32([1, 0]), (3, 1))
    assert served.infer(windows) == pytest.approx(asked(module, shown._replace(static=rps)), rel=1e-3)
