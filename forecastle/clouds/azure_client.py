"""Requests to Azure Resource Manager: each is sent once, every error comes by what to do about it, operations are followed.

The SDK's own retries, redirects and registration of resource providers are left out: the executor decides on the next attempt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.core.pipeline.policies import ContentDecodePolicy, CustomHookPolicy, HeadersPolicy, RequestIdPolicy, UserAgentPolicy
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest, HttpResponse
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.core import ARMPipelineClient
from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy

from forecastle.clouds.azure_errors import translated
from forecastle.errors import CloudUnavailable, ConfigError, Conflict, Denied, ForecastleError

Json: TypeAlias = dict[str, Any]

PUBLIC = "https://management.azure.com"
_ENDED = frozenset({"succeeded", "failed", "canceled", "cancelled"})


class Changed(Conflict):
    """The resource is not the one that was read: 412, nothing was done."""


class Token(Protocol):
    """An azure-core TokenCredential."""

    def get_token(self, *scopes: str, **options: Any) -> Any:
        """An access token for ``scopes``."""


@dataclass(frozen=True, slots=True)
class Access:
    """How Azure is reached: the timeouts bound every request, ``wait_s`` how long the end of an operation is waited for."""

    subscription: str
    endpoint_url: str = PUBLIC
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 10.0
    wait_s: float = 20.0


class Account:
    """One subscription. Use it from one thread. ``sleep`` and ``monotonic`` pace the waiting for operations, in seconds."""

    def __init__(
        self,
        access: Access,
        credential: Token,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.access = access
        self._sleep = sleep
        self._monotonic = monotonic
        scope = f"{PUBLIC if access.endpoint_url.startswith('http://') else access.endpoint_url}/.default"
        policies: list[Any] = [
            RequestIdPolicy(),
            HeadersPolicy(),
            UserAgentPolicy("forecastle"),
            CustomHookPolicy(),
            ContentDecodePolicy(),
            ARMChallengeAuthenticationPolicy(cast(Any, credential), scope),
        ]
        wire = RequestsTransport(connection_timeout=access.connect_timeout_s, read_timeout=access.read_timeout_s)
        self._arm: Any = ARMPipelineClient(access.endpoint_url, policies=policies, transport=wire)
        shared: Any = {"base_url": access.endpoint_url, "policies": policies, "transport": wire, "polling": False}
        self._compute = ComputeManagementClient(cast(Any, credential), access.subscription, **shared)
        self._options: Json = {"enforce_https": False} if access.endpoint_url.startswith("http://") else {}

    def compute(self, group: str, method: str, /, *args: Any, effect: bool = False, **options: Any) -> Any:
        """Call ``method`` of an operation ``group`` of azure-mgmt-compute. Raises a ForecastleError.

        Reads give the answer, a list whole; a ``begin_`` method is awaited and gives None.
        """
        said, call = f"azure {group} {method}", getattr(getattr(self._compute, group), method)
        with _translated(said, effect=effect):
            if not method.startswith("begin_"):
                found = call(*args, **self._options, **options)
                return [one.as_dict() for one in found] if method == "list" else found.as_dict()
            keep: list[Any] = []
            call(*args, polling=False, raw_response_hook=lambda p: keep.append(p.http_response), **self._options, **options)
        self._follow(said, keep[-1])
        return None

    def read(self, path: str, api: str) -> Json:
        """GET a resource of the subscription. Raises a ForecastleError."""
        return self._body(self._send("GET", path, api))

    def every(self, path: str, api: str) -> list[Json]:
        """GET a collection, every page of it. Raises a ForecastleError."""
        page = self.read(path, api)
        found: list[Json] = list(page.get("value") or ())
        while page.get("nextLink"):
            request = HttpRequest("GET", str(page["nextLink"]))
            page = self._body(self._told(request, f"azure GET {path}", effect=False))
            found += page.get("value") or ()
        return found

    def effect(self, method: str, path: str, api: str, body: Json | None = None, *, etag: str = "") -> None:
        """Tell, once, and wait for its end. An answer that never came raises CloudUnavailable with ``ambiguous``."""
        answer = self._send(method, path, api, body, {"If-Match": etag} if etag else {})
        self._follow(f"azure {method} {path}", answer)

    def close(self) -> None:
        """Close every connection. Idempotent."""
        self._arm.close()

    def _send(
        self, method: str, path: str, api: str, body: Json | None = None, headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        url = f"{self.access.endpoint_url}/subscriptions/{self.access.subscription}/{path}"
        request = HttpRequest(method, url, params={"api-version": api}, json=body, headers=dict(headers or {}))
        return self._told(request, f"azure {method} {path}", effect=method != "GET")

    def _told(self, request: HttpRequest, said: str, *, effect: bool) -> HttpResponse:
        with _translated(said, effect=effect):
            answer: Any = self._arm.send_request(request, **self._options)
            answer.raise_for_status()
        return cast(HttpResponse, answer)

    def _body(self, answer: HttpResponse) -> Json:
        with _translated(f"azure {answer.request.method} {answer.request.url}", effect=False):
            found = answer.json()
        return cast(Json, found)

    def _follow(self, said: str, answer: HttpResponse) -> None:
        """Wait for the end of the operation that ``answer`` started, for ``wait_s`` at most.

        Raises what it failed with. One that goes on longer, or that cannot be asked about, was accepted: observing tells.
        """
        until = self._monotonic() + self.access.wait_s
        url = answer.headers.get("Azure-AsyncOperation") or answer.headers.get("Location")
        while url:
            pause = float(answer.headers.get("Retry-After") or 1)
            if self._monotonic() + pause > until:
                return
            self._sleep(pause)
            try:
                answer = self._told(HttpRequest("GET", url), said, effect=False)
            except ForecastleError:
                return
            body: Json = self._body(answer) if answer.status_code == 200 and answer.content else {}
            status = str(body.get("status", "" if answer.status_code == 202 else "succeeded")).lower()
            if status in _ENDED:
                _ended(said, status, body)
                return


def _ended(said: str, status: str, body: Json) -> None:
    if status != "succeeded":
        error = body.get("error") or {}
        raise translated(said, 0, str(error.get("code") or status.title()), str(error.get("message", "")))


@contextmanager
def _translated(said: str, *, effect: bool) -> Iterator[None]:
    try:
        yield
    except ClientAuthenticationError as error:
        fix = "give the process a managed identity, AZURE_CLIENT_ID and its secret, or log in with `az login`"
        raise Denied(f"{said}: {error.message}; {fix}") from error
    except DecodeError as error:
        raise CloudUnavailable(f"{said}: {error}", ambiguous=effect) from error
    except HttpResponseError as error:
        raise _answered(said, error, effect=effect) from error
    except ServiceRequestError as error:
        raise CloudUnavailable(f"{said}: {error}", ambiguous=effect and not _unsent(error)) from error
    except ServiceResponseError as error:
        raise CloudUnavailable(f"{said}: {error}", ambiguous=effect) from error
    except (AzureError, ValueError) as error:
        raise ConfigError(f"{said}: {error}; correct the pool's target or the cloud's options") from error


def _answered(said: str, error: HttpResponseError, *, effect: bool) -> ForecastleError:
    answer: Any = error.response
    if answer is None:
        return CloudUnavailable(f"{said}: {error.message}", ambiguous=effect)
    status = int(answer.status_code or 0)
    code, text = _spelled(answer)
    if status == 412:
        return Changed(f"{said}: {code}: {text}; observe and plan again")
    return translated(said, status, code, text, retry_after=answer.headers.get("Retry-After", ""), ambiguous=effect)


def _spelled(answer: Any) -> tuple[str, str]:
    """Code and message of an ARM error body, the reason phrase where there is none."""
    try:
        error = answer.json()["error"]
        return str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return str(answer.reason), ""


def _unsent(error: ServiceRequestError) -> bool:
    """Whether no connection was made, so that nothing can have arrived."""
    return "NewConnection" in repr(error.inner_exception) or "ConnectTimeout" in repr(error.inner_exception)
