"""Peers that score one series at a time: river's half-space trees, and an autoencoder per series as numalogic runs it.

River is no dependency of ours: ``pip install -c constraints.txt -e '.[bench]'``. Both are asked for a score of each series at
each tick, with the parameters that their documentation starts from.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable

import numpy as np

Score = Callable[[np.ndarray], np.ndarray]
_WARM = 260
_WINDOW = 12


def half_space_trees(past: np.ndarray) -> Score:
    """River's HalfSpaceTrees with its defaults, one for each of n series, learned on ``past`` [n, t] scaled to 0 ... 1."""
    from river.anomaly import HalfSpaceTrees

    low, reach = past.min(axis=1), np.ptp(past, axis=1) + 1e-9
    models = [HalfSpaceTrees(seed=0) for _ in past]
    for model, row in zip(models, (past[:, -_WARM:] - low[:, None]) / reach[:, None], strict=True):
        for value in row.tolist():
            model.learn_one({"value": value})

    def score(newest: np.ndarray) -> np.ndarray:
        out = np.zeros(len(models))
        for i, value in enumerate(((newest[:, -1] - low) / reach).tolist()):
            out[i] = models[i].score_one({"value": value})
            models[i].learn_one({"value": value})
        return out

    return score


def autoencoders(past: np.ndarray) -> Score:
    """An autoencoder 12-16-8-16-12 for each of n series, called once per series: scale, reconstruct, error, sigmoid of it.

    What numalogic does per key: a fitted scaler, a vanilla autoencoder over a window of 12, a threshold at the mean and
    three deviations of the training error. Untrained weights take as long as trained ones.
    """
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    middle, deviation = past.mean(axis=1), past.std(axis=1) + 1e-9

    def model() -> torch.nn.Module:
        sizes = (_WINDOW, 16, 8, 16, _WINDOW)
        layers: list[torch.nn.Module] = []
        for a, b in itertools.pairwise(sizes):
            layers += [torch.nn.Linear(a, b), torch.nn.Tanh()]
        return torch.nn.Sequential(*layers[:-1]).eval()

    models = [model() for _ in past]

    def score(newest: np.ndarray) -> np.ndarray:
        out = np.zeros(len(models))
        with torch.inference_mode():
            for i, net in enumerate(models):
                window = torch.from_numpy((newest[i, -_WINDOW:] - middle[i]) / deviation[i]).float()[None]
                error = (net(window) - window).abs().mean(dim=1).numpy()
                out[i] = float(1 / (1 + np.exp(-(error[0] - 1.0) / 0.5)))
        return out

    return score


def installed() -> tuple[dict[str, Callable[[np.ndarray], Score]], list[str]]:
    """The peers that can run, and the packages that are missing."""
    peers = {"river": ("river HalfSpaceTrees", half_space_trees), "torch": ("autoencoder per series", autoencoders)}
    found = {label: make for package, (label, make) in peers.items() if importlib.util.find_spec(package)}
    return found, [package for package in peers if not importlib.util.find_spec(package)]
