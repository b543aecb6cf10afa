"""The forecaster: one small network for all series, from a masked window to the quantiles of every step ahead.

Scaling, the calendar and the naive path are part of the graph, so that serving needs nothing but the window. The network
learns what to add to a robust path: the last level, blended by learned gates with what the series did a season ago.
Patches of the newest slots and of coarse means over the whole window go through MLP-mixer blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import fitting
from models.forecaster_config import DEFAULTS, ForecasterConfig
from models.leave import export_forecaster
from models.weights import start_from
from models.windows import Panel

__all__ = ["DEFAULTS", "PatchMixer", "build", "calendar", "export", "train"]

_TINY, _HUGE = 1e-20, 3e38
_CLIP = 40.0
_EFFECT = 5.0
"""Largest logarithm of what an occasion may multiply demand by: 148 times."""
CALENDAR_WIDTH = 11


def calendar(minute: Tensor) -> Tensor:
    """Two harmonics of the day and the weekday of int64 minutes since the epoch [n]: float32[n, 11], Monday first.

    Equal to ``features.calendar``: day_phase beside week_day.
    """
    of_day = minute.remainder(1440).to(torch.float32) * (2 * math.pi / 1440)
    day = (minute.div(1440, rounding_mode="floor") + 3).remainder(7)
    weekday = (day.unsqueeze(1) == torch.arange(7, device=minute.device)).to(torch.float32)
    phase = torch.stack([of_day.sin(), of_day.cos(), (2 * of_day).sin(), (2 * of_day).cos()], dim=1)
    return torch.cat([phase, weekday], dim=1)


class Mixer(nn.Module):
    """One MLP-mixer block: across tokens, then across channels, each with a residual. [n, tokens, width] in and out."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.across = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.ReLU(), nn.Linear(2 * tokens, tokens))
        self.within = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix."""
        tokens = tokens + self.across(self.first(tokens).transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = tokens + self.within(self.second(tokens))
        return mixed


class Told(nn.Module):
    """What is known beforehand, by a few weights that begin at 0 and have no bias: an input of 0 changes nothing.

    A column acts by its positive and by its negative part, k columns as 2k. One effect for all series is taken out of the
    window and put on the steps ahead; what is particular to a series follows from the hidden state.
    """

    def __init__(self, cfg: ForecasterConfig) -> None:
        super().__init__()
        columns, self.cfg = 2 * len(cfg.known), cfg
        self.effect = nn.Linear(columns, 1, bias=False)
        self.about = nn.Linear(2 * columns, cfg.width, bias=False)
        self.own = nn.Linear(cfg.hidden, columns)
        self.doubt = nn.Linear(columns, len(cfg.quantiles), bias=False)
        for weights in self.parameters():
            nn.init.zeros_(weights)

    def parts(self, values: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """Positive and negative parts in the window [n, L, 2k] and ahead of it [n, horizon, 2k]; 0 where nothing is told."""
        cfg = self.cfg
        if known is None:
            known = values.new_zeros(len(values), cfg.look_back + cfg.horizon, len(cfg.known))
        both = torch.cat([known.clamp(0.0, _EFFECT), (-known).clamp(0.0, _EFFECT)], dim=2)
        return both[:, : cfg.look_back], both[:, cfg.look_back :]

    def in_window(self, past: Tensor) -> Tensor:
        """By what factor the window's slots were multiplied [n, L]."""
        factor: Tensor = self.effect(past).squeeze(2).clamp(-_EFFECT, _EFFECT).exp()
        return factor

    def to_come(self, ahead: Tensor, hidden: Tensor) -> Tensor:
        """By what factor the steps ahead will be [n, horizon]."""
        own = (ahead * self.own(hidden).unsqueeze(1)).sum(2)
        factor: Tensor = (self.effect(ahead).squeeze(2) + own).clamp(-_EFFECT, _EFFECT).exp()
        return factor

    def token(self, past: Tensor, ahead: Tensor) -> Tensor:
        """[n, width], added to what is said about the window as a whole."""
        token: Tensor = self.about(torch.cat([past[:, -self.cfg.recent :].mean(1), ahead.mean(1)], dim=1))
        return token


