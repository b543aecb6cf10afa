"""Prefect automations of the pipeline: drift starts ``train``, an incident starts ``heal``.

Events only wake a flow. What the flow may do is decided by the ledger and by ``promote``. A training takes a while to show:
what `WAKES` gives a pause starts its flow once in that time, whoever asks, and the deployment of ``train`` in prefect.yaml
runs once at a time.
Register them with ``python -m flows.automations`` after ``prefect deploy --all``.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.events.actions import RunDeployment
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

TRAIN_PAUSE = timedelta(hours=6)
"""After drift has started a training, for how long it starts no other."""
WAKES = {
    "drift starts train": ("forecastle.drift.detected", "train/train", {"incidents": "ledger"}, TRAIN_PAUSE),
    "incident starts heal": (
        "forecastle.incident.opened",
        "heal/heal",
        {"incident": "{{ event.payload.incident }}"},
        timedelta(0),
    ),
}


async def register() -> list[str]:
    """Create or replace the automations. Raises ObjectNotFound when a deployment is missing. Returns their names."""
    async with get_client() as client:
        for name, (event, deployment, parameters, pause) in WAKES.items():
            found = await client.read_deployment_by_name(deployment)
            with suppress(ValueError, ObjectNotFound):  # the first registration
                await (await Automation.aread(name=name)).adelete()
            trigger = EventTrigger(
                expect={event}, posture=Posture.Reactive, threshold=1, within=pause, match={}, for_each=set()
            )
            action = RunDeployment(source="selected", deployment_id=found.id, parameters=parameters, job_variables={})
            await Automation(name=name, trigger=trigger, actions=[action]).acreate()
    return list(WAKES)


if __name__ == "__main__":
    print("\n".join(asyncio.run(register())))
