"""A planted incident, once it is masked, leaves no trace in what a model says of ordinary days."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_worlds import END, TINY, waves

from flows.history import History
from flows.incidents import IncidentSpan, masked
from forecastle.types import SeriesKey
from models.patch_mixer import PatchMixer, train

STEP = 60_000
KEYS = (SeriesKey("shop", "rps"), SeriesKey("cart", "rps"))
BEGIN, LAST = 500, 560
"""Slots of the incident."""


def history(planted: bool) -> History:
    """Two waves; an outage of the first takes all demand away and brings it back thirtyfold."""
    values = np.stack(waves(2))
    if planted:
        values[0, BEGIN:530] = 0.0
        values[0, 530:LAST] *= 30.0
    return History(KEYS, values, END * STEP, STEP)


def span() -> IncidentSpan:
    first = END * STEP - 900 * STEP
    return IncidentSpan(first + BEGIN * STEP, first + LAST * STEP, "shop")


def taught(given: History) -> PatchMixer:
    quick = {**TINY, "steps": 60, "batch": 32}
    return train(quick, list(given.values), [END] * 2, progress=False, device="cpu")[0]


def forecast(model: PatchMixer) -> np.ndarray:
    """Quantiles of the first series on its newest, ordinary window."""
    window = torch.from_numpy(history(planted=False).values[:1, -120:].copy())
    with torch.no_grad():
        return model(window, torch.ones_like(window), torch.tensor([END])).numpy()


@pytest.fixture(scope="module")
def forecasts() -> dict[str, np.ndarray]:
    """Of models that learned from ordinary days with a gap, from an incident behind that gap, and from the incident itself."""
    torch.set_num_threads(1)
    clean, poisoned = history(planted=False), history(planted=True)
    given = {"gap": masked(clean, [span()]), "masked": masked(poisoned, [span()]), "poisoned": poisoned}
    return {name: forecast(taught(one)) for name, one in given.items()}


def test_a_masked_incident_does_not_shift_the_forecast(forecasts: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(forecasts["masked"], forecasts["gap"])


def test_an_incident_that_is_not_masked_does(forecasts: dict[str, np.ndarray]) -> None:
    assert np.abs(forecasts["poisoned"] / forecasts["gap"] - 1).max() > 0.01


def test_a_mask_of_another_workload_would_not_help() -> None:
    other = IncidentSpan(span().start, span().end, "cart")
    after = masked(history(planted=True), [other])
    assert after.mask[0].all()
    assert np.count_nonzero(~after.mask[1]) == LAST - BEGIN
