"""Requests and answers get lost at random, processes take turns, and still no token ever has a second effect.

``AZURE_RUNS=1000`` makes it a soak; each run is one action on a pool of its kind and depends on its seed alone.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from azure_worlds import World, world

from forecastle.clouds.azure import AzureCloud
from forecastle.errors import CloudUnavailable, Conflict
from forecastle.types import Action, Kind, Pool

RUNS = int(os.environ.get("AZURE_RUNS", "40"))
FAULTS = ("lost", "unanswered", "after 500 InternalError", "500 InternalError", "429 TooManyRequests", "409 Conflict")
WAYS: dict[str, tuple[Kind, ...]] = {
    "scale_set": (Kind.SCALE, Kind.ROLLBACK, Kind.RESTART, Kind.REPLACE),
    "app": (Kind.SCALE, Kind.RESTART, Kind.ROLLBACK),
    "node_pool": (Kind.SCALE,),
}


@pytest.fixture(scope="module")
def azure() -> Iterator[World]:
    with world() as here:
        yield here


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
def test_no_token_has_a_second_effect(way: str, azure: World) -> None:
    pool, ends = getattr(azure, way)(), Counter[str]()
    processes = [azure.connect() for _ in range(2)]
    for seed in range(RUNS):
        dice = random.Random(f"{way}/{seed}")
        action = chosen(dice.choice(WAYS[way]), seed, pool, azure)
        azure.azure.calls.clear()
        azure.azure.fault = lambda asked, _, dice=dice: struck(asked, dice)
        ends[told(action, pool, processes, dice)] += 1
        azure.azure.fault = lambda asked, body: ""
        once(action, azure, seed)
        dice.choice(processes).apply(action, pool, token=action.id)
        once(action, azure, seed, done=True)
        after = azure.cloud.observe(pool)
        assert dice.choice(processes).apply(action, pool, token=action.id).already
        assert azure.cloud.observe(pool).version == after.version
        if action.kind is Kind.SCALE:
            assert after.replicas == action.desired
        if action.kind is Kind.ROLLBACK:
            assert after.release == action.desired
        assert after.replicas in {3, 4}, f"seed {seed}: a replacement left {after.replicas}"
    assert min(ends["answered"], ends["ambiguous"]) > RUNS // 20, ends


def once(action: Action, azure: World, seed: int, *, done: bool = False) -> None:
    """Each request that the action is made of was carried out once at most, and in the end once."""
    carried = Counter(asked for asked, _ in azure.azure.effects())
    assert max(carried.values(), default=0) <= 1, f"seed {seed}: {action.kind} was carried out as {carried}"
    wanted = 2 if action.kind is Kind.REPLACE and action.replica else 1
    assert not done or sum(carried.values()) == wanted, f"seed {seed}: {action.kind} was carried out as {carried}"


def chosen(kind: Kind, seed: int, pool: Pool, azure: World) -> Action:
    """Up or down, another image, all anew, or one instance."""
    seen = azure.cloud.observe(pool)
    if kind is Kind.SCALE:
        return azure.action(kind, 3 if seen.replicas == 4 else 4, pool)
    if kind is Kind.ROLLBACK:
        return azure.action(kind, f"a:b:c:{seed}" if "vmss" in pool.target else f"web:of-{seed}", pool)
    one = min(azure.instances(pool)) if "vmss" in pool.target else ""
    return azure.action(kind, f"{seed}", pool, replica=one)


def struck(asked: str, dice: random.Random) -> str:
    return dice.choice(FAULTS) if dice.random() < (0.1 if asked.endswith("/read") else 0.4) else ""


def told(action: Action, pool: Pool, processes: list[AzureCloud], dice: random.Random) -> str:
    """Up to four attempts, each by either process; what the last one knew."""
    doubt = False
    for _ in range(4):
        try:
            dice.choice(processes).apply(action, pool, token=action.id)
        except CloudUnavailable as error:
            doubt = doubt or error.ambiguous
        except Conflict:
            continue
        else:
            return "ambiguous" if doubt else "answered"
    return "ambiguous" if doubt else "untouched"
