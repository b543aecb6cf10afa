"""Seeds, each a world in which other things go wrong: no promise is broken in any, and every interesting state is reached.

``SEEDS=n`` plays n of them: 100 unless said otherwise, 10,000 in ``make soak``. A seed that fails is
played alone with ``simulation_run.play(seed)``.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import simulation_run
from simulation_minds import Brain, Mind
from simulation_run import Run, play

SEEDS = int(os.environ.get("SEEDS", "100"))
SOMETIMES = (
    "a controller stopped",
    "a controller stopped between intent and effect",
    "a gap in the data",
    "a human edited a pool",
    "a message refused",
    "a page delivered in the quiet part",
    "a partial success",
    "a plan approved",
    "a pool not observed",
    "a pool stopped serving",
    "a request under way for long",
    "a sample delivered twice",
    "a sample too late",
    "a stale read",
    "a success that was none",
    "an answer lost on its way",
    "an approved plan carried out",
    "an effect lost on its way",
    "broker down",
    "crash",
    "crash between effect and record",
    "crash between intent and effect",
    "forged demand",
    "refused: a rewritten past",
    "refused: an expired plan approved",
    "refused: nobody approved",
    "refused: the requester approved",
    "replicas fell sick",
    "store answered too late",
    "store down",
    "throttled effect",
    "guard: cool_down",
    "guard: ejection",
    "guard: floor",
    "guard: heal_budget",
    "guard: hold",
    "guard: in_flight",
    "guard: inventory_jump",
    "guard: kill_switch",
    "guard: missing_data",
    "guard: mode",
    "guard: money",
    "guard: one_domain",
    "guard: panic",
    "guard: quorum",
    "guard: stabilization",
    "guard: step_down",
    "guard: step_up",
    "guard: suspect_data",
    "guard: warm_up",
    "refused at the effect: deadline",
    "refused at the effect: fenced",
    "refused at the effect: recovered",
    "outcome: scale APPLIED",
    "outcome: scale REFUSED",
    "outcome: scale UNVERIFIED",
    "outcome: restart APPLIED",
    "outcome: notify APPLIED",
)
"""States that a run over all seeds must have reached, or it proves little."""


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    """Every seed's run, played on as many cores as there are."""
    environment = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=environment) as pool:
        return list(pool.map(play, range(SEEDS), chunksize=5))


@pytest.mark.slow
@pytest.mark.timeout(36_000)
def test_no_seed_breaks_a_promise(runs: list[Run]) -> None:
    broken = [f"seed {run.seed}: {how}" for run in runs for how in run.broken]
    assert not broken, f"{len(broken)} broken promises:\n" + "\n".join(broken[:20])


def test_every_interesting_state_is_reached(runs: list[Run]) -> None:
    reached = Counter[str]()
    for run in runs:
        reached += run.sometimes
    assert [state for state in SOMETIMES if not reached[state]] == []


def test_most_seeds_do_something(runs: list[Run]) -> None:
    assert sum(run.effects > 3 for run in runs) > len(runs) // 2


@pytest.mark.parametrize("seed", [5, 14])
def test_a_seed_replays_bit_for_bit_in_any_process(seed: int) -> None:
    """Sets iterate in another order for every hash seed, and memory is elsewhere; the trace may not notice."""
    here = play(seed)
    code = f"import sys; sys.path.insert(0, sys.argv[1]); from simulation_run import play; print(play({seed}).digest)"
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    for hashes in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": hashes}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == here.digest


def test_other_seeds_are_other_worlds() -> None:
    assert len({play(seed).digest for seed in range(3)}) == 3


def test_remembering_answers_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shared forecaster and detector answer what each controller's own would."""
    remembered = play(14)
    assert remembered.sometimes["crash"], "a controller was restarted, so that something is remembered"
    monkeypatch.setattr(simulation_run, "Mind", lambda brain: Mind(Brain(brain.settings, brain.clock)))
    assert play(14).digest == remembered.digest
