"""The only door from the engine to the workshop: objects named by import strings, looked up when they are called."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from forecastle.errors import ConfigError
from forecastle.ports import Registry
from forecastle.runtime.inventory import resolve
from forecastle.settings import Settings


def run_flow(path: str, settings: Settings, **arguments: Any) -> Any:
    """Run the flow ``module:name`` to its end, passing the settings as a plain mapping. Returns what the flow returns."""
    flow = resolve(path)
    result = flow(settings=settings.model_dump(mode="json"), **arguments)
    return asyncio.run(_await(result)) if inspect.isawaitable(result) else result


async def _await(result: Any) -> Any:
    return await result


def registry(settings: Settings) -> Registry:
    """The registry of ``predict.registry``: an MLflow tracking URI, or a folder."""
    uri = settings.predict.registry
    if not uri:
        raise ConfigError("predict.registry: is empty; set it to an MLflow tracking URI or a folder of artifacts")
    if "://" in uri:
        from forecastle.predict.registry import MlflowRegistry

        return MlflowRegistry(uri)
    from pathlib import Path

    from forecastle.predict.registry import DirectoryRegistry

    return DirectoryRegistry(Path(uri))


def rollback(settings: Settings, name: str) -> tuple[str, str]:
    """Point the serving alias back at the version before the present one. Returns (from, to)."""
    store, alias = registry(settings), settings.predict.alias
    now = store.resolve(name, alias)
    older = [str(v["version"]) for v in store.versions(name) if int(v["version"]) < int(now)]
    if not older:
        raise ConfigError(f"{name}@{alias}: version {now} is the oldest; there is nothing to roll back to")
    store.promote(name, older[0], alias)
    return now, older[0]
