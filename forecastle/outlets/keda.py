"""KEDA asks us how many replicas a workload should have: the gentlest way in, since KEDA and the HPA do the scaling.

The metric of a workload is its recommended replicas and the target per replica is 1, so that the HPA arrives at exactly that
number. An unknown workload or a recommendation that is too old is an error, not a number: then KEDA does what the
ScaledObject's ``fallback`` says. All answers come from the `Board`; nothing is queried.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from forecastle.errors import ConfigError
from forecastle.outlets import keda_messages as messages
from forecastle.outlets.board import Advice, Board
from forecastle.settings import OutletSettings

TARGET = 1.0
GRACE_S = 1.0


class ExternalScaler:
    """The five calls of ``externalscaler.ExternalScaler``.

    Metadata of a trigger: ``workload`` (default: the ScaledObject's name) and ``activationReplicas`` (default 0): the workload
    is active while more than that many replicas are recommended.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Let the streams look again; called in the server's event loop."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def is_active(self, ref: Any, context: Any) -> Any:
        """IsActive."""
        advice = await self._advice(ref, context)
        return messages.IsActiveResponse(result=advice.replicas > await _activation(ref, context))

    async def stream_is_active(self, ref: Any, context: Any) -> AsyncIterator[Any]:
        """StreamIsActive: the state as soon as it is known, then each change of it."""
        threshold, told = await _activation(ref, context), None
        while True:
            changed = self._changed
            advice = self._board.newest(_workload(ref))
            if advice is not None and self._board.fresh(advice):
                active = advice.replicas > threshold
                if active != told:
                    told = active
                    yield messages.IsActiveResponse(result=active)
            await changed.wait()

    async def get_metric_spec(self, ref: Any, _context: Any) -> Any:
        """GetMetricSpec: one metric, target 1 per replica. KEDA before the float fields reads the integer."""
        return _specs(ref)

    async def stream_metric_spec(self, ref: Any, _context: Any) -> AsyncIterator[Any]:
        """StreamMetricSpec: what GetMetricSpec says, once, since the target never changes.

        The stream stays open until KEDA or the server ends it: KEDA would take an end for a failure and ask again.
        """
        yield _specs(ref)
        await asyncio.Event().wait()

    async def get_metrics(self, request: Any, context: Any) -> Any:
        """GetMetrics, under the name that was asked for: KEDA rewrites names before it asks."""
        ref = request.scaledObjectRef
        replicas = (await self._advice(ref, context)).replicas
        name = request.metricName or _metric(ref)
        value = messages.MetricValue(metricName=name, metricValue=replicas, metricValueFloat=replicas)
        return messages.GetMetricsResponse(metricValues=[value])

    async def _advice(self, ref: Any, context: Any) -> Advice:
        workload = _workload(ref)
        advice = self._board.newest(workload)
        if advice is None:
            said = f"nothing is recommended for '{workload}'; set the trigger's metadata 'workload' to one of fleet.workloads"
            await context.abort(grpc.StatusCode.NOT_FOUND, said)
            raise AssertionError
        if not self._board.fresh(advice):
            said = f"the recommendation for '{workload}' is {self._board.age_s(advice):.0f} s old (outlets.stale_s)"
            await context.abort(grpc.StatusCode.UNAVAILABLE, said)
        return advice

    def handlers(self) -> Mapping[str, grpc.RpcMethodHandler]:
        """Method name -> handler, for a generic gRPC handler."""
        ref = messages.ScaledObjectRef.FromString
        active, spec = messages.IsActiveResponse.SerializeToString, messages.GetMetricSpecResponse.SerializeToString
        values = messages.GetMetricsResponse.SerializeToString
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return {
            "IsActive": unary(self.is_active, ref, active),
            "StreamIsActive": stream(self.stream_is_active, ref, active),
            "GetMetricSpec": unary(self.get_metric_spec, ref, spec),
            "StreamMetricSpec": stream(self.stream_metric_spec, ref, spec),
            "GetMetrics": unary(self.get_metrics, messages.GetMetricsRequest.FromString, values),
        }


def _workload(ref: Any) -> str:
    return str(ref.scalerMetadata.get("workload") or ref.name)


def _metric(ref: Any) -> str:
    return f"forecastle-{_workload(ref)}"


def _specs(ref: Any) -> Any:
    spec = messages.MetricSpec(metricName=_metric(ref), targetSize=int(TARGET), targetSizeFloat=TARGET)
    return messages.GetMetricSpecResponse(metricSpecs=[spec])


async def _activation(ref: Any, context: Any) -> float:
    text = ref.scalerMetadata.get("activationReplicas") or "0"
    try:
        return float(text)
    except ValueError:
        said = f"activationReplicas: '{text}' is not a number; write for example activationReplicas: \"0\""
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, said)
        raise


@contextmanager
def serving_keda(board: Board, settings: OutletSettings) -> Iterator[int]:
    """Answer KEDA from ``board`` while inside, in a thread with its own event loop; yields the port.

    Raises ConfigError for an address that cannot be had or a certificate that cannot be read.
    """
    credentials = _credentials(settings)
    ready: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event, ExternalScaler]] = Future()
    thread = threading.Thread(target=asyncio.run, args=(_serve(board, settings, credentials, ready),), name="keda", daemon=True)
    thread.start()
    port, loop, stop, scaler = ready.result()

    def changed() -> None:
        loop.call_soon_threadsafe(scaler.wake)

    board.watchers.append(changed)
    try:
        yield port
    finally:
        board.watchers.remove(changed)
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def _serve(board: Board, settings: OutletSettings, credentials: Any, ready: Future[Any]) -> None:
    scaler, stop = ExternalScaler(board), asyncio.Event()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(messages.SERVICE, scaler.handlers()),))
    address = f"{settings.keda_host}:{settings.keda_port or 0}"
    try:
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        await server.start()
    except RuntimeError as error:
        said = f"outlets.keda_port: cannot listen on {address} ({error}); choose a free port or another outlets.keda_host"
        ready.set_exception(ConfigError(said))
        return
    ready.set_result((port, asyncio.get_running_loop(), stop, scaler))
    await stop.wait()
    await server.stop(GRACE_S)


def _credentials(settings: OutletSettings) -> Any:
    if not settings.keda_tls_cert:
        return None
    try:
        pair = (Path(settings.keda_tls_key).read_bytes(), Path(settings.keda_tls_cert).read_bytes())
        ca = Path(settings.keda_tls_ca).read_bytes() if settings.keda_tls_ca else None
    except OSError as error:
        raise ConfigError(
            f"outlets.keda_tls_*: {error.filename or 'a file'} cannot be read ({error.strerror}); name readable PEM files"
        ) from error
    return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=ca is not None)
