"""A registry that is a plain folder: for a laptop, a shared disk, and wherever a server would be one more thing to run."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forecastle.errors import NotFound, RegistryUnavailable
from forecastle.ports import Artifact
from forecastle.predict.artifacts import MANIFEST, MODEL, keep, plain, replace_text, stage

REMEMBERED = 100
"""Promotions of an alias that can be taken back."""


class DirectoryRegistry:
    """A folder: ``<name>/versions/<n>/{model.onnx,manifest.json,version.json}`` and ``<name>/aliases/<alias>``.

    Every write appears whole or not at all, so many processes may share the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def resolve(self, name: str, alias: str) -> str:
        """Version the alias points at. Raises NotFound or RegistryUnavailable."""
        with _reading(self.path, f"{name}@{alias}"):
            return (self._folder(name) / "aliases" / plain(alias)).read_text("utf-8").strip()

    def pull(self, name: str, version: str, into: Path) -> Artifact:
        """Copy to ``into/<name>/<sha256>`` unless it is there. Raises NotFound, RegistryUnavailable or ModelRefused."""
        with _reading(self.path, f"{name} version {version}"):
            source = self._version(name, version)
            tags = json.loads((source / "version.json").read_bytes())

        def fetch(folder: Path) -> None:
            with _reading(self.path, f"{name} version {version}"):
                for file in (MODEL, MANIFEST):
                    shutil.copyfile(source / file, folder / file)

        return keep(into, name, version, tags, fetch)

    def promote(self, name: str, version: str, alias: str) -> str:
        """Point the alias at the version; returns the one before ('' if none). Raises NotFound or RegistryUnavailable."""
        with _reading(self.path, f"{name} version {version}"):
            (self._version(name, version) / "version.json").stat()
        try:
            before = self.resolve(name, alias)
        except NotFound:
            before = ""
        with _reading(self.path, name):
            replace_text(self._folder(name) / "aliases" / plain(alias), version)
            self._remember(name, alias, [*self._history(name, alias), version])
        return before

    def rollback(self, name: str, alias: str) -> tuple[str, str]:
        """Point the alias back at what it pointed at before; returns (from, to). Raises NotFound or RegistryUnavailable."""
        now = self.resolve(name, alias)
        with _reading(self.path, f"{name}@{alias}"):
            kept = earlier(f"{name}@{alias}", self._history(name, alias), now)
            replace_text(self._folder(name) / "aliases" / plain(alias), kept[-1])
            self._remember(name, alias, kept)
        return now, kept[-1]

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Newest first: version, aliases, metrics, created (ISO 8601, UTC). Raises NotFound or RegistryUnavailable."""
        with _reading(self.path, name):
            folder = self._folder(name)
            numbers = sorted((int(p.name) for p in (folder / "versions").iterdir() if p.name.isdigit()), reverse=True)
            pointed = {p.name: p.read_text("utf-8").strip() for p in sorted((folder / "aliases").glob("[!.]*"))}
            kept = [json.loads((folder / "versions" / str(n) / "version.json").read_bytes()) for n in numbers]
        return [row(str(n), pointed, one, one["created"]) for n, one in zip(numbers, kept, strict=True)]

    def publish(self, name: str, onnx_path: Path, manifest: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
        """Add a version; returns its number. Raises RegistryUnavailable, or ConfigError for a name that is no file name."""
        folder = self._folder(name) / "versions"
        onnx_path.stat()
        staged = folder / f".new-{uuid.uuid4().hex}"
        with _reading(self.path, name):
            staged.mkdir(parents=True)
        tags = stage(staged, onnx_path, manifest, metrics)
        with _reading(self.path, name):
            (staged / "version.json").write_text(json.dumps({**tags, "created": time_text(datetime.now(UTC))}), "utf-8")
            number = max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=0) + 1
            while not _claim(staged, folder / str(number)):
                number += 1
        return str(number)

    def _history(self, name: str, alias: str) -> list[str]:
        path = self._folder(name) / "aliases" / f".{plain(alias)}.history"
        return path.read_text("utf-8").split() if path.exists() else []

    def _remember(self, name: str, alias: str, history: Sequence[str]) -> None:
        replace_text(self._folder(name) / "aliases" / f".{plain(alias)}.history", " ".join(history[-REMEMBERED:]))

    def _folder(self, name: str) -> Path:
        return self.path / plain(name)

    def _version(self, name: str, version: str) -> Path:
        if not version.isdigit():
            raise NotFound(f"{name}: has no version {version!r}; versions are numbers, see 'forecastle models list'")
        return self._folder(name) / "versions" / version


@contextmanager
def _reading(root: Path, what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{what}: not in the registry {root}; see 'forecastle models list'") from error
    except (OSError, ValueError) as error:
        raise RegistryUnavailable(f"{root}: {what}: {error}; check the folder of predict.registry", retry_after=5) from error


def _claim(staged: Path, target: Path) -> bool:
    """Rename the folder to ``target``; False when another process was first."""
    try:
        staged.rename(target)
    except OSError:
        if target.exists():
            return False
        raise
    return True


def row(version: str, pointed: Mapping[str, str], tags: Mapping[str, Any], created: str) -> dict[str, Any]:
    """What a registry says of one version; ``pointed`` maps aliases to versions, ``tags`` holds sha256 and metrics."""
    metrics = tags.get("metrics", {})
    return {
        "version": version,
        "aliases": sorted(alias for alias, target in pointed.items() if target == version),
        "metrics": json.loads(metrics) if isinstance(metrics, str) else dict(metrics),
        "created": created,
        "sha256": str(tags.get("sha256", "")),
    }


def time_text(at: datetime) -> str:
    """ISO 8601 to the second."""
    return at.isoformat(timespec="seconds")


def earlier(what: str, history: Sequence[str], now: str) -> list[str]:
    """``history`` of promotions up to the last one that was not ``now``. Raises NotFound when there is none."""
    kept = list(history)
    while kept and kept[-1] == now:
        kept.pop()
    if not kept:
        raise NotFound(f"{what}: pointed at nothing before version {now}; there is nothing to roll back to")
    return kept
