"""Requests and answers get lost at random, processes take turns, and still no token ever has a second effect.

``GCP_RUNS=1000`` makes it a soak; each run is one action on a pool of its own and depends on its seed alone.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from gcp_worlds import EFFECTS, World, world

from forecastle.clouds import gcp_client
from forecastle.clouds.gcp import GcpCloud
from forecastle.errors import CloudUnavailable, Conflict
from forecastle.types import Action, Kind, Observed, Pool

RUNS = int(os.environ.get("GCP_RUNS", "25"))
FAULTS = (
    "lost",
    "unanswered",
    "503 backendError",
    "after 503 backendError",
    "429 rateLimitExceeded",
    "400 resourceNotReady",
)
WAYS: dict[str, tuple[tuple[Kind, bool, str], ...]] = {
    "group": (
        (Kind.SCALE, False, ""),
        (Kind.RESTART, False, "7"),
        (Kind.REPLACE, False, "7"),
        (Kind.ROLLBACK, False, "web-2"),
        (Kind.RESTART, True, "7"),
        (Kind.REPLACE, True, "7"),
        (Kind.QUARANTINE, True, "sick"),
    ),
    "regional": ((Kind.SCALE, False, ""), (Kind.REPLACE, False, "7"), (Kind.REPLACE, True, "7"), (Kind.RESTART, True, "7")),
    "service": ((Kind.SCALE, False, ""), (Kind.RESTART, False, "7"), (Kind.ROLLBACK, False, "web-00000")),
    "nodepool": ((Kind.SCALE, False, ""),),
}


@pytest.fixture(scope="module")
def gcp() -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch, world() as here:
        patch.setattr(gcp_client, "_FIRST_WAIT_S", 0.0005)
        yield here


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
def test_no_token_has_a_second_effect(way: str, gcp: World) -> None:
    ends = Counter[str]()
    processes = [gcp.connect() for _ in range(2)]
    for seed in range(RUNS):
        dice = random.Random(f"{way}/{seed}")
        pool = getattr(gcp, way)()
        action = chosen(*dice.choice(WAYS[way]), dice, pool, gcp)
        gcp.gcp.done.clear()
        gcp.gcp.fault = lambda method, dice=dice: struck(method, dice)
        ends[told(action, pool, processes, dice)] += 1
        gcp.gcp.fault = lambda _: ""
        gcp.gcp.settle()
        assert len(gcp.effects()) <= 1, f"seed {seed}: {action.kind} was carried out as {gcp.effects()}"
        dice.choice(processes).apply(action, pool, token=action.id)
        assert len(gcp.effects()) == 1, f"seed {seed}: {action.kind} was carried out as {gcp.effects()}"
        after = gcp.cloud.observe(pool)
        shows(action, after)
        assert dice.choice(processes).apply(action, pool, token=action.id).already
        assert gcp.cloud.observe(pool) == after
        assert len(gcp.effects()) == 1
    assert min(ends["answered"], ends["ambiguous"]) > RUNS // 20, ends


def chosen(kind: Kind, single: bool, desired: str, dice: random.Random, pool: Pool, gcp: World) -> Action:
    """On a pool of four as it is, or on its first instance."""
    one = min(gcp.instances(pool)) if single else ""
    return gcp.action(kind, dice.choice((3, 5)) if kind is Kind.SCALE else desired, pool, replica=one)


def shows(action: Action, after: Observed) -> None:
    """What can be seen of the action: a size, a release; one instance less after a quarantine; else the same four."""
    if action.kind is Kind.SCALE:
        assert after.replicas == action.desired
    else:
        assert after.replicas == (3 if action.kind is Kind.QUARANTINE else 4)
    if action.kind is Kind.ROLLBACK:
        assert after.release == action.desired


def struck(method: str, dice: random.Random) -> str:
    """Effects fail more often than what is only read or noted."""
    return dice.choice(FAULTS) if dice.random() < (0.4 if method.endswith(EFFECTS) else 0.08) else ""


def told(action: Action, pool: Pool, processes: list[GcpCloud], dice: random.Random) -> str:
    """Up to four attempts, each by either process; what is known after the last one."""
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
