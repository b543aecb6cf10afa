"""All deployments served from one process, for a laptop or a single box: ``python -m flows.serve``.

With a work pool use ``prefect deploy --all`` instead; the names are the same, so the automations fit both.
"""

from __future__ import annotations

import sys
from importlib import import_module

from prefect import serve
from prefect.deployments.runner import RunnerDeployment

FLOWS = ("stream", "train", "pretrain", "backtest", "promote", "heal", "report")


def deployments(names: tuple[str, ...] = FLOWS) -> list[RunnerDeployment]:
    """One deployment per flow, named like the flow, without schedules."""
    return [getattr(import_module(f"flows.{name}"), name).to_deployment(name=name) for name in names]


if __name__ == "__main__":
    serve(*deployments(tuple(sys.argv[1:]) or FLOWS))
