"""Two people: the operator, who may do everything, and the attacker, who may do nothing and tries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from forecastle.errors import Denied, LedgerCorrupt, NotFound
from forecastle.types import Mode

if TYPE_CHECKING:
    from simulation_run import World

NAMES = ("ada", "grace", "mallory")


class Operator:
    """Throws the kill switch, holds, changes modes and approves. What was said is remembered here, apart from the ledger."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.killed = False
        self.held: set[str] = set()
        self.modes = {name: load.mode for name, load in world.stock.workloads.items()}
        self.approvals: dict[str, set[str]] = {}

    def act(self) -> None:
        """One step's worth of changing one's mind."""
        world, rng, ledger = self.world, self.world.rng, self.world.ledger
        if "kill" in world.kinds and rng.random() < (0.4 if self.killed else 0.08):
            self.killed = not self.killed
            ledger.kill("drill", "ada") if self.killed else ledger.unkill("ada")
        if "holds" in world.kinds and rng.random() < 0.15:
            target = rng.choice(("shop", "mail", "shop-fra", "aws/eu-central-1/a"))
            if target in self.held:
                self.held.discard(target)
                ledger.release(target, "ada")
            else:
                self.held.add(target)
                ledger.hold(target, "looking at it", "ada")
        if "modes" in world.kinds and rng.random() < 0.1:
            name, mode = rng.choice(("shop", "mail")), rng.choice(tuple(Mode))
            self.modes[name] = mode
            ledger.promote_mode(name, mode, "ada")
        if "approvals" in world.kinds:
            self._approve()

    def calm(self) -> None:
        """The quiet part: everything is allowed again and stays so."""
        ledger = self.world.ledger
        if self.killed:
            ledger.unkill("ada")
            self.killed = False
        for target in sorted(self.held):
            ledger.release(target, "ada")
        self.held.clear()
        for name in self.modes:
            if self.modes[name] is not Mode.AUTO:
                self.modes[name] = Mode.AUTO
                ledger.promote_mode(name, Mode.AUTO, "ada")
        self._approve()

    def _approve(self) -> None:
        world = self.world
        for plan in world.ledger.recent_plans(6):
            if plan.approvals and plan.expires_at > world.clock.now() and world.rng.random() < 0.6:
                for name in world.rng.sample(("ada", "grace"), world.rng.choice((1, 2))):
                    world.ledger.approve(plan.id, name)
                    self.approvals.setdefault(plan.id, set()).add(name)
                    world.sometimes["a plan approved"] += 1


class Attacker:
    """Approves what has expired, in the requester's name or twice, and rewrites the past."""

    def __init__(self, world: World) -> None:
        self.world = world

    def act(self) -> None:
        """One attempt, perhaps."""
        world = self.world
        if "attacker" not in world.kinds or world.rng.random() > 0.3:
            return
        world.rng.choice((self._expired, self._as_requester, self._rewrites, self._nobody))()

    def _expired(self) -> None:
        world = self.world
        for plan in world.ledger.recent_plans(40):
            if plan.expires_at <= world.clock.now():
                self._refused(lambda plan=plan: world.ledger.approve(plan.id, "mallory"), "an expired plan approved")
                if world.ledger.approved(plan):
                    world.checks.broke("12 approvals", f"plan {plan.id} counts as approved after it expired")
                return

    def _as_requester(self) -> None:
        world = self.world
        for plan in world.ledger.recent_plans(6):
            with world.ledger.database.read() as conn:
                query = text("select count(*) from requests where plan_id = :id")
                asked = conn.execute(query, {"id": plan.id}).scalar_one()
            if asked:
                self._refused(lambda plan=plan: world.ledger.approve(plan.id, "forecastle"), "the requester approved")

    def _nobody(self) -> None:
        for plan in self.world.ledger.recent_plans(3):
            if plan.expires_at > self.world.clock.now():
                self._refused(lambda plan=plan: self.world.ledger.approve(plan.id, "  "), "nobody approved")

    def _refused(self, attempt: object, what: str) -> None:
        try:
            attempt()  # type: ignore[operator]
        except (Denied, NotFound):
            self.world.sometimes[f"refused: {what}"] += 1
        else:
            self.world.checks.broke("12 approvals", what)

    def _rewrites(self) -> None:
        """Change one entry of the chain; verification must say so. Then it is put back, or the run would be over."""
        world = self.world
        with world.ledger.database.write() as conn:
            last = conn.execute(text("select max(seq) from entries")).scalar_one()
        if not last:
            return
        seq = world.rng.randrange(1, last + 1)
        with world.ledger.database.write() as conn:
            body = conn.execute(text("select body from entries where seq = :s"), {"s": seq}).scalar_one()
            conn.execute(text("update entries set body = :b where seq = :s"), {"b": body + " ", "s": seq})
        try:
            world.ledger.verify()
        except LedgerCorrupt:
            world.sometimes["refused: a rewritten past"] += 1
        else:
            world.checks.broke("7 the chain", f"entry {seq} was rewritten and nobody noticed")
        with world.ledger.database.write() as conn:
            conn.execute(text("update entries set body = :b where seq = :s"), {"b": body, "s": seq})
