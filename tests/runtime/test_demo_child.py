"""What the demo starts cannot outlive it: asked, crashed or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forecastle.errors import ForecastleError
from forecastle.runtime.demo_child import child

GRANDCHILD = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, getattr(signal, sys.argv[2]))
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""
FAMILY = f"""
import subprocess, sys, time, pathlib
subprocess.Popen([sys.executable, "-c", {GRANDCHILD!r}, *sys.argv[1:3]])
while not pathlib.Path(sys.argv[1]).exists() or not pathlib.Path(sys.argv[1]).read_text():
    time.sleep(0.01)
time.sleep(float(sys.argv[3]))
"""
OWNER = """
import sys, time
from pathlib import Path
from forecastle.runtime.demo_child import child
with child("family", sys.argv[2:], Path(sys.argv[1]), {}) as started:
    print("up", flush=True)
    time.sleep(600)
"""


def family(folder: Path, *, stubborn: bool = False, lasting_s: float = 600.0) -> list[str]:
    """A command that starts a grandchild, which may ignore SIGTERM and writes down its pid, and ends after a while."""
    told = "SIG_IGN" if stubborn else "SIG_DFL"
    return [sys.executable, "-c", FAMILY, str(folder / "grandchild"), told, str(lasting_s)]


def grandchild(folder: Path) -> int:
    path = folder / "grandchild"
    until(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(holds: object, patience_s: float = 60.0) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_block_that_ends_takes_even_stubborn_grandchildren_along(tmp_path: Path) -> None:
    with child("family", family(tmp_path, stubborn=True), tmp_path, {}) as started:
        pid = grandchild(tmp_path)
        assert alive(pid)
        assert started.running
    until(lambda: not alive(pid))
    assert not started.running


def test_a_child_that_ends_takes_its_own_children_along(tmp_path: Path) -> None:
    with child("short", family(tmp_path, lasting_s=0.0), tmp_path, {}) as started:
        pid = grandchild(tmp_path)
        until(lambda: not alive(pid))
        until(lambda: not started.running)


def test_a_killed_owner_leaves_nobody(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path), *family(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        pid = grandchild(tmp_path)
        assert alive(pid)
        owner.send_signal(signal.SIGKILL)
    until(lambda: not alive(pid))


def test_an_interrupt_of_the_terminals_group_does_not_reach_the_child(tmp_path: Path) -> None:
    with child("family", family(tmp_path), tmp_path, {}):
        assert os.getpgid(grandchild(tmp_path)) != os.getpgid(0)


def test_a_child_that_fails_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    script = "print('what went wrong'); raise SystemExit(3)"
    raises = pytest.raises(ForecastleError, match="failing ended with 3")
    with child("failing", [sys.executable, "-c", script], tmp_path, {}) as started, raises as caught:
        started.wait(60)
    assert "what went wrong" in str(caught.value)
    assert "failing.log" in str(caught.value)


def test_a_child_that_takes_too_long_is_reported(tmp_path: Path) -> None:
    raises = pytest.raises(ForecastleError, match="took more than 0 s")
    with child("slow", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, {}) as started, raises:
        started.wait(0.2)


def test_a_child_that_ends_well_is_no_trouble_and_has_its_environment(tmp_path: Path) -> None:
    script = "import os; print(os.environ['GREETING'])"
    with child("good", [sys.executable, "-c", script], tmp_path, {"GREETING": "hello"}) as started:
        started.wait(60)
        started.check()
    assert started.log.read_text().strip() == "hello"
