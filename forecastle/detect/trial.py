"""A detector file is tried where it can do no harm before it may serve: a process of its own with hard limits.

An ONNX graph can ask for more memory than there is, never end, or crash the runtime's C++; then the trial dies, not the worker.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from forecastle.detect.onnx import OnnxScorer
from forecastle.errors import ForecastleError, ModelRefused
from forecastle.ports import Artifact
from forecastle.types import SeriesKey, Windows

MEMORY_BYTES = 4 << 30
CPU_S = 60
WALL_S = 90.0


def attempt(artifact: Artifact, wall_s: float = WALL_S) -> None:
    """Load and run the model in a limited process. Raises ModelRefused with what it died of or answered wrongly."""
    manifest = {key: artifact.manifest.get(key) for key in ("look_back", "channels")}
    job = json.dumps({"name": artifact.name, "path": str(artifact.path.resolve()), "manifest": manifest})
    env = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", __name__],
                input=job,
                cwd=folder,
                env=env,
                capture_output=True,
                text=True,
                timeout=wall_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ModelRefused(f"{artifact.path}: its trial run took more than {wall_s:g} s; export a smaller model") from error
    if done.returncode:
        said = (done.stdout.strip() or done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise ModelRefused(f"{artifact.path}: failed its trial run: {said[:300]}")


def wrong(scorer: OnnxScorer) -> str:
    """What is wrong with its answers to ordinary series, one full group and a part of another; '' when nothing is."""
    n = scorer.channels + 1
    keys = tuple(SeriesKey("trial", f"m{i}") for i in range(n))
    values = np.random.default_rng(0).normal(50, 10, (n, scorer.look_back)).astype(np.float32)
    flags = np.zeros(n, np.bool_)
    answers = scorer.score(Windows(keys, 0, 60_000, values, np.ones(values.shape, np.bool_), flags, flags))
    return "" if all(np.isfinite(answer).all() for answer in answers) else "no finite answer to ordinary windows"


def main() -> int:
    """The limited process: a job in JSON on stdin, 0 when the model may serve, else a line on stdout that says why not."""
    job = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        problem = wrong(OnnxScorer(Artifact(job["name"], "", Path(job["path"]), "", job["manifest"]), threads=1))
    except ForecastleError as error:
        problem = str(error)
    except Exception as error:  # noqa: BLE001 - whatever the file provokes is the finding
        problem = f"{type(error).__name__}: {error}"
    sys.stdout.write(problem.replace("\n", " "))
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
