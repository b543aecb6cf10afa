"""Fixtures that every room may need: a real broker, programs, free ports, recorded data, and names nobody else uses."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forecastle import cli
from forecastle.runtime.broker import LocalBroker

ROOT = Path(__file__).parents[1]
_numbers = itertools.count()


@pytest.fixture(scope="session")
def broker() -> Iterator[LocalBroker]:
    """One Kafka broker for the whole session, on a free loopback port."""
    with tempfile.TemporaryDirectory(prefix="forecastle-broker-") as folder, LocalBroker(Path(folder)) as running:
        yield running


@pytest.fixture
def topic_name() -> Callable[[str], str]:
    """Makes topic and group names that no other test of this session uses."""
    return lambda stem: f"{stem}-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def free_port() -> int:
    """A loopback TCP port that nobody listened on a moment ago.

    It is below those that systems give to outgoing connections, one of which would otherwise sit on it sooner or later.
    """
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture
def data() -> Callable[[str], Path]:
    """Finds a recorded file under ``FORECASTLE_DATA`` (default: ../shared/data); skips the test where it is not."""
    folder = Path(os.environ.get("FORECASTLE_DATA", ROOT.parent / "shared" / "data"))

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"{path} is missing; set FORECASTLE_DATA to the folder that holds {name} (docs/how-to/get-the-data.md)")
        return path

    return find


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Finds an installed program. Without it the test is skipped, or fails where REQUIRE_PROGRAMS is set."""

    def find(name: str) -> str:
        found = shutil.which(name)
        if found is None:
            how = f"{name} is not installed; get it with: apt-get install prometheus prometheus-alertmanager"
            if os.environ.get("REQUIRE_PROGRAMS"):
                pytest.fail(how)
            pytest.skip(how)
        return found

    return find


@pytest.fixture
def forecastle(monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``forecastle ARGUMENTS`` from its entry point to its exit status and output, without the second a process takes."""

    def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        out, err, status = io.StringIO(), io.StringIO(), 0
        with monkeypatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "argv", ["forecastle", *arguments])
            if cwd is not None:
                patch.chdir(cwd)
            try:
                cli.main()
            except SystemExit as ended:
                status = int(ended.code or 0)
        return subprocess.CompletedProcess(sys.argv, status, out.getvalue(), err.getvalue())

    return run
