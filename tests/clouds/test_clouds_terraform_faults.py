"""Terraform that is locked, cut off, half done, stale or missing; and a worker that is killed with an action under way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from error_classes import injects
from terraform_worlds import CONFIGURATION, START, Terraform, program, terraform, waiting

from forecastle.clouds import terraform_program
from forecastle.clouds.terraform_errors import Complaint, error_for
from forecastle.clouds.terraform_journal import FOLDER, Journal
from forecastle.clouds.terraform_program import complaints, environment
from forecastle.errors import CloudUnavailable, ConfigError, Conflict, Denied, ForecastleError, QuotaExceeded
from forecastle.types import Action, Kind

WORKER = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from terraform_worlds import Terraform
from forecastle.types import Action, Kind
here = Terraform(Path({folder!r}), {binary!r})
action = Action(Kind.SCALE, "shop", "shop-web", 4, 3, {tick}, {tick} + 300_000)
here.connect().apply(action, here.pool, token=action.id)
"""


@pytest.fixture
def here(tmp_path: Path) -> Terraform:
    return terraform(tmp_path)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "go"
    os.mkfifo(path)
    return path


def to(desired: int) -> Action:
    """From three replicas; the same action every time."""
    return Action(Kind.SCALE, "shop", "shop-web", desired, 3, START, START + 300_000)


def worker(here: Terraform, binary: str = "") -> subprocess.Popen[bytes]:
    """A process of its own that scales to four."""
    told = {"tests": str(Path(__file__).parent), "folder": str(here.folder), "binary": binary or here.binary, "tick": START}
    return subprocess.Popen([sys.executable, "-c", WORKER.format(**told)], cwd=Path(__file__).parents[2])


def reached(fifo: Path) -> int:
    """Waits until an apply waits for the fifo; the end to close, which lets it go."""
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline, "terraform did not begin"
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.02)


def test_a_state_that_is_locked_is_tried_again_later(here: Terraform, fifo: Path) -> None:
    here.write(waiting(fifo))
    person = subprocess.Popen(
        [here.binary, "apply", "-auto-approve", "-var=replicas=4"], cwd=here.folder, stdout=subprocess.DEVNULL
    )
    going = reached(fifo)
    with pytest.raises(CloudUnavailable, match=r"acquiring the state lock.*somebody else") as found:
        here.connect().apply(to(5), here.pool, token="t")
    assert (found.value.ambiguous, found.value.retry_after) == (False, 5.0)
    assert (here.asked(), Journal(here.folder).used("t"), Journal(here.folder).pending()) == ({}, False, None)
    os.close(going)
    assert person.wait(60) == 0


def test_two_actions_in_one_directory_take_turns(here: Terraform) -> None:
    with Journal(here.folder).held(), pytest.raises(CloudUnavailable, match="another action is under way") as found:
        here.connect().apply(to(5), here.pool, token="t")
    assert not found.value.ambiguous
    assert not here.connect().apply(to(5), here.pool, token="t").already


def test_killed_while_terraform_applies(here: Terraform, fifo: Path) -> None:
    here.write(waiting(fifo))
    process, action = worker(here), to(4)
    going = reached(fifo)
    process.kill()
    process.wait()
    with pytest.raises(CloudUnavailable, match="state lock"):
        here.connect().apply(action, here.pool, token=action.id)
    os.close(going)
    while (here.folder / ".terraform.tfstate.lock.info").exists():
        time.sleep(0.02)
    before = here.ids()
    receipt = here.connect().apply(action, here.pool, token=action.id)
    assert receipt.already
    assert (here.ids(), here.asked(), here.seen().replicas) == (before, {"replicas": 4}, 4)


def test_killed_before_terraform_was_asked(here: Terraform, tmp_path: Path) -> None:
    deadly = program(tmp_path / "deadly", "import os\nif sys.argv[1] == 'plan': os.kill(os.getppid(), 9)")
    assert worker(here, deadly).wait(60) == -signal.SIGKILL
    assert here.asked() == {"replicas": 4}
    assert not here.connect().apply(to(4), here.pool, token=to(4).id).already
    assert here.seen().replicas == 4


def test_what_a_killed_worker_asked_for_is_not_applied_by_the_next(here: Terraform, tmp_path: Path) -> None:
    deadly = program(tmp_path / "deadly", "import os\nif sys.argv[1] == 'plan': os.kill(os.getppid(), 9)")
    worker(here, deadly).wait(60)
    here.do(Kind.SCALE, 1, here.workers)
    assert (here.seen().replicas, here.seen(here.workers).replicas) == (3, 1)
    assert here.asked() == {"workers": 1}


@injects("timeout")
def test_an_apply_that_takes_too_long_is_ambiguous(here: Terraform, fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terraform_program, "GRACE_S", 0.5)
    here.write(waiting(fifo))
    with pytest.raises(CloudUnavailable, match="longer than") as found:
        here.connect(apply_s=2.0).apply(to(4), here.pool, token="t")
    assert found.value.ambiguous
    os.close(reached(fifo))  # what the provisioner started is in a group of its own
    here.write(CONFIGURATION)
    here.run("plan", "-input=false", "-lock-timeout=30s")  # whoever held the state is gone


