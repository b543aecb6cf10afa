"""How long a person waits for the command line: ``forecastle --help`` against an empty Python process, in the same run.

``python benchmarks/bench_cli.py`` prints both and their ratio and writes ``benchmarks/results/cli.json``. Both run the same
number of times in turn, and the median counts, so that a busy machine slows both.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "cli.json"
ROUNDS = 15
BAR_S = 0.25


def seconds(arguments: list[str]) -> float:
    """Wall seconds of one process."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - begun


def measure() -> dict[str, float | int]:
    """Medians over the rounds, after one unmeasured run of each (which writes the byte code)."""
    help_arguments, bare_arguments = ["-m", "forecastle.cli", "--help"], ["-c", "pass"]
    seconds(help_arguments)
    seconds(bare_arguments)
    pairs = [(seconds(help_arguments), seconds(bare_arguments)) for _ in range(ROUNDS)]
    shown, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "help_s": round(shown, 4),
        "bare_python_s": round(bare, 4),
        "ratio": round(shown / bare, 2),
        "bar_s": BAR_S,
        "rounds": ROUNDS,
        "cores": os.cpu_count() or 1,
    }


if __name__ == "__main__":
    result = measure()
    print(
        f"forecastle --help {result['help_s'] * 1000:.0f} ms, bare python {result['bare_python_s'] * 1000:.0f} ms: "
        f"{result['ratio']:.1f} times (bar: {BAR_S * 1000:.0f} ms)"
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
