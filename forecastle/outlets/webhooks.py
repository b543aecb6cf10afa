"""Signed webhooks that cannot be turned against the network they are sent from.

The host is looked up once per try, every address it has must be public (or in a network the configuration names), and the
connection goes to the address that was checked, so that a name that changes its mind in between gains nothing. Redirects are
not followed, proxies of the environment not used, and of the answer only the status is read.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

import forecastle
from forecastle.errors import ConfigError, Denied, Transient
from forecastle.outlets import signature, slack
from forecastle.outlets.cloudevents import Event, encoded, timestamp
from forecastle.outlets.courier import Retry
from forecastle.settings import WebhookSettings

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

LONGEST_RETRY_AFTER_S = 3600.0
TRANSLATED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))
"""IPv6 that carries an IPv4 address within: what is behind it cannot be told from the address."""


def retry(settings: WebhookSettings) -> Retry:
    """Pauses of 5 s and more, as the specification advises, for as many tries as configured."""
    return Retry(first_s=5.0, longest_s=300.0, attempts=settings.attempts)


class Webhook:
    """What a `Courier` with ``chunk=1`` sends through. Raises ConfigError for an address or secret that will not do."""

    def __init__(
        self,
        settings: WebhookSettings,
        environment: Mapping[str, str] = os.environ,
        *,
        tls: ssl.SSLContext | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._url = _checked(_resolved(settings.url, environment), settings.url)
        self._body = _BODIES[settings.form]
        if settings.form == "standard" and not settings.secrets:
            raise ConfigError("outlets.webhooks.secrets: is empty; name an environment variable that holds whsec_...")
        self._networks = _networks(settings.networks)
        self._keys = [signature.key(environment.get(name, ""), name) for name in settings.secrets]
        self._timeout_s, self._now = settings.timeout_s, now
        self._tls = tls or ssl.create_default_context()
        self._gone = False

    def send(self, events: Sequence[Event]) -> None:
        """Post each event. Raises a Transient for any failure but a refusal for good (410, a redirect, a forbidden address)."""
        for event in events:
            if self._gone:
                raise Denied(f"{self._url.hostname} answered 410 Gone; remove it from outlets.webhooks")
            self._judge(*self._post(event))

    def _post(self, event: Event) -> tuple[int, str]:
        body = encoded(self._body(event))
        headers = signature.headers(self._keys, event.id, int(self._now()), body)
        headers |= {"content-type": "application/json", "user-agent": f"forecastle/{forecastle.__version__}"}
        path = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
        connection = self._connection(self._address())
        try:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheader("retry-after", "")
        except (OSError, http.client.HTTPException) as error:
            raise Transient(f"{self._url.hostname}: {type(error).__name__}: {error}", ambiguous=True) from error
        finally:
            connection.close()

    def _judge(self, status: int, retry_after: str) -> None:
        if 200 <= status < 300:
            return
        said = f"{self._url.hostname} answered {status}"
        if status == 410:
            self._gone = True
            raise Denied(f"{said} Gone; remove it from outlets.webhooks")
        if 300 <= status < 400:
            raise Denied(f"{said}, a redirect, which is not followed; configure the address it leads to")
        wait = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
        raise Transient(said, retry_after=min(wait, LONGEST_RETRY_AFTER_S))

    def _address(self) -> str:
        """The address to connect to, after all of the host's were checked. Raises Denied, or Transient when there is none."""
        host, port = str(self._url.hostname), _port(self._url)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Transient(f"{host}: cannot be looked up: {error}") from error
        addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
        for address in addresses:
            if not allowed(ipaddress.ip_address(address), self._networks):
                raise Denied(f"{host} is at {address}, which is not public; if it is meant, add it to the webhook's 'networks'")
        return addresses[0]

    def _connection(self, address: str) -> http.client.HTTPConnection:
        host, port = str(self._url.hostname), _port(self._url)
        connection: http.client.HTTPConnection
        if self._url.scheme == "https":
            connection = http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=self._tls)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        connection._create_connection = _to(address)  # type: ignore[attr-defined]
        return connection


def _to(address: str) -> Callable[..., socket.socket]:
    """Opens sockets to ``address`` whatever the name: http.client goes on to use the name for TLS and the Host header."""

    def connect(target: tuple[str, int], *args: object) -> socket.socket:
        return socket.create_connection((address, target[1]), *args)  # type: ignore[arg-type]

    return connect


def allowed(address: Address, networks: Sequence[Network]) -> bool:
    """True for an address in ``networks``, and for a public one behind which no other address hides."""
    plain: Address = getattr(address, "ipv4_mapped", None) or address
    if any(plain.version == network.version and plain in network for network in networks):
        return True
    hidden = any(plain.version == network.version and plain in network for network in TRANSLATED)
    return plain.is_global and not (hidden or plain.is_multicast or plain.is_reserved or plain.is_unspecified)


def _standard(event: Event) -> dict[str, Any]:
    return {"type": event.type, "timestamp": timestamp(event.at), "data": event.data}


_BODIES: dict[str, Callable[[Event], dict[str, Any]]] = {"standard": _standard, "slack": slack.message}


def _resolved(url: str, environment: Mapping[str, str]) -> str:
    """The address; one that is a secret itself stands in an environment variable."""
    name = url.removeprefix("env:")
    if url.startswith("env:") and not environment.get(name):
        raise ConfigError(f"outlets.webhooks.url: the environment variable {name} is not set; put the address in it")
    return environment[name] if url.startswith("env:") else url


def _checked(url: str, shown: str) -> SplitResult:
    """``url`` taken apart. Errors speak of ``shown``."""
    parts = urlsplit(url)
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.username or parts.password or parts.fragment:
        raise ConfigError(f"outlets.webhooks.url: '{shown}' is not an https address without user name and fragment")
    if parts.scheme == "http" and not _loopback(parts.hostname):
        raise ConfigError(f"outlets.webhooks.url: '{shown}' would cross a network in the clear; write https://")
    return parts


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _port(url: SplitResult) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _networks(texts: Sequence[str]) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(text) for text in texts)
    except ValueError as error:
        raise ConfigError(f"outlets.webhooks.networks: {error}; write for example 10.1.0.0/16") from error
