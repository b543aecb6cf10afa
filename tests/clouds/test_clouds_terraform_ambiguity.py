"""Terraform dies, hangs, fails and babbles at random, our own process dies too, and still no token ever has a second effect.

``TERRAFORM_RUNS=1000`` makes it a soak; each run is two actions on a directory of its own and depends on its seed alone, as far
as nothing takes longer than it may. What stands in for Terraform is held to the real one.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from terraform_worlds import CONFIGURATION, Terraform, program, standin, terraform

from forecastle.clouds.terraform_journal import Journal
from forecastle.clouds.terraform_program import complaints
from forecastle.errors import CloudUnavailable, Denied, ForecastleError, QuotaExceeded
from forecastle.types import Action, Kind, Pool, Status, digest

RUNS = int(os.environ.get("TERRAFORM_RUNS", "12"))
LIMIT_S = 1.5
WAYS = (
    (Kind.SCALE, "web", (0, 1, 4, 5)),
    (Kind.ROLLBACK, "web", ("v0",)),
    (Kind.SCALE, "worker", (0, 1, 3)),
)
FAULTS = {"die": 6, "fail": 6, "orphan": 3, "mute": 3, "tear": 3, "hang": 0.4, "deaf": 0.4}
SAID = ("odd", "unexpected status 503", "429 Too Many Requests", "Quota 'CPUS' exceeded", "AccessDenied: not authorized")
NO_EFFECT = ("CloudUnavailable", "ConfigError", "NotFound", "EXTERNAL_CHANGE")

WORKERS = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from terraform_worlds import START, Terraform
from forecastle.act.effect import tell
from forecastle.act.retry import Retry
from forecastle.clouds import terraform_program
from forecastle.types import Action, Kind

terraform_program.GRACE_S = 0.1
retry = Retry(2, 60.0, lambda seconds: None, lambda: 0.0)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        here = Terraform(Path(order["folder"]), {binary!r})
        pool = here.pool if order["pool"] == here.pool.name else here.workers
        words = (order["desired"], order["expected"], order["tick"], order["deadline"])
        action = Action(Kind(order["kind"]), "shop", pool.name, *words)
        cloud = here.connect(read_s=order["limit_s"], apply_s=order["limit_s"])
        answer = tell(cloud, action, pool, retry, left_s=lambda: 600.0, forbidden=str)
        already = answer.receipt.already if answer.receipt else None
        os.write(1, json.dumps([answer.status, answer.detail, answer.doubt, already]).encode() + b"\\n")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status:
        print(json.dumps(["died" if os.WIFSIGNALED(status) else "crashed", "", True, None]), flush=True)
"""


class Told(NamedTuple):
    """What a worker said of an action: ``already`` is its receipt's, None without one; ``status`` died when it said nothing."""

    status: str
    detail: str
    doubt: bool
    already: bool | None


@dataclass
class Yard:
    """The directories of all runs, one after the other; what stands in for Terraform, and workers that may die over it."""

    here: Terraform
    beside: Path
    workers: subprocess.Popen[str]

    def fresh(self, number: int | str) -> Terraform:
        (self.beside / "effects.log").unlink(missing_ok=True)
        folder = self.beside.parent / f"run{number}"
        shutil.copytree(self.here.folder, folder)
        return replace(self.here, folder=folder)

    def faults(self, found: list[dict[str, Any]]) -> None:
        (self.beside / "faults.json").write_text(json.dumps(found))

    def ask(self, here: Terraform, action: Action, limit_s: float) -> Told:
        """Told by a process of its own, up to twice. Whatever it left running has ended when this returns."""
        fields = {name: getattr(action, name) for name in ("kind", "pool", "desired", "expected", "tick", "deadline")}
        assert self.workers.stdin is not None
        assert self.workers.stdout is not None
        self.workers.stdin.write(json.dumps({**fields, "folder": str(here.folder), "limit_s": limit_s}) + "\n")
        self.workers.stdin.flush()
        told = Told(*json.loads(self.workers.stdout.readline()))
        with (self.beside / "busy").open("a") as busy:
            fcntl.flock(busy, fcntl.LOCK_EX)
        assert told.status != "crashed"
        return told

    def effects(self) -> Counter[str]:
        """How many applies changed something, by the token that they were for."""
        log = self.beside / "effects.log"
        return Counter(log.read_text().split() if log.exists() else ())

    def mend(self, here: Terraform) -> None:
        """What a person does about a state that was cut off while it was written."""
        state = here.folder / "terraform.tfstate"
        try:
            json.loads(state.read_text())
        except ValueError:
            shutil.copy(self.beside / "whole", state)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    folder = tmp_path_factory.mktemp("yard")
    binary = standin(folder / "bin")
    here = terraform(folder, binary=binary)
    script = WORKERS.format(tests=str(Path(__file__).parent), binary=binary)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as workers:
        yield Yard(here, folder / "bin", workers)
        assert workers.stdin is not None
        workers.stdin.close()


