"""Drift from its beginning to its event: a real worker serves a model that is wrong, and Prefect is told once."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from flow_worlds import drifted

from flows.stream import Watch

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_model_that_is_wrong_is_an_event(tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client

    beats, watch = drifted(tmp_path), Watch("drifting")
    told = [watch.look(beat) for beat in [*beats, beats[-1]]]
    assert told.count(["forecastle.drift.detected"]) == 1
    first = next(beat for beat in beats if beat.drift)
    ((model, line),) = first.drift.items()
    assert (first.state, first.model) == ("RUNNING", model)
    assert re.fullmatch(r"error drift: 100% of 1 series are beyond 1.5 \(limit 25%\), worst shop:rps at [\d.]+", line)

    async def arrived() -> list[dict[str, Any]]:
        async with get_client() as client:
            body = {"filter": {"event": {"name": ["forecastle.drift.detected"]}, "occurred": {}}, "limit": 50}
            for _ in range(60):
                answer = await client.request("POST", "/events/filter", json=body)
                found = [e for e in answer.json()["events"] if e["resource"]["prefect.resource.id"].endswith("drifting")]
                if found:
                    await asyncio.sleep(1)
                    return found
                await asyncio.sleep(0.5)
        return []

    (event,) = asyncio.run(arrived())
    assert event["payload"] == {"model": model, "summary": line}
