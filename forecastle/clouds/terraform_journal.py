"""What was asked of a Terraform directory: the variables file, the tokens that were used, and the one action under way.

All of it is in files beside the configuration, each replaced whole (written aside, synced, renamed), and changed only by the
process that holds the directory's lock. An action is journalled before the variables file is touched, so that whoever comes
after a crash knows whether to finish it or to put the file back.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from forecastle.errors import CloudUnavailable, ConfigError, Denied

VARIABLES = "forecastle.auto.tfvars.json"
FOLDER = ".forecastle"
KEPT = 256


@dataclass(frozen=True, slots=True)
class Pending:
    """An action under way: its ``token``, what it sets ``variable`` to, and what was there (empty where nothing was).

    ``serial`` is the state's before the apply; None while only planning, which has no effect.
    """

    token: str
    variable: str
    value: int | str
    before: tuple[int | str, ...] = ()
    serial: str | None = None


class Journal:
    """The files of one directory. ``held`` takes the lock; everything that writes is for inside it."""

    def __init__(self, directory: Path) -> None:
        self._variables = directory / VARIABLES
        self._folder = directory / FOLDER
        self._file = self._folder / "journal.json"

    @property
    def plan(self) -> Path:
        """Where the plan of the action under way is saved; it may hold secrets, so that nobody else may read it."""
        return self._folder / "action.tfplan"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory against other processes of ours. Raises CloudUnavailable when another one has it."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            lock = (self._folder / "lock").open("a")
        except OSError as error:
            raise Denied(f"terraform: cannot write to {self._folder}: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CloudUnavailable(f"terraform: another action is under way in {self._folder.parent}") from None
            try:
                yield
            finally:
                self.plan.unlink(missing_ok=True)

    def used(self, token: str) -> bool:
        """Whether an action under this token had its effect, or may have had it."""
        return token in self._read()["used"]

    def newest(self, variable: str) -> str:
        """The newest token that changed ``variable``; '' when none is kept."""
        return next((token for token, name in reversed(self._read()["used"].items()) if name == variable), "")

    def pending(self) -> Pending | None:
        """The action that was begun and not ended, None when there is none."""
        found = self._read()["pending"]
        return Pending(**{**found, "before": tuple(found["before"])}) if found else None

    def begin(self, token: str, variable: str, value: int | str) -> Pending:
        """Journal the action, then ask for ``value`` in the variables file."""
        variables = self._asked()
        before = (variables[variable],) if variable in variables else ()
        pending = Pending(token, variable, value, before)
        self._save(self._read() | {"pending": asdict(pending)})
        _replace(self._variables, variables | {variable: value})
        return pending

    def applying(self, pending: Pending, serial: str) -> None:
        """From now on it may have its effect."""
        self._save(self._read() | {"pending": asdict(replace(pending, serial=serial))})

    def undo(self, pending: Pending) -> None:
        """It had no effect: the variables file asks for what it asked for before, and the token is unused."""
        variables = self._asked()
        variables.pop(pending.variable, None)
        _replace(self._variables, variables | ({pending.variable: pending.before[0]} if pending.before else {}))
        self._save(self._read() | {"pending": None})

    def end(self, pending: Pending) -> None:
        """It had its effect, or may have had: its token is used, and the variables file keeps what it asks for."""
        found = self._read()
        used = {**found["used"], pending.token: pending.variable}
        self._save({"used": dict(list(used.items())[-KEPT:]), "pending": None})

    def _asked(self) -> dict[str, Any]:
        return _loaded(self._variables)

    def _read(self) -> dict[str, Any]:
        return {"used": {}, "pending": None} | _loaded(self._file)

    def _save(self, found: Mapping[str, Any]) -> None:
        _replace(self._file, found)


def _loaded(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is no JSON object; restore it, or move it away after comparing `terraform plan`")
    return found


def _replace(path: Path, value: Mapping[str, Any]) -> None:
    """Write aside, sync, rename, sync the folder: at any moment the file is the old one or the new one."""
    aside = path.with_name(f".{path.name}.new")
    try:
        with aside.open("w") as file:
            file.write(json.dumps(value, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise CloudUnavailable(f"terraform: cannot write {path}: {error.strerror}") from error
