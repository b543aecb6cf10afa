"""A model on disk: an ONNX file and its manifest in a folder named by digest, and a pointer that says which one serves.

::

    <cache>/<name>/<sha256>/{model.onnx,manifest.json}
    <cache>/<name>/<alias>.json                         {"version": ..., "sha256": ...}
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from forecastle.errors import ConfigError, ModelRefused
from forecastle.ports import Artifact

MODEL, MANIFEST = "model.onnx", "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def replace_text(path: Path, text: str) -> None:
    """Write a whole file in one step: a reader sees the old text or the new one, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    with staged.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(name: str) -> str:
    """``name`` if it is safe as a file name. Raises ConfigError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a model or alias; use letters, digits, '.', '_' and '-'")
    return name


def stage(folder: Path, onnx_path: Path, manifest: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, Any]:
    """Both files in ``folder``; returns their digests and the metrics."""
    shutil.copyfile(onnx_path, folder / MODEL)
    (folder / MANIFEST).write_text(json.dumps(dict(manifest), indent=1, sort_keys=True), "utf-8")
    digests = {"sha256": sha256(folder / MODEL), "manifest_sha256": sha256(folder / MANIFEST)}
    return {**digests, "metrics": {key: float(value) for key, value in metrics.items()}}


def keep(into: Path, name: str, version: str, tags: Mapping[str, Any], fetch: Callable[[Path], None]) -> Artifact:
    """The artifact under ``into/<name>/<sha256>``, fetched when it is not there; only files of these digests get there."""
    digests = tuple(str(tags.get(key, "")) for key in ("sha256", "manifest_sha256"))
    if not all(_SHA256.fullmatch(digest) for digest in digests):
        raise ModelRefused(f"{name} version {version}: carries no digests; publish it with 'forecastle train'")
    folder = into / plain(name) / digests[0]
    if _digests(folder) != digests:
        staged = folder.with_name(f".pull-{uuid.uuid4().hex}")
        staged.mkdir(parents=True)
        try:
            fetch(staged)
            if (found := _digests(staged)) != digests:
                raise ModelRefused(
                    f"{name} version {version}: has the digests {found}, published were {digests}; publish it again"
                )
            folder.mkdir(exist_ok=True)
            for file in (MANIFEST, MODEL):
                (staged / file).replace(folder / file)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    return Artifact(name, version, folder / MODEL, digests[0], manifest)


def _digests(folder: Path) -> tuple[str, ...]:
    return tuple(sha256(folder / file) if (folder / file).exists() else "" for file in (MODEL, MANIFEST))


def point(cache: Path, name: str, alias: str, artifact: Artifact) -> None:
    """Make ``artifact`` the one that serves, in one step."""
    pointer = {"version": artifact.version, "sha256": artifact.sha256}
    replace_text(cache / plain(name) / f"{plain(alias)}.json", json.dumps(pointer))


def pointed(cache: Path, name: str, alias: str) -> tuple[str, str] | None:
    """(version, sha256) that serve now, None when nothing does. Raises ModelRefused when the pointer cannot be read."""
    path = cache / plain(name) / f"{plain(alias)}.json"
    try:
        pointer = json.loads(path.read_bytes())
        version, digest = str(pointer["version"]), str(pointer["sha256"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelRefused(f"{path}: is no pointer to a model ({error}); remove it and pull again") from error
    if not _SHA256.fullmatch(digest):
        raise ModelRefused(f"{path}: {digest!r} is no SHA-256; remove it and pull again")
    return version, digest


def cached(cache: Path, name: str, version: str, digest: str) -> Artifact:
    """The artifact of that digest as it lies in the cache. Raises ModelRefused when it is missing or differs from its name."""
    folder = cache / plain(name) / digest
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        found = sha256(folder / MODEL)
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{folder}: cannot be read ({error}); pull the model again") from error
    if found != digest or not isinstance(manifest, dict):
        raise ModelRefused(f"{folder}: is not what its name says; remove the folder and pull the model again")
    return Artifact(name, version, folder / MODEL, digest, manifest)
