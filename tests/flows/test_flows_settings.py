"""What flows need of the settings: each room is a mapping to Prefect, and the ledger tells where remedies were."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from flow_worlds import START, STEP, configuration, ledger_of, settings_of

from flows.incidents import IncidentSpan
from flows.train import _incidents, _lesson
from forecastle import settings as rooms
from forecastle.settings import Room, Settings
from forecastle.types import Kind, Outcome, Status

ROOMS = [one for one in vars(rooms).values() if isinstance(one, type) and issubclass(one, Room)]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_no_field_hides_what_makes_a_room_a_mapping(room: type[Room]) -> None:
    """Prefect takes the settings apart with ``dict``, which asks an object that has ``keys`` for them."""
    assert not {"keys", "items", "values"} & set(room.model_fields)


def test_the_default_settings_can_be_taken_apart() -> None:
    whole = dict(Settings())
    assert {name: dict(room) for name, room in whole.items() if isinstance(room, Room)}["agent"]["accept"] == {}


def test_what_is_learned_from_has_gaps_where_a_series_was_stuck(tmp_path: Path) -> None:
    given = (400 + 40 * np.random.default_rng(0).normal(0, 1, 600)).round(3)
    given[100:400] = 0.0
    rows = [f"{START + slot * STEP},{value},shop,rps" for slot, value in enumerate(given.tolist())]
    path = tmp_path / "history.csv"
    path.write_text("\n".join(["timestamp,value,workload,metric", *rows]), encoding="utf-8")
    lesson = _lesson(settings_of(configuration(tmp_path)), str(path), (), "", 1)
    assert np.flatnonzero(~lesson.history.mask[0]).tolist() == list(range(100, 400))
    assert lesson.quality.metrics()["quality_stuck"] == 300
    assert lesson.hidden == 0, "no incident hid it"


def test_remedies_of_the_ledger_are_incidents(tmp_path: Path) -> None:
    config = configuration(tmp_path, decide={"heal_settle_s": 120})
    ledger = ledger_of(config, START)
    ledger.conclude(Outcome("a", Status.REFUSED, START, "shop-fra", Kind.RESTART, "shop"))
    ledger.close()
    assert _incidents(settings_of(config), "ledger") == (), "what was refused did not happen"
    assert _incidents(settings_of(config), "") == ()
    ledger = ledger_of(config, START)
    ledger.conclude(Outcome("b", Status.APPLIED, START, "shop-fra", Kind.RESTART, "shop"))
    ledger.close()
    assert _incidents(settings_of(config), "ledger") == (IncidentSpan(START - 600_000, START + 120_000, "shop", "fra"),)
