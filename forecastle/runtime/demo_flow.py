"""Runs one flow in a process of its own: ``python -m forecastle.runtime.demo_flow module:name '{"argument": ...}'``.

The imports of a flow take as long as a Prefect server takes to start: the two go on side by side, and the server is waited for
last.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from forecastle.errors import ForecastleError
from forecastle.runtime.inventory import resolve

PREFECT_S = 120.0


def main(path: str, arguments: str) -> None:
    """Call the flow with keyword ``arguments`` (JSON) and print what it returns."""
    flow = resolve(path)
    answering(os.environ["PREFECT_API_URL"], PREFECT_S)
    result = flow(**json.loads(arguments))
    print(json.dumps(asyncio.run(_finish(result)) if inspect.isawaitable(result) else result, default=str))


def answering(url: str, patience_s: float) -> None:
    """Wait for the Prefect server at ``url``. Raises ForecastleError when it stays silent."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):  # noqa: S310 - the demo's own loopback address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise ForecastleError(f"Prefect at {url} did not answer within {patience_s:g} s; its log is beside this one")


async def _finish(result: Any) -> Any:
    return await result


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