@pytest.mark.timeout(7200)
def test_no_token_has_a_second_effect(yard: Yard) -> None:
    ends = Counter[str]()
    for seed in range(RUNS):
        dice = random.Random(seed)
        here = yard.fresh(seed)
        before = here.ids("web"), here.ids("worker"), here.ids("database")
        asked = [to(here, *way, dice) for way in dice.choice((WAYS[::2], WAYS[1:]))]
        try:
            yard.faults([fault(dice) for _ in range(200)])
            for _ in range(4):
                ends.update(struck(yard, here, dice.choice(asked), dice))
            yard.faults([])
            yard.mend(here)
            settle(yard, here, asked)
            as_asked(here, asked, before)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        shutil.rmtree(here.folder)
    assert ends["heard"] > RUNS // 2, ends
    assert min(ends[name] for name in ("doubt", "died", "torn")) >= RUNS // 20, ends


def to(here: Terraform, kind: Kind, resource: str, choices: tuple[int | str, ...], dice: random.Random) -> Action:
    return here.action(kind, dice.choice(choices), here.pool if resource == "web" else here.workers)


def fault(dice: random.Random) -> dict[str, Any]:
    """Half of the calls that plan or apply go wrong, and every eighth of those that only read."""
    if dice.random() > 0.5:
        return {}
    (how,) = dice.choices(list(FAULTS), list(FAULTS.values()))
    at = dice.choice(("start", "middle", "end"))
    told = {"share": dice.choice((0, 0.5)), "summary": dice.choice(SAID), "reads": dice.random() < 0.25}
    return {"how": how, "at": at, **told}


def struck(yard: Yard, here: Terraform, action: Action, dice: random.Random) -> list[str]:
    """Ask while things go wrong; what is said of the effect must be true of it."""
    token = digest(action.id)
    earlier = yard.effects()[token]
    told = yard.ask(here, action, LIMIT_S)
    had = yard.effects()[token]
    assert had <= 1, f"{action.kind} {action.target} happened {had} times"
    if told.already is not None:
        assert had == 1, f"{told} and nothing happened"
    elif had > earlier and not told.doubt:
        assert not told.detail.startswith(NO_EFFECT), f"{told}, and it happened"
    state = here.folder / "terraform.tfstate"
    torn = not state.read_text().endswith("}")
    if torn and dice.random() < 0.5:
        yard.mend(here)
    how = "heard" if told.already is not None else "died" if told.status == "died" else "doubt" if told.doubt else "failed"
    return [how, "torn"] if torn else [how]


def settle(yard: Yard, here: Terraform, asked: list[Action]) -> None:
    """Nothing goes wrong any more: the same tokens are settled, and what was left half done is asked for anew."""
    left = list(asked)
    for _ in range(6):
        for action in list(left):
            told = yard.ask(here, action, 60.0)
            assert told.already is not None or told.status == Status.REFUSED, told
            had = yard.effects()[digest(action.id)]
            if action in asked or had:
                assert had == (told.already is not None)
            else:
                assert told.already is not False, "an output that was left behind came with the other pool's apply"
            if told.already is not None:
                left.remove(action)
                pool = pool_of(here, action)
                if not shown(here, action):
                    left.append(here.action(action.kind, action.desired, pool))
    assert not left, f"{left} did not settle"
    assert max(yard.effects().values()) == 1


