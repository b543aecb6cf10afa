"""A training that is killed ends as if it had not been; a checkpoint of anything else is left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_worlds import END, TINY, waves

from models import checkpoint
from models.checkpoint import TrainingState, fingerprint, moments, restore, save, set_moments
from models.patch_mixer import PatchMixer, train

SHORT = {**TINY, "steps": 60, "check_every": 10, "batch": 16}
CHILD = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {folder!r})
    import torch
    from training_worlds import END, waves
    from models import fitting
    from models.patch_mixer import train
    torch.set_num_threads(1)
    saved = fitting.save
    def slowly(path, state):
        saved(path, state)
        print(state.facts["step"], flush=True)
        time.sleep(60 if state.facts["step"] == 30 else 0)
    fitting.save = slowly
    train({cfg!r}, waves(2), [END, END], checkpoint=Path({path!r}), progress=False)
"""


class Killed(Exception):
    """The process ends here."""


def taught(path: Path | None = None, cfg: Any = SHORT, **more: Any) -> tuple[PatchMixer, dict[str, Any]]:
    return train(cfg, waves(2), [END, END], checkpoint=path, progress=False, device="cpu", **more)


@pytest.fixture(scope="module")
def undisturbed() -> tuple[PatchMixer, dict[str, Any]]:
    torch.set_num_threads(1)
    return taught()


def broken_off(path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until the check at ``step`` is on disk."""

    def until(where: Path, state: TrainingState) -> None:
        checkpoint.save(where, state)
        if state.facts["step"] == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("models.fitting.save", until)
        with pytest.raises(Killed):
            taught(path)


def same(one: PatchMixer, other: PatchMixer) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_after_kill_9_the_result_is_that_of_an_undisturbed_training(
    tmp_path: Path, undisturbed: tuple[PatchMixer, dict[str, Any]]
) -> None:
    path = tmp_path / "forecaster.npz"
    program = textwrap.dedent(CHILD).format(folder=str(Path(__file__).parent), cfg=SHORT, path=str(path))
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout as told:
        for line in told:
            if line.strip() == "30":
                break
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert restore(path, _fingerprint(path)) is not None
    model, metrics = taught(path)
    assert same(model, undisturbed[0])
    assert metrics["curve"] == undisturbed[1]["curve"]
    assert metrics["steps"] == 60
    assert not path.exists(), "what is finished leaves nothing to resume"


@pytest.mark.parametrize("step", [10, 50])
def test_it_goes_on_from_wherever_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, undisturbed: tuple[PatchMixer, dict[str, Any]]
) -> None:
    path = tmp_path / "c.npz"
    broken_off(path, step, monkeypatch)
    drawn = []
    monkeypatch.setattr("models.fitting.hide", lambda batch, rng, share: drawn.append(1) or _hide(batch, rng, share))
    model, _ = taught(path)
    assert same(model, undisturbed[0])
    assert len(drawn) == 60 - step, "nothing is learned twice"


def _hide(batch: Any, rng: Any, share: float) -> Any:
    from models.windows import hide

    return hide(batch, rng, share)


def test_another_seed_or_history_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c.npz"
    broken_off(path, 30, monkeypatch)
    model, metrics = taught(path, seed=4)
    assert "of other data or parameters" in caplog.text
    assert metrics["curve"][0][0] == 10
    assert same(model, taught(seed=4)[0])


@pytest.mark.parametrize("junk", [b"", b"not a zip", b"PK\x03\x04 torn"])
def test_a_torn_file_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, junk: bytes, undisturbed: tuple[PatchMixer, dict[str, Any]]
) -> None:
    path = tmp_path / "c.npz"
    path.write_bytes(junk)
    assert same(taught(path)[0], undisturbed[0])
    assert "is no checkpoint" in caplog.text


def test_a_pickle_is_never_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (trap.write_text, ("sprung",))

    path = tmp_path / "c.npz"
    np.savez(path, facts=np.array([Trap()], object))
    trap.unlink(missing_ok=True)
    assert restore(path, "x") is None
    assert not trap.exists()
    assert "is no checkpoint" in caplog.text


def test_the_budget_counts_what_was_spent_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.npz"
    broken_off(path, 10, monkeypatch)
    state = restore(path, _fingerprint(path))
    assert state is not None
    save(path, TrainingState({**state.facts, "seconds": 1000.0}, state.weights, state.kept, state.moments))
    _, metrics = taught(path, deadline_s=500.0)
    assert metrics["steps"] == 10
    assert metrics["seconds"] >= 1000


def _fingerprint(path: Path) -> str:
    with np.load(path) as file:
        return str(json.loads(file["facts"].tobytes())["fingerprint"])


def test_a_checkpoint_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "c.npz"
    first = TrainingState({"fingerprint": "a"}, {"w": torch.ones(2)}, {}, {})
    save(path, first)

    def full(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="disk full"):
        save(path, TrainingState({"fingerprint": "b"}, {}, {}, {}))
    kept = restore(path, "a")
    assert kept is not None
    assert torch.equal(kept.weights["w"], torch.ones(2))


def test_moments_come_back_to_the_parameters_they_belong_to() -> None:
    def pair() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        optimizer.zero_grad()
        model(torch.from_numpy(np.random.default_rng(seed).normal(size=(4, 2)).astype(np.float32))).square().sum().backward()
        optimizer.step()

    model, optimizer = pair()
    step(model, optimizer, 1)
    other, fresh = pair()
    other.load_state_dict(model.state_dict())
    set_moments(fresh, other, {name: value.clone() for name, value in moments(optimizer, model).items()})
    step(model, optimizer, 2)
    step(other, fresh, 2)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        ((np.array([1.0, 2.0]), {"a": 1}), True),
        ((np.array([1.0, 3.0]), {"a": 1}), False),
        ((np.array([1.0, 2.0], np.float32), {"a": 1}), False),
        ((np.array([[1.0, 2.0]]), {"a": 1}), False),
        ((np.array([1.0, 2.0]), {"a": 2}), False),
    ],
)
def test_a_fingerprint_is_of_values_shape_and_parameters(other: tuple[Any, ...], equal: bool) -> None:
    assert (fingerprint(np.array([1.0, 2.0]), {"a": 1}) == fingerprint(*other)) is equal


def test_nothing_there_is_nothing(tmp_path: Path) -> None:
    assert restore(tmp_path / "none.npz", "x") is None
