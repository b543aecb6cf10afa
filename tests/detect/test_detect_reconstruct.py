from __future__ import annotations

import importlib

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop needs torch: pip install 'forecastle[train]'")
reconstruct = importlib.import_module("models.reconstruct")

from forecastle.detect.engine import Detection  # noqa: E402
from forecastle.detect.groups import gather, grouped  # noqa: E402
from forecastle.detect.onnx import OnnxScorer  # noqa: E402
from forecastle.errors import ModelRefused  # noqa: E402
from forecastle.ports import Artifact  # noqa: E402
from forecastle.settings import DetectSettings  # noqa: E402
from forecastle.types import SeriesKey, Windows  # noqa: E402

STEP = 60_000
SMALL = {"look_back": 32, "channels": 4, "width": 24, "steps": 250, "check_every": 25, "batch": 64}


def fleet(workloads=6, slots=900, seed=0):
    """Three metrics that hang together: latency and cpu follow requests."""
    rng = np.random.default_rng(seed)
    at = np.arange(slots)
    keys, rows = [], []
    for w in range(workloads):
        load = 100 + 40 * np.sin(2 * np.pi * at / 300 + w) + rng.normal(0, 6, slots).cumsum() * 0.2
        for metric, values in (
            ("requests", load + rng.normal(0, 1, slots)),
            ("cpu", 0.004 * load + rng.normal(0, 0.004, slots)),
            ("latency", 20 + 0.3 * load + rng.normal(0, 0.5, slots)),
        ):
            keys.append(SeriesKey(f"w{w}", metric, (("site", "eu"),)))
            rows.append(values)
    return tuple(keys), np.array(rows, np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    keys, values = fleet()
    module = reconstruct.train(keys, values, np.ones(values.shape, bool), SMALL)
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    manifest = reconstruct.export(module, path)
    return module, Artifact("detector", "1", path, "0" * 64, manifest)


def test_groups_keep_a_workload_together_and_split_a_large_one():
    keys = [SeriesKey("b", f"m{i}") for i in range(5)] + [SeriesKey("a", "x"), SeriesKey("a", "x", (("site", "s"),))]
    rows = grouped(keys, 4)
    assert rows.tolist() == [[5, -1, -1, -1], [6, -1, -1, -1], [0, 1, 2, 3], [4, -1, -1, -1]]
    values = np.arange(14, dtype=np.float32).reshape(7, 2)
    values[0, 1] = np.nan
    laid = gather(values, rows)
    assert laid.shape == (4, 2, 4)
    assert laid[2].tolist() == [[0, 2, 4, 6], [0, 3, 5, 7]]
    assert not laid[0][:, 1:].any()


def test_export_agrees_with_torch_at_every_batch_size(trained):
    _, artifact = trained
    assert artifact.manifest["parity"] <= 1e-4
    assert artifact.manifest["look_back"] == SMALL["look_back"]


def test_export_refuses_a_file_that_answers_otherwise(trained, tmp_path, monkeypatch):
    module, _ = trained
    plain = type(module).forward

    def treacherous(self, values, mask):
        score, expected = plain(self, values, mask)
        return (score, expected) if torch.compiler.is_compiling() else (score + 0.01, expected)

    monkeypatch.setattr(type(module), "forward", treacherous)
    with pytest.raises(ValueError, match="differs from torch"):
        reconstruct.export(module, tmp_path / "bad.onnx")


def windows(keys, values, mask=None):
    n = len(keys)
    mask = np.ones(values.shape, bool) if mask is None else mask
    return Windows(keys, 10_000 * STEP, STEP, values, mask, np.zeros(n, bool), np.zeros(n, bool))


def test_it_sees_a_metric_that_left_the_others(trained):
    _, artifact = trained
    scorer = OnnxScorer(artifact)
    keys, values = fleet(seed=1)
    usual, expected = scorer.score(windows(keys, values))
    assert expected == pytest.approx(values[:, -1], rel=0.25)
    broken = values.copy()
    broken[4, -1] += 0.12
    score, _ = scorer.score(windows(keys, broken))
    assert score[4] > 3 * usual.max()
    assert score[4] == score.max()
    assert score[6:9] == pytest.approx(usual[6:9], rel=1e-4), "other workloads are not touched"


def test_scale_is_learned_away_inside_the_graph(trained):
    _, artifact = trained
    scorer = OnnxScorer(artifact)
    keys, values = fleet(seed=1)
    plain, _ = scorer.score(windows(keys, values))
    scaled, expected = scorer.score(windows(keys, values * 1000))
    assert scaled == pytest.approx(plain, rel=0.02, abs=0.02)
    assert expected == pytest.approx(values[:, -1] * 1000, rel=0.25)


def test_unseen_is_not_scored(trained):
    _, artifact = trained
    keys, values = fleet(seed=1)
    mask = np.ones(values.shape, bool)
    mask[2, -1] = False
    holed = values.copy()
    holed[2, -1] = np.nan
    score, expected = OnnxScorer(artifact).score(windows(keys, holed, mask))
    assert np.isnan(score[2])
    assert np.isnan(expected[2])
    assert np.isfinite(np.delete(score, 2)).all()
    short, _ = OnnxScorer(artifact).score(windows(keys, values[:, :10]))
    assert np.isnan(short).all()


def test_the_engine_reports_what_the_model_alone_sees(trained):
    _, artifact = trained
    keys, values = fleet(seed=3)
    engine = Detection(DetectSettings(), STEP, OnnxScorer(artifact))
    assert "detector@" in engine.name
    for k in range(40):
        part = values[:, k : k + 800].copy()
        w = Windows(keys, (10_000 + k) * STEP, STEP, part, np.ones(part.shape, bool), *np.zeros((2, len(keys)), bool))
        if k == 39:
            part[4, -1] += 0.3
        found = engine.detect(w, None)
    assert {a.key for a in found} == {keys[4]}
    assert "model" in found[0].evidence["families"]


def test_training_is_repeatable_and_refuses_what_it_cannot_use():
    keys, values = fleet(workloads=2, slots=300)
    mask = np.ones(values.shape, bool)
    short = {**SMALL, "steps": 20}
    one, two = (reconstruct.train(keys, values, mask, short).state_dict() for _ in range(2))
    assert all(torch.equal(one[k], two[k]) for k in one)
    with pytest.raises(ValueError, match="needs at least"):
        reconstruct.train(keys, values[:, :40], mask[:, :40], short)
    with pytest.raises(ValueError, match="unknown keys"):
        reconstruct.build({"lookback": 3})


def test_files_that_are_no_detector_are_refused(trained, tmp_path):
    _, artifact = trained
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelRefused, match="cannot load"):
        OnnxScorer(Artifact("d", "1", tmp_path / "x.onnx", "0" * 64, artifact.manifest))
    with pytest.raises(ModelRefused, match="manifest"):
        OnnxScorer(Artifact("d", "1", artifact.path, "0" * 64, {}))