def pool_of(here: Terraform, action: Action) -> Pool:
    return here.pool if action.pool == here.pool.name else here.workers


def shown(here: Terraform, action: Action) -> bool:
    outputs = json.loads((here.folder / STATE).read_text())["outputs"]
    pool = pool_of(here, action)
    return bool(outputs[pool.target["variable" if action.kind is Kind.SCALE else "release"]]["value"] == action.desired)


def as_asked(here: Terraform, asked: list[Action], before: tuple[list[str], ...]) -> None:
    """The directory holds what was asked for and nothing else, and whoever applies it next changes nothing."""
    web, workers, database = before
    for action in asked:
        assert shown(here, action)
        was, now = (web, here.ids("web")) if action.pool == here.pool.name else (workers, here.ids("worker"))
        wanted = int(action.desired) if action.kind is Kind.SCALE else len(was)
        assert len(now) == wanted
        assert now[: len(was)] == was[:wanted], "those that stayed are the same"
    assert here.ids("database") == database
    assert Journal(here.folder).pending() is None
    assert clean(here)


def clean(here: Terraform) -> bool:
    words = [here.binary, "plan", "-input=false", "-detailed-exitcode"]
    return subprocess.run(words, cwd=here.folder, capture_output=True, check=False).returncode == 0


# --- one error of a provider each ---

REFUSALS: list[tuple[str, type[ForecastleError], bool]] = [
    ("429 Too Many Requests", CloudUnavailable, True),
    ("Throttling: Rate exceeded", CloudUnavailable, True),
    ("unexpected status 503", CloudUnavailable, True),
    ("Quota 'CPUS' exceeded", QuotaExceeded, False),
    ("AccessDenied: not authorized", Denied, False),
]


@pytest.mark.parametrize(("summary", "error", "doubt"), REFUSALS)
@pytest.mark.parametrize("command", ["plan", "apply"])
@pytest.mark.parametrize("at", ["start", "middle"])
def test_what_a_provider_refuses(
    yard: Yard, summary: str, error: type[ForecastleError], doubt: bool, command: str, at: str
) -> None:
    """Before anything happened the token is unused; half-way, and only then, it is used, whatever was said."""
    here = yard.fresh(f"-{command}-{at}-{SAID.index(summary) if summary in SAID else 'x'}")
    action = here.action(Kind.SCALE, 5)
    calls = ["show", "plan", "show", "state", "apply"]
    yard.faults([{}] * calls.index(command) + [{"how": "fail", "at": at, "summary": summary}])
    with pytest.raises(error, match=summary.split(":", maxsplit=1)[0]) as caught:
        here.connect().apply(action, here.pool, token=action.id)
    yard.faults([])
    assert getattr(caught.value, "ambiguous", False) is (doubt and command == "apply")
    half = (command, at) == ("apply", "middle")
    assert yard.effects()[digest(action.id)] == half
    assert here.connect().apply(action, here.pool, token=action.id).already is half
    assert (yard.effects()[digest(action.id)], len(here.ids())) == (1, 4 if half else 5)


# --- what stands in for Terraform is as strict as Terraform ---

PLAN = ("plan", "-input=false", "-no-color", "-json", "-detailed-exitcode", "-lock-timeout=0s", "-out=p")
APPLY = ("apply", "-input=false", "-no-color", "-json", "-lock-timeout=0s", "p")
SHOW, SHOW_PLAN, PULL = ("show", "-json", "-no-color"), ("show", "-json", "-no-color", "p"), ("state", "pull")
ASKED, STATE = "forecastle.auto.tfvars.json", "terraform.tfstate"


def put(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_text(text))


def void(_: object) -> None:
    """Nothing."""


