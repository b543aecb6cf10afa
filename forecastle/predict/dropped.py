"""What a worker dropped, told through the cache to whoever may move the alias: a worker never asks a registry.

::

    <cache>/<name>/<alias>.dropped.json    {"sha256": ..., "why": ...}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from forecastle.predict.artifacts import plain, replace_text


@dataclass(frozen=True, slots=True)
class DroppedModel:
    """The digest that a worker will not serve again, and why."""

    sha256: str
    why: str


def tell_dropped(cache: Path, name: str, alias: str, digest: str, why: str) -> None:
    """Leave word that ``digest`` was dropped. A later word replaces an earlier one. Raises OSError."""
    replace_text(_path(cache, name, alias), json.dumps({"sha256": digest, "why": why}))


def told_dropped(cache: Path, name: str, alias: str) -> DroppedModel | None:
    """The word that was left; None when there is none or it cannot be read."""
    try:
        told = json.loads(_path(cache, name, alias).read_bytes())
        return DroppedModel(str(told["sha256"]), str(told["why"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def settle_dropped(cache: Path, name: str, alias: str) -> None:
    """Forget the word: it was acted upon, or it is about what serves no more."""
    _path(cache, name, alias).unlink(missing_ok=True)


def _path(cache: Path, name: str, alias: str) -> Path:
    return cache / plain(name) / f"{plain(alias)}.dropped.json"
