"""An event of the pipeline wakes a flow, through a real Prefect server, a real runner and the real automations."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from flow_worlds import drifted

ROOT = Path(__file__).parents[2]


def get(url: str, body: dict[str, object] | None = None) -> list[dict[str, object]]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"[]")


def until(what: str, seconds: float, call: object) -> object:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            if found := call():  # type: ignore[operator]
                return found
        except OSError:
            pass
        time.sleep(0.25)
    pytest.fail(f"waited {seconds:.0f} s for {what}")


@pytest.fixture
def prefect(tmp_path: Path, free_port: int) -> Iterator[tuple[str, dict[str, str]]]:
    """A server and a runner serving heal and train; yields the API's URL and the environment of its clients."""
    api = f"http://127.0.0.1:{free_port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "FORECASTLE_LEDGER__URL": f"sqlite:///{tmp_path}/ledger.db",
        "FORECASTLE_LEDGER__KILL_FILE": str(tmp_path / "KILL"),
        "FORECASTLE_PREDICT__REGISTRY": "",
    }
    environment.pop("PREFECT_TEST_MODE", None)
    children = []

    def child(*arguments: str, log: str) -> None:
        with (tmp_path / log).open("wb") as out:
            children.append(
                subprocess.Popen(
                    [sys.executable, "-m", *arguments],
                    cwd=ROOT,
                    env=environment,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            )

    try:
        child("prefect", "server", "start", "--port", str(free_port), "--no-ui", log="server.log")
        until("the server", 180, lambda: get(f"{api}/version") or True)
        child("flows.serve", "heal", "train", log="runner.log")
        until("the deployments", 180, lambda: len(get(f"{api}/deployments/filter", {})) == 2)
        yield api, environment
    finally:
        for process in reversed(children):  # with the flows they run: a training takes longer than a test waits
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_an_incident_event_runs_the_heal_deployment(prefect: tuple[str, dict[str, str]]) -> None:
    api, environment = prefect

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=180
        )
        return done.stdout

    assert "incident starts heal" in run("-m", "flows.automations")
    run("-m", "flows.automations")
    names = sorted(str(a["name"]) for a in get(f"{api}/automations/filter", {}))
    assert names == ["drift starts train", "incident starts heal"], "registering again replaces"
    beat = "Heartbeat('w', 1, 'RUNNING', 1, incidents={'abc': 'critical shop: slow'})"
    told = run(
        "-c",
        "from flows.stream import Watch\nfrom forecastle.runtime.health import Heartbeat\n"
        f"watch = Watch('w')\nprint(watch.look({beat}), watch.look({beat}))",
    )
    assert told.strip() == "['forecastle.incident.opened'] []", "an incident is told once"
    runs = until(
        "the heal run",
        60,
        lambda: [r for r in get(f"{api}/flow_runs/filter", {}) if r["state_type"] in {"COMPLETED", "FAILED", "CRASHED"}],
    )
    assert isinstance(runs, list)
    assert [(r["state_type"], r["parameters"]["incident"]) for r in runs] == [("COMPLETED", "abc")]


def test_drift_that_a_worker_saw_runs_the_train_deployment_once(prefect: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """Two workers tell of one drift; a later event shows that the second was heard and woke nothing."""
    api, environment = prefect
    beat = replace(drifted(tmp_path / "worker")[-1], incidents={})
    (tmp_path / "beat.json").write_bytes(msgspec.json.encode(beat))
    told = (
        "from pathlib import Path\nfrom flows.stream import Watch\nfrom forecastle.runtime.health import Heartbeat, read\n"
        f"beat = read(Path({str(tmp_path / 'beat.json')!r}))\n"
        "print([Watch(name).look(beat) for name in ('w-0', 'w-1')])\n"
        "Watch('w-2').look(Heartbeat('w-2', 1, 'RUNNING', 1, incidents={'later': 'critical shop: slow'}))"
    )
    for arguments in (["-m", "flows.automations"], ["-c", told]):
        subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=True, timeout=180)

    def started() -> dict[str, int]:
        deployments = {d["id"]: d["name"] for d in get(f"{api}/deployments/filter", {})}
        return dict(Counter(str(deployments[r["deployment_id"]]) for r in get(f"{api}/flow_runs/filter", {})))

    until("the heal run of the later event", 180, lambda: "heal" in started())
    until("the training", 180, lambda: "train" in started())
    assert started() == {"heal": 1, "train": 1}