def halved(folder: Path) -> None:
    text = (folder / STATE).read_text()
    (folder / "kept").write_text(text)
    (folder / STATE).write_text(text[: len(text) // 2])


def emptied(folder: Path) -> None:
    (folder / STATE).write_text("")


def mended(folder: Path) -> None:
    (folder / STATE).write_text((folder / "kept").read_text())


SCRIPT: tuple[tuple[str, ...] | Callable[[Path], None], ...] = (
    SHOW,
    PULL,
    SHOW_PLAN,
    APPLY,
    ("plan", "-input=false", "-bogus"),
    ("state", "push"),
    put(ASKED, '{"replicas": 5}'),
    PLAN,
    SHOW_PLAN,
    APPLY,
    APPLY,
    PLAN,
    APPLY,
    PULL,
    put(ASKED, '{"replicas": 1, "workers": 3, "release": "v0"}'),
    PLAN,
    SHOW_PLAN,
    APPLY,
    SHOW,
    put(ASKED, '{"replicas": 0, "workers": 3, "release": "v0"}'),
    PLAN,
    APPLY,
    SHOW,
    put(ASKED, '{"replicas": "many"}'),
    PLAN,
    put(ASKED, '{"replicas": -1}'),
    PLAN,
    put(ASKED, '{"replicas": 0, "workers": 3, "release": "v0"}'),
    put("p", "{half"),
    SHOW_PLAN,
    APPLY,
    halved,
    SHOW,
    PULL,
    PLAN,
    emptied,
    SHOW,
    PULL,
    PLAN,
    mended,
    PLAN,
    put("main.tf", CONFIGURATION + "nonsense\n"),
    PLAN,
)


def test_what_stands_in_for_terraform_is_as_strict(tmp_path: Path) -> None:
    real, ours = (
        terraform(tmp_path / name, binary=binary)
        for name, binary in (("real", program(tmp_path / "bin")), ("ours", standin(tmp_path / "standin")))
    )
    assert facts(real) == facts(ours)
    for number, step in enumerate(SCRIPT):
        if callable(step):
            step(real.folder)
            step(ours.folder)
            continue
        before = [serial(real), serial(ours)]
        assert done(real, step) == done(ours, step), f"step {number}: {' '.join(step)}"
        assert facts(real) == facts(ours), f"step {number}: {' '.join(step)}"
        moved = [after > was for was, after in zip(before, [serial(real), serial(ours)], strict=True)]
        assert moved[0] == moved[1], f"step {number}: {' '.join(step)}"


def done(here: Terraform, words: tuple[str, ...]) -> tuple[int, object, list[str]]:
    """The exit code, what is read of the output, and what was complained of."""
    found = subprocess.run([here.binary, *words], cwd=here.folder, capture_output=True, text=True, check=False)
    output: object = None
    if words[0] in {"show", "state"} and found.returncode == 0:
        output = told(json.loads(found.stdout)) if found.stdout.strip() else ""
    said = [complaint.summary for complaint in complaints(found.stdout, found.stderr)]
    return found.returncode, output, [line for line in said[:1] if line in COMPLAINTS]


COMPLAINTS = {"Saved plan is stale", "Error acquiring the state lock", "Unsupported state file format"}


def told(found: dict[str, Any]) -> object:
    """What the adapter reads, without identities."""
    values = found.get("values", {})
    outputs = {name: one["value"] for name, one in (values or found).get("outputs", {}).items()}
    resources = [
        (one["address"], one["mode"], one["values"]["input"]) for one in values.get("root_module", {}).get("resources", ())
    ]
    changes = [(one["address"], one["change"]["actions"]) for one in found.get("resource_changes", ())]
    return outputs if "resource_changes" not in found else None, resources, changes, "serial" in found


def facts(here: Terraform) -> object:
    """The files there are, and what the state holds."""
    names = sorted(path.name for path in here.folder.iterdir())
    try:
        state = json.loads((here.folder / STATE).read_text())
    except ValueError:
        return names, None
    held = [(one["name"], [i.get("index_key") for i in one["instances"]]) for one in state["resources"]]
    return names, state["version"], sorted(held), {k: v["value"] for k, v in state["outputs"].items()}


def serial(here: Terraform) -> int:
    """Where the state's count of writes is, -1 where it cannot be read.

    Terraform writes beside its resources, so how many writes one apply takes is not the same every time; whether
    there was one is.
    """
    try:
        return here.serial()
    except ValueError:
        return -1
