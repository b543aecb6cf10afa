"""The training loop of the forecaster: random windows, pinball loss, cosine schedule, early stopping, a deadline."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from forecastle.errors import ConfigError
from models.checkpoint import TrainingState, fingerprint, moments, restore, save, set_moments
from models.forecaster_config import ForecasterConfig
from models.pinball import pinball
from models.windows import Batch, Panel, hide, untold

log = logging.getLogger(__name__)
M = TypeVar("M", bound=nn.Module)
_WARMUP, _HELD = 0.05, 2048
_ROBUST = 20.0


class Bar(Protocol):
    """Shows how far the training is."""

    def update(self, done: float, held: float) -> None:
        """``done`` in [0, 1]; ``held``: the held-out loss."""


def fit(
    model: M,
    panel: Panel,
    cfg: ForecasterConfig,
    *,
    device: str = "auto",
    deadline_s: float | None = None,
    progress: bool = True,
    checkpoint: Path | None = None,
) -> tuple[M, dict[str, Any]]:
    """Train ``model`` on ``panel``; keep the weights that were best on the held-out tail. Returns it on the CPU.

    With a ``checkpoint`` file the state is kept there at every check, and a training of the same data and parameters goes
    on from it; it is removed at the end. On a GPU
    and with ``cfg.mixed`` the network runs in bfloat16, its loss and its weights in float32. Raises ConfigError for a
    ``device`` that is not there.
    """
    where = _device(device)
    begin = int(panel.first.min())
    split = panel.end - max(round(cfg.validation * (panel.end - begin)), panel.horizon)
    held = panel.draw(np.random.default_rng(1), _HELD if cfg.batch >= 64 else 8 * cfg.batch, (split, panel.end))
    run = _Run(model.to(where), panel, cfg, held=held, between=(begin, split))
    if checkpoint is not None:
        run.keep_at(checkpoint)
    started = time.monotonic()
    with _half_the_cores(), _bar(progress) as bar:
        run.until(deadline_s, bar)
    model.load_state_dict(run.kept)
    seconds = run.spent_before + time.monotonic() - started
    metrics = {"held_out_pinball": run.best, "steps": run.step, "seconds": seconds, "curve": run.curve}
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return model.cpu().eval(), metrics


def _device(name: str) -> torch.device:
    """``auto`` is a GPU where there is one."""
    there = torch.cuda.is_available()
    if name not in {"auto", "cpu", "cuda"} or (name == "cuda" and not there):
        raise ConfigError(f"device {name!r} is not here; choose auto, cpu{' or cuda' if there else ''}")
    return torch.device(("cuda" if there else "cpu") if name == "auto" else name)


@contextmanager
def _half_the_cores() -> Iterator[None]:
    """Torch's threads wait for each other by spinning: beside other busy processes, one for each core is ten times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, max((os.cpu_count() or 2) // 2, 1)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Run:
    def __init__(self, model: nn.Module, panel: Panel, cfg: ForecasterConfig, *, held: Batch, between: tuple[int, int]) -> None:
        self.model, self.panel, self.cfg, self.held, self.between = model, panel, cfg, held, between
        self.where = next(model.parameters()).device
        self.rng = np.random.default_rng(cfg.seed)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.learning_rate, weight_decay=cfg.weight_decay)
        self.levels = torch.tensor(cfg.quantiles, device=self.where)
        self.step, self.strikes, self.curve = 0, 0, list[tuple[int, float, float]]()
        self.best, self.kept = self._held_out(), self._weights()
        self.path: Path | None = None
        self.belongs_to, self.spent_before, self.started = "", 0.0, time.monotonic()

    def keep_at(self, path: Path) -> None:
        """Keep the state at ``path`` from now on, and go on from what is there if it is of this training."""
        panel = self.panel
        self.path = path
        told = asdict(self.cfg) | {"step_ms": panel.step_ms}
        more = [part for part in (panel.known, panel.calendar, panel.static) if part is not None]
        self.belongs_to = fingerprint(told, panel.table, panel.end_minute, panel.weight, *more)
        state = restore(path, self.belongs_to)
        if state is None:
            return
        facts = state.facts
        self.model.load_state_dict(state.weights)
        set_moments(self.optimizer, self.model, state.moments)
        self.kept = {name: value.to(self.where) for name, value in state.kept.items()}
        self.rng.bit_generator.state = facts["rng"]
        self.step, self.strikes, self.best = facts["step"], facts["strikes"], facts["best"]
        self.curve = [(int(step), train, held) for step, train, held in facts["curve"]]
        self.spent_before = facts["seconds"]
        log.info("the forecaster's training goes on at step %d", self.step)

    def _save(self) -> None:
        if self.path is None:
            return
        facts = {
            "fingerprint": self.belongs_to,
            "rng": self.rng.bit_generator.state,
            "step": self.step,
            "strikes": self.strikes,
            "best": self.best,
            "curve": self.curve,
            "seconds": self.spent_before + time.monotonic() - self.started,
        }
        save(self.path, TrainingState(facts, self._weights(), self.kept, moments(self.optimizer, self.model)))

    def until(self, deadline_s: float | None, bar: Bar | None) -> None:
        """Step until the schedule, the deadline or the patience ends."""
        self.started = time.monotonic()
        done = self._done(deadline_s)
        while done < 1.0 and self.strikes < self.cfg.patience:
            for group in self.optimizer.param_groups:
                group["lr"] = self.cfg.learning_rate * _shape(done)
            loss = self._learn()
            self.step += 1
            done = self._done(deadline_s)
            if self.step % self.cfg.check_every == 0 or done >= 1.0:
                self._check(loss)
                self._save()
            if bar:
                bar.update(min(done, 1.0), self.best)

    def _done(self, deadline_s: float | None) -> float:
        """Share of the schedule or of the deadline that is used up, whichever is more."""
        spent = (self.spent_before + time.monotonic() - self.started) / deadline_s if deadline_s else 0.0
        return max(self.step / self.cfg.steps, spent)

    def _learn(self) -> float:
        self.model.train()
        batch = hide(self.panel.draw(self.rng, self.cfg.batch, self.between), self.rng, self.cfg.drop)
        batch = untold(batch, self.rng, self.cfg.known_drop)
        loss = self._loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def _check(self, loss: float) -> None:
        held = self._held_out()
        self.curve.append((self.step, loss, held))
        log.info("forecaster step %d: loss %.4f, held out %.4f", self.step, loss, held)
        if held < self.best:
            self.best, self.kept, self.strikes = held, self._weights(), 0
        else:
            self.strikes += 1

    def _held_out(self) -> float:
        self.model.eval()
        with torch.no_grad():
            return float(self._loss(self.held))

    def _loss(self, batch: Batch) -> Tensor:
        shown = {name: torch.from_numpy(part).to(self.where) for name, part in batch.inputs.items()}
        target, scale = (torch.from_numpy(part).to(self.where) for part in (batch.target, batch.scale))
        known = torch.isfinite(target)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.where.type == "cuda" and self.cfg.mixed):
            answer = self.model(**shown)
        loss = pinball(answer.float(), torch.where(known, target, 0.0), self.levels)
        sized = loss / scale.unsqueeze(1)
        calm = torch.where(sized > _ROBUST, _ROBUST * (1 + (sized.clamp(min=_ROBUST) / _ROBUST).log()), sized)
        return (calm * known).sum() / known.sum().clamp(min=1)

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}


def _shape(done: float) -> float:
    """Share of the peak learning rate: a short linear rise, then a cosine to 0."""
    if done < _WARMUP:
        return 0.1 + 0.9 * done / _WARMUP
    return float(0.5 * (1 + np.cos(np.pi * (done - _WARMUP) / (1 - _WARMUP))))


def _bar(show: bool) -> Any:
    return _RichBar() if show else nullcontext()


class _RichBar:
    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.progress = Progress(
            TextColumn("training the forecaster"),
            BarColumn(),
            TextColumn("held-out pinball {task.fields[held]:.4f}"),
            TimeRemainingColumn(),
        )

    def __enter__(self) -> _RichBar:
        self.progress.start()
        self.task = self.progress.add_task("train", total=1.0, held=float("nan"))
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, done: float, held: float) -> None:
        """Move the bar."""
        self.progress.update(self.task, completed=done, held=held)