class PatchMixer(nn.Module):
    """``values`` and ``mask`` float32[n, L] and ``end_minute`` int64[n] -> quantiles float32[n, horizon, q] in raw units.

    Mask 1 is observed; what lies under 0 is never read. Quantiles do not cross; they are non-negative where the window is.
    Where the configuration asks for them, ``known`` float32[n, L + horizon, k] and ``static`` float32[n, s] follow.
    """

    weights: Tensor
    calm: Tensor

    def __init__(self, cfg: ForecasterConfig) -> None:
        super().__init__()
        self.cfg, width, horizon = cfg, cfg.width, cfg.horizon
        age = torch.arange(cfg.recent - 1, -1, -1, dtype=torch.float32)
        self.register_buffer("weights", 0.5 ** (age / cfg.half_life) + 1e-6)
        self.register_buffer("calm", 0.5 ** (age / cfg.horizon) + 1e-6)
        self.fine = nn.Linear(2 * cfg.patch, width)
        self.rough = nn.Linear(2 * cfg.coarse_patch, width)
        self.past = nn.Linear(2 * (horizon + 1), width)
        self.about = nn.Linear(2 * CALENDAR_WIDTH + 4, width)
        tokens = cfg.recent // cfg.patch + cfg.look_back // (cfg.coarse * cfg.coarse_patch) + 2
        self.place = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(*(Mixer(tokens, width) for _ in range(cfg.blocks)))
        self.body = nn.Sequential(nn.LayerNorm(width), nn.Flatten(), nn.Linear(tokens * width, cfg.hidden), nn.ReLU())
        self.gates = nn.Linear(cfg.hidden, 2 * horizon)
        self.head = nn.Linear(cfg.hidden, horizon * len(cfg.quantiles))
        self.skip = nn.Linear(cfg.recent, horizon, bias=False)
        self._start()
        self.told = Told(cfg) if cfg.known else None
        self.traits = nn.Linear(len(cfg.static), width, bias=False) if cfg.static else None
        if self.traits is not None:
            nn.init.zeros_(self.traits.weight)

    def _start(self) -> None:
        """Begin as a normal distribution around the naive path."""
        cfg, count = self.cfg, len(self.cfg.quantiles)
        levels = torch.special.ndtri(torch.tensor(cfg.quantiles, dtype=torch.float64)).float()
        middle = cfg.quantiles.index(0.5)
        bias = torch.zeros(count)
        steps = levels.diff()
        bias[:middle], bias[middle + 1 :] = torch.expm1(steps[:middle]).log(), torch.expm1(steps[middle:]).log()
        nn.init.zeros_(self.skip.weight)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.normal_(self.gates.weight, std=0.01)
        with torch.no_grad():
            self.head.bias.copy_(bias.repeat(cfg.horizon))
            self.gates.bias.copy_(torch.tensor([0.0, -3.0]).repeat_interleave(cfg.horizon))

    def forward(
        self, values: Tensor, mask: Tensor, end_minute: Tensor, known: Tensor | None = None, static: Tensor | None = None
    ) -> Tensor:
        """Quantiles of the steps after the window's end."""
        cfg = self.cfg
        observed = mask > 0.5
        seen = observed.to(values.dtype)
        raw = torch.where(observed, values, 0.0)
        size = raw.abs().amax(1, keepdim=True).clamp(min=_TINY)
        unit = raw / size
        if self.told is not None:
            past, ahead = self.told.parts(values, known)
            unit = unit / self.told.in_window(past)
        level, local, daily = self._level(unit, seen)
        scale = local + 0.05 * daily + 1e-3 * level.abs() + 1e-6
        spans = torch.cat([level.abs(), local, daily], dim=1).div(scale).log1p()
        sizes = torch.cat([spans, seen.mean(1, keepdim=True)], dim=1)
        newest, newest_seen = unit[:, -cfg.recent :], seen[:, -cfg.recent :]
        offset = (newest - level) / scale * newest_seen
        season, season_seen = self._season(unit, seen, level)
        about = self.about(self._about(end_minute, sizes))
        about = about if self.traits is None or static is None else about + self.traits(static)
        about = about if self.told is None else about + self.told.token(past, ahead)
        hidden = self._mix(
            self._fine(offset, newest_seen),
            self._rough(unit, seen, level, scale),
            self.past(torch.cat([((season - level) / scale).asinh(), season_seen], dim=1)),
            about,
        )
        gates = self.gates(hidden).sigmoid()
        path = level + gates[:, : cfg.horizon] * (season[:, 1:] - season[:, :1])
        path = path + gates[:, cfg.horizon :] * (season[:, :1] - level)
        doubt = None if self.told is None else self.told.doubt(ahead)
        spread = self._spread(hidden, self.skip(offset.clamp(-_CLIP, _CLIP)), doubt)
        if self.told is not None:
            factor = self.told.to_come(ahead, hidden)
            path, scale = path * factor, scale * factor
        answer = ((path.unsqueeze(2) + scale.unsqueeze(2) * spread) * size.unsqueeze(2)).clamp(-_HUGE, _HUGE)
        positive = (raw.amin(1, keepdim=True) >= 0).unsqueeze(2)
        return torch.where(positive, answer.clamp(min=0.0), answer)

    def _level(self, unit: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Last level, usual change over a third of the horizon, and mean absolute deviation of the window: [n, 1] each.

        The change is that of the newest horizon's worth of slots above all: after a surge it is calm again within the hour.
        """
        count = seen.sum(1, keepdim=True).clamp(min=1.0)
        mean = (unit * seen).sum(1, keepdim=True) / count
        newest, known = unit[:, -self.cfg.recent :], seen[:, -self.cfg.recent :]
        weight = (known * self.weights).sum(1, keepdim=True)
        latest = (newest * known * self.weights).sum(1, keepdim=True) / weight.clamp(min=1e-9)
        level = torch.where(weight > 0, latest, mean)
        lag = max(self.cfg.horizon // 3, 1)
        both = known[:, lag:] * known[:, :-lag] * self.calm[lag:]
        change = ((newest[:, lag:] - newest[:, :-lag]).abs() * both).sum(1, keepdim=True)
        far = ((newest - level).abs() * known).sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp(min=1.0)
        local = change / both.sum(1, keepdim=True).clamp(min=1e-9) + 0.2 * far
        return level, local, ((unit - mean).abs() * seen).sum(1, keepdim=True) / count

    def _season(self, unit: Tensor, seen: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Smoothed values a season before now and before each step ahead [n, 1 + horizon], the level where unseen."""
        cfg = self.cfg
        if not cfg.season:
            flat = level.expand(-1, cfg.horizon + 1)
            return flat, torch.zeros_like(flat)
        start, width = cfg.look_back - cfg.season - 1 - cfg.smooth, 2 * cfg.smooth + 1
        part = slice(start, start + cfg.horizon + width)
        total = functional.avg_pool1d((unit * seen)[:, part].unsqueeze(1), width, 1).squeeze(1)
        share = functional.avg_pool1d(seen[:, part].unsqueeze(1), width, 1).squeeze(1)
        there = share > 0
        known = there & there[:, :1]
        return torch.where(known, total / share.clamp(min=1e-6), level), known.to(unit.dtype)

    def _fine(self, offset: Tensor, seen: Tensor) -> Tensor:
        patches = (-1, self.cfg.recent // self.cfg.patch, self.cfg.patch)
        tokens: Tensor = self.fine(torch.cat([offset.asinh().reshape(patches), seen.reshape(patches)], dim=2))
        return tokens

    def _rough(self, unit: Tensor, seen: Tensor, level: Tensor, scale: Tensor) -> Tensor:
        cfg = self.cfg
        buckets = (-1, cfg.look_back // cfg.coarse, cfg.coarse)
        patches = (-1, cfg.look_back // (cfg.coarse * cfg.coarse_patch), cfg.coarse_patch)
        share = seen.reshape(buckets).mean(2)
        mean = (unit * seen).reshape(buckets).mean(2) / share.clamp(min=1e-6)
        offset = ((mean - level) / scale * (share > 0)).asinh()
        tokens: Tensor = self.rough(torch.cat([offset.reshape(patches), share.reshape(patches)], dim=2))
        return tokens

    def _about(self, end_minute: Tensor, sizes: Tensor) -> Tensor:
        ahead = round(self.cfg.horizon * self.cfg.step_ms / 60_000)
        return torch.cat([calendar(end_minute), calendar(end_minute + ahead), sizes], dim=1)

    def _mix(self, fine: Tensor, rough: Tensor, past: Tensor, about: Tensor) -> Tensor:
        tokens = torch.cat([fine, rough, past.unsqueeze(1), about.unsqueeze(1)], dim=1) + self.place
        hidden: Tensor = self.body(self.blocks(tokens))
        return hidden

    def _spread(self, hidden: Tensor, skip: Tensor, doubt: Tensor | None) -> Tensor:
        """Quantiles around the path in units of the scale, non-decreasing: [n, horizon, q]. ``doubt`` is added to its head."""
        count, middle = len(self.cfg.quantiles), self.cfg.quantiles.index(0.5)
        answer = self.head(hidden).reshape(-1, self.cfg.horizon, count)
        answer = answer if doubt is None else answer + doubt
        steps = functional.softplus(answer)
        median = (answer[:, :, middle] + skip).unsqueeze(2)
        below = median - steps[:, :, :middle].flip(2).cumsum(2).flip(2)
        return torch.cat([below, median, median + steps[:, :, middle + 1 :].cumsum(2)], dim=2)


def build(cfg: Mapping[str, Any]) -> PatchMixer:
    """An untrained model; ``cfg`` overrides `DEFAULTS`. Raises ConfigError naming the key and the fix."""
    config = ForecasterConfig.of(cfg)
    torch.manual_seed(config.seed)
    return PatchMixer(config)


def train(
    cfg: Mapping[str, Any],
    series: Sequence[npt.NDArray[Any]],
    end_minutes: Sequence[int],
    *,
    device: str = "auto",
    seed: int = 0,
    deadline_s: float | None = None,
    progress: bool = True,
    weights: Sequence[float] | None = None,
    checkpoint: Path | None = None,
    known: Sequence[npt.NDArray[Any]] | None = None,
    static: npt.NDArray[Any] | None = None,
) -> tuple[PatchMixer, dict[str, Any]]:
    """Fit one model to all ``series`` (float32[t] with NaN for gaps, the last value ending at ``end_minutes``).

    The tail of the time axis is held out to stop early. ``deadline_s`` bounds the wall time; without it equal seeds give
    equal models. ``weights``: how much more often a series is seen than others. ``checkpoint``: a file that a training that
    was killed goes on from. ``known`` float32[>= t, k] of each series ends where it does, and ``static`` float32[n, s] says
    what they are, with the columns that ``cfg`` names; without them nothing is told. Returns the model on the CPU and its
    metrics with the learning curve. Raises ConfigError when no series is long enough, when the weights of ``init`` do not
    fit, and for a ``device`` that is not there.
    """
    config = ForecasterConfig.of({**cfg, "seed": seed})
    shape = config.look_back, config.horizon, config.step_ms
    panel = Panel.of(series, end_minutes, *shape, weights=weights, known=known, static=static)
    model = build({**cfg, "seed": seed})
    if config.init:
        start_from(Path(config.init), model)
    return fitting.fit(model, panel, config, device=device, deadline_s=deadline_s, progress=progress, checkpoint=checkpoint)


def export(module: PatchMixer, path: Path, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Write the ONNX file and return its manifest. Raises ModelRefused when ONNX and torch disagree."""
    return export_forecaster(module, path, ForecasterConfig.of(cfg))
