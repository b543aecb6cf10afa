"""Where a statistical member serves a series better than the network: decided on rolling folds that training held out.

The prior is for the network: a member takes a series over only when it wins by a margin on most folds and on the whole. A few
lucky origins are no reason, and one model for all is less to explain.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from flows import rolling
from flows.history import History
from forecastle.errors import ConfigError
from forecastle.ports import Artifact
from forecastle.predict.artifacts import sha256
from forecastle.predict.batch.panel import forward
from forecastle.predict.known import Almanac
from forecastle.predict.members import Member, Members
from forecastle.predict.onnx import OnnxForecaster
from forecastle.types import Floats, Floats32, Mask, Windows
from models.statistical import fit, sarimax, shared

log = logging.getLogger(__name__)
FOLDS, PER_FOLD = 5, 6
HELD_OUT = 0.1
"""Share of the history at its end that the folds lie in; training stops early by it and learns nothing else from it."""


@dataclass(frozen=True, slots=True)
class MemberRules:
    """``important`` series get parameters of their own: those of workloads ``named``, the fleet's demand, then the largest.

    The first ``sarimax`` of them are tried with SARIMAX too. A member must lose less than 1 - ``margin`` of the network's loss
    on ``most`` of the folds and on the whole.
    """

    important: int = 16
    margin: float = 0.05
    most: float = 0.8
    sarimax: int = 0
    named: Sequence[str] = ()

    @classmethod
    def of(cls, told: Any) -> MemberRules:
        """From a recipe's ``members``. Raises ConfigError for unknown names and values out of range."""
        known = {one.name for one in fields(cls)}
        try:
            made = cls(**told)
            fine = 0 <= made.sarimax <= made.important and 0 <= made.margin < 1 and 0.5 < made.most <= 1
            fine = fine and isinstance(made.named, list | tuple)
        except TypeError:
            fine = False
        if not fine:
            raise ConfigError(
                f"members is {told!r}; known are {sorted(known)}: important a count, margin a share within [0, 1), most one "
                "within (0.5, 1], named a list of workloads, sarimax a count of at most important"
            )
        return made


def learn(
    path: Path,
    manifest: Mapping[str, Any],
    history: History,
    *,
    demand: Sequence[bool],
    season: int,
    rules: MemberRules,
    almanac: Almanac | None = None,
) -> list[dict[str, Any]]:
    """What the manifest of the model at ``path`` is to say about members, learned from ``history``; may be empty.

    ``demand`` tells which series are the fleet's demand; ``season`` is in slots, 0 for none. ``almanac`` is for a network that
    takes known inputs.
    """
    horizon, levels = int(manifest["horizon"]), tuple(float(q) for q in manifest["quantiles"])
    artifact = Artifact(str(manifest["name"]), "", path, sha256(path), dict(manifest))
    network = OnnxForecaster(artifact, step_ms=history.step_ms, horizon=horizon, quantiles=levels, almanac=almanac)
    length = history.values.shape[1]
    tail = HELD_OUT * max(1 - network.look_back / 4 / length, 0.5)
    try:
        at = rolling.origins(history, horizon, tail=tail, count=FOLDS * PER_FOLD)
    except ConfigError as error:
        log.warning("%s: no members: %s", network.name, error)
        return []

    def lost(of: History, answer: rolling.Answer) -> Floats:
        said = rolling.roll(of, at, answer, network.look_back)
        return fold_losses(said, rolling.actuals(of, at, horizon), np.asarray(levels))

    networks = lost(history, network.infer)
    least, found = networks.copy(), dict[int, Member]()
    past = history.before(length - 1 - int(at[0]))
    for members in _rounds(past, _important(history, demand, rules), rules.sarimax, season, horizon):
        rows = np.asarray(list(members), np.int64)
        part = replace(history, keys=tuple(history.keys[i] for i in rows), values=history.values[rows])
        told = lost(part, _answer(list(members.values()), horizon, levels))
        for k in np.flatnonzero(wins(told, networks[:, rows], rules) & (told.mean(0) < least[:, rows].mean(0))).tolist():
            found[int(rows[k])], least[:, rows[k]] = members[int(rows[k])], told[:, k]
    return [found[i].told() for i in sorted(found)]


def wins(member: Floats, network: Floats, rules: MemberRules) -> Mask:
    """Which series [n] a member takes over by its losses [folds, n] beside the network's; a NaN is no win."""
    bar = (1 - rules.margin) * network
    won: Mask = ((member < bar).mean(axis=0) >= rules.most) & (member.mean(axis=0) < bar.mean(axis=0))
    return won


def fold_losses(said: Floats32, actual: Floats32, levels: Floats) -> Floats:
    """Mean pinball loss [folds, n] of ``said`` [o, n, h, q] for ``actual`` [o, n, h]; NaN where one is not there."""
    error = actual[..., None].astype(np.float64) - said
    loss = np.maximum(levels * error, (levels - 1) * error).mean(axis=3)
    known = np.isfinite(actual)
    folds = np.array_split(np.arange(len(actual)), FOLDS)
    total = np.stack([np.where(known[fold], loss[fold], 0.0).sum(axis=(0, 2)) for fold in folds])
    count = np.stack([known[fold].sum(axis=(0, 2)) for fold in folds])
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _answer(members: Sequence[Member], horizon: int, levels: tuple[float, ...]) -> rolling.Answer:
    """Of the members alone; NaN where they say nothing."""
    serving = Members([one.told() for one in members])

    def answer(windows: Windows) -> Floats32:
        blank = np.full((len(windows), horizon, len(levels)), np.nan, np.float32)
        serving.replace(blank, windows, levels)
        return blank

    return answer


def _important(history: History, demand: Sequence[bool], rules: MemberRules) -> list[int]:
    """Rows of the important series: those named first, then demand, then by size."""
    known = history.mask
    size = np.where(known, np.abs(history.values), 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    named = np.asarray([key.workload in rules.named for key in history.keys], np.bool_)
    order = np.lexsort((-size, ~np.asarray(demand, np.bool_), ~named))
    rows: list[int] = order[: rules.important].tolist()
    return rows


def _rounds(past: History, important: Sequence[int], few: int, season: int, horizon: int) -> list[dict[int, Member]]:
    """Row to member, so that each round has at most one for a row: fitted ones, and a shared grid's for all others.

    The first ``few`` of the ``important`` have SARIMAX among theirs.
    """
    filled = forward(past.values.astype(np.float64))
    slot = past.end // past.step_ms
    own = {i: fit(past.keys[i], filled[i][np.isfinite(filled[i])], slot, season) for i in important}
    for i in important[:few]:
        own[i] += sarimax(past.keys[i], past.values[i].astype(np.float64), slot, season)
    others = np.setdiff1d(np.flatnonzero(past.mask.any(axis=1)), important)
    common = shared([past.keys[i] for i in others], past.values[others].astype(np.float64), past.mask[others], horizon)
    every = {**own, **{int(i): [one] for i, one in zip(others, common, strict=True)}}
    most = max(map(len, every.values()), default=0)
    return [{i: members[k] for i, members in every.items() if len(members) > k} for k in range(most)]
