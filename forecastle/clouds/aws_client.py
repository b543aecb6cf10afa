"""Requests to AWS: one attempt for what changes something, a few for what only reads, every error by what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeAlias

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.parsers import ResponseParserError

from forecastle.clouds.aws_errors import translated
from forecastle.errors import CloudUnavailable, ConfigError, Denied, Permanent

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Access:
    """How AWS is reached: the timeouts bound every attempt, ``read_attempts`` how many of them a read may take."""

    region: str
    profile: str = ""
    endpoint_url: str = ""
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 10.0
    read_attempts: int = 3


class Account:
    """One account in one region. Several threads may use it."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._clients: dict[tuple[str, bool], Any] = {}
        self._opening = Lock()  # a client is for several threads, the session that makes it is not
        with _translated("", "open", effect=False):
            self._session = boto3.Session(region_name=access.region, profile_name=access.profile or None)

    def read(self, service: str, operation: str, /, **request: Any) -> Json:
        """Ask; retried while AWS throttles or fails, under a client-side rate limit. Raises a ForecastleError."""
        return self._call(service, operation, request, effect=False, once=False)

    def note(self, service: str, operation: str, /, **request: Any) -> Json:
        """A write that is no effect: told once; an answer that never came leaves the fleet as it is."""
        return self._call(service, operation, request, effect=False, once=True)

    def effect(self, service: str, operation: str, /, **request: Any) -> Json:
        """Tell, once. An answer that never came raises CloudUnavailable with ``ambiguous``."""
        return self._call(service, operation, request, effect=True, once=True)

    def close(self) -> None:
        """Close every connection. Idempotent; the next request opens one again."""
        while self._clients:
            self._clients.popitem()[1].close()

    def _call(self, service: str, operation: str, request: Json, *, effect: bool, once: bool) -> Json:
        with _translated(service, operation, effect=effect):
            answer: Json = getattr(self._client(service, once=once), operation)(**request)
        return answer

    def _client(self, service: str, *, once: bool) -> Any:
        with self._opening:
            if (service, once) not in self._clients:
                self._clients[service, once] = self._open(service, once=once)
            return self._clients[service, once]

    def _open(self, service: str, *, once: bool) -> Any:
        access = self._access
        retries = {"mode": "standard", "total_max_attempts": 1}
        if not once:
            retries = {"mode": "adaptive", "total_max_attempts": access.read_attempts}
        config = Config(
            connect_timeout=access.connect_timeout_s,
            read_timeout=access.read_timeout_s,
            retries=retries,
            user_agent_extra="forecastle",
        )
        return self._session.client(service, config=config, endpoint_url=access.endpoint_url or None)


@contextmanager
def _translated(service: str, operation: str, *, effect: bool) -> Iterator[None]:
    said = f"aws {service} {operation}"
    try:
        yield
    except ClientError as error:
        raise translated(error, said, effect=effect) from error
    except (ConnectTimeoutError, EndpointConnectionError) as error:
        raise CloudUnavailable(f"{said}: {error}") from error
    except (HTTPClientError, IncompleteReadError, ResponseParserError) as error:
        raise CloudUnavailable(f"{said}: {error}", ambiguous=effect) from error
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
        fix = "give the process a role, AWS_PROFILE, or `profile` in the cloud's options"
        raise Denied(f"{said}: {error}; {fix}") from error
    except (ParamValidationError, ProfileNotFound) as error:
        raise ConfigError(f"{said}: {error}; correct the pool's target or the cloud's options") from error
    except BotoCoreError as error:
        raise Permanent(f"{said}: {error}") from error
