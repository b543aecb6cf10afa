"""HAProxy's runtime API: lines of commands over its stats socket, each line on a connection of its own.

Nothing is sent twice: a line whose answer was lost may have been carried out, and only the caller knows what that means.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence

from forecastle.errors import CloudUnavailable, ConfigError, Denied, NotFound, Unsupported

MOST_BYTES = 15_000
_TCP = re.compile(r"(?:tcp:|ipv[46]@)?\[?([0-9A-Za-z.:-]+?)\]?:(\d{1,5})")


class RuntimeSocket:
    """``address`` is a path (``/run/haproxy/admin.sock``) or ``host:port``; ``timeout_s`` bounds connecting and each wait."""

    def __init__(self, address: str, timeout_s: float) -> None:
        if timeout_s <= 0:
            raise ConfigError(f"haproxy cloud: timeout_s is {timeout_s:g}; write seconds above 0, for example 3")
        self._address = _parsed(address)
        self._told = address
        self._timeout_s = timeout_s

    def read(self, *commands: str) -> str:
        """The answers of commands without an effect. Raises Denied or CloudUnavailable."""
        return self._said(commands, writes=False)

    def write(self, *commands: str) -> None:
        """Carry out commands that answer nothing, in order. Raises what `refused` does.

        CloudUnavailable is ambiguous when the line was sent and the answer did not come.
        """
        if answer := self._said(commands, writes=True).strip():
            raise refused(answer, self._told)

    def _said(self, commands: Sequence[str], *, writes: bool) -> str:
        line = "; ".join(commands).encode() + b"\n"
        if len(line) > MOST_BYTES:
            raise Unsupported(f"{self._told}: {len(line)} bytes of commands in one line; name fewer servers in target.servers")
        with self._connected() as connection:
            try:
                connection.sendall(line)
                answer = b"".join(iter(lambda: connection.recv(65_536), b""))
            except OSError as error:
                raise CloudUnavailable(f"haproxy at {self._told}: {_why(error)}", ambiguous=writes) from error
        if not answer:
            raise CloudUnavailable(f"haproxy at {self._told} closed the connection without an answer", ambiguous=writes)
        text = answer.decode(errors="replace")
        if text.lstrip().startswith("Permission denied"):
            raise refused(text.strip(), self._told)
        return text

    def _connected(self) -> socket.socket:
        family = socket.AF_UNIX if isinstance(self._address, str) else socket.AF_INET
        try:
            if not isinstance(self._address, str):
                return socket.create_connection(self._address, self._timeout_s)
            connection = socket.socket(family, socket.SOCK_STREAM)
            connection.settimeout(self._timeout_s)
            try:
                connection.connect(self._address)
            except BaseException:
                connection.close()
                raise
        except PermissionError as error:
            fix = "give this user the socket's group, or set `mode` and `group` of `stats socket`"
            raise Denied(f"haproxy at {self._told}: {_why(error)}; {fix}") from error
        except OSError as error:
            raise CloudUnavailable(f"haproxy at {self._told}: {_why(error)}; is it running with `stats socket`?") from error
        return connection


def refused(answer: str, told: str) -> Denied | NotFound | Unsupported:
    """The error for what a command says when it was not carried out."""
    message = f"haproxy at {told}: {answer[:200]}"
    if "Permission denied" in answer:
        return Denied(f"{message}; write `stats socket ... level admin`")
    if answer.startswith(("No such", "Can't find")):
        return NotFound(message)
    return Unsupported(f"{message}; HAProxy 2.4 or later is needed")


def _parsed(address: str) -> str | tuple[str, int]:
    path = address.removeprefix("unix:").removeprefix("unix@")
    if path.startswith("/"):
        return path
    if (found := _TCP.fullmatch(address)) and 0 < int(found[2]) < 65_536:
        return found[1], int(found[2])
    raise ConfigError(f"haproxy cloud: socket is '{address}'; write a path like /run/haproxy/admin.sock, or host:port")


def _why(error: OSError) -> str:
    return f"{type(error).__name__}: {error}"