@injects("partial")
def test_half_an_apply_uses_the_token(here: Terraform, fifo: Path) -> None:
    here.write(waiting(fifo, "[ ${count.index} -eq 3 ] && false").replace(f"cat {fifo}", "true"))
    with pytest.raises(CloudUnavailable) as found:
        here.connect().apply(to(5), here.pool, token="t")
    assert found.value.ambiguous
    serial = here.serial()
    assert here.connect().apply(to(5), here.pool, token="t").already
    assert here.serial() == serial


@injects("conflict")
def test_a_state_that_moves_between_plan_and_apply_is_a_conflict(here: Terraform, tmp_path: Path) -> None:
    meddle = f"""import os, subprocess
if sys.argv[1] == "apply":
    words = [{here.binary!r}, "apply", "-auto-approve", "-var=workers=3", "-var=replicas=3"]
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
"""
    with pytest.raises(Conflict, match="stale"):
        here.connect(binary=program(tmp_path / "meddling", meddle)).apply(to(5), here.pool, token="t")
    assert (here.seen().replicas, here.seen(here.workers).replicas) == (3, 3)


def test_a_person_who_applies_while_we_plan_does_not_use_our_token(here: Terraform, tmp_path: Path) -> None:
    meddle = f"""import os, subprocess
if sys.argv[1] == "plan":
    words = [{here.binary!r}, "apply", "-auto-approve", "-var=workers=3", "-var=replicas=3"]
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
"""
    with pytest.raises(Conflict, match=r"delete terraform_data\.worker"):
        here.connect(binary=program(tmp_path / "meddling", meddle)).apply(to(5), here.pool, token="t")
    assert not Journal(here.folder).used("t")
    assert here.asked() == {}


def test_a_plan_that_takes_too_long_is_not_ambiguous(here: Terraform, tmp_path: Path) -> None:
    slow = program(tmp_path / "slow", "import time\nif sys.argv[1] == 'plan': time.sleep(60)")
    with pytest.raises(CloudUnavailable, match=r"plan .* longer than 0\.5 s") as found:
        here.connect(binary=slow, apply_s=0.5).apply(to(5), here.pool, token="t")
    assert not found.value.ambiguous
    assert here.asked() == {}


@pytest.mark.parametrize(("command", "doubt"), [("show", False), ("plan", False), ("apply", True)])
def test_a_terraform_that_is_killed_is_away(here: Terraform, tmp_path: Path, command: str, doubt: bool) -> None:
    dying = program(tmp_path / "dying", f"import os\nif sys.argv[1] == {command!r}: os.kill(os.getpid(), 9)")
    with pytest.raises(CloudUnavailable, match=f"terraform {command} .* was killed by signal 9") as found:
        here.connect(binary=dying).apply(to(4), here.pool, token="t")
    assert found.value.ambiguous is doubt
    assert (here.asked(), Journal(here.folder).pending(), here.seen().replicas) == ({}, None, 3)
    assert not here.connect().apply(to(4), here.pool, token="t").already


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_state_that_was_cut_off_settles_nothing_until_it_is_restored(here: Terraform, tmp_path: Path, share: float) -> None:
    state = here.folder / "terraform.tfstate"
    dying = program(tmp_path / "dying", "import os\nif sys.argv[1] == 'apply': os.kill(os.getppid(), 9) or os._exit(1)")
    assert worker(here, dying).wait(60) == -signal.SIGKILL
    whole = state.read_text()
    state.write_text(whole[: int(len(whole) * share)])
    with pytest.raises(ConfigError if share else CloudUnavailable, match="state is damaged" if share else "no JSON object"):
        here.connect().apply(to(4), here.pool, token=to(4).id)
    assert Journal(here.folder).pending() is not None
    state.write_text(whole)
    assert not here.connect().apply(to(4), here.pool, token=to(4).id).already
    assert here.seen().replicas == 4


def test_a_directory_that_was_not_initialised(here: Terraform) -> None:
    (here.folder / "backend.tf").write_text('terraform {\n  backend "local" {\n    path = "other.tfstate"\n  }\n}\n')
    with pytest.raises(ConfigError, match=f"run: terraform -chdir={here.folder} init"):
        here.seen()


def test_a_configuration_that_does_not_parse(here: Terraform) -> None:
    (here.folder / "more.tf").write_text('output "x" {\n  value = var.nowhere\n}\n')
    with pytest.raises(ConfigError, match="undeclared input variable"):
        here.connect().apply(to(5), here.pool, token="t")
    assert (here.asked(), here.seen().replicas) == ({}, 3)


def test_a_program_that_is_not_there(here: Terraform) -> None:
    with pytest.raises(ConfigError, match=r"cannot run '/none/tofu'.*install it, or set `binary`"):
        replace(here, binary="/none/tofu").seen()


