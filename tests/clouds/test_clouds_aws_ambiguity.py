"""Requests and answers get lost at random, processes take turns, and still no token ever has a second effect.

``AWS_RUNS=1000`` makes it a soak; each run is one action on a pool of its kind and depends on its seed alone.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from aws_front import EFFECTS
from aws_worlds import World, world

from forecastle.errors import CloudUnavailable
from forecastle.types import Action, Kind, Pool, Receipt

RUNS = int(os.environ.get("AWS_RUNS", "60"))
TELLING = EFFECTS | {"CreateOrUpdateTags", "TagResource"}
FAULTS = ("lost", "unanswered", "after 500 InternalFailure", "500 InternalFailure", "400 Throttling")
WAYS = {"group": (Kind.SCALE, Kind.REPLACE, Kind.RESTART), "service": (Kind.SCALE, Kind.RESTART), "nodegroup": (Kind.SCALE,)}


@pytest.fixture(scope="module")
def aws() -> Iterator[World]:
    with world() as here:
        yield here


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
def test_no_token_has_a_second_effect(way: str, aws: World) -> None:
    pool, ways, ends = getattr(aws, way)(), WAYS[way], Counter[str]()
    processes = [aws.connect(read_attempts=1) for _ in range(2)]
    for seed in range(RUNS):
        dice = random.Random(f"{way}/{seed}")
        action = chosen(dice.choice(ways), seed, pool, aws)
        aws.front.delivered.clear()
        aws.front.fault = lambda operation, _, dice=dice: struck(operation, dice)
        ends[told(action, pool, processes, dice)] += 1
        assert len(aws.front.effects()) <= 1, f"seed {seed}: {aws.front.effects()}"
        aws.front.fault = lambda operation, body: ""
        receipt = processes[dice.randrange(2)].apply(action, pool, token=action.id)
        assert isinstance(receipt, Receipt)
        assert len(aws.front.effects()) == 1, f"seed {seed}: it did not happen, and the receipt was {receipt}"
        if action.kind is Kind.SCALE:
            assert aws.cloud.observe(pool).replicas == action.desired
        aws.settle()
        assert processes[dice.randrange(2)].apply(action, pool, token=action.id).already
        assert len(aws.front.effects()) == 1
    assert min(ends["answered"], ends["ambiguous"]) > RUNS // 10, ends


def chosen(kind: Kind, seed: int, pool: Pool, aws: World) -> Action:
    """Up or down, all anew, or one instance anew."""
    if kind is Kind.SCALE:
        return aws.action(kind, 3 if aws.cloud.observe(pool).replicas == 4 else 4, pool)
    one = min(aws.members(pool)) if kind is Kind.REPLACE else ""
    return aws.action(kind, f"{seed}", pool, replica=one)


def struck(operation: str, dice: random.Random) -> str:
    return dice.choice(FAULTS) if dice.random() < (0.4 if operation in TELLING else 0.1) else ""


def told(action: Action, pool: Pool, processes: list[object], dice: random.Random) -> str:
    """Up to four attempts, each by either process; what the last one knew."""
    doubt = False
    for _ in range(4):
        try:
            dice.choice(processes).apply(action, pool, token=action.id)  # type: ignore[attr-defined]
        except CloudUnavailable as error:
            doubt = doubt or error.ambiguous
        else:
            return "ambiguous" if doubt else "answered"
    return "ambiguous" if doubt else "untouched"
