"""Requests to Google Cloud: one attempt for what changes something, operations awaited, every error by what to do about it."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, reduce
from http.client import HTTPException
from typing import Any, TypeAlias

import google.auth
import httplib2
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google_auth_httplib2 import AuthorizedHttp
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError

from forecastle.clouds.gcp_errors import operation_error, translated
from forecastle.errors import CloudUnavailable, ConfigError, Denied, ForecastleError

Json: TypeAlias = dict[str, Any]
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_APIS = {"compute": ("v1", "compute/v1/"), "run": ("v2", ""), "container": ("v1", "")}
_FIX = "attach a service account, set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`"
_ANONYMOUS: Callable[[], Any] = AnonymousCredentials
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 2.0


class NeverMade(ConnectionError):
    """The connection was not made: the request was not sent."""


@dataclass(frozen=True, slots=True)
class Access:
    """How Google Cloud is reached. ``timeout_s`` bounds an attempt, ``operation_timeout_s`` the wait for an operation's end."""

    project: str
    endpoint_url: str = ""
    timeout_s: float = 10.0
    operation_timeout_s: float = 60.0
    read_attempts: int = 3


class Account:
    """One project. Use it from one thread."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._http: AuthorizedHttp | None = None

    def read(self, api: str, method: str, /, **parameters: Any) -> Json:
        """Ask; tried again while the API throttles or fails. Raises a ForecastleError."""
        return self._call(api, method, parameters, effect=False, attempts=self.access.read_attempts)

    def note(self, api: str, method: str, /, **parameters: Any) -> Json:
        """A write that is no effect, told once: an answer that never came leaves the fleet as it is."""
        return self._call(api, method, parameters, effect=False, attempts=1)

    def effect(self, api: str, method: str, /, **parameters: Any) -> Json:
        """Tell, once; the operation. An answer that never came raises CloudUnavailable with ``ambiguous``."""
        return self._call(api, method, parameters, effect=True, attempts=1)

    def finished(self, operation: Json, again: Callable[[str], Json], said: str, *, effect: bool = True) -> None:
        """Wait until ``operation`` is done, asked for by name through ``again``. Raises what it failed with.

        CloudUnavailable when it takes longer than ``operation_timeout_s``, or cannot be asked for: with ``ambiguous`` for
        an ``effect``, which is known to be under way.
        """
        waited, pause = 0.0, _FIRST_WAIT_S
        while not (operation.get("status") == "DONE" or operation.get("done")):
            if waited >= self.access.operation_timeout_s:
                text = f"{said}: still under way after {waited:.0f} s; ask again under the same token"
                raise CloudUnavailable(text, retry_after=pause, ambiguous=effect)
            time.sleep(pause)
            waited, pause = waited + pause, min(2 * pause, _LONGEST_WAIT_S)
            try:
                operation = again(operation["name"])
            except ForecastleError as error:
                raise CloudUnavailable(f"{said}: its operation cannot be read: {error}", ambiguous=effect) from error
        if (failure := operation_error(operation, said)) is not None:
            raise failure

    def close(self) -> None:
        """Close every connection. Idempotent; the next request opens one again."""
        if self._http is not None:
            self._http.http.close()

    def _call(self, api: str, method: str, parameters: Json, *, effect: bool, attempts: int) -> Json:
        with _translated(f"gcp {api} {method}", effect=effect):
            *collections, name = method.split(".")
            resource = reduce(lambda at, part: getattr(at, part)(), collections, _service(api, self.access.endpoint_url))
            request = getattr(resource, name)(**parameters)
            answer: Json = request.execute(http=self._authorized(), num_retries=attempts - 1)
        return answer

    def _authorized(self) -> AuthorizedHttp:
        if self._http is None:
            credentials = _ANONYMOUS() if self.access.endpoint_url else google.auth.default(scopes=[_SCOPE])[0]
            self._http = AuthorizedHttp(credentials, http=_Http(timeout=self.access.timeout_s))
        return self._http


class _Http(httplib2.Http):  # type: ignore[misc]  # httplib2 has no types
    """Sends what may change something once: httplib2 itself would send it again when a kept connection turns out stale."""

    def _conn_request(self, conn: Any, request_uri: str, method: str, body: Any, headers: Mapping[str, str]) -> Any:
        if method == "GET":
            return super()._conn_request(conn, request_uri, method, body, headers)
        conn.close()
        try:
            conn.connect()
        except (OSError, httplib2.HttpLib2Error) as error:
            raise NeverMade(str(error)) from error
        try:
            conn.request(method, request_uri, body, headers)
            answer = conn.getresponse()
            content = answer.read()
        except (OSError, HTTPException):
            conn.close()
            raise
        packed = answer.getheader("Content-Encoding") == "gzip"
        return httplib2.Response(answer), gzip.decompress(content) if packed else content


@cache
def _service(api: str, endpoint_url: str) -> Any:
    """The client generated from the discovery document inside the package; it holds no connection."""
    version, path = _APIS[api]
    options = {"api_endpoint": f"{endpoint_url.rstrip('/')}/{path}"} if endpoint_url else None
    return build(api, version, http=httplib2.Http(), static_discovery=True, cache_discovery=False, client_options=options)


@contextmanager
def _translated(said: str, *, effect: bool) -> Iterator[None]:
    try:
        yield
    except HttpError as error:
        answer = _answered(error)
        raise translated(error.resp.status, answer, said, effect=effect, retry_after=_seconds(error.resp)) from error
    except (NeverMade, ConnectionRefusedError, httplib2.ServerNotFoundError, TransportError) as error:
        raise CloudUnavailable(f"{said}: {error}") from error
    except GoogleAuthError as error:  # before ValueError, which some of them are
        raise Denied(f"{said}: {error}; {_FIX}") from error
    except (OSError, HTTPException, httplib2.HttpLib2Error, ValueError) as error:
        raise CloudUnavailable(f"{said}: {type(error).__name__} {error}", ambiguous=effect) from error
    except TypeError as error:  # googleapiclient's word for a parameter of the wrong form
        raise ConfigError(f"{said}: {error}; correct the pool's target or the cloud's options") from error


def _answered(error: HttpError) -> Json:
    try:
        answer = json.loads(error.content)["error"]
    except (ValueError, KeyError, TypeError):
        return {"message": error.content[:200].decode(errors="replace")}
    return answer if isinstance(answer, dict) else {"message": str(answer)}


def _seconds(headers: Mapping[str, str]) -> float:
    try:
        return max(float(headers.get("retry-after", "")), 0.0)
    except ValueError:
        return 1.0