@pytest.mark.parametrize("said", ["", "Terraform v0.11", "[1, 2]"])
def test_a_program_that_answers_nonsense(here: Terraform, tmp_path: Path, said: str) -> None:
    other = tmp_path / "other"
    other.write_text(f"#!/bin/sh\necho '{said}'\n")
    other.chmod(0o755)
    with pytest.raises(CloudUnavailable, match="no JSON object"):
        replace(here, binary=str(other)).seen()


def test_arguments_and_logs_from_the_environment_are_left_out(here: Terraform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CLI_ARGS_plan", "-destroy")
    monkeypatch.setenv("TF_LOG", "TRACE")
    here.connect().apply(to(4), here.pool, token="t")
    assert here.seen().replicas == 4


# --- without running anything --------------------------------------------------------------------------------------------


def test_the_environment_of_a_command() -> None:
    ours = {"PATH": "/bin", "TF_VAR_x": "1", "TF_LOG": "TRACE", "TF_LOG_PATH": "/x", "TF_CLI_ARGS": "-y", "TF_INPUT": "1"}
    assert environment(ours) == {
        "PATH": "/bin",
        "TF_VAR_x": "1",
        "TF_INPUT": "0",
        "TF_IN_AUTOMATION": "1",
        "CHECKPOINT_DISABLE": "1",
    }


@pytest.mark.parametrize(
    ("summary", "detail", "error"),
    [
        ("Error acquiring the state lock", "ConditionalCheckFailedException: access denied", CloudUnavailable),
        ("Error acquiring the state lock", "Error message: Unsupported state file format", ConfigError),
        ("Saved plan is stale", "", Conflict),
        ("Inconsistent dependency lock file", "run: terraform init", ConfigError),
        ("updating Auto Scaling Group (web)", "AccessDenied: not authorized to perform UpdateAutoScalingGroup", Denied),
        ("Error updating instance group", "googleapi: Error 403: Required permission", Denied),
        ("Error updating instance group", "googleapi: Error 403: Quota 'CPUS' exceeded", QuotaExceeded),
        ("launching EC2 Instance", "InsufficientInstanceCapacity: insufficient capacity", QuotaExceeded),
        ("creating VM", "unexpected status 429 (Too Many Requests)", CloudUnavailable),
        ("reading group", "dial tcp: connection refused", CloudUnavailable),
        ("Unsupported argument", 'An argument named "connection" is not expected here.', ConfigError),
        ("", "", ConfigError),
    ],
)
def test_what_a_complaint_means(summary: str, detail: str, error: type[ForecastleError]) -> None:
    found = error_for("plan", Path("/srv/web"), [Complaint(summary, detail, "a.b")])
    assert type(found) is error


def test_an_apply_that_failed_for_unknown_reasons_may_have_been_done() -> None:
    found = error_for("apply", Path("/srv/web"), [Complaint("odd", "", "")], changing=True)
    assert isinstance(found, CloudUnavailable)
    assert found.ambiguous


def test_details_and_long_values_are_not_told() -> None:
    complaint = Complaint("request failed: token=s3cr3t-s3cr3t-s3cr3t-s3cr3t", "Authorization: Bearer abc", "aws_x.y")
    told = str(error_for("apply", Path("/srv/web"), [complaint], changing=True))
    assert told == "terraform apply: aws_x.y: request failed: ..."


def test_complaints_of_a_command_without_json_have_no_colours() -> None:
    (found,) = complaints("", "\x1b[31m\x1b[1mError: \x1b[0m\x1b[1mNo luck\x1b[0m\nwarning: other\n")
    assert found.summary == "No luck"


def test_warnings_and_half_lines_are_no_complaints() -> None:
    warning = json.dumps({"type": "diagnostic", "diagnostic": {"severity": "warning", "summary": "old"}})
    error = json.dumps({"type": "diagnostic", "diagnostic": {"severity": "error", "summary": "bad", "address": "a.b"}})
    assert complaints(f'{warning}\n{error}\n"diagnostic" {{\n["diagnostic"]\n', "") == (Complaint("bad", "", "a.b"),)


def test_a_broken_journal_stops_everything(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.held():
        (tmp_path / FOLDER / "journal.json").write_text("[]")
        with pytest.raises(ConfigError, match=r"journal\.json is no JSON object"):
            journal.used("t")


def test_a_variables_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    (tmp_path / "forecastle.auto.tfvars.json").write_text("{half")
    with journal.held(), pytest.raises(ConfigError, match=r"auto\.tfvars\.json is no JSON object"):
        journal.begin("t", "replicas", 4)
    assert (tmp_path / "forecastle.auto.tfvars.json").read_text() == "{half"
    assert journal.pending() is None


def test_the_lock_of_a_directory_ends_with_its_holder(tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with Journal(tmp_path).held():
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(30)
    with pytest.raises(CloudUnavailable), Journal(tmp_path).held():
        pass
    leave.set()
    thread.join()
    with Journal(tmp_path).held():
        pass
