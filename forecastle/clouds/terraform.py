"""Terraform and OpenTofu: the number of replicas, or the release, as a variable of a configuration that somebody else owns.

Terraform decides what an action means, so it is asked first: a plan is saved and judged, and applied only when it changes
nothing but the pool's resources. What else it would change, drift above all, is a person's to look at.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecastle.clouds.terraform_journal import Journal, Pending
from forecastle.clouds.terraform_plan import covers, judge
from forecastle.clouds.terraform_program import Program
from forecastle.errors import ConfigError, Conflict, ForecastleError, NotFound, QuotaExceeded, Unsupported
from forecastle.ports import Clock
from forecastle.types import Action, Change, Kind, Observed, Pool, Receipt, digest


@dataclass(frozen=True, slots=True)
class Target:
    """Where a pool is in a configuration: its directory, variables, outputs, and the resources that belong to it."""

    directory: Path
    variable: str
    resources: tuple[str, ...]
    output: str
    ready: str
    release: str

    @classmethod
    def of(cls, pool: Pool) -> Target:
        """From ``Pool.target``. Raises ConfigError that says what to write."""
        told = pool.target
        missing = [name for name in ("directory", "variable", "resources") if not told.get(name, "").strip(" ,")]
        if missing:
            raise ConfigError(
                f"pool '{pool.name}': target.{missing[0]} is missing; write target: "
                "{directory: /srv/infra/web, variable: replicas, resources: aws_autoscaling_group.web}"
            )
        roots = tuple(part.strip() for part in told["resources"].split(",") if part.strip())
        output = told.get("output", told["variable"])
        return cls(Path(told["directory"]), told["variable"], roots, output, told.get("ready", output), told.get("release", ""))


class TerraformCloud:
    """One installation of ``binary``. A pool is a variable of a directory; SCALE and ROLLBACK set it and apply.

    ``read_s`` bounds each command that only reads, ``apply_s`` each plan and each apply, in seconds. The state's output
    named as the variable, or as ``target.output``, tells the replicas; ``target.ready`` names the output with the ready
    ones. ROLLBACK needs ``target.release``: the name of a variable, and of the output that repeats it.
    """

    capabilities = frozenset({Kind.SCALE, Kind.ROLLBACK})

    def __init__(
        self,
        *,
        clock: Clock,
        provider: str = "terraform",
        binary: str = "terraform",
        read_s: float = 30.0,
        apply_s: float = 120.0,
    ) -> None:
        self.name = provider
        self._clock = clock
        self._program = Program(binary, read_s=read_s, apply_s=apply_s)

    def observe(self, pool: Pool) -> Observed:
        """The pool as the state tells it: what was applied last, without asking the provider."""
        return self._look(pool, Target.of(pool))

    def preview(self, action: Action, observed: Observed) -> Change:
        """What ``apply`` would do to the pool as ``observed``; no command is run."""
        return Change.of(action, observed)

    def apply(self, action: Action, pool: Pool, *, token: str) -> Receipt:
        """Make it so. Raises Conflict, NotFound, Denied, QuotaExceeded, Unsupported, ConfigError or CloudUnavailable."""
        target, variable = Target.of(pool), ""
        if action.kind in self.capabilities and not action.replica:
            variable = target.variable if action.kind is Kind.SCALE else target.release
        if not variable:
            raise Unsupported(
                f"{action.kind} {action.target}: only SCALE, and ROLLBACK where `target.release` names a variable"
            )
        if not target.directory.is_dir():
            raise NotFound(f"pool '{pool.name}': there is no directory {target.directory}")
        journal, name = Journal(target.directory), digest(token)
        with journal.held():
            self._recover(journal, target)
            if journal.used(name):
                return Receipt(action.id, already=True, detail="this token was used")
            seen = self._look(pool, target)
            if Change.of(action, seen).noop:
                return Receipt(action.id, already=True, detail="it is so already")
            pending = journal.begin(name, variable, _wanted(action, pool, seen))
            return self._carry_out(action, target, journal, pending)

    def close(self) -> None:
        """Nothing to release: each command is a process of its own."""

    def _carry_out(self, action: Action, target: Target, journal: Journal, pending: Pending) -> Receipt:
        """Plan, judge, apply; afterwards the journal says whether the token is used."""
        try:
            detail = self._judged(action, target, journal)
            journal.applying(pending, self._program.serial(target.directory))
        except ForecastleError:
            journal.undo(pending)
            raise
        try:
            self._program.apply(target.directory, journal.plan)
        except ForecastleError:
            with suppress(ForecastleError):  # then whoever comes next settles it; what went wrong first is what is told
                self._settle(journal, target)
            raise
        journal.end(pending)
        return Receipt(action.id, already=False, detail=detail)

    def _judged(self, action: Action, target: Target, journal: Journal) -> str:
        """What the plan, now saved, would do. Raises when it must not be applied."""
        changing = self._program.plan(target.directory, journal.plan)
        detail = judge(self._program.planned(target.directory, journal.plan), target.resources, action.kind, action.target)
        if not changing:
            raise ConfigError(f"{action.target}: the variable changes nothing in {target.directory}; check `target`")
        return detail

    def _recover(self, journal: Journal, target: Target) -> None:
        """End what a dead process left. Its Terraform may live on; a plan, which needs the state's lock, shows not."""
        pending = journal.pending()
        if pending is not None and pending.serial is not None:
            self._program.plan(target.directory, journal.plan)
        self._settle(journal, target)

    def _settle(self, journal: Journal, target: Target) -> None:
        """End what is pending: the same serial means that nothing was applied, another one that at least some of it was."""
        pending = journal.pending()
        if pending is None:
            return
        if pending.serial is None or self._program.serial(target.directory) == pending.serial:
            journal.undo(pending)
        else:
            journal.end(pending)

    def _look(self, pool: Pool, target: Target) -> Observed:
        values = self._program.state(target.directory).get("values")
        if values is None:
            raise NotFound(f"pool '{pool.name}': nothing was ever applied in {target.directory}; apply it once by hand")
        outputs, journal = values.get("outputs", {}), Journal(target.directory)
        replicas, ready = (_count(outputs, name, pool) for name in (target.output, target.ready))
        release = str(outputs.get(target.release, {}).get("value", ""))
        own = [found for found in _resources(values.get("root_module", {})) if covers(target.resources, found["address"])]
        marks = (journal.newest(target.variable), target.release and journal.newest(target.release))
        version = digest(replicas, release, *marks, *(f"{r['address']} {r.get('values')}" for r in own))[:16]
        return Observed(pool.name, replicas, min(ready, replicas), self._clock.now(), version, release)


