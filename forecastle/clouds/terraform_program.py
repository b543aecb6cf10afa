"""Terraform as a program: each command with a timeout, its JSON read, its complaints made errors that tell no secrets."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

from forecastle.clouds.terraform_errors import Complaint, error_for
from forecastle.errors import CloudUnavailable, ConfigError, NotFound

NO_CHANGES, CHANGES = 0, 2
GRACE_S = 10.0
_REFUSED_VARIABLES = ("TF_LOG", "TF_CLI_ARGS", "TF_REATTACH_PROVIDERS")  # would print secrets, change commands or attach
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # `state pull` knows no -no-color


class Done(NamedTuple):
    """How a command ended: its exit status, what it printed, and the errors it complained of."""

    status: int
    output: str
    complaints: tuple[Complaint, ...]


class Program:
    """Runs ``binary`` (``terraform``, ``tofu`` or a path) in a directory. Nothing is asked of a person, no colours, no logs."""

    def __init__(self, binary: str, *, read_s: float, apply_s: float) -> None:
        self._binary, self._read_s, self._apply_s = binary, read_s, apply_s

    def state(self, where: Path) -> dict[str, Any]:
        """The state as ``show -json`` tells it. Raises what `error_for` makes of a failure."""
        return self._json(where, self._run(where, ["show", "-json", "-no-color"], self._read_s))

    def serial(self, where: Path) -> str:
        """Lineage and serial of the state: another one after every change of it. Raises where there is no state."""
        found = self._json(where, self._run(where, ["state", "pull"], self._read_s))
        return f"{found.get('lineage', '')}/{found.get('serial', 0)}"

    def plan(self, where: Path, out: Path) -> bool:
        """Plan against the real resources, saved as ``out``; whether anything would change. Nothing is changed."""
        told = self._run(
            where,
            ["plan", "-input=false", "-no-color", "-json", "-detailed-exitcode", "-lock-timeout=0s", f"-out={out}"],
            self._apply_s,
        )
        if told.status not in {NO_CHANGES, CHANGES}:
            raise error_for("plan", where, told.complaints)
        out.chmod(0o600)  # a plan holds the values of sensitive variables
        return told.status == CHANGES

    def planned(self, where: Path, plan: Path) -> dict[str, Any]:
        """What the saved ``plan`` would change, as ``show -json`` tells it."""
        return self._json(where, self._run(where, ["show", "-json", "-no-color", str(plan)], self._read_s))

    def apply(self, where: Path, plan: Path) -> None:
        """Apply the saved ``plan``, which Terraform refuses once the state has moved on. What is cut off is ambiguous."""
        told = self._run(
            where, ["apply", "-input=false", "-no-color", "-json", "-lock-timeout=0s", str(plan)], self._apply_s, changing=True
        )
        if told.status != 0:
            raise error_for("apply", where, told.complaints, changing=True)

    def _run(self, where: Path, words: Sequence[str], limit_s: float, *, changing: bool = False) -> Done:
        if not where.is_dir():
            raise NotFound(f"terraform: there is no directory {where}; check `target.directory` of the pool")
        with TemporaryFile() as output, TemporaryFile() as errors:  # a pipe would break when we die, and Terraform with it
            try:
                process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
                    [self._binary, *words],
                    cwd=where,
                    env=environment(os.environ),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,  # a signal for us must not cut an apply short
                )
            except OSError as error:
                raise ConfigError(f"cannot run '{self._binary}' ({error.strerror}); install it, or set `binary`") from None
            try:
                status = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                _interrupt(process)
                late = f"terraform {words[0]} in {where} took longer than {limit_s:g} s"
                raise CloudUnavailable(late, retry_after=5.0, ambiguous=changing) from None
            if status < 0:
                killed = f"terraform {words[0]} in {where} was killed by signal {-status}"
                raise CloudUnavailable(killed, ambiguous=changing)
            text, said = _read(output), _read(errors)
        return Done(status, text, complaints(text, said))

    def _json(self, where: Path, told: Done) -> dict[str, Any]:
        if told.status != 0:
            raise error_for("show", where, told.complaints)
        try:
            found = json.loads(told.output)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise CloudUnavailable("no JSON object came back; `binary` must be Terraform 1.1 or later, or OpenTofu")
        return found


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """The environment commands run in: ours, without what makes Terraform log, and without arguments added to commands."""
    kept = {name: value for name, value in ours.items() if not name.startswith(_REFUSED_VARIABLES)}
    return kept | {"TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "CHECKPOINT_DISABLE": "1"}


def complaints(output: str, errors: str) -> tuple[Complaint, ...]:
    """The errors among the JSON lines of ``output``; or, of a command without them, the headlines in ``errors``."""
    found = []
    for line in output.splitlines():
        if '"diagnostic"' not in line:
            continue
        try:
            told = json.loads(line).get("diagnostic", {})
        except (ValueError, AttributeError):
            continue
        if told.get("severity") == "error":
            found.append(Complaint(str(told.get("summary", "")), str(told.get("detail", "")), str(told.get("address", ""))))
    errors = _COLOUR.sub("", errors)
    headlines = [line.partition("Error: ")[2].strip() for line in errors.splitlines() if "Error: " in line]
    return tuple(found) or tuple(Complaint(line, errors, "") for line in headlines)


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Ask it to stop, so that it can save its state; kill it when it does not."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
