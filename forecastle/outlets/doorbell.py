"""Where others ring to say that something is wrong: Alertmanager's webhook and signed webhooks over HTTP.

What rings is a signal that the loop hears at the next tick, never an order. A request is refused as early as it can be: it has
a deadline for all of it, a bound on its body, and it is not read before its sender is known where that is possible.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from typing import Any

from forecastle.errors import ConfigError, Denied, Malformed, Transient
from forecastle.outlets.admission import Passwords, Signatures
from forecastle.outlets.alertmanager import Heard, notification, webhook
from forecastle.outlets.serving import Answered, Request, serving, tls_context
from forecastle.outlets.signals import SignalBook
from forecastle.settings import DoorbellSettings

logger = logging.getLogger(__name__)

ALERTMANAGER, WEBHOOK = "/alertmanager", "/webhook"


class Doorbell:
    """What each route asks for and does. Routes without a secret do not exist. Raises ConfigError when none is left.

    ``answers`` counts requests by route and status.
    """

    def __init__(
        self,
        settings: DoorbellSettings,
        book: SignalBook,
        environment: Mapping[str, str] = os.environ,
        *,
        now: Callable[[], float] = time.time,
        answers: Counter[tuple[str, int]] | None = None,
    ) -> None:
        self._book, self._kinds = book, settings.kinds
        self.settings = settings
        self.answers: Counter[tuple[str, int]] = Counter() if answers is None else answers
        self._counting = threading.Lock()
        self.routes: dict[str, Callable[[Mapping[str, str], Callable[[], bytes]], Heard]] = {}
        if settings.tokens or settings.basic:
            self._passwords = Passwords(settings.tokens, settings.basic, environment)
            self.routes[ALERTMANAGER] = self._alertmanager
        if settings.secrets:
            self._signatures = Signatures(settings.secrets, environment, tolerance_s=settings.tolerance_s, now=now)
            self.routes[WEBHOOK] = self._webhook
        if not self.routes:
            raise ConfigError("outlets.doorbell: nobody could ring; name variables with secrets in tokens, basic or secrets")

    def _alertmanager(self, named: Mapping[str, str], read: Callable[[], bytes]) -> Heard:
        self._passwords.check(named.get("authorization", ""))
        heard = notification(read(), self._kinds, self._book.now(), self._book.refusal)
        self._book.accept(heard.signals)
        return heard

    def _webhook(self, named: Mapping[str, str], read: Callable[[], bytes]) -> Heard:
        body = read()
        heard = Heard((), {})

        def take() -> None:
            nonlocal heard
            heard = webhook(body, self._kinds, self._book.now(), self._book.refusal)
            self._book.accept(heard.signals)

        fresh = self._signatures.accept(named, body, take)
        return heard if fresh else Heard((), {"repeat": 1})

    def count(self, path: str, status: int) -> None:
        """One more answer; called by the threads of all connections."""
        with self._counting:
            self.answers[path, status] += 1

    def answer(self, path: str, named: Mapping[str, str], read: Callable[[], bytes]) -> Heard:
        """What was heard at ``path``. ``read`` gives the body when it is wanted. Raises Answered."""
        route = self.routes.get(path)
        if route is None:
            raise Answered(404, "there is nothing here")
        try:
            return route(named, read)
        except Denied as error:
            logger.warning("doorbell %s: refused: %s", path, error)
            raise Answered(401, "not authenticated", {"www-authenticate": "Bearer"}) from error
        except Malformed as error:
            raise Answered(400, str(error)) from error
        except Transient as error:
            logger.warning("doorbell %s: cannot take it now: %s", path, error)
            raise Answered(503, "try again later", {"retry-after": f"{error.retry_after:.0f}"}) from error


class _Request(Request):
    """A ring at the door."""

    def __init__(self, doorbell: Doorbell, tls: ssl.SSLContext | None, *args: Any) -> None:
        self._doorbell = doorbell
        self.tls, self.timeout_s = tls, doorbell.settings.timeout_s
        super().__init__(*args)

    def do_POST(self) -> None:  # noqa: N802 - the name http.server calls
        named = {name.lower(): value for name, value in self.headers.items()}
        try:
            heard = self._doorbell.answer(self.path, named, self._body)
        except Answered as answered:
            self.say(answered.status, {"error": str(answered)}, answered.headers)
        except TimeoutError:
            self.say(408, {"error": "the body took too long"})
        else:
            self.say(200, {"accepted": len(heard.signals), "ignored": dict(heard.ignored)})

    def _refuse(self) -> None:
        self.say(405 if self.path in self._doorbell.routes else 404, {"error": "POST a notification"}, {"allow": "POST"})

    do_GET = do_PUT = do_DELETE = do_PATCH = do_HEAD = _refuse  # noqa: N815 - the names http.server calls

    def _body(self) -> bytes:
        lengths = self.headers.get_all("content-length", [])
        if self.headers.get("transfer-encoding") or len(lengths) != 1:
            raise Answered(411, "send the body with one content-length")
        if not (lengths[0].isascii() and lengths[0].isdigit()):
            raise Answered(400, "content-length is not a number")
        most = self._doorbell.settings.max_body
        if len(lengths[0]) > 12 or int(lengths[0]) > most:
            raise Answered(413, f"more than {most} bytes")
        body = self.rfile.read(int(lengths[0]))
        if len(body) != int(lengths[0]):
            raise Answered(400, "the body ended early")
        return body

    def say(self, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
        """Answer and count."""
        path = self.path if self.path in self._doorbell.routes else "other"
        self._doorbell.count(path, status)
        super().say(status, content, headers)


@contextmanager
def serving_doorbell(doorbell: Doorbell) -> Iterator[int]:
    """Listen while inside; yields the port. Raises ConfigError for an address or certificate that cannot be used."""
    settings, name = doorbell.settings, "outlets.doorbell"
    if not settings.tls_cert and not _loopback(settings.host):
        raise ConfigError(f"{name}: secrets would cross a network in the clear; give tls_cert and tls_key")
    tls = tls_context(name, settings.tls_cert, settings.tls_key) if settings.tls_cert else None
    with serving(name, settings.host, settings.port, partial(_Request, doorbell, tls)) as port:
        yield port


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