open_cloud = TerraformCloud


def _wanted(action: Action, pool: Pool, seen: Observed) -> int | str:
    """The variable's new value. Raises Conflict for a broken expectation, QuotaExceeded, Unsupported for no number."""
    found = seen.replicas if action.kind is Kind.SCALE else seen.version
    if found != action.expected:
        raise Conflict(f"{action.target}: expected {action.expected}, found {found}; observe and plan again")
    if action.kind is Kind.ROLLBACK:
        return str(action.desired)
    if not isinstance(action.desired, int) or isinstance(action.desired, bool) or action.desired < 0:
        raise Unsupported(f"{action.target}: {action.desired!r} is no number of replicas")
    if action.desired > pool.quota:
        raise QuotaExceeded(f"{pool.name}: {action.desired} replicas asked for, the quota is {pool.quota}")
    return action.desired


def _count(outputs: Mapping[str, Any], name: str, pool: Pool) -> int:
    value = outputs.get(name, {}).get("value")
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise NotFound(
            f"pool '{pool.name}': the state has no output '{name}' with a number of replicas; "
            f'add: output "{name}" {{ value = ... }}, and apply it once by hand'
        )
    return value


def _resources(module: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    own = [found for found in module.get("resources", ()) if found.get("mode") == "managed"]
    return own + [found for child in module.get("child_modules", ()) for found in _resources(child)]
