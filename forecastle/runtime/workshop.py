"""The only door from the engine to the workshop: objects named by import strings, looked up when they are called."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from forecastle.predict.registry import DirectoryRegistry, MlflowRegistry, open_registry
from forecastle.runtime.config import load
from forecastle.runtime.inventory import resolve
from forecastle.settings import Settings

SECRETS = {"intake": {"sasl_password"}}


def run_flow(path: str, settings: Settings, **arguments: Any) -> Any:
    """Run the flow ``module:name`` to its end, passing the settings as a plain mapping. Returns what the flow returns.

    Prefect keeps a flow's parameters, so secrets are not among them; `settings_of` takes them from the environment again.
    """
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    flow = resolve(path)
    result = flow(settings=settings.model_dump(mode="json", exclude=SECRETS), **arguments)
    return asyncio.run(_await(result)) if inspect.isawaitable(result) else result


def settings_of(given: Mapping[str, Any] | None, configs: Sequence[str], flags: Sequence[str]) -> Settings:
    """The settings of a flow: ``given`` by `run_flow`, or of ``configs``, environment and ``flags``. Raises ConfigError."""
    if given is None:
        return load([Path(path) for path in configs], flags=flags)
    settings = Settings.model_validate(given)
    password = os.environ.get("FORECASTLE_INTAKE__SASL_PASSWORD")
    if settings.intake.sasl_password is not None or password is None:
        return settings
    return settings.model_copy(update={"intake": settings.intake.model_copy(update={"sasl_password": SecretStr(password)})})


async def _await(result: Any) -> Any:
    return await result


def registry(settings: Settings) -> DirectoryRegistry | MlflowRegistry:
    """The registry of ``predict.registry``. Raises ConfigError when there is none."""
    return open_registry(settings.predict.registry)


def rollback(settings: Settings, name: str) -> tuple[str, str]:
    """Point the serving alias back at the version it pointed at before. Returns (from, to); raises NotFound without one."""
    return registry(settings).rollback(name, settings.predict.alias)
