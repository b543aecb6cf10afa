"""The command line as a person meets it, from its words to its output and exit status; once as a real process."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from forecastle.cli import app, seconds
from forecastle.runtime.health import HealthFile

SHOP = Path(__file__).parents[2] / "configs"
COMMANDS = {
    "demo", "run", "check", "train", "pretrain", "backtest", "models", "plan", "explain", "replay", "publish",
    "forecast", "detect", "rehearse", "mode", "hold", "down", "kill", "approve", "slo",
}  # fmt: skip


Command = Callable[..., subprocess.CompletedProcess[str]]


def process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "forecastle.cli", *arguments], cwd=cwd, capture_output=True, text=True, timeout=180, check=False
    )


def test_the_stable_commands_are_there_and_help_lists_every_one(tmp_path: Path) -> None:
    shown = process("--help", cwd=tmp_path)
    assert shown.returncode == 0
    command = typer.main.get_command(app)
    assert set(command.commands) >= COMMANDS  # type: ignore[attr-defined]
    assert all(f"  {name} " in shown.stdout for name in command.commands)  # type: ignore[attr-defined]


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, forecastle.cli, typer\n"
        "heavy = {'numpy', 'pydantic', 'sqlalchemy', 'kafka', 'onnxruntime', 'torch', 'mlflow', 'prefect', 'pandas', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_check_accepts_the_shipped_configuration(forecastle: Command, tmp_path: Path) -> None:
    done = forecastle("check", "--config", str(SHOP), "--config", str(SHOP / "local.yaml"), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ok: ")
    assert forecastle("check", "--config", str(SHOP), "--config", str(SHOP / "prod.yaml"), cwd=tmp_path).returncode == 0


def test_a_wrong_configuration_is_one_clear_message_and_a_status(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("gaurds: {}\n", encoding="utf-8")
    done = process("check", "--config", str(bad), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"ConfigError: {bad}:1: gaurds: unknown name; did you mean 'guards'?\n"


def test_check_lists_what_is_missing_and_fails(forecastle: Command, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("clouds: {moon: {adapter: 'moon.base:open'}}\n", encoding="utf-8")
    done = forecastle("check", "--config", str(bad), cwd=tmp_path)
    assert done.returncode == 1
    assert "clouds.moon: import string 'moon.base:open': No module named 'moon'" in done.stderr


def test_health_says_why_a_worker_is_unwell(forecastle: Command, tmp_path: Path) -> None:
    flags = ("check", "--health", "--set", f"runtime.health={tmp_path / 'h.json'}")
    assert "no heartbeat" in forecastle(*flags, cwd=tmp_path).stderr
    HealthFile(tmp_path / "h.json", "w").update(state="RUNNING")
    assert forecastle(*flags, cwd=tmp_path).returncode == 0


def test_the_kill_switch_and_modes_are_kept_with_who_and_why(forecastle: Command, tmp_path: Path) -> None:
    flags = ("--set", f"ledger.url=sqlite:///{tmp_path / 'l.db'}", "--set", f"ledger.kill_file={tmp_path / 'KILL'}")
    assert forecastle("kill", "--by", "ann", *flags, cwd=tmp_path).returncode == 2
    on = forecastle("kill", "storm", "--by", "ann", *flags, cwd=tmp_path).stdout
    assert on.startswith("kill switch: ")
    assert "storm" in on
    assert "ann" in on
    assert forecastle("kill", "--off", "--by", "ann", *flags, cwd=tmp_path).stdout == "kill switch: off\n"
    fleet = ("--config", str(SHOP), *flags)
    assert forecastle("mode", "checkout", "auto", "--by", "ann", *fleet, cwd=tmp_path).stdout == "checkout: auto\n"
    assert forecastle("plan", "--json", *flags, cwd=tmp_path).stdout.strip() == "[]"
    missing = forecastle("explain", "abc", *flags, cwd=tmp_path)
    assert missing.returncode == 2
    assert "not in the ledger" in missing.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [(("chekout", "auto"), "no workload 'chekout'"), (("checkout", "full"), "choose one of shadow, advise, auto")],
)
def test_a_mode_is_set_for_what_there_is(forecastle: Command, tmp_path: Path, words: tuple[str, str], why: str) -> None:
    flags = ("--config", str(SHOP), "--set", f"ledger.url=sqlite:///{tmp_path / 'l.db'}")
    done = forecastle("mode", *words, "--by", "ann", *flags, cwd=tmp_path)
    assert done.returncode == 2
    assert why in done.stderr


@pytest.mark.parametrize("target", ["checkout", "checkout-aws-fra", "aws-fra", "aws/eu-central-1/a"])
def test_whatever_a_guard_asks_about_can_be_held_and_let_go(forecastle: Command, tmp_path: Path, target: str) -> None:
    flags = ("--config", str(SHOP), "--set", f"ledger.url=sqlite:///{tmp_path / 'l.db'}")
    assert forecastle("hold", target, "--by", "ann", *flags, cwd=tmp_path).returncode == 2
    held = forecastle("hold", target, "we look into it", "--by", "ann", *flags, cwd=tmp_path)
    assert (held.stdout, held.stderr) == (f"{target} is held by ann: we look into it\n", "")
    assert forecastle("hold", target, "--off", "--by", "bob", *flags, cwd=tmp_path).stdout == f"{target}: free\n"
    again = forecastle("hold", target, "--off", "--by", "bob", *flags, cwd=tmp_path)
    assert again.returncode == 2
    assert "nothing holds" in again.stderr


@pytest.mark.parametrize("target", ["chekout", "*", ""])
def test_a_hold_on_nothing_known_is_refused(forecastle: Command, tmp_path: Path, target: str) -> None:
    flags = ("--config", str(SHOP), "--set", f"ledger.url=sqlite:///{tmp_path / 'l.db'}")
    done = forecastle("hold", target, "why not", "--by", "ann", *flags, cwd=tmp_path)
    assert done.returncode == 2
    assert "aws/eu-central-1/a, checkout" in done.stderr


def test_a_replay_file_that_is_none_is_refused_with_its_line(forecastle: Command, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(["a"]) + "\n", encoding="utf-8")
    done = forecastle("replay", str(path), cwd=tmp_path)
    assert done.returncode == 2
    assert f"{path}:1: is not a recorded situation" in done.stderr


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("90s", 90), ("3m", 180), ("1.5h", 5400)])
def test_durations_are_read(text: str, value: float) -> None:
    assert seconds(text) == value


def test_a_duration_that_is_none_says_how_to_write_one() -> None:
    with pytest.raises(typer.BadParameter, match="write 90s, 3m or 1h"):
        seconds("soon")
