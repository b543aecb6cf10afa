"""How long KEDA waits for 10,000 ScaledObjects: both calls of a polling round for each, from another process over real gRPC.

While it asks, this process goes on recommending for all workloads once a second, as a worker does at the end of a tick.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from forecastle.outlets.board import Board
from forecastle.outlets.keda import serving_keda
from forecastle.runtime.clocks import WallClock
from forecastle.settings import OutletSettings
from forecastle.types import Plan

RESULTS = Path(__file__).parent / "results" / "keda.json"
OBJECTS = 10_000
STREAMS = 1_000
SERVICE = "/externalscaler.ExternalScaler"


def turn(number: int) -> Any:
    """A turn that recommends something for every workload."""
    at = time.time_ns() // 1_000_000
    wanted = {f"workload-{i}": (i + number) % 50 for i in range(OBJECTS)}
    return SimpleNamespace(plans=(Plan(str(number), at, "", (), "", {}, (), wanted, 0.0, at),))


def ask(port: int, rounds: int, results: multiprocessing.Queue[dict[str, Any]]) -> None:
    """The client: GetMetrics and IsActive of every ScaledObject in turn, one call at a time, with streams held open beside."""
    import grpc

    from forecastle.outlets import keda_messages as messages

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ref = messages.ScaledObjectRef.SerializeToString
        stream = channel.unary_stream(f"{SERVICE}/StreamIsActive", ref, messages.IsActiveResponse.FromString)
        metrics = channel.unary_unary(f"{SERVICE}/GetMetrics")
        active = channel.unary_unary(f"{SERVICE}/IsActive")
        refs = [
            messages.ScaledObjectRef(name=f"object-{i}", scalerMetadata={"workload": f"workload-{i}"}) for i in range(OBJECTS)
        ]
        held = [stream(refs[i]) for i in range(STREAMS)]
        asked = [messages.GetMetricsRequest(scaledObjectRef=r, metricName="m").SerializeToString() for r in refs]
        plain = [r.SerializeToString() for r in refs]
        metrics(asked[0])
        waits, began = [], time.perf_counter()
        for i in range(rounds * OBJECTS):
            for call, request in ((metrics, asked[i % OBJECTS]), (active, plain[i % OBJECTS])):
                start = time.perf_counter()
                call(request)
                waits.append(time.perf_counter() - start)
        seconds = time.perf_counter() - began
        for one in held:
            one.cancel()
    p50, p99, p999 = np.percentile(np.array(waits) * 1000, [50, 99, 99.9])
    times = {"seconds": seconds, "p50_ms": p50, "p99_ms": p99, "p999_ms": p999}
    results.put({"calls": len(waits)} | {name: round(float(value), 3) for name, value in times.items()})


def main() -> None:
    """Run, print and write the figures."""
    board, stop = Board(WallClock(), 300.0), threading.Event()
    board.listen(turn(0))

    def recommending() -> None:
        number = 0
        while not stop.wait(1.0):
            board.listen(turn(number := number + 1))

    with serving_keda(board, OutletSettings()) as port:
        context = multiprocessing.get_context("spawn")
        results: multiprocessing.Queue[dict[str, Any]] = context.Queue()
        client = context.Process(target=ask, args=(port, 2, results))
        worker = threading.Thread(target=recommending)
        worker.start()
        client.start()
        found = results.get(timeout=300)
        client.join()
        stop.set()
        worker.join()
    found |= {"objects": OBJECTS, "streams": STREAMS, "cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    print(found)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
