"""Drift from its beginning to its event: a real worker serves a model that is wrong, and Prefect is told once."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from flow_worlds import arrived, drifted

from flows.stream import Watch

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_model_that_is_wrong_is_an_event(tmp_path: Path) -> None:
    beats, watch = drifted(tmp_path), Watch("drifting")
    told = [watch.look(beat) for beat in [*beats, beats[-1]]]
    assert told.count(["forecastle.drift.detected"]) == 1
    first = next(beat for beat in beats if beat.drift)
    ((model, line),) = first.drift.items()
    assert (first.state, first.model) == ("RUNNING", model)
    assert re.fullmatch(r"error drift: 100% of 1 series are beyond 1.5 \(limit 25%\), worst shop:rps at [\d.]+", line)

    (event,) = asyncio.run(arrived("forecastle.drift.detected", "drifting"))
    assert event["payload"] == {"model": model, "summary": line}
